// SPDX-License-Identifier: MPL-2.0

package advice

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// known is what a node knows, by the ID of the pair.
type known map[string]rotation.Standing

func (k known) of(id string) rotation.Standing { return k[id] }

var midday = time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)

// pairOf is a pair of a client. later is when it took effect.
func pairOf(clientID, secret string, later time.Duration) *rotation.Pair {
	return &rotation.Pair{ID: clientID + "/" + secret, ClientID: clientID, ClientSecret: secret, SetAt: midday.Add(-24 * time.Hour).Add(later), Serial: 1 + int(later/time.Hour)}
}

// mountOf is a mount whose current pair works, with a token.
func mountOf(current *rotation.Pair, k known) *Mount {
	if _, ok := k[current.ID]; !ok {
		k[current.ID] = rotation.Standing{Succeeded: midday}
	}
	return &Mount{
		Pairs: rotation.Pairs{Current: *current}, Now: midday, Standing: k.of, Tested: true,
		RotationPeriod: 90 * 24 * time.Hour, RotationReminder: 14 * 24 * time.Hour,
		Token: &Token{Served: true, ServedUntil: midday.Add(50 * time.Minute), ExpiresAt: midday.Add(time.Hour)},
	}
}

// A leaked secret of a client whose other secret the mount holds: whoever revokes the client takes
// that one along.
func TestALeakedSecretIsNamedBesideAnotherOfItsClient(t *testing.T) {
	for name, hold := range map[string]func(*Mount){
		"current": func(m *Mount) { m.Current = *pairOf("shop-1", "secret2", time.Hour) },
		"staged":  func(m *Mount) { m.Rotation.Staged = pairOf("shop-1", "secret2", time.Hour) },
		"previous": func(m *Mount) {
			m.Rotation.Previous, m.OldTokensUntil = pairOf("shop-1", "secret2", time.Hour), midday.Add(time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := mountOf(pairOf("shop-2", "secret1", 2*time.Hour), known{})
			m.Rotation.Unrevoked = []rotation.Unrevoked{{ClientID: "shop-1", PairID: "shop-1/secret1", Fingerprint: "leaked", Serial: 1, Why: rotation.WhyCompromised}}
			assert.Contains(t, m.NextStep().Render(""), "Now: revoke client shop-1 in the Fuuffy dashboard", "all of the client's secrets may go")
			hold(m)
			assert.Contains(t, m.NextStep().Render(""), "Now: revoke the old secret of client shop-1 in the Fuuffy dashboard")
			assert.NotContains(t, m.NextStep().Render(""), "revoke client shop-1")
		})
	}
}

// The leaked pair that the mount still holds is the last of the leaks, whenever it leaked.
func TestTheHeldLeakIsTheLast(t *testing.T) {
	m := mountOf(pairOf("shop-3", "secret1", 2*time.Hour), known{})
	m.Rotation.Previous, m.Rotation.Compromised = pairOf("shop-1", "secret1", 0), true
	m.Rotation.Unrevoked = []rotation.Unrevoked{
		{ClientID: "shop-1", Why: rotation.WhyCompromised},
		{ClientID: "shop-2", Why: rotation.WhyCompromised, Fingerprint: "leaked"},
	}
	m.Upgrade() // It finds out which entry is about the held pair.
	leaks := m.leaks()
	assert.Equal(t, []string{"shop-2", "shop-1"}, []string{leaks[0].ClientID, leaks[1].ClientID})
	assert.True(t, m.leakOpen())
}

// The proof of a step meets a rejection of the current pair before any reader does.
func TestHealthKnowsARejectionThatAStepMet(t *testing.T) {
	current, previous := pairOf("shop-1", "secret1", 0), pairOf("shop-2", "secret1", 0)
	rejected := rotation.Standing{Rejected: true, Failed: midday}
	m := mountOf(current, known{current.ID: rejected})
	assert.Equal(t, Degraded, m.Health(), "apps have a token yet")
	m.Token = nil
	assert.Equal(t, Failing, m.Health(), "the next reader gets none")
	m.Rotation.Previous = previous
	assert.Equal(t, Degraded, m.Health(), "the next reader gets one of the previous client")
	m.Standing = known{current.ID: rejected, previous.ID: rejected}.of
	assert.Equal(t, Failing, m.Health())
	m.Standing, m.Rotation.Compromised = known{current.ID: rejected}.of, true
	assert.Equal(t, Failing, m.Health(), "the engine doesn't use a compromised client")
}

