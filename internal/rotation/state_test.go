// SPDX-License-Identifier: MPL-2.0

package rotation

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newPair(clientID, secret string) *Pair {
	return &Pair{ID: clientID + "/" + secret, ClientID: clientID, ClientSecret: secret, SetAt: noon.Add(-time.Hour)}
}

// upgraded is what a stored entry of an older version becomes.
func upgraded(t *testing.T, entry string) Pairs {
	t.Helper()
	var p Pairs
	require.NoError(t, json.Unmarshal([]byte(entry), &p))
	p.Upgrade()
	return p
}

// before and after enclose the rotation of an entry of 0.1.0-dev.
const (
	before = `{"current": {"id": "B", "client_id": "shop-2", "client_secret": "secret1", "set_at": "2026-01-02T00:00:00Z"}, "rotation": {`
	after  = `}}`
)

func TestUpgradeOfAnOldEntry(t *testing.T) {
	t.Run("nothing but a pair", func(t *testing.T) {
		p := upgraded(t, before+after)
		assert.Equal(t, Idle, p.Rotation.Name())
		assert.NotEmpty(t, p.Rotation.Key, "fingerprints need a key")
		assert.NotEqual(t, p.Rotation.Key, upgraded(t, before+after).Rotation.Key, "each mount has its own key")
	})
	t.Run("the history", func(t *testing.T) {
		p := upgraded(t, before+`"history": [
			{"step": "promoted", "at": "2026-01-02T00:00:00Z", "client_id": "shop-2", "detail": "in place of shop-1"},
			{"step": "ticked off", "at": "2026-01-03T00:00:00Z", "client_id": "shop-1", "detail": "in the Fuuffy dashboard"}]`+after)
		assert.Equal(t, "2026-01-02T00:00:00Z promoted shop-2 (in place of shop-1)\n2026-01-03T00:00:00Z marked revoked shop-1 (in the Fuuffy dashboard)", p.Rotation.HistoryText())
	})
	t.Run("an unused client", func(t *testing.T) {
		// The entry is about one of the client's secrets, but doesn't say which.
		p := upgraded(t, before+`"unrevoked": [{"client_id": "shop-1", "why": "compromised", "since": "2026-01-02T00:00:00Z"}]`+after)
		for _, secret := range []string{"secret1", "secret2"} {
			_, err := Stage(*newPair("shop-1", secret))(p, Facts{Now: noon})
			assert.Equal(t, IsCompromised, refusalOf(t, err).Reason)
		}
		assert.Nil(t, p.Rotation.Entry(newPair("shop-3", "secret1")))
	})
	t.Run("a client whose secret is staged or kept", func(t *testing.T) {
		// The entry may be about that secret, so it doesn't become current.
		held := `{"id": "A", "client_id": "shop-1", "client_secret": "secret1"}`
		leak := `, "unrevoked": [{"client_id": "shop-1", "why": "compromised", "since": "2026-01-02T00:00:00Z"}]`
		_, err := Promote(upgraded(t, before+`"staged": `+held+leak+after), Facts{Now: noon})
		assert.Equal(t, IsCompromised, refusalOf(t, err).Reason)
		_, err = Rollback(upgraded(t, before+`"previous": `+held+leak+after), Facts{Now: noon})
		assert.Equal(t, IsCompromised, refusalOf(t, err).Reason)
	})
	t.Run("another secret of a client in use", func(t *testing.T) {
		for name, entry := range map[string]string{
			"current":  before + `"unrevoked": [{"client_id": "shop-2", "why": "discarded", "since": "2026-01-02T00:00:00Z"}]` + after,
			"staged":   before + `"staged": {"id": "A", "client_id": "shop-1", "client_secret": "secret1"}, "unrevoked": [{"client_id": "shop-1", "why": "compromised", "since": "2026-01-02T00:00:00Z"}]` + after,
			"previous": before + `"previous": {"id": "A", "client_id": "shop-1", "client_secret": "secret1"}, "unrevoked": [{"client_id": "shop-1", "why": "compromised", "since": "2026-01-02T00:00:00Z"}]` + after,
		} {
			p := upgraded(t, entry)
			require.Len(t, p.Rotation.Unrevoked, 1, name)
			for _, pair := range p.Held() {
				assert.Nil(t, p.Rotation.Entry(pair), "%s: %s is in use", name, pair.ID)
			}
			assert.Contains(t, p.Rotation.UnrevokedText(), p.Rotation.Unrevoked[0].ClientID, name)
		}
	})
	t.Run("the compromised pair that the mount still holds", func(t *testing.T) {
		p := upgraded(t, before+`"previous": {"id": "A", "client_id": "shop-1", "client_secret": "secret1", "set_at": "2026-01-01T00:00:00Z"}, "compromised": true,
			"unrevoked": [{"client_id": "shop-1", "why": "compromised", "since": "2026-01-02T00:00:00Z"}]`+after)
		entry := p.Rotation.Entry(p.Rotation.Previous)
		require.NotNil(t, entry)
		assert.Equal(t, "A", entry.PairID)
		assert.Nil(t, p.Rotation.Entry(newPair("shop-1", "secret2")), "the entry is about one secret")
		assert.Nil(t, p.Fallback())
		assert.Equal(t, []int{1, 2}, []int{entry.Serial, p.Current.Serial}, "the previous pair is the older one")
	})
	t.Run("twice", func(t *testing.T) {
		p := upgraded(t, before+`"unrevoked": [{"client_id": "shop-1", "why": "forced", "since": "2026-01-02T00:00:00Z"}, {"client_id": "shop-2", "why": "discarded", "since": "2026-01-02T00:00:00Z"}],
			"history": [{"step": "ticked off", "at": "2026-01-03T00:00:00Z", "client_id": "shop-1"}]`+after)
		stored, err := json.Marshal(p)
		require.NoError(t, err)
		again := upgraded(t, string(stored))
		assert.Equal(t, p, again)
	})
}

