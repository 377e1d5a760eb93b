// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// atOnce is how long readers wait for a token in its buffer while Fuuffy is known to fail.
const atOnce = 2 * time.Second

// attempts is the longest that one request with all its retries takes, at the default timeout.
const attempts = 35 * time.Second

// buffered are lives of tokens, with ages in the buffer of each.
var buffered = []struct{ life, age time.Duration }{
	{time.Hour, 56 * time.Minute},
	{time.Hour, 59 * time.Minute},
	{time.Minute, 35 * time.Second},
	{10 * time.Minute, 8 * time.Minute},
}

// With stale_if_error, the token in its buffer outlives a restart and a failover.
func TestStaleTokenAfterARestart(t *testing.T) {
	for fault, f := range map[string]fuuffytest.Fault{"unavailable": mounttest.FaultUnavailable, "malformed": mounttest.FaultMalformed, "rate limited": mounttest.FaultRateLimited, "hangs": mounttest.FaultHang} {
		for _, b := range buffered {
			for start, restart := range map[string]func(*mounttest.Mount){
				"restart":  (*mounttest.Mount).Restart,
				"failover": func(m *mounttest.Mount) { m.Failover(time.Second) },
				"restart, and storage is slow": func(m *mounttest.Mount) {
					m.UseFaultyStorage().Set("get", mounttest.TokenKey, mounttest.Slowly(2*time.Second))
					m.Restart()
				},
				"first look into storage fails": func(m *mounttest.Mount) {
					m.UseFaultyStorage().Set("get", mounttest.TokenKey, failingOnce(1))
					m.Restart()
				},
			} {
				if fault == "hangs" && b.life-b.age < time.Minute {
					continue // It expires before the first attempt ends.
				}
				t.Run(fmt.Sprintf("%s, %s of %s, %s", fault, b.age, b.life, start), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := mounttest.NewConfigured(t, "stale_if_error", true)
						m.Sandbox.SetTokenLifetime(b.life)
						token := m.ReadToken()
						time.Sleep(b.age)
						m.Sandbox.SetFault(f)
						restart(m)
						requests := m.Requests()
						resp := m.Gets(attempts, "the first read")
						require.NotNil(t, resp)
						assert.True(t, resp.Data["access_token"] == token)
						assert.Contains(t, strings.Join(resp.Warnings, "\n"), "stale_if_error")
						assert.Greater(t, m.Requests(), requests, "Fuuffy is asked first")
						assert.Equal(t, "stale", m.Status()["token_state"])
						m.Serves(token, atOnce, "the second read")

						m.Sandbox.ClearFault()
						time.Sleep(15 * time.Minute)
						assert.False(t, m.ReadToken() == token, "Fuuffy issues tokens again")
					})
				})
			}
		}
	}
}

// What stale_if_error doesn't cover, it doesn't cover after a restart either.
func TestStaleTokenAfterARestartIsNotServed(t *testing.T) {
	for name, tt := range map[string]struct {
		staleIfError bool
		fault        fuuffytest.Fault
	}{
		"not asked for":            {false, mounttest.FaultUnavailable},
		"credentials are rejected": {true, mounttest.FaultRejected},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t, "stale_if_error", tt.staleIfError)
				m.Read()
				time.Sleep(56 * time.Minute)
				m.Sandbox.SetFault(tt.fault)
				m.Restart()
				refusedToken(m)
			})
		})
	}
	t.Run("Fuuffy works", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewConfigured(t, "stale_if_error", true)
			token := m.ReadToken()
			time.Sleep(56 * time.Minute)
			m.Restart()
			resp := m.Read()
			assert.False(t, resp.Data["access_token"] == token)
			assert.Empty(t, resp.Warnings)
		})
	})
	t.Run("on a standby", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewConfigured(t, "stale_if_error", true)
			m.Read()
			time.Sleep(56 * time.Minute)
			m.Sandbox.SetFault(mounttest.FaultUnavailable)
			standby := m.Node(consts.ReplicationPerformanceStandby, mounttest.ReadOnlyStorage{Storage: m.Storage.Storage})
			for range 3 {
				_, err := standby.Handle(t.Context(), logical.ReadOperation, mounttest.TokenKey, nil)
				assert.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)
			}
		})
	})
}

// A secondary has its own token, and serves it as long.
func TestStaleTokenOnASecondary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t, "stale_if_error", true)
		secondary, _ := m.Secondary()
		token := secondary.ReadToken()
		time.Sleep(57 * time.Minute)
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		secondary.Restart()
		secondary.Serves(token, attempts, "after a restart")
	})
}

