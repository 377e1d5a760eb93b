// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"slices"
	"time"
)

// judge holds a history to every rule. The rules are pure functions of the records.
func judge(h *history) []violation {
	var all []violation
	for _, rule := range []func(*history) []violation{
		judgeDeleted, judgeReported, judgeSuspect, judgeCompromised, judgeGranted, judgeServed, judgeStale,
		judgeWrites, judgeEntries, judgeRotationReads,
		judgeProofs, judgeGivenUp, judgeRequests, judgeHoldOff, judgeTime, judgeStarts, judgeSaved, judgeCleaned, judgePanics,
	} {
		all = append(all, rule(h)...)
	}
	return all
}

// served returns the calls that were answered with a token.
func (h *history) served() []*call {
	var served []*call
	for _, c := range h.calls {
		if c.ok() && c.token != "" {
			served = append(served, c)
		}
	}
	return served
}

// takesOf returns what a call changed under a key.
func (h *history) takesOf(c *call, key string) []*storageRecord {
	var takes []*storageRecord
	for _, s := range h.stored {
		if s.call == c.id && s.key == key && s.took() {
			takes = append(takes, s)
		}
	}
	return takes
}

// knownBefore tells whether a token existed before a moment in a cluster: it was given out or
// stored, or the flight that got it was under way.
func (h *history) knownBefore(token, store string, m moment) bool {
	return slices.ContainsFunc(h.stored, func(s *storageRecord) bool {
		return s.token == token && tokenStore(s.node) == store && s.applied.before(m)
	}) || slices.ContainsFunc(h.calls, func(c *call) bool {
		return c.token == token && tokenStore(c.answered) == store && c.end.before(m)
	}) || slices.ContainsFunc(h.asked, func(a *requestRecord) bool {
		return a.token == token && tokenStore(a.node) == store && a.call == 0 && a.begin.before(m)
	})
}

// judgeDeleted: once the token (or the config) was deleted, no read that began later gets
// a token from before, on any node that knows of it or after a restart, and none is stored.
func judgeDeleted(h *history) (broken []violation) {
	const rule = "a deleted token is not served again"
	for _, d := range h.calls {
		if !d.ok() || d.op != opDeleteToken && d.op != opDeleteConfig {
			continue
		}
		store := tokenStore(d.answered)
		takes := h.takesOf(d, tokenKey)
		if len(takes) == 0 {
			broken = append(broken, violated(rule, []moment{d.begin, d.end}, "call %d left the token in storage", d.id))
		}
		deleted := func(token string) bool {
			return h.knownBefore(token, store, d.begin) && !h.regranted(token, d.begin)
		}
		for _, erased := range takes {
			for _, c := range h.served() {
				if tokenStore(c.answered) == store && h.heardToken(c.at(), erased, d.end).before(c.begin) && deleted(c.token) {
					broken = append(broken, violated(rule, []moment{d.begin, d.end, c.begin}, "call %d gets %s, which call %d deleted", c.id, c.token, d.id))
				}
			}
		}
		for _, s := range h.tokenChanges(store) {
			if d.end.before(s.applied) && s.token != "" && deleted(s.token) {
				broken = append(broken, violated(rule, []moment{d.begin, d.end, s.applied}, "%s is stored, which call %d deleted", s.token, d.id))
			}
		}
	}
	return broken
}

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

// tokenChanges are the changes of a stored token, in their order.
func (h *history) tokenChanges(store string) []*storageRecord {
	var changes []*storageRecord
	for _, s := range h.stored {
		if s.key == tokenKey && tokenStore(s.node) == store && s.took() {
			changes = append(changes, s)
		}
	}
	slices.SortFunc(changes, func(a, b *storageRecord) int { return a.applied.seq - b.applied.seq })
	return changes
}

// inForce is a stored configuration, and the time in which a node may act on it.
type inForce struct {
	span
	config *storedConfig // nil for none
}

// allows tells whether a token of a client may be served.
func (f *inForce) allows(client string) bool {
	if f.config == nil {
		return false
	}
	fallback := f.config.Fallback()
	return client == f.config.Current.ClientID || fallback != nil && client == fallback.ClientID
}

