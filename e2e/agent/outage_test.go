// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// recovery is how long the file may take to recover: the Agent's waits double up to
// a minute, and so do the engine's.
const recovery = 2*time.Minute + 10*time.Second

// TestOutage has Fuuffy give no tokens until the last one is long dead. No one does anything
// about it, at either end.
func TestOutage(t *testing.T) {
	t.Parallel()
	const life = 40 * time.Second
	m := newMount(t, "outage", fuuffytest.Config{TokenLifetime: life}, nil)
	h := m.newHost("app")
	a := h.startAgent("agent/token-file.hcl")
	w := m.watch(filepath.Join(h.run, "token"), func(content string) string { return content })
	w.follow(t, 2*time.Second, never)
	require.Len(t, w.seen, 1)
	require.Zero(t, w.dead)

	down := time.Now()
	m.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultRefuse})
	// In the few seconds between the failure and the buffer, the Agent may read only once. So
	// others read too, until the refresh has failed.
	w.follow(t, life/2, m.warns)
	w.follow(t, life, func() bool { return !w.seen[0].died.IsZero() })
	w.follow(t, life/4, never)

	last := w.seen[0]
	require.Len(t, w.seen, 1, "tokens in the file")
	require.False(t, last.died.IsZero(), "the token dies in the outage")
	t.Logf("The file has the last token for as long as there is no other; Fuuffy stopped accepting it %s into an outage of %s.",
		last.died.Sub(down).Truncate(time.Second), time.Since(down).Truncate(time.Second))
	log, err := a.Log()
	require.NoError(t, err)
	assert.Regexp(t, `(?s)\[WARN\].*Code: 50[23]\. Errors:.*Can't reach Fuuffy`, log)
	for _, text := range []string{"Token refresh is failing. The engine serves this one until 20", "* Can't reach Fuuffy: EOF.\n"} {
		assert.Contains(t, log, text)
		assert.Contains(t, readExample(t, "agent/README.md"), text)
	}

	up := time.Now()
	m.ClearFault()
	w.follow(t, recovery, func() bool { return len(w.seen) > 1 })

	require.Len(t, w.seen, 2, "tokens in the file")
	assert.True(t, a.Running())
	t.Logf("The file had a new token %s after Fuuffy was back.", w.latest().first.Sub(up).Truncate(time.Second))
	assert.True(t, m.TokenAlive(w.latest().token))
}

// warns tells whether a reader of the token hears that refreshes fail.
func (m *mount) warns() bool {
	m.t.Helper()
	answer, err := vault.Client.Logical().ReadWithContext(m.t.Context(), m.path+"/token")
	require.NoError(m.t, err)
	return len(answer.Warnings) > 0
}
