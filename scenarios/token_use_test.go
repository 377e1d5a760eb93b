// SPDX-License-Identifier: MPL-2.0

package scenarios

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

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// sources are the ways to a token. Each returns whether it was for a reader.
var sources = map[string]func(*mounttest.Mount) (forReader bool){
	"read": func(m *mounttest.Mount) bool { m.Read(); return true },
	"report": func(m *mounttest.Mount) bool {
		m.Read()
		time.Sleep(time.Minute)
		m.Write("token")
		return true
	},
	"min_ttl": func(m *mounttest.Mount) bool {
		m.Read()
		time.Sleep(40 * time.Minute)
		m.Do(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", "25m"))
		return true
	},
	"check": func(m *mounttest.Mount) bool { m.Write("rotate-root/check"); return false },
	"config write": func(m *mounttest.Mount) bool {
		m.Configure()
		m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret)
		return false
	},
	"promote": func(m *mounttest.Mount) bool { m.Stage(); m.Promote(); return false },
	"PeriodicFunc": func(m *mounttest.Mount) bool {
		m.Read()
		time.Sleep(52 * time.Minute)
		m.Tick()
		synctest.Wait()
		return false
	},
}

// Use survives a restart: a token that someone read is refreshed by PeriodicFunc although no one
// has read it since, and one that no one ever read is not.
func TestUseSurvivesARestart(t *testing.T) {
	for name, get := range sources {
		for read, readLater := range map[string]bool{"": false, ", then read": true} {
			for start, restart := range map[string]func(*mounttest.Mount){
				"restart":      (*mounttest.Mount).Restart,
				"two restarts": func(m *mounttest.Mount) { m.Restart(); m.Restart() },
				"failover":     func(m *mounttest.Mount) { m.Failover(time.Second) },
				"setting":      func(m *mounttest.Mount) { m.Write("config", "rotation_reminder", "24h"); m.Restart() },
			} {
				t.Run(name+read+", "+start, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := mounttest.NewConfigured(t)
						m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
						used := get(m)
						began := time.Now()
						if readLater {
							m.Read()
							used = true
							m.Tick()
							synctest.Wait()
						}
						restart(m)
						assert.Equal(t, used, m.Status()["token_in_use"])
						requests := m.Requests()
						time.Sleep(52*time.Minute - time.Since(began))
						m.Tick()
						synctest.Wait()
						assert.Equal(t, used, m.Requests() == requests+1, "PeriodicFunc refreshes it")
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
		m := mounttest.NewConfigured(t)
		m.Read()
		for i := range 6 * 60 {
			m.Tick()
			synctest.Wait()
			if i%20 == 0 {
				m.Restart()
			}
			time.Sleep(time.Minute)
		}
		assert.Equal(t, 2, m.Requests(), "the read, and one refresh of what was read")
	})
}

// Use costs at most one more write of each token, and none of a token that was fetched for a
// reader.
func TestUseIsStoredOnce(t *testing.T) {
	for name, get := range sources {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				storage := m.UseFaultyStorage()
				forReader := get(m)
				synctest.Wait()
				assert.Equal(t, forReader, strings.Contains(storage.Stored(t, mounttest.TokenKey), `"used":true`), "stored as used")
				if !forReader {
					assert.False(t, strings.Contains(storage.Stored(t, mounttest.TokenKey), `"used"`), "left out")
				}
				puts := 0
				storage.Set("put", mounttest.TokenKey, func(apply func() error) error {
					puts++
					return apply()
				})
				for range 3 {
					m.Tick()
				}
				assert.Zero(t, puts, "nothing has changed")
				before := m.ReadToken()
				for range 10 {
					m.Read()
					m.Tick()
					synctest.Wait()
					time.Sleep(time.Minute)
				}
				want := 1
				if forReader {
					want = 0
				}
				assert.Equal(t, want, puts, "writes of the token")
				assert.True(t, strings.Contains(storage.Stored(t, mounttest.TokenKey), `"used":true`))
				assert.True(t, strings.Contains(storage.Stored(t, mounttest.TokenKey), before), "it is still that token")
				m.Restart()
				m.Serves(before, 0, "after a restart")
			})
		})
	}
}

