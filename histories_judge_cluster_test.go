// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"slices"
	"time"
)

// tokenStore is which storage of the token a node has: a secondary has its own.
func tokenStore(node string) string {
	if node == secondaryNode {
		return secondaryNode
	}
	return firstNode
}

// later is the later of two moments.
func later(a, b moment) moment {
	if a.before(b) {
		return b
	}
	return a
}

// began is when a process started.
func (h *history) began(p place) moment {
	for _, s := range h.started {
		if s.place == p {
			return s.begin
		}
	}
	return never
}

// ended is when a process came to its end: another one of its node started, or Vault cleaned it up.
func (h *history) ended(p place) moment {
	end := never
	for _, s := range h.started {
		if s.node == p.node && s.process > p.process && s.begin.before(end) {
			end = s.begin
		}
	}
	for _, d := range h.cleaned {
		if d.place == p && d.begin.before(end) {
			end = d.begin
		}
	}
	return end
}

// heardToken is when a process has the effect of a change of its stored token: the one that made it
// when the call returns, one that starts later when it starts, and another when it has worked off
// the Invalidate.
func (h *history) heardToken(p place, changed *storageRecord, returned moment) moment {
	if p == changed.place {
		return returned
	}
	if began := h.began(p); changed.applied.before(began) {
		return later(began, returned)
	}
	for _, t := range h.told {
		if t.place == p && t.key == tokenKey && t.cause == changed.applied {
			return t.end
		}
	}
	return never
}

// heardConfig is heardToken for the configuration. A process that does not know what is stored, because
// of an Invalidate or of a save that failed, goes on with the one it has until it can load it.
func (h *history) heardConfig(p place, changed *storageRecord) moment {
	returned := h.returned(changed)
	if p == changed.place {
		if c := h.call(changed.call); c == nil || c.ok() {
			return returned
		}
		return h.loaded(p, span{changed.applied, returned})
	}
	if began := h.began(p); changed.applied.before(began) {
		return began
	}
	for _, t := range h.told {
		if t.place == p && t.key == configKey && t.cause == changed.applied {
			return h.loaded(p, t.span)
		}
	}
	return never
}

// loadTime is how long a process may take to put in force what it has read.
const loadTime = time.Second

// loaded is when a process has loaded the configuration after something made it forget that. Its
// readers wait for the load, unless one fails: then they get what was in force before.
func (h *history) loaded(p place, forgot span) moment {
	var gets []*storageRecord
	for _, s := range h.stored {
		if s.place == p && s.operation == "get" && s.key == configKey && s.call == 0 {
			gets = append(gets, s)
		}
	}
	slices.SortFunc(gets, func(a, b *storageRecord) int { return cmp.Compare(a.end.seq, b.end.seq) })
	failing := false
	for _, g := range gets {
		switch {
		case g.failed, g.end == never, g.end.at-g.begin.at >= storageTime:
			failing = true
		case g.end.before(forgot.begin):
			failing = false
		case g.begin.before(forgot.begin), h.disturbed(p, g):
		case !failing:
			return forgot.end
		default:
			return later(forgot.end, h.firstBegin(g.end.at+loadTime))
		}
	}
	if failing {
		return never
	}
	return forgot.end
}

// disturbed tells whether what a process loaded may have been out of date at once.
func (h *history) disturbed(p place, g *storageRecord) bool {
	until := span{g.begin, h.firstBegin(g.end.at + loadTime)}
	return slices.ContainsFunc(h.told, func(t *invalidation) bool {
		return t.place == p && t.key == configKey && t.overlaps(until)
	}) || slices.ContainsFunc(h.calls, func(c *call) bool {
		return c.at() == p && c.changes() && c.overlaps(until)
	})
}

// firstBegin is the moment of the first call that begins at a time, or later.
func (h *history) firstBegin(at time.Duration) moment {
	first := never
	for _, c := range h.calls {
		if c.begin.at >= at && c.begin.before(first) {
			first = c.begin
		}
	}
	return first
}

// skew is how much the wall clocks of two nodes differed at most, also at different times: a token is
// issued by one and served by another.
func (h *history) skew() time.Duration {
	var least, most time.Duration
	for _, c := range h.clocks {
		least, most = min(least, c.ahead), max(most, c.ahead)
	}
	return most - least
}

// issued tells whether Fuuffy issued a token, or issued it once more, after a moment.
func (h *history) issued(token string, after moment) bool {
	return slices.ContainsFunc(h.asked, func(a *requestRecord) bool { return a.token == token && after.before(a.begin) })
}

// regranted is issued, or tells that a call got the token that ended after the moment.
func (h *history) regranted(token string, after moment) bool {
	return h.issued(token, after) || slices.ContainsFunc(h.asked, func(a *requestRecord) bool {
		c := h.call(a.call)
		return a.token == token && c != nil && after.before(c.end)
	})
}

// grants are the requests that brought a token.
func (h *history) grants(token string) (grants []*requestRecord) {
	for _, a := range h.asked {
		if a.token == token {
			grants = append(grants, a)
		}
	}
	return grants
}

// deadFor is how wrong a node may be about the end of a token that it serves, because its wall clock is
// behind that of the process that got the token. The engine allows for two minutes, but not for more
// than a twentieth of the token's life. buffered tells whether the node kept to the buffer too.
func (h *history) deadFor(c *call, buffered bool) time.Duration {
	elsewhere := func(a *requestRecord) bool { return a.place != c.at() }
	grants := h.grants(c.token)
	if h.skew() == 0 || !slices.ContainsFunc(grants, elsewhere) {
		return 0
	}
	if len(grants) > 1 {
		return h.skew() // The rest of a life may be too short for a buffer.
	}
	life, buffer := grants[0].life, h.leastBuffer()
	served := min(buffer, life/2)
	if !buffered {
		served = 0
	}
	return max(0, h.skew()-served-min(max(0, 2*maxAhead-buffer), life/20))
}

// leastBuffer is the shortest token_expiry_buffer of a history.
func (h *history) leastBuffer() time.Duration {
	least := time.Hour
	for _, s := range h.configChanges() {
		if s.config != nil {
			least = min(least, s.config.Buffer)
		}
	}
	return least
}
