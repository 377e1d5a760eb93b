// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// oneHang is the longest that a storage call that hangs delays someone, and twoHangs that two in
// a row do.
const oneHang, twoHangs = 6 * time.Second, 11 * time.Second

// oneLook is the longest that readers wait for a config that couldn't be loaded before.
const oneLook = 500 * time.Millisecond

// configFaults are the ways in which the stored config can't be read. Each returns how often the
// engine met it.
var configFaults = map[string]func(*mounttest.FaultyStorage) (met func() int){
	"one call hangs": func(s *mounttest.FaultyStorage) func() int { return s.Hang("get", mounttest.ConfigKey, 1, false).Count },
	"every call hangs": func(s *mounttest.FaultyStorage) func() int {
		return s.Hang("get", mounttest.ConfigKey, mounttest.AllCalls, false).Count
	},
	"every call fails": func(s *mounttest.FaultyStorage) func() int {
		return s.Count("get", mounttest.ConfigKey, mounttest.Fails)
	},
	"one call fails": func(s *mounttest.FaultyStorage) func() int {
		return s.Count("get", mounttest.ConfigKey, failingOnce(1))
	},
}

// nodes are those that serve readers. Each returns a node that has a token, and the storage that
// it loads its config from.
var nodes = map[string]func(*testing.T, time.Duration) (*mounttest.Mount, *mounttest.FaultyStorage){
	"active": func(t *testing.T, life time.Duration) (*mounttest.Mount, *mounttest.FaultyStorage) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetTokenLifetime(life)
		m.Read()
		return m, m.UseFaultyStorage()
	},
	"performance standby": func(t *testing.T, life time.Duration) (*mounttest.Mount, *mounttest.FaultyStorage) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetTokenLifetime(life)
		m.Read()
		standby := m.Node(consts.ReplicationPerformanceStandby, mounttest.ReadOnlyStorage{Storage: m.Storage.Storage})
		standby.Read()
		return standby, standby.UseFaultyStorage()
	},
	"performance secondary": func(t *testing.T, life time.Duration) (*mounttest.Mount, *mounttest.FaultyStorage) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetTokenLifetime(life)
		secondary, _ := m.Secondary()
		secondary.Read()
		return secondary, secondary.UseFaultyStorage()
	},
}

// Another node changed the config, and this one can't load it. It goes on with what it has. At
// most the first readers wait, until the first load ends.
func TestConfigThatCannotBeLoadedKeepsServing(t *testing.T) {
	for node, start := range nodes {
		for fault, spoil := range configFaults {
			for _, life := range []time.Duration{time.Hour, time.Minute} {
				t.Run(fmt.Sprintf("%s, %s, %s", node, fault, life), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m, storage := start(t, life)
						token := m.ReadToken()
						met := spoil(storage)
						m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
						m.Serves(token, oneHang, "the first read")
						for i := range 20 {
							m.Serves(token, 0, fmt.Sprintf("read %d after it", i+1))
							time.Sleep(500 * time.Millisecond)
						}
						assert.NotZero(t, met(), "the engine met the fault")
					})
				})
			}
		}
	}
}

// Who begins to read while the first load hangs waits no longer than that load.
func TestReadersOfALoadThatHangs(t *testing.T) {
	for node, start := range nodes {
		t.Run(node, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, storage := start(t, time.Hour)
				token := m.ReadToken()
				stuck := storage.Hang("get", mounttest.ConfigKey, mounttest.AllCalls, false)
				m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
				answered := make(chan struct{}, 30)
				for i := range cap(answered) {
					go func() {
						time.Sleep(time.Duration(i) * 300 * time.Millisecond)
						m.Serves(token, max(0, oneHang-time.Duration(i)*300*time.Millisecond), fmt.Sprintf("reader %d", i))
						answered <- struct{}{}
					}()
				}
				for range cap(answered) {
					<-answered
				}
				assert.NotZero(t, stuck.Count())
			})
		})
	}
}