func TestFingerprint(t *testing.T) {
	seen := map[string]string{}
	for _, c := range []struct{ key, client, secret string }{
		{"key", "shop-1", "secret"},
		{"other key", "shop-1", "secret"},
		{"", "shop-1", "secret"},
		{"key", "shop-2", "secret"},
		{"key", "shop-1", "other secret"},
		{"key", "shop-1s", "ecret"}, // The same letters, another border.
		{"key", "shop-", "1secret"},
		{"key", "6:shop", "-1secret"},
		{"key", "shop-1", ""},
		{"key", "", "shop-1secret"},
	} {
		pair := newPair(c.client, c.secret)
		print := pair.fingerprint(c.key)
		assert.Empty(t, seen[print], "%v has the same", c)
		seen[print] = fmt.Sprint(c)
		assert.NotContains(t, print, "secret")
		same := &Pair{ID: "another ID", ClientID: c.client, ClientSecret: c.secret}
		assert.Equal(t, print, same.fingerprint(c.key), "the ID and the time don't count")
	}
}

func TestEntriesAreAboutPairs(t *testing.T) {
	s := State{Key: "key"}
	one, two := newPair("shop-1", "secret1"), newPair("shop-1", "secret2")
	s.addUnrevoked(one, whyDiscarded, noon)
	assert.Nil(t, s.Entry(two), "another secret of the client")
	assert.Nil(t, s.Entry(nil))
	require.NotNil(t, s.Entry(one))
	assert.Equal(t, one.ID, s.Entry(one).PairID)
	s.removeUnrevoked(two)
	assert.NotNil(t, s.Entry(one), "the proof about one secret is none about another")
	s.addUnrevoked(two, whyReplaced, noon)
	s.addUnrevoked(one, WhyCompromised, noon.Add(time.Hour))
	assert.Equal(t, WhyCompromised, s.Entry(one).Why, "it turned out to be compromised")
	s.addUnrevoked(one, whyDiscarded, noon.Add(2*time.Hour))
	assert.Equal(t, WhyCompromised, s.Entry(one).Why, "nothing makes a compromised pair something else")
	assert.Equal(t, noon.Add(time.Hour), s.Entry(one).Since)
	assert.Len(t, s.Unrevoked, 2)
	assert.True(t, s.markRevoked("shop-1"))
	assert.Nil(t, s.Entry(one), "the compromised secret first")
	assert.NotNil(t, s.Entry(two), "a mark is about one secret")
	assert.True(t, s.markRevoked("shop-1"))
	assert.Empty(t, s.Unrevoked)
	assert.False(t, s.markRevoked("shop-1"))
}

