// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// The log has a line for each change between issues and failures, and for each change of the
// failure, but not for each attempt.
func TestLogOfTheUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		const fails, works = "Fuuffy issues no token", "Fuuffy issues tokens again"
		logs := func(step string, wantFails, wantWorks int) {
			t.Helper()
			synctest.Wait()
			assert.Equal(t, wantFails, m.log.count(fails), step)
			assert.Equal(t, wantWorks, m.log.count(works), step)
			m.log.reset()
		}
		fail := func() {
			time.Sleep(10 * time.Minute) // The hold-off.
			m.refusedToken()
		}
		m.read()
		m.do(logical.DeleteOperation, "token", nil)
		m.read()
		logs("all is well", 0, 0)

		m.do(logical.DeleteOperation, "token", nil)
		m.sandbox.SetFault(faultMalformed)
		m.refusedToken()
		synctest.Wait()
		assert.Contains(t, m.log.String(), "failure=malformed")
		assert.Contains(t, m.log.String(), "next_try_in=1s")
		logs("it fails", 1, 0)
		fail()
		logs("once more", 0, 0)
		m.sandbox.SetFault(faultRejected)
		fail()
		synctest.Wait()
		assert.Contains(t, m.log.String(), "failure=rejected")
		logs("in another way", 1, 0)

		m.sandbox.CreateClient(newClientID, testSecret)
		m.configure("client_id", newClientID, "verify_connection", false)
		logs("credentials that nobody tried", 0, 0)
		m.refusedToken()
		logs("they fail", 1, 0)
		m.sandbox.ClearFault()
		m.configure("client_id", newClientID)
		logs("credentials that work", 0, 1)
		m.read()
		logs("and go on", 0, 0)

		m.do(logical.DeleteOperation, "token", nil)
		m.sandbox.SetFault(faultRejected)
		m.write("rotate-root/check")
		logs("a check fails", 1, 0)
		m.sandbox.ClearFault()
		time.Sleep(checkInterval)
		m.write("rotate-root/check")
		logs("a check succeeds", 0, 1)
	})
}

// A token that is only in memory, and one that could not be read, are logged wherever they
// come from.
func TestLogOfTheStoredToken(t *testing.T) {
	const unsaved, unreadable = "could not save the access token", "could not use the stored access token"
	for name, tt := range map[string]struct {
		act                 func(*mount)
		unsaved, unreadable int
	}{
		"read": {func(m *mount) { m.read() }, 1, 1},
		"credentials in config": {func(m *mount) {
			m.sandbox.CreateClient(newClientID, testSecret)
			m.configure("client_id", newClientID)
		}, 1, 0},
		"check":    {func(m *mount) { m.write("rotate-root/check") }, 1, 0},
		"start":    {(*mount).restart, 0, 1},
		"no token": {func(m *mount) { m.status() }, 0, 0},
	} {
		for _, broken := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, broken %t", name, broken), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					storage := m.useFaultyStorage()
					want := map[string]int{}
					if broken {
						storage.set("get", tokenKey, fails)
						storage.set("put", tokenKey, fails)
						want[unsaved], want[unreadable] = tt.unsaved, tt.unreadable
					}
					tt.act(m)
					synctest.Wait()
					for _, line := range []string{unsaved, unreadable} {
						assert.Equal(t, want[line], m.log.count(line), line)
					}
				})
			})
		}
	}
}

// A stored token that can't be read is logged once, however many readers need it, until it can be
// read again.
func TestUnreadableTokenIsLoggedOnce(t *testing.T) {
	const unreadable = "could not use the stored access token"
	for node, start := range map[string]func(m *mount) *mount{
		"standby": func(m *mount) *mount {
			return m.node(consts.ReplicationPerformanceStandby, readOnlyStorage{Storage: m.storage.Storage})
		},
		"active, and Fuuffy fails": func(m *mount) *mount {
			m.sandbox.SetFault(faultMalformed)
			return m.node(0, m.storage.Storage)
		},
	} {
		for fault, spoil := range map[string]func(m *mount, s *faultyStorage){
			"fails":   func(_ *mount, s *faultyStorage) { s.set("get", tokenKey, fails) },
			"hangs":   func(_ *mount, s *faultyStorage) { s.hang("get", tokenKey, allCalls, false) },
			"damaged": func(m *mount, _ *faultyStorage) { m.put(tokenKey, `{"format": 1, "access_token": "sk-planted`) },
		} {
			t.Run(node+", "+fault, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					m.read()
					entry := localEntry(t, m.storage.Storage, tokenKey)
					other := start(m)
					storage := other.useFaultyStorage()
					for round := range 2 {
						other.b.InvalidateKey(t.Context(), tokenKey)
						spoil(m, storage)
						for range 20 {
							_, _, _ = other.timed(logical.ReadOperation, tokenKey, nil)
							time.Sleep(6 * time.Second)
						}
						synctest.Wait()
						assert.Equal(t, round+1, other.log.count(unreadable), "outage %d", round+1)
						storage.mend()
						m.put(tokenKey, entry)
						time.Sleep(10 * time.Minute) // The hold-off.
						other.gets(oneHang, "it can be read again")
					}
				})
			})
		}
	}
}

