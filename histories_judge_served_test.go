// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"slices"
	"time"
)

// atHand is a token that a reader could have had.
type atHand struct {
	token string
	// patience is how long the reader may wait for storage and the clock.
	patience time.Duration
}

// readTime is how long a read takes that waits for nothing but looks at the clock and log lines.
const readTime = time.Second

// judgeServed: no reader waits for Fuuffy, or fails, while the node that answers has a token that may be
// served, in memory or in storage that works.
func judgeServed(h *history) (broken []violation) {
	configs := h.configsOf()
	for _, c := range h.calls {
		if !plainRead(c) {
			continue
		}
		for _, t := range []*atHand{h.inMemory(c, configs), h.inStorage(c, configs)} {
			if t == nil || !h.livesOn(t.token, c.end, false) {
				continue
			}
			at := []moment{c.begin, c.end}
			switch took := c.end.at - c.entered.at; {
			case !c.ok():
				broken = append(broken, violated("no reader fails while a token is at hand", at, "call %d ends with %s, and could have %s", c.id, c.outcome, t.token))
			case took > t.patience:
				broken = append(broken, violated("no reader waits while a token is at hand", at, "call %d takes %s, and could have %s", c.id, took, t.token))
			}
		}
	}
	return broken
}

// judgeStale: with stale_if_error, a token in its buffer is served when Fuuffy fails, after a restart and
// an election too. Nobody waits for it while Fuuffy is known to fail.
func judgeStale(h *history) (broken []violation) {
	configs := h.configsOf()
	for _, c := range h.calls {
		if !plainRead(c) || !allowsStale(configs(c.at()), c.span) {
			continue
		}
		for _, t := range []*atHand{h.inMemory(c, configs), h.inStorage(c, configs)} {
			if t == nil || !h.livesOn(t.token, c.end, true) {
				continue
			}
			at := []moment{c.begin, c.end}
			if c.failedForFuuffy() {
				broken = append(broken, violated("stale_if_error serves what has life left", at, "call %d ends with %s, and could have %s", c.id, c.outcome, t.token))
			}
		}
		if t := h.knownStale(c, configs); t != "" && h.livesOn(t, c.end, true) && c.end.at-c.entered.at > 2*time.Second+readTime {
			broken = append(broken, violated("a stale token is served without a wait", []moment{c.begin, c.end}, "call %d takes %s, and could have %s", c.id, c.end.at-c.entered.at, t))
		}
	}
	return broken
}

// plainRead tells whether a call is a read with all the time in the world, whose end is known.
func plainRead(c *call) bool {
	return c.op == opRead && c.minTTL == 0 && c.limit == 0 && c.waited == 0 && c.outcome != endedUnknown && c.end != never
}

// failedForFuuffy tells whether a call got no token because Fuuffy didn't work. A rejection is another
// matter.
func (c *call) failedForFuuffy() bool {
	return slices.Contains([]string{"HTTP 429", "HTTP 502", "HTTP 503", "HTTP 504"}, c.outcome)
}

// livesOn tells whether a token may still be served at a moment, to its end or to its buffer, on each
// node, whatever its clock. Nobody knows that of a token that Fuuffy issued twice: its life depends on
// which of the two a node has.
func (h *history) livesOn(token string, m moment, toItsEnd bool) bool {
	grants := h.grants(token)
	if len(grants) != 1 {
		return false
	}
	life := grants[0].life
	served := life
	if !toItsEnd {
		served -= min(h.mostBuffer(), life/2)
	}
	return m.at-h.requested(grants[0])+h.skew()+life/20+time.Second < served
}

// requested is when the engine began to ask for a token: its life counts from the first of several
// attempts.
func (h *history) requested(granted *requestRecord) time.Duration {
	const most, pause = 50 * time.Second, 15 * time.Second
	first := granted.begin.at
	for i := len(h.asked) - 1; i >= 0; i-- {
		a := h.asked[i]
		if a.place == granted.place && a.call == granted.call && a.client == granted.client &&
			a.begin.at < first && a.end.at > first-pause && a.begin.at > granted.begin.at-most {
			first = a.begin.at
		}
	}
	return first
}

// mostBuffer is the longest token_expiry_buffer of a history.
func (h *history) mostBuffer() (most time.Duration) {
	for _, s := range h.configChanges() {
		if s.config != nil {
			most = max(most, s.config.Buffer)
		}
	}
	return most
}

// sameCredentials returns the pair in force all through a span, "" if there were several, or none.
func sameCredentials(configs []inForce, s span) (id string) {
	first := true
	previous := ""
	for _, f := range configs {
		if !f.overlaps(s) {
			continue
		}
		if f.config == nil {
			return ""
		}
		kept := ""
		if f.config.Previous != nil {
			kept = f.config.Previous.ID
		}
		if !first && (id != f.config.Current.ID || previous != kept) {
			return ""
		}
		id, previous, first = f.config.Current.ID, kept, false
	}
	return id
}

