// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"cmp"
	"fmt"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// defaultRateLimitWait is the hold-off after a 429 that names no time. Fuuffy counts requests
// by the minute.
const defaultRateLimitWait = time.Minute

// holdOff is the time after a failure in which the cache sends no requests, so that readers
// neither hammer a service that is down nor lock the account. The zero value means no
// hold-off.
type holdOff struct {
	// cause is the failure of the last token request, nil if it brought a token.
	cause *upstream.Error
	// failures counts the failures of one kind in a row, of readers' requests, since an operator
	// last changed something.
	failures int
	kind     upstream.Failure
	// until is its end on the monotonic clock, if held is set.
	until time.Duration
	held  bool
	// since is when the current outcome of requests began, zero if unknown.
	since time.Time
}

// HeldOffError says that the cache sent no request because of an earlier failure.
type HeldOffError struct {
	Cause *upstream.Error
	// Next is the earliest time of the next request.
	Next time.Time
}

func (e *HeldOffError) Error() string {
	return fmt.Sprintf("%s; the engine retries after %s", e.Cause, e.Next.UTC().Format(time.RFC3339))
}

func (e *HeldOffError) Unwrap() error { return e.Cause }

// after returns the hold-off that follows one more failure. random is in [0, 1).
func (h holdOff) after(cause *upstream.Error, now Instant, random float64) holdOff {
	failures := 1
	if sameKind(h.kind, cause.Failure) {
		failures = h.failures + 1
	}
	h = h.because(cause, now)
	h.failures, h.kind = failures, cause.Failure
	h.until, h.held = now.Mono+holdOffTime(cause, failures, random), true
	return h
}

// heard returns the hold-off that follows the failure of a request that was only a test. It
// is the last word, but it doesn't count, and it changes no wait that is in progress.
func (h holdOff) heard(cause *upstream.Error, now Instant, random float64) holdOff {
	held := h.left(now) > 0
	h = h.because(cause, now)
	if !held {
		h.until, h.held = now.Mono+holdOffTime(cause, 1, random), true
	}
	return h
}

// because changes the last outcome.
func (h holdOff) because(cause *upstream.Error, now Instant) holdOff {
	if h.cause == nil || !sameKind(h.cause.Failure, cause.Failure) {
		h.since = now.Wall
	}
	h.cause = cause
	return h
}

// sameKind tells whether two failures belong to the same row. Otherwise an upstream that
// alternates between 503 and garbage would get a request every second.
func sameKind(a, b upstream.Failure) bool {
	return a == b || transient(a) && transient(b)
}

func transient(f upstream.Failure) bool {
	return f == upstream.Unavailable || f == upstream.Malformed
}

// over returns the hold-off that follows a success, which is none.
func (h holdOff) over(now Instant) holdOff {
	if h.cause == nil && !h.since.IsZero() {
		return h
	}
	return holdOff{since: now.Wall}
}

// lifted ends the hold-off and restarts the count, because an operator changed something.
// The last outcome stays.
func (h holdOff) lifted() holdOff { return holdOff{cause: h.cause, since: h.since} }

// left is the rest of the hold-off.
func (h holdOff) left(now Instant) time.Duration {
	if !h.held {
		return 0
	}
	return max(0, h.until-now.Mono)
}

// active returns the error for readers while the hold-off lasts.
func (h holdOff) active(now Instant) error {
	if left := h.left(now); left > 0 {
		return &HeldOffError{Cause: h.cause, Next: now.Wall.Add(left)}
	}
	return nil
}

// AskedWait is how long Fuuffy asked to wait after a failure, as far as the engine follows: an
// hour after a 429, a minute after a 503.
func AskedWait(cause *upstream.Error) time.Duration {
	switch cause.Failure {
	case upstream.RateLimited:
		return cmp.Or(cause.RetryAfter, defaultRateLimitWait)
	case upstream.Unavailable:
		return min(cause.RetryAfter, time.Minute)
	}
	return cause.RetryAfter
}

// holdOffTime is never shorter than AskedWait.
func holdOffTime(cause *upstream.Error, failures int, random float64) time.Duration {
	asked := AskedWait(cause)
	switch cause.Failure {
	case upstream.Rejected:
		return max(asked, growing(30*time.Second, 5*time.Minute, failures, random))
	case upstream.RateLimited:
		return asked + time.Duration(random*float64(time.Second))
	}
	return max(asked, growing(time.Second, time.Minute, failures, random))
}

// growing doubles from least to most with each failure, and subtracts up to a quarter at
// random, so that mounts that failed together don't return together.
func growing(least, most time.Duration, failures int, random float64) time.Duration {
	wait := most
	if doublings := failures - 1; doublings < 10 {
		wait = min(least<<doublings, most)
	}
	return max(least, wait-time.Duration(random*float64(wait)/4))
}