// An outage of the storage that lasts for hours doesn't reach readers: the engine refreshes the
// token with the credentials that it knows.
func TestTokensDuringAnOutageOfTheStorage(t *testing.T) {
	outages := map[string]func(*mounttest.FaultyStorage){
		"the config hangs": func(s *mounttest.FaultyStorage) { s.Hang("get", mounttest.ConfigKey, mounttest.AllCalls, false) },
		"the config fails": func(s *mounttest.FaultyStorage) { s.Set("get", mounttest.ConfigKey, mounttest.Fails) },
		"everything hangs": func(s *mounttest.FaultyStorage) {
			for _, call := range []string{"get", "put", "delete"} {
				for _, key := range []string{mounttest.ConfigKey, mounttest.TokenKey} {
					s.Hang(call, key, mounttest.AllCalls, false)
				}
			}
		},
		"everything fails": func(s *mounttest.FaultyStorage) {
			for _, call := range []string{"get", "put", "delete"} {
				for _, key := range []string{mounttest.ConfigKey, mounttest.TokenKey} {
					s.Set(call, key, mounttest.Fails)
				}
			}
		},
	}
	for _, node := range []string{"active", "performance secondary"} {
		for outage, spoil := range outages {
			for name, invalidated := range map[string]bool{"": false, ", invalidated": true} {
				t.Run(node+", "+outage+name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m, storage := nodes[node](t, time.Hour)
						spoil(storage)
						if invalidated {
							m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
							m.Gets(oneHang, "the first read")
						}
						requests := m.Requests()
						for i := range 3 * 60 {
							if resp := m.Gets(oneLook, fmt.Sprintf("minute %d", i)); resp == nil {
								return
							} else if !assert.True(t, m.Sandbox.TokenAlive(resp.Data["access_token"].(string)), "minute %d", i) {
								return
							}
							began := time.Now()
							ctx, cancel := context.WithTimeout(t.Context(), mounttest.Impatience)
							_, _ = m.Handle(ctx, logical.RollbackOperation, "", nil)
							cancel()
							assert.LessOrEqual(t, time.Since(began), oneHang, "PeriodicFunc")
							time.Sleep(time.Minute - time.Since(began))
						}
						assert.GreaterOrEqual(t, m.Requests()-requests, 3, "the engine refreshes the token")
						assert.LessOrEqual(t, m.Requests()-requests, 4)
						storage.Mend()
						m.Gets(oneHang, "afterwards")
					})
				})
			}
		}
	}
}

// The first load that succeeds makes the new config current.
func TestConfigIsLoadedOnceStorageWorksAgain(t *testing.T) {
	for fault, spoil := range configFaults {
		for outage, lasts := range map[string]time.Duration{"seconds": 8 * time.Second, "ten minutes": 10 * time.Minute} {
			t.Run(fault+", for "+outage, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
					token := m.ReadToken()
					other := m.Node(0, m.Storage.Storage)
					other.Configure("client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "verify_connection", false)
					storage := m.UseFaultyStorage()
					met := spoil(storage)
					m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
					for began := time.Now(); time.Since(began) < lasts; time.Sleep(time.Second) {
						if resp := m.Gets(oneHang, "during the outage"); resp == nil {
							return
						} else if resp.Data["access_token"] != token {
							break // One call only.
						}
					}
					require.NotZero(t, met())
					storage.Mend()

					time.Sleep(twoHangs) // The load that hung may have to end.
					served := m.Gets(oneLook, "the next read, soon or much later")
					require.NotNil(t, served)
					assert.False(t, served.Data["access_token"] == token, "a token of the former client")
					assert.Equal(t, mounttest.NewClientID, m.Status()["client_id"])
					assert.Equal(t, mounttest.NewClientID, m.ReadConfig()["client_id"])
				})
			})
		}
	}
}

