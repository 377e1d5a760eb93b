// SPDX-License-Identifier: MPL-2.0

package advice

import (
	"fmt"
	"slices"
	"strings"
)

// The judge has its own idea of what an operation does to the pairs, and of what a text tells
// people to do. It calls neither the steps nor the advice.

// The rules.
const (
	ruleRevokesUsed = 1 + iota // nothing tells anyone to revoke what the mount uses
	ruleUnproved               // nothing irreversible is advised without a fresh success of the pair that stays
	ruleRefused                // an advised command is accepted
	ruleLeak                   // a compromised pair never comes back, and stays listed until it is marked or proved
	ruleList                   // the list has the pairs that left without proof, and none that is in use
	ruleHealth                 // health is honest
	ruleDeadEnd                // from each state, advised commands lead to the end of all work
	ruleOperation              // an operation does what it is for, and nothing if it is refused
)

// violation is a rule that is broken.
type violation struct {
	rule int
	text string
}

func breaks(rule int, text string, args ...any) *violation {
	return &violation{rule, fmt.Sprintf(text, args...)}
}

// roles are the pairs of a mount as the judge keeps them.
type roles struct {
	current, staged, previous pairNo
	compromised               bool
	list                      [pairCount]listing
}

func (s *state) roles() roles {
	return roles{s.current, s.staged, s.previous, s.compromised, s.list}
}

// leave stops using a pair.
func (r *roles) leave(p pairNo, leaked, proved bool) {
	switch {
	case leaked:
		r.list[p] = listedCompromised
	case proved:
		r.list[p] = notListed
	case r.list[p] == notListed:
		r.list[p] = listed
	}
}

// after is what an operation that was accepted makes of the pairs. proved tells which pairs are
// proved to be revoked.
func (r roles) after(op *operation, proved func(pairNo) bool) roles {
	drop := func(p pairNo, leaked bool) { r.leave(p, leaked, proved(p)) }
	endRotation := func() { r.previous, r.compromised = none, false }
	switch op.kind {
	case opStage:
		if r.previous != none {
			r.list[r.previous] = notListed
			endRotation()
		}
		r.staged, r.list[op.pair] = op.pair, notListed
	case opEmergency:
		old := r.current
		switch {
		case op.pair == r.current:
			r.compromised = true
			drop(r.previous, true)
			return r
		case r.previous != none && r.previous != op.pair:
			drop(r.previous, r.compromised)
		case r.staged != none && r.staged != op.pair:
			drop(r.staged, false)
		}
		r.current, r.staged, r.previous, r.compromised, r.list[op.pair] = op.pair, none, old, true, notListed
		drop(old, true)
	case opPromote:
		r.current, r.staged, r.previous = r.staged, none, r.current
	case opComplete:
		r.list[r.previous] = notListed
		endRotation()
	case opForce:
		drop(r.previous, r.compromised)
		endRotation()
	case opRollback:
		abandoned := r.current
		r.current = r.previous
		endRotation()
		drop(abandoned, false)
	case opDiscard:
		drop(r.staged, false)
		r.staged = none
	case opMark:
		// One secret at a time, a compromised one first.
		for _, l := range []listing{listedCompromised, listed} {
			if p := r.first(l, op.pair); p != none {
				r.list[p] = notListed
				break
			}
		}
	case opConfig:
		old := r.current
		if op.pair == old {
			return r // It was only tried again.
		}
		r.current, r.list[op.pair] = op.pair, notListed
		drop(old, false)
	}
	return r
}

// first is the first pair of a client that is on the list in a way.
func (r *roles) first(how listing, client pairNo) pairNo {
	for p := range pairNo(pairCount) {
		if r.list[p] == how && sameClient(p, client) {
			return p
		}
	}
	return none
}

