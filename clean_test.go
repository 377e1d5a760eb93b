// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

// The reader learns that the engine is stopping, whichever of what ends the engine notices
// first.
func TestCleanEndsWhatIsUnderWay(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			m := newConfiguredMount(t)
			m.sandbox.Hold() // Never released: only Clean ends the request.
			failed := make(chan error, 1)
			go func() {
				_, err := m.handle(context.Background(), logical.ReadOperation, "token", nil)
				failed <- err
			}()
			synctest.Wait()
			began := time.Now()
			m.b.Cleanup(t.Context())
			assert.Zero(t, time.Since(began))
			assert.ErrorIs(t, <-failed, tokencache.ErrClosed)
		})
	}
}

// After Clean, nothing begins anymore.
func TestNothingBeginsAfterClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.write("config", "stale_if_error", true)
		m.b.Cleanup(t.Context())
		storage := m.storage.count()
		_, err := m.handle(t.Context(), logical.ReadOperation, "token", nil)
		assert.ErrorIs(t, err, tokencache.ErrClosed)

		m.b.InvalidateKey(t.Context(), configKey)
		_, err = m.handle(t.Context(), logical.ReadOperation, "token", nil)
		assert.ErrorIs(t, err, tokencache.ErrClosed)
		_, err = m.handle(t.Context(), logical.RollbackOperation, "", nil)
		assert.ErrorIs(t, err, tokencache.ErrClosed)
		assert.Equal(t, storage, m.storage.count(), "storage operations")
		assert.Zero(t, m.requests())
	})
}

// Clean waits until storage is done, but not forever.
func TestCleanWaitsForStorage(t *testing.T) {
	for saving, want := range map[time.Duration]time.Duration{2 * time.Second: 2 * time.Second, time.Minute: 5 * time.Second} {
		t.Run(saving.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.useFaultyStorage().set("put", tokenKey, slowly(saving))
				go func() { _, _ = m.handle(context.Background(), logical.ReadOperation, "token", nil) }()
				synctest.Wait()
				began := time.Now()
				m.b.Cleanup(t.Context())
				assert.Equal(t, want, time.Since(began))
				time.Sleep(saving)
			})
		})
	}
}
