// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// newMountOnFallback returns an engine that serves a token of the previous client although the
// new one works again.
func newMountOnFallback(t *testing.T) *mount {
	t.Helper()
	m := newRotatingMount(t, rotation.Promoted)
	m.sandbox.RevokeClient(newClientID)
	m.do(logical.DeleteOperation, "token", nil)
	require.Equal(t, testClientID, m.servedClientID())
	require.Equal(t, true, m.rotation()["fallback_active"])
	m.sandbox.CreateClient(newClientID, newSecret)
	time.Sleep(time.Minute)
	return m
}

// A test that shows that the new client works ends the fallback, however long its token lives.
// Apps get a token of the new client from the next read on, and after a restart.
func TestWorkingClientEndsTheFallback(t *testing.T) {
	for name, life := range map[string]time.Duration{"longer": time.Hour, "shorter": 20 * time.Minute} {
		for step, act := range map[string]func(*mount) map[string]any{
			"check": func(m *mount) map[string]any { return m.write("rotate-root/check").Data },
			"config write": func(m *mount) map[string]any {
				m.sandbox.SetFault(faultMalformed)
				m.write("rotate-root/check") // A write that changes nothing is only tried after a failure.
				m.sandbox.ClearFault()
				m.write("config", "client_id", newClientID, "client_secret", newSecret)
				return m.rotation()
			},
		} {
			t.Run(step+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMountOnFallback(t)
					m.sandbox.SetTokenLifetime(life)
					assert.NotContains(t, act(m)["next_step"], "rejects the new credentials")
					requests := m.requests()
					for range 2 {
						assert.Equal(t, newClientID, m.servedClientID())
						assert.Empty(t, m.read().Warnings)
						assert.Equal(t, false, m.status()["fallback_active"])
						assert.NotNil(t, m.rotation()["revoke_old_after"])
						m.restart()
					}
					assert.Equal(t, requests, m.requests())
				})
			})
		}
	}
}

// A check that finds the fallback still needed leaves its token alone, and so does one that finds
// a client working whose token is cached.
func TestCheckKeepsAFreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMountOnFallback(t)
		token := m.readToken()
		m.sandbox.RevokeClient(newClientID)
		m.write("rotate-root/check")
		assert.True(t, m.readToken() == token)
		assert.Equal(t, true, m.status()["fallback_active"])

		m.sandbox.CreateClient(newClientID, newSecret)
		time.Sleep(checkInterval)
		m.write("rotate-root/check")
		token = m.readToken()
		time.Sleep(checkInterval)
		m.write("rotate-root/check")
		assert.True(t, m.readToken() == token)
	})
}

// A token of the fallback belongs to the current credentials after a rollback.
func TestRollbackKeepsTheFallbackToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMountOnFallback(t)
		token := m.readToken()
		m.write("rotate-root/rollback")
		assert.True(t, m.readToken() == token)
		assert.Empty(t, m.read().Warnings)
	})
}

// A reader's request that gets a token of the new client ends the fallback too, although that
// token expires earlier.
func TestRefreshEndsTheFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMountOnFallback(t)
		time.Sleep(50 * time.Minute)
		m.sandbox.SetTokenLifetime(5 * time.Minute)
		m.read()
		synctest.Wait()
		assert.Equal(t, newClientID, m.servedClientID())
	})
}