// judgeOutcome judges what became of an operation.
func judgeOutcome(before *state, op *operation, o *outcome) *violation {
	if o.broken != nil {
		return breaks(ruleList, "%s", o.broken)
	}
	proved := func(p pairNo) bool { return before.knows[p] == knownRevoked }
	was, is := before.roles(), o.next.roles()
	expected := was
	if o.accepted && !o.unchanged {
		expected = was.after(op, proved)
	}
	for p := range pairNo(pairCount) {
		marked := op.kind == opMark && sameClient(p, op.pair) && o.accepted
		proof := proved(p) || p == was.previous && o.accepted && (op.kind == opComplete || op.kind == opStage)
		switch {
		case was.list[p] == listedCompromised && is.list[p] != listedCompromised && !marked && !proof:
			return breaks(ruleLeak, "%s is compromised, and is no longer listed as such", p)
		case expected.list[p] == listedCompromised && is.list[p] != listedCompromised:
			return breaks(ruleLeak, "%s is compromised, and is not listed as such", p)
		case expected.list[p] != is.list[p]:
			return breaks(ruleList, "%s should be on the list as %d, and is there as %d", p, expected.list[p], is.list[p])
		}
	}
	if is != expected {
		return breaks(ruleOperation, "the pairs should be %+v, and are %+v", expected, is)
	}
	after := &o.next
	if o.refusal != nil {
		text := Explain(o.refusal, nil)
		if v := judgeText(after, text.Render("fuuffy/"), "the refusal"); v != nil {
			return v
		}
	}
	for _, note := range o.notes {
		current := after.pairs().Current
		if v := judgeText(after, Tell(note, &current).Render("fuuffy/"), "the warning"); v != nil {
			return v
		}
	}
	return nil
}

// judgeState judges a state, and what the mount says in it.
func judgeState(s *state, said *saying) *violation {
	for p, l := range s.list {
		p := pairNo(p)
		switch {
		case l == listedCompromised && (p == s.current || p == s.staged || p == s.fallback()):
			return breaks(ruleLeak, "%s is compromised, and in use", p)
		case l == listed && s.held(p), l != notListed && (p == s.current || p == s.staged):
			return breaks(ruleList, "%s is in use, and listed", p)
		}
	}
	if v := judgeHealth(s, said.health); v != nil {
		return v
	}
	if v := judgeText(s, said.step.Render("fuuffy/"), "next_step"); v != nil {
		return v
	}
	for _, condition := range said.conditions {
		if v := judgeText(s, condition.Text, "a condition"); v != nil {
			return v
		}
	}
	for _, line := range said.step {
		if line.Command != nil && line.Command.path == Complete.path && !s.staysFresh(false) {
			return breaks(ruleUnproved, "it advises to complete, and nothing fresh shows that %s works", s.current)
		}
	}
	return nil
}

// judgeHealth holds the verdict against what the node can know.
func judgeHealth(s *state, health Health) *violation {
	atMost := func(best Health, why string) *violation {
		if slices.Index([]Health{OK, Untested, Degraded, Failing}, health) < slices.Index([]Health{OK, Untested, Degraded, Failing}, best) {
			return breaks(ruleHealth, "health is %s: %s", health, why)
		}
		return nil
	}
	rejected := func(p pairNo) bool { return p == none || s.knows[p] >= knownRejected }
	switch {
	case s.token == noToken && s.failure != noFailure:
		return atMost(Failing, "readers get nothing")
	case s.token == noToken && rejected(s.current) && rejected(s.fallback()):
		return atMost(Failing, "Fuuffy rejects what the engine has, and no token is left")
	case rejected(s.current):
		return atMost(Degraded, "Fuuffy rejects the current pair")
	case s.token == fallbackToken:
		return atMost(Degraded, "apps get tokens of the previous pair")
	case s.failure != noFailure:
		return atMost(Degraded, "no refresh succeeds")
	}
	for p, l := range s.list {
		if l == listedCompromised && s.knows[p] != knownRevoked {
			return atMost(Degraded, fmt.Sprintf("the leak of %s is open", pairNo(p)))
		}
	}
	if !s.tested {
		return atMost(Untested, "Fuuffy responded to nothing")
	}
	return nil
}

// staysFresh tells whether the node knows a success of the current pair that is fresh enough for
// what can't be undone. afterTokens asks for one since apps dropped the previous pair's tokens.
func (s *state) staysFresh(afterTokens bool) bool {
	known := s.knows[s.current]
	if known == unknown && s.token == ownToken {
		known = workedNow - knowledge(s.tokenAge)
	}
	return known == workedNow || known == workedBefore && !afterTokens
}

