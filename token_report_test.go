// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Who reports a token is never answered with that token, at no age of it and whatever
// Fuuffy does: it is of no use to them.
func TestReportedTokenIsNeverTheAnswer(t *testing.T) {
	for name, age := range map[string]time.Duration{"fresh": 10 * time.Minute, "in its window": 52 * time.Minute, "in its buffer": 56 * time.Minute, "expired": 61 * time.Minute} {
		for _, staleIfError := range []bool{false, true} {
			for _, heldOff := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, stale_if_error %t, held off %t", name, staleIfError, heldOff), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := newConfiguredMount(t, "stale_if_error", staleIfError)
						token := m.readToken()
						time.Sleep(age)
						m.sandbox.SetFault(faultUnavailable)
						if heldOff {
							_, _ = m.handle(t.Context(), logical.ReadOperation, "token", nil)
							synctest.Wait()
						}
						for range 3 {
							resp, err := m.handle(t.Context(), logical.UpdateOperation, "token", pairs("rejected_token", token))
							if err == nil && !resp.IsError() {
								assert.False(t, resp.Data["access_token"] == token, "the answer is the token that was reported")
							}
							time.Sleep(time.Second)
						}

						m.sandbox.ClearFault()
						time.Sleep(2 * time.Minute)
						resp := m.do(logical.UpdateOperation, "token", pairs("rejected_token", token))
						assert.False(t, resp.Data["access_token"] == token, "Fuuffy issues tokens again")
					})
				})
			}
		}
	}
}

// A token is replaced from the thirtieth second on.
func TestReportAtTheReplaceAge(t *testing.T) {
	for age, replaced := range map[time.Duration]bool{30*time.Second - 1: false, 30 * time.Second: true} {
		t.Run(age.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				token := m.readToken()
				time.Sleep(age)
				resp := m.write("token", "rejected_token", token)
				assert.Equal(t, replaced, resp.Data["access_token"] != token)
			})
		})
	}
}

// newSuspectMount returns an engine whose token was reported while Fuuffy issued no other.
func newSuspectMount(t *testing.T) *mount {
	t.Helper()
	m := newConfiguredMount(t)
	token := m.readToken()
	time.Sleep(time.Minute)
	m.sandbox.SetFault(faultMalformed)
	m.refused(logical.UpdateOperation, "token", pairs("rejected_token", token))
	m.sandbox.ClearFault()
	return m
}

// Other credentials have no suspect token.
func TestSuspectTokenOfFormerCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSuspectMount(t)
		m.sandbox.CreateClient(newClientID, newSecret)
		m.write("config", "client_id", newClientID, "client_secret", newSecret, "verify_connection", false)
		assert.Empty(t, m.read().Warnings)
	})
}

// Any other token is better than a suspect one, also one that expires earlier.
func TestSuspectTokenIsReplacedByWhatTestsBring(t *testing.T) {
	for name, act := range map[string]func(*mount){
		"check": func(m *mount) { m.write("rotate-root/check") },
		"config": func(m *mount) {
			m.write("config", "client_id", testClientID, "client_secret", testSecret, "base_url", "https://api-gateway.fuuffy.com/v1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newSuspectMount(t)
				m.sandbox.SetTokenLifetime(20 * time.Minute)
				before := m.requests()
				act(m)
				synctest.Wait()
				require.Equal(t, before+1, m.requests())
				assert.Empty(t, m.read().Warnings)
				assert.Equal(t, before+1, m.requests())
			})
		})
	}
}

// A suspect token is served because there is no other, but not in its buffer.
func TestSuspectTokenInItsBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSuspectMount(t)
		m.sandbox.SetFault(faultMalformed)
		time.Sleep(53 * time.Minute)
		assert.NotEmpty(t, m.read().Warnings)
		time.Sleep(time.Minute)
		m.refusedToken()
	})
}

