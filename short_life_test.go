// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// TestLoneReaderOfShortLife has one Vault Agent follow tokens so short-lived that it
// must open their refresh itself: the first time it comes back it gets the old token
// once more, and it must be back a second time before that one is in its buffer.
func TestLoneReaderOfShortLife(t *testing.T) {
	for _, life := range []time.Duration{20 * time.Second, 25 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.SetTokenLifetime(life)
				leastLife := life
				for end := time.Now().Add(200 * life); time.Now().Before(end); {
					ttl := m.read().Data["ttl"].(int64)
					expires := m.storedToken().ExpiresAt
					// What takes its time on the way shifts the reads against the tokens.
					way := time.Duration(rand.Int64N(int64(100 * time.Millisecond)))
					time.Sleep(time.Duration(ttl+1)*time.Second + way)
					leastLife = min(leastLife, time.Until(expires)+way)
				}
				t.Logf("%d tokens, least life of a token in use %s", m.requests(), leastLife)
				assert.GreaterOrEqual(t, leastLife, life/2, "a token is not in use in its buffer, which is half of such a life")
			})
		})
	}
}

// A token that arrives in its refresh window is served all the same: it is valid.
func TestTokenArrivesInItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.SetTokenLifetime(20 * time.Second)
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 8 * time.Second})
		resp := m.read()
		assert.Empty(t, resp.Warnings)
		assert.True(t, m.sandbox.TokenAlive(resp.Data["access_token"].(string)))
		assert.Equal(t, 1, m.requests())
		assert.Equal(t, "refreshing", m.status()["token_state"])
	})
}
