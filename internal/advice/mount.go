// SPDX-License-Identifier: MPL-2.0

// Package advice tells people what is wrong with a mount and what to do next. Every text about
// a mount comes from one value, so that no two texts can contradict each other. It can't send a
// request or change anything.
package advice

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// Mount is a configured mount at one moment.
type Mount struct {
	rotation.Pairs
	Now time.Time
	// Standing is what this node knows about a pair, by rotation.Pair.ID.
	Standing func(pairID string) rotation.Standing
	// FallbackActive is set if the cached token belongs to the previous pair because Fuuffy
	// rejects the current one.
	FallbackActive bool
	// OldTokensUntil is when the last app stops using a token of the previous pair.
	OldTokensUntil time.Time

	RotationPeriod, RotationReminder time.Duration
	StaleIfError                     bool

	// Token is the cached token, nil if there is none.
	Token *Token
	// Failure is why readers get no newer token, nil if the last request for them got one. The
	// engine retries at RetryAt.
	Failure *upstream.Error
	RetryAt time.Time
	// Tested is set if Fuuffy responded to a request with the current settings.
	Tested bool
}

// Token is the cached token.
type Token struct {
	// Served is set if readers get it. ServedUntil is the end of that.
	Served      bool
	ServedUntil time.Time
	ExpiresAt   time.Time
	// Suspect is set if an app reported the token as rejected and Fuuffy issued no other.
	Suspect bool
	// Unsaved is set if the last save failed, so that a restart loses the token.
	Unsaved bool
}

// Health is the verdict on a mount.
type Health string

// The verdicts, the best first.
const (
	OK            Health = "ok"
	Untested      Health = "untested"
	Degraded      Health = "degraded"
	Failing       Health = "failing"
	NotConfigured Health = "not configured"
)

// badness orders the verdicts.
func (h Health) badness() int { return slices.Index([]Health{OK, Untested, Degraded, Failing}, h) }

// StuckAfter is how long a rotation may stay promoted before the engine warns about it.
const StuckAfter = 7 * 24 * time.Hour

const restartAgents = "restart the Agents of apps that don't report a 401. Until their ttl ends, they may keep a token that Fuuffy no longer accepts"

// Condition is something about a mount that people should know. Its health is OK if it only
// needs attention.
type Condition struct {
	Health Health
	Text   string
}

// DueAt is when the current pair is due for rotation. Fuuffy recommends every 90 days.
func (m *Mount) DueAt() time.Time { return m.Current.SetAt.Add(m.RotationPeriod) }

// Overdue tells whether that is over.
func (m *Mount) Overdue() bool { return !m.Now.Before(m.DueAt()) }

// DaysLeft is the days until DueAt, rounded up.
func (m *Mount) DaysLeft() int64 { return int64(math.Ceil(m.DueAt().Sub(m.Now).Hours() / 24)) }

func (m *Mount) remindAt() time.Time { return m.DueAt().Add(-m.RotationReminder) }

func (m *Mount) dueSoon() bool { return !m.Now.Before(m.remindAt()) }

// DueText is empty if no rotation is due.
func (m *Mount) DueText() string {
	switch {
	case m.Overdue():
		return fmt.Sprintf("the credentials of client %s have been overdue for rotation since %s", m.Current.ClientID, stamp(m.DueAt()))
	case m.dueSoon():
		return fmt.Sprintf("the credentials of client %s are due for rotation on %s", m.Current.ClientID, stamp(m.DueAt()))
	}
	return ""
}

// RevokeOldAfter is when the last app has replaced its token of the previous pair. A compromised
// pair doesn't wait. The time is zero while there is nothing to revoke.
func (m *Mount) RevokeOldAfter() time.Time {
	switch r := &m.Rotation; {
	case r.Name() != rotation.Promoted || m.FallbackActive:
		return time.Time{}
	case r.Compromised:
		return r.PromotedAt
	}
	return m.OldTokensUntil
}

// standing is what is known about a pair.
func (m *Mount) standing(pair *rotation.Pair) rotation.Standing {
	if m.Standing == nil || pair == nil {
		return rotation.Standing{}
	}
	return m.Standing(pair.ID)
}

func (m *Mount) revoked(pair *rotation.Pair) bool { return m.standing(pair).Revoked }

// rejected tells whether the last answer about a pair was a rejection. For the current pair,
// readers may have met it.
func (m *Mount) rejected(pair *rotation.Pair) bool {
	current := pair != nil && pair.ID == m.Current.ID
	return m.standing(pair).Rejected || current && (m.FallbackActive || m.Failure != nil && m.Failure.RejectsCredentials())
}

// leaks returns the pairs that are compromised and neither proved nor marked as revoked. The
// one that the mount still holds is the last.
func (m *Mount) leaks() (leaks []rotation.Unrevoked) {
	for _, u := range m.Rotation.Unrevoked {
		if u.Why == rotation.WhyCompromised && !m.revokedListed(u) {
			leaks = append(leaks, u)
		}
	}
	slices.SortStableFunc(leaks, func(a, b rotation.Unrevoked) int { return cmp.Compare(order(m.held(a)), order(m.held(b))) })
	return leaks
}

func order(last bool) int {
	if last {
		return 1
	}
	return 0
}

