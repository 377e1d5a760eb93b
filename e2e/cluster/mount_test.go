// SPDX-License-Identifier: MPL-2.0

package cluster

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// What an operator does with a mount.
func TestMount(t *testing.T) {
	t.Parallel()
	v := newVault(t)

	t.Run("moved", func(t *testing.T) {
		m := newMount(t, v, "old-path", fuuffytest.Config{}, nil)
		m.step("rotate-root", map[string]any{"client_id": newClientID, "client_secret": secret}, "staged")
		require.Contains(t, m.rotation()["next_step"], "old-path/rotate-root/promote")
		token, requests := m.token(), m.requests()

		require.NoError(t, m.client.Sys().RemountWithContext(t.Context(), m.path, "new-path"))
		m.path = "new-path"

		assert.Equal(t, token, m.token())
		assert.Equal(t, requests, m.requests())
		assert.Contains(t, m.rotation()["next_step"], "new-path/rotate-root/promote")
		m.step("rotate-root/promote", nil, "promoted")
	})

	t.Run("disabled while Fuuffy is down", func(t *testing.T) {
		m := newMount(t, v, "down", fuuffytest.Config{}, nil)
		m.token()
		m.Close()
		m.disable()
	})

	t.Run("disabled while a reader waits for Fuuffy", func(t *testing.T) {
		m := newMount(t, v, "hanging", fuuffytest.Config{}, map[string]any{"request_timeout": "1s"})
		outcome, release := m.hangingRead()
		defer release()
		m.disable()
		t.Logf("the reader got: %v", <-outcome)
		require.NoError(t, stack.Eventually(t.Context(), "the token request to end", func() error {
			if m.Stats().Held > 0 {
				return errors.New("Fuuffy is still asked")
			}
			return nil
		}))
	})

	t.Run("reloaded while a reader waits for Fuuffy", func(t *testing.T) {
		m := newMount(t, v, "reloaded", fuuffytest.Config{}, map[string]any{"request_timeout": "1s"})
		outcome, release := m.hangingRead()
		defer release()
		m.promptly("reloaded", m.reload)
		t.Logf("the reader got: %v", <-outcome)
		release()
		assert.True(t, m.TokenAlive(m.token()))
	})
}

// hangingRead starts to read a token that Fuuffy does not give until release is called.
func (m *mount) hangingRead() (outcome <-chan error, release func()) {
	m.t.Helper()
	_, err := m.client.Logical().DeleteWithContext(m.t.Context(), m.path+"/token")
	require.NoError(m.t, err)
	release = m.Hold()
	ended := make(chan error, 1)
	go func() {
		_, err := m.client.Logical().ReadWithContext(m.t.Context(), m.path+"/token")
		ended <- err
	}()
	m.awaitHeld()
	return ended, release
}

// promptly measures something that must not wait for Fuuffy for longer than one token
// request with its repetitions takes.
func (m *mount) promptly(what string, something func()) {
	m.t.Helper()
	begun := time.Now()
	something()
	took := time.Since(begun)
	m.t.Logf("%s in %s", what, took.Round(time.Millisecond))
	assert.Less(m.t, took, 20*time.Second)
}

// disable ends the mount, and expects that there is nothing to revoke.
func (m *mount) disable() {
	m.t.Helper()
	assert.False(m.t, m.hasLeases(m.path))
	m.promptly("disabled", func() {
		require.NoError(m.t, m.client.Sys().UnmountWithContext(m.t.Context(), m.path))
	})
	assert.False(m.t, m.hasLeases(m.path))
	// One would be found if there were one: a token of Vault has one.
	_, err := m.client.Auth().Token().CreateWithContext(m.t.Context(), &api.TokenCreateRequest{})
	require.NoError(m.t, err)
	assert.True(m.t, m.hasLeases("auth/token/create"))
}

func (m *mount) hasLeases(prefix string) bool {
	m.t.Helper()
	leases, err := m.client.Logical().ListWithContext(m.t.Context(), "sys/leases/lookup/"+prefix)
	require.NoError(m.t, err)
	return leases != nil
}