// While readers wait a moment for a config that couldn't be loaded before, an operator changes it on
// their node. They get what that means, not an error about their wait.
func TestConfigChangesWhileReadersWaitForIt(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*mounttest.Mount)
		client string // whose token they get, empty for none
	}{
		"deleted": {func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, mounttest.ConfigKey, nil) }, ""},
		"written": {func(m *mounttest.Mount) { m.Do(logical.UpdateOperation, mounttest.ConfigKey, mounttest.NewPair()) }, mounttest.NewClientID},
		"written, and again elsewhere": {func(m *mounttest.Mount) {
			m.Do(logical.UpdateOperation, mounttest.ConfigKey, mounttest.NewPair())
			m.Backend.InvalidateKey(m.T.Context(), mounttest.ConfigKey)
		}, mounttest.NewClientID},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				token := m.ReadToken()
				storage := m.UseFaultyStorage()
				m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
				storage.Hang("get", mounttest.ConfigKey, 1, false)
				m.Serves(token, oneHang, "the first read")
				time.Sleep(time.Minute)

				stuck := storage.Hang("get", mounttest.ConfigKey, 1, false)
				var readers sync.WaitGroup
				for range 3 {
					readers.Go(func() {
						resp, took, err := m.Timed(logical.ReadOperation, mounttest.TokenKey, nil)
						assert.LessOrEqual(t, took, oneLook)
						if tt.client == "" {
							_, text := mounttest.Refusal(t, resp, err)
							assert.Contains(t, text, "This mount has no Fuuffy credentials yet")
						} else if assert.NoError(t, err) && assert.False(t, resp.IsError(), "%v", resp.Error()) {
							assert.Equal(t, tt.client, m.Sandbox.ClientOf(resp.Data["access_token"].(string)))
						}
					})
				}
				time.Sleep(100 * time.Millisecond)
				tt.change(m)
				readers.Wait()
				assert.NotZero(t, stuck.Count())
			})
		})
	}
}

// Storage failed slowly, and then another node changes the config again. Readers wait a moment for
// that, as if the failure were over.
func TestConfigChangesAgainAfterASlowFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		token := m.ReadToken()
		other := m.Node(0, m.Storage.Storage)
		stuck := m.UseFaultyStorage().Hang("get", mounttest.ConfigKey, 1, false)
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		m.Serves(token, oneHang, "the first read")
		require.NotZero(t, stuck.Count())

		other.Do(logical.UpdateOperation, mounttest.RotatePath, mounttest.NewPair("compromised", true))
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		if resp := m.Gets(oneLook, "the first read after that"); resp != nil {
			assert.Equal(t, mounttest.NewClientID, m.Sandbox.ClientOf(resp.Data["access_token"].(string)))
		}
	})
}

// A machine that was suspended during a load makes that look as if it took hours. Afterward, readers
// are no less patient than after a load that hung.
func TestSuspendedDuringALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetTokenLifetime(24 * time.Hour)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		token := m.ReadToken()
		other := m.Node(0, m.Storage.Storage)
		other.Configure("client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret)
		var suspended atomic.Int64
		clock := m.Clock
		m.Clock = func() (wall time.Time, monotonic time.Duration) {
			wall, monotonic = clock()
			return wall.Add(time.Duration(suspended.Load())), monotonic + time.Duration(suspended.Load())
		}
		stuck := m.UseFaultyStorage().Hang("get", mounttest.ConfigKey, 1, false)
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		time.AfterFunc(2*time.Second, func() { suspended.Store(int64(8 * time.Hour)) })
		m.Serves(token, oneHang, "the first read")
		require.NotZero(t, stuck.Count())

		time.Sleep(time.Minute)
		if resp := m.Gets(oneLook, "a minute later"); resp != nil {
			assert.Equal(t, mounttest.NewClientID, m.Sandbox.ClientOf(resp.Data["access_token"].(string)))
		}
	})
}

// Another node changes the config again and again, while this one can't load it. Its readers wait
// no longer for that.
func TestConfigChangesDuringLoadsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		stuck := m.UseFaultyStorage().Hang("get", mounttest.ConfigKey, mounttest.AllCalls, false)
		var readers sync.WaitGroup
		for i := range 10 {
			m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
			readers.Go(func() { m.Serves(token, oneHang, fmt.Sprintf("a reader after change %d", i+1)) })
			time.Sleep(4 * time.Second)
		}
		readers.Wait()
		assert.NotZero(t, stuck.Count())
		assert.Equal(t, 1, m.Log.Count("could not load the configuration"), m.Log)
	})
}

