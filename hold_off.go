// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"time"
)

// defaultRateLimitWait is how long a 429 without a date keeps the engine from
// asking again: Fuuffy counts requests by the minute.
const defaultRateLimitWait = time.Minute

// holdOff is the time in which the engine leaves Fuuffy alone after a failure, so
// that readers neither hammer a service that is down nor lock the account.
// The zero value holds nothing off.
type holdOff struct {
	// cause is what the last token request ended with.
	cause *upstreamError
	// failures counts the failures of one kind in a row.
	failures int
	// until is its end on the monotonic clock.
	until time.Duration
}

// heldOffError answers who asks for a token during a hold-off.
type heldOffError struct {
	cause *upstreamError
	// next is when Fuuffy is asked again, at the earliest.
	next time.Time
}

func (e *heldOffError) Error() string {
	return fmt.Sprintf("%s; Fuuffy is asked again from %s on", e.cause, e.next.UTC().Format(time.RFC3339))
}

func (e *heldOffError) Unwrap() error { return e.cause }

// after returns the hold-off that follows one more failure. random is in [0, 1).
func (h holdOff) after(cause *upstreamError, now instant, random float64) holdOff {
	failures := 1
	if h.cause != nil && h.cause.failure == cause.failure {
		failures = h.failures + 1
	}
	return holdOff{cause: cause, failures: failures, until: now.mono + holdOffTime(cause, failures, random)}
}

// active returns the error that answers readers for as long as the hold-off lasts.
func (h holdOff) active(now instant) error {
	if h.cause == nil || now.mono >= h.until {
		return nil
	}
	return &heldOffError{cause: h.cause, next: now.wall.Add(h.until - now.mono)}
}

func holdOffTime(cause *upstreamError, failures int, random float64) time.Duration {
	switch cause.failure {
	case rejected:
		return growing(30*time.Second, 5*time.Minute, failures, random)
	case rateLimited:
		wait := cause.retryAfter
		if wait == 0 {
			wait = defaultRateLimitWait
		}
		return wait + time.Duration(random*float64(time.Second))
	default:
		asked := min(cause.retryAfter, time.Minute)
		return max(asked, growing(time.Second, time.Minute, failures, random))
	}
}

// growing doubles from least to most with each failure, and takes a random
// quarter off so that mounts that failed together do not return together.
func growing(least, most time.Duration, failures int, random float64) time.Duration {
	wait := most
	if doublings := failures - 1; doublings < 10 {
		wait = min(least<<doublings, most)
	}
	return max(least, wait-time.Duration(random*float64(wait)/4))
}
