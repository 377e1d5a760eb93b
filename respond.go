// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
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

// respond turns every error into what Vault should make of it, in one place: a
// user's mistake and a rejection are a 400, other failures of Fuuffy have statuses
// of their own, and the rest is a fault of ours, a 500.
func (b *backend) respond(req *logical.Request, err error) (*logical.Response, error) {
	mistake, isMistake := errors.AsType[userError](err)
	tooLong, isTooLong := errors.AsType[*tokencache.MinTTLError](err)
	failure, isUpstream := errors.AsType[*upstream.Error](err)
	switch {
	case isMistake:
		return logical.ErrorResponse("%s", atMount(req, mistake.Error())), nil
	case isTooLong:
		return logical.ErrorResponse("min_ttl is too long: the access tokens of this mount allow %s at most, half of their life", shortDuration(tooLong.Most.Truncate(time.Second))), nil
	case isUpstream:
		return b.respondUpstream(req, failure, err)
	case errors.Is(err, errNotConfigured):
		return logical.ErrorResponse("%s", atMount(req, "this mount has no Fuuffy credentials yet: vault write <mount>config client_id=… client_secret=-")), nil
	// Vault forwards the request to the active node if the error is just this.
	// Storage errors lose their type on the way to a plugin.
	case errors.Is(err, tokencache.ErrForward), strings.Contains(err.Error(), logical.ErrReadOnly.Error()):
		return nil, logical.ErrReadOnly
	}
	return nil, err
}

// respondUpstream tells the reader why there is no token, and what to do.
func (b *backend) respondUpstream(req *logical.Request, failure *upstream.Error, err error) (*logical.Response, error) {
	meaning, advice := "", ""
	if explained, ok := errors.AsType[*explainedError](err); ok {
		meaning, advice = explained.meaning+" ", explained.advice
	}
	next := ""
	heldOff, isHeldOff := errors.AsType[*tokencache.HeldOffError](err)
	if isHeldOff {
		next = " Fuuffy is asked again from " + heldOff.Next.UTC().Format(time.RFC3339) + " on."
	}
	say := func(text, advice string) string {
		if advice != "" {
			text += "\n" + advice
		}
		return atMount(req, meaning+text)
	}
	status := http.StatusBadGateway
	switch {
	case isHeldOff:
		status = http.StatusServiceUnavailable
	case failure.Timeout:
		status = http.StatusGatewayTimeout
	}
	advice = cmp.Or(advice, b.stale(req, failure))
	switch failure.Failure {
	case upstream.Rejected:
		return logical.ErrorResponse("%s", say(fmt.Sprintf("Fuuffy rejected the request for an access token: %s.%s", failure, next), cmp.Or(advice, b.rejectionAdvice(req, failure)))), nil
	case upstream.RateLimited:
		if next == "" {
			next = fmt.Sprintf(" It asks to wait %s.", max(failure.RetryAfter, time.Second))
		}
		return nil, logical.CodedError(http.StatusTooManyRequests, say(fmt.Sprintf("Fuuffy's rate limit is used up: %s.%s", failure, next), advice))
	case upstream.Malformed:
		return nil, logical.CodedError(status, say(fmt.Sprintf("Fuuffy's answer has no valid access token: %s.%s", failure, next), advice))
	}
	if failure.Status != 0 {
		words := strings.TrimPrefix(failure.Code+": "+failure.Message, ": ")
		return nil, logical.CodedError(status, say(fmt.Sprintf("Fuuffy is down: it answered %d: %s.%s", failure.Status, words, next), advice))
	}
	return nil, logical.CodedError(status, say(fmt.Sprintf("Fuuffy can't be reached: %s.%s", failure, next), cmp.Or(connectionAdvice(req, failure), advice)))
}

// inMemory is the mount as it is in memory, nil if nothing is loaded.
func (b *backend) inMemory() *snapshot {
	s := &snapshot{cached: b.cache.Snapshot(), now: b.now()}
	var ok bool
	if s.client, ok = s.cached.Source.(*client); !ok {
		return nil
	}
	return s
}

// stale tells readers of a token that is not served any more that it could be.
func (b *backend) stale(req *logical.Request, failure *upstream.Error) string {
	s := b.inMemory()
	if req.Path != tokenKey || s == nil || s.StaleIfError || s.cached.State != tokencache.InBuffer || failure.Failure == upstream.Rejected {
		return ""
	}
	return fmt.Sprintf("The last token lives until %s; with stale_if_error=true it would be served: vault write <mount>config stale_if_error=true",
		s.cached.Token.ExpiresAt.UTC().Format(time.RFC3339))
}

// rejectionAdvice says what usually lies behind a rejection, and what to do. Who has
// just written credentials is told to write them again, not where.
func (b *backend) rejectionAdvice(req *logical.Request, failure *upstream.Error) string {
	if req.Path == tokenKey {
		if s := b.inMemory(); s != nil && s.Rotation.state() != stateIdle && s.cached.Failure != nil {
			return s.nextStep()
		}
	}
	if status := failure.Status; status < http.StatusBadRequest || status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
		return "Usual cause: base_url does not lead to Fuuffy's API. It ends where /auth/token follows, as in https://gateway.example.com/v1; " +
			"to use Fuuffy's own address, clear it: vault write <mount>config base_url= client_id=… client_secret=-"
	}
	again := "and repeat this command with the right ones"
	if req.Path == tokenKey {
		again = "and write the right ones: vault write <mount>config client_id=… client_secret=- (with environment=testing for test credentials)"
	}
	return "Usual causes: a mistyped or incomplete client_id or client_secret, credentials of the other environment, " +
		"an account without permission, or revoked credentials. Compare them with the Fuuffy dashboard, " + again + ". If they are right, ask Fuuffy's support."
}

// connectionAdvice explains the transport errors that last.
func connectionAdvice(req *logical.Request, failure *upstream.Error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](failure); ok {
		again := "name it: vault write <mount>config ca_cert=@ca.pem client_secret=-"
		if req.Path == configKey {
			again = "repeat this command with ca_cert=@ca.pem"
		}
		return "The Vault server doesn't know the authority that signed this certificate. If it is meant to, " + again
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](failure); ok && invalid.Reason == x509.Expired {
		return "The certificate has expired or is not valid yet: check the Vault server's clock, and tell whoever runs the gateway or Fuuffy's support."
	}
	if _, ok := errors.AsType[x509.HostnameError](failure); ok {
		return "The certificate is for another host: check base_url, and proxies on the way."
	}
	if _, ok := errors.AsType[*net.DNSError](failure); ok {
		return "The Vault server can't resolve the name: check base_url, and the server's DNS."
	}
	if _, ok := errors.AsType[*net.OpError](failure); ok {
		return "The Vault server got no connection: check base_url, and firewalls and proxies on the way."
	}
	return ""
}

// atMount puts the mount's path into a text for people.
func atMount(req *logical.Request, text string) string {
	return strings.ReplaceAll(text, "<mount>", cmp.Or(req.MountPoint, "fuuffy/"))
}

// finish puts the mount's path into what a response tells people.
func finish(req *logical.Request, resp *logical.Response) {
	if resp == nil {
		return
	}
	for i, warning := range resp.Warnings {
		resp.Warnings[i] = atMount(req, warning)
	}
	if next, ok := resp.Data["next_step"].(string); ok {
		resp.Data["next_step"] = atMount(req, next)
	}
}
