// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"slices"
	"time"
)

// rules are what every history is held to.
var rules = []func(*history) []violation{
	judgeSteps, judgeLinear, judgeLate, judgeGranted, judgeDeleted, judgeReported, judgeRequests, judgeServed,
}

// judge returns what a history breaks of the rules.
func judge(h *history) (violations []violation) {
	h.prepare()
	for _, rule := range rules {
		violations = append(violations, rule(h)...)
	}
	return violations
}

// prepare works out what several rules need.
func (h *history) prepare() {
	h.splitTimes = h.splits()
	h.steps, h.stepViolations = h.collectSteps()
	h.stepViolations = append(h.stepViolations, h.explain(h.steps)...)
	h.date(h.steps)
	c := config{}
	for _, s := range h.steps {
		s.after = c.after(s)
		c = s.after
	}
	h.grants = map[string]*request{}
	for _, r := range h.Requests {
		if r.Token != "" {
			h.grants[r.Token] = r
		}
	}
}

// after is where the rotation stands after a step, by what the step says.
func (c config) after(s *step) config {
	next := c
	switch s.verb {
	case "configured", "replaced":
		next.Current = s.client
	case "staged":
		if s.client == c.Current {
			next.Compromised = true
		} else {
			next.Staged = s.client
		}
	case "promoted":
		next = config{Previous: c.Current, Current: s.client, Compromised: s.cause != nil && s.cause.Kind == opEmergency}
	case "completed":
		next = config{Current: c.Current}
	case "rolled back":
		next = config{Current: s.client}
	case "discarded":
		next = config{Current: c.Current}
	}
	return next
}

// during tells whether the rotation could stand somewhere at some moment of a time.
func (h *history) during(from, to moment, there func(config) bool) bool {
	for i, s := range h.steps {
		until := never
		if i+1 < len(h.steps) {
			until = h.steps[i+1].latest
		}
		// One change may be several steps, of which only the last is seen.
		last := i+1 == len(h.steps) || h.steps[i+1].cause == nil || h.steps[i+1].cause != s.cause
		if last && s.earliest <= to && from <= until && there(s.after) {
			return true
		}
	}
	return false
}

// allowed tells whether a token of a client could be served at some moment of a time.
func (h *history) allowed(client string, from, to moment) bool {
	return h.during(from, to, func(c config) bool { return c.allows(client) })
}

// tokenReads are the operations that were given a token.
func (h *history) tokenReads() (reads []*operation) {
	for _, o := range h.Operations {
		if o.ok() && o.Token != "" {
			reads = append(reads, o)
		}
	}
	return reads
}

// judgeGranted: every token that was served was issued by Fuuffy before, to credentials
// that were current at some moment of the read and not given up as compromised, and
// had not expired when the read began, nor was too old for the job.
func judgeGranted(h *history) (violations []violation) {
	for _, o := range h.tokenReads() {
		g := h.grants[o.Token]
		switch {
		case g == nil || g.Begin > o.End:
			violations = append(violations, broken("a token that is served was granted", o.Begin, o.End, "operation %d gets %s, which was not", o.ID, o.Token))
		case g.Expires < o.Begin:
			violations = append(violations, broken("no expired token is served", g.Expires, o.End, "operation %d gets %s, which expired at %s", o.ID, o.Token, at(g.Expires)))
		case g.Expires-o.Begin < o.MinTTL:
			violations = append(violations, broken("a token lives for min_ttl", o.Begin, o.End, "operation %d asks for %s and gets %s, which expires at %s", o.ID, o.MinTTL, o.Token, at(g.Expires)))
		case !h.allowed(g.Client, h.asOf(o), o.End):
			violations = append(violations, broken("a token is of current credentials", h.asOf(o), o.End, "operation %d gets %s of client %s, which is not current or is compromised", o.ID, o.Token, g.Client))
		}
	}
	return violations
}

// workingTime is how long after its client gave up a request may still have an effect: a
// node may be stopped meanwhile, and save a token then.
const workingTime = longestStop + 5*time.Second

// mayWorkUntil is when the operation was certainly over in the engine.
func (o *operation) mayWorkUntil() moment {
	if o.Outcome == unknown && o.End != never {
		return o.End + workingTime
	}
	return o.End
}

// proof tells whether a request may have been made by an operation that proves
// credentials, rather than for readers.
func (h *history) proof(r *request) bool {
	return slices.ContainsFunc(h.Operations, func(o *operation) bool {
		return o.steps() && o.Outcome != unsent && o.Begin <= r.End && r.Begin <= o.mayWorkUntil()
	})
}

// judgeDeleted: once a delete of the token was answered, no one is served the token that
// was cached, nor one that was on its way for readers.
func judgeDeleted(h *history) (violations []violation) {
	first := map[string]*operation{}
	for _, o := range h.tokenReads() {
		if f := first[o.Token]; f == nil || o.End < f.End {
			first[o.Token] = o
		}
	}
	deleted := map[string]*operation{} // the first delete that ended a token
	for token, g := range h.grants {
		forReaders := !h.proof(g)
		for _, d := range h.Operations {
			if d.Kind != opDelete || !d.ok() || deleted[token] != nil && deleted[token].End < d.End {
				continue
			}
			served := first[token] != nil && first[token].End < d.Begin
			if served || g.Begin < d.Begin && forReaders {
				deleted[token] = d
			}
		}
	}
	for _, o := range h.tokenReads() {
		if d := deleted[o.Token]; d != nil && d.End < h.asOf(o) {
			violations = append(violations, broken("no deleted token is served", d.Begin, o.End, "operation %d gets %s, which operation %d deleted", o.ID, o.Token, d.ID))
		}
	}
	return violations
}

// judgeReported: once a report of a token was answered with another, no one is served
// the reported one, unless the other could not be saved.
func judgeReported(h *history) (violations []violation) {
	replaced := map[string]*operation{}
	for _, o := range h.tokenReads() {
		if r := replaced[o.Reported]; o.Reported != "" && o.Token != o.Reported && h.grants[o.Reported] != nil && (r == nil || o.End < r.End) {
			replaced[o.Reported] = o
		}
	}
	for _, o := range h.tokenReads() {
		if r := replaced[o.Token]; r != nil && r.End < h.asOf(o) && !h.unsavedSince(h.grants[o.Token].Begin, o.End) {
			violations = append(violations, broken("no reported token is served", r.Begin, o.End, "operation %d gets %s, which operation %d had replaced", o.ID, o.Token, r.ID))
		}
	}
	return violations
}

// unsavedSince tells whether a token could not be saved in a time: then an older one
// comes back after a failover.
func (h *history) unsavedSince(from, to moment) bool {
	return slices.ContainsFunc(h.Unsaved, func(m moment) bool { return from <= m && m <= to+logDelay })
}
