// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
					got := m.Read().Data
					expires, err := time.Parse(time.RFC3339, got["expires_at"].(string))
					require.NoError(t, err)
					// What takes its time on the way shifts the reads against the tokens.
					way := time.Duration(rand.Int64N(int64(100 * time.Millisecond)))
					time.Sleep(time.Duration(got["ttl"].(int64)+1)*time.Second + way)
					leastLife = min(leastLife, time.Until(expires)+way)
				}
				t.Logf("%d tokens, least life of a token in use %s", m.Requests(), leastLife)
				assert.Greater(t, leastLife, life/2-time.Second, "a token is not in use in its buffer, which is half of such a life; expires_at has whole seconds")
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

// Fuuffy issues no tokens of a few seconds. The engine refuses them, rather than ask
// for one a second.
func TestTokenOfLessThanTenSecondsIsRefused(t *testing.T) {
	for _, life := range []time.Duration{time.Second, 5 * time.Second, 9 * time.Second} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.SetTokenLifetime(life)
				status, text := refusedToken(m)
				assert.Equal(t, http.StatusBadGateway, status)
				assert.Contains(t, text, "expires_in")
				assert.Equal(t, 1, m.Requests(), "it is not tried again at once")
				assert.Equal(t, "malformed", m.Do(logical.ReadOperation, "status", nil).Data["upstream_state"])

				for end := time.Now().Add(time.Hour); time.Now().Before(end); time.Sleep(time.Second) {
					_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
				}
				assert.LessOrEqual(t, m.Requests(), 100, "token requests an hour")
			})
		})
	}
}

func TestTokenOfTenSecondsIsServed(t *testing.T) {
	for _, expiresIn := range []string{"10", `"10"`} {
		t.Run(expiresIn, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultBody, Body: fmt.Sprintf(
					`{"data": {"access_token": "sk-ten", "token_type": "Bearer", "expires_in": %s}}`, expiresIn)})
				resp := m.Read()
				assert.EqualValues(t, 5, resp.Data["rotation_period"], "half of its life is its buffer")
				assert.Equal(t, time.Now().Add(10*time.Second).UTC().Format(time.RFC3339), resp.Data["expires_at"])
			})
		})
	}
}

// Fuuffy need not say how long a token lives. The engine then takes the documented hour, and
// says so in the log.
func TestTokenWithoutAnExpiry(t *testing.T) {
	for _, says := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewConfigured(t)
			if !says {
				m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultBody, Body: `{"data": {"access_token": "sk-endless", "token_type": "Bearer"}}`})
			}
			assert.Equal(t, time.Now().Add(time.Hour).UTC().Format(time.RFC3339), m.Read().Data["expires_at"])
			synctest.Wait()
			assert.Equal(t, !says, m.Log.Count("Fuuffy didn't say how long the access token lives; assuming the documented time") == 1)
		})
	}
}

// refusedToken reads a token that must be refused. It does not show one that was not.
func refusedToken(m *mounttest.Mount) (int, string) {
	m.T.Helper()
	resp, err := m.Handle(m.T.Context(), logical.ReadOperation, "token", nil)
	if err == nil && !resp.IsError() {
		m.T.Fatal("a token was served")
	}
	return mounttest.Refusal(m.T, resp, err)
}
