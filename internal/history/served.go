// SPDX-License-Identifier: MPL-2.0

package history

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
func judgeServed(h *History) (broken []Violation) {
	for _, c := range h.Calls {
		if !plainRead(c) {
			continue
		}
		for _, t := range []*atHand{h.inMemory(c), h.inStorage(c)} {
			if t == nil || !h.livesOn(t.token, c.End, false) {
				continue
			}
			at := c.ends()
			switch took := c.End.At - c.Entered.At; {
			case !c.OK():
				broken = append(broken, violated("no reader fails while a token is at hand", at, "call %d ends with %s, and could have %s", c.ID, c.result(), t.token))
			case took > t.patience:
				broken = append(broken, violated("no reader waits while a token is at hand", at, "call %d takes %s, and could have %s", c.ID, took, t.token))
			}
		}
	}
	return broken
}

// judgeStale: with stale_if_error, a token in its buffer is served when Fuuffy fails, after a restart and
// an election too. No reader waits for it while Fuuffy is known to fail.
func judgeStale(h *History) (broken []Violation) {
	for _, c := range h.Calls {
		if !plainRead(c) || !allowsStale(h.configs(c.Place), c.Span) {
			continue
		}
		for _, t := range []*atHand{h.inMemory(c), h.inStorage(c)} {
			if t == nil || !h.livesOn(t.token, c.End, true) {
				continue
			}
			at := c.ends()
			if c.failedForFuuffy() {
				broken = append(broken, violated("stale_if_error serves what has life left", at, "call %d ends with %s, and could have %s", c.ID, c.result(), t.token))
			}
		}
		if t := h.knownStale(c); t != "" && h.livesOn(t, c.End, true) && c.End.At-c.Entered.At > 2*time.Second+readTime {
			broken = append(broken, violated("a stale token is served without a wait", c.ends(), "call %d takes %s, and could have %s", c.ID, c.End.At-c.Entered.At, t))
		}
	}
	return broken
}

// plainRead tells whether a call is a read with all the time in the world, whose end is known.
func plainRead(c *Call) bool {
	return c.Op == OpRead && c.MinTTL == 0 && c.Limit == 0 && c.Waited == 0 && c.Outcome != Unknown && c.End != Never
}

// failedForFuuffy tells whether a call got no token because Fuuffy didn't work. A rejection is another
// matter.
func (c *Call) failedForFuuffy() bool {
	return slices.Contains([]int{429, 502, 503, 504}, c.Status)
}

// livesOn tells whether a token may still be served at a moment, to its end or to its buffer, on each
// node, whatever its clock. That is unknown of a token that Fuuffy issued twice: its life depends on
// which of the two a node has.
func (h *History) livesOn(token string, m Moment, toItsEnd bool) bool {
	grants := h.grants[token]
	if len(grants) != 1 {
		return false
	}
	life := grants[0].Life
	served := life
	if !toItsEnd {
		served -= min(h.mostBuffer(), life/2)
	}
	return m.At-h.requested(grants[0])+h.skew()+life/20+time.Second < served
}

// requested is when the engine began to ask for a token: its life counts from the first of several
// attempts.
func (h *History) requested(granted *Request) time.Duration {
	const most, pause = 50 * time.Second, 15 * time.Second
	first := granted.Begin.At
	for i := len(h.Requests) - 1; i >= 0; i-- {
		a := h.Requests[i]
		if a.Place == granted.Place && a.Call == granted.Call && a.Client == granted.Client &&
			a.Begin.At < first && a.End.At > first-pause && a.Begin.At > granted.Begin.At-most {
			first = a.Begin.At
		}
	}
	return first
}

// mostBuffer is the longest token_expiry_buffer of a history.
func (h *History) mostBuffer() (most time.Duration) {
	for _, s := range h.configChanges() {
		if s.Config != nil {
			most = max(most, s.Config.Buffer)
		}
	}
	return most
}

