// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// snapshot is a configured mount at one moment. What is told of the mount is made of
// one snapshot, so that it can't contradict itself.
type snapshot struct {
	*client
	cached tokencache.Snapshot
	now    time.Time
}

// snapshot returns the state of the mount, and loads the configuration if it must.
func (b *backend) snapshot(ctx context.Context, storage logical.Storage) (*snapshot, error) {
	c, err := b.inForce(ctx, storage)
	if err != nil {
		return nil, err
	}
	s := &snapshot{client: c, cached: b.cache.Snapshot(), now: b.now()}
	if latest, ok := s.cached.Source.(*client); ok {
		s.client = latest
	}
	return s, nil
}

// fallbackActive tells whether the cached token is of the old credentials although
// the new ones are in force, because Fuuffy rejects those.
func (s *snapshot) fallbackActive() bool {
	return s.cached.Token != nil && s.Rotation.state() == statePromoted && s.cached.Token.FallbackFor == s.Current.ID
}

// revokeOldAfter is when the last app has replaced its token of the old credentials.
// Apps use one for a rotation_period of the token at most. What leaked is revoked
// immediately. It is zero while nothing is to be revoked.
func (s *snapshot) revokeOldAfter() time.Time {
	r := &s.Rotation
	switch {
	case r.state() != statePromoted || s.fallbackActive():
		return time.Time{}
	case r.Compromised:
		return r.PromotedAt
	}
	life := upstream.DefaultTokenLife
	_, fallbackUntil := s.b.rejections.of(s.Current.ID)
	if t := s.cached.Token; t != nil {
		life = t.Life()
		fallbackUntil = later(fallbackUntil, t.FallbackUntil)
	}
	return later(r.PromotedAt.Add(s.Policy().ServedFor(life)), fallbackUntil)
}

