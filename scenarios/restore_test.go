// SPDX-License-Identifier: MPL-2.0

package scenarios

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
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// A node that starts reads the stored token. If Vault tells it meanwhile that another
// node deleted that token, it must not serve it.
func TestRestoreOfADeletedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		deleted := m.ReadToken()
		storage, invalidated := m.UseFaultyStorage(), make(chan struct{})
		storage.Set("get", mounttest.TokenKey, func(apply func() error) error {
			storage.Set("get", mounttest.TokenKey, nil)
			go func() {
				defer close(invalidated)
				time.Sleep(time.Second)
				assert.NoError(t, m.Storage.Delete(context.Background(), mounttest.TokenKey))
				m.Backend.InvalidateKey(context.Background(), mounttest.TokenKey)
			}()
			err := apply()
			time.Sleep(2 * time.Second)
			return err
		})
		m.Restart()
		<-invalidated
		assert.False(t, deleted == m.ReadToken(), "the deleted token is served")
	})
}

// A report right after a start finds no token in memory, but the reported one in storage.
func TestReportAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		reported := m.ReadToken()
		time.Sleep(time.Minute)
		m.Storage.Failing(mounttest.FailAll("get", mounttest.TokenKey))
		m.Restart()
		m.Storage.Failing(nil)

		before := m.Requests()
		resp := m.Do(logical.UpdateOperation, mounttest.TokenKey, mounttest.Pairs("rejected_token", reported))
		assert.False(t, reported == resp.Data["access_token"], "the reported token is the answer")
		require.Equal(t, before+1, m.Requests())
	})
}

// A read that comes while a node starts gets the stored token, whichever of the two finds it
// first, and even if only the start does.
func TestReadDuringRestore(t *testing.T) {
	for name, age := range map[string]time.Duration{"fresh": time.Minute, "in its window": 52 * time.Minute} {
		for name, found := range map[string]bool{name: true, name + ", and the read does not find it": false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					stored := m.ReadToken()
					time.Sleep(age)
					m.Log.Reset()
					if !found {
						m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusForbidden})
					}

					var looks atomic.Int64
					read := make(chan *logical.Response, 1)
					m.UseFaultyStorage().Set("get", mounttest.TokenKey, func(apply func() error) error {
						if looks.Add(1) == 1 {
							go func() {
								resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
								assert.NoError(t, err)
								read <- resp
							}()
						} else if !found {
							time.Sleep(2 * time.Second)
							return mounttest.ErrStorage
						}
						time.Sleep(time.Second)
						return apply()
					})
					m.Restart()
					resp := <-read
					if assert.NotNil(t, resp) && assert.False(t, resp.IsError(), "%v", resp.Error()) {
						assert.True(t, stored == resp.Data["access_token"])
						assert.NotContains(t, strings.Join(resp.Warnings, "\n"), "stale_if_error")
					}
					if found {
						assert.Zero(t, m.Log.Count("issues no token"), m.Log)
					}
				})
			})
		}
	}
}

// A panic while a node starts ends neither the process nor the mount.
func TestPanicDuringRestore(t *testing.T) {
	for name, operate := range map[string]func(*mounttest.Mount){
		"read":         func(*mounttest.Mount) {},
		"token delete": func(m *mounttest.Mount) { m.Timed(logical.DeleteOperation, "token", nil) },
		"config write": func(m *mounttest.Mount) {
			m.Timed(logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Read()
				storage := m.UseFaultyStorage()
				storage.Set("get", mounttest.TokenKey, mounttest.PanicsWith("bug near "+mounttest.Secret))
				func() {
					defer func() { assert.False(t, recover() != nil, "Initialize panics, and with it the process") }()
					m.Restart()
				}()
				synctest.Wait()
				assert.NotZero(t, m.Log.Count("panic in"))
				assert.Zero(t, m.Log.Count(mounttest.Secret))
				storage.Mend()
				operate(m)
				m.Gets(oneHang, "a read afterwards")
			})
		})
	}
}

// A start, and the first read, couldn't look for the stored token, and Fuuffy issues none. Once
// storage works again, readers get the stored token, whatever wait Fuuffy asked for.
func TestStoredTokenWhileTheEngineHoldsOff(t *testing.T) {
	for fault, f := range map[string]fuuffytest.Fault{"rate limited": mounttest.FaultRateLimited, "rejected": mounttest.FaultRejected, "unavailable": mounttest.FaultUnavailable} {
		for blip, spoil := range map[string]func(*mounttest.FaultyStorage){
			"reads fail": func(s *mounttest.FaultyStorage) { s.Set("get", mounttest.TokenKey, mounttest.Fails) },
			"reads hang": func(s *mounttest.FaultyStorage) { s.Hang("get", mounttest.TokenKey, mounttest.AllCalls, false) },
		} {
			t.Run(fault+", "+blip, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					token := m.ReadToken()
					storage := m.UseFaultyStorage()
					spoil(storage)
					m.Restart()
					m.Sandbox.SetFault(f)
					m.Refused(logical.ReadOperation, mounttest.TokenKey, nil)
					storage.Mend()
					m.Serves(token, oneHang, "a read")
				})
			})
		}
	}
}

// During a hold-off, a reader waits for storage while the token in it enters its buffer.
func TestTokenThatEntersItsBufferDuringALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		until := m.StatusTime("token_served_until")
		time.Sleep(54 * time.Minute)
		storage := m.UseFaultyStorage()
		storage.Set("get", mounttest.TokenKey, mounttest.Fails)
		m.Sandbox.SetFault(mounttest.FaultRateLimited)
		m.Restart()
		m.Refused(logical.ReadOperation, mounttest.TokenKey, nil)
		storage.Set("get", mounttest.TokenKey, mounttest.Slowly(4*time.Second))
		time.Sleep(until.Add(-2 * time.Second).Sub(m.Now()))
		resp, _, err := m.Timed(logical.ReadOperation, mounttest.TokenKey, nil)
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
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				storage := m.UseFaultyStorage()
				storage.Set("get", mounttest.TokenKey, mounttest.Fails)
				m.Sandbox.RevokeClient(mounttest.ClientID)
				m.Restart()
				m.Refused(logical.ReadOperation, mounttest.TokenKey, nil)
				storage.Hang("get", mounttest.TokenKey, 1, false)
				read := make(chan struct{})
				go func() {
					defer close(read)
					time.Sleep(time.Second)
					m.Gets(attempts, "a reader that waits while the credentials are replaced")
				}()
				time.Sleep(2 * time.Second)
				m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "verify_connection", verify)
				<-read
			})
		})
	}
}