// configs are the configurations of a process. One ends when the process knows of the next, and not
// earlier: memory follows storage.
func (h *history) configs(p place) []inForce {
	all := []inForce{{span{moment{}, never}, nil}}
	for _, s := range h.configChanges() {
		replaced := h.heardConfig(p, s)
		if last := &all[len(all)-1]; replaced.before(last.end) {
			last.end = replaced
		}
		all = append(all, inForce{span{s.applied, never}, s.config})
	}
	// Who missed one change still knows of it by the next.
	for i := len(all) - 2; i >= 0; i-- {
		if all[i+1].end.before(all[i].end) {
			all[i].end = all[i+1].end
		}
	}
	return all
}

// configsOf is configs, which takes time, for many calls.
func (h *history) configsOf() func(place) []inForce {
	known := map[place][]inForce{}
	return func(p place) []inForce {
		if _, ok := known[p]; !ok {
			known[p] = h.configs(p)
		}
		return known[p]
	}
}

// configChanges are the changes of the stored configuration, in their order.
func (h *history) configChanges() []*storageRecord {
	var changes []*storageRecord
	for _, s := range h.stored {
		if s.key == configKey && s.took() {
			changes = append(changes, s)
		}
	}
	slices.SortFunc(changes, func(a, b *storageRecord) int { return a.applied.seq - b.applied.seq })
	return changes
}

// returned is when the call that made a change returned.
func (h *history) returned(s *storageRecord) moment {
	if c := h.call(s.call); c != nil {
		return c.end
	}
	return s.end
}

func (h *history) call(id int) *call {
	if id < 1 || id > len(h.calls) {
		return nil
	}
	return h.calls[id-1]
}

func (h *history) grant(token string) *requestRecord {
	for _, a := range h.asked {
		if a.token == token {
			return a
		}
	}
	return nil
}

// judgeCompromised: once a stage with compromised=true has returned, no token of the
// compromised credentials is served.
func judgeCompromised(h *history) (broken []violation) {
	for _, e := range h.calls {
		if !e.ok() || e.op != opCompromised {
			continue
		}
		for _, s := range h.takesOf(e, configKey) {
			leaked := s.config.Rotation.Previous
			for _, c := range h.served() {
				granted := h.grant(c.token)
				if granted != nil && leaked != nil && granted.client == leaked.ClientID && !h.issued(c.token, e.end) && h.heardConfig(c.at(), s).before(c.begin) {
					broken = append(broken, violated("a token of compromised credentials is not served", []moment{e.begin, e.end, c.begin},
						"call %d gets %s of %s, which call %d gave up", c.id, c.token, granted.client, e.id))
				}
			}
		}
	}
	return broken
}

// judgeGranted: every token that is served was granted to credentials that were in
// force, or the fallback, while the call was under way, had not expired, and lives for as
// long as the reader needs it.
func judgeGranted(h *history) (broken []violation) {
	const rule = "a served token is of the current credentials"
	configs := h.configsOf()
	for _, c := range h.served() {
		granted := h.grant(c.token)
		at := []moment{c.begin, c.end}
		switch {
		case granted == nil || !granted.begin.before(c.end):
			broken = append(broken, violated(rule, at, "Fuuffy never granted the token that call %d gets", c.id))
		case granted.expires+h.deadFor(c, !c.stale) <= c.begin.at:
			broken = append(broken, violated("a served token has not expired", at, "call %d gets %s, which expired at %s", c.id, c.token, granted.expires))
		case c.minTTL > 0 && granted.expires+h.deadFor(c, false) < c.end.at+c.minTTL-6*clockTime:
			broken = append(broken, violated("a served token lives for min_ttl", at, "call %d wants %s and gets %s, which expires at %s", c.id, c.minTTL, c.token, granted.expires))
		case !slices.ContainsFunc(configs(c.at()), func(f inForce) bool { return f.overlaps(c.span) && f.allows(granted.client) }):
			broken = append(broken, violated(rule, at, "call %d gets %s of %s, which was not current", c.id, c.token, granted.client))
		}
	}
	return broken
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
			least = min(least, s.config.TokenExpiryBuffer)
		}
	}
	return least
}