// TestLeaks takes what outlives the pairs to new ones.
func TestLeaks(t *testing.T) {
	p := taken(t, idle(), knows{}.facts(), Stage(third), Discard, Emergency(second), Complete(true)).Next
	kept, err := json.Marshal(p)
	require.NoError(t, err)
	leaks := p.Rotation.Leaks()
	assert.NotContains(t, leaks.UnrevokedText(), "shop-3", "it isn't compromised")
	assert.Empty(t, leaks.History)
	again, err := json.Marshal(p)
	require.NoError(t, err)
	assert.JSONEq(t, string(kept), string(again), "it changed what it was given")

	next := Pairs{Rotation: leaks}
	next.Upgrade()
	_, err = Replace(*newPair("shop-1", "secret1"))(next, Facts{Now: noon})
	assert.Equal(t, IsCompromised, refusalOf(t, err).Reason)
	next = taken(t, next, knows{}.facts(), Replace(*newPair("shop-1", "secret2"))).Next
	assert.Equal(t, leaks.Unrevoked, next.Rotation.Unrevoked)
	assert.Greater(t, next.Current.Serial, leaks.Unrevoked[0].Serial, "the new secret is the later one")
}

// TestSerialOutlivesADiscard: which secret is the older one doesn't change when it comes again.
func TestSerialOutlivesADiscard(t *testing.T) {
	first, second := *newPair("shop-1", "secret2"), *newPair("shop-1", "secret3")
	p := taken(t, idle(), knows{}.facts(), Stage(first), Discard, Stage(second), Discard, Stage(first)).Next
	assert.Less(t, p.Rotation.Staged.Serial, p.Rotation.Entry(&second).Serial)
	assert.Greater(t, p.Rotation.Staged.Serial, p.Current.Serial)

	original := *newPair("shop-1", "secret1")
	p = taken(t, idle(), knows{}.facts(), Replace(second), Stage(original)).Next
	assert.Less(t, p.Rotation.Staged.Serial, p.Current.Serial, "the very first one too")
}

// TestUnrevokedIsBounded adds pairs at random. The list drops the oldest that is not
// compromised, and reports each that it drops.
func TestUnrevokedIsBounded(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for run := range 200 {
		s := State{Key: "key"}
		leaks := random.IntN(40)
		listed := map[string]string{} // Why, by client.
		for i := range 60 {
			pair, why := newPair(fmt.Sprintf("shop-%d", i), "secret"), whyForced
			if random.IntN(60) < leaks {
				why = WhyCompromised
			}
			shared := slices.Clone(s.Unrevoked)
			loaded := s.Unrevoked
			dropped := s.addUnrevoked(pair, why, noon)
			assert.Equal(t, shared, loaded, "it changed the array of the loaded entry")
			listed[pair.ClientID] = why
			for _, u := range dropped {
				require.NotEqual(t, WhyCompromised, u.Why, "run %d: it dropped a compromised pair", run)
				require.Contains(t, listed, u.ClientID, "run %d: it dropped what wasn't there", run)
				delete(listed, u.ClientID)
			}
			require.Len(t, s.Unrevoked, len(listed), "run %d: something fell off without a word", run)
			for _, u := range s.Unrevoked {
				require.Equal(t, listed[u.ClientID], u.Why, "run %d", run)
			}
			require.NotNil(t, s.Entry(pair), "run %d: the latest is listed", run)
			others := 0
			for _, u := range s.Unrevoked[:len(s.Unrevoked)-1] {
				if u.Why != WhyCompromised {
					others++
				}
			}
			require.True(t, len(s.Unrevoked) <= maxUnrevoked || others == 0, "run %d: the list has %d pairs", run, len(s.Unrevoked))
		}
	}
}

func TestUnrevokedDropsTheOldest(t *testing.T) {
	s := State{Key: "key"}
	for i := range maxUnrevoked {
		why := whyForced
		if i == 0 {
			why = WhyCompromised
		}
		assert.Empty(t, s.addUnrevoked(newPair(fmt.Sprintf("shop-%d", i), "secret"), why, noon))
	}
	dropped := s.addUnrevoked(newPair("shop-20", "secret"), whyForced, noon)
	require.Len(t, dropped, 1)
	assert.Equal(t, "shop-1", dropped[0].ClientID, "the oldest that is not compromised")
	assert.Len(t, s.Unrevoked, maxUnrevoked)
}

func TestHistoryIsBounded(t *testing.T) {
	s := State{}
	assert.Zero(t, s.LastRecord())
	for i := range maxHistory + 3 {
		loaded := s.History
		kept := slices.Clone(loaded)
		s.note(Record{Step: didStage, At: noon, ClientID: fmt.Sprintf("shop-%d", i)})
		assert.Equal(t, kept, loaded, "it changed the array of the loaded entry")
	}
	require.Len(t, s.History, maxHistory)
	assert.Equal(t, "shop-3", s.History[0].ClientID)
	assert.Equal(t, "shop-12", s.LastRecord().ClientID)
}
