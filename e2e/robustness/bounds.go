// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"cmp"
	"math"
	"net/http"
	"slices"
	"time"
)

const (
	// attempts is how often one token request is sent to Fuuffy at most. Another follows
	// if Fuuffy rejects the current credentials: with the previous ones.
	attempts = 3
	// election is how long a cluster may take to have an active node that has started
	// the engine. It takes seconds, but this machine may be busy.
	election = 90 * time.Second
	// holdOff is how long the engine leaves a Fuuffy alone that was unavailable.
	holdOff = time.Minute
	// servedWithin is how long after the faults everyone must be served.
	servedWithin = election + holdOff + 2*attempts*requestTimeout
)

const ruleRequests = "Fuuffy gets no more requests than the contract allows"

// judgeRequests: Fuuffy issues a token for each life of one (two with readers who want
// more of it), for each act that makes a token or a request useless, and for what is
// proved. While it fails, the engine leaves it alone for longer and longer.
func judgeRequests(h *history) (violations []violation) {
	granted, quiet := 0, 0
	for _, r := range h.Requests {
		if r.Token != "" {
			granted++
		}
		if r.Begin > h.Quiet && r.Begin < h.Outage {
			quiet++
		}
	}
	if most := h.mostGrants(); granted > most {
		violations = append(violations, broken(ruleRequests, 0, h.End, "it granted %d tokens, and %d are the most", granted, most))
	}
	if most := h.lives(h.Outage - h.Quiet); quiet > most {
		violations = append(violations, broken(ruleRequests, h.Quiet, h.Outage, "it got %d in quiet times, and %d are the most", quiet, most))
	}
	for _, o := range h.outages() {
		if most := h.mostIn(o); o.requests > most {
			violations = append(violations, broken(ruleRequests, o.begin, o.end, "it got %d while it gave no tokens, and %d are the most", o.requests, most))
		}
	}
	return violations
}

// lives is how many tokens a time sees: each is served until its buffer, and the last
// quarter of that is its refresh window, which opens up to a tenth early.
func (h *history) lives(length time.Duration) int {
	shortest := (h.Life - expiryBuffer) * 29 / 40
	return 1 + int(length/shortest)
}

// acts are what happened in a time that costs requests.
type acts struct {
	// lifts end the wait after a failure, and call off a request under way: when they
	// began and ended.
	lifts [][2]moment
	// useless makes the cached token useless.
	useless int
	// proofs are the requests that operations make, each of which may be repeated.
	proofs int
}

// actsIn counts the acts that may have had an effect in a time.
func (h *history) actsIn(from, to moment) (a acts) {
	for _, o := range h.Operations {
		if o.Outcome == unsent || o.Begin > to || o.mayWorkUntil() < from {
			continue
		}
		if o.Kind == opDelete || o.Kind == opSettings || o.steps() {
			a.lifts = append(a.lifts, [2]moment{o.Begin, o.mayWorkUntil()})
		}
		switch o.Kind {
		case opDelete:
			a.useless++
		case opReport:
			if h.grants[o.Reported] != nil {
				a.useless++
			}
		case opCredentials, opStage, opPromote, opRollback, opEmergency, opComplete, opDiscard:
			a.useless, a.proofs = a.useless+1, a.proofs+1
			if o.Kind == opComplete || o.Kind == opStage {
				a.proofs++ // That the previous client is revoked.
			}
		}
	}
	// A process that ends takes the wait and the request under way with it, and one that
	// is stopped or cut off loses the answer.
	for _, t := range h.Terms {
		if from <= t.Begin && t.Begin <= to {
			a.lifts = append(a.lifts, [2]moment{t.Begin - logDelay, t.Begin + time.Second})
		}
	}
	for _, f := range h.Faults {
		if f.Node >= 0 && f.Begin <= to && from <= f.End {
			a.lifts = append(a.lifts, [2]moment{f.Begin, f.End})
		}
	}
	return a
}

// mostGrants is how many tokens may be issued in all. A request that is called off may
// have been issued, and is repeated.
func (h *history) mostGrants() int {
	a, calledOff := h.actsIn(0, h.End), 0
	for _, r := range h.Requests {
		if r.Token != "" && len(h.actsIn(r.Begin, r.End).lifts) > 0 {
			calledOff++
		}
	}
	return 2*h.lives(h.End) + calledOff + a.useless + a.proofs
}

// outage is a time in which Fuuffy issued nothing.
type outage struct {
	begin, end moment
	requests   int
	// rejected is set if it rejected credentials: then others are tried in between.
	rejected bool
}

func (h *history) outages() (outages []outage) {
	requests := slices.Clone(h.Requests)
	slices.SortFunc(requests, func(a, b *request) int { return cmp.Compare(a.Begin, b.Begin) })
	var now *outage
	for _, r := range requests {
		switch {
		case r.Token != "":
			now = nil
			continue
		case now == nil:
			outages = append(outages, outage{begin: r.Begin})
			now = &outages[len(outages)-1]
		}
		now.requests++
		now.rejected = now.rejected || r.Status == http.StatusUnauthorized
		now.end = max(now.end, min(r.End, h.End))
	}
	return outages
}

// mostIn is how many requests an outage may see. After a failed flight the engine waits
// for a second, then two, then four, a quarter less at random, until someone lifts that.
func (h *history) mostIn(o outage) int {
	a := h.actsIn(o.begin, o.end)
	slices.SortFunc(a.lifts, func(a, b [2]moment) int { return cmp.Compare(a[0], b[0]) })
	flights, from := 0.0, o.begin
	for _, lift := range append(a.lifts, [2]moment{o.end, o.end}) {
		row := max(0, min(lift[1], o.end)-from)
		flights += 1 + math.Log2(1+row.Seconds()/0.75)
		from = max(from, lift[0])
	}
	each := attempts
	if o.rejected {
		each++
	}
	return int(flights)*each + a.proofs*attempts
}

// judgeServed: after the faults, each node serves a token within a bound, and then
// everyone, always. After the last outage of Fuuffy, each does so again.
func judgeServed(h *history) (violations []violation) {
	const rule = "after the faults everyone is served"
	within := func(from moment, most time.Duration) {
		for node := range h.Nodes {
			if served := h.servedSince(from, node); served == never || served-from > most {
				violations = append(violations, broken(rule, from, h.End, "the faults ended at %s, and node %d serves a token at %s", at(from), node, at(served)))
			}
		}
	}
	within(h.Healed, servedWithin)
	within(h.Over, holdOff+2*attempts*requestTimeout)
	for _, o := range h.Operations {
		if o.Begin >= h.Quiet && o.End < h.Outage && o.reads() && !o.ok() {
			violations = append(violations, broken(rule, o.Begin, o.End, "operation %d ends with %s in quiet times: %s", o.ID, o.Outcome, o.Error))
		}
	}
	return violations
}

// servedSince is when a node first serves a token to a read that began then or later.
func (h *history) servedSince(from moment, node int) moment {
	first := never
	for _, o := range h.Operations {
		if o.Kind == opRead && o.ok() && o.Node == node && o.Begin >= from {
			first = min(first, o.End)
		}
	}
	return first
}
