// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// A job asks for a token that lives for as long as it runs: over HTTP, with the CLI,
// and in the template of an Agent.
func TestMinTTL(t *testing.T) {
	t.Parallel()
	m := newMount(t, "min-ttl", fuuffytest.Config{TokenLifetime: 2 * time.Minute}, map[string]any{"token_expiry_buffer": "30s"})
	read := func(minTTL string) (token string, left time.Duration) {
		parameters := map[string][]string{}
		if minTTL != "" {
			parameters["min_ttl"] = []string{minTTL}
		}
		answer, err := vault.Client.Logical().ReadWithDataWithContext(t.Context(), m.path+"/token", parameters)
		require.NoError(t, err)
		expires, err := time.Parse(time.RFC3339, answer.Data["expires_at"].(string))
		require.NoError(t, err)
		return answer.Data["access_token"].(string), time.Until(expires)
	}
	held, _ := read("")
	job, _ := read("59s")
	assert.True(t, job == held)
	cli := exec.CommandContext(t.Context(), vault.Binary, "read", "-field=access_token", m.path+"/token", "min_ttl=59s")
	cli.Env = append(os.Environ(), vault.Environment()...)
	printed, err := cli.Output()
	require.NoError(t, err)
	assert.True(t, string(printed) == held)
	_, err = vault.Client.Logical().ReadWithDataWithContext(t.Context(), m.path+"/token", map[string][]string{"min_ttl": {"61s"}})
	require.ErrorContains(t, err, "Ask for at most 1m, half of the life")

	look := time.NewTicker(pollInterval)
	defer look.Stop()
	token, left := read("")
	for ; left >= 58*time.Second; token, left = read("") {
		<-look.C
	}
	require.True(t, token == held, "the token is fresh for others")
	require.Equal(t, 1, m.requests())

	h := m.newHost("app")
	config := h.exampleFor("agent/token-file.hcl")
	h.startAgentWith(strings.Replace(config, m.path+`/token\"`, m.path+`/token?min_ttl=58s\"`, 1))
	file := filepath.Join(h.run, "token")
	require.NoError(t, stack.Eventually(t.Context(), "the Agent's file", func() error {
		_, err := os.Stat(file)
		return err
	}))
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.False(t, string(content) == held, "the Agent's job needs a newer token")
	token, left = read("1m")
	assert.True(t, string(content) == token, "others get it too")
	assert.GreaterOrEqual(t, left, time.Minute)
	assert.Equal(t, 2, m.requests())
}
