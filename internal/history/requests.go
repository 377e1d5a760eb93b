// SPDX-License-Identifier: MPL-2.0

package history

import (
	"cmp"
	"math"
	"slices"
	"time"
)

const (
	// attempts is how often one token request is sent to Fuuffy at most. Another follows
	// if Fuuffy rejects the current credentials: with the previous ones.
	attempts = 3
	// election is how long a cluster may take to have an active node that has started
	// the engine. It takes seconds, but the machine may be busy.
	election = 90 * time.Second
	// holdOff is how long the engine leaves a Fuuffy alone that was unavailable.
	holdOff = time.Minute
)

const ruleRequests = "Fuuffy gets no more requests than the contract allows"

// judgeRequests: Fuuffy issues a token for each life of one (two with readers who want
// more of it), for each act that makes a token or a request useless, and for what is
// proved. While it fails, the engine leaves it alone for longer and longer.
func judgeRequests(h *History) (violations []Violation) {
	granted, quiet := 0, 0
	for _, r := range h.Requests {
		if r.Token != "" {
			granted++
		}
		if h.Quiet.before(r.Begin) && r.Begin.before(h.Outage) {
			quiet++
		}
	}
	if most := h.mostGrants(); granted > most {
		violations = append(violations, violated(ruleRequests, []Moment{beginning, h.End}, "it issued %d tokens, and %d are the most", granted, most))
	}
	if most := h.lives(h.Outage.At - h.Quiet.At); quiet > most {
		violations = append(violations, violated(ruleRequests, []Moment{h.Quiet, h.Outage}, "it got %d in quiet times, and %d are the most", quiet, most))
	}
	for _, o := range h.outages() {
		if most := h.mostIn(o); o.requests > most {
			violations = append(violations, violated(ruleRequests, []Moment{o.Begin, o.End}, "it got %d while it gave no tokens, and %d are the most", o.requests, most))
		}
	}
	return violations
}

// lives is how many tokens a time sees: each is served until its buffer, and the last
// quarter of that is its refresh window, which opens up to a tenth early.
func (h *History) lives(length time.Duration) int {
	shortest := (h.Life - h.Buffer) * 29 / 40
	return 1 + int(length/shortest)
}

// acts are what happened in a time that costs requests.
type acts struct {
	// lifts end the wait after a failure, and call off a request under way: when they
	// began and ended.
	lifts []Span
	// useless makes the cached token useless.
	useless int
	// proofs are the requests that operations make, each of which may be repeated.
	proofs int
}

// actsIn counts the acts that may have had an effect in a time.
func (h *History) actsIn(from, to Moment) (a acts) {
	for _, o := range h.Calls {
		if o.Outcome == Unsent || to.before(o.Begin) || h.mayWorkUntil(o).before(from) {
			continue
		}
		if o.Op == OpDeleteToken || o.Op == OpWriteConfig || o.steps() {
			a.lifts = append(a.lifts, Span{o.Begin, h.mayWorkUntil(o)})
		}
		switch {
		case o.Op == OpDeleteToken, o.Op == OpReport && h.grants[o.Reported] != nil:
			a.useless++
		case o.steps():
			a.useless, a.proofs = a.useless+1, a.proofs+1
			if o.Op == OpComplete || o.Op == OpStage {
				a.proofs++ // That the previous client is revoked.
			}
		}
	}
	// A process that ends takes the wait and the request under way with it, and one that
	// is stopped or cut off loses the answer.
	for _, t := range h.Terms {
		if !t.Begin.before(from) && !to.before(t.Begin) {
			a.lifts = append(a.lifts, Span{t.Begin.minus(logDelay), t.Begin.minus(-time.Second)})
		}
	}
	for _, f := range h.Faults {
		if f.Node != "" && !to.before(f.Begin) && !f.End.before(from) {
			a.lifts = append(a.lifts, f.Span)
		}
	}
	return a
}

// mostGrants is how many tokens may be issued in all. A request that is called off may
// have been issued, and is repeated.
func (h *History) mostGrants() int {
	a, calledOff := h.actsIn(beginning, h.End), 0
	for _, r := range h.Requests {
		if r.Token != "" && len(h.actsIn(r.Begin, r.End).lifts) > 0 {
			calledOff++
		}
	}
	return 2*h.lives(h.End.At) + calledOff + a.useless + a.proofs
}

// outage is a time in which Fuuffy issued nothing.
type outage struct {
	Span
	requests int
	// rejected is set if it rejected credentials: then others are tried in between.
	rejected bool
}

func (h *History) outages() (outages []outage) {
	requests := slices.Clone(h.Requests)
	slices.SortFunc(requests, func(a, b *Request) int { return cmp.Compare(a.Begin.At, b.Begin.At) })
	var now *outage
	for _, r := range requests {
		switch {
		case r.Token != "":
			now = nil
			continue
		case now == nil:
			outages = append(outages, outage{Span: Span{Begin: r.Begin}})
			now = &outages[len(outages)-1]
		}
		now.requests++
		now.rejected = now.rejected || r.Outcome == Rejected
		now.End = later(now.End, earlier(r.End, h.End))
	}
	return outages
}

// mostIn is how many requests an outage may see. After a failed flight the engine waits
// for a second, then two, then four, a quarter less at random, until someone lifts that.
func (h *History) mostIn(o outage) int {
	a := h.actsIn(o.Begin, o.End)
	slices.SortFunc(a.lifts, func(a, b Span) int { return cmp.Compare(a.Begin.At, b.Begin.At) })
	flights, from := 0.0, o.Begin.At
	for _, lift := range append(a.lifts, Span{o.End, o.End}) {
		row := max(0, min(lift.End.At, o.End.At)-from)
		flights += 1 + math.Log2(1+row.Seconds()/0.75)
		from = max(from, lift.Begin.At)
	}
	each := attempts
	if o.rejected {
		each++
	}
	return int(flights)*each + a.proofs*attempts
}

// judgeServedAgain: after the faults, each node serves a token within a bound, and then
// everyone, always. After the last outage of Fuuffy, each does so again.
func judgeServedAgain(h *History) (violations []Violation) {
	const rule = "after the faults everyone is served"
	within := func(from Moment, most time.Duration) {
		for _, node := range h.Nodes {
			if served := h.servedSince(from, node); served == Never || served.At-from.At > most {
				violations = append(violations, violated(rule, []Moment{from, h.End}, "the faults ended at %s, and node %s serves a token at %s", from, node, served))
			}
		}
	}
	within(h.Healed, h.ServedWithin())
	within(h.Over, h.recovery())
	for _, c := range h.Calls {
		if !c.Begin.before(h.Quiet) && c.End.before(h.Outage) && c.reads() && !c.OK() {
			violations = append(violations, violated(rule, c.ends(), "call %d ends with %s in quiet times: %s", c.ID, c.result(), c.Error))
		}
	}
	return violations
}

// ServedWithin is how long after the faults everyone must be served.
func (h *History) ServedWithin() time.Duration { return election + h.recovery() }

// recovery is how long after an outage of Fuuffy everyone must be served.
func (h *History) recovery() time.Duration { return holdOff + 2*attempts*h.RequestTimeout }

// servedSince is when a node first serves a token to a read that began then or later.
func (h *History) servedSince(from Moment, node string) Moment {
	first := Never
	for _, c := range h.served {
		if c.Op == OpRead && c.Asked == node && !c.Begin.before(from) {
			first = earlier(first, c.End)
		}
	}
	return first
}
