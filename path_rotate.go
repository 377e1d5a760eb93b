// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const rotatePath = "rotate-root"

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
				Responses: rotationAnswers,
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
		Responses:                   rotationAnswers,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: verb},
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
	}
}

func (b *backend) readRotation(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	stored, err := loadConfigured(ctx, req.Storage)
	if err != nil {
		return answer(req, err)
	}
	return b.rotationResponse(stored, req.MountPoint), nil
}

func (b *backend) stage(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	input := &configChange{}
	var id, secret string
	if _, err := input.text(d, "client_id", &id); err != nil {
		return answer(req, err)
	}
	if _, err := input.text(d, "client_secret", &secret); err != nil {
		return answer(req, err)
	}
	if id == "" || secret == "" {
		return answer(req, userError(fmt.Sprintf("client_id and client_secret are both needed; nothing was changed.\n\n%s", workflow(req.MountPoint))))
	}
	pair := newCredentials(id, secret, b.cache.wallClock())
	return b.take(ctx, req, stage(pair, d.Get("compromised").(bool)), input.warnings)
}

func (b *backend) promote(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.take(ctx, req, promote, nil)
}

func (b *backend) complete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return b.take(ctx, req, complete(d.Get("force").(bool)), nil)
}

func (b *backend) rollback(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.take(ctx, req, rollback, nil)
}

func (b *backend) discard(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.take(ctx, req, discard, nil)
}

// take proves what a step needs, takes it, and answers with where the rotation
// stands then.
func (b *backend) take(ctx context.Context, req *logical.Request, s step, warnings []string) (*logical.Response, error) {
	based, err := loadConfigured(ctx, req.Storage)
	if err != nil {
		return answer(req, err)
	}
	t, err := s(*based, b.cache.wallClock().UTC())
	if err != nil {
		return answer(req, err)
	}
	proof, err := b.proveStep(ctx, req, based, t)
	if err != nil {
		return answer(req, err)
	}
	if !t.unchanged {
		if t, err = b.commitStep(ctx, req.Storage, based, s, proof); err != nil {
			return answer(req, err)
		}
		b.Logger().Info("rotation of the credentials", "step", t.step, "state", t.next.Rotation.state(), "client_id", t.next.Current.ClientID)
		b.metrics.steps.WithLabelValues(t.step).Inc()
		b.notify(ctx, "rotate-root-"+t.step, rotatePath, "client_id", t.next.Current.ClientID, "state", t.next.Rotation.state())
	}
	resp := b.rotationResponse(&t.next, req.MountPoint)
	resp.Warnings = append(append(warnings, t.warnings...), resp.Warnings...)
	return resp, nil
}

// proveStep asks Fuuffy what must be true before a step. No lock is held meanwhile.
func (b *backend) proveStep(ctx context.Context, req *logical.Request, based *storedConfig, t transition) (*accessToken, error) {
	if t.mustWork == nil {
		return nil, nil
	}
	live, err := b.build(based)
	if err != nil {
		return nil, err
	}
	defer live.client.close()
	proof, err := b.prove(ctx, live, t.mustWork)
	if err != nil {
		return nil, &explainedError{fmt.Sprintf("Nothing was changed: client %s was tried first, and got no access token.", t.mustWork.ClientID), err}
	}
	if t.mustBeDead == nil {
		return proof, nil
	}
	_, err = b.prove(ctx, live, t.mustBeDead)
	switch {
	case err == nil && t.step == "complete":
		return nil, userError(fmt.Sprintf("the old credentials still work, so nothing was changed: revoke %s in the Fuuffy dashboard, and complete again. "+
			"If that can't be, vault write %s%s/complete force=true forgets them without this proof", toRevoke(t.mustBeDead, t.mustWork), req.MountPoint, rotatePath))
	case err == nil:
		return nil, userError(fmt.Sprintf("client %s still works, so nothing was changed: put it back with rotate-root/rollback, "+
			"or revoke it in the Fuuffy dashboard and write this again", t.mustBeDead.ClientID))
	case !rejectsCredentials(err):
		return nil, &explainedError{fmt.Sprintf("Nothing was changed: it could not be found out whether client %s is revoked. Try again later.", t.mustBeDead.ClientID), err}
	}
	return proof, nil
}

// commitStep takes the step on what is stored now, which must be what it was
// proved for. It is one storage write.
func (b *backend) commitStep(ctx context.Context, storage logical.Storage, based *storedConfig, s step, proof *accessToken) (transition, error) {
	b.changes.Lock()
	defer b.changes.Unlock()
	stored, err := reload(ctx, storage, based)
	if err != nil {
		return transition{}, err
	}
	t, err := s(*stored, b.cache.wallClock().UTC())
	if err != nil {
		return transition{}, err
	}
	live, err := b.build(&t.next)
	if err != nil {
		return transition{}, err
	}
	return t, b.saveAndEnforce(ctx, storage, live, proof)
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
