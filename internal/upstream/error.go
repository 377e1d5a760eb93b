// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Failure is the class of a failed token request. It decides whether to retry, how long the
// engine holds off, and what the reader sees.
type Failure string

const (
	// Rejected: Fuuffy understood the request and said no. A retry changes nothing
	// and may lock the account.
	Rejected Failure = "rejected"
	// RateLimited: Fuuffy asks for fewer requests (status 429), or the Budget is spent.
	RateLimited Failure = "rate_limited"
	// Unavailable: no response, or one that says "not now".
	Unavailable Failure = "unavailable"
	// Malformed: a response that claims success without a valid token in it.
	Malformed Failure = "malformed"
)

// Error is a failed token request. Its texts are safe to log and to show: they never contain
// a secret, a token, or an unread body.
type Error struct {
	Failure Failure
	// Status is Fuuffy's HTTP status, 0 if there was no response.
	Status int
	// Code is Fuuffy's word for the error ("invalid_client"), empty if it gave none.
	Code string
	// Message says what happened, in Fuuffy's words if there are any.
	Message string
	// Timeout is set if no response arrived in time.
	Timeout bool
	// RetryAfter is how long Fuuffy asked to wait, at most MaxRetryAfter; 0 if it didn't say. Of
	// an error that is OverBudget it is how long until the next request.
	RetryAfter time.Duration
	// Proxy is the host of the proxy that ended the request, empty if none did. ProxyStatus is
	// the HTTP status with which it refused to connect, 0 if it didn't say.
	Proxy       string
	ProxyStatus int
	// WantsClientCertificate is set if the host requires a client certificate, or Proxy does.
	// The engine has none.
	WantsClientCertificate bool
	// Cause is the transport's error, if that ended the request. Its text is as safe
	// as the others.
	Cause error

	// lasting is set if a retry can't help.
	lasting bool
	// deniesClient is set if Fuuffy's own envelope says that the client is invalid.
	deniesClient bool
	// overBudget is set if the engine sent nothing.
	overBudget bool
	// notFuuffy is set if the response claims success without Fuuffy's envelope.
	notFuuffy bool
}

func (e *Error) Error() string {
	text := e.Message
	if e.Code != "" {
		text = e.Code + ": " + text
	}
	if e.Status != 0 {
		return fmt.Sprintf("%s (HTTP status %d)", text, e.Status)
	}
	return text
}

func (e *Error) Unwrap() error { return e.Cause }

// RejectsCredentials tells whether Fuuffy may have rejected the credentials themselves, so
// that other credentials may work. A redirect or a 404 isn't about credentials.
func (e *Error) RejectsCredentials() bool {
	return slices.Contains([]int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden}, e.Status)
}

// LeadsElsewhere tells whether something other than Fuuffy's token endpoint responded: a
// redirect, or an address that doesn't exist there.
func (e *Error) LeadsElsewhere() bool {
	return e.Failure == Rejected && (e.Status < http.StatusBadRequest || e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed)
}

// OverBudget tells whether the engine itself held the request back, to send no more than
// MaxPerMinute. Fuuffy wasn't asked, so the error says nothing about it.
func (e *Error) OverBudget() bool { return e.overBudget }

// NotFuuffy tells whether a response claims success but isn't Fuuffy's: a login page, a proxy's
// page, another API. So base_url may be wrong, or something in between responded.
func (e *Error) NotFuuffy() bool { return e.notFuuffy }

// ProvesRevoked tells whether the response proves that Fuuffy no longer accepts the
// credentials. A firewall's 403 page or a 400 about something else proves nothing.
func (e *Error) ProvesRevoked() bool {
	return e.Failure == Rejected && (e.Status == http.StatusUnauthorized || e.deniesClient)
}

// worthRetrying tells whether another attempt may succeed before readers give up.
func (e *Error) worthRetrying() bool {
	return e.Failure == Unavailable && !e.lasting && e.RetryAfter <= maxPause
}

// blameCertificate explains the page of a gateway that requested a client certificate, as
// nginx does. Fuuffy itself gives an explanation.
func (e *Error) blameCertificate() {
	if e.Message == noExplanation && (e.Status == http.StatusBadRequest || e.Status == http.StatusForbidden) {
		e.WantsClientCertificate = true
		e.Message = "the host requested a client certificate, which the engine doesn't support, and gave no explanation in Fuuffy's format"
	}
}

// networkError is the failure to get a whole response.
func networkError(doing string, err error, redact *redactor) *Error {
	timedOut, isNet := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	e := &Error{
		Failure: Unavailable,
		Timeout: errors.Is(err, context.DeadlineExceeded) || isNet && timedOut.Timeout(),
		// An expired certificate's text ends in a colon if there are no details.
		Message: strings.TrimRight(redact.clean(err.Error()), " .:"),
	}
	e.Cause = &cause{text: e.Message, err: err}
	if doing != "" {
		e.Message = doing + ": " + e.Message
	}
	// A certificate that can't be verified doesn't get better in a second.
	_, e.lasting = errors.AsType[*tls.CertificateVerificationError](err)
	if wanted, ok := errors.AsType[*clientCertificateError](err); ok {
		e.WantsClientCertificate, e.lasting = true, true
		e.Message = redact.clean(wanted.Error())
	}
	if proxy, ok := errors.AsType[*proxyError](err); ok {
		e.Proxy, e.ProxyStatus = redact.clean(proxy.host), proxy.status
		e.Message = redact.clean(proxy.Error())
		e.lasting = e.lasting || proxy.lasting()
	}
	return e
}

// cause stands for the transport's error. Its text is redacted, and errors.Is and
// errors.As see through it. It has no Unwrap, so that no one prints the original.
type cause struct {
	text string
	err  error
}

func (c *cause) Error() string        { return c.text }
func (c *cause) Is(target error) bool { return errors.Is(c.err, target) }
func (c *cause) As(target any) bool   { return errors.As(c.err, target) }
