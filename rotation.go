// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"time"
)

// The rotation of the credentials, every 90 days by Fuuffy's rule:
//
//	idle ──stage──▶ staged ──promote──▶ promoted ──complete──▶ idle
//	                  │ discard               │ rollback
//	                  ▼                       ▼
//	                 idle                    idle (old credentials back)
//
// With compromised=true, stage goes straight to promoted, from any state.
const (
	stateIdle     = "idle"
	stateStaged   = "staged"
	statePromoted = "promoted"
)

// maxHistory is how many steps are remembered. Who took them is in Vault's audit log.
const maxHistory = 10

// rotation is the part of the stored configuration that a rotation is in.
type rotation struct {
	// Staged is proved to work and waits to be promoted.
	Staged   *credentials `json:"staged,omitempty"`
	StagedAt time.Time    `json:"staged_at,omitzero"`
	// Previous was in force before the promotion and is kept until it is dead.
	Previous   *credentials `json:"previous,omitempty"`
	PromotedAt time.Time    `json:"promoted_at,omitzero"`
	// Compromised is set when Previous may be in the wrong hands: it is not used
	// any more, whatever happens.
	Compromised bool             `json:"compromised,omitempty"`
	History     []rotationRecord `json:"history,omitempty"`
}

// rotationRecord is one step that was taken.
type rotationRecord struct {
	Step     string    `json:"step"`
	At       time.Time `json:"at"`
	ClientID string    `json:"client_id"`
	Detail   string    `json:"detail,omitempty"`
}

func (r *rotation) state() string {
	switch {
	case r.Previous != nil:
		return statePromoted
	case r.Staged != nil:
		return stateStaged
	}
	return stateIdle
}

// note appends to the history. It never shares the array of the entry it came from.
func (r *rotation) note(record rotationRecord) {
	history := append([]rotationRecord{}, r.History...)
	history = append(history, record)
	r.History = history[max(0, len(history)-maxHistory):]
}

// history is the records as users read them.
func (r *rotation) history() []string {
	lines := make([]string, 0, len(r.History))
	for _, h := range r.History {
		line := fmt.Sprintf("%s %s %s", h.At.UTC().Format(time.RFC3339), h.Step, h.ClientID)
		if h.Detail != "" {
			line += " (" + h.Detail + ")"
		}
		lines = append(lines, line)
	}
	return lines
}

// fallback returns the credentials to try when those in force are rejected.
func (r *rotation) fallback() *credentials {
	if r.Compromised {
		return nil
	}
	return r.Previous
}

// transition is the outcome of a change: what must be true before it, and the
// configuration after it.
type transition struct {
	next storedConfig
	// step is the step of the rotation, empty for a write of the config.
	step string
	// mustWork must get an access token, which is served if the change left none.
	mustWork *credentials
	// mustBeDead must be rejected.
	mustBeDead *credentials
	// unchanged is set when there is nothing to save.
	unchanged bool
	// renewed is set when the credentials in force, or their endpoint, are others.
	renewed  bool
	warnings []string
}

// step is a pure function from a configuration to the step of the rotation that leads
// on from it, or to a userError that says why there is none and what to do instead.
type step func(c storedConfig, now time.Time) (transition, error)

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
				return tryAgain(c, r.Staged, "these credentials were staged before; they were only tried again"), nil
			}
			return transition{}, userError(fmt.Sprintf("client %s is staged: promote it with rotate-root/promote, or discard it by deleting rotate-root, and stage then", r.Staged.ClientID))
		}
		r.stagePair(pair, now)
		return transition{step: "stage", next: c, mustWork: &pair}, nil
	}
}

// emergency returns the step that puts new credentials in force and gives up the old
// ones, which are compromised. It is possible in each state.
func emergency(pair credentials) step {
	return func(c storedConfig, now time.Time) (transition, error) {
		r, state := &c.Rotation, c.Rotation.state()
		switch {
		case pair.same(&c.Current) && state == statePromoted && !r.Compromised:
			r.Compromised = true
			r.note(rotationRecord{Step: "staged", At: now, ClientID: c.Current.ClientID, Detail: "the old credentials are compromised"})
			return transition{step: "stage", next: c, mustWork: &c.Current}, nil
		case pair.same(&c.Current):
			return stageCurrent(c)
		case state == statePromoted && pair.same(r.Previous):
			return transition{}, finishFirst(c)
		case state == statePromoted:
			return stageOverPromoted(c, pair, now), nil
		}
		var warnings []string
		if state == stateStaged && !pair.same(r.Staged) {
			warnings = []string{fmt.Sprintf("client %s was staged before and is discarded", r.Staged.ClientID)}
		}
		r.stagePair(pair, now)
		t := promoteCompromised(c, now)
		t.warnings = warnings
		return t, nil
	}
}

// stageCurrent is a stage of the credentials in force. It makes sense only as a
// repetition.
func stageCurrent(c storedConfig) (transition, error) {
	if c.Rotation.state() != statePromoted {
		return transition{}, userError("these credentials are in force already: create new ones in the Fuuffy dashboard first")
	}
	return tryAgain(c, &c.Current, "these credentials were promoted before; they were only tried again"), nil
}

