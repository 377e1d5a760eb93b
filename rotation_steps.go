// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"slices"
	"time"
)

// transition is the outcome of a change: what must be true before it, and the
// configuration after it.
type transition struct {
	next storedConfig
	// step is the step of the rotation, empty for a write of the config.
	step string
	// mustWork must get an access token, which is served if the change left none.
	mustWork *credentials
	// mustBeDead must be rejected; alive says what to do if it is not.
	mustBeDead *credentials
	alive      string
	// unchanged is set when there is nothing to save.
	unchanged bool
	// renewed is set when the credentials in force, or their endpoint, change.
	renewed bool
	// killsTokens says why the access tokens that apps hold are dead or about to be. It is
	// empty if they aren't.
	killsTokens string
	warnings    []string
	// dropped is a client that fell off the list of those not known to be revoked.
	dropped string
}

// step is a pure function from a configuration to the transition of a rotation step, or to a
// userError that says why the step is impossible and what to do instead.
type step func(c storedConfig, now time.Time) (transition, error)

// refusedStep is a userError that doesn't fit the state of the rotation. Its text says why;
// the next step in that state says what to do instead.
type refusedStep string

func (e refusedStep) Error() string { return string(e) }

// stage returns the step that takes new credentials in.
func stage(pair credentials) step {
	return func(c storedConfig, now time.Time) (transition, error) {
		r := &c.Rotation
		if pair.same(&c.Current) {
			return stageCurrent(c)
		}
		switch r.state() {
		case statePromoted:
			return transition{}, finishFirst(c)
		case stateStaged:
			if pair.same(r.Staged) {
				return tryAgain(c, r.Staged, "these credentials are already staged; the engine only tested them again"), nil
			}
			return transition{}, refusedStep(fmt.Sprintf("client %s is already staged; nothing was changed.", r.Staged.ClientID))
		}
		r.stagePair(pair, now)
		return transition{step: "stage", next: c, mustWork: &pair}, nil
	}
}

// emergency returns the step that puts new credentials in force and drops the old ones, which
// are compromised. It works in every state.
func emergency(pair credentials) step {
	return func(c storedConfig, now time.Time) (transition, error) {
		r, state := &c.Rotation, c.Rotation.state()
		switch {
		case pair.same(&c.Current) && state == statePromoted && !r.Compromised:
			r.Compromised = true
			r.note(rotationRecord{Step: "staged", At: now, ClientID: c.Current.ClientID, Detail: r.Previous.ClientID + " is compromised"})
			dropped := r.giveUp(r.Previous.ClientID, whyCompromised, now)
			return transition{step: "stage", next: c, mustWork: &c.Current, killsTokens: whyCompromised, dropped: dropped}, nil
		case pair.same(&c.Current):
			return stageCurrent(c)
		case state == statePromoted && pair.same(r.Previous):
			return transition{}, finishFirst(c)
		case state == statePromoted:
			return stageOverPromoted(c, pair, now), nil
		}
		var warnings []string
		if state == stateStaged && !pair.same(r.Staged) {
			warnings = []string{fmt.Sprintf("the engine discarded client %s, which was staged", r.Staged.ClientID)}
			r.giveUp(r.Staged.ClientID, "discarded", now)
		}
		r.stagePair(pair, now)
		t := promoteCompromised(c, now)
		t.warnings = append(warnings, t.warnings...)
		return t, nil
	}
}

// stageCurrent stages the credentials in force, which makes sense only as a retry.
func stageCurrent(c storedConfig) (transition, error) {
	if c.Rotation.state() != statePromoted {
		return transition{}, userError("these credentials are already in force: create new ones in the Fuuffy dashboard first")
	}
	return tryAgain(c, &c.Current, "these credentials are already promoted; the engine only tested them again"), nil
}

// tryAgain repeats a step that was already taken: it only tests the credentials.
func tryAgain(c storedConfig, pair *credentials, warning string) transition {
	return transition{step: "stage", next: c, mustWork: pair, unchanged: true, warnings: []string{warning}}
}

func finishFirst(c storedConfig) error {
	return refusedStep(fmt.Sprintf("client %s was promoted, and %s is not known to be dead yet; nothing was changed.", c.Current.ClientID, toRevoke(c.Rotation.Previous, &c.Current)))
}