// allowsStale tells whether stale_if_error was set all through a span.
func allowsStale(configs []inForce, s span) bool {
	return !slices.ContainsFunc(configs, func(f inForce) bool {
		return f.overlaps(s) && (f.config == nil || !f.config.StaleIfError)
	})
}

// inMemory returns the token that the process of a call certainly has: it served it before, and nothing
// could take it away since.
func (h *history) inMemory(c *call, configs func(place) []inForce) *atHand {
	y := h.lastServed(c)
	if y == nil {
		return nil
	}
	since := span{y.begin, c.end}
	if h.dropsBetween(c.at(), since) || sameCredentials(configs(c.at()), since) == "" {
		return nil
	}
	// After something made the process forget the configuration, the reader may wait for a load.
	patience := readTime
	if n := h.forgets(c.at(), since); n > 0 {
		patience += storageTime * time.Duration(1+n)
	}
	return &atHand{y.token, patience}
}

// lastServed is the last answer of the same process before a call that was a token.
func (h *history) lastServed(c *call) (last *call) {
	for _, y := range h.calls {
		if y.ok() && y.token != "" && y.at() == c.at() && y.end.before(c.entered) && (last == nil || last.end.before(y.end)) {
			last = y
		}
	}
	return last
}

// dropsBetween tells whether something may have dropped the token of a process.
func (h *history) dropsBetween(p place, s span) bool {
	return slices.ContainsFunc(h.calls, func(c *call) bool {
		return (c.op == opDeleteToken && tokenStore(c.answered) == tokenStore(p.node) || c.op == opDeleteConfig) && c.overlaps(s)
	}) || slices.ContainsFunc(h.told, func(t *invalidation) bool {
		return t.place == p && t.key == tokenKey && t.overlaps(s)
	})
}

// forgets counts what may have made a process forget its configuration.
func (h *history) forgets(p place, s span) (n int) {
	for _, t := range h.told {
		if t.place == p && t.key == configKey && t.overlaps(s) {
			n++
		}
	}
	for _, c := range h.calls {
		if c.at() == p && c.changes() && !c.ok() && c.overlaps(s) {
			n++
		}
	}
	return n
}

// inStorage returns the token that the process of a call finds in storage. Nothing changes meanwhile,
// nobody reported the token, and storage works.
func (h *history) inStorage(c *call, configs func(place) []inForce) *atHand {
	var stored *storageRecord
	for _, s := range h.tokenChanges(tokenStore(c.answered)) {
		if s.applied.before(c.entered) {
			stored = s
		} else if s.applied.before(c.end) {
			return nil
		}
	}
	at := span{c.entered, c.end}
	switch {
	case stored == nil, stored.token == "", stored.suspect,
		stored.pairID != sameCredentials(configs(c.at()), at),
		h.changesBetween(c.at(), at),
		h.dropsBetween(c.at(), span{stored.applied, c.end}),
		h.mayBeReported(stored, c.end),
		!h.readable(c.at(), c.end):
		return nil
	}
	return &atHand{stored.token, readTime + covered(at, h.storageTimes(at, c.id))}
}

// changesBetween tells whether a process may have had to start again with what it was doing. Where a
// process ends, its calls end before.
func (h *history) changesBetween(p place, s span) bool {
	return slices.ContainsFunc(h.calls, func(c *call) bool {
		return c.changes() && c.op != opRestart && c.op != opElect && c.overlaps(s)
	}) || slices.ContainsFunc(h.told, func(t *invalidation) bool { return t.place == p && t.overlaps(s) })
}

// mayBeReported tells whether somebody may have reported a stored token before a moment.
func (h *history) mayBeReported(s *storageRecord, m moment) bool {
	return slices.ContainsFunc(h.calls, func(r *call) bool {
		return r.op == opReport && r.begin.before(m) && (r.reported == s.token || r.reported == "" && s.begin.before(r.end))
	})
}

// readable tells whether a process could read its storage all the time until a moment.
func (h *history) readable(p place, until moment) bool {
	return !slices.ContainsFunc(h.stored, func(s *storageRecord) bool {
		return s.place == p && s.operation == "get" && s.begin.before(until) && (s.failed || s.end == never || s.end.at-s.begin.at >= storageTime)
	})
}

// covered is how much of a span the stretches cover.
func covered(s span, stretches []stretch) time.Duration {
	return s.end.at - s.begin.at - uncovered(s, stretches)
}

// knownStale returns the token that a process served as stale before a call, if Fuuffy is known to
// fail since.
func (h *history) knownStale(c *call, configs func(place) []inForce) string {
	y := h.lastServed(c)
	if y == nil || !y.stale {
		return ""
	}
	since := span{y.begin, c.end}
	if h.changesBetween(c.at(), since) || !allowsStale(configs(c.at()), since) || slices.ContainsFunc(h.asked, func(a *requestRecord) bool {
		return a.place == c.at() && a.overlaps(since) && (a.token != "" || a.outcome == "rejected")
	}) {
		return ""
	}
	return y.token
}
