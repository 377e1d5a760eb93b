// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const (
	newClientID = "new-shop"
	newSecret   = "planted/new+secret=3"
)

// step takes a step of the rotation and expects that it leads to a state.
func (m *mount) step(path string, data map[string]any, state string) map[string]any {
	m.t.Helper()
	answer, err := m.write(path, data)
	require.NoError(m.t, err)
	assert.Equal(m.t, state, answer.Data["state"])
	return answer.Data
}

func (m *mount) rotation() map[string]any {
	m.t.Helper()
	answer, err := m.client.Logical().ReadWithContext(m.t.Context(), m.path+"/rotate-root")
	require.NoError(m.t, err)
	require.NotNil(m.t, answer)
	return answer.Data
}

// The whole rotation, with Vault restarted between every two steps: apps always get
// a token that Fuuffy takes, and no secret is in a log.
func TestRotationAcrossRestarts(t *testing.T) {
	t.Parallel()
	v, audit := auditedVault(t)
	m := newMount(t, v, fuuffytest.Config{PerMinute: -1})
	m.secret = rightSecret
	m.CreateClient(clientID, rightSecret)
	m.CreateClient(newClientID, newSecret)
	m.configure(nil)
	tokens := []string{m.token()}

	restart := func(state string) {
		t.Helper()
		before := m.rotation()
		v.Kill()
		require.NoError(t, v.Restart(t.Context()))
		after := m.rotation()
		delete(before, "auth_failures")
		delete(after, "auth_failures")
		require.Equal(t, before, after)
		require.Equal(t, state, after["state"])
		tokens = append(tokens, m.token())
		require.Equal(t, http.StatusOK, m.orders(tokens[len(tokens)-1]))
	}

	restart("idle")
	_, err := m.write("rotate-root", map[string]any{"client_id": newClientID, "client_secret": wrongSecret})
	require.ErrorContains(t, err, "invalid_client")
	restart("idle")
	m.step("rotate-root", map[string]any{"client_id": newClientID, "client_secret": newSecret}, "staged")
	restart("staged")
	assert.Equal(t, tokens[0], m.token(), "staging disturbs nobody")
	m.step("rotate-root/promote", nil, "promoted")
	restart("promoted")
	assert.NotEqual(t, tokens[0], m.token())

	_, err = m.write("rotate-root/complete", nil)
	require.ErrorContains(t, err, "Fuuffy still accepts client "+clientID)
	restart("promoted")
	m.RevokeClient(clientID)
	status := m.step("rotate-root/complete", nil, "idle")
	assert.Equal(t, newClientID, status["client_id"])
	restart("idle")

	steps := regexp.MustCompile(`"path":"`+m.path+`/rotate-root[^"]*"`).FindAllString(content(t, audit), -1)
	assert.NotEmpty(t, steps, "the audit log has who took which step")
	for place, text := range map[string]string{"Vault's log": content(t, v.LogFile), "the audit log": content(t, audit)} {
		require.Contains(t, text, m.path, place)
		for _, secret := range append(tokens, rightSecret, wrongSecret, newSecret) {
			assert.NotContains(t, text, secret, place)
		}
	}
}

// The new credentials are revoked by mistake: the old ones step in, and a rollback
// puts them back.
func TestRotationFallback(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	m.CreateClient(newClientID, newSecret)
	m.configure(nil)
	m.step("rotate-root", map[string]any{"client_id": newClientID, "client_secret": newSecret}, "staged")
	m.step("rotate-root/promote", nil, "promoted")
	m.RevokeClient(newClientID)
	m.deleteToken()

	assert.Equal(t, http.StatusOK, m.orders(m.token()))
	status := m.rotation()
	assert.Equal(t, true, status["fallback_active"])
	assert.Contains(t, status["next_step"], "vault write -f "+m.path+"/rotate-root/rollback")

	m.step("rotate-root/rollback", nil, "idle")
	assert.Equal(t, http.StatusOK, m.orders(m.token()))
}
