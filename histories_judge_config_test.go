// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"reflect"
	"slices"
	"time"
)

// judgeWrites: what a successful write of the config set is read by who begins
// afterwards, unless another write follows; what was refused is never read.
func judgeWrites(h *history) (broken []violation) {
	for _, r := range h.calls {
		if r.ok() && r.op == opReadConfig && !slices.ContainsFunc(h.calls, func(w *call) bool { return h.explains(w, r) }) && !h.unconfigured(r) {
			broken = append(broken, violated("no write is lost", []moment{r.begin, r.end}, "call %d reads a rotation_reminder of %d, which is out of date or was never written", r.id, r.reminder))
		}
	}
	return broken
}

// explains tells whether a read of the config may have seen what a call left.
func (h *history) explains(w, r *call) bool {
	if !w.writesConfig() || w.set != r.reminder || w.outcome == endedRefused || !w.begin.before(r.end) {
		return false
	}
	return !h.overwritten(w.end, r)
}

// overwritten tells whether a write that began after a moment ended before a read.
func (h *history) overwritten(after moment, r *call) bool {
	return slices.ContainsFunc(h.calls, func(x *call) bool {
		return x.writesConfig() && x.ok() && after.before(x.begin) && x.end.before(r.begin)
	})
}

// unconfigured tells whether a read of no config may have seen the engine before
// anybody configured it.
func (h *history) unconfigured(r *call) bool { return r.reminder == 0 && !h.overwritten(moment{}, r) }

// judgeEntries: each stored config differs from the one before it in what its call is
// about, and in nothing else. A name of a write never repeats, and the date of the
// credentials is theirs.
func judgeEntries(h *history) (broken []violation) {
	var before *entry
	seen := map[string]bool{}
	for _, s := range h.configChanges() {
		at := []moment{s.begin, s.applied, s.end}
		if s.config == nil {
			before = nil
			continue
		}
		if seen[s.config.WriteID] || s.config.WriteID == "" {
			broken = append(broken, violated("a write_id is used once", at, "call %d uses one again", s.call))
		}
		seen[s.config.WriteID] = true
		if lost := lostIn(s.config, before, h.call(s.call)); lost != "" {
			broken = append(broken, violated("no write is lost", at, "call %d stores a config that %s", s.call, lost))
		}
		if h.overtaken(s) {
			broken = append(broken, violated("an overtaken write is refused", at, "call %d stores what it made of an older config", s.call))
		}
		if before != nil && before.Current.same(&s.config.Current) && !before.Current.SetAt.Equal(s.config.Current.SetAt) {
			broken = append(broken, violated("last_rotated moves with the credentials only", at, "call %d moves it", s.call))
		}
		before = s.config
	}
	for _, c := range h.calls {
		if c.op != opWriteConfig {
			continue
		}
		takes := len(h.takesOf(c, configKey))
		if c.ok() && takes != 1 || c.outcome == endedRefused && takes != 0 {
			broken = append(broken, violated("no write is lost", []moment{c.begin, c.end}, "call %d ended with %s and changed the config %d times", c.id, c.outcome, takes))
		}
	}
	return broken
}

// overtaken tells whether the stored config was another when a call wrote it than when the call read
// what it made it of. It reads the config once more just before it writes.
func (h *history) overtaken(s *storageRecord) bool {
	based, again := s.applied, s.applied
	for _, read := range h.stored {
		if read.operation == "get" && read.call == s.call && read.key == configKey && read.applied.before(s.applied) {
			based, again = again, read.applied
		}
	}
	if based == s.applied {
		based = again
	}
	return h.writeID(based) != h.writeID(s.applied)
}

// writeID is the stored config's just before a moment, empty for none.
func (h *history) writeID(m moment) (id string) {
	for _, s := range h.configChanges() {
		if s.applied.before(m) {
			id = ""
			if s.config != nil {
				id = s.config.WriteID
			}
		}
	}
	return id
}

// lostIn says what a stored config lost of the one before it.
func lostIn(config, before *entry, c *call) string {
	if c == nil {
		return "nobody wrote"
	}
	writes := c.op == opWriteConfig
	switch {
	case before == nil && !(writes && c.pair != ""):
		return "had been deleted"
	case before == nil:
		return ""
	case writes && !reflect.DeepEqual(config.position, before.position):
		return "is at another step of the rotation"
	case writes && c.pair == "" && !reflect.DeepEqual(config.credentials, before.credentials):
		return "has other credentials, which it does not name"
	case !writes && config.settingValues != before.settingValues:
		return "has other settings, in a step of the rotation"
	}
	return ""
}

// judgeRotationReads: where the rotation stands is told as it is stored.
func judgeRotationReads(h *history) (broken []violation) {
	configs := h.configsOf()
	for _, c := range h.calls {
		if !c.ok() || c.op != opReadRotation {
			continue
		}
		if !slices.ContainsFunc(configs(c.at()), func(f inForce) bool {
			return f.overlaps(c.span) && f.config != nil && c.rotation == rotationSeen{f.config.Current.Client, f.config.state(), f.config.Current.SetAt.UTC().Format(time.RFC3339)}
		}) {
			broken = append(broken, violated("the rotation is told as it is stored", []moment{c.begin, c.end}, "call %d reads %s, %s, last rotated %s", c.id, c.rotation.client, c.rotation.state, c.rotation.lastRotated))
		}
	}
	return broken
}

