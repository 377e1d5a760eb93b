// SPDX-License-Identifier: MPL-2.0

package history

import (
	"slices"
	"time"
)

// suspectTime is how long a process may take to store that a token is suspect.
const suspectTime = storageTime + time.Second

// judgeSuspect: once a report has failed because Fuuffy issued no other token, who gets the reported
// one is warned, on every node that knows of it and after a restart.
func judgeSuspect(h *History) (broken []Violation) {
	for _, r := range h.Calls {
		if r.Op != OpReport || r.Reported == "" || r.End == Never || !(r.failedForFuuffy() || r.Outcome == Refused) || !h.holds(r) {
			continue
		}
		for _, c := range h.served {
			if c.Token == r.Reported && !c.Suspect && !c.TooYoung && h.knowsSuspect(c, r) && !h.regranted(c.Token, r.End) {
				broken = append(broken, violated("who gets a suspect token is warned", []Moment{r.Begin, r.End, c.Begin},
					"call %d gets %s, which call %d reported in vain", c.ID, c.Token, r.ID))
			}
		}
	}
	return broken
}

// holds tells whether the process of a report certainly had the reported token until it answered: it
// served it, and nothing could take it away or replace it since.
func (h *History) holds(r *Call) bool {
	y := h.lastServed(r)
	if y == nil || y.Token != r.Reported {
		return false
	}
	since := Span{y.Begin, r.End}
	other := func(token string) bool { return token != "" && token != r.Reported }
	return !h.changesBetween(r.Place, since) &&
		!slices.ContainsFunc(h.Requests, func(a *Request) bool {
			return a.Place == r.Place && other(a.Token) && a.overlaps(since)
		}) &&
		!slices.ContainsFunc(h.Calls, func(c *Call) bool { return c.Place == r.Place && other(c.Token) && c.overlaps(since) })
}

// knowsSuspect tells whether the process of a call knows that a report was in vain: the one that
// answered it, and one that starts later or hears of it, if that could be stored.
func (h *History) knowsSuspect(c, r *Call) bool {
	switch {
	case !r.End.before(c.Begin), h.store(c.Place) != h.store(r.Place):
		return false
	case c.Place == r.Place:
		return true
	}
	for _, s := range h.tokenChanges(h.store(c.Place)) {
		if s.Suspect && s.Token == r.Reported && r.Begin.before(s.Applied) && h.heardToken(c.Place, s, later(r.End, s.End)).before(c.Begin) {
			return true
		}
	}
	storing := Span{r.Begin, h.firstBegin(r.End.At + suspectTime)}
	return r.End.before(h.began(c.Place)) &&
		!h.ended(r.Place).before(storing.End) &&
		!h.storageFailed(r.Place, "put", TokenKey, storing) && !h.storageBusy(r.Place, storing)
}