// sameCredentials returns the pair that was current all through a span, "" if there were several, or none.
func sameCredentials(configs []period, s Span) (id string) {
	first := true
	previous := ""
	for _, f := range configs {
		if !f.overlaps(s) {
			continue
		}
		if f.stored == nil {
			return ""
		}
		if !first && (id != f.stored.Current.ID || previous != f.stored.Previous.ID) {
			return ""
		}
		id, previous, first = f.stored.Current.ID, f.stored.Previous.ID, false
	}
	return id
}

// allowsStale tells whether stale_if_error was set all through a span.
func allowsStale(configs []period, s Span) bool {
	return !slices.ContainsFunc(configs, func(f period) bool {
		return f.overlaps(s) && (f.stored == nil || !f.stored.StaleIfError)
	})
}

// inMemory returns the token that the process of a call certainly has: it served it before, and nothing
// could take it away since.
func (h *History) inMemory(c *Call) *atHand {
	y := h.lastServed(c)
	if y == nil {
		return nil
	}
	since := Span{y.Begin, c.End}
	if h.dropsBetween(c.Place, since) || sameCredentials(h.configs(c.Place), since) == "" {
		return nil
	}
	// After something made the process forget the configuration, the reader may wait for a load.
	patience := readTime
	if n := h.forgets(c.Place, since); n > 0 {
		patience += storageTime * time.Duration(1+n)
	}
	return &atHand{y.Token, patience}
}

// lastServed is the last answer of the same process before a call that was a token.
func (h *History) lastServed(c *Call) (last *Call) {
	for _, y := range h.Calls {
		if y.OK() && y.Token != "" && y.Place == c.Place && y.End.before(c.Entered) && (last == nil || last.End.before(y.End)) {
			last = y
		}
	}
	return last
}

// dropsBetween tells whether something may have dropped the token of a process.
func (h *History) dropsBetween(p Place, s Span) bool {
	return slices.ContainsFunc(h.Calls, func(c *Call) bool {
		return (c.Op == OpDeleteToken && h.store(c.Place) == h.store(p) || c.Op == OpDeleteConfig) && c.overlaps(s)
	}) || slices.ContainsFunc(h.Told, func(t *Invalidation) bool {
		return t.Place == p && t.Key == TokenKey && t.overlaps(s)
	})
}

// forgets counts what may have made a process forget its configuration.
func (h *History) forgets(p Place, s Span) (n int) {
	for _, t := range h.Told {
		if t.Place == p && t.Key == ConfigKey && t.overlaps(s) {
			n++
		}
	}
	for _, c := range h.Calls {
		if c.Place == p && c.changes() && !c.OK() && c.overlaps(s) {
			n++
		}
	}
	return n
}

// inStorage returns the token that the process of a call finds in storage. Nothing changes meanwhile,
// no one reported the token, and storage works.
func (h *History) inStorage(c *Call) *atHand {
	var stored *Stored
	for _, s := range h.tokenChanges(h.store(c.Place)) {
		if s.Applied.before(c.Entered) {
			stored = s
		} else if s.Applied.before(c.End) {
			return nil
		}
	}
	at := Span{c.Entered, c.End}
	switch {
	case stored == nil, stored.Token == "", stored.Suspect,
		stored.PairID != sameCredentials(h.configs(c.Place), at),
		h.changesBetween(c.Place, at),
		h.dropsBetween(c.Place, Span{stored.Applied, c.End}),
		h.mayBeReported(stored, c.End),
		!h.readable(c.Place, c.End):
		return nil
	}
	return &atHand{stored.Token, readTime + covered(at, h.storageTimes(at, c.ID))}
}

