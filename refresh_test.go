// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Vault's minute replaces a token in use that is due. One that no one reads anymore costs
// nothing.
func TestPeriodicRefreshByTokenState(t *testing.T) {
	for name, tt := range map[string]struct {
		age    time.Duration
		before func(*mount)
		due    bool
	}{
		"none":                           {before: func(m *mount) { m.do(logical.DeleteOperation, "token", nil) }},
		"fresh":                          {age: 40 * time.Minute},
		"in its window":                  {age: 52 * time.Minute, due: true},
		"in its buffer":                  {age: 56 * time.Minute, due: true},
		"expired":                        {age: 61 * time.Minute},
		"in its window, after a setting": {age: 52 * time.Minute, before: func(m *mount) { m.write("config", "stale_if_error", true) }, due: true},
		"in its window, after a restart": {age: 52 * time.Minute, before: (*mount).restart, due: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.read()
				if tt.before != nil {
					tt.before(m)
				}
				time.Sleep(tt.age)
				m.tick()
				synctest.Wait()
				assert.Equal(t, tt.due, m.requests() == 2)
			})
		})
	}
}

// A refresh that fails leaves the stored token alone: it is served after a restart.
func TestFailedRefreshKeepsTheStoredToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		time.Sleep(52 * time.Minute)
		m.sandbox.SetFault(faultMalformed)
		m.read()
		synctest.Wait()
		require.Equal(t, 2, m.requests())
		m.restart()
		assert.True(t, m.readToken() == token)
	})
}

// Another node rotated the credentials. A token of the new ones replaces that of the old ones,
// although it expires earlier.
func TestTokenOfRotatedCredentialsIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		old := m.readToken()
		m.sandbox.SetTokenLifetime(30 * time.Minute)
		other := m.twin(0)
		other.promoteSuccessor()
		m.b.InvalidateKey(t.Context(), configKey)

		resp := m.read()
		assert.True(t, resp.Data["access_token"] == old, "nobody waits")
		assert.LessOrEqual(t, resp.Data["ttl"], int64(60), "there is a newer one in a moment")
		synctest.Wait()
		assert.False(t, m.readToken() == old)
		assert.Equal(t, "ok", m.status()["upstream_state"])
	})
}

// After a start in its buffer, a token doesn't count, unless stale_if_error is set. An expired
// one never does.
func TestStoredTokenInItsBufferIsNotLoaded(t *testing.T) {
	for name, tt := range map[string]struct {
		age          time.Duration
		staleIfError bool
	}{
		"in its buffer":           {56 * time.Minute, false},
		"expired":                 {61 * time.Minute, false},
		"expired, stale_if_error": {61 * time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t, "stale_if_error", tt.staleIfError)
				m.read()
				time.Sleep(tt.age)
				m.restart()
				assert.Contains(t, []any{"none", "not served", "expired"}, m.status()["token_state"])
				m.sandbox.SetFault(faultMalformed)
				m.refusedToken()
			})
		})
	}
}

// A standby doesn't save the token that it found in storage, nor announce it.
func TestStoredTokenIsNotSavedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		standby := m.standby()
		standby.b.InvalidateKey(t.Context(), tokenKey)
		synctest.Wait()
		m.events.take()
		m.useFaultyStorage().set("put", tokenKey, func(apply func() error) error {
			t.Error("the token is saved again")
			return apply()
		})
		assert.True(t, standby.readToken() == token)
		synctest.Wait()
		assert.Empty(t, m.events.take())
	})
}

// A read that fails while its token expires is an error, stale_if_error or not.
func TestStaleTokenExpiresDuringTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t, "stale_if_error", true)
		m.read()
		time.Sleep(time.Hour - 5*time.Second)
		m.sandbox.SetFault(faultHang)
		m.refusedToken()
	})
}

// A reader of a token in its buffer that gives up, and a standby, have no failure of Fuuffy to
// excuse it.
func TestStaleTokenWithoutAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t, "stale_if_error", true)
		m.read()
		standby := m.standby()
		time.Sleep(56 * time.Minute)
		_, err := standby.handle(t.Context(), logical.ReadOperation, "token", nil)
		assert.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)

		m.sandbox.Hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = m.handle(ctx, logical.ReadOperation, "token", nil)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	})
}
