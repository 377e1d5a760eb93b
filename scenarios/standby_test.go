// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// The window of a token can open between two looks at the clock within one read. A
// standby then serves its token or forwards the read. It does not find fault with its
// own token, which is also the one in storage.
func TestWindowOpensDuringAReadOnAStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		var step, skew time.Duration
		m.SkewWallClock(func() time.Duration {
			skew += step
			return skew
		})
		forwarded := 0
		for range 30 {
			step = 0
			m.SetReplicationState(consts.ReplicationPerformancePrimary)
			m.Do(logical.DeleteOperation, "token", nil)
			token := m.ReadToken()
			m.SetReplicationState(consts.ReplicationPerformanceStandby)
			time.Sleep(49 * time.Minute)

			step = 10 * time.Second // for each look at the clock
			for end := skew + 5*time.Minute; skew < end; {
				// After an invalidation the read is not the quick one of a fresh token.
				m.Backend.InvalidateKey(t.Context(), "config")
				resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
				synctest.Wait()
				if err != nil {
					require.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)
					forwarded++
					continue
				}
				require.False(t, resp.IsError(), "%v", resp.Error())
				assert.True(t, resp.Data["access_token"] == token)
				assert.Empty(t, resp.Warnings)
			}
		}
		assert.NotZero(t, forwarded, "the windows did open")
		assert.Equal(t, 30, m.Requests(), "only the active node asks Fuuffy")
		assert.Zero(t, m.Log.Count("malformed"), "failures of a token that is good")
		assert.Equal(t, "ok", m.Do(logical.ReadOperation, "status", nil).Data["upstream_state"])
	})
}
