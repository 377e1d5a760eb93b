// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// userError is a mistake of who sent the request. Its text says what to do.
type userError string

func (e userError) Error() string { return string(e) }

var errNotConfigured = errors.New("not configured")

// answer turns every error into what Vault should make of it, in one place: a
// user's mistake and a rejection are a 400, other failures of Fuuffy have statuses
// of their own, and the rest is a fault of ours, a 500.
func answer(req *logical.Request, err error) (*logical.Response, error) {
	if explained, ok := err.(*explainedError); ok {
		return explained.answer(req)
	}
	mistake, isMistake := errors.AsType[userError](err)
	upstream, isUpstream := errors.AsType[*upstreamError](err)
	switch {
	case isMistake:
		return logical.ErrorResponse("%s", mistake.Error()), nil
	case isUpstream:
		return answerUpstream(req, upstream, err)
	case errors.Is(err, errNotConfigured):
		return logical.ErrorResponse("this mount has no Fuuffy credentials yet: vault write %sconfig client_id=… client_secret=-", req.MountPoint), nil
	// Vault forwards the request to the active node if the error is just this.
	// Storage errors lose their type on the way to a plugin.
	case errors.Is(err, errForward), strings.Contains(err.Error(), logical.ErrReadOnly.Error()):
		return nil, logical.ErrReadOnly
	}
	return nil, err
}

// explainedError puts what a failure means for what the user wanted in front of it.
type explainedError struct {
	meaning string
	cause   error
}

func (e *explainedError) Error() string { return e.meaning + " " + e.cause.Error() }

func (e *explainedError) Unwrap() error { return e.cause }

func (e *explainedError) answer(req *logical.Request) (*logical.Response, error) {
	resp, err := answer(req, e.cause)
	if coded, ok := errors.AsType[logical.HTTPCodedError](err); ok {
		return nil, logical.CodedError(coded.Code(), e.meaning+" "+coded.Error())
	}
	if resp.IsError() {
		return logical.ErrorResponse("%s %s", e.meaning, resp.Error()), nil
	}
	return resp, err
}

// answerUpstream tells the reader why there is no token, and what to do.
func answerUpstream(req *logical.Request, upstream *upstreamError, err error) (*logical.Response, error) {
	next := ""
	heldOff, isHeldOff := errors.AsType[*heldOffError](err)
	if isHeldOff {
		next = " Fuuffy is asked again from " + heldOff.next.UTC().Format(time.RFC3339) + " on."
	}
	switch upstream.failure {
	case rejected:
		return logical.ErrorResponse("Fuuffy rejected the request for an access token: %s.%s\n%s", upstream, next, rejectionHelp(upstream.status, req)), nil
	case rateLimited:
		if next == "" {
			next = fmt.Sprintf(" It asks to wait %s.", max(upstream.retryAfter, time.Second))
		}
		return nil, logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("Fuuffy's rate limit is used up: %s.%s", upstream, next))
	case malformed:
		return nil, logical.CodedError(heldOffStatus(isHeldOff, http.StatusBadGateway),
			fmt.Sprintf("Fuuffy's answer has no valid access token: %s.%s", upstream, next))
	}
	status := http.StatusBadGateway
	if upstream.timeout {
		status = http.StatusGatewayTimeout
	}
	return nil, logical.CodedError(heldOffStatus(isHeldOff, status), fmt.Sprintf("Fuuffy can't be reached: %s.%s%s", upstream, next, connectionHelp(upstream, req.MountPoint)))
}

// heldOffStatus is 503 where Fuuffy was not even asked.
func heldOffStatus(isHeldOff bool, otherwise int) int {
	if isHeldOff {
		return http.StatusServiceUnavailable
	}
	return otherwise
}

// rejectionHelp says what usually lies behind a rejection, and what to do. Who has
// just written credentials is told to write them again, not where.
func rejectionHelp(status int, req *logical.Request) string {
	again := "and repeat this command with the right ones"
	if req.Path == tokenKey {
		again = fmt.Sprintf("and write the right ones: vault write %sconfig client_id=… client_secret=- (with environment=testing for test credentials)", req.MountPoint)
	}
	if status < http.StatusBadRequest || status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
		return fmt.Sprintf("Usual cause: base_url does not lead to Fuuffy's API. It ends where /auth/token follows, as in https://gateway.example.com/v1; "+
			"to use Fuuffy's own address, clear it: vault write %sconfig base_url= client_id=… client_secret=-", req.MountPoint)
	}
	return "Usual causes: a mistyped or incomplete client_id or client_secret, credentials of the other environment, " +
		"an account without permission, or revoked credentials. Compare them with the Fuuffy dashboard, " + again + ". If they are right, ask Fuuffy's support."
}

// connectionHelp explains the transport errors that do not pass by themselves.
func connectionHelp(upstream *upstreamError, mount string) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](upstream); ok {
		return fmt.Sprintf("\nThe Vault server doesn't know the authority that signed this certificate. If it is meant to, name it: vault write %sconfig ca_cert=@ca.pem client_secret=-", mount)
	}
	if _, ok := errors.AsType[x509.HostnameError](upstream); ok {
		return "\nThe certificate is for another host: check base_url, and proxies on the way."
	}
	if _, ok := errors.AsType[*net.DNSError](upstream); ok {
		return "\nThe Vault server can't resolve the name: check base_url, and the server's DNS."
	}
	if _, ok := errors.AsType[*net.OpError](upstream); ok {
		return "\nThe Vault server got no connection: check base_url, and firewalls and proxies on the way."
	}
	return ""
}
