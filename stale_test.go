// SPDX-License-Identifier: MPL-2.0

package fuuffy

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
	for fault, f := range map[string]fuuffytest.Fault{"unavailable": faultUnavailable, "malformed": faultMalformed, "rate limited": faultRateLimited, "hangs": faultHang} {
		for _, b := range buffered {
			for start, restart := range map[string]func(*mount){
				"restart":  (*mount).restart,
				"failover": func(m *mount) { m.failover(time.Second) },
				"restart, and storage is slow": func(m *mount) {
					m.useFaultyStorage().set("get", tokenKey, slowly(2*time.Second))
					m.restart()
				},
				"first look into storage fails": func(m *mount) {
					m.useFaultyStorage().set("get", tokenKey, failingOnce(1))
					m.restart()
				},
			} {
				if fault == "hangs" && b.life-b.age < time.Minute {
					continue // It expires before the first attempt ends.
				}
				t.Run(fmt.Sprintf("%s, %s of %s, %s", fault, b.age, b.life, start), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := newConfiguredMount(t, "stale_if_error", true)
						m.sandbox.SetTokenLifetime(b.life)
						token := m.readToken()
						time.Sleep(b.age)
						m.sandbox.SetFault(f)
						restart(m)
						requests := m.requests()
						resp := m.gets(attempts, "the first read")
						require.NotNil(t, resp)
						assert.True(t, resp.Data["access_token"] == token)
						assert.Contains(t, strings.Join(resp.Warnings, "\n"), "stale_if_error")
						assert.Greater(t, m.requests(), requests, "Fuuffy is asked first")
						assert.Equal(t, "stale", m.status()["token_state"])
						m.serves(token, atOnce, "the second read")

						m.sandbox.ClearFault()
						time.Sleep(15 * time.Minute)
						assert.False(t, m.readToken() == token, "Fuuffy issues tokens again")
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
		"not asked for":            {false, faultUnavailable},
		"credentials are rejected": {true, faultRejected},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t, "stale_if_error", tt.staleIfError)
				m.read()
				time.Sleep(56 * time.Minute)
				m.sandbox.SetFault(tt.fault)
				m.restart()
				m.refusedToken()
			})
		})
	}
	t.Run("Fuuffy works", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newConfiguredMount(t, "stale_if_error", true)
			token := m.readToken()
			time.Sleep(56 * time.Minute)
			m.restart()
			resp := m.read()
			assert.False(t, resp.Data["access_token"] == token)
			assert.Empty(t, resp.Warnings)
		})
	})
	t.Run("on a standby", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newConfiguredMount(t, "stale_if_error", true)
			m.read()
			time.Sleep(56 * time.Minute)
			m.sandbox.SetFault(faultUnavailable)
			standby := m.node(consts.ReplicationPerformanceStandby, readOnlyStorage{Storage: m.storage.Storage})
			for range 3 {
				_, err := standby.handle(t.Context(), logical.ReadOperation, tokenKey, nil)
				assert.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)
			}
		})
	})
}

// A secondary has its own token, and serves it as long.
func TestStaleTokenOnASecondary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t, "stale_if_error", true)
		secondary, _ := m.secondary()
		token := secondary.readToken()
		time.Sleep(57 * time.Minute)
		m.sandbox.SetFault(faultUnavailable)
		secondary.restart()
		secondary.serves(token, attempts, "after a restart")
	})
}

// Fuuffy doesn't answer, which takes 32 seconds to find out, each time. In the buffer, only who
// comes before anyone knows waits for that.
func TestStaleTokenWhileFuuffyHangs(t *testing.T) {
	for _, b := range []struct{ life, outage time.Duration }{
		{time.Hour, 51 * time.Minute}, // The refresh fails in the window.
		{time.Hour, 56 * time.Minute},
		{10 * time.Minute, 4 * time.Minute},
		{10 * time.Minute, 6 * time.Minute},
		{time.Minute, 23 * time.Second},
	} {
		for fault, f := range map[string]fuuffytest.Fault{
			"hangs": faultHang, "fails": faultUnavailable,
		} {
			t.Run(fmt.Sprintf("%s, %s, from %s on", fault, b.life, b.outage), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t, "stale_if_error", true, "request_timeout", 5)
					m.sandbox.SetTokenLifetime(b.life)
					began := time.Now()
					token := m.readToken()
					time.Sleep(b.outage)
					m.sandbox.SetFault(f)
					known, stale := false, 0
					for time.Since(began) < b.life-2*time.Second {
						most := attempts
						if known {
							most = atOnce
						}
						resp := m.gets(most, fmt.Sprintf("at %s, Fuuffy is known to fail: %t", time.Since(began), known))
						if resp == nil {
							return
						}
						assert.True(t, resp.Data["access_token"] == token)
						if m.status()["token_state"] == "stale" {
							stale++
							assert.Contains(t, strings.Join(resp.Warnings, "\n"), "stale_if_error")
						}
						known = m.status()["upstream_state"] == "unavailable"
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
		m := newConfiguredMount(t, "stale_if_error", true)
		token := m.readToken()
		time.Sleep(56 * time.Minute)
		m.sandbox.SetFault(faultUnavailable)
		m.serves(token, attempts, "the first read in the buffer")
		time.Sleep(2 * time.Minute) // The hold-off.
		m.sandbox.ClearFault()
		release := m.sandbox.Hold()
		requests := m.requests()
		for range 50 {
			m.serves(token, atOnce, "the request is under way")
		}
		synctest.Wait()
		assert.Equal(t, requests+1, m.requests())
		release()
		synctest.Wait()
		resp := m.read()
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
		"reported": {logical.UpdateOperation, func(token string) map[string]any { return pairs("rejected_token", token) }},
		"min_ttl":  {logical.ReadOperation, func(string) map[string]any { return pairs("min_ttl", "20m") }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t, "stale_if_error", true)
				token := m.readToken()
				time.Sleep(56 * time.Minute)
				m.sandbox.SetFault(faultUnavailable)
				m.serves(token, attempts, "the first read in the buffer")
				time.Sleep(2 * time.Minute)
				m.sandbox.SetFault(slowAnswer)
				resp, took, err := m.timed(tt.operation, tokenKey, tt.data(token))
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
		m := newConfiguredMount(t, "stale_if_error", true)
		token := m.readToken()
		time.Sleep(56 * time.Minute)
		m.sandbox.SetFault(faultUnavailable)
		m.serves(token, attempts, "the first read in the buffer")
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 4 * time.Second})
		time.Sleep(m.statusTime("token_expires_at").Add(-time.Second).Sub(m.now()))
		resp := m.gets(6*time.Second, "one second before the end")
		if resp != nil {
			assert.True(t, m.sandbox.TokenAlive(resp.Data["access_token"].(string)))
		}
	})
}