// stagePair keeps a pair for the promotion.
func (r *rotation) stagePair(pair credentials, now time.Time) {
	r.Staged, r.StagedAt = &pair, now
	r.tickOff(pair.ClientID) // It may be used again.
	r.note(rotationRecord{Step: "staged", At: now, ClientID: pair.ClientID})
}

// stageOverPromoted is the way out when the credentials that were promoted are compromised or
// dead too. The previous ones must be dead, because the engine forgets them here.
func stageOverPromoted(c storedConfig, pair credentials, now time.Time) transition {
	forgotten, compromised := c.Rotation.Previous, c.Rotation.Compromised
	c.Rotation.tickOff(forgotten.ClientID)
	c.Rotation.note(rotationRecord{Step: "completed", At: now, ClientID: c.Current.ClientID, Detail: "revoked: " + forgotten.ClientID})
	c.Rotation.stagePair(pair, now)
	t := promoteCompromised(c, now)
	t.mustBeDead = forgotten
	t.alive = fmt.Sprintf("client %s still works, so nothing was changed: revoke it in the Fuuffy dashboard, and repeat this command", forgotten.ClientID)
	if !compromised {
		t.alive += ". Or roll back to it: " + commandRollback
	}
	return t
}

// promote is the step that puts the staged credentials in force.
func promote(c storedConfig, now time.Time) (transition, error) {
	switch c.Rotation.state() {
	case stateIdle:
		return transition{}, refusedStep("nothing is staged, so there is nothing to promote; nothing was changed.")
	case statePromoted:
		return transition{step: "promote", next: c, unchanged: true, warnings: []string{"the credentials are already promoted; nothing was changed"}}, nil
	}
	return promoteStaged(c, now), nil
}

func promoteStaged(c storedConfig, now time.Time) transition {
	previous, current := c.Current, *c.Rotation.Staged
	current.SetAt = now
	c.Current = current
	c.Rotation.Previous, c.Rotation.PromotedAt = &previous, now
	c.Rotation.Staged, c.Rotation.StagedAt = nil, time.Time{}
	c.Rotation.note(rotationRecord{Step: "promoted", At: now, ClientID: current.ClientID, Detail: "in place of " + previous.ClientID})
	return transition{step: "promote", next: c, mustWork: &current}
}

// promoteCompromised promotes what is staged, and drops the old credentials.
func promoteCompromised(c storedConfig, now time.Time) transition {
	t := promoteStaged(c, now)
	t.killsTokens = whyCompromised
	r := &t.next.Rotation
	r.Compromised = true
	r.lastRecord().Detail = fmt.Sprintf("in place of %s, which is compromised", r.Previous.ClientID)
	t.dropped = r.giveUp(r.Previous.ClientID, whyCompromised, now)
	return t
}

// completion is how an operator completes a rotation.
type completion struct {
	// force forgets the old credentials without proof that they are dead.
	force bool
	// compromisedClientID is what the operator types to force a rotation whose old client
	// leaked.
	compromisedClientID string
	// revokeOldAfter is when no app uses a token of the old client anymore.
	revokeOldAfter time.Time
}

// complete returns the step that forgets the old credentials.
func complete(how completion) step {
	return func(c storedConfig, now time.Time) (transition, error) {
		r := &c.Rotation
		switch r.state() {
		case stateIdle:
			return takenBefore(c, "complete", "completed", "no rotation is in progress: there is nothing to complete")
		case stateStaged:
			return transition{}, refusedStep(fmt.Sprintf("client %s is staged but not promoted; nothing was changed.", r.Staged.ClientID))
		}
		old, compromised := *r.Previous, r.Compromised
		force := "force=true"
		if compromised {
			force += " compromised_client_id=" + old.ClientID
		}
		t := transition{step: "complete", mustWork: &c.Current, mustBeDead: &old}
		t.alive = fmt.Sprintf("the old credentials still work, so nothing was changed: revoke %s in the Fuuffy dashboard, then: %s. "+
			"If you can't revoke it, forget the old credentials without proof: vault write <mount>rotate-root/complete %s", toRevoke(&old, &c.Current), commandComplete, force)
		record := rotationRecord{Step: "completed", At: now, ClientID: c.Current.ClientID, Detail: "revoked: " + old.ClientID}
		switch {
		case !how.force:
			r.tickOff(old.ClientID)
		case compromised && how.compromisedClientID != old.ClientID:
			return transition{}, refusedStep(fmt.Sprintf("client %s is compromised, and its secret may still work; nothing was changed. "+
				"If you must force it, repeat this command with compromised_client_id=%s.", old.ClientID, old.ClientID))
		default:
			t.mustBeDead = nil
			t.warnings = append(t.warnings, fmt.Sprintf("client %s was not proved to be dead (force=true). Its secret works until you revoke it in the Fuuffy dashboard. "+
				"Once you have: vault write <mount>rotate-root/revoked client_id=%s", old.ClientID, old.ClientID))
			record.Detail = "forced; not proved to be revoked: " + old.ClientID
			if !compromised {
				t.dropped = r.giveUp(old.ClientID, "forced", now)
			}
		}
		if now.Before(how.revokeOldAfter) {
			t.warnings = append(t.warnings, fmt.Sprintf("apps may use tokens of client %s until %s: once it is revoked, they get a 401 until they read a new token", old.ClientID, how.revokeOldAfter.UTC().Format(time.RFC3339)))
		}
		if compromised {
			t.warnings = append(t.warnings, restartAgents)
		}
		r.end()
		r.note(record)
		t.next = c
		return t, nil
	}
}

