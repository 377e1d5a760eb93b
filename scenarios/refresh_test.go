// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// Vault's minute replaces a token in use that is due. One that no one reads anymore costs
// nothing.
func TestPeriodicRefreshByTokenState(t *testing.T) {
	for name, tt := range map[string]struct {
		age    time.Duration
		before func(*mounttest.Mount)
		due    bool
	}{
		"none":                           {before: func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "token", nil) }},
		"fresh":                          {age: 40 * time.Minute},
		"in its window":                  {age: 52 * time.Minute, due: true},
		"in its buffer":                  {age: 56 * time.Minute, due: true},
		"expired":                        {age: 61 * time.Minute},
		"in its window, after a setting": {age: 52 * time.Minute, before: func(m *mounttest.Mount) { m.Write("config", "stale_if_error", true) }, due: true},
		"in its window, after a restart": {age: 52 * time.Minute, before: (*mounttest.Mount).Restart, due: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Read()
				if tt.before != nil {
					tt.before(m)
				}
				time.Sleep(tt.age)
				m.Tick()
				synctest.Wait()
				assert.Equal(t, tt.due, m.Requests() == 2)
			})
		})
	}
}

// A refresh that fails leaves the stored token alone: it is served after a restart.
func TestFailedRefreshKeepsTheStoredToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		time.Sleep(52 * time.Minute)
		m.Sandbox.SetFault(mounttest.FaultMalformed)
		m.Read()
		synctest.Wait()
		require.Equal(t, 2, m.Requests())
		m.Restart()
		assert.True(t, m.ReadToken() == token)
	})
}

// Another node rotated the credentials. A token of the new ones replaces that of the old ones,
// although it expires earlier.
func TestTokenOfRotatedCredentialsIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		old := m.ReadToken()
		m.Sandbox.SetTokenLifetime(30 * time.Minute)
		other := m.Twin(0)
		other.RotateTo(rotation.Promoted)
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)

		resp := m.Read()
		assert.True(t, resp.Data["access_token"] == old, "nobody waits")
		assert.LessOrEqual(t, resp.Data["ttl"], int64(60), "there is a newer one in a moment")
		synctest.Wait()
		assert.False(t, m.ReadToken() == old)
		assert.Equal(t, "ok", m.Status()["upstream_state"])
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
				m := mounttest.NewConfigured(t, "stale_if_error", tt.staleIfError)
				m.Read()
				time.Sleep(tt.age)
				m.Restart()
				assert.Contains(t, []any{"none", "not served", "expired"}, m.Status()["token_state"])
				m.Sandbox.SetFault(mounttest.FaultMalformed)
				refusedToken(m)
			})
		})
	}
}

// A standby doesn't save the token that it found in storage, nor announce it.
func TestStoredTokenIsNotSavedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		standby := standby(m)
		standby.Backend.InvalidateKey(t.Context(), mounttest.TokenKey)
		synctest.Wait()
		m.Events.Take()
		m.UseFaultyStorage().Set("put", mounttest.TokenKey, func(apply func() error) error {
			t.Error("the token is saved again")
			return apply()
		})
		assert.True(t, standby.ReadToken() == token)
		synctest.Wait()
		assert.Empty(t, m.Events.Take())
	})
}

// A read that fails while its token expires is an error, stale_if_error or not.
func TestStaleTokenExpiresDuringTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t, "stale_if_error", true)
		m.Read()
		time.Sleep(time.Hour - 5*time.Second)
		m.Sandbox.SetFault(mounttest.FaultHang)
		refusedToken(m)
	})
}

// A reader of a token in its buffer that gives up, and a standby, have no failure of Fuuffy to
// excuse it.
func TestStaleTokenWithoutAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t, "stale_if_error", true)
		m.Read()
		standby := standby(m)
		time.Sleep(56 * time.Minute)
		_, err := standby.Handle(t.Context(), logical.ReadOperation, "token", nil)
		assert.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)

		m.Sandbox.Hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = m.Handle(ctx, logical.ReadOperation, "token", nil)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	})
}