// That use is stored disturbs no one: not readers while storage hangs, and no token that was
// deleted or replaced meanwhile.
func TestStoringTheUse(t *testing.T) {
	start := func(t *testing.T) (*mounttest.Mount, *mounttest.FaultyStorage, string) {
		m := mounttest.NewConfigured(t)
		m.Write("rotate-root/check")
		token := m.ReadToken()
		return m, m.UseFaultyStorage(), token
	}
	counted := func(s *mounttest.FaultyStorage, fault mounttest.StorageFault) func() int {
		return s.Count("put", mounttest.TokenKey, fault)
	}
	for name, spoil := range map[string]func(*mounttest.FaultyStorage) (tried func() int){
		"fails":            func(s *mounttest.FaultyStorage) func() int { return counted(s, mounttest.Fails) },
		"fails afterwards": func(s *mounttest.FaultyStorage) func() int { return counted(s, mounttest.FailsAfterwards) },
		"panics":           func(s *mounttest.FaultyStorage) func() int { return counted(s, mounttest.PanicsWith("bug")) },
		"hangs": func(s *mounttest.FaultyStorage) func() int {
			return s.Hang("put", mounttest.TokenKey, mounttest.AllCalls, false).Count
		},
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
					ctx, cancel := context.WithTimeout(t.Context(), mounttest.Impatience)
					defer cancel()
					_, _ = m.Handle(ctx, logical.RollbackOperation, "", nil)
				}()
				synctest.Wait()
				for range 5 {
					m.Serves(token, 0, "a reader")
				}
				_, took, _ := m.Timed(logical.ReadOperation, "config", nil)
				assert.LessOrEqual(t, took, oneHang, "an operator")
				<-ended
				assert.NotZero(t, tried(), "PeriodicFunc stores the use")
				storage.Mend()
				m.Serves(token, 0, "afterwards")
				m.Tick()
				m.Restart()
				assert.Equal(t, true, m.Status()["token_in_use"], "the next PeriodicFunc stores it")
				m.Serves(token, 0, "after a restart")
			})
		})
	}
	for name, overtake := range map[string]func(*mounttest.Mount){
		"token delete":  func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "token", nil) },
		"config delete": func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "config", nil) },
		"report":        func(m *mounttest.Mount) { m.Write("token") },
		"other pair": func(m *mounttest.Mount) {
			m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "verify_connection", false)
		},
		"other pair, tested": func(m *mounttest.Mount) {
			m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret)
		},
	} {
		for _, delay := range []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond} {
			t.Run(fmt.Sprintf("overtaken by %s after %s", name, delay), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, storage, token := start(t)
					m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
					time.Sleep(time.Minute)
					tried := counted(storage, mounttest.Slowly(2*time.Second))
					go m.Tick()
					time.Sleep(delay)
					assert.Equal(t, 1, tried(), "PeriodicFunc stores the use")
					overtake(m)
					time.Sleep(oneHang)
					assert.False(t, strings.Contains(storage.Stored(t, mounttest.TokenKey), token), "it comes back")
					m.Restart()
					if name != "config delete" {
						assert.False(t, m.ReadToken() == token)
					}
				})
			})
		}
	}
}

// What a standby's readers use, a standby can't store, and doesn't try.
func TestUseOnAStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Write("rotate-root/check")
		standby := m.Node(consts.ReplicationPerformanceStandby, mounttest.ReadOnlyStorage{Storage: m.Storage.Storage})
		standby.UseFaultyStorage().Set("put", mounttest.TokenKey, func(func() error) error {
			t.Error("a standby writes")
			return logical.ErrReadOnly
		})
		standby.Read()
		standby.Tick()
		synctest.Wait()
		assert.Zero(t, standby.Log.Count("[WARN]"))
		_, err := m.Handle(t.Context(), logical.ReadOperation, "status", nil)
		require.NoError(t, err)
	})
}
