// SPDX-License-Identifier: MPL-2.0

package history

import (
	"slices"
)

// Judge holds a history to every rule. The rules are pure functions of the records.
func Judge(h *History) []Violation {
	var all []Violation
	for _, rule := range []func(*History) []Violation{
		judgeDeleted, judgeReported, judgeSuspect, judgeCompromised, judgeGranted, judgeServed, judgeStale,
		judgeWrites, judgeEntries, judgeRotationReads,
		judgeProofs, judgeGivenUp, judgeRequests, judgeHoldOff, judgeTime, judgeStarts, judgeSaved, judgeCleaned, judgePanics,
	} {
		all = append(all, rule(h)...)
	}
	return all
}

// served returns the calls that were answered with a token.
func (h *History) served() []*Call {
	var served []*Call
	for _, c := range h.Calls {
		if c.OK() && c.Token != "" {
			served = append(served, c)
		}
	}
	return served
}

// takesOf returns what a call changed under a key.
func (h *History) takesOf(c *Call, key string) []*Stored {
	var takes []*Stored
	for _, s := range h.Stored {
		if s.Call == c.ID && s.Key == key && s.took() {
			takes = append(takes, s)
		}
	}
	return takes
}

// knownBefore tells whether a token existed before a moment in a cluster: it was given out or
// stored, or the flight that got it was under way.
func (h *History) knownBefore(token, store string, m Moment) bool {
	return slices.ContainsFunc(h.Stored, func(s *Stored) bool {
		return s.Token == token && TokenStore(s.Node) == store && s.Applied.before(m)
	}) || slices.ContainsFunc(h.Calls, func(c *Call) bool {
		return c.Token == token && TokenStore(c.Answered) == store && c.End.before(m)
	}) || slices.ContainsFunc(h.Asked, func(a *Request) bool {
		return a.Token == token && TokenStore(a.Node) == store && a.Call == 0 && a.Begin.before(m)
	})
}

// judgeDeleted: once the token (or the config) was deleted, no read that began later gets
// a token from before, on any node that knows of it or after a restart, and none is stored.
func judgeDeleted(h *History) (broken []Violation) {
	const rule = "a deleted token is not served again"
	for _, d := range h.Calls {
		if !d.OK() || d.Op != OpDeleteToken && d.Op != OpDeleteConfig {
			continue
		}
		store := TokenStore(d.Answered)
		takes := h.takesOf(d, TokenKey)
		if len(takes) == 0 {
			broken = append(broken, Violated(rule, []Moment{d.Begin, d.End}, "call %d left the token in storage", d.ID))
		}
		deleted := func(token string) bool {
			return h.knownBefore(token, store, d.Begin) && !h.regranted(token, d.Begin)
		}
		for _, erased := range takes {
			for _, c := range h.served() {
				if TokenStore(c.Answered) == store && h.heardToken(c.at(), erased, d.End).before(c.Begin) && deleted(c.Token) {
					broken = append(broken, Violated(rule, []Moment{d.Begin, d.End, c.Begin}, "call %d gets %s, which call %d deleted", c.ID, c.Token, d.ID))
				}
			}
		}
		for _, s := range h.tokenChanges(store) {
			if d.End.before(s.Applied) && s.Token != "" && deleted(s.Token) {
				broken = append(broken, Violated(rule, []Moment{d.Begin, d.End, s.Applied}, "%s is stored, which call %d deleted", s.Token, d.ID))
			}
		}
	}
	return broken
}

// tokenChanges are the changes of a stored token, in their order.
func (h *History) tokenChanges(store string) []*Stored {
	var changes []*Stored
	for _, s := range h.Stored {
		if s.Key == TokenKey && TokenStore(s.Node) == store && s.took() {
			changes = append(changes, s)
		}
	}
	slices.SortFunc(changes, func(a, b *Stored) int { return a.Applied.Seq - b.Applied.Seq })
	return changes
}

