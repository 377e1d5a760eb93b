// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// An Agent that only renders a file, for an app that can't report a 401. With max_read_ttl, the
// file soon has the token that replaced a dead one, though no one told this Agent.
func TestMaxReadTTL(t *testing.T) {
	t.Parallel()
	const (
		limit = 10 * time.Second
		// routine is the earliest that the engine sends readers back without a limit: tokens of
		// 100 s are served for 70 s, and replaced in the last quarter of that.
		routine = 52 * time.Second
		// replaceAge is how old a token of 100 s must be for a report to replace it.
		replaceAge = 10 * time.Second
	)
	m := newMount(t, "max-read-ttl", fuuffytest.Config{TokenLifetime: 100 * time.Second}, map[string]any{"token_expiry_buffer": "30s"})
	write := func(setting string) { // As docs/apps.md says.
		cli := exec.CommandContext(t.Context(), vault.Binary, "write", m.path+"/config", setting)
		cli.Env = append(os.Environ(), vault.Environment()...)
		output, err := cli.CombinedOutput()
		require.NoError(t, err, string(output))
	}
	write("max_read_ttl=" + limit.String())
	issued := time.Now()
	h := m.newHost("app")
	h.startAgent("agent/token-file.hcl")
	w := m.watch(filepath.Join(h.run, "token"), func(content string) string { return content })
	w.follow(t, replaceAge-time.Since(issued)+slack, never)
	require.Len(t, w.seen, 1)
	dead := w.latest().token

	require.True(t, m.RevokeToken(dead))
	_, err := vault.Client.Logical().WriteWithContext(t.Context(), m.path+"/token", map[string]any{"rejected_token": dead})
	require.NoError(t, err)
	require.Equal(t, 2, m.requests(), "token requests: one for the configuration, one for the report")
	reported := time.Now()
	w.follow(t, 2*limit, func() bool { return len(w.seen) == 2 })
	require.Len(t, w.seen, 2, "the file has another token")
	held := w.latest().first.Sub(reported)
	t.Logf("The file had the new token %s after the report, after %d reads of the Agent; without max_read_ttl, not before %s", held.Truncate(time.Millisecond), len(m.reads()), routine-reported.Sub(issued).Truncate(time.Second))
	assert.LessOrEqual(t, held, limit+time.Second+slack+w.stall)
	assert.Less(t, time.Since(issued), routine, "before the Agent would have come back anyway")
	assert.True(t, m.TokenAlive(w.latest().token))
	assert.Equal(t, 2, m.requests(), "the Agent's own reads cost none")

	write("max_read_ttl=0")
	answer, err := vault.Client.Logical().ReadWithContext(t.Context(), m.path+"/token")
	require.NoError(t, err)
	ttl, err := number(t, answer.Data["ttl"]).Int64()
	require.NoError(t, err)
	assert.Greater(t, time.Duration(ttl)*time.Second, 2*limit)
}
