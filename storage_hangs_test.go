// SPDX-License-Identifier: MPL-2.0

package fuuffy

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
)

// oneHang is the longest that a storage call that hangs delays someone, and twoHangs that two in
// a row do.
const oneHang, twoHangs = 6 * time.Second, 11 * time.Second

// oneLook is the longest that readers wait for a config that couldn't be loaded before.
const oneLook = 500 * time.Millisecond

// configFaults are the ways in which the stored config can't be read. Each returns how often the
// engine met it.
var configFaults = map[string]func(*faultyStorage) (met func() int){
	"one call hangs":   func(s *faultyStorage) func() int { return s.hang("get", configKey, 1, false).count },
	"every call hangs": func(s *faultyStorage) func() int { return s.hang("get", configKey, allCalls, false).count },
	"every call fails": func(s *faultyStorage) func() int { return s.count("get", configKey, fails) },
	"one call fails":   func(s *faultyStorage) func() int { return s.count("get", configKey, failingOnce(1)) },
}

// mend makes all storage operations work.
func (s *faultyStorage) mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.stuck = map[string]storageFault{}, map[string]*stuckCalls{}
}

// nodes are those that serve readers. Each returns a node that has a token, and the storage that
// it loads its config from.
var nodes = map[string]func(*testing.T, time.Duration) (*mount, *faultyStorage){
	"active": func(t *testing.T, life time.Duration) (*mount, *faultyStorage) {
		m := newConfiguredMount(t)
		m.sandbox.SetTokenLifetime(life)
		m.read()
		return m, m.useFaultyStorage()
	},
	"performance standby": func(t *testing.T, life time.Duration) (*mount, *faultyStorage) {
		m := newConfiguredMount(t)
		m.sandbox.SetTokenLifetime(life)
		m.read()
		standby := m.node(consts.ReplicationPerformanceStandby, readOnlyStorage{Storage: m.storage.Storage})
		standby.read()
		return standby, standby.useFaultyStorage()
	},
	"performance secondary": func(t *testing.T, life time.Duration) (*mount, *faultyStorage) {
		m := newConfiguredMount(t)
		m.sandbox.SetTokenLifetime(life)
		secondary, _ := m.secondary()
		secondary.read()
		return secondary, secondary.useFaultyStorage()
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
						token := m.readToken()
						met := spoil(storage)
						m.b.InvalidateKey(t.Context(), configKey)
						m.serves(token, oneHang, "the first read")
						for i := range 20 {
							m.serves(token, 0, fmt.Sprintf("read %d after it", i+1))
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
				token := m.readToken()
				stuck := storage.hang("get", configKey, allCalls, false)
				m.b.InvalidateKey(t.Context(), configKey)
				answered := make(chan struct{}, 30)
				for i := range cap(answered) {
					go func() {
						time.Sleep(time.Duration(i) * 300 * time.Millisecond)
						m.serves(token, max(0, oneHang-time.Duration(i)*300*time.Millisecond), fmt.Sprintf("reader %d", i))
						answered <- struct{}{}
					}()
				}
				for range cap(answered) {
					<-answered
				}
				assert.NotZero(t, stuck.count())
			})
		})
	}
}

