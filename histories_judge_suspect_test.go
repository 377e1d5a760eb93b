// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"slices"
	"time"
)

// suspectTime is how long a process may take to store that a token is suspect.
const suspectTime = storageTime + time.Second

// judgeSuspect: once a report has failed because Fuuffy granted no other token, who gets the reported
// one is warned, on every node that knows of it and after a restart.
func judgeSuspect(h *history) (broken []violation) {
	for _, r := range h.calls {
		if r.op != opReport || r.reported == "" || r.end == never || !(r.failedForFuuffy() || r.outcome == endedRefused) || !h.holds(r) {
			continue
		}
		for _, c := range h.served() {
			if c.token == r.reported && !c.suspect && !c.tooYoung && h.knowsSuspect(c, r) && !h.regranted(c.token, r.end) {
				broken = append(broken, violated("who gets a suspect token is warned", []moment{r.begin, r.end, c.begin},
					"call %d gets %s, which call %d reported in vain", c.id, c.token, r.id))
			}
		}
	}
	return broken
}

// holds tells whether the process of a report certainly had the reported token until it answered: it
// served it, and nothing could take it away or replace it since.
func (h *history) holds(r *call) bool {
	y := h.lastServed(r)
	if y == nil || y.token != r.reported {
		return false
	}
	since := span{y.begin, r.end}
	other := func(token string) bool { return token != "" && token != r.reported }
	return !h.changesBetween(r.at(), since) &&
		!slices.ContainsFunc(h.asked, func(a *requestRecord) bool {
			return a.place == r.at() && other(a.token) && a.overlaps(since)
		}) &&
		!slices.ContainsFunc(h.calls, func(c *call) bool { return c.at() == r.at() && other(c.token) && c.overlaps(since) })
}

// knowsSuspect tells whether the process of a call knows that a report was in vain: the one that
// answered it, and one that starts later or hears of it, if that could be stored.
func (h *history) knowsSuspect(c, r *call) bool {
	switch {
	case !r.end.before(c.begin), tokenStore(c.answered) != tokenStore(r.answered):
		return false
	case c.at() == r.at():
		return true
	}
	for _, s := range h.tokenChanges(tokenStore(c.answered)) {
		if s.suspect && s.token == r.reported && r.begin.before(s.applied) && h.heardToken(c.at(), s, later(r.end, s.end)).before(c.begin) {
			return true
		}
	}
	storing := span{r.begin, h.firstBegin(r.end.at + suspectTime)}
	return r.end.before(h.began(c.at())) &&
		!h.ended(r.at()).before(storing.end) &&
		!h.storageFailed(r.at(), "put", tokenKey, storing) && !h.storageBusy(r.at(), storing)
}
