// SPDX-License-Identifier: MPL-2.0

package advice

import (
	"cmp"
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// walk is a breadth-first walk through the states of a mount. The judge sees each state and each
// operation.
type walk struct {
	ops []operation
	// pairs are those that the walk uses.
	pairs []pairNo
	// doctor may change what a mount says, to plant a violation.
	doctor func(*state, *Mount, *saying)
	// most bounds the number of states.
	most int

	states []visited
	seen   map[state]bool
	edges  int
	// good are states from which advised commands lead to the end of all work.
	good map[state]bool
}

// visited is a state, and how the walk came there first.
type visited struct {
	state state
	from  int
	op    *operation
	depth int
}

func newWalk(most int, pairs []pairNo, wrap func(opKind, rotation.Step) rotation.Step) *walk {
	return &walk{ops: operations(wrap), pairs: pairs, most: most, seen: map[state]bool{}, good: map[state]bool{}}
}

// possible tells whether the walk takes an operation in a state.
func (w *walk) possible(op *operation, s *state) bool {
	return (op.pair == none || slices.Contains(w.pairs, op.pair)) && (op.possible == nil || op.possible(s))
}

func asIs(_ opKind, s rotation.Step) rotation.Step { return s }

func (w *walk) find(kind opKind, p pairNo) *operation {
	for i := range w.ops {
		if op := &w.ops[i]; op.kind == kind && (op.pair == p || p == none) {
			return op
		}
	}
	panic(fmt.Sprintf("no operation %d of %s", kind, p))
}

// run walks until no state is new, or until there are enough, and returns the first violation
// with the shortest way to it. closed tells whether it saw every state.
func (w *walk) run(from state) (v *violation, path string, closed bool) {
	w.visit(visited{from, -1, nil, 0})
	for i := 0; i < len(w.states); i++ {
		s := w.states[i].state
		said := w.say(&s)
		if v = judgeState(&s, said); v == nil {
			v = w.judgeAdvice(&s, said)
		}
		if up := s; v == nil {
			up.recover()
			if !w.ends(up) {
				v = breaks(ruleDeadEnd, "no advice leads out once Fuuffy is up: %s", w.say(&up).step.Render("fuuffy/"))
			}
		}
		if v != nil {
			return v, w.path(i, nil), false
		}
		for j := range w.ops {
			op := &w.ops[j]
			if !w.possible(op, &s) {
				continue
			}
			o := op.run(s)
			w.edges++
			if v := judgeOutcome(&s, op, &o); v != nil {
				return v, w.path(i, op), false
			}
			w.visit(visited{o.next, i, op, w.states[i].depth + 1})
		}
	}
	return nil, "", len(w.states) < w.most
}

func (w *walk) visit(v visited) {
	if len(w.states) < w.most && !w.seen[v.state] {
		w.seen[v.state] = true
		w.states = append(w.states, v)
	}
}

// path is the way to a state, and one operation more.
func (w *walk) path(i int, op *operation) string {
	steps := []string{}
	if op != nil {
		steps = append(steps, op.name)
	}
	text := "in the state: " + w.states[i].state.String()
	for ; w.states[i].op != nil; i = w.states[i].from {
		steps = append(steps, w.states[i].op.name)
	}
	slices.Reverse(steps)
	return strings.Join(steps, " → ") + "\n" + text
}

// mostStates bounds the largest walk. Without a bound, it takes some minutes.
var mostStates = flag.Int("states", 40_000, "how many states TestAllStates visits at most with three pairs (0: all)")

var allPairs = []pairNo{0, 1, 2}

// TestAllStates walks from a mount that was just configured.
func TestAllStates(t *testing.T) {
	for _, c := range []struct {
		name  string
		pairs []pairNo
		most  int
	}{
		{"two secrets of one client", []pairNo{0, 1}, math.MaxInt},
		{"two clients", []pairNo{0, 2}, math.MaxInt},
		{"three pairs", allPairs, cmp.Or(*mostStates, math.MaxInt)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			most := c.most
			if raceDetector || testing.Short() {
				most = min(most, 4_000)
			}
			w, began := newWalk(most, c.pairs, asIs), time.Now()
			v, path, closed := w.run(start())
			t.Logf("%d states and %d operations, up to %d after each other, in %s (all states: %t)",
				len(w.states), w.edges, w.states[len(w.states)-1].depth, time.Since(began).Round(time.Millisecond), closed)
			if v != nil {
				t.Errorf("rule %d is broken: %s\n%s", v.rule, v.text, path)
			}
		})
	}
}
