// SPDX-License-Identifier: MPL-2.0

package advice

import (
	"fmt"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// freshSuccess is how old the success of the pair that stays may be before advice that can't be
// taken back: revoke, complete.
const freshSuccess = time.Hour

// works tells whether it is certain enough for such advice that the current pair works. Before
// the previous pair is revoked in a routine rotation, the success must be later than
// RevokeOldAfter.
func (m *Mount) works() bool {
	since := m.Now.Add(-freshSuccess)
	if after := m.RevokeOldAfter(); !m.Rotation.Compromised && !m.revoked(m.Rotation.Previous) && after.After(since) {
		since = after
	}
	return m.standing(&m.Current).Works(since)
}

// NextStep says what to do now, with commands that work in this state. Status, rotation steps,
// and errors all take their advice from here.
func (m *Mount) NextStep() Text {
	step := m.leakStep().And(m.stateStep())
	if step == nil {
		return Say(fmt.Sprintf("No action needed until %s.", m.remindAt().UTC().Format(time.DateOnly)))
	}
	return step
}

// Unconfigured says what to do while nothing is configured. leaks is what outlived the last
// configuration.
func Unconfigured(leaks *rotation.State) (step Text) {
	for _, leak := range leaks.Unrevoked {
		step = step.Then(fmt.Sprintf("Now: revoke client %s in the Fuuffy dashboard, because it is compromised. Then:", leak.ClientID), Mark(leak.ClientID))
	}
	return step.Then("Write the credentials:", Configure)
}

// leakStep comes first after a leak, whatever else fails. It is nil if there is no leak.
func (m *Mount) leakStep() (step Text) {
	for _, leak := range m.leaks() {
		revoke := fmt.Sprintf("Now: revoke %s in the Fuuffy dashboard, because it is compromised.", m.nameListed(leak))
		switch {
		case !m.held(leak):
			step = step.Then(revoke+" Then:", Mark(leak.ClientID))
		case m.Failure != nil || m.rejected(&m.Current):
			step = step.And(Say(revoke))
		case !m.works():
			step = step.Then(revoke+" Then:", Check)
		default:
			step = step.Then(revoke+" Then:", Complete).And(m.orForce())
		}
	}
	if m.leakOpen() {
		step = step.And(Say("Also " + restartAgents + "."))
	}
	return step
}

// stateStep is what to do about everything but a leak. It is nil if no action is needed.
func (m *Mount) stateStep() Text {
	switch {
	case m.Failure != nil && !m.Failure.RejectsCredentials():
		return m.reachFuuffy()
	case m.Rotation.Name() == rotation.Promoted:
		return m.promotedStep()
	case m.Rotation.Name() == rotation.Staged:
		return m.stagedStep()
	case m.rejected(&m.Current):
		return m.rejectedStep()
	case m.Failure == nil && !m.Tested:
		return Do("Test the credentials:", Check)
	}
	return m.idleStep()
}

// idleStep is what to do while Fuuffy accepts the current pair and no rotation is in progress.
func (m *Mount) idleStep() Text {
	for _, u := range m.Rotation.Unrevoked {
		switch {
		case m.revokedListed(u):
			return Do(fmt.Sprintf("Fuuffy no longer accepts %s. Mark it as revoked:", m.nameListed(u)), Mark(u.ClientID))
		case u.Why == rotation.WhyCompromised:
		case !m.works():
			return Do(fmt.Sprintf("Check that client %s still works:", m.Current.ClientID), Check)
		default:
			return Do(fmt.Sprintf("Revoke %s in the Fuuffy dashboard, then:", m.nameListed(u)), Mark(u.ClientID))
		}
	}
	switch {
	case m.dueSoon():
		return Do("Rotate now: create new credentials in the Fuuffy dashboard, then:", Stage)
	case m.Token != nil && m.Token.Unsaved:
		return Say("Find out in Vault's log why the engine can't save the token. If the storage is read-only, restart the plugin on this node.")
	}
	return nil
}

// rejectedStep is what to do if Fuuffy rejects the only pair.
func (m *Mount) rejectedStep() Text {
	advice := fmt.Sprintf("Fuuffy rejects client %s. In the Fuuffy dashboard, find out whether it is revoked, lacks permission, or belongs to the other environment.", m.Current.ClientID)
	if !m.revoked(&m.Current) {
		return Do(advice+" A proxy or firewall may have responded instead. When you have fixed it:", Check).
			Then("Or write working credentials (for test credentials, add environment=testing):", Configure)
	}
	return Do(advice+" Then write working credentials (for test credentials, add environment=testing):", Configure)
}

func (m *Mount) stagedStep() Text {
	staged := m.Rotation.Staged
	current, name := "client "+m.Current.ClientID, "client "+staged.ClientID
	if staged.ClientID == m.Current.ClientID {
		current, name = "the current secret of "+current, beside(staged, &m.Current)
	}
	switch currentRejected, stagedRejected := m.rejected(&m.Current), m.rejected(staged); {
	case currentRejected && stagedRejected && !(m.revoked(&m.Current) || m.revoked(staged)):
		return Do(fmt.Sprintf("Fuuffy rejects both %s and %s, but that doesn't prove that they are revoked. A proxy or firewall may have responded. When you have fixed it:", current, name), Check).
			Then("Or discard what is staged:", Discard)
	case currentRejected && stagedRejected:
		return Do(fmt.Sprintf("Fuuffy rejects both %s and %s. Discard what is staged:", current, name), Discard).
			Then("Then write working credentials:", Configure)
	case stagedRejected:
		return Do(fmt.Sprintf("Fuuffy rejects %s, which is staged. Discard it:", name), Discard)
	case currentRejected:
		return Do(fmt.Sprintf("Fuuffy rejects %s. Promote %s, which is staged:", current, name), Promote)
	}
	return Do(fmt.Sprintf("Promote %s:", name), Promote).Then("Or discard it:", Discard)
}

func (m *Mount) promotedStep() Text {
	r := &m.Rotation
	current, previous := beside(&m.Current, r.Previous), m.previous()
	switch after := m.RevokeOldAfter(); {
	case m.rejected(&m.Current):
		return m.promotedRejectedStep(current, previous)
	case m.leakOpen():
		return nil // The first step says it all.
	case !m.works() && (m.revoked(r.Previous) || r.Compromised):
		return Do(fmt.Sprintf("Check that %s still works:", current), Check)
	case m.revoked(r.Previous):
		return Do(fmt.Sprintf("Fuuffy no longer accepts %s, so finish:", previous), Complete)
	case r.Compromised && m.acceptedSinceMark():
		return Do(fmt.Sprintf("Now: revoke %s in the Fuuffy dashboard, because Fuuffy still accepts it. Then:", previous), Complete)
	case r.Compromised:
		return Do(fmt.Sprintf("You marked %s as revoked, so finish:", previous), Complete).And(m.orForce())
	case m.Now.Before(after):
		return Say(fmt.Sprintf("Wait until %s, because apps may hold tokens of %s. Don't revoke it before.", stamp(after), previous)).And(m.orRollback())
	case !m.works():
		return Do(fmt.Sprintf("Check that %s still works:", current), Check).And(m.orRollback())
	}
	return Do(fmt.Sprintf("Now: revoke %s in the Fuuffy dashboard. Then:", previous), Complete).And(m.orForce()).And(m.orRollback())
}

// acceptedSinceMark tells whether Fuuffy accepted the previous pair after an operator marked its
// client as revoked.
func (m *Mount) acceptedSinceMark() bool {
	standing := m.standing(m.Rotation.Previous)
	marked := m.Rotation.MarkedAt(m.Rotation.Previous.ClientID)
	return !standing.Rejected && standing.Succeeded.After(marked)
}

// orForce is the way out if Fuuffy rejects the previous pair in a way that is no proof.
func (m *Mount) orForce() Text {
	if previous := m.Rotation.Previous; !m.rejected(previous) || m.revoked(previous) {
		return nil
	}
	return Do("Only if you revoked it, and the engine still can't verify that:", Force)
}

// promotedRejectedStep is what to do if Fuuffy rejects the pair that was promoted.
func (m *Mount) promotedRejectedStep(current, previous string) Text {
	r := &m.Rotation
	advice := fmt.Sprintf("Fuuffy rejects %s", current)
	fresh := "create new credentials in the Fuuffy dashboard, then:"
	switch {
	case m.revoked(r.Previous) && m.revoked(&m.Current):
		return Do(fmt.Sprintf("%s, and no longer accepts %s: %s", advice, previous, fresh), Stage)
	case r.Compromised && m.rejected(r.Previous) && !m.revoked(r.Previous):
		// Fuuffy's answer proves nothing, so only an emergency can go on without proof.
		return Do(advice+". In the Fuuffy dashboard, find out why. When you have fixed it:", Check).
			Then(fmt.Sprintf("There is no way back to %s. If you can't fix it, %s", previous, fresh), Emergency)
	case m.revoked(r.Previous), r.Compromised:
		return Do(advice+". In the Fuuffy dashboard, find out why. When you have fixed it:", Check).
			Then(fmt.Sprintf("There is no way back to %s. If you can't fix it, %s", previous, fresh), Stage)
	case m.rejected(r.Previous) && m.revoked(&m.Current):
		return Do(fmt.Sprintf("Fuuffy no longer accepts %s, and rejects %s without proof that it is revoked. A proxy or firewall may have responded. When you have fixed it:", current, previous), Check)
	case m.rejected(r.Previous):
		return Do(fmt.Sprintf("%s and %s, but that doesn't prove that they are revoked. A proxy or firewall may have responded. When you have fixed it:", advice, previous), Check)
	}
	return Do(fmt.Sprintf("%s. Don't revoke %s. Roll back, then find out in the Fuuffy dashboard why the new credentials fail:", advice, previous), Rollback)
}

// orRollback is the way back for as long as Fuuffy accepts the previous pair.
func (m *Mount) orRollback() Text {
	if m.rejected(m.Rotation.Previous) {
		return nil
	}
	return Do("If apps have trouble with the new credentials:", Rollback)
}

// reachFuuffy is the next step while Fuuffy issues no tokens for a reason other than the
// credentials. No step that needs a token would succeed now.
func (m *Mount) reachFuuffy() Text {
	retries := fmt.Sprintf("The engine retries after %s.", stamp(m.RetryAt))
	endpoint := EndpointAdvice(m.Failure, m.ChangeEndpoint)
	var step Text
	switch {
	case m.Failure.Failure == upstream.RateLimited:
		step = Say("Wait. " + retries + " Meanwhile, find out what uses up the limit: every request of the Fuuffy account counts.")
	case endpoint != nil:
		step = endpoint.Then(retries+" To retry now:", Check)
	case m.Failure.Failure == upstream.Unavailable && m.Failure.Status != 0:
		step = Do("Wait. "+retries+" To retry now:", Check)
	case m.Failure.Failure == upstream.Rejected || m.Failure.Failure == upstream.Malformed:
		step = Do("Send the error to Fuuffy's support, because it isn't about the credentials. "+retries+" To retry now:", Check)
	default:
		step = Do("Check the network between Vault and Fuuffy: firewalls, proxies, gateways. "+retries+" To retry now:", Check)
	}
	return step.And(m.OfferStale())
}

// OfferStale tells how apps can use a token until it expires, if that would help.
func (m *Mount) OfferStale() Text {
	t := m.Token
	if m.Failure == nil || m.Failure.Failure == upstream.Rejected || m.StaleIfError || t == nil || !m.Now.Before(t.ExpiresAt) || !t.ServedUntil.Before(t.ExpiresAt) {
		return nil
	}
	served := "serves it until"
	if !m.Now.Before(t.ServedUntil) {
		served = "stopped serving it at"
	}
	return Do(fmt.Sprintf("The cached token expires at %s. The engine %s %s. To serve it until it expires:", stamp(t.ExpiresAt), served, stamp(t.ServedUntil)),
		Write("config").With("stale_if_error", "true"))
}

// ChangeEndpoint tells how to change a setting that decides where the engine sends the secret. A
// rotation locks these settings, because its proofs count only for the endpoint that they came
// from.
func (m *Mount) ChangeEndpoint(setting Setting) Text {
	change := setting.on(Write("config")).WithSecret("client_secret")
	switch m.Rotation.Name() {
	case rotation.Staged:
		return Do("A rotation locks the endpoint, so discard what is staged:", Discard).Then("Then correct it:", change)
	case rotation.Promoted:
		return Do("A rotation locks the endpoint. If you can't wait for its end, configure the mount again:", Delete("config").With("force", "true")).
			Then("Then:", setting.on(Configure))
	}
	return Do("Correct it:", change)
}
