// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// slowBody is a Fuuffy that issues a token immediately, and takes some 20 seconds to send it.
var slowBody = fuuffytest.Fault{Kind: fuuffytest.FaultDrip, Delay: 150 * time.Millisecond}

const year = 365 * 24 * time.Hour

// A token is as old as its request, although someone sets the wall clock back during that: it is
// served no longer than it lives, whatever it was requested for.
func TestWallClockIsSetBackDuringARequest(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		prepare, act func(*mounttest.Mount)
	}{
		"read": {func(*mounttest.Mount) {}, func(m *mounttest.Mount) { m.Read() }},
		"report": {
			func(m *mounttest.Mount) { m.Read(); time.Sleep(time.Minute) },
			func(m *mounttest.Mount) { m.Write("token") },
		},
		"check": {func(*mounttest.Mount) {}, func(m *mounttest.Mount) { m.Write("rotate-root/check") }},
		"same pair": {func(*mounttest.Mount) {}, func(m *mounttest.Mount) {
			m.Write("config", "client_secret", mounttest.Secret, "base_url", "https://gateway.example.com/v1")
		}},
		"other pair": {func(m *mounttest.Mount) { m.Read() }, func(m *mounttest.Mount) {
			m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret)
		}},
		"promote":  {func(m *mounttest.Mount) { m.Read(); m.Stage() }, func(m *mounttest.Mount) { m.Promote() }},
		"rollback": {func(m *mounttest.Mount) { m.Stage(); m.Promote(); m.Read() }, func(m *mounttest.Mount) { m.Write("rotate-root/rollback") }},
		"emergency": {func(m *mounttest.Mount) { m.Read() }, func(m *mounttest.Mount) {
			m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true))
		}},
		"check that finds the fallback": {
			func(m *mounttest.Mount) {
				m.Stage()
				m.Promote()
				m.Do(logical.DeleteOperation, "token", nil)
				m.Sandbox.RevokeClient(mounttest.NewClientID)
			},
			func(m *mounttest.Mount) { m.Write("rotate-root/check") },
		},
	} {
		for _, back := range []time.Duration{5 * time.Second, time.Minute, time.Hour, year} {
			for _, staleIfError := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, stale_if_error %t", name, back, staleIfError), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := mounttest.NewConfigured(t, "stale_if_error", staleIfError, "request_timeout", 30)
						m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
						var skew atomic.Int64
						m.SkewWallClock(func() time.Duration { return time.Duration(skew.Load()) })
						tt.prepare(m)
						m.Sandbox.SetFault(slowBody)
						began := time.Now()
						time.AfterFunc(10*time.Second, func() { skew.Add(-int64(back)) })
						tt.act(m)
						synctest.Wait()
						require.Greater(t, time.Since(began), 15*time.Second)
						m.Sandbox.SetFault(mounttest.FaultMalformed)
						token := m.ReadToken()

						time.Sleep(54*time.Minute - time.Since(began))
						last := time.Duration(0)
						for time.Since(began) < 62*time.Minute {
							age := time.Since(began)
							resp, err := m.Handle(t.Context(), logical.ReadOperation, mounttest.TokenKey, nil)
							if err == nil && !resp.IsError() {
								require.True(t, resp.Data["access_token"] == token)
								last = age
								if !assert.True(t, m.Sandbox.TokenAlive(token), "a dead token is served %s after its request", age) {
									return
								}
							}
							time.Sleep(time.Second)
						}
						most := 55 * time.Minute
						if staleIfError {
							most = time.Hour
						}
						assert.LessOrEqual(t, last, most)
						assert.Greater(t, last, most-time.Minute)
					})
				})
			}
		}
	}
}

// The clocks of two nodes differ by up to two minutes. A node that finds a token in storage serves
// it no longer than it lives.
func TestStoredTokenOfANodeWithAnotherClock(t *testing.T) {
	t.Parallel()
	for _, behind := range []time.Duration{0, 30 * time.Second, time.Minute, 90 * time.Second, 2 * time.Minute} {
		for _, buffer := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute} {
			for _, age := range []time.Duration{time.Second, 30 * time.Minute, 54 * time.Minute} {
				t.Run(fmt.Sprintf("%s behind, buffer %s, failover after %s", behind, buffer, age), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := mounttest.NewConfigured(t, "token_expiry_buffer", buffer.String())
						issued := time.Now()
						first := m.Read()
						token := first.Data["access_token"].(string)
						time.Sleep(age)
						m.Sandbox.SetFault(mounttest.FaultMalformed)
						m.Failover(-behind)
						resp := m.Gets(0, "after the failover")
						require.NotNil(t, resp)
						require.True(t, resp.Data["access_token"] == token)
						for field, value := range first.Data {
							if field != "ttl" && field != "access_token" {
								assert.Equal(t, value, resp.Data[field], "%s is the same on each node", field)
							}
						}

						certain := time.Hour - buffer - max(0, 2*time.Minute-buffer)
						time.Sleep(certain - 3*time.Second - time.Since(issued))
						m.Serves(token, 0, "it is still good")
						for time.Since(issued) < time.Hour+5*time.Minute {
							resp, err := m.Handle(t.Context(), logical.ReadOperation, mounttest.TokenKey, nil)
							if err == nil && !resp.IsError() && !assert.True(t, m.Sandbox.TokenAlive(token), "a dead token is served after %s", time.Since(issued)) {
								return
							}
							time.Sleep(time.Second)
						}
					})
				})
			}
		}
	}
}

