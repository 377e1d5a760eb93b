// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// snapshot is a configured mount at one moment. Every text about the mount comes from one
// snapshot, so that they can't contradict each other.
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

// refused tells whether Fuuffy rejected a pair when the engine last used it.
func (s *snapshot) refused(pair *credentials) bool {
	return pair != nil && s.b.pairs.of(pair.ID).refused
}

// currentRefused tells whether Fuuffy rejects the credentials in force.
func (s *snapshot) currentRefused() bool {
	failure := s.cached.Failure
	return s.refused(&s.Current) || s.fallbackActive() || failure != nil && failure.RejectsCredentials()
}

// fallbackActive tells whether the cached token belongs to the old credentials because Fuuffy
// rejects the new ones.
func (s *snapshot) fallbackActive() bool {
	return s.cached.Token != nil && s.Rotation.state() == statePromoted && s.cached.Token.FallbackFor == s.Current.ID
}

// revokeOldAfter is when the last app has replaced its token of the old credentials. Apps use
// one for at most a rotation_period of the token. Leaked credentials don't wait. The time is
// zero while there is nothing to revoke.
func (s *snapshot) revokeOldAfter() time.Time {
	r := &s.Rotation
	switch {
	case r.state() != statePromoted || s.fallbackActive():
		return time.Time{}
	case r.Compromised:
		return r.PromotedAt
	}
	life := upstream.DefaultTokenLife
	if t := s.cached.Token; t != nil {
		life = t.Life()
	}
	return later(r.PromotedAt.Add(s.Policy().ServedFor(life)), s.b.pairs.of(s.Current.ID).fallbackUntil)
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

// dueAt is when the credentials are due for rotation. Fuuffy's security page says every 90
// days.
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

// stuckAfter is how long a rotation may stay promoted before the engine warns of it.
const stuckAfter = 7 * 24 * time.Hour

// condition is something about a mount that people should know.
type condition struct {
	// health is how bad it is: healthOK for what only needs attention.
	health, warning string
}

// conditions returns everything that is wrong or due, the worst first.
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
	add(failure != nil && served, healthDegraded, "Fuuffy grants no newer token, and apps get the cached one: %s", failure)
	add(s.fallbackActive(), healthDegraded, "Fuuffy rejects the new credentials of client %s, and apps get tokens of the previous client. Don't revoke the previous client now.", s.Current.ClientID)
	add(s.cached.Suspect && t != nil, healthDegraded, "an app reported that Fuuffy rejected the cached token, and Fuuffy hasn't granted another yet")
	add(r.Compromised, healthDegraded, "client %s is compromised and not yet proved to be dead; "+restartAgents, clientIDOf(r.Previous))
	add(r.state() == statePromoted && s.now.Sub(r.PromotedAt) > stuckAfter, healthDegraded, "the rotation was promoted on %s but not completed", r.PromotedAt.UTC().Format(time.RFC3339))
	add(s.overdue(s.now), healthDegraded, "%s", s.dueText(s.now))
	add(s.dueSoon(s.now) && !s.overdue(s.now), healthOK, "%s", s.dueText(s.now))
	for _, u := range r.Unrevoked {
		leaked := u.Why == whyCompromised
		add(leaked && !r.Compromised, healthDegraded, "%s is compromised, and may still work: nobody confirmed that it is revoked", s.givenUp(u))
		add(!leaked, healthOK, "%s may still work (%s): nobody confirmed that it is revoked", s.givenUp(u), u.Why)
	}
	return found
}

// givenUp names what an operator should revoke: only the old secret if the client is in force
// with a new one.
func (s *snapshot) givenUp(u unrevokedClient) string {
	return toRevoke(&credentials{ClientID: u.ClientID}, &s.Current)
}

// served tells whether readers get the cached token while Fuuffy grants no other.
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
		return fmt.Sprintf("the credentials of client %s have been overdue for rotation since %s", c.Current.ClientID, due)
	case c.dueSoon(now):
		return fmt.Sprintf("the credentials of client %s are due for rotation on %s", c.Current.ClientID, due)
	}
	return ""
}
