// SPDX-License-Identifier: MPL-2.0

package advice

import (
	"fmt"
	"strings"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// Explain says why a step of the rotation is impossible, and what to do instead. m is the
// mount, nil if its state can't be read.
func Explain(r *rotation.Refusal, m *Mount) Text {
	text, inState := reason(r)
	if m == nil || !inState {
		return text
	}
	if r.Reason == rotation.InProgress && (m.Failure == nil || m.Failure.RejectsCredentials()) {
		text = text.Then(fmt.Sprintf("If %s leaked, make the next credentials current immediately:", beside(r.Pair, r.Other)), Emergency)
	}
	return text.And(m.NextStep())
}

// reason says why a step is impossible. If inState is set, the next step says what to do instead.
func reason(r *rotation.Refusal) (text Text, inState bool) {
	switch r.Reason {
	case rotation.AlreadyCurrent:
		return Say("These credentials are already the current ones. Create new ones in the Fuuffy dashboard first."), false
	case rotation.AlreadyStaged:
		return Say(fmt.Sprintf("Nothing was changed, because %s is already staged.", beside(r.Pair, r.Other))), true
	case rotation.InProgress:
		return Say(fmt.Sprintf("A rotation is in progress: %s replaced %s, and %s isn't proved to be revoked. Nothing was changed.",
			beside(r.Pair, r.Other), beside(r.Other, r.Pair), beside(r.Other, r.Pair))), true
	case rotation.IsCompromised:
		return Say(fmt.Sprintf("Nothing was changed, because %s is compromised. The engine doesn't use it again.", beside(r.Pair, r.Other))).
			Then("If it isn't, or once you have revoked it in the Fuuffy dashboard, mark it as revoked (each run marks one secret of the client, a compromised one first):", Mark(r.Pair.ClientID)), false
	case rotation.NoWayBack:
		return Say(fmt.Sprintf("You can't roll back to %s, because it is compromised. Nothing was changed.", beside(r.Pair, r.Other))), true
	case rotation.NothingToPromote:
		return Say("Nothing is staged, so there is nothing to promote. Nothing was changed."), true
	case rotation.NothingToComplete:
		return Say("No rotation is in progress, so there is nothing to complete."), false
	case rotation.NothingToRollBack:
		return Say("No rotation is in progress, so there is nothing to roll back."), false
	case rotation.NotPromoted:
		return Say(fmt.Sprintf("Nothing was changed, because %s is staged but not promoted.", beside(r.Pair, r.Other))), true
	case rotation.NotStaged:
		return Say(fmt.Sprintf("You can't discard %s, because it is already current. Nothing was changed.", beside(r.Pair, r.Other))), true
	case rotation.RotationInProgress:
		return Say(fmt.Sprintf("A rotation is in progress (%s), so client_id, client_secret, environment, base_url, and ca_cert can't change. Nothing was saved.", r.State)), true
	}
	old := beside(r.Pair, r.Other)
	revoke := "Revoke it in the Fuuffy dashboard, then:"
	if !r.Until.IsZero() {
		revoke = fmt.Sprintf("Apps may hold tokens of it until %s. After that, revoke it in the Fuuffy dashboard, then:", stamp(r.Until))
	}
	return Do(fmt.Sprintf("Not completed: Fuuffy still accepts %s. %s", old, revoke), Complete).
		And(Say(fmt.Sprintf("Or forget it without proof. This is dangerous, because %s works until you revoke it.", old))).
		Then("Only if you can't revoke it now:", Force), false
}

// Name names a pair: by its secret, if the mount holds another one of the same client.
func Name(pair *rotation.Pair, held []*rotation.Pair) string {
	for _, other := range held {
		if other.ClientID == pair.ClientID && !other.Same(pair) {
			return beside(pair, other)
		}
	}
	return "client " + pair.ClientID
}

// beside names a pair beside another one: by its secret, if both belong to one client.
func beside(pair, other *rotation.Pair) string {
	return secret(pair.ClientID, pair.Serial, other)
}

// secret names a pair of which only the client and the serial are known.
func secret(clientID string, serial int, other *rotation.Pair) string {
	switch {
	case clientID != other.ClientID:
		return "client " + clientID
	case serial == 0 || other.Serial == 0:
		return "another secret of client " + clientID
	case serial > other.Serial:
		return "the new secret of client " + clientID
	}
	return "the old secret of client " + clientID
}

// Tell is what a step that was taken tells the operator. current is the pair after the step.
func Tell(n rotation.Note, current *rotation.Pair) Text {
	switch n.Notice {
	case rotation.TestedAgain:
		return Say("These credentials are already staged or promoted. The engine only tested them again.")
	case rotation.AlreadyDone:
		return Say("This step was already taken. Nothing was changed.")
	case rotation.NothingStaged:
		return Say("Nothing was staged. Nothing was changed.")
	case rotation.NotListed:
		return Say("No client of this ID is on the list of those that may still work. Nothing was changed.")
	case rotation.GivenUp:
		return Say(fmt.Sprintf("The engine no longer keeps %s. Unless it is revoked, it may still work: see unrevoked.", beside(n.Pair, current)))
	case rotation.Completed:
		return Say(fmt.Sprintf("Fuuffy no longer accepts %s, so the engine completed its rotation first.", beside(n.Pair, current)))
	case rotation.Forced:
		return Say(fmt.Sprintf("The engine forgot %s without proof that it is revoked. Its secret may work until you revoke it in the Fuuffy dashboard.", beside(n.Pair, current)))
	case rotation.TokensStillHeld:
		they := "Once it is revoked, they"
		if n.Revoked {
			they = "It is revoked, so they"
		}
		return Say(fmt.Sprintf("Apps may hold tokens of %s until %s. %s get a 401 until they read a new token.", beside(n.Pair, current), stamp(n.Until), they))
	}
	return Say(strings.ToUpper(restartAgents[:1]) + restartAgents[1:] + ".")
}