// applicable leaves out what does not apply.
func applicable(data map[string]any) map[string]any {
	maps.DeleteFunc(data, func(_ string, value any) bool { return value == nil || value == "" })
	return data
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// dueAt is when the credentials are to be rotated (Fuuffy's security page: every
// 90 days).
func (c *storedConfig) dueAt() time.Time { return c.Current.SetAt.Add(c.RotationPeriod) }

func (c *storedConfig) overdue(now time.Time) bool { return !now.Before(c.dueAt()) }

func (c *storedConfig) dueSoon(now time.Time) bool {
	return !now.Before(c.dueAt().Add(-c.RotationReminder))
}

func (c *storedConfig) daysLeft(now time.Time) int64 {
	return int64(math.Ceil(c.dueAt().Sub(now).Hours() / 24))
}

// The verdicts on a mount.
const (
	healthOK            = "ok"
	healthDegraded      = "degraded"
	healthFailing       = "failing"
	healthNotConfigured = "not configured"
)

// stuckAfter is how long a rotation may stay promoted before it is a warning.
const stuckAfter = 7 * 24 * time.Hour

// condition is something about a mount that people should know.
type condition struct {
	// health is how bad it is: healthOK for what only needs attention.
	health, warning string
}

// conditions are all that is wrong or due, the worst first.
func (s *snapshot) conditions() []condition {
	var found []condition
	add := func(is bool, health, warning string, args ...any) {
		if is {
			found = append(found, condition{health, fmt.Sprintf(warning, args...)})
		}
	}
	r, t, failure := &s.Rotation, s.cached.Token, s.cached.Failure
	served := s.served()
	add(failure != nil && !served, healthFailing, "apps get no token: %s", failure)
	add(failure != nil && served, healthDegraded, "Fuuffy gives no newer token, and apps get the cached one: %s", failure)
	add(s.fallbackActive(), healthDegraded, "Fuuffy rejects the new credentials of client %s, and apps get tokens of the previous client. Do not revoke that one now.", s.Current.ClientID)
	add(s.cached.Suspect && t != nil, healthDegraded, "an app reported that Fuuffy refused the cached token, and Fuuffy gave no other yet")
	add(r.Compromised, healthDegraded, "the previous client is compromised and not yet proved to be dead; "+restartAgents)
	add(r.state() == statePromoted && s.now.Sub(r.PromotedAt) > stuckAfter, healthDegraded, "the rotation was promoted on %s and is not completed", r.PromotedAt.UTC().Format(time.RFC3339))
	add(s.overdue(s.now), healthDegraded, "%s", s.dueText(s.now))
	add(s.dueSoon(s.now) && !s.overdue(s.now), healthOK, "%s", s.dueText(s.now))
	for _, u := range r.Unrevoked {
		leaked := u.Why == whyCompromised
		add(leaked && !r.Compromised, healthDegraded, "%s was given up as compromised, and is not known to be revoked", s.givenUp(u))
		add(!leaked, healthOK, "%s was given up (%s), and is not known to be revoked", s.givenUp(u), u.Why)
	}
	return found
}

// givenUp names what an operator should revoke. A client in force may have got just a
// new secret.
func (s *snapshot) givenUp(u unrevokedClient) string {
	return toRevoke(&credentials{ClientID: u.ClientID}, &s.Current)
}

// served tells whether readers get the cached token although Fuuffy gives no other.
func (s *snapshot) served() bool {
	switch s.cached.State {
	case tokencache.Fresh, tokencache.InWindow:
		return true
	case tokencache.InBuffer:
		return s.StaleIfError && s.cached.Failure != nil && s.cached.Failure.Failure != upstream.Rejected
	}
	return false
}

// health is the verdict: as bad as the worst condition.
func (s *snapshot) health() string {
	verdict := healthOK
	for _, c := range s.conditions() {
		if c.health == healthFailing || verdict == healthOK {
			verdict = c.health
		}
	}
	return verdict
}

// warn adds the conditions to a response.
func (s *snapshot) warn(resp *logical.Response) {
	for _, c := range s.conditions() {
		resp.AddWarning(c.warning)
	}
}

// dueText is empty if no rotation is due.
func (c *storedConfig) dueText(now time.Time) string {
	due := c.dueAt().UTC().Format(time.RFC3339)
	switch {
	case c.overdue(now):
		return fmt.Sprintf("the credentials of client %s are overdue for rotation since %s", c.Current.ClientID, due)
	case c.dueSoon(now):
		return fmt.Sprintf("the credentials of client %s are due for rotation on %s", c.Current.ClientID, due)
	}
	return ""
}

// nextStep says what to do now, with commands that work in this state. <mount> stands
// for the mount's path.
func (s *snapshot) nextStep() string {
	r := &s.Rotation
	rejected := s.cached.Failure != nil && s.cached.Failure.Failure == upstream.Rejected
	create := "create new credentials in the Fuuffy dashboard, then: vault write <mount>rotate-root client_id=… client_secret=-"
	switch {
	case r.state() == statePromoted:
		return s.nextStepPromoted(rejected)
	case r.state() == stateStaged && rejected:
		return fmt.Sprintf("Fuuffy rejects client %s. Put the staged client %s in force: vault write -f <mount>rotate-root/promote", s.Current.ClientID, r.Staged.ClientID)
	case r.state() == stateStaged:
		return fmt.Sprintf("Put client %s in force: vault write -f <mount>rotate-root/promote (or discard it: vault delete <mount>rotate-root)", r.Staged.ClientID)
	case rejected:
		return s.correctConfig()
	case s.cached.Failure != nil:
		return fmt.Sprintf("Wait: the engine tries again at %s. Meanwhile check what is between Vault and Fuuffy. To try immediately: vault write -f <mount>rotate-root/check", s.nextTry())
	case s.dueSoon(s.now):
		return "Rotate now: " + create
	case len(r.Unrevoked) > 0:
		u := r.Unrevoked[0]
		return fmt.Sprintf("Revoke %s in the Fuuffy dashboard, then: vault write <mount>rotate-root/revoked client_id=%s", s.givenUp(u), u.ClientID)
	}
	return fmt.Sprintf("Nothing until %s. To rotate before: %s", s.dueAt().Add(-s.RotationReminder).UTC().Format(time.RFC3339), create)
}

// correctConfig is the way out when Fuuffy rejects the only credentials.
func (s *snapshot) correctConfig() string {
	if !s.cached.Failure.RejectsCredentials() {
		return "Correct base_url, which does not lead to Fuuffy's API: vault write <mount>config base_url=https://… client_secret=- " +
			"(base_url= for Fuuffy's own address)"
	}
	return fmt.Sprintf("Compare client %s with the Fuuffy dashboard, and write credentials that work: vault write <mount>config client_id=… client_secret=- "+
		"(with environment=testing for test credentials)", s.Current.ClientID)
}

func (s *snapshot) nextTry() string {
	return s.now.Add(s.cached.HeldOffFor).UTC().Format(time.RFC3339)
}

func (s *snapshot) nextStepPromoted(rejected bool) string {
	r := &s.Rotation
	finish := fmt.Sprintf("revoke %s in the Fuuffy dashboard, then: vault write -f <mount>rotate-root/complete", toRevoke(r.Previous, &s.Current))
	back := ". If apps have trouble with the new credentials: vault write -f <mount>rotate-root/rollback"
	switch after := s.revokeOldAfter(); {
	case rejected && !s.fallbackActive():
		return fmt.Sprintf("Fuuffy rejects the new credentials, and there are no old ones to use: create others in the Fuuffy dashboard, revoke %s there, "+
			"then: vault write <mount>rotate-root client_id=… client_secret=- compromised=true", toRevoke(r.Previous, &s.Current))
	case r.Compromised:
		return "Now: " + finish + ". And " + restartAgents
	case s.fallbackActive():
		return fmt.Sprintf("Fuuffy rejects the new credentials: put the old ones back with vault write -f <mount>rotate-root/rollback, and find out in the Fuuffy dashboard why client %s fails", s.Current.ClientID)
	case s.now.Before(after):
		return fmt.Sprintf("Wait until %s: apps may hold tokens of client %s. After that %s%s", after.UTC().Format(time.RFC3339), r.Previous.ClientID, finish, back)
	}
	return "Now: " + finish + back
}

// unproved says what it means that Fuuffy gave no token to credentials that must work.
func unproved(t transition, cause error) error {
	failure, ok := errors.AsType[*upstream.Error](cause)
	denied := ok && failure.RejectsCredentials()
	id := t.mustWork.ClientID
	tried := fmt.Sprintf("Nothing was changed: client %s was tried first, and got no access token.", id)
	switch {
	case t.step == "":
		return &explainedError{meaning: "Nothing was saved: the new settings were tried first, and got no access token.", cause: cause}
	case denied && t.step == "complete":
		return &explainedError{tried, "Fuuffy rejects the new client: do not revoke the old one. Go back to it: vault write -f <mount>rotate-root/rollback", cause}
	case denied && t.step == "rollback":
		return &explainedError{tried, fmt.Sprintf("Client %s is revoked: there is nothing to go back to. If the new client works: vault write -f <mount>rotate-root/complete", id), cause}
	case denied && t.step == "promote":
		return &explainedError{tried, fmt.Sprintf("Client %s was revoked after it was staged. Discard it: vault delete <mount>rotate-root", id), cause}
	}
	return &explainedError{meaning: tried, cause: cause}
}

// workflow is the routine of the rotation, for those who ask for it.
const workflow = `
 1. Create new credentials in the Fuuffy dashboard. Keep the old ones for now.
 2. vault write <mount>rotate-root client_id=… client_secret=-
    tries them; nothing else changes. To drop them: vault delete <mount>rotate-root
 3. vault write -f <mount>rotate-root/promote
    puts them in force. If Fuuffy rejects them later, the old ones step in.
 4. Trouble? vault write -f <mount>rotate-root/rollback puts the old ones back.
 5. Wait until revoke_old_after: until then apps may hold tokens of the old ones.
    Revoke the old ones in the Fuuffy dashboard.
 6. vault write -f <mount>rotate-root/complete
    proves that the old ones are dead, and forgets them.

vault read <mount>rotate-root says at any time where you are and what to type next.
`
