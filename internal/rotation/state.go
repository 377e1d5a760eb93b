// SPDX-License-Identifier: MPL-2.0

package rotation

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The rotation of the credentials, every 90 days as Fuuffy recommends:
//
//	idle ──stage──▶ staged ──promote──▶ promoted ──complete──▶ idle
//	                  │ discard               │ rollback
//	                  ▼                       ▼
//	                 idle                    idle (previous pair back)
//
// An emergency (compromised=true) goes straight to promoted, from any state.
const (
	Idle     = "idle"
	Staged   = "staged"
	Promoted = "promoted"
)

// maxHistory is how many steps the engine remembers. Vault's audit log has who took them.
const maxHistory = 10

// State is the state of a rotation. It is part of the stored configuration.
type State struct {
	// Staged is proved to work and waits to be promoted.
	Staged   *Pair     `json:"staged,omitempty"`
	StagedAt time.Time `json:"staged_at,omitzero"`
	// Previous was current before the promotion. The engine keeps it until it is revoked.
	Previous   *Pair     `json:"previous,omitempty"`
	PromotedAt time.Time `json:"promoted_at,omitzero"`
	// TokensUntil is when the last app stops using a token that it got of Previous before the
	// promotion.
	TokensUntil time.Time `json:"tokens_until,omitzero"`
	// Compromised is set if Previous may be in the wrong hands. The engine never uses it
	// again.
	Compromised bool     `json:"compromised,omitempty"`
	History     []Record `json:"history,omitempty"`
	// Unrevoked are the pairs that the mount no longer uses but that may still work.
	Unrevoked []Unrevoked `json:"unrevoked,omitempty"`
	// Key is the key of the fingerprints in Unrevoked.
	Key string `json:"fingerprint_key,omitempty"`
	// Serials is the last Pair.Serial.
	Serials int `json:"serials,omitempty"`
}

// Name is the name of the state: Idle, Staged, or Promoted.
func (s *State) Name() string {
	switch {
	case s.Previous != nil:
		return Promoted
	case s.Staged != nil:
		return Staged
	}
	return Idle
}

// Record is one step that was taken.
type Record struct {
	Step     string    `json:"step"`
	At       time.Time `json:"at"`
	ClientID string    `json:"client_id"`
	Detail   string    `json:"detail,omitempty"`
}

// The steps of the history.
const (
	didStage    = "staged"
	didPromote  = "promoted"
	didComplete = "completed"
	didRollBack = "rolled back"
	didDiscard  = "discarded"
	didMark     = "marked revoked"
	didReplace  = "replaced"
	didSetUp    = "configured"
)

func (r Record) String() string {
	text := r.Step + " " + r.ClientID
	if r.Detail != "" {
		text += " (" + r.Detail + ")"
	}
	return text
}

// note adds a record to a copy of the history, because the loaded entry shares the array.
func (s *State) note(record Record) {
	history := append(slices.Clone(s.History), record)
	s.History = history[max(0, len(history)-maxHistory):]
}

// LastRecord is the last step that was taken.
func (s *State) LastRecord() Record {
	if len(s.History) == 0 {
		return Record{}
	}
	return s.History[len(s.History)-1]
}

// MarkedAt is when an operator last marked a client as revoked, as far as the history goes back.
func (s *State) MarkedAt(clientID string) time.Time {
	for _, r := range slices.Backward(s.History) {
		if r.Step == didMark && r.ClientID == clientID {
			return r.At
		}
	}
	return time.Time{}
}

// HistoryText is the history as users read it, one step per line.
func (s *State) HistoryText() string {
	lines := make([]string, 0, len(s.History))
	for _, r := range s.History {
		lines = append(lines, r.At.UTC().Format(time.RFC3339)+" "+r.String())
	}
	return strings.Join(lines, "\n")
}

// end forgets everything but the history and the pairs to revoke.
func (s *State) end() {
	*s = State{History: s.History, Unrevoked: s.Unrevoked, Key: s.Key, Serials: s.Serials}
}

// Why a pair is on the list of those that may still work.
const (
	WhyCompromised = "compromised"
	whyForced      = "forced"
	whyRolledBack  = "rolled back"
	whyDiscarded   = "discarded"
	whyReplaced    = "replaced"
)

// Unrevoked is a pair that may still work. Its secret is not kept.
type Unrevoked struct {
	ClientID string `json:"client_id"`
	// PairID is the ID that the pair had.
	PairID string `json:"pair_id,omitempty"`
	// Fingerprint recognizes the pair if it comes again. An entry of an older version has none:
	// no one knows which secret of its client it is about.
	Fingerprint string    `json:"fingerprint,omitempty"`
	Serial      int       `json:"serial,omitempty"`
	Why         string    `json:"why"`
	Since       time.Time `json:"since"`
}

func (u Unrevoked) String() string {
	return fmt.Sprintf("%s %s (%s)", u.Since.UTC().Format(time.RFC3339), u.ClientID, u.Why)
}

