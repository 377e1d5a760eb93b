// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// Who reports a token is never answered with that token, at no age of it and whatever
// Fuuffy does: it is of no use to them.
func TestReportedTokenIsNeverTheAnswer(t *testing.T) {
	for name, age := range map[string]time.Duration{"fresh": 10 * time.Minute, "in its window": 52 * time.Minute, "in its buffer": 56 * time.Minute, "expired": 61 * time.Minute} {
		for _, staleIfError := range []bool{false, true} {
			for _, heldOff := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, stale_if_error %t, held off %t", name, staleIfError, heldOff), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := mounttest.NewConfigured(t, "stale_if_error", staleIfError)
						token := m.ReadToken()
						time.Sleep(age)
						m.Sandbox.SetFault(mounttest.FaultUnavailable)
						if heldOff {
							_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
							synctest.Wait()
						}
						for range 3 {
							resp, err := m.Handle(t.Context(), logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", token))
							if err == nil && !resp.IsError() {
								assert.False(t, resp.Data["access_token"] == token, "the answer is the token that was reported")
							}
							time.Sleep(time.Second)
						}

						m.Sandbox.ClearFault()
						time.Sleep(2 * time.Minute)
						resp := m.Do(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", token))
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
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				time.Sleep(age)
				resp := m.Write("token", "rejected_token", token)
				assert.Equal(t, replaced, resp.Data["access_token"] != token)
			})
		})
	}
}

// newSuspectMount returns an engine whose token was reported while Fuuffy issued no other.
func newSuspectMount(t *testing.T) *mounttest.Mount {
	t.Helper()
	m := mounttest.NewConfigured(t)
	token := m.ReadToken()
	time.Sleep(time.Minute)
	m.Sandbox.SetFault(mounttest.FaultMalformed)
	m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", token))
	m.Sandbox.ClearFault()
	return m
}

// Other credentials have no suspect token.
func TestSuspectTokenOfFormerCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSuspectMount(t)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "verify_connection", false)
		assert.Empty(t, m.Read().Warnings)
	})
}

// Any other token is better than a suspect one, also one that expires earlier.
func TestSuspectTokenIsReplacedByWhatTestsBring(t *testing.T) {
	for name, act := range map[string]func(*mounttest.Mount){
		"check": func(m *mounttest.Mount) { m.Write("rotate-root/check") },
		"config": func(m *mounttest.Mount) {
			m.Write("config", "client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "base_url", "https://api-gateway.fuuffy.com/v1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newSuspectMount(t)
				m.Sandbox.SetTokenLifetime(20 * time.Minute)
				before := m.Requests()
				act(m)
				synctest.Wait()
				require.Equal(t, before+1, m.Requests())
				assert.Empty(t, m.Read().Warnings)
				assert.Equal(t, before+1, m.Requests())
			})
		})
	}
}

// A suspect token is served because there is no other, but not in its buffer.
func TestSuspectTokenInItsBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSuspectMount(t)
		m.Sandbox.SetFault(mounttest.FaultMalformed)
		time.Sleep(53 * time.Minute)
		assert.NotEmpty(t, m.Read().Warnings)
		time.Sleep(time.Minute)
		refusedToken(m)
	})
}

// A report that names no token means the one that the node would serve, although it is only in
// storage yet.
func TestReportOfATokenThatIsOnlyStored(t *testing.T) {
	for name, prepare := range map[string]func(*mounttest.Mount, *mounttest.FaultyStorage){
		"restart that could not read it": func(m *mounttest.Mount, s *mounttest.FaultyStorage) {
			s.Set("get", mounttest.TokenKey, failingOnce(1))
			m.Restart()
			s.Mend()
		},
		"restart that could not load the config": func(m *mounttest.Mount, s *mounttest.FaultyStorage) {
			s.Set("get", mounttest.ConfigKey, failingOnce(1))
			m.Restart()
			s.Mend()
		},
		"standby that became active": func(m *mounttest.Mount, _ *mounttest.FaultyStorage) {
			m.Backend.InvalidateKey(m.T.Context(), mounttest.TokenKey)
		},
		"control: restart": func(m *mounttest.Mount, _ *mounttest.FaultyStorage) { m.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				storage := m.UseFaultyStorage()
				time.Sleep(time.Minute)
				prepare(m, storage)
				resp := m.Write("token")
				assert.False(t, resp.Data["access_token"] == token, "the reported token is the answer")
			})
		})
	}
}