// An outage of the storage that lasts for hours doesn't reach readers: the engine refreshes the
// token with the credentials that it knows.
func TestTokensDuringAnOutageOfTheStorage(t *testing.T) {
	outages := map[string]func(*faultyStorage){
		"the config hangs": func(s *faultyStorage) { s.hang("get", configKey, allCalls, false) },
		"the config fails": func(s *faultyStorage) { s.set("get", configKey, fails) },
		"everything hangs": func(s *faultyStorage) {
			for _, call := range []string{"get", "put", "delete"} {
				for _, key := range []string{configKey, tokenKey} {
					s.hang(call, key, allCalls, false)
				}
			}
		},
		"everything fails": func(s *faultyStorage) {
			for _, call := range []string{"get", "put", "delete"} {
				for _, key := range []string{configKey, tokenKey} {
					s.set(call, key, fails)
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
							m.b.InvalidateKey(t.Context(), configKey)
							m.gets(oneHang, "the first read")
						}
						requests := m.requests()
						for i := range 3 * 60 {
							if resp := m.gets(oneLook, fmt.Sprintf("minute %d", i)); resp == nil {
								return
							} else if !assert.True(t, m.sandbox.TokenAlive(resp.Data["access_token"].(string)), "minute %d", i) {
								return
							}
							began := time.Now()
							ctx, cancel := context.WithTimeout(t.Context(), impatience)
							_, _ = m.handle(ctx, logical.RollbackOperation, "", nil)
							cancel()
							assert.LessOrEqual(t, time.Since(began), oneHang, "PeriodicFunc")
							time.Sleep(time.Minute - time.Since(began))
						}
						assert.GreaterOrEqual(t, m.requests()-requests, 3, "the engine refreshes the token")
						assert.LessOrEqual(t, m.requests()-requests, 4)
						storage.mend()
						m.gets(oneHang, "afterwards")
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
					m := newConfiguredMount(t)
					m.sandbox.CreateClient(newClientID, newSecret)
					token := m.readToken()
					other := m.node(0, m.storage.Storage)
					other.configure("client_id", newClientID, "client_secret", newSecret, "verify_connection", false)
					storage := m.useFaultyStorage()
					met := spoil(storage)
					m.b.InvalidateKey(t.Context(), configKey)
					for began := time.Now(); time.Since(began) < lasts; time.Sleep(time.Second) {
						if resp := m.gets(oneHang, "during the outage"); resp == nil {
							return
						} else if resp.Data["access_token"] != token {
							break // One call only.
						}
					}
					require.NotZero(t, met())
					storage.mend()

					time.Sleep(twoHangs) // The load that hung may have to end.
					served := m.gets(oneLook, "the next read, soon or much later")
					require.NotNil(t, served)
					assert.False(t, served.Data["access_token"] == token, "a token of the former client")
					assert.Equal(t, newClientID, m.status()["client_id"])
					assert.Equal(t, newClientID, m.readConfig()["client_id"])
				})
			})
		}
	}
}

// A token request is under way when the config becomes unreadable. Whoever waits gets a token.
func TestInvalidationThatCannotBeFollowedDuringARequest(t *testing.T) {
	for fault, spoil := range configFaults {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				storage := m.useFaultyStorage()
				m.sandbox.SetFault(slowAnswer)
				answered := make(chan struct{}, 5)
				for range cap(answered) {
					go func() {
						m.gets(oneHang+4*time.Second, "a reader")
						answered <- struct{}{}
					}()
				}
				time.Sleep(time.Second)
				met := spoil(storage)
				m.b.InvalidateKey(t.Context(), configKey)
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
				m := newConfiguredMount(t)
				token := m.readToken()
				storage := m.useFaultyStorage()
				met := spoil(storage)
				began := time.Now()
				m.restart()
				assert.LessOrEqual(t, time.Since(began), oneHang, "Initialize")
				require.NotZero(t, met())
				if fault == "every call hangs" || fault == "every call fails" {
					for range 3 {
						_, took, err := m.timed(logical.ReadOperation, tokenKey, nil)
						assert.Error(t, err)
						assert.NotErrorIs(t, err, context.Canceled)
						assert.LessOrEqual(t, took, oneHang)
					}
					storage.mend()
				}
				m.gets(oneHang, "once storage works")
				m.serves(token, 0, "the stored token")
				assert.Equal(t, 1, m.requests())
			})
		})
	}
}

// A look for the stored token that hangs or fails costs the start five seconds at most, and a
// token request, and no one more.
func TestStartThatCannotReadTheToken(t *testing.T) {
	for name, spoil := range map[string]func(*faultyStorage){
		"one call hangs":   func(s *faultyStorage) { s.hang("get", tokenKey, 1, false) },
		"every call hangs": func(s *faultyStorage) { s.hang("get", tokenKey, allCalls, false) },
		"every call fails": func(s *faultyStorage) { s.set("get", tokenKey, fails) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.read()
				storage := m.useFaultyStorage()
				spoil(storage)
				began := time.Now()
				m.restart()
				assert.LessOrEqual(t, time.Since(began), oneHang, "Initialize")
				if resp := m.gets(oneHang, "the first read"); resp != nil {
					m.serves(resp.Data["access_token"].(string), 0, "the next")
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
		"stage":            {logical.UpdateOperation, "rotate-root", newPair(), twoHangs},
		"promote":          {logical.UpdateOperation, "rotate-root/promote", nil, twoHangs},
		"revoked":          {logical.UpdateOperation, "rotate-root/revoked", pairs("client_id", newClientID), twoHangs},
		"config write":     {logical.UpdateOperation, "config", pairs("stale_if_error", true), oneHang},
		"config delete":    {logical.DeleteOperation, "config", nil, oneHang},
		"min_ttl":          {logical.ReadOperation, "token", pairs("min_ttl", "10m"), oneHang},
		"existence check":  {"", "config", pairs("stale_if_error", true), oneHang},
		"rotation discard": {logical.DeleteOperation, "rotate-root", nil, twoHangs},
	} {
		for start, restarted := range map[string]bool{"invalidated": false, "started": true} {
			t.Run(name+", "+start, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					m.sandbox.CreateClient(newClientID, newSecret)
					m.read()
					time.Sleep(time.Minute)
					storage := m.useFaultyStorage()
					stuck := storage.hang("get", configKey, allCalls, false)
					if restarted {
						m.restart()
					} else {
						m.b.InvalidateKey(t.Context(), configKey)
					}
					var took time.Duration
					if tt.operation == "" {
						ctx, cancel := context.WithTimeout(t.Context(), impatience)
						defer cancel()
						began := time.Now()
						_, _, _ = m.b.HandleExistenceCheck(ctx, &logical.Request{Operation: logical.UpdateOperation, Path: tt.path, Data: tt.data, Storage: m.storage})
						took = time.Since(began)
					} else {
						_, took, _ = m.timed(tt.operation, tt.path, tt.data)
					}
					assert.LessOrEqual(t, took, tt.most)
					assert.True(t, stuck.count() > 0 || name == "token delete", "it needs the config")
				})
			})
		}
	}
}