// A standby whose clock is behind serves no dead token either.
func TestStoredTokenOnAStandbyWithAnotherClock(t *testing.T) {
	for _, behind := range []time.Duration{time.Minute, 2 * time.Minute} {
		t.Run(behind.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t, "token_expiry_buffer", "30s", "token_refresh_window", "30s")
				issued := time.Now()
				token := m.ReadToken()
				time.Sleep(10 * time.Minute)
				standby := m.Node(consts.ReplicationPerformanceStandby, mounttest.ReadOnlyStorage{Storage: m.Storage.Storage})
				standby.Skew = func() time.Duration { return -behind }
				standby.Restart()
				standby.Serves(token, 0, "the standby")
				time.Sleep(59*time.Minute - time.Since(issued))
				for time.Since(issued) < time.Hour+5*time.Minute {
					resp, err := standby.Handle(t.Context(), logical.ReadOperation, mounttest.TokenKey, nil)
					if err == nil && !resp.IsError() && !assert.True(t, m.Sandbox.TokenAlive(token), "a dead token is served after %s", time.Since(issued)) {
						return
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

// A token that seems to be from the future by no more than two minutes is from a clock that
// differs. It is served, and costs no request.
func TestStoredTokenOfASlowClock(t *testing.T) {
	for ahead, used := range map[time.Duration]bool{
		59 * time.Second: true, 61 * time.Second: true, 119 * time.Second: true, 121 * time.Second: false, time.Hour: false,
	} {
		for _, buffer := range []string{"30s", "5m"} {
			t.Run(ahead.String()+", buffer "+buffer, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t, "token_expiry_buffer", buffer)
					token := m.ReadToken()
					m.Failover(-ahead)
					assert.Equal(t, used, m.ReadToken() == token)
					assert.Equal(t, used, m.Requests() == 1)
				})
			})
		}
	}
}

// Of a short life, the allowance for clocks takes a twentieth at most: tokens outlive a restart.
func TestStoredTokenOfAShortLife(t *testing.T) {
	for _, life := range []time.Duration{20 * time.Second, time.Minute, 5 * time.Minute} {
		for _, buffer := range []string{"30s", "5m"} {
			t.Run(life.String()+", buffer "+buffer, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t, "token_expiry_buffer", buffer)
					m.Sandbox.SetTokenLifetime(life)
					token := m.ReadToken()
					time.Sleep(life / 10)
					m.Failover(0)
					m.Serves(token, 0, "after the restart")
					assert.Equal(t, 1, m.Requests())
					m.Sandbox.SetFault(mounttest.FaultMalformed)
					time.Sleep(life * 33 / 100) // 43 percent of its life, of which it is served half.
					m.Serves(token, 0, "later")
				})
			})
		}
	}
}

// The wall clock jumped while apps got a token of the previous client. When it is right again, that
// client can be revoked once no one uses that token, and not after the jump.
func TestClockJumpDuringAFallback(t *testing.T) {
	for name, fallBack := range map[string]func(*mounttest.Mount){
		"by a read":  func(m *mounttest.Mount) { m.Read() },
		"by a check": func(m *mounttest.Mount) { m.Write("rotate-root/check"); m.Read() },
	} {
		for _, jump := range []time.Duration{time.Hour, 24 * time.Hour, year} {
			for restarted, restart := range map[string]func(*mounttest.Mount, string){
				"":                             func(*mounttest.Mount, string) {},
				", restart in between":         func(m *mounttest.Mount, when string) { restartIf(m, when == "right again") },
				", restart at the end":         func(m *mounttest.Mount, when string) { restartIf(m, when == "end") },
				", restart while it was wrong": func(m *mounttest.Mount, when string) { restartIf(m, when == "wrong") },
			} {
				t.Run(fmt.Sprintf("%s, %s%s", name, jump, restarted), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := mounttest.NewRotating(t, rotation.Promoted)
						var skew time.Duration
						m.Skew = func() time.Duration { return skew }
						m.SkewWallClock(m.Skew)
						time.Sleep(time.Hour)
						m.Sandbox.RevokeClient(mounttest.NewClientID)
						m.Do(logical.DeleteOperation, "token", nil)
						skew = jump
						fallBack(m)
						require.Equal(t, true, m.Rotation()["fallback_active"])
						restart(m, "wrong")
						skew = 0
						restart(m, "right again")

						m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
						m.Do(logical.DeleteOperation, "token", nil)
						time.Sleep(mounttest.CheckInterval)
						m.Read()
						restart(m, "end")
						for range 2 {
							rotation := m.Rotation()
							require.Equal(t, false, rotation["fallback_active"])
							require.NotNil(t, rotation["revoke_old_after"])
							after, err := time.Parse(time.RFC3339, rotation["revoke_old_after"].(string))
							require.NoError(t, err)
							assert.LessOrEqual(t, time.Until(after), 55*time.Minute, "revoke_old_after")
							time.Sleep(30 * time.Minute)
						}
						time.Sleep(time.Hour)
						m.Read()
						rotation := m.Rotation()
						after, err := time.Parse(time.RFC3339, rotation["revoke_old_after"].(string))
						require.NoError(t, err)
						assert.Negative(t, time.Until(after), "revoke_old_after is over")
						assert.NotContains(t, strings.ToLower(rotation["next_step"].(string)), "wait until")
					})
				})
			}
		}
	}
}

