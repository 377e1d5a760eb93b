// SPDX-License-Identifier: MPL-2.0

package scenarios

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
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// suspectWarning is what readers of a suspect token are told.
const suspectWarning = "An app reported that Fuuffy rejected this token"

// reportFaults are what reports meet when they fail.
var reportFaults = map[string]fuuffytest.Fault{
	"unavailable": mounttest.FaultUnavailable, "malformed": mounttest.FaultMalformed, "rejected": mounttest.FaultRejected, "rate limited": mounttest.FaultRateLimited, "hangs": mounttest.FaultHang,
}

// reportTo has an app report a token in vain.
func reportTo(m *mounttest.Mount, fault fuuffytest.Fault, token string) {
	m.T.Helper()
	m.Sandbox.SetFault(fault)
	m.Refused(logical.UpdateOperation, mounttest.TokenKey, mounttest.Pairs("rejected_token", token))
	synctest.Wait()
}

// assertSuspect reads the suspect token with its warning.
func assertSuspect(m *mounttest.Mount, token, why string) {
	m.T.Helper()
	resp := m.Gets(attempts, why)
	if resp == nil {
		return
	}
	assert.True(m.T, resp.Data["access_token"] == token, "%s: another token", why)
	assert.Contains(m.T, strings.Join(resp.Warnings, "\n"), suspectWarning, why)
	assert.LessOrEqual(m.T, resp.Data["ttl"], int64(60), "%s: readers come back soon", why)
}

// A token that was reported in vain is suspect after a restart too: readers are warned, and the
// first of them has Fuuffy asked for another.
func TestSuspectTokenAfterARestart(t *testing.T) {
	for fault, f := range reportFaults {
		for _, life := range []time.Duration{time.Hour, time.Minute} {
			for start, restart := range map[string]func(*mounttest.Mount){
				"restart":           (*mounttest.Mount).Restart,
				"two restarts":      func(m *mounttest.Mount) { m.Restart(); m.Restart() },
				"failover":          func(m *mounttest.Mount) { m.Failover(time.Second) },
				"setting, restart":  func(m *mounttest.Mount) { m.Write("config", "rotation_reminder", "24h"); m.Restart() },
				"no start: control": func(*mounttest.Mount) {},
			} {
				if life == time.Minute && fault == "hangs" {
					continue // It expires before the report has failed.
				}
				t.Run(fmt.Sprintf("%s, %s, %s", fault, life, start), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := mounttest.NewConfigured(t)
						m.Sandbox.SetTokenLifetime(life)
						token := m.ReadToken()
						time.Sleep(life / 8)
						reportTo(m, f, token)
						if life == time.Hour {
							time.Sleep(15 * time.Minute) // The hold-off.
						}
						restart(m)
						requests := m.Requests()
						assertSuspect(m, token, "the first read")
						synctest.Wait()
						if start != "no start: control" || life == time.Hour {
							assert.Greater(t, m.Requests(), requests, "another is asked for")
						}
						assert.Equal(t, "suspect", m.Status()["token_state"])
						assert.EqualValues(t, 1, m.Metric("fuuffy_token_suspect"))
					})
				})
			}
		}
	}
}

// Once Fuuffy works, the suspect token is replaced for good.
func TestSuspectTokenIsReplacedAfterARestart(t *testing.T) {
	for name, replace := range map[string]func(*mounttest.Mount){
		"by a read":       func(m *mounttest.Mount) { m.Read() },
		"by PeriodicFunc": (*mounttest.Mount).Tick,
		"by a check":      func(m *mounttest.Mount) { m.Write("rotate-root/check") },
		"by a report":     func(m *mounttest.Mount) { m.Write("token") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				time.Sleep(time.Minute)
				reportTo(m, mounttest.FaultUnavailable, token)
				m.Restart()
				m.Sandbox.ClearFault()
				m.Events.Take()
				requests := m.Requests()
				replace(m)
				synctest.Wait()
				assert.Equal(t, requests+1, m.Requests())
				assert.Equal(t, []string{"replace"}, mounttest.NewOperator(t).Updates(t, m.Events.Take()), "apps hold a dead token")
				for range 2 {
					resp := m.Read()
					assert.False(t, resp.Data["access_token"] == token)
					assert.Empty(t, resp.Warnings)
					m.Restart()
				}
				assert.Equal(t, requests+1, m.Requests())
			})
		})
	}
}

