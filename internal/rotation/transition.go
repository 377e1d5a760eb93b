// SPDX-License-Identifier: MPL-2.0

package rotation

import (
	"fmt"
	"time"
)

// Transition is the outcome of a step: what must be true before it, and the pairs after it.
type Transition struct {
	// Step names the step: stage, promote, complete, rollback, discard, or revoked.
	Step string
	Next Pairs
	// MustWork must get an access token first, nil for nothing to prove.
	MustWork *Pair
	// MustBeRevoked must be proved to be revoked first. IfAccepted is the refusal if Fuuffy
	// still accepts it.
	MustBeRevoked *Pair
	IfAccepted    *Refusal
	// Unchanged is set if there is nothing to save.
	Unchanged bool
	// Leaked is set if the tokens that apps hold may be in the wrong hands.
	Leaked bool
	Notes  []Note
	// Dropped are the pairs that fell off the list of those that may still work.
	Dropped []Unrevoked
}

// Reason is why a step is impossible.
type Reason int

const (
	// AlreadyCurrent: the pair to stage is the current one.
	AlreadyCurrent Reason = iota + 1
	// AlreadyStaged: another pair, Pair, is staged.
	AlreadyStaged
	// InProgress: Pair replaced Other, which isn't proved to be revoked.
	InProgress
	// IsCompromised: an operator said that Pair is compromised.
	IsCompromised
	// NoWayBack: Pair, which Other replaced, is compromised.
	NoWayBack
	// NothingToPromote, NothingToComplete, and NothingToRollBack: the step has no object.
	NothingToPromote
	NothingToComplete
	NothingToRollBack
	// NotPromoted: Pair is only staged.
	NotPromoted
	// NotStaged: Pair can't be discarded because it is current.
	NotStaged
	// RotationInProgress: the configuration of credentials and endpoint is locked.
	RotationInProgress
	// StillAccepted: Fuuffy still accepts Pair, so a rotation can't be completed.
	StillAccepted
)

// Refusal says why a step is impossible in this state. Package advice has the words.
type Refusal struct {
	Reason Reason
	// Pair is whom it is about, if anyone. Other is the pair beside it, which may be another secret
	// of the same client.
	Pair, Other *Pair
	// State is the name of the state.
	State string
	// Until is when apps stop using tokens of Pair, zero if they may be rejected now.
	Until time.Time
}

func (r *Refusal) Error() string { return fmt.Sprintf("step refused (reason %d)", r.Reason) }

// Notice is what a step that was taken tells the operator.
type Notice int

const (
	// TestedAgain: Pair was already staged or promoted, so the step only tested it.
	TestedAgain Notice = iota + 1
	// AlreadyDone: the step was taken before.
	AlreadyDone
	// NothingStaged: there was nothing to discard.
	NothingStaged
	// NotListed: no pair of the client is on the list.
	NotListed
	// GivenUp: the step discarded or forgot Pair too.
	GivenUp
	// Completed: Fuuffy no longer accepts Pair, so the step completed its rotation first.
	Completed
	// Forced: Pair is forgotten without proof.
	Forced
	// TokensStillHeld: apps may use tokens of Pair until Until.
	TokensStillHeld
	// LeakedTokens: apps that don't report a 401 may hold a token of a compromised pair.
	LeakedTokens
)

// Note is one notice.
type Note struct {
	Notice Notice
	Pair   *Pair
	Until  time.Time
	// Revoked is set if Pair is proved to be revoked.
	Revoked bool
}

// freshProof is how old a proof may be that spares a pair the list. Someone may accept the
// client again in the dashboard.
const freshProof = time.Hour

// revoked tells whether it was proved recently that Fuuffy no longer accepts a pair.
func (f Facts) revoked(pair *Pair) bool {
	if f.Standing == nil {
		return false
	}
	standing := f.Standing(pair.ID)
	return standing.Revoked && !standing.Failed.Before(f.Now.Add(-freshProof))
}

// addUnrevoked stops using a pair, and lists it unless it is proved to be revoked. A compromised pair
// is always listed: the list keeps it from coming back.
func (t *Transition) addUnrevoked(pair *Pair, why string, f Facts) {
	if why != WhyCompromised && f.revoked(pair) {
		t.Next.Rotation.removeUnrevoked(pair)
		return
	}
	t.Dropped = append(t.Dropped, t.Next.Rotation.addUnrevoked(pair, why, f.Now)...)
}

func (t *Transition) note(step string, f Facts, clientID, detail string) {
	t.Next.Rotation.note(Record{Step: step, At: f.Now, ClientID: clientID, Detail: detail})
}
