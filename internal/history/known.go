// SPDX-License-Identifier: MPL-2.0

package history

import (
	"cmp"
	"slices"
	"time"
)

// store is which stored token a process has: that of a secondary is its own.
func (h *History) store(p Place) string {
	if h.Inside != nil && p.Node == h.Secondary {
		return h.Secondary
	}
	return ""
}

// takesOf returns what a call changed under a key.
func (h *History) takesOf(c *Call, key string) []*Stored {
	return h.storedIf(func(s *Stored) bool { return s.Call == c.ID && s.Key == key && s.took() })
}

// tokenChanges are the changes of a stored token, in their order.
func (h *History) tokenChanges(store string) []*Stored {
	if h.tokens[store] == nil {
		h.tokens[store] = h.storedIf(func(s *Stored) bool { return s.Key == TokenKey && h.store(s.Place) == store && s.took() })
	}
	return h.tokens[store]
}

// configChanges are the changes of the stored configuration, in their order.
func (h *History) configChanges() []*Stored {
	return h.storedIf(func(s *Stored) bool { return s.Key == ConfigKey && s.took() })
}

func (h *History) storedIf(is func(*Stored) bool) (some []*Stored) {
	for _, s := range h.Stored {
		if is(s) {
			some = append(some, s)
		}
	}
	slices.SortStableFunc(some, func(a, b *Stored) int { return cmp.Compare(a.Applied.Seq, b.Applied.Seq) })
	return some
}

// period is a configuration, and the time in which whoever answers may act on it.
type period struct {
	Span
	now    Config
	stored *Entry // nil for none, or if it is unknown
}

