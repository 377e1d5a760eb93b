// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// suspectWarning is what readers of a suspect token are told.
const suspectWarning = "An app reported that Fuuffy rejected this token"

// reportFaults are what reports meet when they fail.
var reportFaults = map[string]fuuffytest.Fault{
	"unavailable": faultUnavailable, "malformed": faultMalformed, "rejected": faultRejected, "rate limited": faultRateLimited, "hangs": faultHang,
}

// reportTo has an app report a token in vain.
func (m *mount) reportTo(fault fuuffytest.Fault, token string) {
	m.t.Helper()
	m.sandbox.SetFault(fault)
	m.refused(logical.UpdateOperation, tokenKey, pairs("rejected_token", token))
	synctest.Wait()
}

// assertSuspect reads the suspect token with its warning.
func (m *mount) assertSuspect(token, why string) {
	m.t.Helper()
	resp := m.gets(attempts, why)
	if resp == nil {
		return
	}
	assert.True(m.t, resp.Data["access_token"] == token, "%s: another token", why)
	assert.Contains(m.t, strings.Join(resp.Warnings, "\n"), suspectWarning, why)
	assert.LessOrEqual(m.t, resp.Data["ttl"], int64(60), "%s: readers come back soon", why)
}

// A token that was reported in vain is suspect after a restart too: readers are warned, and the
// first of them has Fuuffy asked for another.
func TestSuspectTokenAfterARestart(t *testing.T) {
	for fault, f := range reportFaults {
		for _, life := range []time.Duration{time.Hour, time.Minute} {
			for start, restart := range map[string]func(*mount){
				"restart":           (*mount).restart,
				"two restarts":      func(m *mount) { m.restart(); m.restart() },
				"failover":          func(m *mount) { m.failover(time.Second) },
				"setting, restart":  func(m *mount) { m.write("config", "rotation_reminder", "24h"); m.restart() },
				"no start: control": func(*mount) {},
			} {
				if life == time.Minute && fault == "hangs" {
					continue // It expires before the report has failed.
				}
				t.Run(fmt.Sprintf("%s, %s, %s", fault, life, start), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := newConfiguredMount(t)
						m.sandbox.SetTokenLifetime(life)
						token := m.readToken()
						time.Sleep(life / 8)
						m.reportTo(f, token)
						if life == time.Hour {
							time.Sleep(15 * time.Minute) // The hold-off.
						}
						restart(m)
						requests := m.requests()
						m.assertSuspect(token, "the first read")
						synctest.Wait()
						if start != "no start: control" || life == time.Hour {
							assert.Greater(t, m.requests(), requests, "another is asked for")
						}
						assert.Equal(t, "suspect", m.status()["token_state"])
						assert.EqualValues(t, 1, m.metric("fuuffy_token_suspect"))
					})
				})
			}
		}
	}
}

// Once Fuuffy works, the suspect token is replaced for good.
func TestSuspectTokenIsReplacedAfterARestart(t *testing.T) {
	for name, replace := range map[string]func(*mount){
		"by a read":       func(m *mount) { m.read() },
		"by PeriodicFunc": (*mount).tick,
		"by a check":      func(m *mount) { m.write("rotate-root/check") },
		"by a report":     func(m *mount) { m.write("token") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				token := m.readToken()
				time.Sleep(time.Minute)
				m.reportTo(faultUnavailable, token)
				m.restart()
				m.sandbox.ClearFault()
				m.events.take()
				requests := m.requests()
				replace(m)
				synctest.Wait()
				assert.Equal(t, requests+1, m.requests())
				assert.Equal(t, []string{"replace"}, newOperator(t).updates(t, m.events.take()), "apps hold a dead token")
				for range 2 {
					resp := m.read()
					assert.False(t, resp.Data["access_token"] == token)
					assert.Empty(t, resp.Warnings)
					m.restart()
				}
				assert.Equal(t, requests+1, m.requests())
			})
		})
	}
}

