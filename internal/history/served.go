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
	configs := h.configsOf()
	for _, c := range h.Calls {
		if !plainRead(c) {
			continue
		}
		for _, t := range []*atHand{h.inMemory(c, configs), h.inStorage(c, configs)} {
			if t == nil || !h.livesOn(t.token, c.End, false) {
				continue
			}
			at := []Moment{c.Begin, c.End}
			switch took := c.End.At - c.Entered.At; {
			case !c.OK():
				broken = append(broken, Violated("no reader fails while a token is at hand", at, "call %d ends with %s, and could have %s", c.ID, c.Outcome, t.token))
			case took > t.patience:
				broken = append(broken, Violated("no reader waits while a token is at hand", at, "call %d takes %s, and could have %s", c.ID, took, t.token))
			}
		}
	}
	return broken
}

// judgeStale: with stale_if_error, a token in its buffer is served when Fuuffy fails, after a restart and
// an election too. Nobody waits for it while Fuuffy is known to fail.
func judgeStale(h *History) (broken []Violation) {
	configs := h.configsOf()
	for _, c := range h.Calls {
		if !plainRead(c) || !allowsStale(configs(c.at()), c.Span) {
			continue
		}
		for _, t := range []*atHand{h.inMemory(c, configs), h.inStorage(c, configs)} {
			if t == nil || !h.livesOn(t.token, c.End, true) {
				continue
			}
			at := []Moment{c.Begin, c.End}
			if c.failedForFuuffy() {
				broken = append(broken, Violated("stale_if_error serves what has life left", at, "call %d ends with %s, and could have %s", c.ID, c.Outcome, t.token))
			}
		}
		if t := h.knownStale(c, configs); t != "" && h.livesOn(t, c.End, true) && c.End.At-c.Entered.At > 2*time.Second+readTime {
			broken = append(broken, Violated("a stale token is served without a wait", []Moment{c.Begin, c.End}, "call %d takes %s, and could have %s", c.ID, c.End.At-c.Entered.At, t))
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
	return slices.Contains([]string{"HTTP 429", "HTTP 502", "HTTP 503", "HTTP 504"}, c.Outcome)
}

// livesOn tells whether a token may still be served at a moment, to its end or to its buffer, on each
// node, whatever its clock. Nobody knows that of a token that Fuuffy issued twice: its life depends on
// which of the two a node has.
func (h *History) livesOn(token string, m Moment, toItsEnd bool) bool {
	grants := h.grants(token)
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
	for i := len(h.Asked) - 1; i >= 0; i-- {
		a := h.Asked[i]
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

// sameCredentials returns the pair in force all through a span, "" if there were several, or none.
func sameCredentials(configs []inForce, s Span) (id string) {
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
func allowsStale(configs []inForce, s Span) bool {
	return !slices.ContainsFunc(configs, func(f inForce) bool {
		return f.overlaps(s) && (f.config == nil || !f.config.StaleIfError)
	})
}

// inMemory returns the token that the process of a call certainly has: it served it before, and nothing
// could take it away since.
func (h *History) inMemory(c *Call, configs func(Place) []inForce) *atHand {
	y := h.lastServed(c)
	if y == nil {
		return nil
	}
	since := Span{y.Begin, c.End}
	if h.dropsBetween(c.at(), since) || sameCredentials(configs(c.at()), since) == "" {
		return nil
	}
	// After something made the process forget the configuration, the reader may wait for a load.
	patience := readTime
	if n := h.forgets(c.at(), since); n > 0 {
		patience += storageTime * time.Duration(1+n)
	}
	return &atHand{y.Token, patience}
}

// lastServed is the last answer of the same process before a call that was a token.
func (h *History) lastServed(c *Call) (last *Call) {
	for _, y := range h.Calls {
		if y.OK() && y.Token != "" && y.at() == c.at() && y.End.before(c.Entered) && (last == nil || last.End.before(y.End)) {
			last = y
		}
	}
	return last
}

// dropsBetween tells whether something may have dropped the token of a process.
func (h *History) dropsBetween(p Place, s Span) bool {
	return slices.ContainsFunc(h.Calls, func(c *Call) bool {
		return (c.Op == OpDeleteToken && TokenStore(c.Answered) == TokenStore(p.Node) || c.Op == OpDeleteConfig) && c.overlaps(s)
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
		if c.at() == p && c.changes() && !c.OK() && c.overlaps(s) {
			n++
		}
	}
	return n
}

// inStorage returns the token that the process of a call finds in storage. Nothing changes meanwhile,
// nobody reported the token, and storage works.
func (h *History) inStorage(c *Call, configs func(Place) []inForce) *atHand {
	var stored *Stored
	for _, s := range h.tokenChanges(TokenStore(c.Answered)) {
		if s.Applied.before(c.Entered) {
			stored = s
		} else if s.Applied.before(c.End) {
			return nil
		}
	}
	at := Span{c.Entered, c.End}
	switch {
	case stored == nil, stored.Token == "", stored.Suspect,
		stored.PairID != sameCredentials(configs(c.at()), at),
		h.changesBetween(c.at(), at),
		h.dropsBetween(c.at(), Span{stored.Applied, c.End}),
		h.mayBeReported(stored, c.End),
		!h.readable(c.at(), c.End):
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

// mayBeReported tells whether somebody may have reported a stored token before a moment.
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
func (h *History) knownStale(c *Call, configs func(Place) []inForce) string {
	y := h.lastServed(c)
	if y == nil || !y.Stale {
		return ""
	}
	since := Span{y.Begin, c.End}
	if h.changesBetween(c.at(), since) || !allowsStale(configs(c.at()), since) || slices.ContainsFunc(h.Asked, func(a *Request) bool {
		return a.Place == c.at() && a.overlaps(since) && (a.Token != "" || a.Outcome == "rejected")
	}) {
		return ""
	}
	return y.Token
}
