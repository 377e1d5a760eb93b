// SPDX-License-Identifier: MPL-2.0

package rotation

import (
	"slices"
	"time"
)

// Step is a pure function from the pairs of a mount to the outcome of one step, or to a
// *Refusal that says why the step is impossible.
type Step func(p Pairs, f Facts) (Transition, error)

// Facts are what a step needs to know besides the pairs.
type Facts struct {
	Now time.Time
	// Standing is what this node knows about a pair, by Pair.ID.
	Standing func(pairID string) Standing
	// OldTokensUntil is when the last app stops using a token of the previous pair, and
	// TokensUntil of the current pair, if a step replaces it now.
	OldTokensUntil, TokensUntil time.Time
	// Leaks is what the mount still knows of compromised pairs while nothing is configured.
	Leaks State
}

// refuseCompromised rejects a pair that an operator said is compromised, until it is marked as
// revoked.
func (p *Pairs) refuseCompromised(pair *Pair) error {
	for _, u := range p.Rotation.Unrevoked {
		// Which secret an entry of an older version is about is unknown, so it stands for all.
		unknown := u.Fingerprint == "" && u.ClientID == pair.ClientID
		if u.Why == WhyCompromised && (unknown || u.stands(pair, p.Rotation.Key)) {
			listed := &Pair{ClientID: u.ClientID, Serial: u.Serial}
			return &Refusal{Reason: IsCompromised, Pair: listed, Other: &p.Current}
		}
	}
	return nil
}

// takeIn keeps a pair for the promotion. It is in use again if it was given up before.
func (t *Transition) takeIn(pair *Pair, f Facts) {
	r := &t.Next.Rotation
	r.number(pair)
	r.removeUnrevoked(pair)
	r.Staged, r.StagedAt = pair, f.Now
	t.note(didStage, f, pair.ClientID, "")
}

// testAgain repeats a step that was already taken: it only tests the pair.
func testAgain(p Pairs, pair *Pair) Transition {
	return Transition{Step: "stage", Next: p, MustWork: pair, Unchanged: true, Notes: []Note{{Notice: TestedAgain, Pair: pair}}}
}

// Stage takes a new pair in. If a rotation is promoted, that rotation is completed first, which
// needs proof that its previous pair is revoked.
func Stage(pair Pair) Step {
	return func(p Pairs, f Facts) (Transition, error) {
		r := &p.Rotation
		switch {
		case pair.Same(&p.Current) && r.Name() == Promoted:
			return testAgain(p, &p.Current), nil
		case pair.Same(&p.Current):
			return Transition{}, &Refusal{Reason: AlreadyCurrent, Pair: &p.Current}
		case pair.Same(r.Staged):
			return testAgain(p, r.Staged), nil
		case r.Staged != nil:
			return Transition{}, &Refusal{Reason: AlreadyStaged, Pair: r.Staged, Other: &p.Current}
		}
		if err := p.refuseCompromised(&pair); err != nil {
			return Transition{}, err
		}
		t := Transition{Step: "stage", Next: p, MustWork: &pair}
		if previous := r.Previous; previous != nil {
			t.IfAccepted = &Refusal{Reason: InProgress, Pair: &p.Current, Other: previous}
			if pair.Same(previous) {
				return Transition{}, t.IfAccepted
			}
			t.MustBeRevoked = previous
			t.forget(previous, f)
			t.Notes = append(t.Notes, Note{Notice: Completed, Pair: previous})
		}
		t.takeIn(&pair, f)
		return t, nil
	}
}

// forget ends a rotation whose previous pair is proved to be revoked.
func (t *Transition) forget(previous *Pair, f Facts) {
	t.Next.Rotation.removeUnrevoked(previous)
	t.Next.Rotation.end()
	t.note(didComplete, f, t.Next.Current.ClientID, "revoked: "+previous.ClientID)
}

