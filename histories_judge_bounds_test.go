// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"slices"
	"time"
)

// judgeRequests: one flight at a time.
func judgeRequests(h *history) (broken []violation) {
	for _, a := range h.asked {
		if a.beside > 0 {
			broken = append(broken, violated("one token request at a time", []moment{a.begin}, "%d others are under way beside that for %s", a.beside, a.client))
		}
	}
	return broken
}

// judgeHoldOff: after a refusal, the engine sends no request for as long as Fuuffy, or
// the engine's own rule, says, unless somebody changed something. With that go at
// most ten requests a minute that nothing but time explains.
func judgeHoldOff(h *history) (broken []violation) {
	last := map[place]*requestRecord{}
	for _, a := range h.asked {
		if a.call != 0 {
			continue
		}
		before := last[a.place]
		last[a.place] = a
		if before == nil || h.changedBetween(a.place, span{before.begin, a.begin}) {
			continue
		}
		wait := time.Duration(0)
		switch before.outcome {
		case "limited":
			wait = before.retryAfter
		case "rejected":
			wait = 30 * time.Second
			if a.client != before.client {
				wait = 0 // The fallback's turn.
			}
		case "granted":
			continue
		}
		if a.begin.at < before.end.at+wait-clockTime {
			broken = append(broken, violated("the engine holds off", []moment{before.begin, a.begin}, "%s after a request ended as %s, Fuuffy is asked again", a.begin.at-before.end.at, before.outcome))
		}
	}
	return broken
}

// changedBetween tells whether somebody who lifts a hold-off acted meanwhile, or the process loaded what
// somebody changed before.
func (h *history) changedBetween(p place, meanwhile span) bool {
	return slices.ContainsFunc(h.calls, func(c *call) bool {
		return c.changes() && c.overlaps(meanwhile)
	}) || slices.ContainsFunc(h.told, func(t *invalidation) bool {
		return t.node == p.node && t.overlaps(meanwhile)
	}) || slices.ContainsFunc(h.stored, func(s *storageRecord) bool {
		return s.place == p && s.call == 0 && s.operation == "get" && s.key == configKey && s.overlaps(meanwhile)
	})
}

// storageTime is how long one storage call may keep others waiting.
const storageTime = 5 * time.Second

// heldUpTime is how long a call or a start may take without anything that it waits for: for looks at the
// clock and for log lines.
const heldUpTime = 5 * time.Second

// judgeTime: every call returns within its own deadline, and nothing holds it up for long.
func judgeTime(h *history) (broken []violation) {
	const slack = 10*time.Millisecond + 6*clockTime // for log lines, and the clock
	for _, c := range h.calls {
		if c.op == opRestart || c.op == opElect {
			continue
		}
		took, limit := c.end.at-c.begin.at-c.waited, cmp.Or(c.limit, vaultTime)+slack
		at := []moment{c.begin, c.end}
		if c.end == never || took > limit {
			broken = append(broken, violated("a call returns in time", at, "call %d (%s) takes %s, its limit is %s", c.id, c.op, took, limit))
			continue
		}
		if idle := h.heldUp(c.span, c.id) - c.waited; idle > heldUpTime {
			broken = append(broken, violated("nothing holds a call up", at, "call %d (%s) is held up for %s", c.id, c.op, idle))
		}
	}
	return broken
}

// judgeStarts: nothing holds a start up either, for which Vault has no limit.
func judgeStarts(h *history) (broken []violation) {
	for _, s := range h.started {
		if idle := h.heldUp(s.span, 0); s.end == never || idle > heldUpTime {
			broken = append(broken, violated("nothing holds a start up", []moment{s.begin, s.end}, "that of %s.%d is held up for %s", s.node, s.process, idle))
		}
	}
	return broken
}

// heldUp is how much of a span is not accounted for by what a call, 0 for none, may wait for: its own
// storage calls, the first seconds of those of others, and Fuuffy.
func (h *history) heldUp(s span, call int) time.Duration {
	return uncovered(s, append(h.storageTimes(s, call), h.fuuffyTimes(s)...))
}

// stretch is a part of a history.
type stretch struct{ from, to time.Duration }

