// SPDX-License-Identifier: MPL-2.0

package history

import (
	"cmp"
	"slices"
	"time"
)

// judgeFlights: one flight at a time.
func judgeFlights(h *History) (broken []Violation) {
	for _, a := range h.Requests {
		if a.Beside > 0 {
			broken = append(broken, violated("one token request at a time", []Moment{a.Begin}, "%d others are under way beside that for %s", a.Beside, a.Client))
		}
	}
	return broken
}

// judgeHoldOff: after a refusal, the engine sends no request for as long as Fuuffy, or
// the engine's own rule, says, unless someone changed something. With that go at
// most ten requests a minute that nothing but time explains.
func judgeHoldOff(h *History) (broken []Violation) {
	last := map[Place]*Request{}
	for _, a := range h.Requests {
		if a.Call != 0 {
			continue
		}
		before := last[a.Place]
		last[a.Place] = a
		if before == nil || h.changedBetween(a.Place, Span{before.Begin, a.Begin}) {
			continue
		}
		wait := time.Duration(0)
		switch before.Outcome {
		case Limited:
			wait = before.RetryAfter
		case Rejected:
			wait = 30 * time.Second
			if a.Client != before.Client {
				wait = 0 // The fallback's turn.
			}
		case Granted:
			continue
		}
		if a.Begin.At < before.End.At+wait-ClockTime {
			broken = append(broken, violated("the engine holds off", []Moment{before.Begin, a.Begin}, "%s after a request ended as %s, Fuuffy is asked again", a.Begin.At-before.End.At, before.Outcome))
		}
	}
	return broken
}

// changedBetween tells whether someone who lifts a hold-off acted meanwhile, or the process loaded what
// someone changed before.
func (h *History) changedBetween(p Place, meanwhile Span) bool {
	return slices.ContainsFunc(h.Calls, func(c *Call) bool {
		return c.changes() && c.overlaps(meanwhile)
	}) || slices.ContainsFunc(h.Told, func(t *Invalidation) bool {
		return t.Node == p.Node && t.overlaps(meanwhile)
	}) || slices.ContainsFunc(h.Stored, func(s *Stored) bool {
		return s.Place == p && s.Call == 0 && s.Operation == "get" && s.Key == ConfigKey && s.overlaps(meanwhile)
	})
}

// storageTime is how long one storage call may keep others waiting.
const storageTime = 5 * time.Second

// heldUpTime is how long a call or a start may take without anything that it waits for: for looks at the
// clock and for log lines.
const heldUpTime = 5 * time.Second

// judgeTime: every call returns within its own deadline, and nothing holds it up for long.
func judgeTime(h *History) (broken []Violation) {
	const slack = 10*time.Millisecond + 6*ClockTime // for log lines, and the clock
	for _, c := range h.Calls {
		if c.Op == OpRestart || c.Op == OpElect {
			continue
		}
		took, limit := c.End.At-c.Begin.At-c.Waited, cmp.Or(c.Limit, CallTime)+slack
		at := c.ends()
		if c.End == Never || took > limit {
			broken = append(broken, violated("a call returns in time", at, "call %d (%s) takes %s, its limit is %s", c.ID, c.Op, took, limit))
			continue
		}
		if idle := h.heldUp(c.Span, c.ID) - c.Waited; idle > heldUpTime {
			broken = append(broken, violated("nothing holds a call up", at, "call %d (%s) is held up for %s", c.ID, c.Op, idle))
		}
	}
	return broken
}

// judgeStarts: nothing holds a start up either, for which Vault has no limit.
func judgeStarts(h *History) (broken []Violation) {
	for _, s := range h.Started {
		if idle := h.heldUp(s.Span, 0); s.End == Never || idle > heldUpTime {
			broken = append(broken, violated("nothing holds a start up", []Moment{s.Begin, s.End}, "that of %s.%d is held up for %s", s.Node, s.Process, idle))
		}
	}
	return broken
}

// heldUp is how much of a span is not accounted for by what a call, 0 for none, may wait for: its own
// storage calls, the first seconds of those of others, and Fuuffy.
func (h *History) heldUp(s Span, call int) time.Duration {
	return uncovered(s, append(h.storageTimes(s, call), h.fuuffyTimes(s)...))
}

// stretch is a part of a history.
type stretch struct{ from, to time.Duration }