// What makes a token suspect, in each of its states, is stored with it.
func TestSuspicionIsStored(t *testing.T) {
	const mark = `"suspect":true`
	for name, report := range map[string]func(m *mount, token string){
		"fresh":         func(m *mount, token string) { time.Sleep(time.Minute); m.reportTo(faultUnavailable, token) },
		"in its window": func(m *mount, token string) { time.Sleep(52 * time.Minute); m.reportTo(faultUnavailable, token) },
		"in its buffer": func(m *mount, token string) { time.Sleep(56 * time.Minute); m.reportTo(faultUnavailable, token) },
		"without a token named": func(m *mount, _ string) {
			time.Sleep(time.Minute)
			m.sandbox.SetFault(faultUnavailable)
			m.refused(logical.UpdateOperation, tokenKey, nil)
		},
		"during a hold-off": func(m *mount, token string) {
			time.Sleep(52 * time.Minute)
			m.sandbox.SetFault(faultRateLimited)
			m.read()
			synctest.Wait()
			m.reportTo(faultRateLimited, token)
		},
		"while a refresh is under way": func(m *mount, token string) {
			time.Sleep(52 * time.Minute)
			m.sandbox.SetFault(faultHang)
			m.read()
			synctest.Wait()
			m.reportTo(faultHang, token)
		},
		"the second of two": func(m *mount, token string) {
			time.Sleep(time.Minute)
			m.reportTo(faultUnavailable, token)
			time.Sleep(2 * time.Minute)
			m.reportTo(faultUnavailable, token)
		},
	} {
		for _, staleIfError := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stale_if_error %t", name, staleIfError), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t, "stale_if_error", staleIfError)
					storage := m.useFaultyStorage()
					token := m.readToken()
					assert.False(t, strings.Contains(storage.stored(t, tokenKey), "suspect"), "left out of a good token")
					report(m, token)
					synctest.Wait()
					stored := storage.stored(t, tokenKey)
					assert.True(t, strings.Contains(stored, mark) && strings.Contains(stored, token))

					m.sandbox.ClearFault()
					m.do(logical.DeleteOperation, tokenKey, nil)
					m.read()
					assert.False(t, strings.Contains(storage.stored(t, tokenKey), "suspect"), "and of the next")
				})
			})
		}
	}
}

// In its buffer too, with stale_if_error, readers get a suspect token with the warning, and those
// who report it don't.
func TestSuspectTokenInItsBufferIsStale(t *testing.T) {
	for _, b := range buffered {
		for name, early := range map[string]bool{"reported before": true, "reported in its buffer": false} {
			for start, restarts := range map[string]bool{"": false, ", and a restart": true} {
				t.Run(fmt.Sprintf("%s of %s, %s%s", b.age, b.life, name, start), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := newConfiguredMount(t, "stale_if_error", true)
						m.sandbox.SetTokenLifetime(b.life)
						began := time.Now()
						token := m.readToken()
						if early {
							time.Sleep(b.life / 8)
							m.reportTo(faultMalformed, token)
						}
						time.Sleep(b.age - time.Since(began))
						if !early {
							m.reportTo(faultMalformed, token)
						}
						if restarts {
							m.restart()
						}
						for range 3 {
							m.assertSuspect(token, "a read")
							_, err := m.handle(t.Context(), logical.ReadOperation, "status", nil)
							require.NoError(t, err)
							m.refused(logical.UpdateOperation, tokenKey, pairs("rejected_token", token))
							m.refused(logical.UpdateOperation, tokenKey, nil)
							time.Sleep(time.Second)
						}
						m.sandbox.ClearFault()
						time.Sleep(2 * time.Minute)
						resp := m.read()
						assert.False(t, resp.Data["access_token"] == token)
						assert.Empty(t, resp.Warnings)
					})
				})
			}
		}
	}
}

// Standbys hear of it: each answer of theirs has the warning, or is the active node's.
func TestSuspectTokenReachesTheStandbys(t *testing.T) {
	for _, age := range []time.Duration{time.Minute, 52 * time.Minute} {
		for start, later := range map[string]bool{"told": false, "started later": true} {
			t.Run(fmt.Sprintf("%s, %s", age, start), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					token := m.readToken()
					standby := m.follower()
					assert.True(t, standby.readToken() == token)
					time.Sleep(age)
					m.reportTo(faultUnavailable, token)
					if later {
						standby = m.node(consts.ReplicationPerformanceStandby, readOnlyStorage{Storage: m.storage.Storage})
					}
					for range 3 {
						resp, err := standby.handle(t.Context(), logical.ReadOperation, tokenKey, nil)
						if err == logical.ErrReadOnly {
							continue
						}
						require.NoError(t, err)
						require.False(t, resp.IsError(), "%v", resp.Error())
						assert.Contains(t, strings.Join(resp.Warnings, "\n"), suspectWarning)
					}
					if later {
						return
					}
					m.sandbox.ClearFault()
					time.Sleep(2 * time.Minute)
					m.read()
					synctest.Wait()
					next := m.readToken()
					require.False(t, next == token)
					resp := standby.read()
					assert.True(t, resp.Data["access_token"] == next)
					assert.Empty(t, resp.Warnings)
				})
			})
		}
	}
}

