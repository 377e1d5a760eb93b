// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// checkInterval is how often operators can test the credentials.
const checkInterval = 10 * time.Second

// pathCheck stores nothing, but each test is a request to Fuuffy, so it runs on the node that
// requests tokens.
func (b *backend) pathCheck() *framework.Path {
	path := b.pathRotateStep("check", b.check, checkSynopsis, checkDescription)
	path.Operations[logical.UpdateOperation].(*framework.PathOperation).Responses = map[int][]framework.Response{
		http.StatusOK: {{Description: "What Fuuffy says about each pair of credentials.", Fields: checkFields}},
	}
	return path
}

var checkFields = map[string]*framework.FieldSchema{
	"current":            {Type: framework.TypeString, Required: true, Description: "The current credentials: works; or rejected, revoked (proved), or unknown, and why."},
	"client_id":          {Type: framework.TypeString, Required: true, Description: "The current client."},
	"staged":             {Type: framework.TypeString, Description: "The same for the staged credentials."},
	"staged_client_id":   {Type: framework.TypeString, Description: "The client that is staged."},
	"previous":           {Type: framework.TypeString, Description: "The same for the previous credentials."},
	"previous_client_id": {Type: framework.TypeString, Description: "The client that was current before."},
	"next_step":          {Type: framework.TypeString, Required: true, Description: "What to do now. A command stands at the end of its line."},
}

// check tests all credentials that the mount has, and changes nothing.
func (b *backend) check(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	v, err := b.view(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(ctx.Err(), b.budget.Room(len(v.Held()))); err != nil {
		return nil, err
	}
	last, now := b.checked.Load(), b.now().UnixNano()
	left := checkInterval - time.Duration(now-last)
	// A clock that was set back must not lock the operator out.
	if left > 0 && left <= checkInterval || !b.checked.CompareAndSwap(last, now) {
		return nil, userError(fmt.Sprintf("Checks are limited to one per %s. Try again in %s.", checkInterval, max(left, time.Second).Round(time.Second)))
	}
	current, staged, previous := v.tryAll(ctx)
	if err := b.recordCheck(ctx, v, current, previous); err != nil {
		return nil, err
	}
	data := map[string]any{
		"client_id":          v.Current.ClientID,
		"staged_client_id":   v.Rotation.Staged.Client(),
		"previous_client_id": v.Rotation.Previous.Client(),
		"current":            outcomeOf(current),
		"staged":             outcomeOf(staged),
		"previous":           outcomeOf(previous),
	}
	if v, err = b.view(ctx, req.Storage); err != nil {
		return nil, err
	}
	step := v.mount.NextStep()
	if current.err == nil {
		step = step.Then("If an app still gets a 401, report its token:", advice.Report)
	}
	data["next_step"] = step.Render(req.MountPoint)
	return &logical.Response{Data: applicable(data)}, nil
}

// tryAll requests a token with each pair that the mount holds, side by side, so that it takes no
// longer than one request_timeout. A result is nil if there is no such pair.
func (v *view) tryAll(ctx context.Context) (current, staged, previous *attempt) {
	var tries sync.WaitGroup
	for result, pair := range map[**attempt]*rotation.Pair{&current: &v.Current, &staged: v.Rotation.Staged, &previous: v.Rotation.Previous} {
		if pair != nil {
			tries.Go(func() { *result = v.try(ctx, pair) })
		}
	}
	tries.Wait()
	return current, staged, previous
}

func (v *view) try(ctx context.Context, pair *rotation.Pair) *attempt {
	t, err := v.tryToken(ctx, pair)
	return &attempt{token: t, err: err}
}

// recordCheck tells the cache what a check found, as if a reader had asked.
func (b *backend) recordCheck(ctx context.Context, v *view, current, previous *attempt) error {
	t, err := current.token, current.err
	failure, failed := errors.AsType[*upstream.Error](err)
	if overBudget(current) || failed && overBudget(previous) {
		return nil // Something else used up the budget meanwhile, so this says nothing.
	}
	if failed && failure.RejectsCredentials() && v.Fallback() != nil {
		t, err = v.fallBack(*previous, failure)
		failure, failed = errors.AsType[*upstream.Error](err)
	}
	switch {
	case failed:
		return b.cache.Commit(ctx, tested(tokencache.Test{Source: v.client, Failure: failure}))
	case err != nil:
		return err
	}
	if err := b.cache.Commit(ctx, tested(tokencache.Test{Source: v.client, Token: t})); err != nil {
		return err
	}
	if now := b.cache.Snapshot().Token; now != nil && now.Value == t.Value && t.FallbackFor != "" {
		v.announceFallback(ctx, v.cached.Token, current.err)
	}
	return nil
}

// tested stores nothing.
func tested(t tokencache.Test) func(context.Context) (tokencache.Effect, error) {
	return func(context.Context) (tokencache.Effect, error) { return tokencache.Effect{Test: &t}, nil }
}

// overBudget tells whether the engine held the request of an attempt back.
func overBudget(a *attempt) bool {
	if a == nil {
		return false
	}
	failure, ok := errors.AsType[*upstream.Error](a.err)
	return ok && failure.OverBudget()
}

// outcomeOf says what a check says about a pair of credentials, empty if there is no
// pair.
func outcomeOf(a *attempt) string {
	if a == nil {
		return ""
	}
	switch answer, _ := answerOf(a.err); answer {
	case rotation.Accepted:
		return "works"
	case rotation.Rejected:
		return "rejected: " + a.err.Error()
	case rotation.Revoked:
		return "revoked: " + a.err.Error()
	}
	return "unknown: " + a.err.Error()
}

const checkSynopsis = `
Test the current, staged, and previous credentials, and change nothing.
`

const checkDescription = `
Requests a token with each pair of credentials that the mount has, at most once per ten
seconds. For each pair, it says: works, rejected, revoked (proved), or unknown. It changes
no credentials. If the current ones work, a wait after a failure ends, and so does a fallback.

    vault write -f <mount>rotate-root/check
`
