// SPDX-License-Identifier: MPL-2.0

package rotation

import "time"

// Answer is what one token request says about the pair that it was made with.
type Answer int

const (
	// NoAnswer says nothing about the pair: Fuuffy is down, or something else responded.
	NoAnswer Answer = iota
	// Accepted: Fuuffy issued a token.
	Accepted
	// Rejected: a 400, 401, or 403 that may be about the pair, without proof. A firewall
	// responds with a 403 too.
	Rejected
	// Revoked: Fuuffy itself no longer accepts the pair. Only this is proof.
	Revoked
)

// Standing is what this node knows about a pair from the answers to its token requests. There
// are two notions, and no others: a pair is rejected if the last answer about it was a
// rejection, and revoked if that is proved. The zero value means that nothing is known.
type Standing struct {
	// Rejected is set if the last answer about the pair was a rejection of any kind.
	Rejected bool
	// Revoked is set from proof until Fuuffy accepts the pair again.
	Revoked bool
	// Succeeded is when Fuuffy last accepted the pair. Failed is when a request failed
	// after that, for whatever reason.
	Succeeded, Failed time.Time
}

// After returns the standing after one more answer.
func (s Standing) After(answer Answer, now time.Time) Standing {
	if answer == Accepted {
		return Standing{Succeeded: now}
	}
	s.Failed = now
	switch answer {
	case Rejected:
		s.Rejected = true
	case Revoked:
		s.Rejected, s.Revoked = true, true
	}
	return s
}

// Works tells whether Fuuffy accepted the pair since a time, and no request failed after that.
func (s Standing) Works(since time.Time) bool {
	return !s.Succeeded.IsZero() && !s.Succeeded.Before(since) && s.Failed.IsZero()
}