// changesBetween tells whether a process may have had to start again with what it was doing. Where a
// process ends, its calls end before.
func (h *History) changesBetween(p Place, s Span) bool {
	return slices.ContainsFunc(h.Calls, func(c *Call) bool {
		return c.changes() && c.Op != OpRestart && c.Op != OpElect && c.overlaps(s)
	}) || slices.ContainsFunc(h.Told, func(t *Invalidation) bool { return t.Place == p && t.overlaps(s) })
}

// mayBeReported tells whether someone may have reported a stored token before a moment.
func (h *History) mayBeReported(s *Stored, m Moment) bool {
	return slices.ContainsFunc(h.Calls, func(r *Call) bool {
		return r.Op == OpReport && r.Begin.before(m) && (r.Reported == s.Token || r.Reported == "" && s.Begin.before(r.End))
	})
}

// readable tells whether a process could read its storage all the time until a moment.
func (h *History) readable(p Place, until Moment) bool {
	return !slices.ContainsFunc(h.Stored, func(s *Stored) bool {
		return s.Place == p && s.Operation == "get" && s.Begin.before(until) && (s.Failed || s.End == Never || s.End.At-s.Begin.At >= storageTime)
	})
}

// covered is how much of a span the stretches cover.
func covered(s Span, stretches []stretch) time.Duration {
	return s.End.At - s.Begin.At - uncovered(s, stretches)
}

// knownStale returns the token that a process served as stale before a call, if Fuuffy is known to
// fail since.
func (h *History) knownStale(c *Call) string {
	y := h.lastServed(c)
	if y == nil || !y.Stale {
		return ""
	}
	since := Span{y.Begin, c.End}
	if h.changesBetween(c.Place, since) || !allowsStale(h.configs(c.Place), since) || slices.ContainsFunc(h.Requests, func(a *Request) bool {
		return a.Place == c.Place && a.overlaps(since) && (a.Token != "" || a.Outcome == Rejected)
	}) {
		return ""
	}
	return y.Token
}

// judgeQuiet: a node that is left alone works. A read costs one token request at most, one after a
// delete costs one, and so does a report, which replaces the token. The new token is there after a
// restart, at no cost.
func judgeQuiet(h *History) (broken []Violation) {
	report := func(c *Call, format string, args ...any) {
		broken = append(broken, violated("a quiet node works", c.ends(), "call %d, "+format+" (%s, %s)", append(append([]any{c.ID}, args...), c.result(), c.Token)...))
	}
	calm := slices.IndexFunc(h.Calls, func(c *Call) bool { return h.Calm.before(c.Begin) })
	if calm < 0 {
		return nil
	}
	for calls := range slices.Chunk(h.Calls[calm:], len(quietCalls)) {
		for i, op := range quietCalls {
			if i == len(calls) || calls[i].Op != op {
				report(calls[0], "is not followed by what is expected")
				return broken
			}
		}
		read, again, replaced, restarted := calls[0], calls[2], calls[3], calls[4]
		if cost := h.cost(read); !read.OK() || cost > 1 {
			report(read, "a read, costs %d requests", cost)
		}
		if cost := h.cost(again); !again.OK() || cost != 1 {
			report(again, "a read after a delete, costs %d requests", cost)
		}
		if cost := h.cost(replaced); !replaced.OK() || replaced.Token == again.Token || cost != 1 {
			report(replaced, "a report of %s, costs %d requests", again.Token, cost)
		}
		if cost := h.cost(restarted); restarted.Token != replaced.Token || cost != 0 {
			report(restarted, "a read after a restart, costs %d requests and should get %s", cost, replaced.Token)
		}
	}
	return broken
}

// quietCalls are the calls to a quiet node. It is restarted before the last.
var quietCalls = []string{OpRead, OpDeleteToken, OpRead, OpReport, OpRead}

// cost counts the token requests during a call and shortly after.
func (h *History) cost(c *Call) (n int) {
	for _, r := range h.Requests {
		if r.Outcome != Lost && c.Begin.before(r.Begin) && r.Begin.At < c.End.At+QuietTime {
			n++
		}
	}
	return n
}
