// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// change is a pure function from the stored configuration, nil if there is none, to a
// transition, or to a userError that says why the change is impossible and what to do instead.
// It runs twice: first to find out what to prove, then on what is stored after the proof.
type change func(stored *storedConfig, now time.Time) (transition, error)

// apply proves what a change needs, stores the change, and puts it in force.
func (b *backend) apply(ctx context.Context, req *logical.Request, change change) (transition, error) {
	based, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return transition{}, err
	}
	t, err := change(based, b.now().UTC())
	if err != nil {
		return transition{}, err
	}
	proof, err := b.prove(ctx, req, t, based)
	if err != nil || t.unchanged {
		return t, err
	}
	var leftover error
	err = b.cache.Switch(ctx, tokencache.Switch{
		Store: func(ctx context.Context) (tokencache.Source, error) {
			var next *client
			t, next, err = b.store(ctx, req.Storage, based, change)
			if err == nil && t.renewed && proof == nil {
				leftover = eraseToken(ctx, req.Storage)
			}
			return next, err
		},
		Proof:   proof,
		Renewed: t.renewed,
	})
	if err != nil {
		return transition{}, err
	}
	if t.dropped != "" {
		b.log().Warn("the list of unrevoked clients is full; the oldest was dropped", "client_id", t.dropped)
	}
	if leftover != nil {
		b.log().Warn("could not remove the former access token", "error", leftover)
	}
	if t.killsTokens != "" {
		b.notifyToken(ctx, tokenEvent{kind: "drop", operation: t.killsTokens, modified: true}, "client_id", t.next.Current.ClientID)
	}
	return t, nil
}

// prove verifies with Fuuffy what must be true before a change. It holds no lock. It returns
// the token that Fuuffy granted, or nil if there was nothing to prove.
func (b *backend) prove(ctx context.Context, req *logical.Request, t transition, based *storedConfig) (*tokencache.Token, error) {
	if t.mustWork == nil {
		return nil, nil
	}
	c, err := b.newClient(&t.next, req.Storage)
	if err != nil {
		return nil, err
	}
	proof, err := c.requestToken(ctx, t.mustWork)
	if err != nil {
		return nil, unproved(t, based, err)
	}
	if t.mustBeDead != nil {
		err = c.proveDead(ctx, t)
	}
	return &proof, err
}

// unproved explains that Fuuffy granted no token to credentials that must work. based is the
// stored configuration, nil if there is none.
func unproved(t transition, based *storedConfig, cause error) error {
	if t.step == "" {
		return &explainedError{meaning: "Nothing was saved: the engine tested the new settings first, and got no access token.", cause: cause}
	}
	id := t.mustWork.ClientID
	e := &explainedError{meaning: fmt.Sprintf("Nothing was changed: the engine tested client %s first, and got no access token.", id), cause: cause}
	failure, ok := errors.AsType[*upstream.Error](cause)
	if ok && failure.RejectsCredentials() && based.has(t.mustWork) {
		e.inState = true
		if t.step == "rollback" {
			e.advice = fmt.Sprintf("Client %s is revoked, so you can't roll back to it.", id)
		}
	}
	return e
}

// proveDead makes sure that Fuuffy no longer accepts a pair of credentials.
func (c *client) proveDead(ctx context.Context, t transition) error {
	_, err := c.requestToken(ctx, t.mustBeDead)
	if err == nil {
		return userError(t.alive)
	}
	if failure, ok := errors.AsType[*upstream.Error](err); ok && failure.ProvesDead() {
		return nil
	}
	return &explainedError{
		meaning: fmt.Sprintf("Nothing was changed: it could not be found out whether client %s is revoked. Try again later.", t.mustBeDead.ClientID),
		advice:  "This response proves nothing: Fuuffy itself must reject the client.",
		cause:   err,
	}
}

// store applies a change to what is stored now, and saves it. It fails if somebody else wrote
// since the proof.
func (b *backend) store(ctx context.Context, storage logical.Storage, based *storedConfig, change change) (transition, *client, error) {
	stored, err := reload(ctx, storage, based)
	if err != nil {
		return transition{}, nil, &tokencache.Refused{Err: err}
	}
	t, err := change(stored, b.now().UTC())
	if err != nil {
		return transition{}, nil, &tokencache.Refused{Err: err}
	}
	next, err := b.newClient(&t.next, storage)
	if err != nil {
		return transition{}, nil, &tokencache.Refused{Err: err}
	}
	return t, next, saveConfig(ctx, storage, next.storedConfig)
}

// explainedError says what a failure means for what the user wanted.
type explainedError struct {
	meaning string
	// advice says what to do, if the usual advice for the cause doesn't help here.
	advice string
	// inState is set if the next step in the state of the rotation follows from the failure.
	inState bool
	cause   error
}

func (e *explainedError) Error() string { return e.meaning + " " + e.cause.Error() }

func (e *explainedError) Unwrap() error { return e.cause }