// inForce is a stored configuration, and the time in which a node may act on it.
type inForce struct {
	Span
	config *Entry // nil for none
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
func (h *History) configs(p Place) []inForce {
	all := []inForce{{Span{Moment{}, Never}, nil}}
	for _, s := range h.configChanges() {
		replaced := h.heardConfig(p, s)
		if last := &all[len(all)-1]; replaced.before(last.End) {
			last.End = replaced
		}
		all = append(all, inForce{Span{s.Applied, Never}, s.Config})
	}
	// Who missed one change still knows of it by the next.
	for i := len(all) - 2; i >= 0; i-- {
		if all[i+1].End.before(all[i].End) {
			all[i].End = all[i+1].End
		}
	}
	return all
}

// configsOf is configs, which takes time, for many calls.
func (h *History) configsOf() func(Place) []inForce {
	known := map[Place][]inForce{}
	return func(p Place) []inForce {
		if _, ok := known[p]; !ok {
			known[p] = h.configs(p)
		}
		return known[p]
	}
}

// configChanges are the changes of the stored configuration, in their order.
func (h *History) configChanges() []*Stored {
	var changes []*Stored
	for _, s := range h.Stored {
		if s.Key == ConfigKey && s.took() {
			changes = append(changes, s)
		}
	}
	slices.SortFunc(changes, func(a, b *Stored) int { return a.Applied.Seq - b.Applied.Seq })
	return changes
}

// returned is when the call that made a change returned.
func (h *History) returned(s *Stored) Moment {
	if c := h.call(s.Call); c != nil {
		return c.End
	}
	return s.End
}

func (h *History) call(id int) *Call {
	if id < 1 || id > len(h.Calls) {
		return nil
	}
	return h.Calls[id-1]
}

func (h *History) Grant(token string) *Request {
	for _, a := range h.Asked {
		if a.Token == token {
			return a
		}
	}
	return nil
}

// judgeCompromised: once a stage with compromised=true has returned, no token of the
// compromised credentials is served.
func judgeCompromised(h *History) (broken []Violation) {
	for _, e := range h.Calls {
		if !e.OK() || e.Op != OpCompromised {
			continue
		}
		for _, s := range h.takesOf(e, ConfigKey) {
			leaked := s.Config.Previous
			for _, c := range h.served() {
				granted := h.Grant(c.Token)
				if granted != nil && leaked != nil && granted.Client == leaked.Client && !h.issued(c.Token, e.End) && h.heardConfig(c.at(), s).before(c.Begin) {
					broken = append(broken, Violated("a token of compromised credentials is not served", []Moment{e.Begin, e.End, c.Begin},
						"call %d gets %s of %s, which call %d gave up", c.ID, c.Token, granted.Client, e.ID))
				}
			}
		}
	}
	return broken
}

// judgeGranted: every token that is served was granted to credentials that were in
// force, or the fallback, while the call was under way, had not expired, and lives for as
// long as the reader needs it.
func judgeGranted(h *History) (broken []Violation) {
	const rule = "a served token is of the current credentials"
	configs := h.configsOf()
	for _, c := range h.served() {
		granted := h.Grant(c.Token)
		at := []Moment{c.Begin, c.End}
		switch {
		case granted == nil || !granted.Begin.before(c.End):
			broken = append(broken, Violated(rule, at, "Fuuffy never granted the token that call %d gets", c.ID))
		case granted.Expires+h.deadFor(c, !c.Stale) <= c.Begin.At:
			broken = append(broken, Violated("a served token has not expired", at, "call %d gets %s, which expired at %s", c.ID, c.Token, granted.Expires))
		case c.MinTTL > 0 && granted.Expires+h.deadFor(c, false) < c.End.At+c.MinTTL-6*ClockTime:
			broken = append(broken, Violated("a served token lives for min_ttl", at, "call %d wants %s and gets %s, which expires at %s", c.ID, c.MinTTL, c.Token, granted.Expires))
		case !slices.ContainsFunc(configs(c.at()), func(f inForce) bool { return f.overlaps(c.Span) && f.allows(granted.Client) }):
			broken = append(broken, Violated(rule, at, "call %d gets %s of %s, which was not current", c.ID, c.Token, granted.Client))
		}
	}
	return broken
}
