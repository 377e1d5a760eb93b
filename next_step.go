// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// nextStep says what to do now, with commands that work in this state. Status, rotation steps,
// and errors all take their advice from here.
func (s *snapshot) nextStep() string {
	r, failure := &s.Rotation, s.cached.Failure
	create := "create new credentials in the Fuuffy dashboard, then: " + commandStage
	switch {
	case failure != nil && !failure.RejectsCredentials():
		return s.revokeNow() + s.reachFuuffy(failure)
	case r.state() == statePromoted:
		return s.nextStepPromoted()
	case r.state() == stateStaged:
		return s.nextStepStaged()
	case s.currentRefused():
		return fmt.Sprintf("Fuuffy rejects client %s. Check in the Fuuffy dashboard whether it is revoked, lacks permission, or belongs to the other environment. "+
			"Then write working credentials: %s (add environment=testing for test credentials)", s.Current.ClientID, commandConfig)
	case len(r.Unrevoked) > 0:
		u := r.Unrevoked[0]
		return fmt.Sprintf("Revoke %s in the Fuuffy dashboard, then: vault write <mount>rotate-root/revoked client_id=%s. To rotate: %s", s.givenUp(u), u.ClientID, create)
	case s.dueSoon(s.now):
		return "Rotate now: " + create
	}
	return fmt.Sprintf("Nothing until %s. To rotate earlier: %s. If the secret leaked, add compromised=true", s.dueAt().Add(-s.RotationReminder).UTC().Format(time.RFC3339), create)
}

func (s *snapshot) nextStepStaged() string {
	staged, current := s.Rotation.Staged.ClientID, s.Current.ClientID
	switch currentDead, stagedDead := s.currentRefused(), s.refused(s.Rotation.Staged); {
	case currentDead && stagedDead:
		return fmt.Sprintf("Fuuffy rejects both clients, %s and %s. Discard the staged one: %s. Then write working credentials: %s", current, staged, commandDiscard, commandConfig)
	case stagedDead:
		return fmt.Sprintf("Fuuffy rejects the staged client %s. Discard it: %s", staged, commandDiscard)
	case currentDead:
		return fmt.Sprintf("Fuuffy rejects client %s. Promote the staged client %s: %s", current, staged, commandPromote)
	}
	return fmt.Sprintf("Promote client %s: %s (or discard it: %s)", staged, commandPromote, commandDiscard)
}

func (s *snapshot) nextStepPromoted() string {
	r := &s.Rotation
	previous, previousDead := toRevoke(r.Previous, &s.Current), s.refused(r.Previous)
	revoke, finish := "revoke "+previous+" there, ", fmt.Sprintf("revoke %s in the Fuuffy dashboard, then: %s", previous, commandComplete)
	if previousDead {
		revoke, finish = "", fmt.Sprintf("Fuuffy rejects %s, so finish: %s", previous, commandComplete)
	}
	switch after := s.revokeOldAfter(); {
	case s.currentRefused() && (r.Compromised || previousDead):
		return fmt.Sprintf("Fuuffy rejects the new credentials of client %s, and there are no others to fall back to. Create new ones in the Fuuffy dashboard, %sthen: %s compromised=true",
			s.Current.ClientID, revoke, commandStage)
	case s.currentRefused():
		return fmt.Sprintf("Fuuffy rejects the new credentials of client %s. Don't revoke %s. Roll back: %s. Then find out in the Fuuffy dashboard why the new credentials fail",
			s.Current.ClientID, previous, commandRollback)
	case r.Compromised:
		return "Now: " + finish + ". Also " + restartAgents
	case previousDead:
		return finish
	case s.now.Before(after):
		return fmt.Sprintf("Wait until %s: apps may hold tokens of client %s. After that, %s%s", after.UTC().Format(time.RFC3339), r.Previous.ClientID, finish, orRollback)
	}
	return "Now: " + finish + orRollback
}

// orRollback is the way back for as long as the previous client works.
const orRollback = ". If apps have trouble with the new credentials: " + commandRollback

// revokeNow comes first after a leak, even while Fuuffy grants no tokens.
func (s *snapshot) revokeNow() string {
	r := &s.Rotation
	if !r.Compromised || s.refused(r.Previous) {
		return ""
	}
	return fmt.Sprintf("Revoke %s in the Fuuffy dashboard now. ", toRevoke(r.Previous, &s.Current))
}