// On a secondary, the suspicion is its own, and stored there.
func TestSuspectTokenOfASecondary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		good := m.readToken()
		secondary, _ := m.secondary()
		token := secondary.readToken()
		time.Sleep(time.Minute)
		secondary.reportTo(faultUnavailable, token)
		secondary.restart()
		secondary.assertSuspect(token, "the secondary")
		m.restart()
		resp := m.read()
		assert.True(t, resp.Data["access_token"] == good)
		assert.Empty(t, resp.Warnings)
	})
}

// No one waits long for a suspicion that can't be stored.
func TestSuspicionThatCannotBeStored(t *testing.T) {
	for name, spoil := range map[string]func(*faultyStorage){
		"fails": func(s *faultyStorage) { s.set("put", tokenKey, fails) },
		"hangs": func(s *faultyStorage) { s.hang("put", tokenKey, allCalls, false) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				token := m.readToken()
				time.Sleep(time.Minute)
				spoil(m.useFaultyStorage())
				m.sandbox.SetFault(faultMalformed)
				go m.timed(logical.UpdateOperation, tokenKey, pairs("rejected_token", token))
				time.Sleep(time.Second)
				for range 20 {
					m.serves(token, oneHang, "a reader")
					time.Sleep(time.Second)
				}
				m.assertSuspect(token, "afterwards")
			})
		})
	}
}

// A token that Fuuffy rejected and that was replaced doesn't come back, although its successor
// couldn't be saved.
func TestReplacedTokenDoesNotComeBack(t *testing.T) {
	faults := map[string]func(*faultyStorage){
		"fails":               func(s *faultyStorage) { s.set("put", tokenKey, fails) },
		"fails afterwards":    func(s *faultyStorage) { s.set("put", tokenKey, failsAfterwards) },
		"panics":              func(s *faultyStorage) { s.set("put", tokenKey, panicsWith("bug")) },
		"hangs":               func(s *faultyStorage) { s.hang("put", tokenKey, allCalls, false) },
		"hangs, then applied": func(s *faultyStorage) { s.hang("put", tokenKey, allCalls, true) },
	}
	for name, replace := range map[string]func(m *mount, token string){
		"report": func(m *mount, token string) {
			m.timed(logical.UpdateOperation, tokenKey, pairs("rejected_token", token))
		},
		"report of whichever is cached": func(m *mount, _ string) { m.timed(logical.UpdateOperation, tokenKey, nil) },
		"report in the window": func(m *mount, token string) {
			time.Sleep(51 * time.Minute)
			m.timed(logical.UpdateOperation, tokenKey, pairs("rejected_token", token))
		},
	} {
		for fault, spoil := range faults {
			t.Run(name+", the save "+fault, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					storage := m.useFaultyStorage()
					token := m.readToken()
					time.Sleep(time.Minute)
					spoil(storage)
					replace(m, token)
					synctest.Wait()
					storage.assertGone(t, m, token)
				})
			})
		}
	}
	for name, replace := range map[string]func(m *mount){
		"read":    func(m *mount) { m.read() },
		"check":   func(m *mount) { m.write("rotate-root/check") },
		"promote": func(m *mount) { m.promote() },
		"config":  func(m *mount) { m.write("config", "client_secret", testSecret) },
		"tick":    (*mount).tick,
	} {
		for fault, spoil := range faults {
			t.Run("suspect, "+name+", the save "+fault, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newRotatingMount(t, rotation.Staged)
					storage := m.useFaultyStorage()
					token := m.readToken()
					time.Sleep(time.Minute)
					m.reportTo(faultUnavailable, token)
					m.sandbox.ClearFault()
					time.Sleep(2 * time.Minute)
					spoil(storage)
					replace(m)
					time.Sleep(time.Minute)
					storage.assertGone(t, m, token)
				})
			})
		}
	}
}

// assertGone makes sure that a token was replaced, and comes back from nowhere.
func (s *faultyStorage) assertGone(t *testing.T, m *mount, token string) {
	t.Helper()
	next := m.readToken()
	require.False(t, next == token, "it is replaced")
	assert.False(t, strings.Contains(s.stored(t, tokenKey), token), "it is still stored")
	s.mend()
	standby := m.node(consts.ReplicationPerformanceStandby, readOnlyStorage{Storage: s})
	if resp, err := standby.handle(t.Context(), logical.ReadOperation, tokenKey, nil); err == nil && !resp.IsError() {
		assert.False(t, resp.Data["access_token"] == token, "it is back on a standby")
	}
	m.restart()
	assert.False(t, m.readToken() == token, "it is back after a restart")
}