// held tells whether an entry of the list is about the previous pair, which the mount holds
// until the rotation is completed.
func (m *Mount) held(u rotation.Unrevoked) bool {
	entry := m.Rotation.Entry(m.Rotation.Previous)
	return entry != nil && *entry == u
}

// leakOpen tells whether the previous pair is compromised and neither proved nor marked as
// revoked.
func (m *Mount) leakOpen() bool {
	leaks := m.leaks()
	return len(leaks) > 0 && m.held(leaks[len(leaks)-1])
}

// revokedListed tells whether a listed pair is proved to be revoked.
func (m *Mount) revokedListed(u rotation.Unrevoked) bool {
	return m.Standing != nil && m.Standing(u.PairID).Revoked
}

// previous names the previous pair.
func (m *Mount) previous() string { return beside(m.Rotation.Previous, &m.Current) }

// current names the current pair.
func (m *Mount) current() string { return Name(&m.Current, m.Held()) }

// nameListed names a pair that the mount no longer uses: by its secret, if the mount holds
// another one of the same client.
func (m *Mount) nameListed(u rotation.Unrevoked) string {
	for _, pair := range m.Held() {
		if pair.ClientID == u.ClientID && pair.ID != u.PairID {
			return secret(u.ClientID, u.Serial, pair)
		}
	}
	return "client " + u.ClientID
}

// Leak names a compromised pair on the list, and returns the command that marks it. It is false if
// there is none.
func (m *Mount) Leak() (name string, mark Command, ok bool) {
	for _, u := range m.Rotation.Unrevoked {
		if u.Why == rotation.WhyCompromised {
			return m.nameListed(u), Mark(u.ClientID), true
		}
	}
	return "", Command{}, false
}

// Conditions returns everything that is wrong or due, the worst first.
func (m *Mount) Conditions() []Condition {
	found := m.tokenConditions()
	found = append(found, m.rotationConditions()...)
	slices.SortStableFunc(found, func(a, b Condition) int { return cmp.Compare(b.Health.badness(), a.Health.badness()) })
	return found
}

// tokenConditions are about what apps get.
func (m *Mount) tokenConditions() (found []Condition) {
	add := func(health Health, text string, args ...any) {
		found = append(found, Condition{health, fmt.Sprintf(text, args...)})
	}
	t := m.Token
	served := t != nil && t.Served
	switch {
	case m.Failure == nil && !m.FallbackActive && m.rejected(&m.Current):
		// A step met it: readers haven't yet.
		health := Degraded
		if fallback := m.Fallback(); !served && (fallback == nil || m.rejected(fallback)) {
			health = Failing
		}
		add(health, "Fuuffy rejected %s when the engine last tried it", m.current())
	case m.Failure == nil && !m.Tested:
		add(Untested, "this node has had no response from Fuuffy with these settings yet")
	case m.Failure == nil:
	case !served:
		add(Failing, "apps get no token: %s", m.Failure)
	case t.Suspect && m.Failure.RejectsCredentials():
		add(Failing, "an app reported the cached token as rejected, and Fuuffy rejects %s, so no app has a token that works: %s", m.current(), m.Failure)
	default:
		add(Degraded, "token refresh is failing. Apps keep the cached token until %s: %s", stamp(t.ServedUntil), m.Failure)
	}
	if t != nil && t.Suspect {
		add(Degraded, "an app reported that Fuuffy rejected the cached token, and Fuuffy hasn't issued another yet")
	}
	if t != nil && t.Unsaved {
		add(Degraded, "the engine could not save the cached token, so a restart or a failover loses it. The log says why. If it names a read-only storage, restart the plugin on this node")
	}
	return found
}

// rotationConditions are about the credentials.
func (m *Mount) rotationConditions() (found []Condition) {
	add := func(health Health, text string, args ...any) {
		found = append(found, Condition{health, fmt.Sprintf(text, args...)})
	}
	r := &m.Rotation
	if m.FallbackActive {
		add(Degraded, "Fuuffy rejects %s, and apps get tokens of %s. Don't revoke %s now",
			beside(&m.Current, r.Previous), m.previous(), m.previous())
	}
	if r.Compromised {
		if m.revoked(r.Previous) {
			add(Degraded, "%s is compromised and revoked, but the rotation isn't completed; %s", m.previous(), restartAgents)
		} else {
			add(Degraded, "%s is compromised and not yet proved to be revoked; %s", m.previous(), restartAgents)
		}
	}
	if r.Name() == rotation.Promoted && m.Now.Sub(r.PromotedAt) > StuckAfter {
		add(Degraded, "the rotation was promoted on %s but not completed", stamp(r.PromotedAt))
	}
	if due := m.DueText(); due != "" {
		health := OK
		if m.Overdue() {
			health = Degraded
		}
		add(health, "%s", due)
	}
	for _, u := range r.Unrevoked {
		switch {
		case m.held(u) || m.revokedListed(u):
		case u.Why == rotation.WhyCompromised:
			add(Degraded, "%s is compromised, and may still work: no one confirmed that it is revoked", m.nameListed(u))
		default:
			add(OK, "%s may still work (%s): no one confirmed that it is revoked", m.nameListed(u), u.Why)
		}
	}
	return found
}

// Health is the verdict: as bad as the worst condition.
func (m *Mount) Health() Health {
	if found := m.Conditions(); len(found) > 0 {
		return found[0].Health
	}
	return OK
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