// Two rejections are the work of something in between, unless one of them is proof.
func TestBothPairsAreRejected(t *testing.T) {
	current, staged := pairOf("shop-1", "secret1", 0), pairOf("shop-2", "secret1", 0)
	rejected, revoked := rotation.Standing{Rejected: true, Failed: midday}, rotation.Standing{Rejected: true, Revoked: true, Failed: midday}
	for name, c := range map[string]struct {
		current, staged rotation.Standing
		proof           bool
	}{
		"neither revoked": {rejected, rejected, false},
		"current revoked": {revoked, rejected, true},
		"staged revoked":  {rejected, revoked, true},
		"both revoked":    {revoked, revoked, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := mountOf(current, known{current.ID: c.current, staged.ID: c.staged})
			m.Rotation.Staged = staged
			assert.Equal(t, c.proof, !strings.Contains(m.NextStep().Render(""), "A proxy or firewall may have responded"))
		})
	}
}

// Fuuffy may reject a revoked client in a way that is no proof. Then complete never succeeds.
func TestForceIsTheWayOutWithoutProof(t *testing.T) {
	current, previous := pairOf("shop-2", "secret1", 0), pairOf("shop-1", "secret1", 0)
	force := Force.Render("")
	for name, compromised := range map[string]bool{"routine": false, "marked": true} {
		t.Run(name, func(t *testing.T) {
			k := known{}
			m := mountOf(current, k)
			m.Rotation.Previous, m.Rotation.PromotedAt, m.OldTokensUntil = previous, midday.Add(-2*time.Hour), midday.Add(-time.Hour)
			m.Rotation.Compromised = compromised
			assert.NotContains(t, m.NextStep().Render(""), force, "it may be proved")
			k[previous.ID] = rotation.Standing{Rejected: true, Failed: midday}
			assert.Contains(t, m.NextStep().Render(""), force)
			k[previous.ID] = rotation.Standing{Rejected: true, Revoked: true, Failed: midday}
			assert.NotContains(t, m.NextStep().Render(""), force, "it is proved")
		})
	}
}

// Who completes too early must not be told to revoke the pair whose tokens apps hold.
func TestAnEarlyCompleteNamesTheWait(t *testing.T) {
	refusal := &rotation.Refusal{Reason: rotation.StillAccepted, Pair: pairOf("shop-1", "secret1", 0), Other: pairOf("shop-2", "secret1", 0)}
	text := Explain(refusal, nil)
	assert.Contains(t, text.Render(""), "Revoke it in the Fuuffy dashboard, then: "+Complete.Render(""))
	refusal.Until = midday
	text = Explain(refusal, nil)
	assert.Contains(t, text.Render(""), "Apps may hold tokens of it until 2026-02-01T12:00:00Z. After that, revoke it in the Fuuffy dashboard, then: "+Complete.Render(""))
}

// Only proof says that Fuuffy no longer accepts a pair: a rejection of both pairs isn't one.
func TestRejectedPairsAreNotSaidToBeRevoked(t *testing.T) {
	current, previous := pairOf("shop-2", "secret1", time.Hour), pairOf("shop-1", "secret1", 0)
	rejected, revoked := rotation.Standing{Rejected: true, Failed: midday}, rotation.Standing{Rejected: true, Revoked: true, Failed: midday}
	for name, tt := range map[string]struct {
		current rotation.Standing
		says    string
	}{
		"both rejected":       {rejected, "Fuuffy rejects client shop-2 and client shop-1, but that doesn't prove that they are revoked."},
		"the current revoked": {revoked, "Fuuffy no longer accepts client shop-2, and rejects client shop-1 without proof that it is revoked."},
	} {
		t.Run(name, func(t *testing.T) {
			m := mountOf(current, known{current.ID: tt.current, previous.ID: rejected})
			m.Rotation.Previous, m.Rotation.PromotedAt = previous, midday.Add(-2*time.Hour)
			assert.Contains(t, m.NextStep().Render(""), tt.says)
		})
	}
}
