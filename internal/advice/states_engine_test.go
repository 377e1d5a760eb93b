// SPDX-License-Identifier: MPL-2.0

package advice

import (
	"fmt"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// This file has what each operation makes of a state.

// answer is what Fuuffy says to a request with a pair.
func (s *state) answer(p pairNo) rotation.Answer {
	if s.down {
		return rotation.NoAnswer
	}
	return [...]rotation.Answer{works: rotation.Accepted, page: rotation.Rejected, revoked: rotation.Revoked}[s.fuuffy[p]]
}

func failureOf(answer rotation.Answer) failureKind {
	return [...]failureKind{rotation.Accepted: noFailure, rotation.NoAnswer: failureDown, rotation.Rejected: failurePage, rotation.Revoked: failureDenied}[answer]
}

// note remembers an answer about a pair that the mount holds.
func (s *state) note(p pairNo) rotation.Answer {
	known, answer := s.standings(), s.answer(p)
	known.note(knownIDs[p], answer)
	s.knows[p] = knowledgeOf(known[p])
	return answer
}

// outcome is what became of an operation.
type outcome struct {
	next     state
	accepted bool
	// unchanged is set if an accepted step changed nothing.
	unchanged bool
	refusal   *rotation.Refusal
	// unverified is set if no answer told whether the previous pair is revoked, and
	// unanswered if Fuuffy was down.
	unverified, unanswered bool
	notes                  []rotation.Note
	// broken is why the outcome is no state at all.
	broken error
}

// change takes a step or a write of the configuration, as the engine's apply does: it proves
// what the step asks for, and then takes the step again.
func (s state) change(step rotation.Step, write configWrite) (o outcome) {
	pairs, known := s.pairs(), s.standings()
	o.next = s
	t, err := step(pairs, s.facts(&known))
	if err != nil {
		o.refusal, _ = err.(*rotation.Refusal)
		return o
	}
	defer func() {
		if o.broken == nil && !o.accepted {
			o.next = s
			o.broken = o.next.take(&pairs, &known) // The step must have left its argument alone.
			o.next.forgetStrangers()
		}
	}()
	mustWork := t.MustWork
	if write.is {
		mustWork = nil
		if write.verify {
			mustWork = &t.Next.Current
		}
	}
	ask := func(pair *rotation.Pair) rotation.Answer {
		answer := rotation.NoAnswer
		for p := range credentials {
			if pair.Same(&credentials[p]) {
				answer = s.answer(pairNo(p))
			}
		}
		known.note(pair.ID, answer)
		return answer
	}
	if mustWork != nil {
		if answer := ask(mustWork); answer != rotation.Accepted {
			o.unanswered = answer == rotation.NoAnswer
			return o
		}
	}
	if mustWork != nil && t.MustBeRevoked != nil {
		switch ask(t.MustBeRevoked) {
		case rotation.Revoked:
		case rotation.Accepted:
			o.refusal = t.IfAccepted
			return o
		default:
			o.unverified = true
			return o
		}
	}
	if t.Unchanged {
		o.next, o.accepted, o.unchanged, o.notes = s, true, true, t.Notes
		o.broken = o.next.take(&pairs, &known)
		o.next.forgetStrangers()
		return o
	}
	t, err = step(pairs, s.facts(&known))
	if err != nil {
		o.refusal, _ = err.(*rotation.Refusal)
		return o
	}
	o.accepted, o.notes = true, t.Notes
	if o.broken = o.next.take(&t.Next, &known); o.broken != nil {
		return o
	}
	o.next.publish(&s, mustWork, t.Next.Current, write.is)
	o.next.forgetStrangers()
	return o
}

// configWrite tells a write of the configuration, which says itself what must work.
type configWrite struct{ is, verify bool }

// publish is what a change makes of the cached token and of the readers' last failure.
func (s *state) publish(before *state, proof *rotation.Pair, current rotation.Pair, renewed bool) {
	owner := none
	switch before.token {
	case ownToken:
		owner = before.current
	case fallbackToken:
		owner = before.previous
	}
	switch {
	case owner == none, renewed:
		s.token = noToken
	case owner == s.current:
		s.token = ownToken
	case owner != s.fallback() || before.current != s.current:
		s.token = noToken
	}
	switch {
	case proof != nil && proof.Same(&current):
		s.failure, s.tested = noFailure, true
		if s.token != ownToken {
			s.token, s.tokenAge = ownToken, 0
		}
	case renewed:
		s.failure, s.tested = noFailure, false
	}
	if s.token == noToken {
		s.tokenAge = 0
	}
}

// read is a request for readers, with the fallback.
func (s state) read() state {
	answer := s.note(s.current)
	s.failure, s.tested = failureOf(answer), true
	switch {
	case answer == rotation.Accepted:
		s.token, s.tokenAge = ownToken, 0
	case answer != rotation.NoAnswer && s.fallback() != none:
		if s.note(s.previous) == rotation.Accepted {
			s.token, s.tokenAge, s.failure, s.oldTokens = fallbackToken, 0, noFailure, 0
		}
	}
	return s
}

// check tries all pairs, and tells the readers' side about the current one.
func (s state) check() state {
	answer := s.note(s.current)
	previous := rotation.NoAnswer
	if s.previous != none {
		previous = s.note(s.previous)
	}
	if s.staged != none {
		s.note(s.staged)
	}
	s.failure, s.tested = failureOf(answer), true
	switch {
	case answer == rotation.Accepted && s.token != ownToken:
		s.token, s.tokenAge = ownToken, 0
	case answer == rotation.Accepted:
	case answer != rotation.NoAnswer && s.fallback() != none && previous == rotation.Accepted:
		s.failure, s.oldTokens = noFailure, 0
		if s.token == noToken {
			s.token, s.tokenAge = fallbackToken, 0
		}
	}
	return s
}

// wait lets a tick pass.
func (s state) wait() state {
	for p, k := range s.knows {
		if k == workedNow || k == workedBefore {
			s.knows[p]--
		}
	}
	if s.fallback() != none {
		s.oldTokens = min(longAgo, s.oldTokens+1)
	}
	if s.token != noToken {
		if s.tokenAge++; s.tokenAge == longAgo {
			s.token, s.tokenAge = noToken, 0
		}
	}
	return s
}

// restart forgets what only memory has.
func (s state) restart() state {
	s.knows, s.failure, s.tested = [pairCount]knowledge{}, noFailure, s.token != noToken
	return s
}

// opKind is the kind of an operation.
type opKind int

const (
	opStage opKind = iota
	opEmergency
	opPromote
	opRollback
	opComplete
	opForce
	opDiscard
	opMark
	opConfig
	opMove
	opCheck
	opSetting
	opOther
)

// operation is something that an operator, a reader, Fuuffy, or time does.
type operation struct {
	kind opKind
	pair pairNo
	name string
	// possible is nil if the operation is always possible.
	possible func(*state) bool
	run      func(state) outcome
}

func done(s state) outcome {
	s.forgetStrangers()
	return outcome{next: s, accepted: true}
}

// operations are all of them. wrap may make other steps of the rotation's.
func operations(wrap func(opKind, rotation.Step) rotation.Step) (all []operation) {
	step := func(kind opKind, p pairNo, name string, s rotation.Step, write configWrite) operation {
		s = wrap(kind, s)
		return operation{kind: kind, pair: p, name: name, run: func(at state) outcome { return at.change(s, write) }}
	}
	for p := range pairNo(pairCount) {
		pair := credentials[p]
		pair.ID, pair.SetAt = newIDs[p], now
		all = append(all,
			step(opStage, p, "stage "+p.String(), rotation.Stage(pair), configWrite{}),
			step(opEmergency, p, "emergency with "+p.String(), rotation.Emergency(pair), configWrite{}))
		for _, verify := range []bool{true, false} {
			write := step(opConfig, p, fmt.Sprintf("config %s (verified %t)", p, verify), rotation.Replace(pair), configWrite{true, verify})
			replace := write.run
			write.run = func(s state) outcome {
				if p != s.current {
					return replace(s)
				}
				// The same pair is tried again if the last request failed.
				same := func(pairs rotation.Pairs, _ rotation.Facts) (rotation.Transition, error) {
					return rotation.Transition{Next: pairs, MustWork: &pairs.Current, Unchanged: s.failure == noFailure || !verify}, nil
				}
				if s.failure == noFailure || !verify {
					return outcome{next: s, accepted: true, unchanged: true}
				}
				return s.change(same, configWrite{})
			}
			move := step(opMove, p, fmt.Sprintf("move the endpoint with %s (verified %t)", p, verify), rotation.Move(newIDs[p]), configWrite{true, verify})
			move.possible = func(s *state) bool { return s.current == p }
			all = append(all, write, move)
		}
		if p != 1 {
			all = append(all, step(opMark, p, "mark "+credentials[p].ClientID, rotation.MarkRevoked(credentials[p].ClientID), configWrite{}))
		}
		for v := works; v <= revoked; v++ {
			all = append(all, operation{
				kind: opOther, pair: p, name: fmt.Sprintf("from now on %s %s", p, v),
				possible: func(s *state) bool { return s.held(p) && s.fuuffy[p] != v },
				run: func(s state) outcome {
					s.fuuffy[p] = v
					return done(s)
				},
			})
		}
	}
	all = append(all,
		step(opPromote, none, "promote", rotation.Promote, configWrite{}),
		step(opRollback, none, "rollback", rotation.Rollback, configWrite{}),
		step(opComplete, none, "complete", rotation.Complete(false), configWrite{}),
		step(opForce, none, "complete force=true", rotation.Complete(true), configWrite{}),
		step(opDiscard, none, "discard", rotation.Discard, configWrite{}))
	plain := func(kind opKind, name string, run func(state) state) {
		all = append(all, operation{kind: kind, pair: none, name: name, run: func(s state) outcome { return done(run(s)) }})
	}
	plain(opCheck, "check", state.check)
	plain(opSetting, "config stale_if_error=true", func(s state) state { return s })
	plain(opOther, "a reader's request", state.read)
	plain(opOther, "half an hour passes", state.wait)
	plain(opOther, "restart", state.restart)
	plain(opOther, "Fuuffy goes down, or comes up", func(s state) state {
		s.down = !s.down
		return s
	})
	return all
}