// Fuuffy doesn't answer, which takes 32 seconds to find out, each time. In the buffer, only who
// comes before anyone knows waits for that.
func TestStaleTokenWhileFuuffyHangs(t *testing.T) {
	t.Parallel()
	for _, b := range []struct{ life, outage time.Duration }{
		{time.Hour, 51 * time.Minute}, // The refresh fails in the window.
		{time.Hour, 56 * time.Minute},
		{10 * time.Minute, 4 * time.Minute},
		{10 * time.Minute, 6 * time.Minute},
		{time.Minute, 23 * time.Second},
	} {
		for fault, f := range map[string]fuuffytest.Fault{
			"hangs": mounttest.FaultHang, "fails": mounttest.FaultUnavailable,
		} {
			t.Run(fmt.Sprintf("%s, %s, from %s on", fault, b.life, b.outage), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t, "stale_if_error", true, "request_timeout", 5)
					m.Sandbox.SetTokenLifetime(b.life)
					began := time.Now()
					token := m.ReadToken()
					time.Sleep(b.outage)
					m.Sandbox.SetFault(f)
					known, stale := false, 0
					for time.Since(began) < b.life-2*time.Second {
						most := attempts
						if known {
							most = atOnce
						}
						resp := m.Gets(most, fmt.Sprintf("at %s, Fuuffy is known to fail: %t", time.Since(began), known))
						if resp == nil {
							return
						}
						assert.True(t, resp.Data["access_token"] == token)
						if m.Status()["token_state"] == "stale" {
							stale++
							assert.Contains(t, strings.Join(resp.Warnings, "\n"), "stale_if_error")
						}
						known = m.Status()["upstream_state"] == "unavailable"
						time.Sleep(time.Second)
					}
					assert.Greater(t, stale, 3, "reads in the buffer")
				})
			})
		}
	}
}

// Many readers in the buffer wait for nothing, start one request, and get the new token when
// there is one.
func TestReadersOfAStaleToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t, "stale_if_error", true)
		token := m.ReadToken()
		time.Sleep(56 * time.Minute)
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.Serves(token, attempts, "the first read in the buffer")
		time.Sleep(2 * time.Minute) // The hold-off.
		m.Sandbox.ClearFault()
		release := m.Sandbox.Hold()
		requests := m.Requests()
		for range 50 {
			m.Serves(token, atOnce, "the request is under way")
		}
		synctest.Wait()
		assert.Equal(t, requests+1, m.Requests())
		release()
		synctest.Wait()
		resp := m.Read()
		assert.False(t, resp.Data["access_token"] == token)
		assert.Empty(t, resp.Warnings)
	})
}

// Whoever reports the token, or needs one that lives longer, waits for the request as before.
func TestStaleTokenThatIsNotGoodEnough(t *testing.T) {
	for name, tt := range map[string]struct {
		operation logical.Operation
		data      func(token string) map[string]any
	}{
		"reported": {logical.UpdateOperation, func(token string) map[string]any { return mounttest.Pairs("rejected_token", token) }},
		"min_ttl":  {logical.ReadOperation, func(string) map[string]any { return mounttest.Pairs("min_ttl", "20m") }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t, "stale_if_error", true)
				token := m.ReadToken()
				time.Sleep(56 * time.Minute)
				m.Sandbox.SetFault(mounttest.FaultUnavailable)
				m.Serves(token, attempts, "the first read in the buffer")
				time.Sleep(2 * time.Minute)
				m.Sandbox.SetFault(mounttest.SlowAnswer)
				resp, took, err := m.Timed(tt.operation, mounttest.TokenKey, tt.data(token))
				require.NoError(t, err)
				assert.Equal(t, 2*time.Second, took)
				assert.False(t, resp.Data["access_token"] == token)
			})
		})
	}
}

// A reader's patience ends after the stale token's life does. The request under way is all that
// there is to wait for, and it brings a token.
func TestStaleTokenThatExpiresBeforePatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t, "stale_if_error", true)
		token := m.ReadToken()
		time.Sleep(56 * time.Minute)
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.Serves(token, attempts, "the first read in the buffer")
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 4 * time.Second})
		time.Sleep(m.StatusTime("token_expires_at").Add(-time.Second).Sub(m.Now()))
		resp := m.Gets(6*time.Second, "one second before the end")
		if resp != nil {
			assert.True(t, m.Sandbox.TokenAlive(resp.Data["access_token"].(string)))
		}
	})
}
