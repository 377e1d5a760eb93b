// SPDX-License-Identifier: MPL-2.0

package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// inPod runs what kubectl would run in a pod.
const inPod = `kubectl() {
	[ "$1 $2 $3" = "-n vault exec" ]
	while [ "$1" != -- ]; do shift; done
	shift
	"$@"
}
`

// TestKubernetes types what docs/kubernetes.md says of Vault. The auth method approle stands
// for kubernetes, which asks a cluster who logs in: it ignores what it doesn't know of a role.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	s, commands := newSite(t), guide(t)
	require.NoError(t, os.CopyFS(filepath.Join(s.dir, "examples"), os.DirFS(filepath.Join("..", "..", "examples"))))
	plugin := filepath.Join(s.dir, pluginName)
	require.NoError(t, buildPlugin("v0.1.0", plugin))
	s.install(plugin, pluginName+"-v0.1.0")
	sum, err := stack.SHA256(plugin)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(s.dir, "dist"), 0o755))
	sums := strings.Repeat("0", 64) + "  vault-plugin-secrets-fuuffy_0.1.0_linux_arm64/" + pluginName + "\n" +
		sum + "  vault-plugin-secrets-fuuffy_0.1.0_linux_amd64/" + pluginName + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "dist", "BINARY_SHA256SUMS"), []byte(sums), 0o600))

	s.typed(append([]string{inPod}, commands["Register the plugin"]...)...)
	assert.Equal(t, "v0.1.0", s.running())
	configured := s.typed(append([]string{inPod}, commands["Configure the engine"]...)...)
	assert.Regexp(t, `(?m)^health +ok$`, configured)
	limited := s.typed(append([]string{inPod}, commands["Vault Secrets Operator"]...)...)
	assert.NotEmpty(t, limited)

	login := strings.Join(commands["Let apps log in"], "")
	for ours, theirs := range map[string]string{
		"auth enable kubernetes\n": "auth enable -path=kubernetes approle\n",
		"vault write auth/kubernetes/config kubernetes_host=https://kubernetes.default.svc": "true",
	} {
		require.Contains(t, login, ours)
		login = strings.Replace(login, ours, theirs, 1)
	}
	s.typed(inPod, login)
	role, err := s.vault.Client.Logical().ReadWithContext(t.Context(), "auth/kubernetes/role/fuuffy-app/role-id")
	require.NoError(t, err)
	id, err := s.vault.Client.Logical().WriteWithContext(t.Context(), "auth/kubernetes/role/fuuffy-app/secret-id", nil)
	require.NoError(t, err)
	app, err := s.vault.Client.Logical().WriteWithContext(t.Context(), "auth/kubernetes/login", map[string]any{
		"role_id": role.Data["role_id"], "secret_id": id.Data["secret_id"],
	})
	require.NoError(t, err)
	assert.False(t, app.Auth.Renewable)
	assert.Equal(t, 3600, app.Auth.LeaseDuration)
	leases, err := s.vault.Client.Logical().ListWithContext(t.Context(), "sys/leases/lookup/auth/kubernetes")
	require.NoError(t, err)
	assert.Nil(t, leases, "Vault keeps nothing of a login with a batch token")

	s.vault.Client.SetToken(app.Auth.ClientToken)
	token := s.accessToken()
	assert.True(t, s.TokenAlive(token))
	_, err = s.vault.Client.Logical().WriteWithContext(t.Context(), "fuuffy/token", map[string]any{"rejected_token": token})
	require.NoError(t, err, "the app may report a 401")
	_, err = s.vault.Client.Logical().ReadWithContext(t.Context(), "fuuffy/config")
	assert.ErrorContains(t, err, "permission denied")
}