// hungOperation is an operation, and the storage calls in it that may hang.
type hungOperation struct {
	prepare   func(*mount)
	operation logical.Operation
	path      string
	data      map[string]any
	hangs     []string // operation and key
}

// hungOperations are operations of an operator in which one storage call hangs. prepare makes a
// mount of which the operation is possible.
var hungOperations = map[string]hungOperation{
	"config read": {func(*mount) {}, logical.ReadOperation, "config", nil, []string{"get config"}},
	"setting":     {func(*mount) {}, logical.UpdateOperation, "config", pairs("rotation_reminder", "24h"), []string{"get config", "put config"}},
	"other credentials": {
		func(*mount) {}, logical.UpdateOperation, "config", newPair(), []string{"get config", "put config", "put token"},
	},
	"other credentials, not tested": {
		func(*mount) {}, logical.UpdateOperation, "config", newPair("verify_connection", false), []string{"get config", "put config", "delete token"},
	},
	"config delete": {func(*mount) {}, logical.DeleteOperation, "config", nil, []string{"get config", "delete config", "delete token"}},
	"token delete":  {func(*mount) {}, logical.DeleteOperation, "token", nil, []string{"delete token"}},
	"check":         {func(m *mount) { m.makeSuspect() }, logical.UpdateOperation, "rotate-root/check", nil, []string{"put token"}},
	"stage":         {func(*mount) {}, logical.UpdateOperation, "rotate-root", newPair(), []string{"get config", "put config"}},
	"emergency": {
		func(*mount) {}, logical.UpdateOperation, "rotate-root", newPair("compromised", true), []string{"get config", "put config", "put token"},
	},
	"promote":  {func(m *mount) { m.stage() }, logical.UpdateOperation, "rotate-root/promote", nil, []string{"get config", "put config", "put token"}},
	"discard":  {func(m *mount) { m.stage() }, logical.DeleteOperation, "rotate-root", nil, []string{"get config", "put config"}},
	"rollback": {func(m *mount) { m.stage(); m.promote() }, logical.UpdateOperation, "rotate-root/rollback", nil, []string{"get config", "put config", "put token"}},
	"complete": {func(m *mount) { m.stage(); m.promote() }, logical.UpdateOperation, "rotate-root/complete", pairs("force", true), []string{"get config", "put config"}},
	"revoked": {
		func(m *mount) { m.stage(); m.do(logical.DeleteOperation, "rotate-root", nil) },
		logical.UpdateOperation, "rotate-root/revoked", pairs("client_id", newClientID), []string{"get config", "put config"},
	},
}

// eachHungOperation runs a test with each storage call of each operation that hangs, before or
// after it took effect.
func eachHungOperation(t *testing.T, test func(t *testing.T, m *mount, storage *faultyStorage, stuck *stuckCalls, operate func() time.Duration)) {
	for name, tt := range hungOperations {
		for _, call := range tt.hangs {
			for _, applied := range []bool{false, true} {
				operation, key, _ := strings.Cut(call, " ")
				if applied && operation == "get" {
					continue
				}
				t.Run(fmt.Sprintf("%s, %s hangs, applied %t", name, call, applied), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := newConfiguredMount(t)
						m.sandbox.CreateClient(newClientID, newSecret)
						m.read()
						tt.prepare(m)
						storage := m.useFaultyStorage()
						operate := func() time.Duration {
							_, took, _ := m.timed(tt.operation, tt.path, tt.data)
							return took
						}
						test(t, m, storage, storage.hang(operation, key, allCalls, applied), operate)
					})
				})
			}
		}
	}
}

