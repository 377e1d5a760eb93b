// SPDX-License-Identifier: MPL-2.0

package scenarios

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

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// Whoever is given a token can rely on it being in storage by then, however the engine
// came by it and whoever else waits for it.
func TestTokenIsStoredBeforeItIsServed(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(*mounttest.Mount)
		get     func(*mounttest.Mount) *logical.Response // what brings another token
	}{
		"first read": {func(*mounttest.Mount) {}, (*mounttest.Mount).Read},
		"after delete": {
			func(m *mounttest.Mount) { m.Read() },
			func(m *mounttest.Mount) *logical.Response {
				m.Do(logical.DeleteOperation, "token", nil)
				return m.Read()
			},
		},
		"refresh in the window": {
			func(m *mounttest.Mount) {
				m.Read()
				time.Sleep(51 * time.Minute)
			},
			(*mounttest.Mount).Read,
		},
		"report of a refused token": {
			func(m *mounttest.Mount) {
				m.Read()
				time.Sleep(time.Minute)
			},
			func(m *mounttest.Mount) *logical.Response { return m.Do(logical.UpdateOperation, "token", nil) },
		},
		"min_ttl of a longer job": {
			func(m *mounttest.Mount) {
				m.Read()
				time.Sleep(40 * time.Minute)
			},
			func(m *mounttest.Mount) *logical.Response {
				return m.Do(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", "25m"))
			},
		},
		"promote": {
			func(m *mounttest.Mount) {
				m.Read()
				m.RotateTo(rotation.Staged)
			},
			func(m *mounttest.Mount) *logical.Response {
				m.Do(logical.UpdateOperation, "rotate-root/promote", nil)
				return m.Read()
			},
		},
		"new credentials in config": {
			func(m *mounttest.Mount) {
				m.Read()
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
			},
			func(m *mounttest.Mount) *logical.Response {
				m.Do(logical.UpdateOperation, "config", mounttest.NewPair())
				return m.Read()
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				storage := m.UseFaultyStorage()
				tt.prepare(m)
				before := storage.Stored(t, "token") // Served until there is another.
				storage.Set("put", "token", mounttest.Slowly(3*time.Second))

				var served, unsaved atomic.Int64
				check := func(resp *logical.Response) {
					served.Add(1)
					if token := resp.Data["access_token"].(string); !strings.Contains(storage.Stored(t, "token"), token) && !strings.Contains(before, token) {
						unsaved.Add(1)
					}
				}
				var callers sync.WaitGroup
				callers.Go(func() { check(tt.get(m)) })
				for i := range 40 {
					callers.Go(func() {
						time.Sleep(time.Duration(i) * 100 * time.Millisecond)
						check(m.Read())
					})
				}
				callers.Wait()
				time.Sleep(time.Minute)
				check(m.Read())
				assert.EqualValues(t, 42, served.Load())
				assert.Zero(t, unsaved.Load(), "answers with a token that was not in storage yet")
				assert.False(t, storage.Stored(t, "token") == before, "there is another token")
			})
		})
	}
}

// A crash does not lose a token that was given out: the engine serves it afterwards,
// without a request to Fuuffy.
func TestServedTokenOutlivesACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		storage := m.UseFaultyStorage()
		storage.Set("put", "token", mounttest.Slowly(4*time.Second))
		first := make(chan string, 10)
		for i := range 10 {
			go func() {
				time.Sleep(time.Duration(i) * time.Second)
				resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
				if err == nil && !resp.IsError() {
					first <- resp.Data["access_token"].(string)
				}
			}()
		}
		served := <-first
		left := storage.Snapshot(t)

		time.Sleep(time.Minute) // What goes on in the crashed process has no effect on what it left.
		m.Backend.Cleanup(t.Context())
		m.Storage.Storage = left
		m.Restart()
		requests := m.Requests()
		assert.True(t, m.ReadToken() == served, "the token that was given out")
		assert.Equal(t, requests, m.Requests(), "token requests after the crash")
	})
}

// A config write that changes only a setting leaves the stored token alone, also
// while this node could not load it.
func TestSettingKeepsTheStoredToken(t *testing.T) {
	for name, mend := range map[string]bool{"storage is well again": true, "storage still fails": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				storage := m.UseFaultyStorage()
				token := m.ReadToken()
				require.Equal(t, 1, m.Requests())

				storage.Set("get", "token", mounttest.Fails)
				m.Restart()
				if mend {
					storage.Set("get", "token", nil)
				}
				m.Do(logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true))
				storage.Set("get", "token", nil)

				m.Restart()
				assert.True(t, m.ReadToken() == token, "the valid token that was stored")
				assert.Equal(t, 1, m.Requests(), "token requests")
			})
		})
	}
}

// New credentials that were not tried have no token yet. That the old one could not be
// removed is logged; it is not served, nor after a restart.
func TestFormerTokenThatCannotBeRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		former := m.ReadToken()
		assert.Zero(t, m.Log.Count("could not remove a former entry from storage"), "there was none")
		storage := m.UseFaultyStorage()
		storage.Set("delete", "token", mounttest.Fails)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Do(logical.UpdateOperation, "config", mounttest.NewPair("verify_connection", false))
		assert.Equal(t, 1, m.Log.Count("could not remove a former entry from storage"))
		storage.Set("delete", "token", nil)
		m.Restart()
		assert.False(t, m.ReadToken() == former)
		assert.Equal(t, 1, m.Log.Count("could not remove a former entry from storage"))
	})
}

// The token that proves new credentials is saved over the old one, which needs no deletion.
func TestProofReplacesTheFormerToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		former := m.ReadToken()
		m.UseFaultyStorage().Set("delete", "token", mounttest.Fails)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Do(logical.UpdateOperation, "config", mounttest.NewPair())
		assert.Zero(t, m.Log.Count("could not remove"))
		m.Restart()
		assert.False(t, m.ReadToken() == former)
		assert.Equal(t, 2, m.Requests(), "the proof is served, after a restart too")
	})
}

// Credentials that could not be saved leave the stored token alone.
func TestFailedWriteKeepsTheStoredToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		m.Storage.Failing(mounttest.FailAll("put", mounttest.ConfigKey))
		_, err := m.Handle(t.Context(), logical.UpdateOperation, mounttest.ConfigKey, mounttest.Pairs("client_id", "shop-2", "client_secret", mounttest.Secret, "verify_connection", false))
		require.Error(t, err)
		m.Storage.Failing(nil)
		m.Restart()
		assert.True(t, m.ReadToken() == token, "the token is still there")
	})
}
