// SPDX-License-Identifier: MPL-2.0

// Package rotation is the rotation of a mount's client credentials: the pairs that a mount
// holds, the steps from one state to the next, and what is proved about a pair. It is pure: it
// knows no Vault, no network, and no clock but the time that it is given.
package rotation

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"
)

// Pair is one client ID and secret from the Fuuffy dashboard.
type Pair struct {
	// ID is this engine's own name for the pair together with the endpoint it is sent to.
	// Tokens carry it, so that the engine recognizes those of another pair.
	ID           string `json:"id"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	// SetAt is when the pair took effect, or when it was created if an operator said so.
	SetAt time.Time `json:"set_at"`
	// CreatedAhead is a credentials_created that was ahead of the clock, so that SetAt is the
	// time of its write.
	CreatedAhead time.Time `json:"created_ahead,omitzero"`
	// Serial orders the pairs of a mount by when it first saw them, 0 if that is unknown. Which
	// secret of a client is the older one can't be told from what was done with them.
	Serial int `json:"serial,omitempty"`
}

// NewPair gives a pair an ID of its own.
func NewPair(clientID, clientSecret string, now time.Time) Pair {
	return Pair{ID: NewID(), ClientID: clientID, ClientSecret: clientSecret, SetAt: now.UTC()}
}

// NewID returns an ID that no other pair has.
func NewID() string { return rand.Text() }

// Same tells whether two pairs are the same client with the same secret.
func (p *Pair) Same(other *Pair) bool {
	return p != nil && other != nil && p.ClientID == other.ClientID && p.ClientSecret == other.ClientSecret
}

// Client is the pair's client ID, empty for no pair.
func (p *Pair) Client() string {
	if p == nil {
		return ""
	}
	return p.ClientID
}

// fingerprint recognizes a pair whose secret is not kept. Without the key, which is stored
// with the current secret, no one can test a guess of the secret.
func (p *Pair) fingerprint(key string) string {
	mac := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(mac, "%d:%s%s", len(p.ClientID), p.ClientID, p.ClientSecret)
	return base64.RawStdEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// Pairs are the credentials that a mount holds, and the state of their rotation.
type Pairs struct {
	// Current is the pair that the engine requests tokens with.
	Current  Pair  `json:"current"`
	Rotation State `json:"rotation"`
}

// Held returns the pairs whose secrets the mount holds, the current one first.
func (p *Pairs) Held() []*Pair {
	held := []*Pair{&p.Current}
	for _, pair := range []*Pair{p.Rotation.Staged, p.Rotation.Previous} {
		if pair != nil {
			held = append(held, pair)
		}
	}
	return held
}

// Fallback returns the pair to try when Fuuffy rejects the current one, nil if there is none.
func (p *Pairs) Fallback() *Pair {
	if p.Rotation.Compromised {
		return nil
	}
	return p.Rotation.Previous
}