// configs are the configurations of a process. One ends when the process knows of the next, and not
// earlier: memory follows storage. Those of a real cluster, where processes are unknown, are known
// from the steps of the rotation.
func (h *History) configs(p Place) []period {
	if known := h.known[p]; known != nil || h.Inside == nil {
		return known
	}
	all := []period{{Span: Span{beginning, Never}}}
	for _, s := range h.configChanges() {
		replaced := h.heardConfig(p, s)
		if last := &all[len(all)-1]; replaced.before(last.End) {
			last.End = replaced
		}
		all = append(all, period{Span{s.Applied, Never}, s.Config.Shown(), s.Config})
	}
	// Who missed one change still knows of it by the next.
	for i := len(all) - 2; i >= 0; i-- {
		all[i].End = earlier(all[i].End, all[i+1].End)
	}
	h.known[p] = all
	return all
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

// was tells whether the configuration could be so for whoever answered a call, at some moment of it.
func (h *History) was(c *Call, so func(Config) bool) bool {
	return slices.ContainsFunc(h.configs(c.Place), func(p period) bool { return p.overlaps(Span{c.from, c.End}) && so(p.now) })
}

// heard tells whether whoever answered a call knew of something that had returned, by what that
// changed in storage.
func (h *History) heard(c *Call, returned Moment, changes []*Stored) bool {
	if h.Inside == nil {
		return returned.before(c.from)
	}
	return slices.ContainsFunc(changes, func(s *Stored) bool {
		if s.Key == TokenKey {
			return h.heardToken(c.Place, s, returned).before(c.Begin)
		}
		return h.heardConfig(c.Place, s).before(c.Begin)
	})
}

// began is when a process started.
func (h *History) began(p Place) Moment {
	for _, s := range h.Started {
		if s.Place == p {
			return s.Begin
		}
	}
	return Never
}

// ended is when a process came to its end: another one of its node started, or Vault cleaned it up.
func (h *History) ended(p Place) Moment {
	end := Never
	for _, s := range h.Started {
		if s.Node == p.Node && s.Process > p.Process && s.Begin.before(end) {
			end = s.Begin
		}
	}
	for _, d := range h.Cleaned {
		if d.Place == p && d.Begin.before(end) {
			end = d.Begin
		}
	}
	return end
}

// heardToken is when a process has the effect of a change of its stored token: the one that made it
// when the call returns, one that starts later when it starts, and another when it has worked off
// the Invalidate.
func (h *History) heardToken(p Place, changed *Stored, returned Moment) Moment {
	if p == changed.Place {
		return returned
	}
	if began := h.began(p); changed.Applied.before(began) {
		return later(began, returned)
	}
	for _, t := range h.Told {
		if t.Place == p && t.Key == TokenKey && t.Cause == changed.Applied {
			return t.End
		}
	}
	return Never
}

// heardConfig is heardToken for the configuration. A process that does not know what is stored, because
// of an Invalidate or of a save that failed, goes on with the one it has until it can load it.
func (h *History) heardConfig(p Place, changed *Stored) Moment {
	returned := h.returned(changed)
	if p == changed.Place {
		if c := h.call(changed.Call); c == nil || c.OK() {
			return returned
		}
		return h.loaded(p, Span{changed.Applied, returned})
	}
	if began := h.began(p); changed.Applied.before(began) {
		return began
	}
	for _, t := range h.Told {
		if t.Place == p && t.Key == ConfigKey && t.Cause == changed.Applied {
			return h.loaded(p, t.Span)
		}
	}
	return Never
}

// loadTime is how long a process may take to act on what it has read.
const loadTime = time.Second

// loaded is when a process has loaded the configuration after something made it forget that. Its
// readers wait for the load, unless one fails: then they get what was current before.
func (h *History) loaded(p Place, forgot Span) Moment {
	var gets []*Stored
	for _, s := range h.Stored {
		if s.Place == p && s.Operation == "get" && s.Key == ConfigKey && s.Call == 0 {
			gets = append(gets, s)
		}
	}
	slices.SortFunc(gets, func(a, b *Stored) int { return cmp.Compare(a.End.Seq, b.End.Seq) })
	failing := false
	for _, g := range gets {
		switch {
		case g.Failed, g.End == Never, g.End.At-g.Begin.At >= storageTime:
			failing = true
		case g.End.before(forgot.Begin):
			failing = false
		case g.Begin.before(forgot.Begin), h.disturbed(p, g):
		case !failing:
			return forgot.End
		default:
			return later(forgot.End, h.firstBegin(g.End.At+loadTime))
		}
	}
	if failing {
		return Never
	}
	return forgot.End
}

// disturbed tells whether what a process loaded may have been out of date at once.
func (h *History) disturbed(p Place, g *Stored) bool {
	until := Span{g.Begin, h.firstBegin(g.End.At + loadTime)}
	return slices.ContainsFunc(h.Told, func(t *Invalidation) bool {
		return t.Place == p && t.Key == ConfigKey && t.overlaps(until)
	}) || slices.ContainsFunc(h.Calls, func(c *Call) bool {
		return c.Place == p && c.changes() && c.overlaps(until)
	})
}

// firstBegin is the moment of the first call that begins at a time, or later.
func (h *History) firstBegin(at time.Duration) Moment {
	first := Never
	for _, c := range h.Calls {
		if c.Begin.At >= at && c.Begin.before(first) {
			first = c.Begin
		}
	}
	return first
}

// skew is how much the wall clocks of two nodes differed at most, also at different times: a token is
// issued by one and served by another.
func (h *History) skew() time.Duration {
	var least, most time.Duration
	for _, c := range h.Clocks {
		least, most = min(least, c.Ahead), max(most, c.Ahead)
	}
	return most - least
}

// issuedAfter tells whether Fuuffy issued a token, or issued it once more, after a moment.
func (h *History) issuedAfter(token string, after Moment) bool {
	return slices.ContainsFunc(h.grants[token], func(r *Request) bool { return after.before(r.Begin) })
}

// regranted is issuedAfter, or tells that the call that got the token ended after the moment.
func (h *History) regranted(token string, after Moment) bool {
	return h.issuedAfter(token, after) || slices.ContainsFunc(h.grants[token], func(r *Request) bool {
		c := h.call(r.Call)
		return c != nil && after.before(c.End)
	})
}

// deadFor is how wrong a node may be about the end of a token that it serves, because its wall clock is
// behind that of the process that got the token. The engine allows for two minutes, but not for more
// than a twentieth of the token's life. buffered tells whether the node kept to the buffer too.
func (h *History) deadFor(c *Call, buffered bool) time.Duration {
	elsewhere := func(a *Request) bool { return a.Place != c.Place }
	grants := h.grants[c.Token]
	if h.Inside == nil || h.skew() == 0 || !slices.ContainsFunc(grants, elsewhere) {
		return 0
	}
	if len(grants) > 1 {
		return h.skew() // The rest of a life may be too short for a buffer.
	}
	life, buffer := grants[0].Life, h.leastBuffer()
	served := min(buffer, life/2)
	if !buffered {
		served = 0
	}
	return max(0, h.skew()-served-min(max(0, 2*MaxAhead-buffer), life/20))
}

// leastBuffer is the shortest token_expiry_buffer of a history.
func (h *History) leastBuffer() time.Duration {
	least := time.Hour
	for _, s := range h.configChanges() {
		if s.Config != nil {
			least = min(least, s.Config.Buffer)
		}
	}
	return least
}
