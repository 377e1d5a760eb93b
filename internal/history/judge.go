// SPDX-License-Identifier: MPL-2.0

package history

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Violation is a rule that a history broke, and the moments that show it.
type Violation struct {
	Rule, Text string
	At         []Moment
}

// violated is the violation of a rule.
func violated(rule string, at []Moment, format string, args ...any) Violation {
	return Violation{rule, fmt.Sprintf(format, args...), at}
}

func (c *Call) ends() []Moment { return []Moment{c.Begin, c.End} }

// part is what of a record a rule needs beside the calls and the requests.
type part string

const (
	nothing part = ""
	inside  part = "what happens inside the nodes"
	cluster part = "the run of a real cluster"
)

// rules are what every history is held to.
var rules = []struct {
	name  string
	needs part
	judge func(*History) []Violation
}{
	{"a deleted token is not served again", nothing, judgeDeleted},
	{"a reported token is replaced", nothing, judgeReported},
	{"who gets a suspect token is warned", inside, judgeSuspect},
	{"a token of compromised credentials is not served", nothing, judgeCompromised},
	{"a served token is of current credentials, and lives", nothing, judgeGranted},
	{"no reader fails or waits while a token is at hand", inside, judgeServed},
	{"stale_if_error serves what has life left", inside, judgeStale},
	{"a quiet node works", inside, judgeQuiet},
	{"after the faults everyone is served", cluster, judgeServedAgain},
	{"what was written is read", nothing, judgeWrites},
	{"a write changes what it names", inside, judgeEntries},
	{"config and rotation are told as they are", nothing, judgeLooks},
	{"config and rotation are linearizable", cluster, judgeLinear},
	{"no step of a rotation is lost or taken twice", cluster, judgeSteps},
	{"what is stored was proved", inside, judgeProofs},
	{"what is given up is listed", inside, judgeGivenUp},
	{"one token request at a time", inside, judgeFlights},
	{"the engine holds off", inside, judgeHoldOff},
	{"Fuuffy gets no more requests than the contract allows", cluster, judgeRequests},
	{"a call returns in time", inside, judgeTime},
	{"nothing holds a start up", inside, judgeStarts},
	{"a token is saved before it is served", inside, judgeSaved},
	{"a backend that was cleaned up is quiet", inside, judgeCleaned},
	{"no call panics", inside, judgePanics},
}

// has tells whether a record has a part.
func (h *History) has(p part) bool {
	return p == nothing || p == inside && h.Inside != nil || p == cluster && h.Cluster != nil
}

// Judge returns what a history breaks of the rules that it can decide.
func Judge(h *History) (violations []Violation) {
	h.prepare()
	for _, rule := range rules {
		if h.has(rule.needs) {
			violations = append(violations, rule.judge(h)...)
		}
	}
	return violations
}

// Undecided names the rules that a record can't decide, and what it lacks.
func (h *History) Undecided() string {
	var names []string
	lacks := nothing
	for _, rule := range rules {
		if !h.has(rule.needs) {
			lacks, names = rule.needs, append(names, rule.name)
		}
	}
	return fmt.Sprintf("not decided, because the record lacks %s: %s", lacks, strings.Join(names, "; "))
}

// index is what several rules work out of a history.
type index struct {
	// served are the calls that were given a token, and servedBy those of each.
	served   []*Call
	servedBy map[string][]*Call
	grants   map[string][]*Request
	// known are the configurations of processes, and tokens the changes of stored tokens, as far
	// as a rule asked for them.
	known  map[Place][]period
	tokens map[string][]*Stored
	// What only a real cluster needs.
	clusterIndex
}

func (h *History) prepare() {
	h.index = index{servedBy: map[string][]*Call{}, grants: map[string][]*Request{}, known: map[Place][]period{}, tokens: map[string][]*Stored{}}
	for _, c := range h.Calls {
		c.from = c.Begin
		if c.OK() && c.Token != "" {
			h.served = append(h.served, c)
			h.servedBy[c.Token] = append(h.servedBy[c.Token], c)
		}
	}
	for _, r := range h.Requests {
		if r.Token != "" {
			h.grants[r.Token] = append(h.grants[r.Token], r)
		}
	}
	if h.Cluster != nil {
		h.prepareCluster()
	}
}

// grant is the request that first brought a token, nil if there is none.
func (h *History) grant(token string) *Request {
	if grants := h.grants[token]; len(grants) > 0 {
		return grants[0]
	}
	return nil
}

