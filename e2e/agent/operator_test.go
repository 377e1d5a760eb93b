// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// synced is what the Vault Secrets Operator makes of an answer to a
// VaultDynamicSecret with allowStaticCreds: see syncSecret and
// computePostSyncHorizon in controllers/vaultdynamicsecret_controller.go in
// https://github.com/hashicorp/vault-secrets-operator.
type synced struct {
	lastRotation time.Time
	period, ttl  int64
	// payload is what it hashes to see whether there is something new.
	payload string
}

// horizon is when the operator comes back, at the latest: half a second after ttl,
// and up to a twentieth of three seconds more.
func (s synced) horizon() time.Duration {
	if s.ttl == 0 {
		return time.Second + 150*time.Millisecond
	}
	return time.Duration(s.ttl)*time.Second + 650*time.Millisecond
}

// sync reads the token as the operator does, and fails where that would ignore a
// field: one of another type is skipped without a word.
func (m *mount) sync(t *testing.T, client *api.Client) synced {
	t.Helper()
	answer, err := client.Logical().ReadWithContext(t.Context(), m.path+"/token")
	require.NoError(t, err)
	require.NotNil(t, answer)
	assert.False(t, answer.Renewable)
	assert.Empty(t, answer.LeaseID)

	var s synced
	rotated, ok := answer.Data["last_vault_rotation"].(string)
	require.True(t, ok, "last_vault_rotation is a string")
	s.lastRotation, err = time.Parse(time.RFC3339Nano, rotated)
	require.NoError(t, err)
	assert.Positive(t, s.lastRotation.Unix())
	s.period, err = number(t, answer.Data["rotation_period"]).Int64()
	require.NoError(t, err)
	assert.GreaterOrEqual(t, s.period, int64(1))
	s.ttl, err = number(t, answer.Data["ttl"]).Int64()
	require.NoError(t, err)
	assert.NotContains(t, answer.Data, "rotation_schedule")

	for _, ignored := range []string{"ttl", "rotation_schedule", "rotation_period", "last_vault_rotation", "_raw"} {
		delete(answer.Data, ignored)
	}
	payload, err := json.Marshal(answer.Data)
	require.NoError(t, err)
	s.payload = string(payload)
	return s
}

func number(t *testing.T, value any) json.Number {
	t.Helper()
	n, ok := value.(json.Number)
	require.True(t, ok, "%v is a number", value)
	return n
}

// TestOperatorRules holds the answers to what the operator expects of credentials
// that Vault rotates: the hash is stable until there is another token, and whoever
// comes back after the horizon comes before the token is no longer served.
func TestOperatorRules(t *testing.T) {
	t.Parallel()
	m := newMount(t, "operator", fuuffytest.Config{}, nil)
	client := m.clientWith("app")

	first := m.sync(t, client)
	ttls := map[int64]bool{}
	for range 50 {
		s := m.sync(t, client)
		assert.Equal(t, first.payload, s.payload, "what is hashed")
		assert.Equal(t, first.lastRotation, s.lastRotation)
		assert.Equal(t, first.period, s.period)
		// last_vault_rotation has whole seconds: up to one is cut off.
		servedUntil := s.lastRotation.Add(time.Duration(s.period+1) * time.Second)
		assert.Less(t, time.Now().Add(s.horizon()), servedUntil)
		ttls[s.ttl] = true
	}
	assert.Greater(t, len(ttls), 10, "different ttls")
	require.Equal(t, 1, m.requests(), "token requests")

	// With max_read_ttl it comes back sooner, and finds nothing new until there is another token.
	_, err := vault.Client.Logical().WriteWithContext(t.Context(), m.path+"/config", map[string]any{"max_read_ttl": "2m"})
	require.NoError(t, err)
	limited := m.sync(t, client)
	assert.LessOrEqual(t, limited.horizon(), 2*time.Minute+650*time.Millisecond)
	limited.ttl = first.ttl
	assert.True(t, limited == first, "everything but ttl is the same")

	_, err = vault.Client.Logical().DeleteWithContext(t.Context(), m.path+"/token")
	require.NoError(t, err)
	second := m.sync(t, client)
	assert.NotEqual(t, first.payload, second.payload, "what is hashed of another token")
	assert.Equal(t, 2, m.requests(), "token requests")
}
