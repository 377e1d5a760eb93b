// SPDX-License-Identifier: MPL-2.0

package fuuffy_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		assert.Equal(t, map[string]any{
			"health": "not configured", "version": "v0.1.0-dev",
			"next_step": "Write the credentials: vault write fuuffy/config client_id=<client_id> client_secret=-",
		}, m.Status())

		m.Configure("verify_connection", false)
		status := m.Status()
		assert.Equal(t, "none", status["token_state"])
		assert.Equal(t, "untested", status["upstream_state"])
		assert.Equal(t, "untested", status["health"])
		assert.Contains(t, status["next_step"], "vault write -f fuuffy/rotate-root/check")
		assert.Equal(t, "https://api-gateway.fuuffy.com/v1", status["base_url"])
		assert.Equal(t, "idle", status["rotation_state"])
		assert.Nil(t, status["token_expires_at"])

		issued := time.Now()
		m.Read()
		status = m.Status()
		assert.Equal(t, "fresh", status["token_state"])
		assert.Equal(t, "ok", status["upstream_state"])
		assert.Equal(t, "ok", status["health"])
		assert.Equal(t, mounttest.Timestamp(issued.Add(time.Hour)), status["token_expires_at"])
		assert.Equal(t, mounttest.Timestamp(issued.Add(55*time.Minute)), status["token_served_until"])
		assert.Equal(t, true, status["token_in_use"])

		for _, state := range []string{"refreshing", "not served", "expired"} {
			time.Sleep(map[string]time.Duration{"refreshing": 52 * time.Minute, "not served": 5 * time.Minute, "expired": 5 * time.Minute}[state])
			assert.Equal(t, state, m.Status()["token_state"])
		}

		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.Do(logical.DeleteOperation, "token", nil)
		m.Refused(logical.ReadOperation, "token", nil)
		status = m.Status()
		assert.Equal(t, "unavailable", status["upstream_state"])
		assert.Contains(t, status["upstream_message"], "HTTP status 503")
		assert.EqualValues(t, 1, status["upstream_failures"])
		assert.NotNil(t, status["upstream_next_try"])
		for outcome, count := range map[string]int64{"ok": 1, "rejected": 0, "rate_limited": 0, "unavailable": 1, "malformed": 0} {
			assert.Equal(t, count, status["token_requests_"+outcome], outcome)
		}
	})
}