// A report names a token that the node lost from memory and can't look for. It counts: the token
// doesn't come back from storage as if nothing was.
func TestReportOfATokenThatCannotBeRead(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*mounttest.Mount, *mounttest.FaultyStorage)
		after func(*mounttest.Mount)
	}{
		"its successor is not saved": {func(_ *mounttest.Mount, s *mounttest.FaultyStorage) {
			s.Set("put", mounttest.TokenKey, mounttest.Fails)
		}, (*mounttest.Mount).Restart},
		"Fuuffy issues none": {func(m *mounttest.Mount, _ *mounttest.FaultyStorage) { m.Sandbox.SetFault(mounttest.FaultUnavailable) }, func(*mounttest.Mount) { time.Sleep(time.Minute) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				time.Sleep(time.Minute)
				storage := m.UseFaultyStorage()
				storage.Set("get", mounttest.TokenKey, mounttest.Fails)
				m.Restart()
				tt.spoil(m, storage)
				_, _, _ = m.Timed(logical.UpdateOperation, mounttest.TokenKey, mounttest.Pairs("rejected_token", token))
				storage.Mend()
				tt.after(m)
				resp := m.Read()
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
	for name, others := range map[string]func(*mounttest.Mount){
		"control":  func(*mounttest.Mount) {},
		"no token": func(m *mounttest.Mount) { m.Refused(logical.UpdateOperation, mounttest.TokenKey, nil) },
		"another": func(m *mounttest.Mount) {
			m.Refused(logical.UpdateOperation, mounttest.TokenKey, mounttest.Pairs("rejected_token", "an-older-one"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				time.Sleep(time.Minute)
				storage := m.UseFaultyStorage()
				storage.Set("get", mounttest.TokenKey, mounttest.Fails)
				m.Restart()
				reportTo(m, mounttest.FaultUnavailable, token)
				others(m)
				storage.Mend()
				assertSuspect(m, token, "once storage works")
			})
		})
	}
}

// A report that names no token means the one that readers get, which another reader is just
// looking for.
func TestReportOfWhicheverTokenDuringALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		time.Sleep(time.Minute)
		storage := m.UseFaultyStorage()
		storage.Set("get", mounttest.TokenKey, failingOnce(1))
		m.Restart()
		storage.Set("get", mounttest.TokenKey, mounttest.Slowly(2*time.Second))
		read := make(chan struct{})
		go func() {
			defer close(read)
			m.Gets(oneHang, "a reader")
		}()
		time.Sleep(time.Second)
		resp := m.Write("token")
		assert.False(t, resp.Data["access_token"] == token, "the rejected token is the response")
		<-read
	})
}

// An app reports the token in storage, but another one is cached, which could not be saved. The
// reported one doesn't come back when that lapses, nor after a restart.
func TestReportOfAStoredTokenThatIsNotCached(t *testing.T) {
	for name, comeBack := range map[string]func(*mounttest.Mount){
		"the other lapses": func(*mounttest.Mount) { time.Sleep(3 * time.Minute) },
		"restart":          func(m *mounttest.Mount) { time.Sleep(time.Minute); m.Tick(); m.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				time.Sleep(time.Minute)
				m.Sandbox.SetTokenLifetime(2 * time.Minute)
				storage := m.UseFaultyStorage()
				storage.Set("get", mounttest.TokenKey, mounttest.Fails)
				storage.Set("put", mounttest.TokenKey, mounttest.Fails)
				m.Restart()
				require.False(t, m.ReadToken() == token)
				storage.Set("get", mounttest.TokenKey, nil)
				resp := m.Write("token", "rejected_token", token)
				require.False(t, resp.Data["access_token"] == token)
				comeBack(m)
				resp = m.Gets(attempts, "a reader")
				require.NotNil(t, resp)
				assert.False(t, resp.Data["access_token"] == token && len(resp.Warnings) == 0, "the reported token is back, as if nothing was")
			})
		})
	}
}
