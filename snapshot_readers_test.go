// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

// The cache knows that its token would be lost on a restart, until it has one that is stored.
func TestSnapshotOfAnUnsavedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		storage := m.useFaultyStorage()
		storage.set("put", tokenKey, fails)
		m.read()
		assert.ErrorIs(t, m.b.cache.Snapshot().Unsaved, errStorage)
		m.write("config", "stale_if_error", true)
		assert.ErrorIs(t, m.b.cache.Snapshot().Unsaved, errStorage, "a setting changes nothing")
		storage.set("put", tokenKey, nil)
		time.Sleep(52 * time.Minute)
		m.read()
		synctest.Wait()
		assert.NoError(t, m.b.cache.Snapshot().Unsaved)

		storage.set("put", tokenKey, fails)
		time.Sleep(52 * time.Minute)
		m.read()
		synctest.Wait()
		assert.Error(t, m.b.cache.Snapshot().Unsaved)
		m.do(logical.DeleteOperation, "token", nil)
		assert.NoError(t, m.b.cache.Snapshot().Unsaved, "the token is gone")
	})
}

// In an outage the snapshot says second by second what readers get.
func TestSnapshotSaysWhatReadersGet(t *testing.T) {
	for _, stale := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newConfiguredMount(t, "stale_if_error", stale)
			m.read()
			time.Sleep(49 * time.Minute)
			m.sandbox.SetFault(faultMalformed)
			for range 150 {
				resp, err := m.handle(t.Context(), logical.ReadOperation, "token", nil)
				synctest.Wait()
				s := m.b.cache.Snapshot()
				assert.Equal(t, err == nil && !resp.IsError(), s.State <= tokencache.InWindow || s.Stale, s.State)
				time.Sleep(5 * time.Second)
			}
		})
	}
}
