// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// respond is the one place that turns errors into responses. The caller's mistakes and
// Fuuffy's rejections are a 400. Fuuffy's other failures have their own statuses. Everything
// else is our fault, a 500.
func (b *backend) respond(ctx context.Context, req *logical.Request, err error) (*logical.Response, error) {
	mistake, isMistake := errors.AsType[userError](err)
	explained, isText := errors.AsType[*textError](err)
	refused, isRefused := errors.AsType[*rotation.Refusal](err)
	tooLong, isTooLong := errors.AsType[*tokencache.MinTTLError](err)
	repeated, isRepeated := errors.AsType[*tokencache.RepeatedError](err)
	failure, isUpstream := errors.AsType[*upstream.Error](err)
	refuse := func(text advice.Text) (*logical.Response, error) {
		return logical.ErrorResponse("%s", text.Render(req.MountPoint)), nil
	}
	switch {
	case isMistake:
		return refuse(advice.Say(mistake.Error()))
	case isText:
		return refuse(explained.text)
	case isRefused:
		return refuse(advice.Explain(refused, b.mountNow(ctx, req)))
	case isTooLong:
		return refuse(advice.Say(fmt.Sprintf("min_ttl is too long. Ask for at most %s, half of the life of this mount's tokens.", shortDuration(tooLong.Max.Truncate(time.Second)))))
	case isRepeated:
		return nil, logical.CodedError(http.StatusServiceUnavailable, repeated.Error()+".")
	case isUpstream:
		return b.respondUpstream(ctx, req, failure, err)
	case errors.Is(err, errNotConfigured):
		return refuse(advice.Do("This mount has no Fuuffy credentials yet:", advice.Configure))
	case errors.Is(err, errDamaged):
		return nil, errors.New(advice.Say(errDamaged.Error()+".").Then("Delete it:", advice.Delete(configKey)).Then("Then write it again:", advice.Configure).Render(req.MountPoint))
	// Vault forwards the request to the active node if the error is just this.
	// Storage errors lose their type in transit to a plugin.
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
	v := b.viewInMemory(ctx, req.Storage)
	_, isHeldOff := errors.AsType[*tokencache.HeldOffError](err)
	what := strings.TrimSpace(explained.meaning + " " + b.describe(failure, explained, v))
	text := advice.Say(what).And(adviceOn(req, v, failure, explained)).Render(req.MountPoint)
	switch {
	case failure.Failure == upstream.Rejected:
		return logical.ErrorResponse("%s", text), nil
	case failure.Failure == upstream.RateLimited:
		return nil, logical.CodedError(http.StatusTooManyRequests, text)
	case isHeldOff:
		return nil, logical.CodedError(http.StatusServiceUnavailable, text)
	case failure.Timeout:
		return nil, logical.CodedError(http.StatusGatewayTimeout, text)
	}
	return nil, logical.CodedError(http.StatusBadGateway, text)
}

// describe says what failed. v is nil if the mount's state can't be read.
func (b *backend) describe(failure *upstream.Error, explained *explainedError, v *view) string {
	reader := explained.meaning == "" && v != nil && v.mount.Failure != nil
	name := explained.name
	if name == "" && v != nil {
		name = advice.Name(&v.Current, v.Held())
	}
	switch {
	case failure.OverBudget():
		return fmt.Sprintf("This mount sends Fuuffy at most %d token requests a minute. Try again in %s.", upstream.MaxPerMinute, failure.RetryAfter)
	case failure.LeadsElsewhere() || failure.NotFuuffy():
		return fmt.Sprintf("Fuuffy's token endpoint didn't respond: %s.", failure)
	case failure.Failure == upstream.Rejected:
		text := fmt.Sprintf("Fuuffy rejected %s: %s.", name, failure)
		if reader && failure.RejectsCredentials() {
			text += " The engine retries after " + v.mount.RetryAt.UTC().Format(time.RFC3339) + "."
		}
		return text
	case failure.Failure == upstream.RateLimited:
		return "Fuuffy's rate limit is exhausted: " + failure.Error() + ". " + waitFor(failure, reader, v, b.now())
	case failure.Failure == upstream.Malformed:
		return fmt.Sprintf("Fuuffy's response has no valid access token: %s.", failure)
	case failure.Status != 0:
		said := strings.TrimPrefix(failure.Code+": "+failure.Message, ": ")
		return fmt.Sprintf("Fuuffy returned %d: %s.", failure.Status, strings.TrimRight(said, " .:"))
	}
	return fmt.Sprintf("Can't reach Fuuffy: %s.", failure)
}

// waitFor says when a request may succeed after a 429. The engine retries for readers only.
func waitFor(failure *upstream.Error, reader bool, v *view, now time.Time) string {
	asked := "Fuuffy named no time to wait."
	if failure.RetryAfter > 0 {
		asked = "Fuuffy asks to wait until " + now.Add(failure.RetryAfter).UTC().Format(time.RFC3339) + "."
	}
	if reader {
		asked += " The engine retries after " + v.mount.RetryAt.UTC().Format(time.RFC3339) + "."
	}
	return asked + " All requests of the Fuuffy account count."
}

// mountNow is the state of the mount, nil if it can't be read.
func (b *backend) mountNow(ctx context.Context, req *logical.Request) *advice.Mount {
	v, err := b.view(ctx, req.Storage)
	if err != nil {
		return nil
	}
	return &v.mount
}

// adviceOn says what to do about a failure of Fuuffy. Readers and rotation steps get the
// mount's next step. Someone who just wrote credentials or an endpoint should repeat that
// command, so the advice doesn't name another.
func adviceOn(req *logical.Request, v *view, failure *upstream.Error, explained *explainedError) advice.Text {
	switch {
	case failure.OverBudget():
		return nil
	case explained.advice != nil:
		return explained.advice
	case v != nil && (explained.inState || req.Path == tokenKey && v.mount.Failure != nil):
		return v.mount.NextStep()
	}
	again := advice.Repeat
	if req.Path != configKey && v != nil {
		again = v.mount.ChangeEndpoint
	}
	if endpoint := advice.EndpointAdvice(failure, again); endpoint != nil {
		return endpoint
	}
	if failure.Failure == upstream.Rejected {
		return advice.Say("Usual causes: a mistyped or incomplete client_id or client_secret, extra characters, URL-encoded values (they must be raw), credentials of the other environment, " +
			"an account without permission, or revoked credentials. Compare them with the Fuuffy dashboard, and repeat this command with the right ones. " +
			"If they are right, ask Fuuffy's support.")
	}
	return advice.Say("Once Fuuffy responds again, repeat this command.")
}