// What makes a token suspect, in each of its states, is stored with it.
func TestSuspicionIsStored(t *testing.T) {
	const mark = `"suspect":true`
	for name, report := range map[string]func(m *mounttest.Mount, token string){
		"fresh": func(m *mounttest.Mount, token string) {
			time.Sleep(time.Minute)
			reportTo(m, mounttest.FaultUnavailable, token)
		},
		"in its window": func(m *mounttest.Mount, token string) {
			time.Sleep(52 * time.Minute)
			reportTo(m, mounttest.FaultUnavailable, token)
		},
		"in its buffer": func(m *mounttest.Mount, token string) {
			time.Sleep(56 * time.Minute)
			reportTo(m, mounttest.FaultUnavailable, token)
		},
		"without a token named": func(m *mounttest.Mount, _ string) {
			time.Sleep(time.Minute)
			m.Sandbox.SetFault(mounttest.FaultUnavailable)
			m.Refused(logical.UpdateOperation, mounttest.TokenKey, nil)
		},
		"during a hold-off": func(m *mounttest.Mount, token string) {
			time.Sleep(52 * time.Minute)
			m.Sandbox.SetFault(mounttest.FaultRateLimited)
			m.Read()
			synctest.Wait()
			reportTo(m, mounttest.FaultRateLimited, token)
		},
		"while a refresh is under way": func(m *mounttest.Mount, token string) {
			time.Sleep(52 * time.Minute)
			m.Sandbox.SetFault(mounttest.FaultHang)
			m.Read()
			synctest.Wait()
			reportTo(m, mounttest.FaultHang, token)
		},
		"the second of two": func(m *mounttest.Mount, token string) {
			time.Sleep(time.Minute)
			reportTo(m, mounttest.FaultUnavailable, token)
			time.Sleep(2 * time.Minute)
			reportTo(m, mounttest.FaultUnavailable, token)
		},
	} {
		for _, staleIfError := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stale_if_error %t", name, staleIfError), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t, "stale_if_error", staleIfError)
					storage := m.UseFaultyStorage()
					token := m.ReadToken()
					assert.False(t, strings.Contains(storage.Stored(t, mounttest.TokenKey), "suspect"), "left out of a good token")
					report(m, token)
					synctest.Wait()
					stored := storage.Stored(t, mounttest.TokenKey)
					assert.True(t, strings.Contains(stored, mark) && strings.Contains(stored, token))

					m.Sandbox.ClearFault()
					m.Do(logical.DeleteOperation, mounttest.TokenKey, nil)
					m.Read()
					assert.False(t, strings.Contains(storage.Stored(t, mounttest.TokenKey), "suspect"), "and of the next")
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
						m := mounttest.NewConfigured(t, "stale_if_error", true)
						m.Sandbox.SetTokenLifetime(b.life)
						began := time.Now()
						token := m.ReadToken()
						if early {
							time.Sleep(b.life / 8)
							reportTo(m, mounttest.FaultMalformed, token)
						}
						time.Sleep(b.age - time.Since(began))
						if !early {
							reportTo(m, mounttest.FaultMalformed, token)
						}
						if restarts {
							m.Restart()
						}
						for range 3 {
							assertSuspect(m, token, "a read")
							_, err := m.Handle(t.Context(), logical.ReadOperation, "status", nil)
							require.NoError(t, err)
							m.Refused(logical.UpdateOperation, mounttest.TokenKey, mounttest.Pairs("rejected_token", token))
							m.Refused(logical.UpdateOperation, mounttest.TokenKey, nil)
							time.Sleep(time.Second)
						}
						m.Sandbox.ClearFault()
						time.Sleep(2 * time.Minute)
						resp := m.Read()
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
					m := mounttest.NewConfigured(t)
					token := m.ReadToken()
					standby := m.Follower()
					assert.True(t, standby.ReadToken() == token)
					time.Sleep(age)
					reportTo(m, mounttest.FaultUnavailable, token)
					if later {
						standby = m.Node(consts.ReplicationPerformanceStandby, mounttest.ReadOnlyStorage{Storage: m.Storage.Storage})
					}
					for range 3 {
						resp, err := standby.Handle(t.Context(), logical.ReadOperation, mounttest.TokenKey, nil)
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
					m.Sandbox.ClearFault()
					time.Sleep(2 * time.Minute)
					m.Read()
					synctest.Wait()
					next := m.ReadToken()
					require.False(t, next == token)
					resp := standby.Read()
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
		m := mounttest.NewConfigured(t)
		good := m.ReadToken()
		secondary, _ := m.Secondary()
		token := secondary.ReadToken()
		time.Sleep(time.Minute)
		reportTo(secondary, mounttest.FaultUnavailable, token)
		secondary.Restart()
		assertSuspect(secondary, token, "the secondary")
		m.Restart()
		resp := m.Read()
		assert.True(t, resp.Data["access_token"] == good)
		assert.Empty(t, resp.Warnings)
	})
}