// An operation whose storage call hangs delays neither readers nor other operators, and ends
// itself.
func TestHungOperationDelaysNobody(t *testing.T) {
	eachHungOperation(t, func(t *testing.T, m *mount, storage *faultyStorage, stuck *stuckCalls, operate func() time.Duration) {
		m.do(logical.ReadOperation, "token", nil)
		ended := make(chan time.Duration, 1)
		go func() { ended <- operate() }()
		synctest.Wait()

		var others sync.WaitGroup
		others.Go(func() {
			for range 3 {
				_, took, _ := m.timed(logical.ReadOperation, "token", nil)
				assert.LessOrEqual(t, took, oneHang, "a reader")
				time.Sleep(time.Second)
			}
		})
		for _, path := range []string{"status", "rotate-root", "metrics"} {
			others.Go(func() {
				_, took, _ := m.timed(logical.ReadOperation, path, nil)
				assert.LessOrEqual(t, took, oneHang, path)
			})
		}
		others.Go(func() {
			_, took, _ := m.timed(logical.ReadOperation, "config", nil)
			assert.LessOrEqual(t, took, twoHangs, "config, in which a call may hang too")
		})
		others.Wait()
		assert.LessOrEqual(t, <-ended, twoHangs, "the operation itself")
		assert.NotZero(t, stuck.count())
	})
}

// Nor does it delay the publication of a token that readers wait for.
func TestHungOperationDelaysNoFetchedToken(t *testing.T) {
	eachHungOperation(t, func(t *testing.T, m *mount, storage *faultyStorage, stuck *stuckCalls, operate func() time.Duration) {
		m.b.InvalidateKey(t.Context(), tokenKey)
		require.NoError(t, storage.Storage.Delete(t.Context(), tokenKey))
		ended := make(chan time.Duration, 1)
		go func() { ended <- operate() }()
		synctest.Wait()
		var readers sync.WaitGroup
		for i := range 10 {
			readers.Go(func() {
				time.Sleep(time.Duration(i) * 700 * time.Millisecond)
				_, took, _ := m.timed(logical.ReadOperation, "token", nil)
				// Its own look into storage may hang once, and so may the save.
				assert.LessOrEqual(t, took, twoHangs+oneHang, "a reader")
			})
		}
		readers.Wait()
		<-ended
		assert.NotZero(t, stuck.count())
	})
}

// After one call that hung, memory agrees with storage.
func TestMountAfterAHungOperation(t *testing.T) {
	eachHungOperation(t, func(t *testing.T, m *mount, storage *faultyStorage, stuck *stuckCalls, operate func() time.Duration) {
		operate()
		require.NotZero(t, stuck.count())
		storage.mend()
		_, took, _ := m.timed(logical.ReadOperation, "token", nil)
		assert.LessOrEqual(t, took, oneHang)
		time.Sleep(oneHang)
		synctest.Wait()
		_, took, _ = m.timed(logical.ReadOperation, "token", nil)
		assert.LessOrEqual(t, took, oneHang)
		synctest.Wait()

		m.assertAgrees()
		if m.storedClientID() != "" {
			m.restart()
			m.assertAgrees()
		}
	})
}

// makeSuspect has an app report the token while Fuuffy issues no other.
func (m *mount) makeSuspect() {
	m.t.Helper()
	token := m.readToken()
	time.Sleep(time.Minute)
	m.sandbox.SetFault(faultMalformed)
	m.refused(logical.UpdateOperation, "token", pairs("rejected_token", token))
	m.sandbox.ClearFault()
}

// storedClientID is the client of the stored config, empty for none.
func (m *mount) storedClientID() string {
	m.t.Helper()
	return m.storedPairs().Current.ClientID
}

// assertAgrees holds the engine to what is stored, once what it does in the background is done.
func (m *mount) assertAgrees() {
	m.t.Helper()
	clientID := m.storedClientID()
	if clientID == "" {
		m.refusedToken()
		assert.Equal(m.t, "not configured", m.status()["health"])
		return
	}
	m.read()
	synctest.Wait()
	assert.Equal(m.t, clientID, m.status()["client_id"])
	assert.True(m.t, m.sandbox.TokenAlive(m.readToken()))
	assert.Equal(m.t, clientID, m.servedClientID())
}

