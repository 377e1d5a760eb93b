// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// change is a pure function from the stored configuration, nil if there is none, to the outcome
// of a write or a step, or to an error that says why it is impossible and what to do instead.
// It runs twice: first to find out what to prove, then on what is stored after the proof.
type change func(stored *storedConfig, f rotation.Facts) (transition, error)

// transition is the outcome of a change: what must be true before it, and the configuration
// after it.
type transition struct {
	rotation.Transition
	// config is the configuration after the change. Its pairs are those of Next.
	config storedConfig
	// renewed is set if a write of the config changes the credentials or their endpoint.
	renewed bool
	// tokensDead is set if Fuuffy rejects the tokens that apps hold, or is about to.
	tokensDead deadTokens
	warnings   []string
}

// deadTokens is why Fuuffy rejects the tokens that apps hold, as subscribers of events read it.
type deadTokens string

const (
	deadByLeak   deadTokens = "compromised"
	deadByConfig deadTokens = "configured"
)

// stepChange is the change that takes a step of the rotation.
func stepChange(step rotation.Step) change {
	return func(stored *storedConfig, f rotation.Facts) (transition, error) {
		if stored == nil {
			return transition{}, errNotConfigured
		}
		taken, err := step(stored.Pairs, f)
		t := transition{Transition: taken, config: *stored}
		t.config.Pairs = taken.Next
		if taken.MustWork != nil && taken.MustWork.ID == taken.Next.Current.ID {
			t.config.Untested = false
		}
		if taken.Leaked {
			t.tokensDead = deadByLeak
		}
		return t, err
	}
}

// apply proves what a change needs, stores the change, and puts it into effect.
func (b *backend) apply(ctx context.Context, req *logical.Request, change change) (transition, error) {
	based, err := loadConfig(ctx, req.Storage)
	if err == nil && !b.inMemory(based) {
		// Memory follows first, and tells of what that means for apps.
		if based, err = b.stored(ctx, req.Storage); based != nil {
			_, err = b.inForce(ctx, req.Storage)
		}
	}
	if err != nil {
		return transition{}, err
	}
	facts, err := b.facts(ctx, req.Storage, based)
	if err != nil {
		return transition{}, err
	}
	t, err := change(based, facts)
	if err != nil {
		return transition{}, err
	}
	proof, err := b.prove(ctx, req, t, based)
	if err != nil || t.Unchanged {
		return t, err
	}
	stored, leftover, err := b.commit(ctx, req, based, change, t.renewed, proof)
	if err != nil {
		return transition{}, err
	}
	for _, dropped := range stored.Dropped {
		b.log().Warn("the list of unrevoked clients is full, so the engine dropped the oldest: revoke it in the Fuuffy dashboard", "client_id", dropped.ClientID)
	}
	if leftover != nil {
		b.log().Warn("could not remove a former entry from storage", "error", leftover)
	}
	if stored.tokensDead != "" {
		b.notifyDropped(ctx, stored.tokensDead, stored.Next.Current.ClientID)
	}
	return stored, nil
}

// commit stores a change and puts it into effect in one step. leftover is why a former entry could
// not be removed from storage, where it does no harm.
func (b *backend) commit(ctx context.Context, req *logical.Request, based *storedConfig, change change, renewed bool, proof *tokencache.Token) (t transition, leftover, err error) {
	err = b.cache.Commit(ctx, func(ctx context.Context) (tokencache.Effect, error) {
		stored, next, err := b.store(ctx, req.Storage, based, change)
		if err != nil {
			return tokencache.Effect{}, err
		}
		t = stored
		effect := tokencache.Effect{Source: next}
		switch {
		case proof != nil:
			effect.Test = &tokencache.Test{Source: next, Token: *proof}
		case renewed:
			leftover = eraseToken(ctx, req.Storage)
		}
		if based == nil {
			leftover = errors.Join(leftover, eraseLeaks(ctx, req.Storage))
		}
		return effect, nil
	})
	return t, leftover, err
}

// prove verifies with Fuuffy what must be true before a change. It holds no lock. It returns
// the token that Fuuffy issued, or nil if there was nothing to prove.
func (b *backend) prove(ctx context.Context, req *logical.Request, t transition, based *storedConfig) (*tokencache.Token, error) {
	if t.MustWork == nil {
		return nil, nil
	}
	c, err := b.newClient(&t.config, req.Storage)
	if err != nil {
		return nil, err
	}
	if t.MustBeRevoked != nil {
		if err := b.budget.Room(2); err != nil {
			return nil, unproved(t, based, err)
		}
	}
	proof, err := c.tryToken(ctx, t.MustWork)
	if err != nil {
		return nil, unproved(t, based, err)
	}
	if t.MustBeRevoked != nil {
		err = c.proveRevoked(ctx, t)
	}
	return &proof, err
}

