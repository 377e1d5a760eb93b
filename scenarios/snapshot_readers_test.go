// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// unsaved tells whether the status warns that the token is only in memory.
func unsaved(m *mounttest.Mount) bool {
	warnings := strings.Join(m.Do(logical.ReadOperation, "status", nil).Warnings, "\n")
	return strings.Contains(warnings, "could not save the cached token")
}

// The engine knows that its token would be lost on a restart, until it has one that is stored.
func TestSnapshotOfAnUnsavedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		storage := m.UseFaultyStorage()
		storage.Set("put", mounttest.TokenKey, mounttest.Fails)
		m.Read()
		assert.True(t, unsaved(m))
		m.Write("config", "stale_if_error", true)
		assert.True(t, unsaved(m), "a setting changes nothing")
		storage.Set("put", mounttest.TokenKey, nil)
		time.Sleep(52 * time.Minute)
		m.Read()
		synctest.Wait()
		assert.False(t, unsaved(m))

		storage.Set("put", mounttest.TokenKey, mounttest.Fails)
		time.Sleep(52 * time.Minute)
		m.Read()
		synctest.Wait()
		assert.True(t, unsaved(m))
		m.Do(logical.DeleteOperation, "token", nil)
		assert.False(t, unsaved(m), "the token is gone")
	})
}

// In an outage the snapshot says second by second what readers get.
func TestSnapshotSaysWhatReadersGet(t *testing.T) {
	for _, stale := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewConfigured(t, "stale_if_error", stale)
			m.Read()
			time.Sleep(49 * time.Minute)
			m.Sandbox.SetFault(mounttest.FaultMalformed)
			for range 150 {
				resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
				synctest.Wait()
				state := m.Status()["token_state"]
				assert.Equal(t, err == nil && !resp.IsError(), state == "fresh" || state == "refreshing" || state == "stale", state)
				time.Sleep(5 * time.Second)
			}
		})
	}
}