// failingAfter fails all operations but the first n.
func failingAfter(n int, fault storageFault) storageFault {
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
	return errStorage
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
			if write, key, _ := strings.Cut(call, " "); write != "get" && key == configKey {
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
		for fault, fail := range map[string]func(*faultyStorage){
			"fails":            func(s *faultyStorage) { s.set(tt.write, configKey, fails) },
			"fails afterwards": func(s *faultyStorage) { s.set(tt.write, configKey, failsAfterwards) },
			"hangs":            func(s *faultyStorage) { s.hang(tt.write, configKey, 1, false) },
			"hangs afterwards": func(s *faultyStorage) { s.hang(tt.write, configKey, 1, true) },
		} {
			for outage, follow := range map[string]storageFault{"fail": fails, "fail slowly": failsSlowly} {
				t.Run(fmt.Sprintf("%s %s, then gets %s", name, fault, outage), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := newConfiguredMount(t)
						m.sandbox.CreateClient(newClientID, newSecret)
						m.read()
						tt.prepare(m)
						token := m.readToken()
						storage := m.useFaultyStorage()
						fail(storage)
						last := 2 // The looks before the write succeed.
						if tt.operation == logical.DeleteOperation && tt.path == configKey {
							last = 1
						}
						reads := storage.count("get", configKey, failingAfter(last, follow))
						resp, _, err := m.timed(tt.operation, tt.path, tt.data)
						require.True(t, err != nil || resp.IsError())

						m.serves(token, oneHang, "the first read")
						for i := range 10 {
							m.serves(token, oneLook, fmt.Sprintf("minute %d", i))
							time.Sleep(time.Minute)
						}
						assert.Greater(t, reads(), last, "the engine looks into storage")
						storage.mend()
						_, took, _ := m.timed(logical.ReadOperation, "token", nil)
						assert.LessOrEqual(t, took, oneHang)
						time.Sleep(oneHang)
						m.assertAgrees()
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
		for then, look := range map[string]func(*mount){
			"config is read": func(m *mount) {
				_, _ = m.b.HandleRequest(m.t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: configKey, Storage: m.storage})
			},
			"it is repeated": func(m *mount) { _, _, _ = m.timed(tt.operation, tt.path, tt.data) },
			"another setting": func(m *mount) {
				_, _, _ = m.timed(logical.UpdateOperation, "config", pairs("rotation_reminder", "48h"))
			},
		} {
			t.Run(fmt.Sprintf("%s, then %s", name, then), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					m.sandbox.CreateClient(newClientID, newSecret)
					m.read()
					tt.prepare(m)
					storage := m.useFaultyStorage()
					stuck := storage.hangLate(tt.write, configKey, 2*time.Second)
					_, _, _ = m.timed(tt.operation, tt.path, tt.data)
					require.NotZero(t, stuck.count())
					_, _, _ = m.timed(logical.ReadOperation, "token", nil)
					time.Sleep(time.Minute)

					look(m)
					synctest.Wait()
					m.assertAgrees()
					if m.storedClientID() != "" {
						assert.Equal(t, m.storedState(), m.rotation()["state"])
					}
				})
			})
		}
	}
}

// storedState is the state of the rotation in storage.
func (m *mount) storedState() string {
	m.t.Helper()
	stored := m.storedPairs()
	return stored.Rotation.Name()
}

// While the config can't be loaded, readers for whom there is no token hear that soon too.
func TestFailureWhileTheConfigCannotBeLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.read()
		storage := m.useFaultyStorage()
		time.Sleep(2 * time.Hour)
		m.sandbox.SetFault(faultRejected)
		m.refused(logical.ReadOperation, tokenKey, nil)
		stuck := storage.hang("get", configKey, allCalls, false)
		m.b.InvalidateKey(t.Context(), configKey)
		_, took, _ := m.timed(logical.ReadOperation, tokenKey, nil)
		assert.LessOrEqual(t, took, twoHangs, "the first read")
		for i := range 5 {
			resp, took, err := m.timed(logical.ReadOperation, tokenKey, nil)
			assert.True(t, err != nil || resp.IsError())
			assert.LessOrEqual(t, took, time.Second, "read %d after it", i+1)
		}
		assert.NotZero(t, stuck.count())
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
		"revoked": {logical.UpdateOperation, "rotate-root/revoked", pairs("client_id", testClientID)},
		"delete":  {logical.DeleteOperation, "config", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				stuck := m.useFaultyStorage().hang("get", leaksKey, allCalls, false)
				_, took, _ := m.timed(tt.operation, tt.path, tt.data)
				assert.LessOrEqual(t, took, oneHang)
				assert.NotZero(t, stuck.count())
			})
		})
	}
}

// One call that hangs is told once.
func TestTimeoutOfStorageIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		storage := m.useFaultyStorage()
		storage.hang("put", tokenKey, 1, false)
		m.read()
		synctest.Wait()
		assert.Equal(t, 1, m.log.count("storage did not answer within"), m.log)
	})
}