// judgeText judges what a text tells people to revoke.
func judgeText(s *state, text, where string) *violation {
	pairs, v := s.toRevoke(text)
	if v != nil {
		return v
	}
	for _, p := range pairs {
		leak := s.list[p] == listedCompromised
		switch {
		case p == s.current || p == s.staged:
			return breaks(ruleRevokesUsed, "%s tells to revoke %s, which the mount needs: %q", where, p, text)
		case p == s.previous && s.token == fallbackToken:
			return breaks(ruleRevokesUsed, "%s tells to revoke %s, which the engine falls back to: %q", where, p, text)
		case leak, p == s.previous && s.compromised:
		case !s.held(p) && slices.ContainsFunc(pairs, func(q pairNo) bool { return sameClient(p, q) && s.list[q] == listedCompromised }):
			// An unused secret goes with its client, which leaked.
		case p == s.previous && s.oldTokens < longAgo:
			return breaks(ruleRevokesUsed, "%s tells to revoke %s while apps hold its tokens: %q", where, p, text)
		case !s.staysFresh(p == s.previous):
			return breaks(ruleUnproved, "%s tells to revoke %s, and nothing fresh shows that %s works: %q", where, p, s.current, text)
		}
	}
	return nil
}

// asSeen tells whether Fuuffy is as the node last saw it, and works where the node knows
// nothing.
func (s *state) asSeen() bool {
	if s.down != (s.failure == failureDown) {
		return false
	}
	for p := range pairNo(pairCount) {
		expected := works
		switch {
		case s.knows[p] == knownRevoked, p == s.previous && s.compromised && s.list[p] == notListed:
			expected = revoked // Proved, or marked by an operator.
		case s.knows[p] == knownRejected:
			expected = page
		}
		if s.held(p) && s.fuuffy[p] != expected {
			return false
		}
	}
	return true
}

// judgeAdvice follows the advice of a state. Refusals are allowed for what the node can't know,
// but then the operator must read something new.
func (w *walk) judgeAdvice(s *state, said *saying) *violation {
	text := said.step.Render("fuuffy/")
	for _, f := range s.follow(said.step, w) {
		o := &f.outcome
		command := f.command.Render("fuuffy/")
		answer := w.after(o)
		switch {
		case o.broken != nil:
			return breaks(ruleOperation, "%s: %s", command, o.broken)
		case o.accepted && !(o.unchanged && f.command.path != Check.path):
		case o.unverified, o.unanswered:
			// The engine couldn't ask, says so, and tells to try again.
		case s.asSeen():
			return breaks(ruleRefused, "%q is advised, and refused (unchanged: %t): %s", command, o.unchanged, answer.Render("fuuffy/"))
		case answer.Render("fuuffy/") == text && !strings.Contains(text, Check.path):
			return breaks(ruleRefused, "%q is advised and refused, and then the advice is the same: %s", command, text)
		}
	}
	return nil
}

// after is what an operator reads after an operation.
func (w *walk) after(o *outcome) (text Text) {
	if o.refusal != nil {
		text = Explain(o.refusal, o.next.mount())
	}
	return text.And(w.say(&o.next).step)
}

// recover brings Fuuffy up. A page instead of what Fuuffy once proved doesn't last either.
func (s *state) recover() {
	s.down = false
	for p, known := range s.knows {
		if known == knownRevoked && s.fuuffy[p] == page {
			s.fuuffy[p] = revoked
		}
	}
}

// ends tells whether advised commands lead from a state to the end of all work.
func (w *walk) ends(s state) bool {
	const enough = 500
	type step struct {
		state state
		from  int
	}
	trail, seen := []step{{s, -1}}, map[state]bool{s: true}
	for i := 0; i < len(trail) && i < enough; i++ {
		at := trail[i].state
		said := w.say(&at)
		if w.good[at] || strings.HasPrefix(said.step.Render(""), "No action needed") {
			for ; i >= 0; i = trail[i].from {
				w.good[trail[i].state] = true
			}
			return true
		}
		var next []state
		for _, f := range at.follow(said.step, w) {
			next = append(next, f.outcome.next)
			if f.outcome.refusal != nil {
				for _, f := range f.outcome.next.follow(w.after(&f.outcome), w) {
					next = append(next, f.outcome.next)
				}
			}
		}
		if strings.Contains(said.step.Render(""), "Wait until") {
			next = append(next, at.wait())
		}
		for _, n := range next {
			if !seen[n] {
				seen[n] = true
				trail = append(trail, step{n, i})
			}
		}
	}
	return false
}

// saying is all that a mount says in a state.
type saying struct {
	health     Health
	conditions []Condition
	step       Text
}

func (w *walk) say(s *state) *saying {
	m := s.mount()
	said := &saying{health: m.Health(), conditions: m.Conditions(), step: m.NextStep()}
	if w.doctor != nil {
		w.doctor(s, m, said)
	}
	return said
}
