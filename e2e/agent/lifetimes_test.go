// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const (
	life = 25 * time.Second
	// buffer is what such a short life leaves of the five minutes: half of it.
	buffer = life / 2
	// watched is how long the examples are watched.
	watched = 3 * life
	// slack is for the way of a token on a busy machine, from Fuuffy to the file,
	// and for what happens between two looks.
	slack = time.Second
)

// TestLifetimes watches what an app finds, ten times a second for three lifetimes
// of a token.
func TestLifetimes(t *testing.T) {
	t.Parallel()
	t.Run("token file", func(t *testing.T) {
		t.Parallel()
		m := newMount(t, "lifetimes-token", fuuffytest.Config{TokenLifetime: life}, nil)
		h := m.newHost("app")
		h.startAgent("agent/token-file.hcl")

		w := m.watch(filepath.Join(h.run, "token"), func(content string) string { return content })
		w.follow(t, watched, never)

		w.assertFresh(t, buffer-slack)
	})

	t.Run("environment file", func(t *testing.T) {
		t.Parallel()
		m := newMount(t, "lifetimes-env", fuuffytest.Config{TokenLifetime: life}, nil)
		h := m.newHost("app")
		// Its Agent has to log in anew all the while, and reads the token each time.
		_, err := vault.Client.Logical().WriteWithContext(t.Context(), "auth/approle/role/"+h.name, map[string]any{"token_ttl": "40s"})
		require.NoError(t, err)
		h.startAgent("agent/env-file.hcl")

		w := m.watch(filepath.Join(h.run, "env"), func(content string) string {
			assert.Equal(t, 1, strings.Count(content, "\n"))
			return strings.TrimPrefix(strings.TrimSuffix(content, "\n"), "FUUFFY_ACCESS_TOKEN=")
		})
		w.follow(t, watched, never)

		w.assertFresh(t, buffer-slack)
	})

	t.Run("supervisor", func(t *testing.T) {
		t.Parallel()
		m := newMount(t, "lifetimes-supervisor", fuuffytest.Config{TokenLifetime: life}, nil)
		h := m.newHost("app")
		app := filepath.Join(h.etc, "app")
		require.NoError(t, os.WriteFile(app, []byte(supervisedApp), 0o700))
		h.startAgent("agent/supervisor.hcl", "/usr/local/bin/app", app)

		w := m.watch(filepath.Join(h.etc, "token-of-app"), func(content string) string { return content })
		w.follow(t, watched, never)

		// The Agent waits for 2 s before it restarts the app, and the app may take a
		// second to end.
		w.assertFresh(t, buffer-slack-3*time.Second)
		starts, err := os.ReadFile(filepath.Join(h.etc, "starts"))
		require.NoError(t, err)
		// It may have been started once more since it was last watched.
		assert.Contains(t, []int{0, 1}, strings.Count(string(starts), "\n")-len(w.seen), "starts without a new token")
	})
}

// supervisedApp notes the token that it was started with, and works until told to
// end.
const supervisedApp = `#!/bin/sh
umask 077
cd "${0%/*}" || exit 1
printf %s "$FUUFFY_ACCESS_TOKEN" > new && mv new token-of-app
echo started >> starts
trap 'exit 0' TERM
while :; do sleep 1; done
`

// assertFresh holds what was seen to what apps are promised.
func (w *watch) assertFresh(t *testing.T, leastLife time.Duration) {
	t.Helper()
	requests, reads, left := w.requests(), len(w.reads()), w.livesLeft()
	t.Logf("%s: %d tokens seen, %d token requests, %d reads by the Agent; life left when each token was last seen: %s (buffer %s); longest stall of the machine %s",
		watched, len(w.seen), requests, reads, left, buffer, w.stall.Truncate(10*time.Millisecond))
	assert.Zero(t, w.dead, "looks at a token that Fuuffy did not accept")
	assert.GreaterOrEqual(t, slices.Min(left), leastLife-w.stall)
	// A token is in use until its buffer, and half a second at the least is not.
	assert.GreaterOrEqual(t, len(w.seen), int(watched/buffer)-1)
	// The last one may not have found its way to the app yet.
	assert.Contains(t, []int{0, 1}, requests-len(w.seen), "token requests without a token that was seen")
	// Who comes back before the refresh gets the old token, and comes again.
	assert.LessOrEqual(t, reads, 3*requests+int(watched/(30*time.Second)))
}