func restartIf(m *mounttest.Mount, now bool) {
	m.T.Helper()
	if now {
		m.Restart()
	}
}

// A promotion while the wall clock is wrong: when it is right again, the previous client can be
// revoked once no one uses its token, neither earlier nor after the jump.
func TestClockJumpDuringAPromotion(t *testing.T) {
	for _, jump := range []time.Duration{-year, -time.Hour, -10 * time.Minute, time.Hour, year} {
		for start, restarts := range map[string]bool{"": false, ", and a restart": true} {
			if jump < 0 && restarts {
				continue // Nothing tells an early time that was stored from a right one.
			}
			t.Run(jump.String()+start, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewRotating(t, rotation.Staged)
					var skew time.Duration
					m.Skew = func() time.Duration { return skew }
					m.SkewWallClock(m.Skew)
					m.Read()
					time.Sleep(time.Minute)
					last := time.Now().Add(54 * time.Minute) // Apps have the old token until then.
					skew = jump
					m.Promote()
					skew = 0
					restartIf(m, restarts)
					m.Read()
					assertRevokeOldAfter(m, last, time.Now().Add(55*time.Minute))
					time.Sleep(2 * time.Hour)
					assertRevokeOldAfter(m, last, time.Now())
				})
			})
		}
	}
}

// assertRevokeOldAfter holds the time at which an operator may revoke the previous client between
// two times.
func assertRevokeOldAfter(m *mounttest.Mount, first, last time.Time) {
	m.T.Helper()
	text, ok := m.Rotation()["revoke_old_after"].(string)
	if !assert.True(m.T, ok, "revoke_old_after is shown") {
		return
	}
	after, err := time.Parse(time.RFC3339, text)
	require.NoError(m.T, err)
	assert.False(m.T, after.Before(first.Truncate(time.Second)), "apps hold a token of the old client for %s longer", first.Sub(after))
	assert.False(m.T, after.After(last.Add(time.Second)), "it is %s too late", after.Sub(last))
}

// The wall clock was set back while apps got a token of the previous client. They hold it as long
// as any other.
func TestClockIsBackDuringAFallback(t *testing.T) {
	for _, back := range []time.Duration{10 * time.Minute, time.Hour, year} {
		t.Run(back.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, rotation.Promoted)
				var skew time.Duration
				m.SkewWallClock(func() time.Duration { return skew })
				time.Sleep(50 * time.Minute)
				m.Sandbox.RevokeClient(mounttest.NewClientID)
				m.Do(logical.DeleteOperation, "token", nil)
				skew = -back
				m.Read()
				last := time.Now().Add(55 * time.Minute)
				require.Equal(t, true, m.Rotation()["fallback_active"])
				skew = 0
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				m.Do(logical.DeleteOperation, "token", nil)
				m.Read()
				assertRevokeOldAfter(m, last, last)
			})
		})
	}
}

// Advice that can't be taken back needs a fresh success of the new pair. One from a clock that was
// ahead isn't fresh for a year.
func TestSuccessOfAFastClockIsNotFreshForever(t *testing.T) {
	for name, succeed := range map[string]func(*mounttest.Mount){
		"check": func(m *mounttest.Mount) { m.Write("rotate-root/check") },
		"read":  func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "token", nil); m.Read() },
	} {
		for _, ahead := range []time.Duration{3 * time.Hour, year} {
			t.Run(name+", "+ahead.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewRotating(t, rotation.Promoted)
					var skew time.Duration
					m.SkewWallClock(func() time.Duration { return skew })
					m.Read()
					time.Sleep(30 * time.Minute)
					skew = ahead
					succeed(m)
					skew = 0
					time.Sleep(2*time.Hour + 30*time.Minute)
					m.Sandbox.RevokeClient(mounttest.NewClientID) // No one reads, so no one knows.
					assertCheckFirst(m, "the new client may be dead")
				})
			})
		}
	}
}