// If the rejected token can't be removed either, the log says that it may come back.
func TestReplacedTokenThatCannotBeRemoved(t *testing.T) {
	for name, spoil := range map[string]func(*faultyStorage){
		"fails": func(s *faultyStorage) { s.set("delete", tokenKey, fails) },
		"hangs": func(s *faultyStorage) { s.hang("delete", tokenKey, allCalls, false) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				storage := m.useFaultyStorage()
				token := m.readToken()
				time.Sleep(time.Minute)
				storage.set("put", tokenKey, fails)
				spoil(storage)
				resp, took, err := m.timed(logical.UpdateOperation, tokenKey, pairs("rejected_token", token))
				require.NoError(t, err)
				assert.False(t, resp.Data["access_token"] == token)
				assert.LessOrEqual(t, took, oneHang)
				synctest.Wait()
				assert.Regexp(t, `\[(WARN|ERROR)\].*could not (remove|delete|erase) .*token`, m.log.String())
				assert.Zero(t, m.log.count(token))
			})
		})
	}
}

// A routine refresh whose token can't be saved leaves the stored one, which is good.
func TestGoodTokenStaysIfItsSuccessorIsNotSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		storage := m.useFaultyStorage()
		token := m.readToken()
		time.Sleep(51 * time.Minute)
		storage.set("put", tokenKey, fails)
		m.read()
		synctest.Wait()
		require.False(t, m.readToken() == token)
		assert.True(t, strings.Contains(storage.stored(t, tokenKey), token))
	})
}

// A token that was reported in its buffer is suspect too where no one gets it there. Once an
// operator has set stale_if_error, readers do.
func TestStaleIfErrorAfterAReport(t *testing.T) {
	for start, restarts := range map[string]bool{"no restart": false, "restart": true} {
		t.Run(start, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				token := m.readToken()
				time.Sleep(56 * time.Minute)
				m.reportTo(faultMalformed, token)
				m.write("config", "stale_if_error", true)
				m.restartIf(restarts)
				m.assertSuspect(token, "a reader")
			})
		})
	}
}

// Fuuffy repeats the very token that was reported. It stays suspect after a restart, and no one
// hammers Fuuffy for another.
func TestSuspectTokenThatIsRepeated(t *testing.T) {
	for start, restarts := range map[string]bool{"no restart": false, "restart": true} {
		t.Run(start, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, server := newMountOfARepeater(t, time.Hour)
				token := m.readToken()
				time.Sleep(10 * time.Minute)
				m.refused(logical.UpdateOperation, "token", pairs("rejected_token", token))
				if restarts {
					m.restart()
					m.transport = func(string) (http.RoundTripper, error) { return server, nil }
					m.b.InvalidateKey(t.Context(), configKey)
				}
				requests := server.count()
				for range 60 {
					m.assertSuspect(token, "a reader")
					m.refused(logical.UpdateOperation, "token", pairs("rejected_token", token))
					time.Sleep(10 * time.Second)
				}
				assert.LessOrEqual(t, server.count()-requests, 25, "requests in ten minutes")
			})
		})
	}
}

// An app reports a token while its successor, which a refresh brought, is being saved. That save
// fails. The reported token doesn't come back.
func TestReportDuringASaveThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		storage := m.useFaultyStorage()
		token := m.readToken()
		time.Sleep(51 * time.Minute)
		storage.set("put", tokenKey, func(func() error) error {
			time.Sleep(time.Second)
			return errStorage
		})
		m.serves(token, 0, "a read in the window")
		synctest.Wait() // The refresh saves its token.
		resp, _, err := m.timed(logical.UpdateOperation, tokenKey, pairs("rejected_token", token))
		require.NoError(t, err)
		require.False(t, resp.Data["access_token"] == token)
		synctest.Wait()
		storage.assertGone(t, m, token)
	})
}