// No one waits long for a suspicion that can't be stored.
func TestSuspicionThatCannotBeStored(t *testing.T) {
	for name, spoil := range map[string]func(*mounttest.FaultyStorage){
		"fails": func(s *mounttest.FaultyStorage) { s.Set("put", mounttest.TokenKey, mounttest.Fails) },
		"hangs": func(s *mounttest.FaultyStorage) { s.Hang("put", mounttest.TokenKey, mounttest.AllCalls, false) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				time.Sleep(time.Minute)
				spoil(m.UseFaultyStorage())
				m.Sandbox.SetFault(mounttest.FaultMalformed)
				go m.Timed(logical.UpdateOperation, mounttest.TokenKey, mounttest.Pairs("rejected_token", token))
				time.Sleep(time.Second)
				for range 20 {
					m.Serves(token, oneHang, "a reader")
					time.Sleep(time.Second)
				}
				assertSuspect(m, token, "afterwards")
			})
		})
	}
}

// A token that Fuuffy rejected and that was replaced doesn't come back, although its successor
// couldn't be saved.
func TestReplacedTokenDoesNotComeBack(t *testing.T) {
	faults := map[string]func(*mounttest.FaultyStorage){
		"fails":               func(s *mounttest.FaultyStorage) { s.Set("put", mounttest.TokenKey, mounttest.Fails) },
		"fails afterwards":    func(s *mounttest.FaultyStorage) { s.Set("put", mounttest.TokenKey, mounttest.FailsAfterwards) },
		"panics":              func(s *mounttest.FaultyStorage) { s.Set("put", mounttest.TokenKey, mounttest.PanicsWith("bug")) },
		"hangs":               func(s *mounttest.FaultyStorage) { s.Hang("put", mounttest.TokenKey, mounttest.AllCalls, false) },
		"hangs, then applied": func(s *mounttest.FaultyStorage) { s.Hang("put", mounttest.TokenKey, mounttest.AllCalls, true) },
	}
	for name, replace := range map[string]func(m *mounttest.Mount, token string){
		"report": func(m *mounttest.Mount, token string) {
			m.Timed(logical.UpdateOperation, mounttest.TokenKey, mounttest.Pairs("rejected_token", token))
		},
		"report of whichever is cached": func(m *mounttest.Mount, _ string) { m.Timed(logical.UpdateOperation, mounttest.TokenKey, nil) },
		"report in the window": func(m *mounttest.Mount, token string) {
			time.Sleep(51 * time.Minute)
			m.Timed(logical.UpdateOperation, mounttest.TokenKey, mounttest.Pairs("rejected_token", token))
		},
	} {
		for fault, spoil := range faults {
			t.Run(name+", the save "+fault, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					storage := m.UseFaultyStorage()
					token := m.ReadToken()
					time.Sleep(time.Minute)
					spoil(storage)
					replace(m, token)
					synctest.Wait()
					storage.AssertGone(t, m, token)
				})
			})
		}
	}
	for name, replace := range map[string]func(m *mounttest.Mount){
		"read":    func(m *mounttest.Mount) { m.Read() },
		"check":   func(m *mounttest.Mount) { m.Write("rotate-root/check") },
		"promote": func(m *mounttest.Mount) { m.Promote() },
		"config":  func(m *mounttest.Mount) { m.Write("config", "client_secret", mounttest.Secret) },
		"tick":    (*mounttest.Mount).Tick,
	} {
		for fault, spoil := range faults {
			t.Run("suspect, "+name+", the save "+fault, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewRotating(t, rotation.Staged)
					storage := m.UseFaultyStorage()
					token := m.ReadToken()
					time.Sleep(time.Minute)
					reportTo(m, mounttest.FaultUnavailable, token)
					m.Sandbox.ClearFault()
					time.Sleep(2 * time.Minute)
					spoil(storage)
					replace(m)
					time.Sleep(time.Minute)
					storage.AssertGone(t, m, token)
				})
			})
		}
	}
}

