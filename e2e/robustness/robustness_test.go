// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
)

var (
	length = flag.Duration("for", 25*time.Second, "for how long TestRobustness disturbs the cluster")
	seed   = flag.Uint64("seed", 0, "what TestRobustness decides by (0: a new one)")
	check  = flag.String("check", "", "a history that was kept: TestRobustness judges it again and runs nothing")
	keep   = flag.String("keep", filepath.Join("..", "..", "bin"), "the directory for histories that break a rule")
)

// TestRobustness disturbs a cluster, the plugin and Fuuffy at random while clients and
// operators work, and judges what everyone saw.
func TestRobustness(t *testing.T) {
	t.Parallel()
	if *check != "" {
		h, err := history.Read(*check)
		require.NoError(t, err)
		report(t, h, *check)
		return
	}
	programs, err := stack.ProgramsToTest()
	require.NoError(t, err)
	seed := *seed
	if seed == 0 {
		seed = uint64(rand.Uint32())
	}
	t.Logf("robustness: seed %d", seed)
	s, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	if s.OwnDisks = noDisks == nil; noDisks != nil {
		t.Logf("robustness: no disk gets full, because this machine lets the test mount none: %v", noDisks)
	}
	w, err := newWorld(t.Context(), s, programs, seed, *length)
	require.NoError(t, err)
	t.Cleanup(w.close)
	h, err := w.run(t.Context(), *length)
	require.NoError(t, err, "seed %d", seed)
	report(t, h, filepath.Join(*keep, fmt.Sprintf("robustness-%d.json", seed)))
}

// report judges a history and prints its figures. One that breaks a rule is kept.
func report(t *testing.T, h *history.History, file string) {
	t.Helper()
	violations := history.Judge(h)
	t.Logf("robustness: %s", h.Figures())
	t.Log(h.Undecided())
	if len(violations) == 0 {
		return
	}
	t.Errorf("seed %d breaks %s", h.Seed, h.Report(violations))
	if file != *check {
		written, err := h.Keep(file)
		require.NoError(t, err)
		t.Logf("kept in %s", strings.Join(written, " and "))
	}
	t.Logf("to judge it again: go test ./robustness -run TestRobustness -check %s", file)
}