// Emergency makes a pair current immediately, and never uses the pair that it replaces again,
// because that one is compromised. It works in every state. What else the mount holds is
// given up.
func Emergency(pair Pair) Step {
	return func(p Pairs, f Facts) (Transition, error) {
		r := &p.Rotation
		switch {
		case pair.Same(&p.Current) && r.Name() == Promoted && !r.Compromised:
			return promotedBefore(p, f), nil
		case pair.Same(&p.Current) && r.Name() == Promoted:
			return testAgain(p, &p.Current), nil
		case pair.Same(&p.Current):
			return Transition{}, &Refusal{Reason: AlreadyCurrent, Pair: &p.Current}
		}
		if err := p.refuseCompromised(&pair); err != nil {
			return Transition{}, err
		}
		t := Transition{Step: "stage", Next: p, Leaked: true, Notes: []Note{{Notice: LeakedTokens}}}
		other, why := r.Staged, whyDiscarded
		if r.Previous != nil {
			other, why = r.Previous, whyReplaced
			if r.Compromised {
				why = WhyCompromised
			}
		}
		switch {
		case other.Same(&pair):
			pair = *other
		case other != nil:
			t.addUnrevoked(other, why, f)
			t.Notes = append(t.Notes, Note{Notice: GivenUp, Pair: other})
		}
		t.takeIn(&pair, f)
		t.promote(f, ", which is compromised")
		t.Next.Rotation.Compromised = true
		t.addUnrevoked(t.Next.Rotation.Previous, WhyCompromised, f)
		return t, nil
	}
}

// promotedBefore is the emergency after a promotion: the previous pair turned out to be
// compromised.
func promotedBefore(p Pairs, f Facts) Transition {
	t := Transition{Step: "stage", Next: p, MustWork: &p.Current, Leaked: true, Notes: []Note{{Notice: LeakedTokens}}}
	t.Next.Rotation.Compromised = true
	t.note(didStage, f, p.Current.ClientID, p.Rotation.Previous.ClientID+" is compromised")
	t.addUnrevoked(p.Rotation.Previous, WhyCompromised, f)
	return t
}

// Promote makes the staged pair current, and keeps the previous one.
func Promote(p Pairs, f Facts) (Transition, error) {
	switch p.Rotation.Name() {
	case Idle:
		return Transition{}, &Refusal{Reason: NothingToPromote}
	case Promoted:
		return Transition{Step: "promote", Next: p, Unchanged: true, Notes: []Note{{Notice: AlreadyDone}}}, nil
	}
	if err := p.refuseCompromised(p.Rotation.Staged); err != nil {
		return Transition{}, err
	}
	t := Transition{Step: "promote", Next: p}
	t.promote(f, "")
	return t, nil
}

// promote swaps the staged pair in. about says more about the previous one.
func (t *Transition) promote(f Facts, about string) {
	p := &t.Next
	previous, current := p.Current, *p.Rotation.Staged
	current.SetAt = f.Now
	p.Current = current
	p.Rotation.Previous, p.Rotation.PromotedAt, p.Rotation.Compromised = &previous, f.Now, false
	p.Rotation.TokensUntil = f.TokensUntil
	p.Rotation.Staged, p.Rotation.StagedAt = nil, time.Time{}
	t.note(didPromote, f, current.ClientID, "replaced "+previous.ClientID+about)
	t.MustWork = &current
}

// Complete forgets the previous pair once it is proved to be revoked, or without proof if force
// is set.
func Complete(force bool) Step {
	return func(p Pairs, f Facts) (Transition, error) {
		switch p.Rotation.Name() {
		case Idle:
			return takenBefore(p, "complete", didComplete, NothingToComplete)
		case Staged:
			return Transition{}, &Refusal{Reason: NotPromoted, Pair: p.Rotation.Staged, Other: &p.Current}
		}
		previous, compromised := p.Rotation.Previous, p.Rotation.Compromised
		t := Transition{Step: "complete", Next: p, MustWork: &p.Current}
		revoked := !force || f.revoked(previous)
		switch {
		case !force:
			t.MustBeRevoked = previous
			t.IfAccepted = &Refusal{Reason: StillAccepted, Pair: previous, Other: &p.Current}
			if !compromised && f.Now.Before(f.OldTokensUntil) {
				t.IfAccepted.Until = f.OldTokensUntil
			}
			t.forget(previous, f)
		default:
			why := whyForced
			if compromised {
				why = WhyCompromised
			}
			t.Next.Rotation.end()
			t.note(didComplete, f, p.Current.ClientID, "forced; not proved to be revoked: "+previous.ClientID)
			t.addUnrevoked(previous, why, f)
			if !revoked {
				t.Notes = append(t.Notes, Note{Notice: Forced, Pair: previous})
			}
		}
		if !compromised && f.Now.Before(f.OldTokensUntil) {
			t.Notes = append(t.Notes, Note{Notice: TokensStillHeld, Pair: previous, Until: f.OldTokensUntil, Revoked: revoked})
		}
		if compromised {
			t.Notes = append(t.Notes, Note{Notice: LeakedTokens})
		}
		return t, nil
	}
}

