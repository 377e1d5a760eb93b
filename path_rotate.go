// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

func (b *backend) pathRotate() *framework.Path {
	return &framework.Path{
		Pattern:      rotatePath,
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "rotation"},
		Fields: map[string]*framework.FieldSchema{
			"client_id":     required(configFields["client_id"]),
			"client_secret": required(configFields["client_secret"]),
			"compromised": {
				Type: framework.TypeBool, Default: false,
				Description: "The current credentials may have leaked: make the new ones current immediately, and never use the old ones again.",
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

func (b *backend) pathPromote() *framework.Path {
	return b.pathRotateStep("promote", b.promote, promoteSynopsis, promoteDescription)
}

func (b *backend) pathRollback() *framework.Path {
	return b.pathRotateStep("rollback", b.rollback, rollbackSynopsis, rollbackDescription)
}

func (b *backend) pathComplete() *framework.Path {
	path := b.pathRotateStep("complete", b.complete, completeSynopsis, completeDescription)
	path.Fields = map[string]*framework.FieldSchema{
		"force": {
			Type: framework.TypeBool, Default: false,
			Description: "Forget the old credentials without proof that they are revoked.",
		},
	}
	return path
}

func (b *backend) pathRevoked() *framework.Path {
	path := b.pathRotateStep("revoked", b.revoked, revokedSynopsis, revokedDescription)
	path.Operations[logical.UpdateOperation].(*framework.PathOperation).Responses = map[int][]framework.Response{
		http.StatusOK:        rotationResponses[http.StatusOK],
		http.StatusNoContent: {{Description: "The client is marked, and nothing is configured."}},
	}
	path.Fields = map[string]*framework.FieldSchema{
		"client_id": {Type: framework.TypeString, Required: true, Description: "The client that you revoked in the Fuuffy dashboard."},
	}
	return path
}

// pathRotateStep is a step that takes no fields.
func (b *backend) pathRotateStep(name string, callback framework.OperationFunc, synopsis, description string) *framework.Path {
	return &framework.Path{
		Pattern:         rotatePath + "/" + name,
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "rotation"},
		Operations:      map[logical.Operation]framework.OperationHandler{logical.UpdateOperation: b.rotationStep(callback, name, synopsis)},
		HelpSynopsis:    strings.TrimSpace(synopsis),
		HelpDescription: strings.TrimSpace(description),
	}
}

// rotationStep is the operation of one step. It writes the primary's storage and requests a
// token first, so it runs on the node that can do both.
func (b *backend) rotationStep(callback framework.OperationFunc, verb, summary string) *framework.PathOperation {
	return &framework.PathOperation{
		Callback:                    callback,
		Summary:                     strings.TrimSpace(summary),
		Responses:                   rotationResponses,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: verb},
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
	}
}

func (b *backend) readRotation(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	v, err := b.view(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	return v.rotationResponse(req), nil
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
		return nil, userError("client_id and client_secret are both needed. Nothing was changed. You create and revoke credentials in the Fuuffy dashboard, so you and Vault take turns:\n" + advice.RenderHelp(workflow, req.MountPoint))
	}
	pair := rotation.NewPair(id, secret, b.now())
	step := rotation.Stage(pair)
	if d.Get("compromised").(bool) {
		step = rotation.Emergency(pair)
	}
	return b.runStep(ctx, req, step, idWarning, secretWarning)
}

func (b *backend) discard(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.runStep(ctx, req, rotation.Discard)
}

func (b *backend) promote(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.runStep(ctx, req, rotation.Promote)
}

func (b *backend) rollback(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.runStep(ctx, req, rotation.Rollback)
}

func (b *backend) complete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return b.runStep(ctx, req, rotation.Complete(d.Get("force").(bool)))
}

func (b *backend) revoked(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	clientID, _, err := textField(d, "client_id")
	if err != nil {
		return nil, err
	}
	if clientID == "" {
		return nil, userError("client_id is missing: name the client that you revoked in the Fuuffy dashboard.")
	}
	resp, err := b.runStep(ctx, req, rotation.MarkRevoked(clientID))
	if errors.Is(err, errNotConfigured) {
		return nil, b.markLeak(ctx, req, clientID)
	}
	return resp, err
}

// markLeak is the step while nothing is configured: it takes a compromised pair off the list that
// outlived the configuration.
func (b *backend) markLeak(ctx context.Context, req *logical.Request, clientID string) error {
	var t rotation.Transition
	err := b.cache.Commit(ctx, func(ctx context.Context) (tokencache.Effect, error) {
		var err error
		if t, err = b.markStoredLeak(ctx, req, clientID); err != nil {
			err = &tokencache.Refused{Err: err} // Nothing in memory depends on this entry.
		}
		return tokencache.Effect{}, err
	})
	if err == nil {
		b.log().Info("rotation of the credentials", "step", t.Step, "history", t.Next.Rotation.LastRecord().String())
		b.metrics.steps.WithLabelValues(t.Step).Inc()
	}
	return err
}