// A report that names no token means the one that the node would serve, although it is only in
// storage yet.
func TestReportOfATokenThatIsOnlyStored(t *testing.T) {
	for name, prepare := range map[string]func(*mount, *faultyStorage){
		"restart that could not read it": func(m *mount, s *faultyStorage) {
			s.set("get", tokenKey, failingOnce(1))
			m.restart()
			s.mend()
		},
		"restart that could not load the config": func(m *mount, s *faultyStorage) {
			s.set("get", configKey, failingOnce(1))
			m.restart()
			s.mend()
		},
		"standby that became active": func(m *mount, _ *faultyStorage) { m.b.InvalidateKey(m.t.Context(), tokenKey) },
		"control: restart":           func(m *mount, _ *faultyStorage) { m.restart() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				token := m.readToken()
				storage := m.useFaultyStorage()
				time.Sleep(time.Minute)
				prepare(m, storage)
				resp := m.write("token")
				assert.False(t, resp.Data["access_token"] == token, "the reported token is the answer")
			})
		})
	}
}

// A report names a token that the node lost from memory and can't look for. It counts: the token
// doesn't come back from storage as if nothing was.
func TestReportOfATokenThatCannotBeRead(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*mount, *faultyStorage)
		after func(*mount)
	}{
		"its successor is not saved": {func(_ *mount, s *faultyStorage) { s.set("put", tokenKey, fails) }, (*mount).restart},
		"Fuuffy issues none":         {func(m *mount, _ *faultyStorage) { m.sandbox.SetFault(faultUnavailable) }, func(*mount) { time.Sleep(time.Minute) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				token := m.readToken()
				time.Sleep(time.Minute)
				storage := m.useFaultyStorage()
				storage.set("get", tokenKey, fails)
				m.restart()
				tt.spoil(m, storage)
				_, _, _ = m.timed(logical.UpdateOperation, tokenKey, pairs("rejected_token", token))
				storage.mend()
				tt.after(m)
				resp := m.read()
				if resp.Data["access_token"] == token {
					assert.Contains(t, strings.Join(resp.Warnings, "\n"), suspectWarning, "it is back")
				}
			})
		})
	}
}

// While storage can't be read, an app reports the token that lies in it. What others report
// doesn't make up for that.
func TestReportOfAnUnreadableTokenOutlivesOthers(t *testing.T) {
	for name, others := range map[string]func(*mount){
		"control":  func(*mount) {},
		"no token": func(m *mount) { m.refused(logical.UpdateOperation, tokenKey, nil) },
		"another":  func(m *mount) { m.refused(logical.UpdateOperation, tokenKey, pairs("rejected_token", "an-older-one")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				token := m.readToken()
				time.Sleep(time.Minute)
				storage := m.useFaultyStorage()
				storage.set("get", tokenKey, fails)
				m.restart()
				m.reportTo(faultUnavailable, token)
				others(m)
				storage.mend()
				m.assertSuspect(token, "once storage works")
			})
		})
	}
}

// A report that names no token means the one that readers get, which another reader is just
// looking for.
func TestReportOfWhicheverTokenDuringALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		time.Sleep(time.Minute)
		storage := m.useFaultyStorage()
		storage.set("get", tokenKey, failingOnce(1))
		m.restart()
		storage.set("get", tokenKey, slowly(2*time.Second))
		read := make(chan struct{})
		go func() {
			defer close(read)
			m.gets(oneHang, "a reader")
		}()
		time.Sleep(time.Second)
		resp := m.write("token")
		assert.False(t, resp.Data["access_token"] == token, "the rejected token is the response")
		<-read
	})
}

// An app reports the token in storage, but another one is cached, which could not be saved. The
// reported one doesn't come back when that lapses, nor after a restart.
func TestReportOfAStoredTokenThatIsNotCached(t *testing.T) {
	for name, comeBack := range map[string]func(*mount){
		"the other lapses": func(*mount) { time.Sleep(3 * time.Minute) },
		"restart":          func(m *mount) { time.Sleep(time.Minute); m.tick(); m.restart() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				token := m.readToken()
				time.Sleep(time.Minute)
				m.sandbox.SetTokenLifetime(2 * time.Minute)
				storage := m.useFaultyStorage()
				storage.set("get", tokenKey, fails)
				storage.set("put", tokenKey, fails)
				m.restart()
				require.False(t, m.readToken() == token)
				storage.set("get", tokenKey, nil)
				resp := m.write("token", "rejected_token", token)
				require.False(t, resp.Data["access_token"] == token)
				comeBack(m)
				resp = m.gets(attempts, "a reader")
				require.NotNil(t, resp)
				assert.False(t, resp.Data["access_token"] == token && len(resp.Warnings) == 0, "the reported token is back, as if nothing was")
			})
		})
	}
}
