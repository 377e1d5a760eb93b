// SPDX-License-Identifier: MPL-2.0

package history

import (
	"slices"
	"time"
)

// judgeReported: a report that was answered with a newer token replaced the reported
// one for everyone, and it is never answered with the reported one for any reason but
// its age.
func judgeReported(h *History) (broken []Violation) {
	for _, r := range h.Calls {
		if !r.OK() || r.Op != OpReport || r.Reported == "" {
			continue
		}
		if r.Token == r.Reported {
			if !r.TooYoung {
				broken = append(broken, violated("a report is not answered with its token", r.ends(), "call %d reports %s and gets it", r.ID, r.Reported))
			}
			continue
		}
		switch old, fresh := h.grant(r.Reported), h.grant(r.Token); {
		case old == nil || fresh == nil:
			continue // judgeGranted is about that.
		case fresh.Begin.before(old.Begin):
			continue // Another node gave the reported one out before this node's memory had it.
		}
		if h.regranted(r.Reported, r.End) {
			continue
		}
		for _, c := range h.servedBy[r.Reported] {
			if r.End.before(c.Begin) && h.knowsReplaced(c, r) {
				broken = append(broken, violated("a replaced token is not served again", []Moment{r.Begin, r.End, c.Begin},
					"call %d gets %s, which call %d reported and got %s for", c.ID, c.Token, r.ID, r.Token))
			}
		}
	}
	return broken
}

// knowsReplaced tells whether whoever answered a call knows that a report replaced a token: the process
// that answered the report, one that starts later and finds another token in storage or none, and one
// that heard of that. If a token could not be saved, an older one comes back after a failover.
func (h *History) knowsReplaced(c, r *Call) bool {
	switch {
	case h.Inside == nil:
		return r.End.before(c.from) && !h.unsavedBetween(h.grant(c.Token).Begin, c.End)
	case c.Place == r.Place:
		return true
	case h.store(c.Place) != h.store(r.Place), h.maybeLeftStored(r):
		return false
	case r.End.before(h.began(c.Place)):
		return true
	}
	return slices.ContainsFunc(h.tokenChanges(h.store(c.Place)), func(s *Stored) bool {
		return r.Begin.before(s.Applied) && s.Token != r.Reported && h.heardToken(c.Place, s, later(r.End, s.End)).before(c.Begin)
	})
}

// maybeLeftStored tells whether a reported token may still be in storage: its successor could not be
// saved, and either could the entry not be removed, or it was not this report that replaced it, or the
// process didn't know of it.
func (h *History) maybeLeftStored(r *Call) bool {
	held := ""
	for _, s := range h.tokenChanges(h.store(r.Place)) {
		if s.Applied.before(r.End) {
			held = s.Token
		}
	}
	fresh := h.grant(r.Token)
	return held == r.Reported && (fresh == nil || r.Begin.At+time.Second >= fresh.End.At || !h.knew(r, fresh.Begin) ||
		h.storageFailed(r.Place, "delete", TokenKey, r.Span) || h.storageBusy(r.Place, Span{fresh.Begin, r.End}))
}

// knew tells whether the process of a report had the reported token before a moment: it got it from
// Fuuffy, or could read storage.
func (h *History) knew(r *Call, before Moment) bool {
	return slices.ContainsFunc(h.Requests, func(a *Request) bool {
		return a.Place == r.Place && a.Token == r.Reported && a.End.before(before)
	}) || slices.ContainsFunc(h.Stored, func(s *Stored) bool {
		return s.Place == r.Place && s.Operation == "get" && s.Key == TokenKey && !s.Failed && s.End.before(before)
	})
}

// storageFailed tells whether an operation of a process failed meanwhile.
func (h *History) storageFailed(p Place, operation, key string, meanwhile Span) bool {
	return slices.ContainsFunc(h.Stored, func(s *Stored) bool {
		return s.Place == p && s.Operation == operation && s.Key == key && s.Failed && s.overlaps(meanwhile)
	})
}

// storageBusy tells whether the storage operations of a process took so long that another one may have
// given up waiting for its turn.
func (h *History) storageBusy(p Place, meanwhile Span) bool {
	var times []stretch
	for _, s := range h.Stored {
		if s.Place == p {
			times = append(times, stretch{s.Begin.At, s.End.At})
		}
	}
	return covered(meanwhile, times) > storageTime-time.Second
}