// If the rejected token can't be removed either, the log says that it may come back.
func TestReplacedTokenThatCannotBeRemoved(t *testing.T) {
	for name, spoil := range map[string]func(*mounttest.FaultyStorage){
		"fails": func(s *mounttest.FaultyStorage) { s.Set("delete", mounttest.TokenKey, mounttest.Fails) },
		"hangs": func(s *mounttest.FaultyStorage) { s.Hang("delete", mounttest.TokenKey, mounttest.AllCalls, false) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				storage := m.UseFaultyStorage()
				token := m.ReadToken()
				time.Sleep(time.Minute)
				storage.Set("put", mounttest.TokenKey, mounttest.Fails)
				spoil(storage)
				resp, took, err := m.Timed(logical.UpdateOperation, mounttest.TokenKey, mounttest.Pairs("rejected_token", token))
				require.NoError(t, err)
				assert.False(t, resp.Data["access_token"] == token)
				assert.LessOrEqual(t, took, oneHang)
				synctest.Wait()
				assert.Regexp(t, `\[(WARN|ERROR)\].*could not (remove|delete|erase) .*token`, m.Log.String())
				assert.Zero(t, m.Log.Count(token))
			})
		})
	}
}

// A routine refresh whose token can't be saved leaves the stored one, which is good.
func TestGoodTokenStaysIfItsSuccessorIsNotSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		storage := m.UseFaultyStorage()
		token := m.ReadToken()
		time.Sleep(51 * time.Minute)
		storage.Set("put", mounttest.TokenKey, mounttest.Fails)
		m.Read()
		synctest.Wait()
		require.False(t, m.ReadToken() == token)
		assert.True(t, strings.Contains(storage.Stored(t, mounttest.TokenKey), token))
	})
}

// A token that was reported in its buffer is suspect too where no one gets it there. Once an
// operator has set stale_if_error, readers do.
func TestStaleIfErrorAfterAReport(t *testing.T) {
	for start, restarts := range map[string]bool{"no restart": false, "restart": true} {
		t.Run(start, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				time.Sleep(56 * time.Minute)
				reportTo(m, mounttest.FaultMalformed, token)
				m.Write("config", "stale_if_error", true)
				restartIf(m, restarts)
				assertSuspect(m, token, "a reader")
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
				token := m.ReadToken()
				time.Sleep(10 * time.Minute)
				m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", token))
				if restarts {
					m.Restart()
					m.Transport = func(string) (http.RoundTripper, error) { return server, nil }
					m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
				}
				requests := server.count()
				for range 60 {
					assertSuspect(m, token, "a reader")
					m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", token))
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
		m := mounttest.NewConfigured(t)
		storage := m.UseFaultyStorage()
		token := m.ReadToken()
		time.Sleep(51 * time.Minute)
		storage.Set("put", mounttest.TokenKey, func(func() error) error {
			time.Sleep(time.Second)
			return mounttest.ErrStorage
		})
		m.Serves(token, 0, "a read in the window")
		synctest.Wait() // The refresh saves its token.
		resp, _, err := m.Timed(logical.UpdateOperation, mounttest.TokenKey, mounttest.Pairs("rejected_token", token))
		require.NoError(t, err)
		require.False(t, resp.Data["access_token"] == token)
		synctest.Wait()
		storage.AssertGone(t, m, token)
	})
}

// Storage is busy with something else while a report brings another token, which can't be saved
// afterwards either. The reported token doesn't come back.
func TestReportWhileStorageIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		storage := m.UseFaultyStorage()
		token := m.ReadToken()
		time.Sleep(time.Minute)
		storage.Set("put", mounttest.TokenKey, mounttest.Fails)
		stuck := storage.Hang("get", mounttest.ConfigKey, 2, false)
		for range 2 {
			go func() { _, _, _ = m.Timed(logical.ReadOperation, mounttest.ConfigKey, nil) }()
			time.Sleep(100 * time.Millisecond)
		}
		resp, _, err := m.Timed(logical.UpdateOperation, mounttest.TokenKey, mounttest.Pairs("rejected_token", token))
		require.NoError(t, err)
		require.False(t, resp.Data["access_token"] == token)
		time.Sleep(twoHangs)
		require.Equal(t, 2, stuck.Count())
		storage.AssertGone(t, m, token)
	})
}

// The first read after a start that couldn't look for the stored token finds a suspect one. It is
// all that readers can have, so nobody waits for Fuuffy.
func TestSuspectTokenAfterAStartThatCannotReadIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		time.Sleep(time.Minute)
		reportTo(m, mounttest.FaultUnavailable, token)
		storage := m.UseFaultyStorage()
		storage.Set("get", mounttest.TokenKey, failingOnce(1))
		m.Restart()
		storage.Mend()
		m.Sandbox.SetFault(mounttest.FaultHang)
		m.Serves(token, oneHang, "the first read")
	})
}