// takenBefore lets a pipeline repeat a step that succeeded.
func takenBefore(p Pairs, step, record string, otherwise Reason) (Transition, error) {
	steps := slices.DeleteFunc(slices.Clone(p.Rotation.History), func(r Record) bool { return r.Step == didMark })
	if n := len(steps); n > 0 && steps[n-1].Step == record {
		return Transition{Step: step, Next: p, Unchanged: true, Notes: []Note{{Notice: AlreadyDone}}}, nil
	}
	return Transition{}, &Refusal{Reason: otherwise}
}

// Rollback makes the previous pair current again.
func Rollback(p Pairs, f Facts) (Transition, error) {
	r := &p.Rotation
	switch {
	case r.Name() == Idle:
		return takenBefore(p, "rollback", didRollBack, NothingToRollBack)
	case r.Name() == Staged:
		return Transition{}, &Refusal{Reason: NotPromoted, Pair: r.Staged, Other: &p.Current}
	case r.Compromised:
		return Transition{}, &Refusal{Reason: NoWayBack, Pair: r.Previous, Other: &p.Current}
	}
	if err := p.refuseCompromised(r.Previous); err != nil {
		return Transition{}, err
	}
	abandoned := p.Current
	t := Transition{Step: "rollback", Next: p}
	t.Next.Current = *r.Previous
	t.MustWork = &t.Next.Current
	t.Next.Rotation.end()
	t.addUnrevoked(&abandoned, whyRolledBack, f)
	t.note(didRollBack, f, t.Next.Current.ClientID, "replaced "+abandoned.ClientID)
	return t, nil
}

// Discard drops the staged pair.
func Discard(p Pairs, f Facts) (Transition, error) {
	switch p.Rotation.Name() {
	case Idle:
		return Transition{Step: "discard", Next: p, Unchanged: true, Notes: []Note{{Notice: NothingStaged}}}, nil
	case Promoted:
		return Transition{}, &Refusal{Reason: NotStaged, Pair: &p.Current, Other: p.Rotation.Previous}
	}
	staged := p.Rotation.Staged
	t := Transition{Step: "discard", Next: p}
	t.Next.Rotation.end()
	t.addUnrevoked(staged, whyDiscarded, f)
	t.note(didDiscard, f, staged.ClientID, "")
	return t, nil
}

// MarkRevoked takes an operator's word that the pairs of a client that the mount no longer uses
// are revoked.
func MarkRevoked(clientID string) Step {
	return func(p Pairs, f Facts) (Transition, error) {
		t := Transition{Step: "revoked", Next: p}
		if !t.Next.Rotation.markRevoked(clientID) {
			return Transition{Step: "revoked", Next: p, Unchanged: true, Notes: []Note{{Notice: NotListed}}}, nil
		}
		t.note(didMark, f, clientID, "in the Fuuffy dashboard")
		return t, nil
	}
}

// Replace makes a pair current that a write of the configuration brings, outside a rotation.
// The pairs have no current one yet at the first write.
func Replace(pair Pair) Step {
	return func(p Pairs, f Facts) (Transition, error) {
		if err := p.unlocked(); err != nil {
			return Transition{}, err
		}
		if err := p.refuseCompromised(&pair); err != nil {
			return Transition{}, err
		}
		t := Transition{Next: p}
		t.Next.Rotation.number(&pair)
		t.Next.Rotation.removeUnrevoked(&pair)
		record, detail := didSetUp, ""
		if p.Current.ID != "" {
			t.addUnrevoked(&p.Current, whyReplaced, f)
			record, detail = didReplace, "through config"
		}
		t.Next.Current = pair
		t.note(record, f, pair.ClientID, detail)
		return t, nil
	}
}

// Move gives the current pair a new ID, because it is sent to another endpoint.
func Move(id string) Step {
	return func(p Pairs, _ Facts) (Transition, error) {
		if err := p.unlocked(); err != nil {
			return Transition{}, err
		}
		p.Current.ID = id
		return Transition{Next: p}, nil
	}
}

// unlocked rejects a change outside the rotation while one is in progress: its proofs count
// only for the pairs and the endpoint that they came from.
func (p *Pairs) unlocked() error {
	if state := p.Rotation.Name(); state != Idle {
		return &Refusal{Reason: RotationInProgress, State: state}
	}
	return nil
}