// Storage is busy with something else while a report brings another token, which can't be saved
// afterwards either. The reported token doesn't come back.
func TestReportWhileStorageIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		storage := m.useFaultyStorage()
		token := m.readToken()
		time.Sleep(time.Minute)
		storage.set("put", tokenKey, fails)
		stuck := storage.hang("get", configKey, 2, false)
		for range 2 {
			go func() { _, _, _ = m.timed(logical.ReadOperation, configKey, nil) }()
			time.Sleep(100 * time.Millisecond)
		}
		resp, _, err := m.timed(logical.UpdateOperation, tokenKey, pairs("rejected_token", token))
		require.NoError(t, err)
		require.False(t, resp.Data["access_token"] == token)
		time.Sleep(twoHangs)
		require.Equal(t, 2, stuck.count())
		storage.assertGone(t, m, token)
	})
}

// The first read after a start that couldn't look for the stored token finds a suspect one. It is
// all that readers can have, so nobody waits for Fuuffy.
func TestSuspectTokenAfterAStartThatCannotReadIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		time.Sleep(time.Minute)
		m.reportTo(faultUnavailable, token)
		storage := m.useFaultyStorage()
		storage.set("get", tokenKey, failingOnce(1))
		m.restart()
		storage.mend()
		m.sandbox.SetFault(faultHang)
		m.serves(token, oneHang, "the first read")
	})
}

// Only standbys serve a token that its active node hears to be rejected. It stores that as soon as
// storage works again, although nobody has read the token there.
func TestSuspicionOfATokenThatOnlyStandbysServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.write("rotate-root/check")
		storage := m.useFaultyStorage()
		standby := m.follower()
		token := standby.readToken()
		time.Sleep(time.Minute)
		storage.set("put", tokenKey, failingOnce(1))
		m.reportTo(faultUnavailable, token)
		storage.mend()
		for range 3 {
			time.Sleep(time.Minute)
			m.tick()
			synctest.Wait()
		}
		assert.Contains(t, storage.stored(t, tokenKey), `"suspect":true`)
		resp, err := standby.handle(t.Context(), logical.ReadOperation, tokenKey, nil)
		if err == nil && resp.Data["access_token"] == token {
			assert.NotEmpty(t, resp.Warnings, "a standby serves it as if nothing was")
		}
	})
}

// A rejected token that couldn't be removed from storage, and that would live longer than its
// successor, doesn't come back without a restart.
func TestReplacedTokenThatOutlivesItsSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		storage := m.useFaultyStorage()
		token := m.readToken()
		time.Sleep(time.Minute)
		m.sandbox.SetTokenLifetime(2 * time.Minute)
		storage.set("put", tokenKey, fails)
		storage.set("delete", tokenKey, fails)
		m.write("token", "rejected_token", token)
		for range 20 {
			time.Sleep(10 * time.Second)
			if !assert.False(t, m.readToken() == token, "it is back") {
				return
			}
			synctest.Wait()
		}
	})
}

// A rejected token that could not be removed is removed later, although its successor was placed
// under another setting in the meantime.
func TestRemovalOutlivesASetting(t *testing.T) {
	for name, place := range map[string]func(*mount){
		"control":      func(*mount) {},
		"setting":      func(m *mount) { m.write("config", "rotation_reminder", "24h") },
		"invalidation": func(m *mount) { m.b.InvalidateKey(m.t.Context(), configKey); m.read() },
		"stage":        func(m *mount) { m.stage() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				storage := m.useFaultyStorage()
				token := m.readToken()
				time.Sleep(time.Minute)
				storage.set("put", tokenKey, fails)
				storage.set("delete", tokenKey, fails)
				resp := m.write("token", "rejected_token", token)
				require.False(t, resp.Data["access_token"] == token)
				place(m)
				storage.set("delete", tokenKey, nil)
				for range 2 {
					time.Sleep(time.Minute)
					m.tick()
					synctest.Wait()
				}
				m.restart()
				assert.False(t, m.readToken() == token, "the rejected token is back")
			})
		})
	}
}

// Two tokens were reported and replaced while neither could be removed. Neither comes back.
func TestTwoReplacedTokensThatOutliveTheirSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		storage := m.useFaultyStorage()
		first := m.readToken()
		time.Sleep(time.Minute)
		m.sandbox.SetTokenLifetime(2 * time.Minute)
		storage.set("put", tokenKey, fails)
		storage.set("delete", tokenKey, fails)
		second := m.write("token", "rejected_token", first).Data["access_token"].(string)
		time.Sleep(40 * time.Second)
		m.write("token", "rejected_token", second)
		for i := range 20 {
			time.Sleep(10 * time.Second)
			if !assert.False(t, m.readToken() == first, "the first is back after %d reads", i) {
				return
			}
			synctest.Wait()
		}
	})
}