// A token request is under way when the config becomes unreadable. Whoever waits gets a token.
func TestInvalidationThatCannotBeFollowedDuringARequest(t *testing.T) {
	for fault, spoil := range configFaults {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				storage := m.UseFaultyStorage()
				m.Sandbox.SetFault(mounttest.SlowAnswer)
				answered := make(chan struct{}, 5)
				for range cap(answered) {
					go func() {
						m.Gets(oneHang+4*time.Second, "a reader")
						answered <- struct{}{}
					}()
				}
				time.Sleep(time.Second)
				met := spoil(storage)
				m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
				for range cap(answered) {
					<-answered
				}
				assert.NotZero(t, met())
			})
		})
	}
}

// Without a config in memory, whoever needs it gets an error when its load was too slow, and
// whoever comes next has another try.
func TestStartThatCannotLoadTheConfig(t *testing.T) {
	for fault, spoil := range configFaults {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				storage := m.UseFaultyStorage()
				met := spoil(storage)
				began := time.Now()
				m.Restart()
				assert.LessOrEqual(t, time.Since(began), oneHang, "Initialize")
				require.NotZero(t, met())
				if fault == "every call hangs" || fault == "every call fails" {
					for range 3 {
						_, took, err := m.Timed(logical.ReadOperation, mounttest.TokenKey, nil)
						assert.Error(t, err)
						assert.NotErrorIs(t, err, context.Canceled)
						assert.LessOrEqual(t, took, oneHang)
					}
					storage.Mend()
				}
				m.Gets(oneHang, "once storage works")
				m.Serves(token, 0, "the stored token")
				assert.Equal(t, 1, m.Requests())
			})
		})
	}
}

// A look for the stored token that hangs or fails costs the start five seconds at most, and a
// token request, and no one more.
func TestStartThatCannotReadTheToken(t *testing.T) {
	for name, spoil := range map[string]func(*mounttest.FaultyStorage){
		"one call hangs":   func(s *mounttest.FaultyStorage) { s.Hang("get", mounttest.TokenKey, 1, false) },
		"every call hangs": func(s *mounttest.FaultyStorage) { s.Hang("get", mounttest.TokenKey, mounttest.AllCalls, false) },
		"every call fails": func(s *mounttest.FaultyStorage) { s.Set("get", mounttest.TokenKey, mounttest.Fails) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Read()
				storage := m.UseFaultyStorage()
				spoil(storage)
				began := time.Now()
				m.Restart()
				assert.LessOrEqual(t, time.Since(began), oneHang, "Initialize")
				if resp := m.Gets(oneHang, "the first read"); resp != nil {
					m.Serves(resp.Data["access_token"].(string), 0, "the next")
				}
			})
		})
	}
}

// Whatever needs the config answers soon although it can't be read.
func TestOperationsWhileTheConfigCannotBeRead(t *testing.T) {
	for name, tt := range map[string]struct {
		operation logical.Operation
		path      string
		data      map[string]any
		most      time.Duration
	}{
		"status":           {logical.ReadOperation, "status", nil, oneHang},
		"metrics":          {logical.ReadOperation, "metrics", nil, oneHang},
		"rotation":         {logical.ReadOperation, "rotate-root", nil, oneHang},
		"config read":      {logical.ReadOperation, "config", nil, oneHang},
		"PeriodicFunc":     {logical.RollbackOperation, "", nil, oneHang},
		"token report":     {logical.UpdateOperation, "token", nil, oneHang},
		"token delete":     {logical.DeleteOperation, "token", nil, oneHang},
		"check":            {logical.UpdateOperation, "rotate-root/check", nil, twoHangs},
		"stage":            {logical.UpdateOperation, "rotate-root", mounttest.NewPair(), twoHangs},
		"promote":          {logical.UpdateOperation, "rotate-root/promote", nil, twoHangs},
		"revoked":          {logical.UpdateOperation, "rotate-root/revoked", mounttest.Pairs("client_id", mounttest.NewClientID), twoHangs},
		"config write":     {logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true), oneHang},
		"config delete":    {logical.DeleteOperation, "config", nil, oneHang},
		"min_ttl":          {logical.ReadOperation, "token", mounttest.Pairs("min_ttl", "10m"), oneHang},
		"existence check":  {"", "config", mounttest.Pairs("stale_if_error", true), oneHang},
		"rotation discard": {logical.DeleteOperation, "rotate-root", nil, twoHangs},
	} {
		for start, restarted := range map[string]bool{"invalidated": false, "started": true} {
			t.Run(name+", "+start, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
					m.Read()
					time.Sleep(time.Minute)
					storage := m.UseFaultyStorage()
					stuck := storage.Hang("get", mounttest.ConfigKey, mounttest.AllCalls, false)
					if restarted {
						m.Restart()
					} else {
						m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
					}
					var took time.Duration
					if tt.operation == "" {
						ctx, cancel := context.WithTimeout(t.Context(), mounttest.Impatience)
						defer cancel()
						began := time.Now()
						_, _, _ = m.Backend.HandleExistenceCheck(ctx, &logical.Request{Operation: logical.UpdateOperation, Path: tt.path, Data: tt.data, Storage: m.Storage})
						took = time.Since(began)
					} else {
						_, took, _ = m.Timed(tt.operation, tt.path, tt.data)
					}
					assert.LessOrEqual(t, took, tt.most)
					assert.True(t, stuck.Count() > 0 || name == "token delete", "it needs the config")
				})
			})
		}
	}
}