// sluggishLogger takes ten seconds for each line. Unlike a slow file it lets others log meanwhile.
type sluggishLogger struct{ hclog.Logger }

func (l sluggishLogger) With(args ...any) hclog.Logger  { return sluggishLogger{l.Logger.With(args...)} }
func (l sluggishLogger) Named(name string) hclog.Logger { return sluggishLogger{l.Logger.Named(name)} }

func (l sluggishLogger) Debug(text string, args ...any) {
	time.Sleep(lineTime)
	l.Logger.Debug(text, args...)
}
func (l sluggishLogger) Info(text string, args ...any) {
	time.Sleep(lineTime)
	l.Logger.Info(text, args...)
}
func (l sluggishLogger) Warn(text string, args ...any) {
	time.Sleep(lineTime)
	l.Logger.Warn(text, args...)
}
func (l sluggishLogger) Error(text string, args ...any) {
	time.Sleep(lineTime)
	l.Logger.Error(text, args...)
}

const lineTime = 10 * time.Second

// Readers hear of a token before anything of it is logged. A slow log keeps no one waiting, and
// no one gets a token that was deleted meanwhile.
func TestSlowLogDelaysNoReader(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(*mount, *faultyStorage)
		line    string
	}{
		"the save fails":  {func(_ *mount, s *faultyStorage) { s.set("put", tokenKey, fails) }, "could not save the access token"},
		"the save panics": {func(_ *mount, s *faultyStorage) { s.set("put", tokenKey, panicsWith("bug")) }, "could not save the access token"},
		"the stored token can't be read": {
			func(_ *mount, s *faultyStorage) { s.set("get", tokenKey, fails) }, "could not use the stored access token",
		},
		"Fuuffy works again": {
			func(m *mount, _ *faultyStorage) {
				m.sandbox.SetFault(faultMalformed)
				m.refusedToken()
				m.sandbox.ClearFault()
				time.Sleep(time.Minute)
			}, "Fuuffy issues tokens again",
		},
		"the fallback begins": {
			func(m *mount, _ *faultyStorage) {
				m.stage()
				m.promote()
				m.do(logical.DeleteOperation, tokenKey, nil)
				m.sandbox.RevokeClient(newClientID)
				time.Sleep(time.Minute)
			}, "falling back to the old ones",
		},
		"Fuuffy names no life": {
			func(m *mount, _ *faultyStorage) {
				m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultBody, Body: `{"data": {"access_token": "sk-1", "token_type": "Bearer"}}`})
			}, "didn't say how long the access token lives",
		},
	} {
		for who, deleted := range map[string]bool{"readers": false, "a delete follows": true} {
			t.Run(name+", "+who, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMount(t)
					m.sandbox.CreateClient(newClientID, newSecret)
					m.startWith(func(conf *logical.BackendConfig) { conf.Logger = sluggishLogger{conf.Logger} })
					m.configure("verify_connection", false)
					storage := m.useFaultyStorage()
					tt.prepare(m, storage)
					m.log.reset()

					var tokens [5]string
					var readers sync.WaitGroup
					began := time.Now()
					for i := range tokens {
						readers.Go(func() {
							if resp := m.gets(time.Second, "a reader"); resp != nil {
								tokens[i] = resp.Data["access_token"].(string)
							}
							if deleted {
								assert.LessOrEqual(t, time.Since(began), 2*time.Second, "a reader gets the token after the delete has answered")
							}
						})
					}
					if deleted {
						time.Sleep(2 * time.Second)
						_, took, err := m.timed(logical.DeleteOperation, tokenKey, nil)
						require.NoError(t, err)
						assert.LessOrEqual(t, took, time.Second)
					}
					readers.Wait()
					time.Sleep(2 * time.Minute)
					assert.Equal(t, 1, m.log.count(tt.line), m.log)
				})
			})
		}
	}
}