// judgeProofs: what a call stored was proved by that call: the pair that it put in force
// or staged got a token, and the one that it forgot was rejected.
func judgeProofs(h *history) (broken []violation) {
	var before *entry
	for _, s := range h.configChanges() {
		c, last := h.call(s.call), before
		before = s.config
		if c == nil || s.config == nil || last == nil {
			continue
		}
		mustWork, mustBeRevoked := "", ""
		switch {
		case c.op == opStage:
			mustWork = s.config.Staged.Client
			if previous := last.Previous; previous != nil {
				mustBeRevoked = previous.Client // The stage completed the rotation first.
			}
		case c.op == opPromote, c.op == opRollback, c.op == opCompromised, c.op == opWriteConfig && c.pair != "" && !c.unproved:
			mustWork = s.config.Current.Client
		case c.op == opComplete && !c.unproved:
			mustWork, mustBeRevoked = s.config.Current.Client, last.Previous.Client
		}
		if c.op == opWriteConfig && last.Current.same(&s.config.Current) {
			mustWork = ""
		}
		if !h.askedFor(c, mustWork, "granted") || !h.askedFor(c, mustBeRevoked, "rejected") {
			broken = append(broken, violated("what is stored was proved", []moment{s.begin, s.end}, "call %d stores %s with %s without a proof", c.id, s.config.state(), s.config.Current.Client))
		}
	}
	return broken
}

// askedFor tells whether a call asked Fuuffy for a token of a client, with this outcome.
func (h *history) askedFor(c *call, client, outcome string) bool {
	return client == "" || slices.ContainsFunc(h.asked, func(a *requestRecord) bool {
		return a.call == c.id && a.client == client && a.outcome == outcome
	})
}

// judgeGivenUp: a pair that the mount stops using is listed as unrevoked, unless Fuuffy rejected
// it. A compromised one stays listed until it is marked or Fuuffy rejects it, and it never
// becomes current or staged again before that.
func judgeGivenUp(h *history) (broken []violation) {
	var before *entry
	for _, s := range h.configChanges() {
		c, last := h.call(s.call), before
		before = s.config
		if c == nil || s.config == nil || last == nil {
			continue
		}
		report := func(rule, text, client string) {
			broken = append(broken, violated(rule, []moment{s.begin, s.applied, s.end}, "call %d "+text, s.call, client))
		}
		for _, pair := range last.held() {
			if !holds(s.config, pair) && s.config.entryOf(pair) == nil && !h.revoked(pair.Client, s) {
				report("what is given up is listed", "gives up client %s in silence", pair.Client)
			}
		}
		if leaked := s.config.Previous; c.op == opCompromised && !h.revoked(leaked.Client, s) && !s.config.compromised(leaked) {
			report("a leak is listed", "does not list the compromised client %s", leaked.Client)
		}
		for _, u := range last.Unrevoked {
			marked := c.op == opMark && c.pair == u.Client
			if u.Why == whyCompromised && !slices.Contains(s.config.Unrevoked, u) && !marked && !h.revoked(u.Client, s) {
				report("a leak is listed", "forgets that client %s is compromised", u.Client)
			}
		}
		if current := &s.config.Current; !current.same(&last.Current) && last.compromised(current) {
			report("a compromised pair never comes back", "makes the compromised client %s current", current.Client)
		}
		if staged := s.config.Staged; staged != nil && !staged.same(last.Staged) && last.compromised(staged) {
			report("a compromised pair never comes back", "stages the compromised client %s", staged.Client)
		}
		if previous := s.config.Previous; previous != nil && !s.config.Compromised && s.config.compromised(previous) {
			report("a compromised pair never comes back", "can fall back to the compromised client %s", previous.Client)
		}
	}
	return broken
}

func holds(config *entry, pair *pairOfEntry) bool {
	return slices.ContainsFunc(config.held(), pair.same)
}

// revoked tells whether Fuuffy rejected a client when a process asked before it stored a config,
// and the process got no token of the client after that.
func (h *history) revoked(client string, s *storageRecord) bool {
	return slices.ContainsFunc(h.asked, func(no *requestRecord) bool {
		return no.client == client && no.place == s.place && no.outcome == "rejected" && no.end.before(s.begin) &&
			!slices.ContainsFunc(h.asked, func(yes *requestRecord) bool {
				return yes.client == client && yes.place == s.place && yes.outcome == "granted" &&
					no.end.before(yes.begin) && yes.end.at+time.Second < s.begin.at && h.arrived(yes)
			})
	})
}

// arrived tells whether the engine certainly got the token of a request. A caller or a process may
// end before that.
func (h *history) arrived(a *requestRecord) bool {
	c := h.call(a.call)
	return c != nil && c.ok() || slices.ContainsFunc(h.stored, func(s *storageRecord) bool { return s.token == a.token })
}
