// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"time"
)

// failure says how Fuuffy failed to give a token, which decides whether the
// request is repeated, how long the engine then leaves Fuuffy alone, and what
// the reader is told.
type failure string

const (
	// rejected: Fuuffy understood the request and said no. Repeating it changes
	// nothing and may lock the account.
	rejected failure = "rejected"
	// rateLimited: Fuuffy asks for less (status 429).
	rateLimited failure = "rate_limited"
	// unavailable: no answer, or one that says "not now".
	unavailable failure = "unavailable"
	// malformed: an answer that claims success without a valid token in it.
	malformed failure = "malformed"
)

// upstreamError is Fuuffy's failure to give a token. Its texts are safe to log
// and to show: they never hold a secret, a token or an unread body.
type upstreamError struct {
	failure failure
	// status is Fuuffy's HTTP status, 0 where there was no answer.
	status int
	// code is Fuuffy's word for the error ("invalid_client"), empty if it gave none.
	code string
	// message is what happened, in Fuuffy's words where it gave some.
	message string
	// timeout is set when the wait for an answer was given up.
	timeout bool
	// retryAfter is how long Fuuffy asked to be left alone, at most maxRetryAfter;
	// 0 where it did not say.
	retryAfter time.Duration
	// cause is the transport's error, if that is what ended the request.
	cause error
}

func (e *upstreamError) Error() string {
	text := e.message
	if e.code != "" {
		text = e.code + ": " + text
	}
	if e.status != 0 {
		return fmt.Sprintf("%s (HTTP status %d)", text, e.status)
	}
	return text
}

func (e *upstreamError) Unwrap() error { return e.cause }