// stands tells whether the entry is about a pair, as far as that is known.
func (u Unrevoked) stands(pair *Pair, key string) bool {
	return u.Fingerprint != "" && u.Fingerprint == pair.fingerprint(key)
}

// maxUnrevoked bounds the list. One pair more drops the oldest that is not compromised.
const maxUnrevoked = 20

// Entry returns the entry about a pair, nil if it has none.
func (s *State) Entry(pair *Pair) *Unrevoked {
	if pair == nil {
		return nil
	}
	for _, u := range s.Unrevoked {
		if u.stands(pair, s.Key) {
			return &u
		}
	}
	return nil
}

// Leaks is what outlives the pairs themselves: the compromised ones on the list, and what it takes
// to recognize them. A mount that is configured again starts from it.
func (s *State) Leaks() State {
	compromised := slices.DeleteFunc(slices.Clone(s.Unrevoked), func(u Unrevoked) bool { return u.Why != WhyCompromised })
	return State{Unrevoked: compromised, Key: s.Key, Serials: s.Serials}
}

// UnrevokedText is the list as users read it, one pair per line.
func (s *State) UnrevokedText() string {
	lines := make([]string, 0, len(s.Unrevoked))
	for _, u := range s.Unrevoked {
		lines = append(lines, u.String())
	}
	return strings.Join(lines, "\n")
}

// addUnrevoked lists a pair that the mount stops using and that isn't proved to be revoked. It
// returns the entries that fall off the list. A pair that is already listed stays as it is,
// unless it turns out to be compromised.
func (s *State) addUnrevoked(pair *Pair, why string, now time.Time) (dropped []Unrevoked) {
	if entry := s.Entry(pair); entry != nil {
		if entry.Why == WhyCompromised || why != WhyCompromised {
			return nil
		}
		s.removeUnrevoked(pair)
	}
	list := append(slices.Clone(s.Unrevoked), Unrevoked{
		ClientID: pair.ClientID, PairID: pair.ID, Fingerprint: pair.fingerprint(s.Key), Serial: pair.Serial, Why: why, Since: now,
	})
	for len(list) > maxUnrevoked {
		oldest := slices.IndexFunc(list[:len(list)-1], func(u Unrevoked) bool { return u.Why != WhyCompromised })
		if oldest < 0 {
			break // Nothing drops a compromised pair.
		}
		dropped = append(dropped, list[oldest])
		list = slices.Delete(list, oldest, oldest+1)
	}
	s.Unrevoked = list
	return dropped
}

// removeUnrevoked takes a pair off the list: it is in use again, or proved to be revoked.
func (s *State) removeUnrevoked(pair *Pair) {
	s.Unrevoked = slices.DeleteFunc(slices.Clone(s.Unrevoked), func(u Unrevoked) bool { return u.stands(pair, s.Key) })
}

// markRevoked takes one pair of a client off the list: a compromised one first, and otherwise
// the oldest. It tells whether there was one. Another secret of the client stays listed.
func (s *State) markRevoked(clientID string) bool {
	at := slices.IndexFunc(s.Unrevoked, func(u Unrevoked) bool { return u.ClientID == clientID && u.Why == WhyCompromised })
	if at < 0 {
		at = slices.IndexFunc(s.Unrevoked, func(u Unrevoked) bool { return u.ClientID == clientID })
	}
	if at < 0 {
		return false
	}
	s.Unrevoked = slices.Delete(slices.Clone(s.Unrevoked), at, at+1)
	return true
}

// number gives a pair its serial: the one that it had when the mount used it before, if that is
// known.
func (s *State) number(pair *Pair) {
	if pair.Serial > 0 {
		return
	}
	if entry := s.Entry(pair); entry != nil && entry.Serial > 0 {
		pair.Serial = entry.Serial
		return
	}
	s.Serials++
	pair.Serial = s.Serials
}

// Upgrade brings what an older version stored up to date. What is up to date stays as it is.
func (p *Pairs) Upgrade() {
	r := &p.Rotation
	if r.Key == "" {
		r.Key = rand.Text()
	}
	if r.Serials == 0 {
		for _, pair := range []*Pair{r.Previous, &p.Current, r.Staged} {
			if pair != nil {
				r.number(pair)
			}
		}
	}
	for i, u := range r.Unrevoked {
		// Of the entries of older versions, only that of the pair that the mount still holds is
		// known.
		if u.Fingerprint == "" && u.Why == WhyCompromised && r.Compromised && r.Previous.Client() == u.ClientID {
			r.Unrevoked[i].Fingerprint = r.Previous.fingerprint(r.Key)
			r.Unrevoked[i].PairID, r.Unrevoked[i].Serial = r.Previous.ID, r.Previous.Serial
		}
	}
	for i := range r.History {
		if r.History[i].Step == "ticked off" {
			r.History[i].Step = didMark
		}
	}
}
