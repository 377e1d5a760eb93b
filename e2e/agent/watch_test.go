// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// pollInterval is how often a watch looks.
const pollInterval = 100 * time.Millisecond

// sighting is a token that was in the watched file.
type sighting struct {
	token       string
	first, last time.Time
	// died is when Fuuffy stopped accepting it: zero while it does.
	died time.Time
}

// watch looks at a file with a token as an app does that could look at any moment.
type watch struct {
	*mount
	file string
	// token takes the token out of the content.
	token func(content string) string
	seen  []*sighting
	// written is the file as it was when the last token appeared.
	written os.FileInfo
	// dead counts looks at a token that Fuuffy did not accept.
	dead int
	// looked is when it last looked, and stall how much later than it meant to, at
	// the most: so long this machine let programs wait, the Agent like the others.
	looked time.Time
	stall  time.Duration
}

func (m *mount) watch(file string, token func(string) string) *watch {
	m.t.Helper()
	w := &watch{mount: m, file: file, token: token}
	require.NoError(m.t, stack.Eventually(m.t.Context(), "the first token in "+file, func() error {
		_, err := os.Stat(file)
		return err
	}))
	return w
}

// follow looks until the time is over, or enough says so.
func (w *watch) follow(t *testing.T, duration time.Duration, enough func() bool) {
	t.Helper()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	end := time.Now().Add(duration)
	for time.Now().Before(end) && !enough() && !t.Failed() {
		w.look(t)
		select {
		case <-tick.C:
		case <-t.Context().Done():
			return
		}
	}
}

func never() bool { return false }

// look reads the file once. It must be private to its owner, whole, and rewritten
// only when there is another token.
func (w *watch) look(t *testing.T) {
	t.Helper()
	now := time.Now()
	if !w.looked.IsZero() {
		w.stall = max(w.stall, now.Sub(w.looked)-pollInterval)
	}
	w.looked = now
	content, err := os.ReadFile(w.file)
	require.NoError(t, err)
	info, err := os.Stat(w.file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())
	folder, err := os.Stat(filepath.Dir(w.file))
	require.NoError(t, err)
	assert.Equal(t, os.ModeDir|0o700, folder.Mode())

	token := w.token(string(content))
	if latest := w.latest(); latest == nil || latest.token != token {
		require.NotEmpty(t, token)
		status, _, err := stack.Orders(t.Context(), w.BaseURL(), w.CACert(), token)
		require.NoError(t, err)
		assert.Equal(t, 200, status, "the orders with a token that has just appeared")
		// It was read before this look at the file, which may be newer by now.
		w.seen, w.written = append(w.seen, &sighting{token: token, first: now}), nil
	} else if w.written == nil {
		w.written = info
	} else if content, err := os.ReadFile(w.file); err == nil && w.token(string(content)) == token {
		assert.True(t, os.SameFile(w.written, info) && w.written.ModTime().Equal(info.ModTime()), "the file was rewritten with the same token")
	}
	w.latest().last = now
	for _, s := range w.seen {
		if s.died.IsZero() && !w.TokenAlive(s.token) {
			s.died = now
		}
	}
	if !w.latest().died.IsZero() {
		w.dead++
	}
}

func (w *watch) latest() *sighting {
	if len(w.seen) == 0 {
		return nil
	}
	return w.seen[len(w.seen)-1]
}

// livesLeft is what each token that died meanwhile had left when it was last in the
// file. It is measured at Fuuffy, and not by what the engine says.
func (w *watch) livesLeft() []time.Duration {
	var left []time.Duration
	for _, s := range w.seen {
		if !s.died.IsZero() {
			left = append(left, s.died.Sub(s.last).Truncate(10*time.Millisecond))
		}
	}
	return left
}
