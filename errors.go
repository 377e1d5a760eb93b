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

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// userError is a mistake of who sent the request. Its text says what to do.
type userError string

func (e userError) Error() string { return string(e) }

var errNotConfigured = errors.New("not configured")

// respond turns every error into what Vault should make of it, in one place: a
// user's mistake and a rejection are a 400, other failures of Fuuffy have statuses
// of their own, and the rest is a fault of ours, a 500.
func respond(req *logical.Request, err error) (*logical.Response, error) {
	if explained, ok := err.(*explainedError); ok {
		return explained.respond(req)
	}
	mistake, isMistake := errors.AsType[userError](err)
	failure, isUpstream := errors.AsType[*upstream.Error](err)
	switch {
	case isMistake:
		return logical.ErrorResponse("%s", mistake.Error()), nil
	case isUpstream:
		return respondUpstream(req, failure, err)
	case errors.Is(err, errNotConfigured):
		return logical.ErrorResponse("this mount has no Fuuffy credentials yet: vault write %sconfig client_id=… client_secret=-", req.MountPoint), nil
	// Vault forwards the request to the active node if the error is just this.
	// Storage errors lose their type on the way to a plugin.
	case errors.Is(err, tokencache.ErrForward), strings.Contains(err.Error(), logical.ErrReadOnly.Error()):
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

func (e *explainedError) respond(req *logical.Request) (*logical.Response, error) {
	resp, err := respond(req, e.cause)
	if coded, ok := errors.AsType[logical.HTTPCodedError](err); ok {
		return nil, logical.CodedError(coded.Code(), e.meaning+" "+coded.Error())
	}
	if resp.IsError() {
		return logical.ErrorResponse("%s %s", e.meaning, resp.Error()), nil
	}
	return resp, err
}

// respondUpstream tells the reader why there is no token, and what to do.
func respondUpstream(req *logical.Request, failure *upstream.Error, err error) (*logical.Response, error) {
	next := ""
	heldOff, isHeldOff := errors.AsType[*tokencache.HeldOffError](err)
	if isHeldOff {
		next = " Fuuffy is asked again from " + heldOff.Next.UTC().Format(time.RFC3339) + " on."
	}
	switch failure.Failure {
	case upstream.Rejected:
		return logical.ErrorResponse("Fuuffy rejected the request for an access token: %s.%s\n%s", failure, next, rejectionHelp(failure.Status, req)), nil
	case upstream.RateLimited:
		if next == "" {
			next = fmt.Sprintf(" It asks to wait %s.", max(failure.RetryAfter, time.Second))
		}
		return nil, logical.CodedError(http.StatusTooManyRequests, fmt.Sprintf("Fuuffy's rate limit is used up: %s.%s", failure, next))
	case upstream.Malformed:
		return nil, logical.CodedError(heldOffStatus(isHeldOff, http.StatusBadGateway),
			fmt.Sprintf("Fuuffy's answer has no valid access token: %s.%s", failure, next))
	}
	status := http.StatusBadGateway
	if failure.Timeout {
		status = http.StatusGatewayTimeout
	}
	return nil, logical.CodedError(heldOffStatus(isHeldOff, status), fmt.Sprintf("Fuuffy can't be reached: %s.%s%s", failure, next, connectionHelp(failure, req.MountPoint)))
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
func connectionHelp(failure *upstream.Error, mount string) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](failure); ok {
		return fmt.Sprintf("\nThe Vault server doesn't know the authority that signed this certificate. If it is meant to, name it: vault write %sconfig ca_cert=@ca.pem client_secret=-", mount)
	}
	if _, ok := errors.AsType[x509.HostnameError](failure); ok {
		return "\nThe certificate is for another host: check base_url, and proxies on the way."
	}
	if _, ok := errors.AsType[*net.DNSError](failure); ok {
		return "\nThe Vault server can't resolve the name: check base_url, and the server's DNS."
	}
	if _, ok := errors.AsType[*net.OpError](failure); ok {
		return "\nThe Vault server got no connection: check base_url, and firewalls and proxies on the way."
	}
	return ""
}