func (b *backend) markStoredLeak(ctx context.Context, req *logical.Request, clientID string) (t rotation.Transition, err error) {
	if _, err := reload(ctx, req.Storage, nil); err != nil {
		return t, err
	}
	leaks, err := loadLeaks(ctx, req.Storage)
	if err != nil {
		return t, err
	}
	t, err = rotation.MarkRevoked(clientID)(rotation.Pairs{Rotation: leaks}, rotation.Facts{Now: b.now().UTC()})
	switch {
	case err != nil:
		return t, err
	case t.Unchanged && len(leaks.Unrevoked) == 0:
		return t, errNotConfigured
	case t.Unchanged:
		return t, userError(advice.Tell(t.Notes[0], &rotation.Pair{}).Render(req.MountPoint))
	}
	return t, saveLeaks(ctx, req.Storage, &t.Next.Rotation)
}

// runStep takes a step of the rotation, and returns where the rotation stands afterward.
func (b *backend) runStep(ctx context.Context, req *logical.Request, step rotation.Step, warnings ...string) (*logical.Response, error) {
	// The node may know from storage only when the last token of the previous pair ends.
	if _, err := b.view(ctx, req.Storage); err != nil {
		return nil, err
	}
	t, err := b.apply(ctx, req, stepChange(step))
	if err != nil {
		return nil, err
	}
	if !t.Unchanged {
		b.logStep(&t.Next, t.Step)
		b.metrics.steps.WithLabelValues(t.Step).Inc()
		b.notify(ctx, "rotate-root-"+t.Step, rotatePath, "client_id", t.Next.Current.ClientID, "state", t.Next.Rotation.Name())
	}
	v, err := b.view(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	resp := v.rotationResponse(req)
	warnings = slices.DeleteFunc(warnings, func(text string) bool { return text == "" })
	for _, note := range t.Notes {
		warnings = append(warnings, advice.Tell(note, &t.Next.Current).Render(req.MountPoint))
	}
	resp.Warnings = append(warnings, resp.Warnings...)
	return resp, nil
}

// logStep names every client that a step is about. The last record of the history has the
// client that was dropped or revoked.
func (b *backend) logStep(pairs *rotation.Pairs, step string) {
	r := &pairs.Rotation
	line := []any{"step", step, "state", r.Name(), "client_id", pairs.Current.ClientID}
	if r.Staged != nil {
		line = append(line, "staged_client_id", r.Staged.ClientID)
	}
	if r.Previous != nil {
		line = append(line, "previous_client_id", r.Previous.ClientID)
	}
	b.log().Info("rotation of the credentials", append(line, "history", r.LastRecord().String())...)
}

// rotationFields are the response of every rotation path. A response leaves out what doesn't
// apply.
var rotationFields = map[string]*framework.FieldSchema{
	"state":              {Type: framework.TypeString, Required: true, Description: "idle, staged or promoted."},
	"client_id":          {Type: framework.TypeString, Required: true, Description: "The current client."},
	"last_rotated":       {Type: framework.TypeTime, Required: true, Description: "When the current credentials took effect."},
	"next_rotation":      {Type: framework.TypeTime, Required: true, Description: "When the credentials are due for rotation."},
	"days_left":          {Type: framework.TypeInt64, Required: true, Description: "Days until next_rotation, rounded up; 0 or less if overdue."},
	"overdue":            {Type: framework.TypeBool, Required: true, Description: "Whether the credentials are overdue for rotation."},
	"staged_client_id":   {Type: framework.TypeString, Description: "The client that is staged."},
	"staged_at":          {Type: framework.TypeTime, Description: "When the staged client was staged."},
	"previous_client_id": {Type: framework.TypeString, Description: "The client that was current before. The rotation isn't completed."},
	"promoted_at":        {Type: framework.TypeTime, Description: "When the current client replaced the previous one."},
	"revoke_old_after":   {Type: framework.TypeTime, Description: "When no app holds a token of the previous client anymore, so that you can revoke the client in the dashboard. Left out while the engine needs it."},
	"compromised":        {Type: framework.TypeBool, Required: true, Description: "Whether an operator said that the previous credentials are compromised."},
	"fallback_active":    {Type: framework.TypeBool, Required: true, Description: "Whether the engine serves a token of the previous credentials because Fuuffy rejects the new ones."},
	"auth_failures":      {Type: framework.TypeInt64, Required: true, Description: "How often Fuuffy rejected the current credentials, on this node, since the plugin started."},
	"unrevoked":          {Type: framework.TypeString, Description: "Clients that are no longer used but may still work, one per line: since when, which client, and why."},
	"history":            {Type: framework.TypeString, Required: true, Description: "The last ten steps, one per line, the newest last: when, what, and which client."},
	"next_step":          {Type: framework.TypeString, Required: true, Description: "What to do now. A command stands at the end of its line."},
}

var rotationResponses = map[int][]framework.Response{http.StatusOK: {{Description: "Where the rotation stands.", Fields: rotationFields}}}

// rotationResponse shows where a rotation stands.
func (v *view) rotationResponse(req *logical.Request) *logical.Response {
	r, m := &v.Rotation, &v.mount
	resp := &logical.Response{Data: applicable(map[string]any{
		"state":              r.Name(),
		"client_id":          v.Current.ClientID,
		"last_rotated":       timestamp(v.Current.SetAt),
		"next_rotation":      timestamp(m.DueAt()),
		"days_left":          m.DaysLeft(),
		"overdue":            m.Overdue(),
		"staged_client_id":   r.Staged.Client(),
		"staged_at":          timestamp(r.StagedAt),
		"previous_client_id": r.Previous.Client(),
		"promoted_at":        timestamp(r.PromotedAt),
		"revoke_old_after":   timestamp(m.RevokeOldAfter()),
		"compromised":        r.Compromised,
		"fallback_active":    m.FallbackActive,
		"auth_failures":      int64(v.pairs.of(v.Current.ID).rejections),
		"unrevoked":          r.UnrevokedText(),
		"history":            r.HistoryText(),
		"next_step":          m.NextStep().Render(req.MountPoint),
	})}
	v.warn(resp)
	return resp
}

// warn adds what is wrong or due to a response.
func (v *view) warn(resp *logical.Response) {
	for _, c := range v.mount.Conditions() {
		resp.AddWarning(c.Text)
	}
}

// workflow is the rotation's routine, for path-help and for writes without credentials.
const workflow = `
 1. Create new credentials in the Fuuffy dashboard. Keep the old ones for now.
 2. Test and stage the new ones:
    vault write <mount>rotate-root client_id=<client_id> client_secret=-
    To discard them:
    vault delete <mount>rotate-root
 3. Make them current. If Fuuffy rejects them later, the engine falls back to the old ones:
    vault write -f <mount>rotate-root/promote
 4. If apps have trouble with the new ones, go back to the old ones:
    vault write -f <mount>rotate-root/rollback
 5. Wait until revoke_old_after, because apps may hold tokens of the old ones until then.
    Then revoke the old ones in the Fuuffy dashboard.
 6. Prove that the old ones are revoked, and forget them:
    vault write -f <mount>rotate-root/complete

If a secret leaked, do 2 and 3 in one step. The engine never uses the old credentials
again. Revoke them immediately, then complete:
    vault write <mount>rotate-root client_id=<client_id> client_secret=- compromised=true

To see where you are and what to do next:
    vault read <mount>rotate-root
`

const rotateSynopsis = `
Rotate the credentials: stage, promote, complete, or roll back.
`

const rotateDescription = `
Fuuffy recommends new credentials every 90 days, and immediately if the old ones are
compromised or someone who knew them leaves. No step interrupts an app.
` + workflow

const promoteSynopsis = `
Make the staged credentials current, and keep the old ones as a fallback.
`

const promoteDescription = `
Tests the staged credentials once more, and makes them current in one write. Apps get a
token of the new credentials from their next read on, and no read waits. The engine keeps
the old credentials: if Fuuffy rejects the new ones, it falls back to the old ones.

    vault write -f <mount>rotate-root/promote

Don't revoke the old credentials before revoke_old_after. The response says what to do next.
`

const rollbackSynopsis = `
Make the old credentials current again.
`

const rollbackDescription = `
Tests the old credentials, and makes them current again in one write. The engine forgets
the new ones and lists their client as unrevoked. It can't roll back to credentials that
are revoked or compromised.

    vault write -f <mount>rotate-root/rollback
`

const completeSynopsis = `
Prove that the new credentials work and the old ones are revoked, and forget the old ones.
`

const completeDescription = `
First revoke the old credentials in the Fuuffy dashboard, after revoke_old_after. Then:

    vault write -f <mount>rotate-root/complete

The engine requests a token with the new credentials, which must succeed, and one with the
old ones, which Fuuffy must reject. Only a 401, or Fuuffy's invalid_client, proves that it
does. A firewall's 403 page proves nothing. Then the engine forgets the old secret.

With force=true, it forgets the old secret without proof, and lists the client in unrevoked:
as forced, or as compromised if it leaked.
`

const revokedSynopsis = `
Mark a client as revoked in the Fuuffy dashboard.
`

const revokedDescription = `
The engine lists each client that it no longer uses but that may still work (unrevoked), because
a rotation was forced, rolled back, discarded, or replaced, or because it is compromised.
Revoke the client in the Fuuffy dashboard, then mark it:

    vault write <mount>rotate-root/revoked client_id=<client_id>

Each run marks one secret of the client, a compromised one first. The engine refuses
compromised credentials until you mark them, or complete proves that they are revoked.
`
