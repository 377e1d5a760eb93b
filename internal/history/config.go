// SPDX-License-Identifier: MPL-2.0

package history

import (
	"reflect"
	"slices"
	"time"
)

// judgeWrites: what a successful write of the config set is read by who begins
// afterwards, unless another write follows; what was refused is never read.
func judgeWrites(h *History) (broken []Violation) {
	for _, r := range h.Calls {
		if r.OK() && r.Op == OpReadConfig && !slices.ContainsFunc(h.Calls, func(w *Call) bool { return h.explains(w, r) }) && !h.unconfigured(r) {
			broken = append(broken, Violated("no write is lost", []Moment{r.Begin, r.End}, "call %d reads a rotation_reminder of %d, which is out of date or was never written", r.ID, r.Reminder))
		}
	}
	return broken
}

// explains tells whether a read of the config may have seen what a call left.
func (h *History) explains(w, r *Call) bool {
	if !w.writesConfig() || w.Set != r.Reminder || w.Outcome == Refused || !w.Begin.before(r.End) {
		return false
	}
	return !h.overwritten(w.End, r)
}

// overwritten tells whether a write that began after a moment ended before a read.
func (h *History) overwritten(after Moment, r *Call) bool {
	return slices.ContainsFunc(h.Calls, func(x *Call) bool {
		return x.writesConfig() && x.OK() && after.before(x.Begin) && x.End.before(r.Begin)
	})
}

// unconfigured tells whether a read of no config may have seen the engine before
// anybody configured it.
func (h *History) unconfigured(r *Call) bool { return r.Reminder == 0 && !h.overwritten(Moment{}, r) }

// judgeEntries: each stored config differs from the one before it in what its call is
// about, and in nothing else. A name of a write never repeats, and the date of the
// credentials is theirs.
func judgeEntries(h *History) (broken []Violation) {
	var before *Entry
	seen := map[string]bool{}
	for _, s := range h.configChanges() {
		at := []Moment{s.Begin, s.Applied, s.End}
		if s.Config == nil {
			before = nil
			continue
		}
		if seen[s.Config.WriteID] || s.Config.WriteID == "" {
			broken = append(broken, Violated("a write_id is used once", at, "call %d uses one again", s.Call))
		}
		seen[s.Config.WriteID] = true
		if lost := lostIn(s.Config, before, h.call(s.Call)); lost != "" {
			broken = append(broken, Violated("no write is lost", at, "call %d stores a config that %s", s.Call, lost))
		}
		if h.overtaken(s) {
			broken = append(broken, Violated("an overtaken write is refused", at, "call %d stores what it made of an older config", s.Call))
		}
		if before != nil && before.Current.same(&s.Config.Current) && !before.Current.SetAt.Equal(s.Config.Current.SetAt) {
			broken = append(broken, Violated("last_rotated moves with the credentials only", at, "call %d moves it", s.Call))
		}
		before = s.Config
	}
	for _, c := range h.Calls {
		if c.Op != OpWriteConfig {
			continue
		}
		takes := len(h.takesOf(c, ConfigKey))
		if c.OK() && takes != 1 || c.Outcome == Refused && takes != 0 {
			broken = append(broken, Violated("no write is lost", []Moment{c.Begin, c.End}, "call %d ended with %s and changed the config %d times", c.ID, c.Outcome, takes))
		}
	}
	return broken
}

// overtaken tells whether the stored config was another when a call wrote it than when the call read
// what it made it of. It reads the config once more just before it writes.
func (h *History) overtaken(s *Stored) bool {
	based, again := s.Applied, s.Applied
	for _, read := range h.Stored {
		if read.Operation == "get" && read.Call == s.Call && read.Key == ConfigKey && read.Applied.before(s.Applied) {
			based, again = again, read.Applied
		}
	}
	if based == s.Applied {
		based = again
	}
	return h.writeID(based) != h.writeID(s.Applied)
}

// writeID is the stored config's just before a moment, empty for none.
func (h *History) writeID(m Moment) (id string) {
	for _, s := range h.configChanges() {
		if s.Applied.before(m) {
			id = ""
			if s.Config != nil {
				id = s.Config.WriteID
			}
		}
	}
	return id
}

// lostIn says what a stored config lost of the one before it.
func lostIn(config, before *Entry, c *Call) string {
	if c == nil {
		return "nobody wrote"
	}
	writes := c.Op == OpWriteConfig
	switch {
	case before == nil && !(writes && c.Pair != ""):
		return "had been deleted"
	case before == nil:
		return ""
	case writes && !reflect.DeepEqual(config.Position, before.Position):
		return "is at another step of the rotation"
	case writes && c.Pair == "" && !reflect.DeepEqual(config.Credentials, before.Credentials):
		return "has other credentials, which it does not name"
	case !writes && config.Settings != before.Settings:
		return "has other settings, in a step of the rotation"
	}
	return ""
}

