// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
)

// A change is stored before it takes effect. Who reads the config meanwhile waits for it, so
// that rotate-root and status, read afterwards, don't show the configuration before.
func TestReadsAgreeDuringAChange(t *testing.T) {
	const saving = 2 * time.Second
	for name, tt := range map[string]struct {
		change func(*mount)
	}{
		"new credentials": {func(m *mount) { m.configure("client_id", "shop-2") }},
		"an emergency": {func(m *mount) {
			m.do(logical.UpdateOperation, rotatePath, pairs("client_id", "shop-2", "client_secret", testSecret, "compromised", true))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.CreateClient("shop-2", testSecret)
				m.useFaultyStorage().set("put", tokenKey, slowly(saving))
				go tt.change(m)
				time.Sleep(saving / 4) // The config is stored, and the token is not yet.

				seen := m.readConfig()["client_id"]
				assert.Equal(t, seen, m.do(logical.ReadOperation, rotatePath, nil).Data["client_id"])
				assert.Equal(t, seen, m.do(logical.ReadOperation, "status", nil).Data["client_id"])
				assert.Equal(t, "shop-2", seen)
			})
		})
	}
}

// The same holds if the read began before the change: the change waits for it.
func TestChangeWaitsForAReadOfTheConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.CreateClient("shop-2", testSecret)
		storage := m.useFaultyStorage()
		storage.set("get", configKey, slowly(2*time.Second))
		seen := make(chan any)
		go func() { seen <- m.readConfig()["client_id"] }()
		synctest.Wait()
		storage.set("get", configKey, nil)
		storage.set("put", tokenKey, slowly(10*time.Second))
		go m.configure("client_id", "shop-2")
		assert.Equal(t, <-seen, m.readRotation()["client_id"])
		time.Sleep(time.Minute)
	})
}
