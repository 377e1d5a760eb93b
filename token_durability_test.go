// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whoever is given a token can rely on it being in storage by then, however the engine
// came by it and whoever else waits for it.
func TestTokenIsStoredBeforeItIsServed(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(*mount)
		get     func(*mount) *logical.Response // what brings another token
	}{
		"first read": {func(*mount) {}, (*mount).read},
		"after delete": {
			func(m *mount) { m.read() },
			func(m *mount) *logical.Response {
				m.do(logical.DeleteOperation, "token", nil)
				return m.read()
			},
		},
		"refresh in the window": {
			func(m *mount) {
				m.read()
				time.Sleep(51 * time.Minute)
			},
			(*mount).read,
		},
		"report of a refused token": {
			func(m *mount) {
				m.read()
				time.Sleep(time.Minute)
			},
			func(m *mount) *logical.Response { return m.do(logical.UpdateOperation, "token", nil) },
		},
		"min_ttl of a longer job": {
			func(m *mount) {
				m.read()
				time.Sleep(40 * time.Minute)
			},
			func(m *mount) *logical.Response {
				return m.do(logical.ReadOperation, "token", pairs("min_ttl", "25m"))
			},
		},
		"promote": {
			func(m *mount) {
				m.read()
				m.stageSuccessor()
			},
			func(m *mount) *logical.Response {
				m.do(logical.UpdateOperation, "rotate-root/promote", nil)
				return m.read()
			},
		},
		"new credentials in config": {
			func(m *mount) {
				m.read()
				m.sandbox.CreateClient(successorID, successorSecret)
			},
			func(m *mount) *logical.Response {
				m.do(logical.UpdateOperation, "config", pairs("client_id", successorID, "client_secret", successorSecret))
				return m.read()
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				storage := m.useFaultyStorage()
				tt.prepare(m)
				before := storage.stored(t, "token") // Served until there is another.
				storage.set("put", "token", slowly(3*time.Second))

				var served, unsaved atomic.Int64
				check := func(resp *logical.Response) {
					served.Add(1)
					if token := resp.Data["access_token"].(string); !strings.Contains(storage.stored(t, "token"), token) && !strings.Contains(before, token) {
						unsaved.Add(1)
					}
				}
				var callers sync.WaitGroup
				callers.Go(func() { check(tt.get(m)) })
				for i := range 40 {
					callers.Go(func() {
						time.Sleep(time.Duration(i) * 100 * time.Millisecond)
						check(m.read())
					})
				}
				callers.Wait()
				time.Sleep(time.Minute)
				check(m.read())
				assert.EqualValues(t, 42, served.Load())
				assert.Zero(t, unsaved.Load(), "answers with a token that was not in storage yet")
				assert.False(t, storage.stored(t, "token") == before, "there is another token")
			})
		})
	}
}

// A crash does not lose a token that was given out: the engine serves it afterwards,
// without a request to Fuuffy.
func TestServedTokenOutlivesACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		storage := m.useFaultyStorage()
		storage.set("put", "token", slowly(4*time.Second))
		first := make(chan string, 10)
		for i := range 10 {
			go func() {
				time.Sleep(time.Duration(i) * time.Second)
				resp, err := m.handle(t.Context(), logical.ReadOperation, "token", nil)
				if err == nil && !resp.IsError() {
					first <- resp.Data["access_token"].(string)
				}
			}()
		}
		served := <-first
		left := storage.snapshot(t)

		time.Sleep(time.Minute) // What goes on in the crashed process has no effect on what it left.
		m.b.Cleanup(t.Context())
		m.storage.Storage = left
		m.restart()
		requests := m.requests()
		assert.True(t, m.readToken() == served, "the token that was given out")
		assert.Equal(t, requests, m.requests(), "token requests after the crash")
	})
}

// A config write that changes only a setting leaves the stored token alone, also
// while this node could not load it.
func TestSettingKeepsTheStoredToken(t *testing.T) {
	for name, mend := range map[string]bool{"storage is well again": true, "storage still fails": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				storage := m.useFaultyStorage()
				token := m.readToken()
				require.Equal(t, 1, m.requests())

				storage.set("get", "token", fails)
				m.restart()
				if mend {
					storage.set("get", "token", nil)
				}
				m.do(logical.UpdateOperation, "config", pairs("stale_if_error", true))
				storage.set("get", "token", nil)

				m.restart()
				assert.True(t, m.readToken() == token, "the valid token that was stored")
				assert.Equal(t, 1, m.requests(), "token requests")
			})
		})
	}
}

// New credentials that were not tried have no token yet. That the old one could not be
// removed is logged; it is not served, nor after a restart.
func TestFormerTokenThatCannotBeRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		former := m.readToken()
		assert.Zero(t, m.log.count("could not remove a former entry from storage"), "there was none")
		storage := m.useFaultyStorage()
		storage.set("delete", "token", fails)
		m.sandbox.CreateClient(successorID, successorSecret)
		m.do(logical.UpdateOperation, "config", pairs("client_id", successorID, "client_secret", successorSecret, "verify_connection", false))
		assert.Equal(t, 1, m.log.count("could not remove a former entry from storage"))
		storage.set("delete", "token", nil)
		m.restart()
		assert.False(t, m.readToken() == former)
		assert.Equal(t, 1, m.log.count("could not remove a former entry from storage"))
	})
}

// The token that proves new credentials is saved over the old one, which needs no deletion.
func TestProofReplacesTheFormerToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		former := m.readToken()
		m.useFaultyStorage().set("delete", "token", fails)
		m.sandbox.CreateClient(successorID, successorSecret)
		m.do(logical.UpdateOperation, "config", pairs("client_id", successorID, "client_secret", successorSecret))
		assert.Zero(t, m.log.count("could not remove"))
		m.restart()
		assert.False(t, m.readToken() == former)
		assert.Equal(t, 2, m.requests(), "the proof is served, after a restart too")
	})
}

// Credentials that could not be saved leave the stored token alone.
func TestFailedWriteKeepsTheStoredToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		m.storage.failing(failAll("put", configKey))
		_, err := m.handle(t.Context(), logical.UpdateOperation, configKey, pairs("client_id", "shop-2", "client_secret", testSecret, "verify_connection", false))
		require.Error(t, err)
		m.storage.failing(nil)
		m.restart()
		assert.True(t, m.readToken() == token, "the token is still there")
	})
}
