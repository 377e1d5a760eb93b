// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"math"
	"time"
)

const (
	// attempts is how often one flight asks Fuuffy at most, and pairs with how many
	// pairs of credentials.
	attempts, pairs = 3, 2
	// election is how long a cluster may take to have an active node that has started
	// the engine. It takes seconds, but this machine may be busy.
	election = 90 * time.Second
	// holdOff is how long the engine leaves a Fuuffy alone that was unavailable.
	holdOff = time.Minute
	// servedWithin is how long after the faults everybody must be served.
	servedWithin = election + holdOff + attempts*pairs*requestTimeout
)

const ruleRequests = "Fuuffy gets no more requests than the contract allows"

// judgeRequests: in all, Fuuffy is asked once for each life of a token (twice with
// readers who want more of it), once for each act that makes a token useless, and for
// what the operators have it prove. A failed request is repeated, within bounds.
func judgeRequests(h *history) (violations []violation) {
	if n, most := len(h.Requests), h.mostRequests(); n > most {
		violations = append(violations, broken(ruleRequests, 0, h.End, "it got %d, and %d are the most", n, most))
	}
	// Once all is quiet, there are the lives of the tokens only.
	n := 0
	for _, r := range h.Requests {
		if r.Begin > h.Quiet {
			n++
		}
	}
	if most := h.lives(h.End - h.Quiet); n > most {
		violations = append(violations, broken(ruleRequests, h.Quiet, h.End, "it got %d in quiet times, and %d are the most", n, most))
	}
	return violations
}

// lives is how many tokens a time sees: each is served for half of its short life, the
// last quarter of which is its refresh window, which opens up to a tenth early.
func (h *history) lives(length time.Duration) int {
	shortest := h.Life / 2 * 29 / 40
	return 1 + int(length/shortest)
}

// mostRequests is the bound for the whole history.
func (h *history) mostRequests() int {
	flights, proofs, lifts := 2*h.lives(h.End), 0, 0
	for _, o := range h.Operations {
		if o.Outcome == unsent {
			continue
		}
		switch o.Kind {
		case opDelete:
			flights, lifts = flights+1, lifts+1
		case opReport:
			if h.grants[o.Reported] != nil {
				flights++
			}
		case opSettings:
			lifts++
		case opCredentials, opStage, opPromote, opRollback, opEmergency:
			flights, proofs, lifts = flights+1, proofs+1, lifts+1
		case opComplete:
			flights, proofs, lifts = flights+1, proofs+2, lifts+1
		}
	}
	// A process that ends takes the request under way and the hold-off with it.
	starts := len(h.Terms)
	for _, f := range h.Faults {
		if f.Kind == pluginKilled || f.Kind == pluginReloaded {
			starts++
		}
	}
	flights, lifts = flights+starts, lifts+starts
	return flights + proofs*attempts + h.failures(lifts)*attempts*pairs
}

// failures is how many flights can fail: after each the engine waits, the longer the
// more of them, until somebody lifts the wait.
func (h *history) failures(lifts int) (failures int) {
	for _, f := range h.Faults {
		lasts := f.End - f.Begin
		share := float64(lasts) / float64(h.End)
		rows := 1 + int(math.Ceil(float64(lifts)*share))
		// A wait of 1, 2, 4 … seconds, a quarter less at random, follows each failure.
		perRow := 2 + int(math.Log2(1+lasts.Seconds()/float64(rows)/0.75))
		failures += rows * perRow
	}
	return failures
}

// judgeServed: after the faults, each node serves a token within a bound, and then
// everybody, always.
func judgeServed(h *history) (violations []violation) {
	const rule = "after the faults everybody is served"
	for node := range h.Nodes {
		first := never
		for _, o := range h.Operations {
			if o.Kind == opRead && o.ok() && o.Node == node && o.Begin >= h.Healed {
				first = min(first, o.End)
			}
		}
		if first == never || first-h.Healed > servedWithin {
			violations = append(violations, broken(rule, h.Healed, h.End, "node %d serves a token at %s; the faults ended at %s", node, at(first), at(h.Healed)))
		}
	}
	for _, o := range h.Operations {
		if o.Begin >= h.Quiet && o.reads() && !o.ok() {
			violations = append(violations, broken(rule, o.Begin, o.End, "operation %d ends with %s in quiet times: %s", o.ID, o.Outcome, o.Error))
		}
	}
	return violations
}