// hungOperation is an operation, and the storage calls in it that may hang.
type hungOperation struct {
	prepare   func(*mounttest.Mount)
	operation logical.Operation
	path      string
	data      map[string]any
	hangs     []string // operation and key
}

// hungOperations are operations of an operator in which one storage call hangs. prepare makes a
// mount of which the operation is possible.
var hungOperations = map[string]hungOperation{
	"config read": {func(*mounttest.Mount) {}, logical.ReadOperation, "config", nil, []string{"get config"}},
	"setting":     {func(*mounttest.Mount) {}, logical.UpdateOperation, "config", mounttest.Pairs("rotation_reminder", "24h"), []string{"get config", "put config"}},
	"other credentials": {
		func(*mounttest.Mount) {}, logical.UpdateOperation, "config", mounttest.NewPair(), []string{"get config", "put config", "put token"},
	},
	"other credentials, not tested": {
		func(*mounttest.Mount) {}, logical.UpdateOperation, "config", mounttest.NewPair("verify_connection", false), []string{"get config", "put config", "delete token"},
	},
	"config delete": {func(*mounttest.Mount) {}, logical.DeleteOperation, "config", nil, []string{"get config", "delete config", "delete token"}},
	"token delete":  {func(*mounttest.Mount) {}, logical.DeleteOperation, "token", nil, []string{"delete token"}},
	"check":         {func(m *mounttest.Mount) { makeSuspect(m) }, logical.UpdateOperation, "rotate-root/check", nil, []string{"put token"}},
	"stage":         {func(*mounttest.Mount) {}, logical.UpdateOperation, "rotate-root", mounttest.NewPair(), []string{"get config", "put config"}},
	"emergency": {
		func(*mounttest.Mount) {}, logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true), []string{"get config", "put config", "put token"},
	},
	"promote":  {func(m *mounttest.Mount) { m.Stage() }, logical.UpdateOperation, "rotate-root/promote", nil, []string{"get config", "put config", "put token"}},
	"discard":  {func(m *mounttest.Mount) { m.Stage() }, logical.DeleteOperation, "rotate-root", nil, []string{"get config", "put config"}},
	"rollback": {func(m *mounttest.Mount) { m.Stage(); m.Promote() }, logical.UpdateOperation, "rotate-root/rollback", nil, []string{"get config", "put config", "put token"}},
	"complete": {func(m *mounttest.Mount) { m.Stage(); m.Promote() }, logical.UpdateOperation, "rotate-root/complete", mounttest.Pairs("force", true), []string{"get config", "put config"}},
	"revoked": {
		func(m *mounttest.Mount) { m.Stage(); m.Do(logical.DeleteOperation, "rotate-root", nil) },
		logical.UpdateOperation, "rotate-root/revoked", mounttest.Pairs("client_id", mounttest.NewClientID), []string{"get config", "put config"},
	},
}

