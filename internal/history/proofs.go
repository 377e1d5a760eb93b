// SPDX-License-Identifier: MPL-2.0

package history

import (
	"slices"
	"time"
)

// judgeProofs: what a call stored was proved by that call: the pair that it made
// current or staged got a token, and the one that it forgot was rejected.
func judgeProofs(h *History) (broken []Violation) {
	var before *Entry
	for _, s := range h.configChanges() {
		c, last := h.call(s.Call), before
		before = s.Config
		if c == nil || s.Config == nil || last == nil {
			continue
		}
		mustWork, mustBeRevoked := "", ""
		switch {
		case c.Op == OpStage:
			// If there was a previous pair, the stage completed the rotation first.
			mustWork, mustBeRevoked = s.Config.Staged.Client, last.Previous.Client
		case c.Op == OpPromote, c.Op == OpRollback, c.Op == OpCompromised, c.Op == OpWriteConfig && c.Client != "" && !c.Unproved:
			mustWork = s.Config.Current.Client
		case c.Op == OpComplete && !c.Unproved:
			mustWork, mustBeRevoked = s.Config.Current.Client, last.Previous.Client
		}
		if c.Op == OpWriteConfig && last.Current.Client == s.Config.Current.Client {
			mustWork = ""
		}
		if !h.askedFor(c, mustWork, Granted) || !h.askedFor(c, mustBeRevoked, Rejected) {
			broken = append(broken, violated("what is stored was proved", []Moment{s.Begin, s.End}, "call %d stores %s with %s without a proof", c.ID, s.Config.Shown().State(), s.Config.Current.Client))
		}
	}
	return broken
}

// askedFor tells whether a call asked Fuuffy for a token of a client, with this outcome.
func (h *History) askedFor(c *Call, client, outcome string) bool {
	return client == "" || slices.ContainsFunc(h.Requests, func(a *Request) bool {
		return a.Call == c.ID && a.Client == client && a.Outcome == outcome
	})
}

// judgeGivenUp: a pair that the mount stops using is listed as unrevoked, unless Fuuffy rejected
// it. A compromised one stays listed until it is marked or Fuuffy rejects it, and it never
// becomes current or staged again before that.
func judgeGivenUp(h *History) (broken []Violation) {
	var before *Entry
	for _, s := range h.configChanges() {
		c, last := h.call(s.Call), before
		before = s.Config
		if c == nil || s.Config == nil || last == nil {
			continue
		}
		report := func(rule, text, client string) {
			broken = append(broken, violated(rule, []Moment{s.Begin, s.Applied, s.End}, "call %d "+text, s.Call, client))
		}
		for _, client := range last.held() {
			if !slices.Contains(s.Config.held(), client) && !s.Config.lists(client) && !h.revoked(client, s) {
				report("what is given up is listed", "gives up client %s in silence", client)
			}
		}
		current, staged, previous := s.Config.Current.Client, s.Config.Staged.Client, s.Config.Previous.Client
		if c.Op == OpCompromised && !h.revoked(previous, s) && !s.Config.listsCompromised(previous) {
			report("a leak is listed", "does not list the compromised client %s", previous)
		}
		for _, u := range last.Unrevoked {
			marked := c.Op == OpMark && c.Client == u.Client
			if u.Why == compromised && !slices.Contains(s.Config.Unrevoked, u) && !marked && !h.revoked(u.Client, s) {
				report("a leak is listed", "forgets that client %s is compromised", u.Client)
			}
		}
		if current != last.Current.Client && last.listsCompromised(current) {
			report("a compromised pair never comes back", "makes the compromised client %s current", current)
		}
		if staged != last.Staged.Client && last.listsCompromised(staged) {
			report("a compromised pair never comes back", "stages the compromised client %s", staged)
		}
		if !s.Config.Compromised && s.Config.listsCompromised(previous) {
			report("a compromised pair never comes back", "can fall back to the compromised client %s", previous)
		}
	}
	return broken
}

// revoked tells whether Fuuffy rejected a client when a process asked before it stored a config,
// and the process got no token of the client after that.
func (h *History) revoked(client string, s *Stored) bool {
	return slices.ContainsFunc(h.Requests, func(no *Request) bool {
		return no.Client == client && no.Place == s.Place && no.Outcome == Rejected && no.End.before(s.Begin) &&
			!slices.ContainsFunc(h.Requests, func(yes *Request) bool {
				return yes.Client == client && yes.Place == s.Place && yes.Outcome == Granted &&
					no.End.before(yes.Begin) && yes.End.At+time.Second < s.Begin.At && h.arrived(yes)
			})
	})
}

// arrived tells whether the engine certainly got the token of a request. A caller or a process may
// end before that.
func (h *History) arrived(a *Request) bool {
	c := h.call(a.Call)
	return c != nil && c.OK() || slices.ContainsFunc(h.Stored, func(s *Stored) bool { return s.Token == a.Token })
}
