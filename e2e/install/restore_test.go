// SPDX-License-Identifier: MPL-2.0

package install

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRestore goes back to snapshots of before, in the middle of and after a rotation,
// on a Vault of other keys. The old credentials are revoked by then.
func TestRestore(t *testing.T) {
	t.Parallel()
	s, commands := newSite(t), guide(t)["Back up and restore"]
	require.Len(t, commands, 4)
	save, restore, anew, promote := commands[0], commands[1], commands[2], commands[3]
	s.enable()
	saved := func(state string) { s.typed(strings.ReplaceAll(save, "vault.snap", state+".snap")) }

	saved("idle")
	s.write("rotate-root", map[string]any{"client_id": newClientID, "client_secret": secret})
	saved("staged")
	s.write("rotate-root/promote", nil)
	saved("promoted")
	s.RevokeClient(clientID)
	held := s.accessToken()

	old := s.vault
	old.Stop()
	s.vault = s.startVault()
	s.token = s.vault.Client.Token()
	restored := func(state string) {
		s.typed(strings.ReplaceAll(restore, "vault.snap", state+".snap"))
		s.vault.Inherit(old)
		s.token = s.vault.Client.Token()
		require.NoError(t, s.vault.Unseal(t.Context()))
	}

	restored("promoted")
	assert.Equal(t, held, s.accessToken(), "the token comes back too")
	s.write("rotate-root/complete", nil)

	for state, command := range map[string]string{"idle": anew, "staged": promote} {
		restored(state)
		dead := s.accessToken()
		assert.False(t, s.TokenAlive(dead), "%s: the token is of the old credentials", state)
		_, err := s.vault.Client.Logical().DeleteWithContext(t.Context(), "fuuffy/token")
		require.NoError(t, err)
		_, err = s.readToken()
		assert.ErrorContains(t, err, "Fuuffy rejected client ", state)

		s.typed(command)
		assert.True(t, s.TokenAlive(s.accessToken()), state)
	}
}
