// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
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
	last := map[string]*requestRecord{}
	for _, a := range h.asked {
		if a.call != 0 {
			continue
		}
		key := a.node + number(a.process)
		before := last[key]
		last[key] = a
		if before == nil || h.changedBetween(a.node, span{before.begin, a.begin}) {
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

// changedBetween tells whether somebody who lifts a hold-off acted meanwhile.
func (h *history) changedBetween(node string, meanwhile span) bool {
	return slices.ContainsFunc(h.calls, func(c *call) bool {
		return c.changes() && c.overlaps(meanwhile)
	}) || slices.ContainsFunc(h.told, func(t *invalidation) bool { return t.node == node && t.overlaps(meanwhile) })
}

// judgeTime: every call returns within its own deadline, or in bounded time.
func judgeTime(h *history) (broken []violation) {
	const (
		slack = 10*time.Millisecond + 6*clockTime // for log lines, and the clock
		least = time.Minute
		// tries is how long one token request takes at most.
		tries = 50 * time.Second
	)
	for _, c := range h.calls {
		took := c.end.at - c.begin.at - c.waited
		limit := c.limit + slack
		if c.limit == 0 {
			limit = least + h.storageTime(c.span)
			for _, other := range h.calls {
				if other != c && other.changes() && other.overlaps(c.span) {
					limit += tries // It may make this one start again.
				}
			}
		}
		if c.end == never || took > limit {
			broken = append(broken, violated("a call returns in time", []moment{c.begin, c.end}, "call %d (%s) takes %s, its limit is %s", c.id, c.op, took, limit))
		}
	}
	return broken
}

// storageTime is what storage took while a call was under way.
func (h *history) storageTime(s span) (total time.Duration) {
	for _, r := range h.stored {
		if r.overlaps(s) {
			total += r.end.at - r.begin.at
		}
	}
	return total
}

// judgeSaved: who is given a token gets it after it was stored, or after that failed.
// Another process finds it as soon as it is there. A save does not take for ever.
func judgeSaved(h *history) (broken []violation) {
	for _, c := range h.served() {
		tried := slices.ContainsFunc(h.stored, func(s *storageRecord) bool {
			return s.key == tokenKey && s.operation == "put" && s.token == c.token &&
				(s.end.before(c.end) || (s.node != c.answered || s.process != c.process) && s.applied.before(c.end))
		})
		if !tried {
			broken = append(broken, violated("a token is saved before it is served", []moment{c.begin, c.end}, "call %d gets %s, which is not in storage", c.id, c.token))
		}
	}
	for _, s := range h.stored {
		if took := s.end.at - s.begin.at; s.key == tokenKey && s.operation == "put" && took > 5*time.Second {
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
			if s.node == d.node && s.process == d.process && d.end.before(s.end) {
				broken = append(broken, violated(rule, []moment{d.begin, d.end, s.begin}, "it goes on with a %s of %s", s.operation, s.key))
			}
		}
		for _, a := range h.asked {
			if a.node == d.node && a.process == d.process && d.end.before(a.end) {
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
