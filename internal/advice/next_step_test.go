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

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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

// stepOf wraps one kind of step.
func stepOf(kind opKind, wrap func(rotation.Step) rotation.Step) func(opKind, rotation.Step) rotation.Step {
	return func(k opKind, s rotation.Step) rotation.Step {
		if k == kind {
			return wrap(s)
		}
		return s
	}
}

// edited edits what a step that was taken makes of the pairs. before is what it came from.
func edited(edit func(before rotation.Pairs, next *rotation.State)) func(rotation.Step) rotation.Step {
	return func(s rotation.Step) rotation.Step {
		return func(p rotation.Pairs, f rotation.Facts) (rotation.Transition, error) {
			t, err := s(p, f)
			if err == nil {
				edit(p, &t.Next.Rotation)
			}
			return t, err
		}
	}
}

// TestJudgeSeesPlantedViolations breaks each rule, in a step or in what the mount says. The walk
// must find it by the shortest way.
func TestJudgeSeesPlantedViolations(t *testing.T) {
	dropLast := edited(func(_ rotation.Pairs, next *rotation.State) { next.Unrevoked = nil })
	// forgiving takes no pair for compromised.
	forgiving := func(s rotation.Step) rotation.Step {
		return func(p rotation.Pairs, f rotation.Facts) (rotation.Transition, error) {
			p.Rotation.Unrevoked = slices.Clone(p.Rotation.Unrevoked)
			for i := range p.Rotation.Unrevoked {
				p.Rotation.Unrevoked[i].Why = "replaced"
			}
			return s(p, f)
		}
	}
	for name, planted := range map[string]struct {
		rule int
		// path is how the shortest way to the violation ends.
		path   string
		doctor func(*state, *Mount, *saying)
		wrap   func(opKind, rotation.Step) rotation.Step
	}{
		"the current client is to be revoked": {
			rule: ruleRevokesUsed,
			doctor: func(s *state, _ *Mount, said *saying) {
				if s.staged != none {
					said.step = said.step.Then("Revoke client "+credentials[s.current].ClientID+" in the Fuuffy dashboard, then:", Promote)
				}
			},
			path: "stage shop-1/secret2",
		},
		"the client of the staged secret is to be revoked": {
			rule: ruleRevokesUsed,
			doctor: func(s *state, m *Mount, said *saying) {
				if s.staged != none {
					m.Rotation.Staged = nil // So that names don't tell its client's secrets apart.
					said.step = m.leakStep().And(said.step)
				}
			},
			path: "stage shop-1/secret2",
		},
		"the fallback is to be revoked": {
			rule: ruleRevokesUsed,
			doctor: func(s *state, m *Mount, said *saying) {
				if s.token == fallbackToken {
					said.conditions = append(said.conditions, Condition{OK, "Now: revoke " + m.previous() + " in the Fuuffy dashboard"})
				}
			},
			path: "a reader's request",
		},
		"the previous client is to be revoked while apps hold its tokens": {
			rule: ruleRevokesUsed,
			doctor: func(_ *state, m *Mount, said *saying) {
				m.OldTokensUntil = m.Rotation.PromotedAt
				said.step = m.NextStep()
			},
			path: "promote",
		},
		"a new way of saying revoke": {
			rule: ruleRevokesUsed,
			doctor: func(s *state, _ *Mount, said *saying) {
				said.step = said.step.And(Say("You may as well revoke everything."))
			},
		},
		"a success before a failure counts": {
			rule: ruleUnproved,
			doctor: func(_ *state, m *Mount, said *saying) {
				known := m.Standing
				m.Standing = func(id string) rotation.Standing {
					standing := known(id)
					if !standing.Rejected {
						standing.Failed = time.Time{}
					}
					return standing
				}
				said.step = m.NextStep()
			},
		},
		"an old success counts": {
			rule: ruleUnproved,
			doctor: func(_ *state, m *Mount, said *saying) {
				known := m.Standing
				m.Standing = func(id string) rotation.Standing {
					standing := known(id)
					if !standing.Succeeded.IsZero() {
						standing.Succeeded = now
					}
					return standing
				}
				said.step = m.NextStep()
			},
		},
		"a command that this state refuses": {
			rule: ruleRefused,
			doctor: func(s *state, _ *Mount, said *saying) {
				if s.staged != none {
					said.step = said.step.Then("If apps have trouble:", Rollback)
				}
			},
			path: "stage shop-1/secret2",
		},
		"the same advice again and again": {
			rule: ruleRefused,
			doctor: func(s *state, _ *Mount, said *saying) {
				if s.staged != none && s.fuuffy[s.staged] == revoked {
					said.step = Do("Promote what is staged:", Promote)
				}
			},
			path: "from now on shop-1/secret2 is revoked",
		},
		"a compromised pair is staged": {
			rule: ruleLeak, wrap: stepOf(opStage, forgiving), path: "stage shop-1/secret1",
		},
		"a compromised pair is configured": {
			rule: ruleLeak, wrap: stepOf(opConfig, forgiving), path: "config shop-1/secret1 (verified true)",
		},
		"the fallback works on after a leak": {
			rule: ruleOperation,
			wrap: stepOf(opEmergency, edited(func(_ rotation.Pairs, next *rotation.State) { next.Compromised = false })),
			path: "emergency with shop-1/secret2",
		},
		"force forgets a leak": {
			rule: ruleLeak, wrap: stepOf(opForce, dropLast), path: "complete force=true",
		},
		"a leak turns into something else": {
			rule: ruleLeak,
			wrap: stepOf(opMark, edited(func(_ rotation.Pairs, next *rotation.State) {
				next.Unrevoked = slices.Clone(next.Unrevoked)
				for i := range next.Unrevoked {
					next.Unrevoked[i].Why = "replaced"
				}
			})),
			path: "mark shop-1",
		},
		"a pair that was rolled back isn't listed": {
			rule: ruleList, wrap: stepOf(opRollback, dropLast), path: "rollback",
		},
		"a pair that was replaced isn't listed": {
			rule: ruleList, wrap: stepOf(opConfig, dropLast), path: "config shop-1/secret2 (verified true)",
		},
		"a pair in use stays listed": {
			rule: ruleList,
			wrap: stepOf(opStage, edited(func(before rotation.Pairs, next *rotation.State) { next.Unrevoked = before.Rotation.Unrevoked })),
			path: "stage shop-1/secret1",
		},
		"health is ok though readers get nothing": {
			rule: ruleHealth,
			doctor: func(_ *state, _ *Mount, said *saying) {
				if said.health == Failing {
					said.health = Degraded
				}
			},
		},
		"health is ok during a leak": {
			rule: ruleHealth,
			doctor: func(s *state, m *Mount, said *saying) {
				if s.failure == noFailure && s.token == ownToken {
					said.health = OK
				}
			},
			path: "emergency with shop-1/secret2",
		},
		"health is ok though Fuuffy rejects the only pair": {
			rule: ruleHealth,
			doctor: func(s *state, m *Mount, said *saying) {
				if s.previous == none {
					said.health = OK
				}
			},
		},
		"no way out of a rejection": {
			rule: ruleDeadEnd,
			doctor: func(s *state, _ *Mount, said *saying) {
				if s.knows[s.current] == knownRevoked {
					said.step = Do("Wait until it works again:", Check)
				}
			},
			path: "from now on shop-1/secret1 is revoked",
		},
		"nothing to do, but not done": {
			rule: ruleDeadEnd,
			doctor: func(s *state, _ *Mount, said *saying) {
				if s.previous != none {
					said.step = Say("A rotation is in progress.")
				}
			},
			path: "emergency with shop-1/secret2",
		},
		"a step that does nothing": {
			rule: ruleOperation,
			wrap: stepOf(opPromote, func(s rotation.Step) rotation.Step {
				return func(p rotation.Pairs, f rotation.Facts) (rotation.Transition, error) {
					t, err := s(p, f)
					t.Next = p
					return t, err
				}
			}),
			path: "promote",
		},
		"a refused step that changes what it was given": {
			rule: ruleOperation,
			wrap: stepOf(opPromote, func(s rotation.Step) rotation.Step {
				return func(p rotation.Pairs, f rotation.Facts) (rotation.Transition, error) {
					if p.Rotation.Previous != nil {
						*p.Rotation.Previous = credentials[reserve]
					}
					return s(p, f)
				}
			}),
			path: "promote",
		},
	} {
		t.Run(name, func(t *testing.T) {
			wrap := planted.wrap
			if wrap == nil {
				wrap = asIs
			}
			w := newWalk(20_000, allPairs, wrap)
			w.doctor = planted.doctor
			v, path, _ := w.run(start())
			require.NotNil(t, v, "no rule is broken in %d states", len(w.states))
			t.Logf("rule %d: %s\n%s", v.rule, v.text, path)
			assert.Equal(t, planted.rule, v.rule, v.text)
			way, _, _ := strings.Cut(path, "\n")
			assert.True(t, strings.HasSuffix(way, planted.path), "%q doesn't end with %q", way, planted.path)
		})
	}
}
