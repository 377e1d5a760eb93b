// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
)

// unsaved tells whether the status warns that the token is only in memory.
func (m *mount) unsaved() bool {
	warnings := strings.Join(m.do(logical.ReadOperation, "status", nil).Warnings, "\n")
	return strings.Contains(warnings, "could not save the cached token")
}

// The engine knows that its token would be lost on a restart, until it has one that is stored.
func TestSnapshotOfAnUnsavedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		storage := m.useFaultyStorage()
		storage.set("put", tokenKey, fails)
		m.read()
		assert.True(t, m.unsaved())
		m.write("config", "stale_if_error", true)
		assert.True(t, m.unsaved(), "a setting changes nothing")
		storage.set("put", tokenKey, nil)
		time.Sleep(52 * time.Minute)
		m.read()
		synctest.Wait()
		assert.False(t, m.unsaved())

		storage.set("put", tokenKey, fails)
		time.Sleep(52 * time.Minute)
		m.read()
		synctest.Wait()
		assert.True(t, m.unsaved())
		m.do(logical.DeleteOperation, "token", nil)
		assert.False(t, m.unsaved(), "the token is gone")
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
				state := m.status()["token_state"]
				assert.Equal(t, err == nil && !resp.IsError(), state == "fresh" || state == "refreshing" || state == "stale", state)
				time.Sleep(5 * time.Second)
			}
		})
	}
}
