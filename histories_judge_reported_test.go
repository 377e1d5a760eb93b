// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"slices"
	"time"
)

// judgeReported: a report that was answered with a newer token replaced the reported
// one for everybody, and it is never answered with the reported one for any reason but
// its age.
func judgeReported(h *history) (broken []violation) {
	for _, r := range h.calls {
		if !r.ok() || r.op != opReport || r.reported == "" {
			continue
		}
		if r.token == r.reported {
			if !r.tooYoung {
				broken = append(broken, violated("a report is not answered with its token", []moment{r.begin, r.end}, "call %d reports %s and gets it", r.id, r.reported))
			}
			continue
		}
		if old, fresh := h.grant(r.reported), h.grant(r.token); old != nil && fresh != nil && fresh.begin.before(old.begin) {
			continue // Another node gave the reported one out before this node's memory had it.
		}
		if h.regranted(r.reported, r.end) {
			continue
		}
		for _, c := range h.served() {
			if c.token == r.reported && r.end.before(c.begin) && h.knowsReplaced(c, r) {
				broken = append(broken, violated("a replaced token is not served again", []moment{r.begin, r.end, c.begin},
					"call %d gets %s, which call %d reported and got %s for", c.id, c.token, r.id, r.token))
			}
		}
	}
	return broken
}

// knowsReplaced tells whether the process of a call knows that a report replaced a token: the one that
// answered the report, one that starts later and finds another token in storage or none, and one that
// heard of that.
func (h *history) knowsReplaced(c, r *call) bool {
	switch {
	case c.at() == r.at():
		return true
	case tokenStore(c.answered) != tokenStore(r.answered), h.maybeLeftStored(r):
		return false
	case r.end.before(h.began(c.at())):
		return true
	}
	return slices.ContainsFunc(h.tokenChanges(tokenStore(c.answered)), func(s *storageRecord) bool {
		return r.begin.before(s.applied) && s.token != r.reported && h.heardToken(c.at(), s, later(r.end, s.end)).before(c.begin)
	})
}

// maybeLeftStored tells whether a reported token may still be in storage: its successor could not be
// saved, and either could the entry not be removed, or it was not this report that replaced it, or the
// process didn't know of it.
func (h *history) maybeLeftStored(r *call) bool {
	held := ""
	for _, s := range h.tokenChanges(tokenStore(r.answered)) {
		if s.applied.before(r.end) {
			held = s.token
		}
	}
	fresh := h.grant(r.token)
	return held == r.reported && (fresh == nil || r.begin.at+time.Second >= fresh.end.at || !h.knew(r, fresh.begin) ||
		h.storageFailed(r.at(), "delete", tokenKey, r.span) || h.storageBusy(r.at(), span{fresh.begin, r.end}))
}

// knew tells whether the process of a report had the reported token before a moment: it got it from
// Fuuffy, or could read storage.
func (h *history) knew(r *call, before moment) bool {
	return slices.ContainsFunc(h.asked, func(a *requestRecord) bool {
		return a.place == r.at() && a.token == r.reported && a.end.before(before)
	}) || slices.ContainsFunc(h.stored, func(s *storageRecord) bool {
		return s.place == r.at() && s.operation == "get" && s.key == tokenKey && !s.failed && s.end.before(before)
	})
}

// storageFailed tells whether an operation of a process failed meanwhile.
func (h *history) storageFailed(p place, operation, key string, meanwhile span) bool {
	return slices.ContainsFunc(h.stored, func(s *storageRecord) bool {
		return s.place == p && s.operation == operation && s.key == key && s.failed && s.overlaps(meanwhile)
	})
}

// storageBusy tells whether the storage operations of a process took so long that another one may have
// given up waiting for its turn.
func (h *history) storageBusy(p place, meanwhile span) bool {
	var times []stretch
	for _, s := range h.stored {
		if s.place == p {
			times = append(times, stretch{s.begin.at, s.end.at})
		}
	}
	return covered(meanwhile, times) > storageTime-time.Second
}
