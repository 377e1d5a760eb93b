// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Who serves, who asks Fuuffy, who saves and who refreshes, by Vault's replication
// states. What may not be done here is forwarded with the bare error.
func TestReplicationStates(t *testing.T) {
	for name, tt := range map[string]struct {
		state     consts.ReplicationState
		local     bool // the mount
		asks      bool // without a token
		refreshes bool // by PeriodicFunc
		configure bool
	}{
		"primary, or no replication":            {state: consts.ReplicationPerformancePrimary, asks: true, refreshes: true, configure: true},
		"performance standby":                   {state: consts.ReplicationPerformanceStandby},
		"performance secondary":                 {state: consts.ReplicationPerformanceSecondary, asks: true},
		"performance secondary, local mount":    {state: consts.ReplicationPerformanceSecondary, local: true, asks: true, refreshes: true, configure: true},
		"standby of a secondary":                {state: consts.ReplicationPerformanceSecondary | consts.ReplicationPerformanceStandby},
		"standby of a secondary, local mount":   {state: consts.ReplicationPerformanceSecondary | consts.ReplicationPerformanceStandby, local: true},
		"disaster recovery secondary":           {state: consts.ReplicationDRSecondary, configure: true}, // Vault itself answers nothing there.
		"primary of both kinds, for comparison": {state: consts.ReplicationPerformancePrimary | consts.ReplicationDRPrimary, asks: true, refreshes: true, configure: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.system.LocalMountVal = tt.local
				m.setReplicationState(tt.state)

				_, err := m.handle(t.Context(), logical.ReadOperation, "token", nil)
				if tt.asks {
					require.NoError(t, err)
				} else {
					require.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)
				}
				stored, err := m.storage.Storage.Get(t.Context(), tokenKey)
				require.NoError(t, err)
				assert.Equal(t, tt.asks, stored != nil, "saved")

				m.setReplicationState(0)
				token := m.readToken()
				requests := m.requests()
				m.setReplicationState(tt.state)
				assert.Equal(t, token, m.readToken(), "whoever has a token serves it")
				time.Sleep(51 * time.Minute)
				m.tick()
				synctest.Wait()
				assert.Equal(t, tt.refreshes, m.requests() == requests+1, "refreshed by PeriodicFunc")

				_, err = m.handle(t.Context(), logical.UpdateOperation, "config", pairs("stale_if_error", true))
				assert.Equal(t, tt.configure, err == nil, "%v", err)
			})
		})
	}
}