// takenBefore lets a pipeline repeat a step that succeeded.
func takenBefore(c storedConfig, step, record, otherwise string) (transition, error) {
	steps := slices.DeleteFunc(slices.Clone(c.Rotation.History), func(h rotationRecord) bool { return h.Step == tickedOff })
	if n := len(steps); n > 0 && steps[n-1].Step == record {
		return transition{step: step, next: c, unchanged: true, warnings: []string{"this step was already taken; nothing was changed"}}, nil
	}
	return transition{}, userError(otherwise)
}

// rollback is the step that puts the old credentials back in force.
func rollback(c storedConfig, now time.Time) (transition, error) {
	r := &c.Rotation
	switch r.state() {
	case stateIdle:
		return takenBefore(c, "rollback", "rolled back", "no rotation is in progress: there is nothing to roll back")
	case stateStaged:
		return transition{}, refusedStep(fmt.Sprintf("client %s is staged but not promoted; nothing was changed.", r.Staged.ClientID))
	}
	if r.Compromised {
		return transition{}, refusedStep(fmt.Sprintf("client %s is compromised, so you can't roll back to it; nothing was changed.", r.Previous.ClientID))
	}
	abandoned := c.Current.ClientID
	c.Current = *r.Previous
	dropped := r.giveUp(abandoned, "rolled back", now)
	r.end()
	r.note(rotationRecord{Step: "rolled back", At: now, ClientID: c.Current.ClientID, Detail: "in place of " + abandoned})
	return transition{step: "rollback", next: c, mustWork: &c.Current, dropped: dropped}, nil
}

// discard is the step that drops what is staged.
func discard(c storedConfig, now time.Time) (transition, error) {
	r := &c.Rotation
	switch r.state() {
	case stateIdle:
		return transition{step: "discard", next: c, unchanged: true, warnings: []string{"nothing was staged"}}, nil
	case statePromoted:
		return transition{}, refusedStep(fmt.Sprintf("client %s is already in force; nothing was changed.", c.Current.ClientID))
	}
	r.note(rotationRecord{Step: "discarded", At: now, ClientID: r.Staged.ClientID})
	dropped := r.giveUp(r.Staged.ClientID, "discarded", now)
	r.end()
	return transition{step: "discard", next: c, dropped: dropped}, nil
}

// revoked returns the step that ticks off a client that an operator revoked.
func revoked(clientID string) step {
	return func(c storedConfig, now time.Time) (transition, error) {
		if c.Rotation.tickOff(clientID) {
			c.Rotation.note(rotationRecord{Step: tickedOff, At: now, ClientID: clientID, Detail: "revoked in the dashboard"})
			return transition{step: "revoked", next: c}, nil
		}
		return transition{step: "revoked", next: c, unchanged: true, warnings: []string{"this client is not on the list of unrevoked clients; nothing was changed"}}, nil
	}
}

// toRevoke names what to revoke in the dashboard: only the old secret if the client got a new
// one.
func toRevoke(old, current *credentials) string {
	if old.ClientID == current.ClientID {
		return "the old secret of client " + old.ClientID
	}
	return "client " + old.ClientID
}

// end forgets everything but the history and the clients to revoke.
func (r *rotation) end() { *r = rotation{History: r.History, Unrevoked: r.Unrevoked} }

func (r *rotation) lastRecord() *rotationRecord { return &r.History[len(r.History)-1] }
