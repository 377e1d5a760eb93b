// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// A change is stored before it takes effect. Who reads the config meanwhile waits for it, so
// that rotate-root and status, read afterwards, don't show the configuration before.
func TestReadsAgreeDuringAChange(t *testing.T) {
	const saving = 2 * time.Second
	for name, tt := range map[string]struct {
		change func(*mounttest.Mount)
	}{
		"new credentials": {func(m *mounttest.Mount) { m.Configure("client_id", "shop-2") }},
		"an emergency": {func(m *mounttest.Mount) {
			m.Do(logical.UpdateOperation, mounttest.RotatePath, mounttest.Pairs("client_id", "shop-2", "client_secret", mounttest.Secret, "compromised", true))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient("shop-2", mounttest.Secret)
				m.UseFaultyStorage().Set("put", mounttest.TokenKey, mounttest.Slowly(saving))
				go tt.change(m)
				time.Sleep(saving / 4) // The config is stored, and the token is not yet.

				seen := m.ReadConfig()["client_id"]
				assert.Equal(t, seen, m.Do(logical.ReadOperation, mounttest.RotatePath, nil).Data["client_id"])
				assert.Equal(t, seen, m.Do(logical.ReadOperation, "status", nil).Data["client_id"])
				assert.Equal(t, "shop-2", seen)
			})
		})
	}
}

// The same holds if the read began before the change: the change waits for it.
func TestChangeWaitsForAReadOfTheConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.CreateClient("shop-2", mounttest.Secret)
		storage := m.UseFaultyStorage()
		storage.Set("get", mounttest.ConfigKey, mounttest.Slowly(2*time.Second))
		seen := make(chan any)
		go func() { seen <- m.ReadConfig()["client_id"] }()
		synctest.Wait()
		storage.Set("get", mounttest.ConfigKey, nil)
		storage.Set("put", mounttest.TokenKey, mounttest.Slowly(10*time.Second))
		go m.Configure("client_id", "shop-2")
		assert.Equal(t, <-seen, m.Rotation()["client_id"])
		time.Sleep(time.Minute)
	})
}

// Someone reads the config, and storage takes its time. Meanwhile another node changes the config, and
// this one loads it. The slow read is no reason to load it once more: readers would wait for that.
func TestSlowReadOfAConfigThatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Read()
		other := m.Node(0, m.Storage.Storage)
		var slow atomic.Bool
		slow.Store(true)
		m.UseFaultyStorage().Set("get", mounttest.ConfigKey, func(apply func() error) error {
			err := apply()
			if slow.CompareAndSwap(true, false) {
				time.Sleep(2 * time.Second)
			}
			return err
		})
		read := make(chan any, 1)
		go func() { read <- m.ReadConfig()["rotation_reminder"] }()
		synctest.Wait()
		require.False(t, slow.Load())
		other.Write(mounttest.ConfigKey, "rotation_reminder", 1001)
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		m.Read()

		assert.EqualValues(t, 1001, <-read)
		_, warm := m.Warm(nil)
		assert.True(t, warm)
	})
}
