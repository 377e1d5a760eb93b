// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// unobserved is for storage operations that nobody records.
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