// eachHungOperation runs a test with each storage call of each operation that hangs, before or
// after it took effect.
func eachHungOperation(t *testing.T, test func(t *testing.T, m *mounttest.Mount, storage *mounttest.FaultyStorage, stuck *mounttest.StuckCalls, operate func() time.Duration)) {
	for name, tt := range hungOperations {
		for _, call := range tt.hangs {
			for _, applied := range []bool{false, true} {
				operation, key, _ := strings.Cut(call, " ")
				if applied && operation == "get" {
					continue
				}
				t.Run(fmt.Sprintf("%s, %s hangs, applied %t", name, call, applied), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := mounttest.NewConfigured(t)
						m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
						m.Read()
						tt.prepare(m)
						storage := m.UseFaultyStorage()
						operate := func() time.Duration {
							_, took, _ := m.Timed(tt.operation, tt.path, tt.data)
							return took
						}
						test(t, m, storage, storage.Hang(operation, key, mounttest.AllCalls, applied), operate)
					})
				})
			}
		}
	}
}

// An operation whose storage call hangs delays neither readers nor other operators, and ends
// itself.
func TestHungOperationDelaysNobody(t *testing.T) {
	eachHungOperation(t, func(t *testing.T, m *mounttest.Mount, storage *mounttest.FaultyStorage, stuck *mounttest.StuckCalls, operate func() time.Duration) {
		m.Do(logical.ReadOperation, "token", nil)
		ended := make(chan time.Duration, 1)
		go func() { ended <- operate() }()
		synctest.Wait()

		var others sync.WaitGroup
		others.Go(func() {
			for range 3 {
				_, took, _ := m.Timed(logical.ReadOperation, "token", nil)
				assert.LessOrEqual(t, took, oneHang, "a reader")
				time.Sleep(time.Second)
			}
		})
		for _, path := range []string{"status", "rotate-root", "metrics"} {
			others.Go(func() {
				_, took, _ := m.Timed(logical.ReadOperation, path, nil)
				assert.LessOrEqual(t, took, oneHang, path)
			})
		}
		others.Go(func() {
			_, took, _ := m.Timed(logical.ReadOperation, "config", nil)
			assert.LessOrEqual(t, took, twoHangs, "config, in which a call may hang too")
		})
		others.Wait()
		assert.LessOrEqual(t, <-ended, twoHangs, "the operation itself")
		assert.NotZero(t, stuck.Count())
	})
}

// Nor does it delay the publication of a token that readers wait for.
func TestHungOperationDelaysNoFetchedToken(t *testing.T) {
	eachHungOperation(t, func(t *testing.T, m *mounttest.Mount, storage *mounttest.FaultyStorage, stuck *mounttest.StuckCalls, operate func() time.Duration) {
		m.Backend.InvalidateKey(t.Context(), mounttest.TokenKey)
		require.NoError(t, storage.Storage.Delete(t.Context(), mounttest.TokenKey))
		ended := make(chan time.Duration, 1)
		go func() { ended <- operate() }()
		synctest.Wait()
		var readers sync.WaitGroup
		for i := range 10 {
			readers.Go(func() {
				time.Sleep(time.Duration(i) * 700 * time.Millisecond)
				_, took, _ := m.Timed(logical.ReadOperation, "token", nil)
				// Its own look into storage may hang once, and so may the save.
				assert.LessOrEqual(t, took, twoHangs+oneHang, "a reader")
			})
		}
		readers.Wait()
		<-ended
		assert.NotZero(t, stuck.Count())
	})
}

// After one call that hung, memory agrees with storage.
func TestMountAfterAHungOperation(t *testing.T) {
	eachHungOperation(t, func(t *testing.T, m *mounttest.Mount, storage *mounttest.FaultyStorage, stuck *mounttest.StuckCalls, operate func() time.Duration) {
		operate()
		require.NotZero(t, stuck.Count())
		storage.Mend()
		_, took, _ := m.Timed(logical.ReadOperation, "token", nil)
		assert.LessOrEqual(t, took, oneHang)
		time.Sleep(oneHang)
		synctest.Wait()
		_, took, _ = m.Timed(logical.ReadOperation, "token", nil)
		assert.LessOrEqual(t, took, oneHang)
		synctest.Wait()

		assertAgrees(m)
		if storedClientID(m) != "" {
			m.Restart()
			assertAgrees(m)
		}
	})
}