// The verdict, and a next step that works, in each state that goes wrong.
func TestHealthAndNextStep(t *testing.T) {
	for name, tt := range map[string]struct {
		state                 string
		happen                func(*mounttest.Mount)
		health, next, warning string
		// follow does what the next step says; the mount is well afterwards.
		follow func(*mounttest.Mount)
	}{
		"well":        {rotation.Idle, func(*mounttest.Mount) {}, "ok", "No action needed until 2000-03-17.", "", func(*mounttest.Mount) {}},
		"rejected":    {rotation.Idle, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID); m.LoseToken() }, "failing", "vault write fuuffy/config client_id=<client_id> client_secret=-", "apps get no token", func(m *mounttest.Mount) { m.Do(logical.UpdateOperation, "config", mounttest.NewPair()) }},
		"unavailable": {rotation.Idle, func(m *mounttest.Mount) { m.Sandbox.SetFault(mounttest.FaultUnavailable); m.LoseToken() }, "failing", "vault write -f fuuffy/rotate-root/check", "HTTP status 503", func(m *mounttest.Mount) { m.Sandbox.ClearFault(); m.Write("rotate-root/check") }},
		"refresh fails": {
			rotation.Idle,
			func(m *mounttest.Mount) {
				m.Sandbox.SetFault(mounttest.FaultUnavailable)
				time.Sleep(52 * time.Minute)
				m.Read()
			},
			"degraded", "vault write -f fuuffy/rotate-root/check", "token refresh is failing",
			func(m *mounttest.Mount) { m.Sandbox.ClearFault(); m.Write("rotate-root/check") },
		},
		"staged, rejected": {
			rotation.Staged,
			func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID); m.LoseToken() },
			"failing", "vault write -f fuuffy/rotate-root/promote", "apps get no token",
			func(m *mounttest.Mount) {
				m.Promote()
				m.Write("rotate-root/complete")
			},
		},
		"fallback": {
			rotation.Promoted,
			func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.NewClientID); m.LoseToken() },
			"degraded", "vault write -f fuuffy/rotate-root/rollback", "Don't revoke client shop-1 now",
			func(m *mounttest.Mount) { m.Write("rotate-root/rollback") },
		},
		"both revoked": {
			rotation.Promoted,
			func(m *mounttest.Mount) {
				m.Sandbox.RevokeClient(mounttest.NewClientID)
				m.Sandbox.RevokeClient(mounttest.ClientID)
				m.LoseToken()
			},
			"failing", "vault write fuuffy/rotate-root client_id=<client_id> client_secret=-", "apps get no token",
			func(m *mounttest.Mount) {
				time.Sleep(time.Minute) // The engine limits its requests.
				m.Sandbox.CreateClient("shop-3", "third-secret")
				m.Write("rotate-root", "client_id", "shop-3", "client_secret", "third-secret")
				m.Promote()
				m.Write("rotate-root/complete")
				assert.NotContains(m.T, m.Rotation()["history"], "compromised", "the way out records no leak")
				assert.NotContains(m.T, m.Rotation(), "unrevoked")
			},
		},
		"leak": {
			"compromised",
			func(*mounttest.Mount) {},
			"degraded", "vault write -f fuuffy/rotate-root/complete\nAlso restart the Agents", "compromised",
			func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID); m.Write("rotate-root/complete") },
		},
		"stuck": {
			rotation.Promoted,
			func(*mounttest.Mount) { time.Sleep(8 * 24 * time.Hour) },
			"degraded", "vault write -f fuuffy/rotate-root/complete", "but not completed",
			func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID); m.Write("rotate-root/complete") },
		},
		"overdue": {rotation.Idle, func(*mounttest.Mount) { time.Sleep(91 * 24 * time.Hour) }, "degraded", "Rotate now", "overdue for rotation", func(m *mounttest.Mount) {
			m.Stage()
			m.Promote()
			m.Sandbox.RevokeClient(mounttest.ClientID)
			m.Write("rotate-root/complete")
		}},
		"suspect": {
			rotation.Idle,
			func(m *mounttest.Mount) {
				time.Sleep(time.Minute)
				m.Sandbox.SetFault(mounttest.FaultUnavailable)
				m.Refused(logical.UpdateOperation, "token", nil)
			},
			"degraded", "vault write -f fuuffy/rotate-root/check", "an app reported", func(m *mounttest.Mount) {
				m.Sandbox.ClearFault()
				m.Write("rotate-root/check")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, tt.state)
				m.Read()
				tt.happen(m)
				_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
				synctest.Wait()
				time.Sleep(3 * time.Second) // The attempts in the background.

				resp := m.Do(logical.ReadOperation, "status", nil)
				assert.Equal(t, tt.health, resp.Data["health"], "%v", resp)
				assert.Contains(t, resp.Data["next_step"], tt.next)
				assert.Contains(t, strings.Join(resp.Warnings, "\n"), tt.warning)
				assert.Equal(t, resp.Data["next_step"], m.Rotation()["next_step"], "one place knows")
				tt.follow(m)
				m.Read()
				status := m.Do(logical.ReadOperation, "status", nil)
				assert.Equal(t, "ok", status.Data["health"], "%v", status.Warnings)
			})
		})
	}
}

func TestStatusSaysSinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		assert.NotContains(t, m.Status(), "last_success")
		m.Read()
		time.Sleep(time.Minute)
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.LoseToken()
		m.Refused(logical.ReadOperation, "token", nil)
		since := m.Status()["upstream_since"]
		for range 5 {
			m.UntilAsked(time.Hour)
		}
		assert.Equal(t, since, m.Status()["upstream_since"], "the first failure")
		assert.Equal(t, "2000-01-01T00:00:00Z", m.Status()["last_success"])
		m.Sandbox.ClearFault()
		m.UntilAsked(time.Hour)
		synctest.Wait()
		assert.Greater(t, m.Status()["upstream_since"], since)
	})
}

// upstream_since is when the state began, not when it was last confirmed.
func TestUpstreamSinceOutlivesASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		m.Read()
		time.Sleep(52 * time.Minute)
		m.Read()
		synctest.Wait()
		assert.Equal(t, 2, m.Requests())
		assert.Equal(t, "2000-01-01T00:00:00Z", m.Status()["upstream_since"])
		assert.Equal(t, "2000-01-01T00:52:00Z", m.Status()["last_success"])
	})
}

// The verdict is as bad as the worst of several conditions.
func TestHealthIsTheWorstOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Write("rotate-root", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "compromised", true)
		require.Equal(t, "degraded", m.Status()["health"])
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.LoseToken()
		m.Refused(logical.ReadOperation, "token", nil)
		assert.Equal(t, "failing", m.Status()["health"])
	})
}