// Only standbys serve a token that its active node hears to be rejected. It stores that as soon as
// storage works again, although nobody has read the token there.
func TestSuspicionOfATokenThatOnlyStandbysServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Write("rotate-root/check")
		storage := m.UseFaultyStorage()
		standby := m.Follower()
		token := standby.ReadToken()
		time.Sleep(time.Minute)
		storage.Set("put", mounttest.TokenKey, failingOnce(1))
		reportTo(m, mounttest.FaultUnavailable, token)
		storage.Mend()
		for range 3 {
			time.Sleep(time.Minute)
			m.Tick()
			synctest.Wait()
		}
		assert.Contains(t, storage.Stored(t, mounttest.TokenKey), `"suspect":true`)
		resp, err := standby.Handle(t.Context(), logical.ReadOperation, mounttest.TokenKey, nil)
		if err == nil && resp.Data["access_token"] == token {
			assert.NotEmpty(t, resp.Warnings, "a standby serves it as if nothing was")
		}
	})
}

// A rejected token that couldn't be removed from storage, and that would live longer than its
// successor, doesn't come back without a restart.
func TestReplacedTokenThatOutlivesItsSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		storage := m.UseFaultyStorage()
		token := m.ReadToken()
		time.Sleep(time.Minute)
		m.Sandbox.SetTokenLifetime(2 * time.Minute)
		storage.Set("put", mounttest.TokenKey, mounttest.Fails)
		storage.Set("delete", mounttest.TokenKey, mounttest.Fails)
		m.Write("token", "rejected_token", token)
		for range 20 {
			time.Sleep(10 * time.Second)
			if !assert.False(t, m.ReadToken() == token, "it is back") {
				return
			}
			synctest.Wait()
		}
	})
}

// A rejected token that could not be removed is removed later, although its successor was placed
// under another setting in the meantime.
func TestRemovalOutlivesASetting(t *testing.T) {
	for name, place := range map[string]func(*mounttest.Mount){
		"control":      func(*mounttest.Mount) {},
		"setting":      func(m *mounttest.Mount) { m.Write("config", "rotation_reminder", "24h") },
		"invalidation": func(m *mounttest.Mount) { m.Backend.InvalidateKey(m.T.Context(), mounttest.ConfigKey); m.Read() },
		"stage":        func(m *mounttest.Mount) { m.Stage() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				storage := m.UseFaultyStorage()
				token := m.ReadToken()
				time.Sleep(time.Minute)
				storage.Set("put", mounttest.TokenKey, mounttest.Fails)
				storage.Set("delete", mounttest.TokenKey, mounttest.Fails)
				resp := m.Write("token", "rejected_token", token)
				require.False(t, resp.Data["access_token"] == token)
				place(m)
				storage.Set("delete", mounttest.TokenKey, nil)
				for range 2 {
					time.Sleep(time.Minute)
					m.Tick()
					synctest.Wait()
				}
				m.Restart()
				assert.False(t, m.ReadToken() == token, "the rejected token is back")
			})
		})
	}
}

// Two tokens were reported and replaced while neither could be removed. Neither comes back.
func TestTwoReplacedTokensThatOutliveTheirSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		storage := m.UseFaultyStorage()
		first := m.ReadToken()
		time.Sleep(time.Minute)
		m.Sandbox.SetTokenLifetime(2 * time.Minute)
		storage.Set("put", mounttest.TokenKey, mounttest.Fails)
		storage.Set("delete", mounttest.TokenKey, mounttest.Fails)
		second := m.Write("token", "rejected_token", first).Data["access_token"].(string)
		time.Sleep(40 * time.Second)
		m.Write("token", "rejected_token", second)
		for i := range 20 {
			time.Sleep(10 * time.Second)
			if !assert.False(t, m.ReadToken() == first, "the first is back after %d reads", i) {
				return
			}
			synctest.Wait()
		}
	})
}

// A reported token that Fuuffy could not replace is served for want of another, and
// replaced as soon as Fuuffy answers.
func TestSuspectToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		time.Sleep(time.Minute)
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", token))
		resp := m.Read()
		assert.Equal(t, token, resp.Data["access_token"])
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "reported that Fuuffy rejected this token")
		assert.LessOrEqual(t, resp.Data["ttl"], int64(60))
		assert.Equal(t, "suspect", m.Status()["token_state"])
		assert.Equal(t, 1.0, m.Metric("fuuffy_token_suspect"))

		m.Sandbox.ClearFault()
		time.Sleep(time.Minute)
		m.Tick()
		synctest.Wait()
		resp = m.Read()
		assert.NotEqual(t, token, resp.Data["access_token"])
		assert.Empty(t, resp.Warnings)
		assert.Equal(t, 0.0, m.Metric("fuuffy_token_suspect"))
	})
}
