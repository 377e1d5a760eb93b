// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"errors"
	"fmt"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// An authorization server may cache its tokens too, and repeat one until it expires. That is no
// failure: the cache serves what it has, and asks again when that could help.

// errNoBetter says that Fuuffy issued a token that is no better than the cached one.
var errNoBetter = errors.New("no better access token than the cached one")

// maxRepetitions is how often the cache asks for another token in a life that Fuuffy repeats.
const maxRepetitions = 12

// repetitionGrace is how long Fuuffy may still repeat a token that has expired on this node's
// clocks: it counts whole seconds, and its response takes time.
const repetitionGrace = 2 * time.Second

// repetition is that Fuuffy issued no better token than the cached one. The zero value means
// that it didn't.
type repetition struct {
	// token is the value of the cached token.
	token string
	// same is set if Fuuffy issued that very token again.
	same bool
	// until is when the cache asks again while it serves the token, on the monotonic clock. It
	// counts if waits is set.
	until time.Duration
	waits bool
}

// RepeatedError says that a reader gets no token because Fuuffy issues no better one than the
// cached one, and that isn't good enough.
type RepeatedError struct {
	// Expires is when the cached token expires, and Next the earliest time of the next request.
	Expires, Next time.Time
}

func (e *RepeatedError) Error() string { return e.Unwrap().Error() }

// Unwrap returns the failure to show to whoever doesn't know of repeated tokens.
func (e *RepeatedError) Unwrap() error {
	return &upstream.Error{Failure: upstream.Malformed, Message: fmt.Sprintf(
		"Fuuffy repeats the access token that it issued before, which expires at %s, and issues no newer one yet; the engine retries after %s",
		e.Expires.UTC().Format(time.RFC3339), e.Next.UTC().Format(time.RFC3339))}
}

// repetitionGap is a time between two requests that allows for maxRepetitions in the token's life.
func (t *Cached) repetitionGap() time.Duration { return t.wholeLife() / maxRepetitions }

// repeated returns the repetition after Fuuffy issued a token that is no better than the cached
// one. The token is nil if too little of its life was left for a token.
func (s *state) repeated(t *Cached, now Instant) repetition {
	r, wait := s.repetition, time.Second
	if r.token != s.token.Value {
		r = repetition{token: s.token.Value}
	}
	if t != nil {
		r.same = t.Value == s.token.Value
		wait = min(s.token.repetitionGap(), s.token.lifeLeft(now))
	}
	r.until, r.waits = now.Mono+wait, true
	return r
}

// lifted ends the current gap, because an operator changed something.
func (r repetition) lifted() repetition {
	r.waits = false
	return r
}

// repeatsFor returns how long the cache sends no request because Fuuffy would only repeat the
// cached token. It is zero if a request may help.
func (s *state) repeatsFor(now Instant) time.Duration {
	switch r := s.repetition; {
	case s.token == nil || r.token != s.token.Value || s.token.Superseded:
		return 0
	case s.ending(now) && s.tokenState(now) != Expired:
		return s.token.lifeLeft(now)
	case s.token.Suspect:
		return 0
	case s.tokenState(now) == InBuffer || !r.waits:
		return 0 // In the buffer any token will do, even this one once more.
	default:
		return max(0, r.until-now.Mono)
	}
}

// repeats returns the error for readers for whom the cached token isn't good enough.
func (s *state) repeats(now Instant) error {
	wait := s.repeatsFor(now)
	if wait == 0 {
		return nil
	}
	return &RepeatedError{Expires: s.token.ExpiresAt, Next: now.Wall.Add(wait)}
}

// ending tells whether Fuuffy repeats the cached token, and too little of its life is left for a
// token.
func (s *state) ending(now Instant) bool {
	if s.token == nil || s.token.Superseded || s.repetition.token != s.token.Value || !s.repetition.same {
		return false
	}
	left := s.token.lifeLeft(now)
	return left < upstream.MinTokenLife && left > -repetitionGrace
}

// failure is why a reader gets no new token now, nil if one can be had or wasn't asked for.
func (s *state) failure(now Instant) *upstream.Error {
	if s.holdOff.cause != nil {
		return s.holdOff.cause
	}
	failure, _ := errors.AsType[*upstream.Error](s.repeats(now))
	return failure
}
