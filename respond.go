// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// respond is the one place that turns errors into responses. The caller's mistakes and
// Fuuffy's rejections are a 400. Fuuffy's other failures have their own statuses. Everything
// else is our fault, a 500.
func (b *backend) respond(ctx context.Context, req *logical.Request, err error) (*logical.Response, error) {
	mistake, isMistake := errors.AsType[userError](err)
	refused, isRefused := errors.AsType[refusedStep](err)
	tooLong, isTooLong := errors.AsType[*tokencache.MinTTLError](err)
	failure, isUpstream := errors.AsType[*upstream.Error](err)
	switch {
	case isMistake:
		return logical.ErrorResponse("%s", atMount(req, mistake.Error())), nil
	case isRefused:
		return logical.ErrorResponse("%s", atMount(req, refused.Error()+"\n"+b.nextStep(ctx, req))), nil
	case isTooLong:
		return logical.ErrorResponse("min_ttl is too long. Ask for at most %s, half of the life of this mount's tokens", shortDuration(tooLong.Most.Truncate(time.Second))), nil
	case isUpstream:
		return b.respondUpstream(ctx, req, failure, err)
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
func (b *backend) respondUpstream(ctx context.Context, req *logical.Request, failure *upstream.Error, err error) (*logical.Response, error) {
	explained, ok := errors.AsType[*explainedError](err)
	if !ok {
		explained = &explainedError{}
	}
	heldOff, isHeldOff := errors.AsType[*tokencache.HeldOffError](err)
	say := func(text string) string {
		text = strings.TrimSpace(explained.meaning + " " + text)
		return atMount(req, text+"\n"+b.adviceOn(ctx, req, failure, explained))
	}
	status := http.StatusBadGateway
	switch {
	case isHeldOff:
		status = http.StatusServiceUnavailable
	case failure.Timeout:
		status = http.StatusGatewayTimeout
	}
	switch {
	case failure.Failure == upstream.Rejected:
		text := fmt.Sprintf("Fuuffy rejected the request for an access token: %s.", failure)
		if isHeldOff && failure.RejectsCredentials() {
			text += " The engine retries after " + heldOff.Next.UTC().Format(time.RFC3339) + "."
		}
		return logical.ErrorResponse("%s", say(text)), nil
	case failure.Failure == upstream.RateLimited:
		text := fmt.Sprintf("Fuuffy's rate limit is used up: %s.", failure)
		if !isHeldOff {
			text += fmt.Sprintf(" It asks the engine to wait %s.", max(failure.RetryAfter, time.Second))
		}
		return nil, logical.CodedError(http.StatusTooManyRequests, say(text))
	case failure.Failure == upstream.Malformed:
		return nil, logical.CodedError(status, say(fmt.Sprintf("Fuuffy's response has no valid access token: %s.", failure)))
	case failure.Status != 0:
		words := strings.TrimPrefix(failure.Code+": "+failure.Message, ": ")
		return nil, logical.CodedError(status, say(fmt.Sprintf("Fuuffy is down: it answered %d: %s.", failure.Status, words)))
	}
	return nil, logical.CodedError(status, say(fmt.Sprintf("Fuuffy can't be reached: %s.", failure)))
}

// nextStep is the next step of the mount, empty if its state can't be read.
func (b *backend) nextStep(ctx context.Context, req *logical.Request) string {
	s, err := b.snapshot(ctx, req.Storage)
	if err != nil {
		return ""
	}
	return s.nextStep()
}

// adviceOn says what to do about a failure of Fuuffy. Readers and rotation steps get the
// mount's next step. Somebody who just wrote credentials or an endpoint should repeat that
// command, so the advice doesn't name another.
func (b *backend) adviceOn(ctx context.Context, req *logical.Request, failure *upstream.Error, explained *explainedError) string {
	if explained.advice != "" && !explained.inState {
		return explained.advice
	}
	s, err := b.snapshot(ctx, req.Storage)
	switch {
	case err == nil && req.Path == tokenKey && s.cached.Failure != nil:
		return s.stale() + s.nextStep()
	case err == nil && explained.inState:
		return strings.TrimSpace(explained.advice + " " + s.nextStep())
	}
	again := func(setting string) string { return "repeat this command with " + setting }
	if req.Path != configKey && err == nil {
		again = s.changeEndpoint
	}
	advice := endpointAdvice(failure, again)
	switch {
	case advice != "":
		return advice + "."
	case failure.Failure == upstream.Rejected:
		return "Usual causes: a mistyped or incomplete client_id or client_secret, credentials of the other environment, " +
			"an account without permission, or revoked credentials. Compare them with the Fuuffy dashboard, and repeat this command with the right ones. " +
			"If they are right, ask Fuuffy's support."
	}
	return "Once Fuuffy responds again, repeat this command."
}

// stale tells readers how to get the token that is inside its buffer.
func (s *snapshot) stale() string {
	if s.StaleIfError || s.cached.State != tokencache.InBuffer || s.cached.Failure.Failure == upstream.Rejected {
		return ""
	}
	return fmt.Sprintf("The last token lives until %s. To serve it until then: vault write <mount>config stale_if_error=true\n",
		s.cached.Token.ExpiresAt.UTC().Format(time.RFC3339))
}

// atMount puts the mount's path into a text for people.
func atMount(req *logical.Request, text string) string {
	return strings.ReplaceAll(text, "<mount>", cmp.Or(req.MountPoint, "fuuffy/"))
}

// finish puts the mount's path into the texts of a response.
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