// uncovered is how much of a span no stretch covers.
func uncovered(s Span, stretches []stretch) (total time.Duration) {
	slices.SortFunc(stretches, func(a, b stretch) int { return cmp.Compare(a.from, b.from) })
	at := s.Begin.At
	for _, st := range stretches {
		if st.from > at {
			total += min(st.from, s.End.At) - at
		}
		at = min(max(at, st.to), s.End.At)
		if at == s.End.At {
			return total
		}
	}
	return total + s.End.At - at
}

// storageTimes are the storage calls that a call may wait for.
func (h *History) storageTimes(s Span, call int) (times []stretch) {
	for _, r := range h.Stored {
		if !r.overlaps(s) {
			continue
		}
		to := r.End.At
		if call == 0 || r.Call != call {
			to = min(to, r.Begin.At+storageTime)
		}
		times = append(times, stretch{r.Begin.At, to})
	}
	return times
}

// fuuffyTimes are the requests at Fuuffy that a call may wait for, with the pauses that the engine
// makes after them.
func (h *History) fuuffyTimes(s Span) (times []stretch) {
	const (
		pause = 2 * time.Second // between two attempts
		// After so many requests in a minute, the next may have to wait for its turn.
		many, turn = 8, 15 * time.Second
	)
	for _, a := range h.Requests {
		to := pause
		if a.Begin.At > s.End.At || a.End != Never && a.End.At+turn < s.Begin.At {
			continue
		}
		recent := 0
		for _, b := range h.Requests {
			if b.Place == a.Place && b.Begin.At <= a.Begin.At && b.Begin.At > a.Begin.At-time.Minute {
				recent++
			}
		}
		if recent >= many {
			to = turn
		}
		if end := a.End.At + to; a.End == Never || end > s.Begin.At {
			times = append(times, stretch{a.Begin.At, max(a.End.At, end)})
		}
	}
	return times
}

// judgeSaved: who is given a token gets it once it is stored, or after that failed, or after the engine
// waited in vain for its turn to store it. A save does not take for ever.
func judgeSaved(h *History) (broken []Violation) {
	for _, c := range h.served {
		tried := slices.ContainsFunc(h.Stored, func(s *Stored) bool {
			return s.Key == TokenKey && s.Operation == "put" && s.Token == c.Token && (s.End.before(c.End) || s.Applied.before(c.End))
		})
		busy := slices.ContainsFunc(h.grants[c.Token], func(a *Request) bool { return h.storageBusy(a.Place, Span{a.Begin, c.End}) })
		if !tried && !busy {
			broken = append(broken, violated("a token is saved before it is served", c.ends(), "call %d gets %s, which is not in storage", c.ID, c.Token))
		}
	}
	for _, s := range h.Stored {
		if took := s.End.At - s.Begin.At; s.Key == TokenKey && s.Operation == "put" && took > storageTime {
			broken = append(broken, violated("a save ends in time", []Moment{s.Begin, s.End}, "that of %s takes %s", s.Token, took))
		}
	}
	return broken
}

// judgeCleaned: once Vault has cleaned a backend up, in bounded time, nothing of it is
// under way.
func judgeCleaned(h *History) (broken []Violation) {
	const rule = "a backend that was cleaned up is quiet"
	for _, d := range h.Cleaned {
		if took := d.End.At - d.Begin.At; took > 5*time.Second+100*time.Millisecond {
			broken = append(broken, violated(rule, []Moment{d.Begin, d.End}, "it took %s", took))
		}
		for _, s := range h.Stored {
			if s.Place == d.Place && d.End.before(s.End) {
				broken = append(broken, violated(rule, []Moment{d.Begin, d.End, s.Begin}, "it goes on with a %s of %s", s.Operation, s.Key))
			}
		}
		for _, a := range h.Requests {
			if a.Place == d.Place && d.End.before(a.End) {
				broken = append(broken, violated(rule, []Moment{d.Begin, d.End, a.Begin}, "it goes on asking Fuuffy"))
			}
		}
	}
	return broken
}

// judgePanics: no call panics. That would end all mounts.
func judgePanics(h *History) (broken []Violation) {
	for _, c := range h.Calls {
		if c.Panicked != "" {
			broken = append(broken, violated("no call panics", c.ends(), "call %d does: %s", c.ID, c.Panicked))
		}
	}
	return broken
}
