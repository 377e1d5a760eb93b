// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// checkInterval is how often operators can test the credentials.
const checkInterval = 10 * time.Second

func (b *backend) pathRotate() *framework.Path {
	return &framework.Path{
		Pattern:      rotatePath,
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "rotation"},
		Fields: map[string]*framework.FieldSchema{
			"client_id":     required(configFields["client_id"]),
			"client_secret": required(configFields["client_secret"]),
			"compromised": {
				Type: framework.TypeBool, Default: false,
				Description: "The old credentials may have leaked: put the new ones in force immediately, and never use the old ones again.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.readRotation,
				Summary:   "See where the rotation stands, and what to do next.",
				Responses: rotationResponses,
			},
			logical.UpdateOperation: b.rotationStep(b.stage, "stage", "Test new credentials, and stage them."),
			logical.DeleteOperation: b.rotationStep(b.discard, "discard", "Discard the staged credentials."),
		},
		HelpSynopsis:    strings.TrimSpace(rotateSynopsis),
		HelpDescription: strings.TrimSpace(rotateDescription),
	}
}

// pathRotateStep is a step that takes no fields.
func (b *backend) pathRotateStep(name string, callback framework.OperationFunc, synopsis string) *framework.Path {
	return &framework.Path{
		Pattern:         rotatePath + "/" + name,
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "rotation"},
		Operations:      map[logical.Operation]framework.OperationHandler{logical.UpdateOperation: b.rotationStep(callback, name, synopsis)},
		HelpSynopsis:    strings.TrimSpace(synopsis),
		HelpDescription: strings.TrimSpace(rotateDescription),
	}
}

func (b *backend) pathComplete() *framework.Path {
	path := b.pathRotateStep("complete", b.complete, completeSynopsis)
	path.Fields = map[string]*framework.FieldSchema{
		"force": {
			Type: framework.TypeBool, Default: false,
			Description: "Forget the old credentials without proof that they are dead.",
		},
		"compromised_client_id": {
			Type: framework.TypeString, Description: "Required with force after an emergency: the ID of the compromised client.",
		},
	}
	return path
}

func (b *backend) pathRevoked() *framework.Path {
	path := b.pathRotateStep("revoked", b.revoked, revokedSynopsis)
	path.Fields = map[string]*framework.FieldSchema{
		"client_id": {Type: framework.TypeString, Required: true, Description: "The client that you revoked in the Fuuffy dashboard."},
	}
	return path
}

// pathCheck stores nothing, but each test is a request to Fuuffy, so it runs on the node that
// requests tokens.
func (b *backend) pathCheck() *framework.Path {
	path := b.pathRotateStep("check", b.check, checkSynopsis)
	path.Operations[logical.UpdateOperation].(*framework.PathOperation).Responses = map[int][]framework.Response{
		http.StatusOK: {{Description: "What Fuuffy says about each pair of credentials.", Fields: checkFields}},
	}
	return path
}

var checkFields = map[string]*framework.FieldSchema{
	"current":            {Type: framework.TypeString, Required: true, Description: "The credentials in force: works, dead, or could not be found out, and why."},
	"client_id":          {Type: framework.TypeString, Required: true, Description: "The client in force."},
	"staged":             {Type: framework.TypeString, Description: "The same for the staged credentials."},
	"staged_client_id":   {Type: framework.TypeString, Description: "The client that is staged."},
	"previous":           {Type: framework.TypeString, Description: "The same for the previous credentials."},
	"previous_client_id": {Type: framework.TypeString, Description: "The client that was in force before."},
	"next_step":          {Type: framework.TypeString, Required: true, Description: "What to do now."},
}

// rotationStep is the operation of one step. It writes the primary's storage and requests a
// token first, so it runs on the node that can do both.
func (b *backend) rotationStep(callback framework.OperationFunc, verb, summary string) *framework.PathOperation {
	return &framework.PathOperation{
		Callback:                    callback,
		Summary:                     summary,
		Responses:                   rotationResponses,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: verb},
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
	}
}