// tryAgain is a step that was taken before.
func tryAgain(c storedConfig, pair *credentials, warning string) transition {
	return transition{step: "stage", next: c, mustWork: pair, unchanged: true, warnings: []string{warning}}
}

func finishFirst(c storedConfig) error {
	return userError(fmt.Sprintf("client %s was promoted and client %s is not known to be dead yet: "+
		"finish that rotation with rotate-root/complete, or end it with rotate-root/rollback, and stage then", c.Current.ClientID, c.Rotation.Previous.ClientID))
}

// stagePair keeps a pair for the promotion.
func (r *rotation) stagePair(pair credentials, now time.Time) {
	r.Staged, r.StagedAt = &pair, now
	r.note(rotationRecord{Step: "staged", At: now, ClientID: pair.ClientID})
}

// stageOverPromoted is the way out when the credentials that were promoted are
// compromised or dead too. The ones before them must be dead: nobody would ask any
// more whether they are.
func stageOverPromoted(c storedConfig, pair credentials, now time.Time) transition {
	forgotten := c.Rotation.Previous
	c.Rotation.end()
	c.Rotation.note(rotationRecord{Step: "completed", At: now, ClientID: c.Current.ClientID, Detail: "revoked: " + forgotten.ClientID})
	c.Rotation.stagePair(pair, now)
	t := promoteCompromised(c, now)
	t.mustBeDead = forgotten
	return t
}

// promote is the step that puts the staged credentials in force.
func promote(c storedConfig, now time.Time) (transition, error) {
	switch c.Rotation.state() {
	case stateIdle:
		return transition{}, userError("nothing is staged: write the new client_id and client_secret to rotate-root first")
	case statePromoted:
		return transition{step: "promote", next: c, unchanged: true, warnings: []string{"the credentials were promoted before; nothing was changed"}}, nil
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

// promoteCompromised promotes what is staged, and gives up the old credentials.
func promoteCompromised(c storedConfig, now time.Time) transition {
	t := promoteStaged(c, now)
	t.next.Rotation.Compromised = true
	t.next.Rotation.lastRecord().Detail = "the old credentials are compromised"
	return t
}

// complete returns the step that forgets the old credentials. With force it is not
// proved that they are dead.
func complete(force bool) step {
	return func(c storedConfig, now time.Time) (transition, error) {
		r := &c.Rotation
		switch r.state() {
		case stateIdle:
			return transition{}, userError("no rotation is under way: there is nothing to complete")
		case stateStaged:
			return transition{}, userError(fmt.Sprintf("client %s is only staged: promote it with rotate-root/promote first", r.Staged.ClientID))
		}
		t := transition{step: "complete", mustWork: &c.Current, mustBeDead: r.Previous}
		record := rotationRecord{Step: "completed", At: now, ClientID: c.Current.ClientID, Detail: "revoked: " + r.Previous.ClientID}
		if force {
			t.mustBeDead = nil
			t.warnings = []string{fmt.Sprintf("client %s was not proved to be dead (force=true): if it is not revoked in the Fuuffy dashboard, its secret goes on working", r.Previous.ClientID)}
			record.Detail = "forced; not proved to be revoked: " + r.Previous.ClientID
		}
		r.end()
		r.note(record)
		t.next = c
		return t, nil
	}
}

// rollback is the step that puts the old credentials back in force.
func rollback(c storedConfig, now time.Time) (transition, error) {
	r := &c.Rotation
	switch r.state() {
	case stateIdle:
		return transition{}, userError("no rotation is under way: there is nothing to roll back")
	case stateStaged:
		return transition{}, userError(fmt.Sprintf("client %s is only staged, and not in force: discard it by deleting rotate-root", r.Staged.ClientID))
	}
	if r.Compromised {
		return transition{}, userError(fmt.Sprintf("client %s is compromised and is not put back: if the new credentials fail, create others in the Fuuffy dashboard, "+
			"revoke client %s there, and stage the others with compromised=true", r.Previous.ClientID, r.Previous.ClientID))
	}
	abandoned := c.Current.ClientID
	c.Current = *r.Previous
	r.end()
	r.note(rotationRecord{Step: "rolled back", At: now, ClientID: c.Current.ClientID, Detail: "in place of " + abandoned})
	return transition{step: "rollback", next: c, mustWork: &c.Current}, nil
}

// discard is the step that drops what is staged.
func discard(c storedConfig, now time.Time) (transition, error) {
	r := &c.Rotation
	switch r.state() {
	case stateIdle:
		return transition{step: "discard", next: c, unchanged: true}, nil
	case statePromoted:
		return transition{}, userError(fmt.Sprintf("client %s is in force already: end the rotation with rotate-root/complete or rotate-root/rollback", c.Current.ClientID))
	}
	r.note(rotationRecord{Step: "discarded", At: now, ClientID: r.Staged.ClientID})
	r.end()
	return transition{step: "discard", next: c}, nil
}

// toRevoke names what an operator revokes in the dashboard. A client may have got
// just a new secret.
func toRevoke(old, current *credentials) string {
	if old.ClientID == current.ClientID {
		return "the old secret of client " + old.ClientID
	}
	return "client " + old.ClientID
}

// end forgets everything but the history.
func (r *rotation) end() { *r = rotation{History: r.History} }

func (r *rotation) lastRecord() *rotationRecord { return &r.History[len(r.History)-1] }
