// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// TestHerd lets fifty Agents, each with an identity of its own, wait for the same
// token to be replaced. Their reads are counted in Vault's audit log.
//
// One Agent with fifty templates would prove nothing: it has one identity, and it
// reads a path once for all of its templates.
func TestHerd(t *testing.T) {
	const (
		agents = 50
		// Half of the life is buffer; the window is the quarter before that, from
		// 37.5 s to 50 s. An Agent adds a second of its own.
		herdLife   = 100 * time.Second
		returnFrom = 37 * time.Second
		returnTo   = 51 * time.Second
	)
	m := newMount(t, "herd", fuuffytest.Config{TokenLifetime: herdLife}, nil)
	issued := time.Now()
	s, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	var hosts []*host
	for i := range agents {
		h := m.newHostIn(s, fmt.Sprintf("app-%02d", i+1))
		h.startAgent("agent/token-file.hcl")
		hosts = append(hosts, h)
	}
	first := tokensOf(t, hosts, "")
	require.Len(t, first, 1, "different tokens")
	require.Less(t, time.Since(issued), returnFrom, "this machine is too slow for the test: the first Agents are about to return")

	// To start so many is work. From here on they wait, and the other tests may start.
	t.Parallel()
	// All look for another token, and all find the same.
	second := tokensOf(t, hosts, first[0])
	require.Len(t, second, 1, "different tokens")
	returned := time.Since(issued)

	late := map[string]bool{}
	bySecond := map[int]int{}
	for _, r := range m.reads() {
		if age := r.Time.Sub(issued); age >= returnFrom {
			bySecond[int(age/time.Second)]++
			late[r.Auth.Metadata.Role] = true
		}
	}
	histogram, reads, most := "", 0, 0
	for _, second := range slices.Sorted(maps.Keys(bySecond)) {
		n := bySecond[second]
		histogram += fmt.Sprintf("%4d s %s %d\n", second, strings.Repeat("#", n), n)
		reads, most = reads+n, max(most, n)
	}
	t.Logf("%d Agents came back for the next token; reads by its predecessor's age in seconds:\n%s%d reads, %d token requests, all had it at %s",
		len(late), histogram, reads, m.requests(), returned.Truncate(time.Second))
	assert.Len(t, late, agents, "identities that came back")
	assert.Equal(t, 2, m.requests(), "token requests: one for the configuration, one for all")
	assert.GreaterOrEqual(t, len(bySecond), 7, "seconds with reads")
	assert.LessOrEqual(t, most, agents/3, "reads in one second")
	assert.LessOrEqual(t, returned, returnTo+slack)
}

// tokensOf waits until each host has a token other than the old one, and returns the
// different ones.
func tokensOf(t *testing.T, hosts []*host, old string) []string {
	t.Helper()
	tokens := map[string]bool{}
	for _, h := range hosts {
		require.NoError(t, stack.Eventually(t.Context(), "another token for "+h.name, func() error {
			token, err := os.ReadFile(filepath.Join(h.run, "token"))
			if err == nil && string(token) == old {
				err = fmt.Errorf("it is still the old one")
			}
			if err == nil {
				tokens[string(token)] = true
			}
			return err
		}))
	}
	return slices.Collect(maps.Keys(tokens))
}