// makeSuspect has an app report the token while Fuuffy issues no other.
func makeSuspect(m *mounttest.Mount) {
	m.T.Helper()
	token := m.ReadToken()
	time.Sleep(time.Minute)
	m.Sandbox.SetFault(mounttest.FaultMalformed)
	m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", token))
	m.Sandbox.ClearFault()
}

// storedClientID is the client of the stored config, empty for none.
func storedClientID(m *mounttest.Mount) string {
	m.T.Helper()
	return m.StoredPairs().Current.ClientID
}

// assertAgrees holds the engine to what is stored, once what it does in the background is done.
func assertAgrees(m *mounttest.Mount) {
	m.T.Helper()
	clientID := storedClientID(m)
	if clientID == "" {
		refusedToken(m)
		assert.Equal(m.T, "not configured", m.Status()["health"])
		return
	}
	m.Read()
	synctest.Wait()
	assert.Equal(m.T, clientID, m.Status()["client_id"])
	assert.True(m.T, m.Sandbox.TokenAlive(m.ReadToken()))
	assert.Equal(m.T, clientID, m.ServedClientID())
}

// failingAfter fails all operations but the first n.
func failingAfter(n int, fault mounttest.StorageFault) mounttest.StorageFault {
	var met atomic.Int64
	return func(apply func() error) error {
		if met.Add(1) <= int64(n) {
			return apply()
		}
		return fault(apply)
	}
}

// failsSlowly fails after most of the time that the engine gives it.
func failsSlowly(func() error) error {
	time.Sleep(4 * time.Second)
	return mounttest.ErrStorage
}

// hungWrite is an operation that writes the config, and how: put or delete.
type hungWrite struct {
	hungOperation
	write string
}

// configWrites are the operations that write the config.
func configWrites() map[string]hungWrite {
	writes := map[string]hungWrite{}
	for name, operation := range hungOperations {
		for _, call := range operation.hangs {
			if write, key, _ := strings.Cut(call, " "); write != "get" && key == mounttest.ConfigKey {
				writes[name+", "+call] = hungWrite{operation, write}
			}
		}
	}
	return writes
}

// A write whose outcome is unknown makes the engine look into storage. While it can't, readers
// go on with what was current.
func TestFailedWriteFollowedByAnOutage(t *testing.T) {
	for name, tt := range configWrites() {
		for fault, fail := range map[string]func(*mounttest.FaultyStorage){
			"fails":            func(s *mounttest.FaultyStorage) { s.Set(tt.write, mounttest.ConfigKey, mounttest.Fails) },
			"fails afterwards": func(s *mounttest.FaultyStorage) { s.Set(tt.write, mounttest.ConfigKey, mounttest.FailsAfterwards) },
			"hangs":            func(s *mounttest.FaultyStorage) { s.Hang(tt.write, mounttest.ConfigKey, 1, false) },
			"hangs afterwards": func(s *mounttest.FaultyStorage) { s.Hang(tt.write, mounttest.ConfigKey, 1, true) },
		} {
			for outage, follow := range map[string]mounttest.StorageFault{"fail": mounttest.Fails, "fail slowly": failsSlowly} {
				t.Run(fmt.Sprintf("%s %s, then gets %s", name, fault, outage), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := mounttest.NewConfigured(t)
						m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
						m.Read()
						tt.prepare(m)
						token := m.ReadToken()
						storage := m.UseFaultyStorage()
						fail(storage)
						last := 2 // The looks before the write succeed.
						if tt.operation == logical.DeleteOperation && tt.path == mounttest.ConfigKey {
							last = 1
						}
						reads := storage.Count("get", mounttest.ConfigKey, failingAfter(last, follow))
						resp, _, err := m.Timed(tt.operation, tt.path, tt.data)
						require.True(t, err != nil || resp.IsError())

						m.Serves(token, oneHang, "the first read")
						for i := range 10 {
							m.Serves(token, oneLook, fmt.Sprintf("minute %d", i))
							time.Sleep(time.Minute)
						}
						assert.Greater(t, reads(), last, "the engine looks into storage")
						storage.Mend()
						_, took, _ := m.Timed(logical.ReadOperation, "token", nil)
						assert.LessOrEqual(t, took, oneHang)
						time.Sleep(oneHang)
						assertAgrees(m)
					})
				})
			}
		}
	}
}