// unproved explains that Fuuffy issued no token to credentials that must work. based is the
// stored configuration, nil if there is none.
func unproved(t transition, based *storedConfig, cause error) error {
	name := "client " + t.MustWork.ClientID
	if based != nil {
		name = advice.Name(t.MustWork, based.Held())
	}
	failure, ok := errors.AsType[*upstream.Error](cause)
	overBudget := ok && failure.OverBudget() // Then nothing was sent.
	switch {
	case t.Step == "" && overBudget:
		return &explainedError{meaning: "Nothing was saved.", cause: cause}
	case overBudget:
		return &explainedError{meaning: "Nothing was changed.", cause: cause}
	case t.Step == "":
		return &explainedError{meaning: "Nothing was saved: Fuuffy issued no token for the new settings.", name: name, cause: cause}
	}
	e := &explainedError{meaning: fmt.Sprintf("Nothing was changed: Fuuffy issued no token to %s.", name), name: name, cause: cause}
	if ok && failure.RejectsCredentials() && based.holds(t.MustWork) {
		e.inState = true
		if t.Step == "rollback" {
			e.meaning = "Can't roll back."
		}
	}
	return e
}

// holds tells whether the stored configuration has a pair.
func (c *storedConfig) holds(pair *rotation.Pair) bool {
	for _, held := range c.Held() {
		if held.ID == pair.ID {
			return true
		}
	}
	return false
}

// proveRevoked makes sure that Fuuffy no longer accepts a pair of credentials.
func (c *client) proveRevoked(ctx context.Context, t transition) error {
	_, err := c.tryToken(ctx, t.MustBeRevoked)
	if answer, _ := answerOf(err); answer == rotation.Revoked {
		return nil
	}
	if err == nil {
		return t.IfAccepted
	}
	what, again := "Nothing was changed", advice.Say("Repeat this command later.")
	if t.Step == "complete" {
		what, again = "Not completed", advice.Do("Try again later:", advice.Complete)
	}
	name := advice.Name(t.MustBeRevoked, t.Next.Held())
	return &explainedError{
		meaning: fmt.Sprintf("%s: the engine couldn't verify that %s is revoked. Only a rejection from Fuuffy counts as proof.", what, name),
		advice:  again,
		name:    name,
		cause:   err,
	}
}

// stored returns what is stored while no one changes it, nil for nothing. Memory follows it: a
// write that failed may have taken effect afterwards.
func (b *backend) stored(ctx context.Context, storage logical.Storage) (stored *storedConfig, err error) {
	err = b.cache.Commit(ctx, func(ctx context.Context) (effect tokencache.Effect, err error) {
		source := b.cache.Snapshot().Source
		stored, err = loadConfig(ctx, storage)
		if err == nil && b.cache.Snapshot().Source != source {
			stored, err = loadConfig(ctx, storage) // Memory may have a newer one by now.
		}
		if err != nil {
			return effect, &tokencache.Refused{Err: err}
		}
		effect.Outdated = !b.inMemory(stored)
		return effect, nil
	})
	return stored, err
}

// inMemory tells whether memory has what is stored, nil for nothing, or has nothing yet.
func (b *backend) inMemory(stored *storedConfig) bool {
	c, loaded := b.cache.Snapshot().Source.(*client)
	return !loaded || stored != nil && stored.WriteID == c.WriteID
}

// store applies a change to what is stored now, and saves it. It fails if someone else wrote
// since the proof.
func (b *backend) store(ctx context.Context, storage logical.Storage, based *storedConfig, change change) (transition, *client, error) {
	stored, err := reload(ctx, storage, based)
	if err != nil {
		return transition{}, nil, &tokencache.Refused{Err: err}
	}
	facts, err := b.facts(ctx, storage, stored)
	if err != nil {
		return transition{}, nil, &tokencache.Refused{Err: err}
	}
	t, err := change(stored, facts)
	if err != nil {
		return transition{}, nil, &tokencache.Refused{Err: err}
	}
	next, err := b.newClient(&t.config, storage)
	if err != nil {
		return transition{}, nil, &tokencache.Refused{Err: err}
	}
	return t, next, saveConfig(ctx, storage, next.storedConfig)
}

// explainedError says what a failure means for what the user wanted.
type explainedError struct {
	meaning string
	// advice says what to do, if the usual advice for the cause doesn't help here.
	advice advice.Text
	// inState is set if the next step in the state of the rotation follows from the failure.
	inState bool
	// name is the client or the secret that the request was for.
	name  string
	cause error
}

func (e *explainedError) Error() string { return e.meaning + " " + e.cause.Error() }

func (e *explainedError) Unwrap() error { return e.cause }
