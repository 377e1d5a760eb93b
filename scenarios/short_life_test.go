// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// TestLoneReaderOfShortLife has one Vault Agent follow tokens so short-lived that it
// must open their refresh itself: the first time it comes back it gets the old token
// once more, and it must be back a second time before that one is in its buffer.
func TestLoneReaderOfShortLife(t *testing.T) {
	for _, life := range []time.Duration{20 * time.Second, 25 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.SetTokenLifetime(life)
				leastLife := life
				for end := time.Now().Add(200 * life); time.Now().Before(end); {
					ttl := m.Read().Data["ttl"].(int64)
					expires := m.StoredToken().ExpiresAt
					// What takes its time on the way shifts the reads against the tokens.
					way := time.Duration(rand.Int64N(int64(100 * time.Millisecond)))
					time.Sleep(time.Duration(ttl+1)*time.Second + way)
					leastLife = min(leastLife, time.Until(expires)+way)
				}
				t.Logf("%d tokens, least life of a token in use %s", m.Requests(), leastLife)
				assert.GreaterOrEqual(t, leastLife, life/2, "a token is not in use in its buffer, which is half of such a life")
			})
		})
	}
}

// A token that arrives in its refresh window is served all the same: it is valid.
func TestTokenArrivesInItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetTokenLifetime(20 * time.Second)
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 8 * time.Second})
		resp := m.Read()
		assert.Empty(t, resp.Warnings)
		assert.True(t, m.Sandbox.TokenAlive(resp.Data["access_token"].(string)))
		assert.Equal(t, 1, m.Requests())
		assert.Equal(t, "refreshing", m.Status()["token_state"])
	})
}