// judgeDeleted: once the token (or the config) was deleted, no read that began later gets
// a token from before, of anyone who knows of it or after a restart, and none is stored.
func judgeDeleted(h *History) (broken []Violation) {
	const rule = "a deleted token is not served again"
	said := map[*Call]bool{}
	for _, d := range h.Calls {
		if !d.OK() || d.Op != OpDeleteToken && d.Op != OpDeleteConfig {
			continue
		}
		store := h.store(d.Place)
		known := map[string]bool{}
		deleted := func(token string) bool {
			is, ok := known[token]
			if !ok {
				is = h.knownBefore(token, store, d.Begin) && !h.regranted(token, d.Begin)
				known[token] = is
			}
			return is
		}
		var erased []*Stored
		if h.Inside != nil {
			erased = h.takesOf(d, TokenKey)
			if len(erased) == 0 {
				broken = append(broken, violated(rule, d.ends(), "call %d left the token in storage", d.ID))
			}
			for _, s := range h.tokenChanges(store) {
				if d.End.before(s.Applied) && s.Token != "" && deleted(s.Token) {
					broken = append(broken, violated(rule, []Moment{d.Begin, d.End, s.Applied}, "%s is stored, which call %d deleted", s.Token, d.ID))
				}
			}
		}
		for _, c := range h.served {
			if !said[c] && h.store(c.Place) == store && h.heard(c, d.End, erased) && deleted(c.Token) {
				said[c] = true
				broken = append(broken, violated(rule, []Moment{d.Begin, d.End, c.Begin}, "call %d gets %s, which call %d deleted", c.ID, c.Token, d.ID))
			}
		}
	}
	return broken
}

// knownBefore tells whether a token existed before a moment in a cluster: it was given out or
// stored, or the flight that got it was under way.
func (h *History) knownBefore(token, store string, m Moment) bool {
	return slices.ContainsFunc(h.servedBy[token], func(c *Call) bool {
		return h.store(c.Place) == store && c.End.before(m)
	}) || slices.ContainsFunc(h.grants[token], func(r *Request) bool {
		return h.store(r.Place) == store && r.Begin.before(m) && h.forReaders(r)
	}) || h.Inside != nil && slices.ContainsFunc(h.tokenChanges(store), func(s *Stored) bool {
		return s.Token == token && s.Applied.before(m)
	})
}

// judgeCompromised: once a stage with compromised=true has returned, no token of the
// compromised credentials is served.
func judgeCompromised(h *History) (broken []Violation) {
	for _, e := range h.Calls {
		if !e.OK() || e.Op != OpCompromised {
			continue
		}
		leaked, changes := h.leaked(e)
		for _, c := range h.served {
			g := h.grant(c.Token)
			if g != nil && leaked != "" && g.Client == leaked && !h.issuedAfter(c.Token, e.End) && h.heard(c, e.End, changes) {
				broken = append(broken, violated("a token of compromised credentials is not served", []Moment{e.Begin, e.End, c.Begin},
					"call %d gets %s of %s, which call %d gave up", c.ID, c.Token, g.Client, e.ID))
			}
		}
	}
	return broken
}

// judgeGranted: every token that is served was issued to credentials that were
// current, or the fallback, while the call was under way, had not expired, and lives for as
// long as the reader needs it.
func judgeGranted(h *History) (broken []Violation) {
	for _, c := range h.served {
		g := h.grant(c.Token)
		switch {
		case g == nil || !g.Begin.before(c.End):
			broken = append(broken, violated("a served token was issued", c.ends(), "Fuuffy never issued the token %s that call %d gets", c.Token, c.ID))
		case g.Expires+h.deadFor(c, !c.Stale) <= c.Begin.At:
			broken = append(broken, violated("a served token has not expired", c.ends(), "call %d gets %s, which expired at %s", c.ID, c.Token, g.Expires))
		case c.MinTTL > 0 && g.Expires+h.deadFor(c, false) < h.mustLiveUntil(c):
			broken = append(broken, violated("a served token lives for min_ttl", c.ends(), "call %d wants %s and gets %s, which expires at %s", c.ID, c.MinTTL, c.Token, g.Expires))
		case !h.was(c, func(now Config) bool { return now.allows(g.Client) }):
			broken = append(broken, violated("a served token is of current credentials", []Moment{c.from, c.End}, "call %d gets %s of %s, which was not current", c.ID, c.Token, g.Client))
		}
	}
	return broken
}

// mustLiveUntil is until when a token must live that a call got for min_ttl. Where only the client
// is known, it was right when the call began.
func (h *History) mustLiveUntil(c *Call) time.Duration {
	if h.Inside == nil {
		return c.Begin.At + c.MinTTL
	}
	return c.End.At + c.MinTTL - 6*ClockTime
}
