// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sources are the ways to a token. Each returns whether it was for a reader.
var sources = map[string]func(*mount) (forReader bool){
	"read": func(m *mount) bool { m.read(); return true },
	"report": func(m *mount) bool {
		m.read()
		time.Sleep(time.Minute)
		m.write("token")
		return true
	},
	"min_ttl": func(m *mount) bool {
		m.read()
		time.Sleep(40 * time.Minute)
		m.do(logical.ReadOperation, "token", pairs("min_ttl", "25m"))
		return true
	},
	"check": func(m *mount) bool { m.write("rotate-root/check"); return false },
	"config write": func(m *mount) bool {
		m.configure()
		m.write("config", "client_id", newClientID, "client_secret", newSecret)
		return false
	},
	"promote": func(m *mount) bool { m.stage(); m.promote(); return false },
	"PeriodicFunc": func(m *mount) bool {
		m.read()
		time.Sleep(52 * time.Minute)
		m.tick()
		synctest.Wait()
		return false
	},
}

// storedToken is the token as it lies in storage, empty for none.
func (s *faultyStorage) storedToken(m *mount) string { return s.stored(m.t, tokenKey) }

// Use survives a restart: a token that someone read is refreshed by PeriodicFunc although no one
// has read it since, and one that no one ever read is not.
func TestUseSurvivesARestart(t *testing.T) {
	for name, get := range sources {
		for read, readLater := range map[string]bool{"": false, ", then read": true} {
			for start, restart := range map[string]func(*mount){
				"restart":      (*mount).restart,
				"two restarts": func(m *mount) { m.restart(); m.restart() },
				"failover":     func(m *mount) { m.failover(time.Second) },
				"setting":      func(m *mount) { m.write("config", "rotation_reminder", "24h"); m.restart() },
			} {
				t.Run(name+read+", "+start, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := newConfiguredMount(t)
						m.sandbox.CreateClient(newClientID, newSecret)
						used := get(m)
						began := time.Now()
						if readLater {
							m.read()
							used = true
							m.tick()
							synctest.Wait()
						}
						restart(m)
						assert.Equal(t, used, m.status()["token_in_use"])
						requests := m.requests()
						time.Sleep(52*time.Minute - time.Since(began))
						m.tick()
						synctest.Wait()
						assert.Equal(t, used, m.requests() == requests+1, "PeriodicFunc refreshes it")
					})
				})
			}
		}
	}
}

// A mount that no one reads anymore stays silent after a restart: its last token was refreshed once
// more, and not read.
func TestIdleMountStaysSilentAfterRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.read()
		for i := range 6 * 60 {
			m.tick()
			synctest.Wait()
			if i%20 == 0 {
				m.restart()
			}
			time.Sleep(time.Minute)
		}
		assert.Equal(t, 2, m.requests(), "the read, and one refresh of what was read")
	})
}

// Use costs at most one more write of each token, and none of a token that was fetched for a
// reader.
func TestUseIsStoredOnce(t *testing.T) {
	for name, get := range sources {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				storage := m.useFaultyStorage()
				forReader := get(m)
				synctest.Wait()
				assert.Equal(t, forReader, strings.Contains(storage.storedToken(m), `"used":true`), "stored as used")
				if !forReader {
					assert.False(t, strings.Contains(storage.storedToken(m), `"used"`), "left out")
				}
				puts := 0
				storage.set("put", tokenKey, func(apply func() error) error {
					puts++
					return apply()
				})
				for range 3 {
					m.tick()
				}
				assert.Zero(t, puts, "nothing has changed")
				before := m.readToken()
				for range 10 {
					m.read()
					m.tick()
					synctest.Wait()
					time.Sleep(time.Minute)
				}
				want := 1
				if forReader {
					want = 0
				}
				assert.Equal(t, want, puts, "writes of the token")
				assert.True(t, strings.Contains(storage.storedToken(m), `"used":true`))
				assert.True(t, strings.Contains(storage.storedToken(m), before), "it is still that token")
				m.restart()
				m.serves(before, 0, "after a restart")
			})
		})
	}
}