// reachFuuffy is the next step while Fuuffy grants no tokens for a reason other than the
// credentials. No step that needs a token would succeed now.
func (s *snapshot) reachFuuffy(failure *upstream.Error) string {
	wait := fmt.Sprintf("the engine retries after %s", s.now.Add(s.cached.HeldOffFor).UTC().Format(time.RFC3339))
	retry := ". Meanwhile, " + wait + ". To retry now: " + commandCheck
	advice := endpointAdvice(failure, s.changeEndpoint)
	switch {
	case failure.Failure == upstream.RateLimited:
		return "Wait: " + wait + ". Meanwhile, find out what uses up the limit: every request of the Fuuffy account counts"
	case advice != "":
		return advice + retry
	case failure.Failure == upstream.Unavailable && failure.Status != 0:
		return "Wait: " + wait + ". To retry now: " + commandCheck
	case failure.Failure == upstream.Rejected:
		return "Send the error to Fuuffy's support: it isn't about the credentials" + retry
	}
	return "Check the network between Vault and Fuuffy: firewalls, proxies, gateways" + retry
}

// changeEndpoint tells how to change a setting that decides where the engine sends the secret.
// A rotation locks these settings, because its proofs count only for the endpoint that they
// came from.
func (s *snapshot) changeEndpoint(setting string) string {
	switch s.Rotation.state() {
	case stateStaged:
		return fmt.Sprintf("%s (the endpoint can't change during a rotation), then: vault write <mount>config %s client_secret=-", commandDiscard, setting)
	case statePromoted:
		return fmt.Sprintf("the endpoint can't change during a rotation. If you can't wait for its end, configure the mount again: vault delete <mount>config force=true, then: %s %s", commandConfig, setting)
	}
	return fmt.Sprintf("vault write <mount>config %s client_secret=-", setting)
}

// endpointAdvice explains the failures that last until somebody changes the endpoint or fixes
// the network. change tells how to change a setting. The advice is empty for other failures.
func endpointAdvice(failure *upstream.Error, change func(setting string) string) string {
	if failure.LeadsElsewhere() {
		return "base_url doesn't lead to Fuuffy's API. It must end before /auth/token, as in https://gateway.example.com/v1. " +
			"Correct it: " + change("base_url=https://…") + " (an empty base_url= means Fuuffy's own address)"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](failure); ok {
		return "The Vault server doesn't trust the authority that signed this certificate. If it should, add the authority: " + change("ca_cert=@ca.pem")
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](failure); ok && invalid.Reason == x509.Expired {
		return "The certificate has expired or is not valid yet: check the Vault server's clock, then tell whoever runs the gateway, or Fuuffy's support"
	}
	if _, ok := errors.AsType[x509.HostnameError](failure); ok {
		return "The certificate is for another host: check base_url and proxies"
	}
	if _, ok := errors.AsType[*net.DNSError](failure); ok {
		return "The Vault server can't resolve the host name: check base_url and the server's DNS"
	}
	if _, ok := errors.AsType[*net.OpError](failure); ok {
		return "The Vault server can't connect: check base_url, firewalls, and proxies"
	}
	return ""
}

// workflow is the rotation's routine, for path-help and for writes without credentials.
const workflow = `
 1. Create new credentials in the Fuuffy dashboard. Keep the old ones for now.
 2. vault write <mount>rotate-root client_id=… client_secret=-
    tests and stages them. To discard them: vault delete <mount>rotate-root
 3. vault write -f <mount>rotate-root/promote
    puts them in force. If Fuuffy rejects them later, the engine falls back to the old ones.
 4. Trouble? vault write -f <mount>rotate-root/rollback puts the old ones back.
 5. Wait until revoke_old_after. Until then, apps may hold tokens of the old ones.
    Revoke the old ones in the Fuuffy dashboard.
 6. vault write -f <mount>rotate-root/complete
    proves that the old ones are dead, and forgets them.

A secret leaked? vault write <mount>rotate-root client_id=… client_secret=- compromised=true
does 2 and 3 in one step, and never uses the old credentials again. Revoke them
immediately, then complete.

vault read <mount>rotate-root shows where you are and what to type next.
`