// uncovered is how much of a span no stretch covers.
func uncovered(s span, stretches []stretch) (total time.Duration) {
	slices.SortFunc(stretches, func(a, b stretch) int { return cmp.Compare(a.from, b.from) })
	at := s.begin.at
	for _, st := range stretches {
		if st.from > at {
			total += min(st.from, s.end.at) - at
		}
		at = min(max(at, st.to), s.end.at)
		if at == s.end.at {
			return total
		}
	}
	return total + s.end.at - at
}

// storageTimes are the storage calls that a call may wait for.
func (h *history) storageTimes(s span, call int) (times []stretch) {
	for _, r := range h.stored {
		if !r.overlaps(s) {
			continue
		}
		to := r.end.at
		if call == 0 || r.call != call {
			to = min(to, r.begin.at+storageTime)
		}
		times = append(times, stretch{r.begin.at, to})
	}
	return times
}

// fuuffyTimes are the requests at Fuuffy that a call may wait for, with the pauses that the engine
// makes after them.
func (h *history) fuuffyTimes(s span) (times []stretch) {
	const (
		pause = 2 * time.Second // between two attempts
		// After so many requests in a minute, the next may have to wait for its turn.
		many, turn = 8, 15 * time.Second
	)
	for _, a := range h.asked {
		to := pause
		if a.begin.at > s.end.at || a.end != never && a.end.at+turn < s.begin.at {
			continue
		}
		recent := 0
		for _, b := range h.asked {
			if b.place == a.place && b.begin.at <= a.begin.at && b.begin.at > a.begin.at-time.Minute {
				recent++
			}
		}
		if recent >= many {
			to = turn
		}
		if end := a.end.at + to; a.end == never || end > s.begin.at {
			times = append(times, stretch{a.begin.at, max(a.end.at, end)})
		}
	}
	return times
}

// judgeSaved: who is given a token gets it once it is stored, or after that failed, or after the engine
// waited in vain for its turn to store it. A save does not take for ever.
func judgeSaved(h *history) (broken []violation) {
	for _, c := range h.served() {
		tried := slices.ContainsFunc(h.stored, func(s *storageRecord) bool {
			return s.key == tokenKey && s.operation == "put" && s.token == c.token && (s.end.before(c.end) || s.applied.before(c.end))
		})
		busy := slices.ContainsFunc(h.grants(c.token), func(a *requestRecord) bool { return h.storageBusy(a.place, span{a.begin, c.end}) })
		if !tried && !busy {
			broken = append(broken, violated("a token is saved before it is served", []moment{c.begin, c.end}, "call %d gets %s, which is not in storage", c.id, c.token))
		}
	}
	for _, s := range h.stored {
		if took := s.end.at - s.begin.at; s.key == tokenKey && s.operation == "put" && took > storageTime {
			broken = append(broken, violated("a save ends in time", []moment{s.begin, s.end}, "that of %s takes %s", s.token, took))
		}
	}
	return broken
}

// judgeCleaned: once Vault has cleaned a backend up, in bounded time, nothing of it is
// under way.
func judgeCleaned(h *history) (broken []violation) {
	const rule = "a backend that was cleaned up is quiet"
	for _, d := range h.cleaned {
		if took := d.end.at - d.begin.at; took > 5*time.Second+100*time.Millisecond {
			broken = append(broken, violated(rule, []moment{d.begin, d.end}, "it took %s", took))
		}
		for _, s := range h.stored {
			if s.place == d.place && d.end.before(s.end) {
				broken = append(broken, violated(rule, []moment{d.begin, d.end, s.begin}, "it goes on with a %s of %s", s.operation, s.key))
			}
		}
		for _, a := range h.asked {
			if a.place == d.place && d.end.before(a.end) {
				broken = append(broken, violated(rule, []moment{d.begin, d.end, a.begin}, "it goes on asking Fuuffy"))
			}
		}
	}
	return broken
}

// judgePanics: no call panics. That would end the mounts of everybody.
func judgePanics(h *history) (broken []violation) {
	for _, c := range h.calls {
		if c.panicked != "" {
			broken = append(broken, violated("no call panics", []moment{c.begin, c.end}, "call %d does: %s", c.id, c.panicked))
		}
	}
	return broken
}
