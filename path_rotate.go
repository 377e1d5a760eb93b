// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
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
				Description: "The old credentials may be in the wrong hands: put the new ones in force at once, and do not use the old ones again.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.readRotation,
				Summary:   "See where the rotation stands, and what to do next.",
				Responses: rotationResponses,
			},
			logical.UpdateOperation: b.rotationStep(b.stage, "stage", "Try new credentials, and stage them."),
			logical.DeleteOperation: b.rotationStep(b.discard, "discard", "Discard the staged credentials."),
		},
		HelpSynopsis:    strings.TrimSpace(rotateSynopsis),
		HelpDescription: strings.TrimSpace(rotateDescription),
	}
}

// pathRotateStep is a step that takes no fields.
func (b *backend) pathRotateStep(name string, callback framework.OperationFunc, synopsis string) *framework.Path {
	synopsis = strings.TrimSpace(synopsis)
	return &framework.Path{
		Pattern:         rotatePath + "/" + name,
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "rotation"},
		Operations:      map[logical.Operation]framework.OperationHandler{logical.UpdateOperation: b.rotationStep(callback, name, synopsis)},
		HelpSynopsis:    synopsis,
		HelpDescription: strings.TrimSpace(rotateDescription),
	}
}

func (b *backend) pathComplete() *framework.Path {
	path := b.pathRotateStep("complete", b.complete, completeSynopsis)
	path.Fields = map[string]*framework.FieldSchema{
		"force": {
			Type: framework.TypeBool, Default: false,
			Description: "Forget the old credentials without the proof that they are dead.",
		},
	}
	return path
}

// rotationStep is the operation of one step. The storage is the primary's, and
// each step asks Fuuffy first: it belongs on the node that can finish the job.
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
	return s.rotationResponse(req.MountPoint), nil
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
		return nil, userError(fmt.Sprintf("client_id and client_secret are both needed; nothing was changed.\n\n%s", workflow(req.MountPoint)))
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
	return b.runStep(ctx, req, complete(d.Get("force").(bool)))
}

func (b *backend) rollback(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.runStep(ctx, req, rollback)
}

func (b *backend) discard(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.runStep(ctx, req, discard)
}

// runStep takes a step of the rotation, and answers with where it stands then.
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
		b.Logger().Info("rotation of the credentials", "step", t.step, "state", t.next.Rotation.state(), "client_id", t.next.Current.ClientID)
		b.metrics.steps.WithLabelValues(t.step).Inc()
		b.notify(ctx, "rotate-root-"+t.step, rotatePath, "client_id", t.next.Current.ClientID, "state", t.next.Rotation.state())
	}
	s, err := b.snapshot(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	resp := s.rotationResponse(req.MountPoint)
	warnings = slices.DeleteFunc(warnings, func(text string) bool { return text == "" })
	resp.Warnings = slices.Concat(warnings, t.warnings, resp.Warnings)
	return resp, nil
}

const rotateSynopsis = `
Rotate the credentials: stage, promote, complete, or roll back.
`

const promoteSynopsis = `
Put the staged credentials in force, and keep the old ones to fall back on.
`

const rollbackSynopsis = `
Put the old credentials back in force.
`

const completeSynopsis = `
Prove that the new credentials work and the old ones are dead, and forget the old.
`

const rotateDescription = `
Fuuffy asks for new credentials every 90 days, and at once if they are compromised
or someone leaves. No step interrupts anybody; "vault read fuuffy/rotate-root"
says at any time where you are and what to type next.

 1. Create new credentials in the Fuuffy dashboard. Keep the old ones for now.
 2. vault write fuuffy/rotate-root client_id=… client_secret=-
    tries them; nothing else changes. To drop them: vault delete fuuffy/rotate-root
 3. vault write -f fuuffy/rotate-root/promote
    puts them in force. If Fuuffy rejects them later, the old ones step in.
 4. Trouble? vault write -f fuuffy/rotate-root/rollback puts the old ones back.
 5. Wait until revoke_old_after: until then apps may hold tokens of the old ones.
    Revoke the old ones in the Fuuffy dashboard.
 6. vault write -f fuuffy/rotate-root/complete
    proves that the old ones are dead, and forgets them.

In an emergency:

    vault write fuuffy/rotate-root client_id=… client_secret=- compromised=true

does 2 and 3 at once and never uses the old credentials again. Revoke them at once,
and complete.
`