// A write hangs, the engine gives up and finds the former config, and then the write takes effect
// after all. Whoever finds the newer entry afterwards makes it current: no operator is shown one
// config, or told that a step was taken, while apps get tokens of another.
func TestWriteThatTakesEffectLate(t *testing.T) {
	for name, tt := range configWrites() {
		for then, look := range map[string]func(*mounttest.Mount){
			"config is read": func(m *mounttest.Mount) {
				_, _ = m.Backend.HandleRequest(m.T.Context(), &logical.Request{Operation: logical.ReadOperation, Path: mounttest.ConfigKey, Storage: m.Storage})
			},
			"it is repeated": func(m *mounttest.Mount) { _, _, _ = m.Timed(tt.operation, tt.path, tt.data) },
			"another setting": func(m *mounttest.Mount) {
				_, _, _ = m.Timed(logical.UpdateOperation, "config", mounttest.Pairs("rotation_reminder", "48h"))
			},
		} {
			t.Run(fmt.Sprintf("%s, then %s", name, then), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
					m.Read()
					tt.prepare(m)
					storage := m.UseFaultyStorage()
					stuck := storage.HangLate(tt.write, mounttest.ConfigKey, 2*time.Second)
					_, _, _ = m.Timed(tt.operation, tt.path, tt.data)
					require.NotZero(t, stuck.Count())
					_, _, _ = m.Timed(logical.ReadOperation, "token", nil)
					time.Sleep(time.Minute)

					look(m)
					synctest.Wait()
					assertAgrees(m)
					if storedClientID(m) != "" {
						assert.Equal(t, storedState(m), m.Rotation()["state"])
					}
				})
			})
		}
	}
}

// storedState is the state of the rotation in storage.
func storedState(m *mounttest.Mount) string {
	m.T.Helper()
	stored := m.StoredPairs()
	return stored.Rotation.Name()
}

// While the config can't be loaded, readers for whom there is no token hear that soon too.
func TestFailureWhileTheConfigCannotBeLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Read()
		storage := m.UseFaultyStorage()
		time.Sleep(2 * time.Hour)
		m.Sandbox.SetFault(mounttest.FaultRejected)
		m.Refused(logical.ReadOperation, mounttest.TokenKey, nil)
		stuck := storage.Hang("get", mounttest.ConfigKey, mounttest.AllCalls, false)
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		_, took, _ := m.Timed(logical.ReadOperation, mounttest.TokenKey, nil)
		assert.LessOrEqual(t, took, twoHangs, "the first read")
		for i := range 5 {
			resp, took, err := m.Timed(logical.ReadOperation, mounttest.TokenKey, nil)
			assert.True(t, err != nil || resp.IsError())
			assert.LessOrEqual(t, took, time.Second, "read %d after it", i+1)
		}
		assert.NotZero(t, stuck.Count())
	})
}

// The entry of the compromised pairs can hang too.
func TestLeaksThatHang(t *testing.T) {
	for name, tt := range map[string]struct {
		operation logical.Operation
		path      string
		data      map[string]any
	}{
		"status":  {logical.ReadOperation, "status", nil},
		"config":  {logical.CreateOperation, "config", firstPair},
		"revoked": {logical.UpdateOperation, "rotate-root/revoked", mounttest.Pairs("client_id", mounttest.ClientID)},
		"delete":  {logical.DeleteOperation, "config", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.New(t)
				stuck := m.UseFaultyStorage().Hang("get", mounttest.LeaksKey, mounttest.AllCalls, false)
				_, took, _ := m.Timed(tt.operation, tt.path, tt.data)
				assert.LessOrEqual(t, took, oneHang)
				assert.NotZero(t, stuck.Count())
			})
		})
	}
}

// One call that hangs is told once.
func TestTimeoutOfStorageIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		storage := m.UseFaultyStorage()
		storage.Hang("put", mounttest.TokenKey, 1, false)
		m.Read()
		synctest.Wait()
		assert.Equal(t, 1, m.Log.Count("storage did not answer within"), m.Log)
	})
}