// judgeRotationReads: where the rotation stands is told as it is stored.
func judgeRotationReads(h *History) (broken []Violation) {
	configs := h.configsOf()
	for _, c := range h.Calls {
		if !c.OK() || c.Op != OpReadRotation {
			continue
		}
		if !slices.ContainsFunc(configs(c.at()), func(f inForce) bool {
			return f.overlaps(c.Span) && f.config != nil && c.Rotation == RotationSeen{f.config.Current.Client, f.config.state(), f.config.Current.SetAt.UTC().Format(time.RFC3339)}
		}) {
			broken = append(broken, Violated("the rotation is told as it is stored", []Moment{c.Begin, c.End}, "call %d reads %s, %s, last rotated %s", c.ID, c.Rotation.Client, c.Rotation.State, c.Rotation.LastRotated))
		}
	}
	return broken
}

// judgeProofs: what a call stored was proved by that call: the pair that it put in force
// or staged got a token, and the one that it forgot was rejected.
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
			mustWork = s.Config.Staged.Client
			if previous := last.Previous; previous != nil {
				mustBeRevoked = previous.Client // The stage completed the rotation first.
			}
		case c.Op == OpPromote, c.Op == OpRollback, c.Op == OpCompromised, c.Op == OpWriteConfig && c.Pair != "" && !c.Unproved:
			mustWork = s.Config.Current.Client
		case c.Op == OpComplete && !c.Unproved:
			mustWork, mustBeRevoked = s.Config.Current.Client, last.Previous.Client
		}
		if c.Op == OpWriteConfig && last.Current.same(&s.Config.Current) {
			mustWork = ""
		}
		if !h.askedFor(c, mustWork, "granted") || !h.askedFor(c, mustBeRevoked, "rejected") {
			broken = append(broken, Violated("what is stored was proved", []Moment{s.Begin, s.End}, "call %d stores %s with %s without a proof", c.ID, s.Config.state(), s.Config.Current.Client))
		}
	}
	return broken
}

// askedFor tells whether a call asked Fuuffy for a token of a client, with this outcome.
func (h *History) askedFor(c *Call, client, outcome string) bool {
	return client == "" || slices.ContainsFunc(h.Asked, func(a *Request) bool {
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
			broken = append(broken, Violated(rule, []Moment{s.Begin, s.Applied, s.End}, "call %d "+text, s.Call, client))
		}
		for _, pair := range last.held() {
			if !holds(s.Config, pair) && s.Config.entryOf(pair) == nil && !h.revoked(pair.Client, s) {
				report("what is given up is listed", "gives up client %s in silence", pair.Client)
			}
		}
		if leaked := s.Config.Previous; c.Op == OpCompromised && !h.revoked(leaked.Client, s) && !s.Config.compromised(leaked) {
			report("a leak is listed", "does not list the compromised client %s", leaked.Client)
		}
		for _, u := range last.Unrevoked {
			marked := c.Op == OpMark && c.Pair == u.Client
			if u.Why == WhyCompromised && !slices.Contains(s.Config.Unrevoked, u) && !marked && !h.revoked(u.Client, s) {
				report("a leak is listed", "forgets that client %s is compromised", u.Client)
			}
		}
		if current := &s.Config.Current; !current.same(&last.Current) && last.compromised(current) {
			report("a compromised pair never comes back", "makes the compromised client %s current", current.Client)
		}
		if staged := s.Config.Staged; staged != nil && !staged.same(last.Staged) && last.compromised(staged) {
			report("a compromised pair never comes back", "stages the compromised client %s", staged.Client)
		}
		if previous := s.Config.Previous; previous != nil && !s.Config.Compromised && s.Config.compromised(previous) {
			report("a compromised pair never comes back", "can fall back to the compromised client %s", previous.Client)
		}
	}
	return broken
}

func holds(config *Entry, pair *Pair) bool {
	return slices.ContainsFunc(config.held(), pair.same)
}

// revoked tells whether Fuuffy rejected a client when a process asked before it stored a config,
// and the process got no token of the client after that.
func (h *History) revoked(client string, s *Stored) bool {
	return slices.ContainsFunc(h.Asked, func(no *Request) bool {
		return no.Client == client && no.Place == s.Place && no.Outcome == "rejected" && no.End.before(s.Begin) &&
			!slices.ContainsFunc(h.Asked, func(yes *Request) bool {
				return yes.Client == client && yes.Place == s.Place && yes.Outcome == "granted" &&
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
