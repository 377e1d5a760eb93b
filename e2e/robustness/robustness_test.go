// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
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
		h, err := readHistory(*check)
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

// maxFailures is how many broken rules are shown with what happened near them.
const maxFailures = 5

// report judges a history and prints its figures. One that breaks a rule is kept.
func report(t *testing.T, h *history, file string) {
	t.Helper()
	violations := judge(h)
	t.Log(h.figures())
	if len(violations) == 0 {
		return
	}
	for i, v := range violations {
		if i == maxFailures {
			t.Errorf("… and %d more", len(violations)-i)
			break
		}
		t.Errorf("seed %d breaks a rule at %s – %s: %s: %s\n%s", h.Seed, at(v.from), at(v.to), v.rule, v.text, h.around(v))
	}
	if file != *check {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, h.save(file))
	}
	t.Logf("to judge it again: go test ./robustness -run TestRobustness -check %s", file)
	if h.drawing != nil {
		drawing := strings.TrimSuffix(file, ".json") + ".html"
		require.NoError(t, h.drawing(drawing))
		t.Logf("drawn in %s", drawing)
	}
}

// figures is what happened, in one line.
func (h *history) figures() string {
	ops, faults := map[string]int{}, map[string]int{}
	for _, o := range h.Operations {
		ops[o.Outcome]++
	}
	for _, f := range h.Faults {
		faults[f.Kind]++
	}
	stale := time.Duration(0)
	for _, s := range h.splitTimes {
		stale += s[1] - s[0]
	}
	var list []string
	for _, kind := range slices.Sorted(maps.Keys(faults)) {
		list = append(list, fmt.Sprintf("%d × %s", faults[kind], kind))
	}
	return fmt.Sprintf("robustness: %s, seed %d, %s of faults: %d operations (%d ok, %d refused, %d of unknown outcome, %d not sent), %d steps, "+
		"%d token requests (%d grants of at most %d), served again after %s, %d terms, %.1fs with a node that was deposed and did not know, %d tokens not saved; %s",
		h.Server, h.Seed, h.For, len(h.Operations), ops[ended], ops[refused], ops[unknown], ops[unsent], len(h.steps),
		len(h.Requests), len(h.grants), h.mostGrants(), (h.Quiet - h.Healed).Round(10*time.Millisecond), len(h.Terms), stale.Seconds(), len(h.Unsaved), strings.Join(list, ", "))
}
