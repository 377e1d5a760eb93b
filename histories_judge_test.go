// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"slices"
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
	config *entry // nil for none
}

// allows tells whether a token of a client may be served.
func (f *inForce) allows(client string) bool {
	if f.config == nil {
		return false
	}
	fallback := f.config.Previous
	return client == f.config.Current.Client || fallback != nil && !f.config.Compromised && client == fallback.Client
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
			leaked := s.config.Previous
			for _, c := range h.served() {
				granted := h.grant(c.token)
				if granted != nil && leaked != nil && granted.client == leaked.Client && !h.issued(c.token, e.end) && h.heardConfig(c.at(), s).before(c.begin) {
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