func (b *backend) readRotation(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	s, err := b.snapshot(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	return s.rotationResponse(), nil
}

func (b *backend) stage(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	id, idWarning, err := textField(d, "client_id")
	if err != nil {
		return nil, err
	}
	secret, secretWarning, err := textField(d, "client_secret")
	if err != nil {
		return nil, err
	}
	if id == "" || secret == "" {
		return nil, userError("client_id and client_secret are both needed; nothing was changed. You create and revoke credentials in the Fuuffy dashboard, so you and Vault take turns:\n" + workflow)
	}
	pair := newCredentials(id, secret, b.now())
	step := stage(pair)
	if d.Get("compromised").(bool) {
		step = emergency(pair)
	}
	return b.runStep(ctx, req, step, idWarning, secretWarning)
}

func (b *backend) promote(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.runStep(ctx, req, promote)
}

func (b *backend) complete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	how := completion{force: d.Get("force").(bool), compromisedClientID: d.Get("compromised_client_id").(string)}
	s, err := b.snapshot(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if !s.Rotation.Compromised {
		how.revokeOldAfter = s.revokeOldAfter()
	}
	return b.runStep(ctx, req, complete(how))
}

func (b *backend) rollback(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.runStep(ctx, req, rollback)
}

func (b *backend) discard(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.runStep(ctx, req, discard)
}

func (b *backend) revoked(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	clientID, _, err := textField(d, "client_id")
	if err != nil {
		return nil, err
	}
	if clientID == "" {
		return nil, userError("client_id is missing: name the client that you revoked in the Fuuffy dashboard")
	}
	return b.runStep(ctx, req, revoked(clientID))
}

// check tests all credentials that the mount has, and changes nothing.
func (b *backend) check(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	s, err := b.snapshot(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	last, now := b.checked.Load(), s.now.UnixNano()
	// A clock that was set back must not lock the operator out.
	if now >= last && now-last < int64(checkInterval) || !b.checked.CompareAndSwap(last, now) {
		return nil, userError(fmt.Sprintf("somebody checked the credentials moments ago: check again in %s", checkInterval))
	}
	current, staged, previous := s.try(ctx, &s.Current), s.try(ctx, s.Rotation.Staged), s.try(ctx, s.Rotation.Previous)
	if err := b.learn(ctx, s, current, previous); err != nil {
		return nil, err
	}
	data := map[string]any{
		"client_id":          s.Current.ClientID,
		"staged_client_id":   clientIDOf(s.Rotation.Staged),
		"previous_client_id": clientIDOf(s.Rotation.Previous),
		"current":            outcomeOf(current),
		"staged":             outcomeOf(staged),
		"previous":           outcomeOf(previous),
	}
	if s, err = b.snapshot(ctx, req.Storage); err != nil {
		return nil, err
	}
	data["next_step"] = s.nextStep()
	return &logical.Response{Data: applicable(data)}, nil
}

// try requests a token with a pair of credentials. It returns nil if there is no pair.
func (s *snapshot) try(ctx context.Context, pair *credentials) *attempt {
	if pair == nil {
		return nil
	}
	t, err := s.requestToken(ctx, pair)
	return &attempt{t, err}
}

// learn tells the cache what a check found, as if a reader had asked.
func (b *backend) learn(ctx context.Context, s *snapshot, current, previous *attempt) error {
	t, err := current.token, current.err
	failure, failed := errors.AsType[*upstream.Error](err)
	if failed && failure.RejectsCredentials() && s.Rotation.fallback() != nil {
		t, err = s.fallBack(ctx, *previous, s.cached.Token, failure)
		failure, failed = errors.AsType[*upstream.Error](err)
	}
	switch {
	case failed:
		b.cache.Fail(s.client, failure)
		return nil
	case err != nil:
		return err
	}
	return b.cache.Succeed(ctx, s.client, t)
}

// outcomeOf says what a check found out about a pair of credentials, empty if there is no
// pair.
func outcomeOf(a *attempt) string {
	if a == nil {
		return ""
	}
	failure, ok := errors.AsType[*upstream.Error](a.err)
	switch {
	case a.err == nil:
		return "works"
	case ok && failure.ProvesDead():
		return "dead: " + failure.Error()
	}
	return "could not be found out: " + a.err.Error()
}

// runStep takes a step of the rotation, and returns where the rotation stands afterward.
func (b *backend) runStep(ctx context.Context, req *logical.Request, step step, warnings ...string) (*logical.Response, error) {
	t, err := b.apply(ctx, req, func(stored *storedConfig, now time.Time) (transition, error) {
		if stored == nil {
			return transition{}, errNotConfigured
		}
		return step(*stored, now)
	})
	if err != nil {
		return nil, err
	}
	if !t.unchanged {
		b.logStep(t)
		b.metrics.steps.WithLabelValues(t.step).Inc()
		b.notify(ctx, "rotate-root-"+t.step, rotatePath, "client_id", t.next.Current.ClientID, "state", t.next.Rotation.state())
	}
	s, err := b.snapshot(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	resp := s.rotationResponse()
	warnings = slices.DeleteFunc(warnings, func(text string) bool { return text == "" })
	resp.Warnings = slices.Concat(warnings, t.warnings, resp.Warnings)
	return resp, nil
}

// logStep names every client that a step is about. The last record of the history has the
// client that was dropped or revoked.
func (b *backend) logStep(t transition) {
	r := &t.next.Rotation
	line := []any{"step", t.step, "state", r.state(), "client_id", t.next.Current.ClientID}
	if r.Staged != nil {
		line = append(line, "staged_client_id", r.Staged.ClientID)
	}
	if r.Previous != nil {
		line = append(line, "previous_client_id", r.Previous.ClientID)
	}
	b.log().Info("rotation of the credentials", append(line, "history", r.lastRecord().String())...)
}

// rotationFields are the response of every rotation path. A response leaves out what doesn't
// apply.
var rotationFields = map[string]*framework.FieldSchema{
	"state":              {Type: framework.TypeString, Required: true, Description: "idle, staged or promoted."},
	"client_id":          {Type: framework.TypeString, Required: true, Description: "The client in force."},
	"last_rotated":       {Type: framework.TypeTime, Required: true, Description: "When the credentials in force came into force."},
	"next_rotation":      {Type: framework.TypeTime, Required: true, Description: "When the credentials are due for rotation."},
	"days_left":          {Type: framework.TypeInt64, Required: true, Description: "Days until next_rotation, rounded up; 0 or less if overdue."},
	"overdue":            {Type: framework.TypeBool, Required: true, Description: "Whether the credentials are overdue for rotation."},
	"staged_client_id":   {Type: framework.TypeString, Description: "The client that is staged."},
	"staged_at":          {Type: framework.TypeTime, Description: "When the staged client was staged."},
	"previous_client_id": {Type: framework.TypeString, Description: "The client that was in force before, and is not known to be dead."},
	"promoted_at":        {Type: framework.TypeTime, Description: "When the client in force replaced the previous one."},
	"revoke_old_after":   {Type: framework.TypeTime, Description: "When no app holds a token of the previous client anymore, so that you can revoke the client in the dashboard. Left out while the engine needs it."},
	"compromised":        {Type: framework.TypeBool, Required: true, Description: "Whether an operator said that the previous credentials are compromised."},
	"fallback_active":    {Type: framework.TypeBool, Required: true, Description: "Whether the engine serves a token of the previous credentials because Fuuffy rejects the new ones."},
	"auth_failures":      {Type: framework.TypeInt64, Required: true, Description: "How often Fuuffy rejected the credentials in force, on this node, since the plugin started."},
	"unrevoked":          {Type: framework.TypeString, Description: "Clients that an operator gave up and that may still work, one a line: since when, which client, and why."},
	"history":            {Type: framework.TypeString, Required: true, Description: "The last ten steps, one a line, the newest last: when, what, and which client."},
	"next_step":          {Type: framework.TypeString, Required: true, Description: "What to do now."},
}

var rotationResponses = map[int][]framework.Response{http.StatusOK: {{Description: "Where the rotation stands.", Fields: rotationFields}}}

// rotationResponse shows where a rotation stands.
func (s *snapshot) rotationResponse() *logical.Response {
	r := &s.Rotation
	resp := &logical.Response{Data: applicable(map[string]any{
		"state":              r.state(),
		"client_id":          s.Current.ClientID,
		"last_rotated":       timestamp(s.Current.SetAt),
		"next_rotation":      timestamp(s.dueAt()),
		"days_left":          s.daysLeft(s.now),
		"overdue":            s.overdue(s.now),
		"staged_client_id":   clientIDOf(r.Staged),
		"staged_at":          timestamp(r.StagedAt),
		"previous_client_id": clientIDOf(r.Previous),
		"promoted_at":        timestamp(r.PromotedAt),
		"revoke_old_after":   timestamp(s.revokeOldAfter()),
		"compromised":        r.Compromised,
		"fallback_active":    s.fallbackActive(),
		"auth_failures":      int64(s.b.pairs.of(s.Current.ID).rejections),
		"unrevoked":          r.unrevoked(),
		"history":            r.history(),
		"next_step":          s.nextStep(),
	})}
	s.warn(resp)
	return resp
}

const rotateSynopsis = `
Rotate the credentials: stage, promote, complete, or roll back.
`

const promoteSynopsis = `
Put the staged credentials in force, and keep the old ones as a fallback.
`

const rollbackSynopsis = `
Put the old credentials back in force.
`

const completeSynopsis = `
Prove that the new credentials work and the old ones are dead, and forget the old.
`

const revokedSynopsis = `
Tick off a client that you revoked in the Fuuffy dashboard.
`

const checkSynopsis = `
Test the credentials in force, staged, and kept, and change nothing.
`

var rotateDescription = `
Fuuffy requires new credentials every 90 days, and immediately if they are
compromised or someone who knew them leaves. No step interrupts an app.
` + strings.ReplaceAll(workflow, "<mount>", "fuuffy/")