// That use is stored disturbs no one: not readers while storage hangs, and no token that was
// deleted or replaced meanwhile.
func TestStoringTheUse(t *testing.T) {
	start := func(t *testing.T) (*mount, *faultyStorage, string) {
		m := newConfiguredMount(t)
		m.write("rotate-root/check")
		token := m.readToken()
		return m, m.useFaultyStorage(), token
	}
	counted := func(s *faultyStorage, fault storageFault) func() int { return s.count("put", tokenKey, fault) }
	for name, spoil := range map[string]func(*faultyStorage) (tried func() int){
		"fails":            func(s *faultyStorage) func() int { return counted(s, fails) },
		"fails afterwards": func(s *faultyStorage) func() int { return counted(s, failsAfterwards) },
		"panics":           func(s *faultyStorage) func() int { return counted(s, panicsWith("bug")) },
		"hangs":            func(s *faultyStorage) func() int { return s.hang("put", tokenKey, allCalls, false).count },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, storage, token := start(t)
				tried := spoil(storage)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					began := time.Now()
					defer func() {
						assert.Nil(t, recover(), "PeriodicFunc panics")
						assert.LessOrEqual(t, time.Since(began), oneHang)
					}()
					ctx, cancel := context.WithTimeout(t.Context(), impatience)
					defer cancel()
					_, _ = m.handle(ctx, logical.RollbackOperation, "", nil)
				}()
				synctest.Wait()
				for range 5 {
					m.serves(token, 0, "a reader")
				}
				_, took, _ := m.timed(logical.ReadOperation, "config", nil)
				assert.LessOrEqual(t, took, oneHang, "an operator")
				<-ended
				assert.NotZero(t, tried(), "PeriodicFunc stores the use")
				storage.mend()
				m.serves(token, 0, "afterwards")
				m.tick()
				m.restart()
				assert.Equal(t, true, m.status()["token_in_use"], "the next PeriodicFunc stores it")
				m.serves(token, 0, "after a restart")
			})
		})
	}
	for name, overtake := range map[string]func(*mount){
		"token delete":  func(m *mount) { m.do(logical.DeleteOperation, "token", nil) },
		"config delete": func(m *mount) { m.do(logical.DeleteOperation, "config", nil) },
		"report":        func(m *mount) { m.write("token") },
		"other pair": func(m *mount) {
			m.write("config", "client_id", newClientID, "client_secret", newSecret, "verify_connection", false)
		},
		"other pair, tested": func(m *mount) { m.write("config", "client_id", newClientID, "client_secret", newSecret) },
	} {
		for _, delay := range []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond} {
			t.Run(fmt.Sprintf("overtaken by %s after %s", name, delay), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, storage, token := start(t)
					m.sandbox.CreateClient(newClientID, newSecret)
					time.Sleep(time.Minute)
					tried := counted(storage, slowly(2*time.Second))
					go m.tick()
					time.Sleep(delay)
					assert.Equal(t, 1, tried(), "PeriodicFunc stores the use")
					overtake(m)
					time.Sleep(oneHang)
					assert.False(t, strings.Contains(storage.storedToken(m), token), "it comes back")
					m.restart()
					if name != "config delete" {
						assert.False(t, m.readToken() == token)
					}
				})
			})
		}
	}
}

// What a standby's readers use, a standby can't store, and doesn't try.
func TestUseOnAStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.write("rotate-root/check")
		standby := m.node(consts.ReplicationPerformanceStandby, readOnlyStorage{Storage: m.storage.Storage})
		standby.useFaultyStorage().set("put", tokenKey, func(func() error) error {
			t.Error("a standby writes")
			return logical.ErrReadOnly
		})
		standby.read()
		standby.tick()
		synctest.Wait()
		assert.Zero(t, standby.log.count("[WARN]"))
		_, err := m.handle(t.Context(), logical.ReadOperation, "status", nil)
		require.NoError(t, err)
	})
}
