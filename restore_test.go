// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// unobserved is for storage operations that no one records.
type unobserved struct{}

func (unobserved) effect(act func() error) error { return act() }
func (unobserved) end(error)                     {}

// A node that starts reads the stored token. If Vault tells it meanwhile that another
// node deleted that token, it must not serve it.
func TestRestoreOfADeletedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		deleted := m.readToken()
		whole, invalidated := m.storage.Storage, make(chan struct{})
		m.storage.Storage = &slowStorage{
			Storage: whole,
			begin: func(context.Context, string, *logical.StorageEntry) storageObserver {
				return unobserved{}
			},
			fate: func(_ context.Context, operation, key string) storageFate {
				if operation != "get" || key != tokenKey {
					return storageFate{}
				}
				go func() {
					defer close(invalidated)
					time.Sleep(time.Second)
					assert.NoError(t, whole.Delete(context.Background(), tokenKey))
					m.b.InvalidateKey(context.Background(), tokenKey)
				}()
				return storageFate{after: 2 * time.Second}
			},
		}
		m.restart()
		<-invalidated
		m.storage.Storage = whole
		assert.False(t, deleted == m.readToken(), "the deleted token is served")
	})
}

// A report right after a start finds no token in memory, but the reported one in storage.
func TestReportAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		reported := m.readToken()
		time.Sleep(time.Minute)
		m.storage.failing(failAll("get", tokenKey))
		m.restart()
		m.storage.failing(nil)

		before := m.requests()
		resp := m.do(logical.UpdateOperation, tokenKey, pairs("rejected_token", reported))
		assert.False(t, reported == resp.Data["access_token"], "the reported token is the answer")
		require.Equal(t, before+1, m.requests())
	})
}

// A read that comes while a node starts gets the stored token, whichever of the two finds it
// first, and even if only the start does.
func TestReadDuringRestore(t *testing.T) {
	for name, age := range map[string]time.Duration{"fresh": time.Minute, "in its window": 52 * time.Minute} {
		for name, found := range map[string]bool{name: true, name + ", and the read does not find it": false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					stored := m.readToken()
					time.Sleep(age)
					m.log.reset()
					if !found {
						m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusForbidden})
					}

					var looks atomic.Int64
					read := make(chan *logical.Response, 1)
					m.useFaultyStorage().set("get", tokenKey, func(apply func() error) error {
						if looks.Add(1) == 1 {
							go func() {
								resp, err := m.handle(t.Context(), logical.ReadOperation, "token", nil)
								assert.NoError(t, err)
								read <- resp
							}()
						} else if !found {
							time.Sleep(2 * time.Second)
							return errStorage
						}
						time.Sleep(time.Second)
						return apply()
					})
					m.restart()
					resp := <-read
					if assert.NotNil(t, resp) && assert.False(t, resp.IsError(), "%v", resp.Error()) {
						assert.True(t, stored == resp.Data["access_token"])
						assert.NotContains(t, strings.Join(resp.Warnings, "\n"), "stale_if_error")
					}
					if found {
						assert.Zero(t, m.log.count("issues no token"), m.log)
					}
				})
			})
		}
	}
}

// A panic while a node starts ends neither the process nor the mount.
func TestPanicDuringRestore(t *testing.T) {
	for name, operate := range map[string]func(*mount){
		"read":         func(*mount) {},
		"token delete": func(m *mount) { m.timed(logical.DeleteOperation, "token", nil) },
		"config write": func(m *mount) { m.timed(logical.UpdateOperation, "config", pairs("stale_if_error", true)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.read()
				storage := m.useFaultyStorage()
				storage.set("get", tokenKey, panicsWith("bug near "+testSecret))
				func() {
					defer func() { assert.False(t, recover() != nil, "Initialize panics, and with it the process") }()
					m.restart()
				}()
				synctest.Wait()
				assert.NotZero(t, m.log.count("panic in"))
				assert.Zero(t, m.log.count(testSecret))
				storage.mend()
				operate(m)
				m.gets(oneHang, "a read afterwards")
			})
		})
	}
}

// A start, and the first read, couldn't look for the stored token, and Fuuffy issues none. Once
// storage works again, readers get the stored token, whatever wait Fuuffy asked for.
func TestStoredTokenWhileTheEngineHoldsOff(t *testing.T) {
	for fault, f := range map[string]fuuffytest.Fault{"rate limited": faultRateLimited, "rejected": faultRejected, "unavailable": faultUnavailable} {
		for blip, spoil := range map[string]func(*faultyStorage){
			"reads fail": func(s *faultyStorage) { s.set("get", tokenKey, fails) },
			"reads hang": func(s *faultyStorage) { s.hang("get", tokenKey, allCalls, false) },
		} {
			t.Run(fault+", "+blip, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					token := m.readToken()
					storage := m.useFaultyStorage()
					spoil(storage)
					m.restart()
					m.sandbox.SetFault(f)
					m.refused(logical.ReadOperation, tokenKey, nil)
					storage.mend()
					m.serves(token, oneHang, "a read")
				})
			})
		}
	}
}

// During a hold-off, a reader waits for storage while the token in it enters its buffer.
func TestTokenThatEntersItsBufferDuringALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		until := m.statusTime("token_served_until")
		time.Sleep(54 * time.Minute)
		storage := m.useFaultyStorage()
		storage.set("get", tokenKey, fails)
		m.sandbox.SetFault(faultRateLimited)
		m.restart()
		m.refused(logical.ReadOperation, tokenKey, nil)
		storage.set("get", tokenKey, slowly(4*time.Second))
		time.Sleep(until.Add(-2 * time.Second).Sub(m.now()))
		resp, _, err := m.timed(logical.ReadOperation, tokenKey, nil)
		if err == nil && !resp.IsError() {
			assert.False(t, resp.Data["access_token"] == token, "the token has less left than the buffer")
		}
	})
}

// During a hold-off, a reader waits for storage while an operator writes credentials that work.
func TestNewCredentialsDuringALook(t *testing.T) {
	for name, verify := range map[string]bool{"verified": true, "not verified": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				storage := m.useFaultyStorage()
				storage.set("get", tokenKey, fails)
				m.sandbox.RevokeClient(testClientID)
				m.restart()
				m.refused(logical.ReadOperation, tokenKey, nil)
				storage.hang("get", tokenKey, 1, false)
				read := make(chan struct{})
				go func() {
					defer close(read)
					time.Sleep(time.Second)
					m.gets(attempts, "a reader that waits while the credentials are replaced")
				}()
				time.Sleep(2 * time.Second)
				m.write("config", "client_id", newClientID, "client_secret", newSecret, "verify_connection", verify)
				<-read
			})
		})
	}
}
