// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// newMountOnFallback returns an engine that serves a token of the previous client although the
// new one works again.
func newMountOnFallback(t *testing.T) *mounttest.Mount {
	t.Helper()
	m := mounttest.NewRotating(t, rotation.Promoted)
	m.Sandbox.RevokeClient(mounttest.NewClientID)
	m.Do(logical.DeleteOperation, "token", nil)
	require.Equal(t, mounttest.ClientID, m.ServedClientID())
	require.Equal(t, true, m.Rotation()["fallback_active"])
	m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
	time.Sleep(time.Minute)
	return m
}

// A test that shows that the new client works ends the fallback, however long its token lives.
// Apps get a token of the new client from the next read on, and after a restart.
func TestWorkingClientEndsTheFallback(t *testing.T) {
	for name, life := range map[string]time.Duration{"longer": time.Hour, "shorter": 20 * time.Minute} {
		for step, act := range map[string]func(*mounttest.Mount) map[string]any{
			"check": func(m *mounttest.Mount) map[string]any { return m.Write("rotate-root/check").Data },
			"config write": func(m *mounttest.Mount) map[string]any {
				m.Sandbox.SetFault(mounttest.FaultMalformed)
				m.Write("rotate-root/check") // A write that changes nothing is only tried after a failure.
				m.Sandbox.ClearFault()
				m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret)
				return m.Rotation()
			},
		} {
			t.Run(step+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMountOnFallback(t)
					m.Sandbox.SetTokenLifetime(life)
					assert.NotContains(t, act(m)["next_step"], "rejects the new credentials")
					requests := m.Requests()
					for range 2 {
						assert.Equal(t, mounttest.NewClientID, m.ServedClientID())
						assert.Empty(t, m.Read().Warnings)
						assert.Equal(t, false, m.Status()["fallback_active"])
						assert.NotNil(t, m.Rotation()["revoke_old_after"])
						m.Restart()
					}
					assert.Equal(t, requests, m.Requests())
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
		token := m.ReadToken()
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.Write("rotate-root/check")
		assert.True(t, m.ReadToken() == token)
		assert.Equal(t, true, m.Status()["fallback_active"])

		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		time.Sleep(mounttest.CheckInterval)
		m.Write("rotate-root/check")
		token = m.ReadToken()
		time.Sleep(mounttest.CheckInterval)
		m.Write("rotate-root/check")
		assert.True(t, m.ReadToken() == token)
	})
}

// A token of the fallback belongs to the current credentials after a rollback.
func TestRollbackKeepsTheFallbackToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMountOnFallback(t)
		token := m.ReadToken()
		m.Write("rotate-root/rollback")
		assert.True(t, m.ReadToken() == token)
		assert.Empty(t, m.Read().Warnings)
	})
}

// A reader's request that gets a token of the new client ends the fallback too, although that
// token expires earlier.
func TestRefreshEndsTheFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMountOnFallback(t)
		time.Sleep(50 * time.Minute)
		m.Sandbox.SetTokenLifetime(5 * time.Minute)
		m.Read()
		synctest.Wait()
		assert.Equal(t, mounttest.NewClientID, m.ServedClientID())
	})
}
