// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// TestWrapping hands a token over by response wrapping: who brings it sees only the
// wrapping token, and that opens once.
func TestWrapping(t *testing.T) {
	t.Parallel()
	m := newMount(t, "wrapping", fuuffytest.Config{}, nil)
	client := m.clientWith("app")
	direct, err := client.Logical().ReadWithContext(t.Context(), m.path+"/token")
	require.NoError(t, err)

	client.SetWrappingLookupFunc(func(string, string) string { return "60s" })
	wrapped, err := client.Logical().ReadWithContext(t.Context(), m.path+"/token")
	require.NoError(t, err)
	require.NotNil(t, wrapped.WrapInfo)
	assert.Empty(t, wrapped.Data)

	receiver, err := vault.Client.Clone()
	require.NoError(t, err)
	receiver.SetToken(wrapped.WrapInfo.Token)
	opened, err := receiver.Logical().UnwrapWithContext(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, direct.Data["access_token"], opened.Data["access_token"])

	_, err = receiver.Logical().UnwrapWithContext(t.Context(), "")
	_, refused := err.(*api.ResponseError)
	assert.True(t, refused, "it opens once: %v", err)
	assert.Equal(t, 1, m.requests(), "token requests")
}
