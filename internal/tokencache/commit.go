// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// Effect is what an operator's action means for readers. The zero value means nothing.
type Effect struct {
	// Source is current from now on, nil for no change.
	Source Source
	// Outdated is set if storage has another source than the current one.
	Outdated bool
	// Test is the outcome of a token request outside a flight, nil for none.
	Test *Test
	// DropToken and DropAll are what the cache forgets: the token, or its source too.
	DropToken, DropAll bool
}

// Test is the outcome of a token request with a source's credentials. It means nothing if another
// source is current.
type Test struct {
	Source Source
	// Token is served if there is no better one, so that no reader waits. It is for readers only if
	// it belongs to the current credentials.
	Token Token
	// Failure is nil if there is a token. Readers learn of it, but what is only a test neither
	// shortens a wait nor makes the next one longer.
	Failure *upstream.Error
}

// Refused is the error of an action that wrote nothing. The cache goes on as if no one had
// tried: it keeps its source, its requests in progress, and its hold-off.
type Refused struct{ Err error }

func (e *Refused) Error() string { return e.Err.Error() }

func (e *Refused) Unwrap() error { return e.Err }

// Commit carries out an operator's action on stored entries. Nothing else is stored at the same
// time, and readers see its effect as one step. If it fails, no one knows what storage contains,
// so the next reader looks, unless the error is a *Refused. do must bound each wait for storage
// (WithStorageTimeout). The error is do's, or ctx's if another action took too long.
func (c *Cache) Commit(ctx context.Context, do func(context.Context) (Effect, error)) error {
	unlock, err := c.lockStoring(ctx)
	if err != nil {
		return err
	}
	afterwards, err := c.commit(ctx, do)
	unlock()
	afterwards()
	return err
}

// commit also returns what to log and to report once the lock is free.
func (c *Cache) commit(ctx context.Context, do func(context.Context) (Effect, error)) (afterwards func(), err error) {
	var effect Effect
	err = guarded("change of what is stored", func() (err error) {
		effect, err = do(ctx)
		return err
	})
	if err != nil {
		if _, refused := errors.AsType[*Refused](err); !refused {
			c.InvalidateSource()
		}
		return func() { c.logPanic(err) }, err
	}
	now := c.options.Clock()
	before := c.state.Load()
	proof := c.proof(ctx, effect, now)
	replaced := false
	c.change(func(s *state) { replaced = c.affect(s, effect, proof, now) })
	var unsaved, leftover error
	if proof != nil {
		unsaved = proof.unsaved
	}
	if replaced || proof != nil && proof.evicts {
		unsaved, leftover = c.persist(ctx, unsaved)
	}
	after := c.state.Load()
	return func() {
		c.logUnsaved(unsaved)
		c.logLeftover(leftover)
		c.logOutcome(before.holdOff, after.holdOff, now)
		if replaced {
			c.report(effect.Test.Source, Outcome{Replaced: true})
		}
	}, nil
}

// proof is the token of a test, saved, if it should take the place of the cached one.
func (c *Cache) proof(ctx context.Context, effect Effect, now Instant) *Cached {
	if effect.Test == nil {
		return nil
	}
	c.mu.Lock()
	s := *c.state.Load()
	s.flight = nil
	if effect.Source != nil {
		c.enforce(&s, effect.Source)
	}
	if !effect.Test.proves(&s) {
		c.mu.Unlock()
		return nil
	}
	proof, err := c.admit(&s, effect.Test.Token, s.ofHeld(demand{}), now)
	c.mu.Unlock()
	if err != nil {
		return nil // The cached one is as good.
	}
	return c.save(ctx, s.source, proof)
}

// proves tells whether the test was one of the current credentials.
func (t *Test) proves(s *state) bool {
	return s.source == t.Source && t.Failure == nil && s.source.Judge(t.Token) == KeepToken
}

// affect changes the state as an effect says. It tells whether the proof takes the place of a
// token that an app reported.
func (c *Cache) affect(s *state, effect Effect, proof *Cached, now Instant) (replaced bool) {
	reported := ""
	if s.flight != nil {
		reported = s.flight.demand.reported
	}
	if effect.Source != nil {
		s.supersede()
		c.enforce(s, effect.Source)
	}
	switch t := effect.Test; {
	case t == nil:
	case t.proves(s):
		s.supersede()
		if proof != nil {
			replaced = s.replace(proof, demand{reported: reported}, now)
			s.token = proof
		}
		s.holdOff, s.lastSuccess = s.holdOff.over(now), t.Token.IssuedAt
	case proof != nil:
		s.unseen = true // Another node changed the source meanwhile.
	case t.Failure != nil && s.source == t.Source:
		s.holdOff = s.holdOff.heard(t.Failure, now, c.options.Random())
	}
	if effect.Outdated && !s.outdated {
		s.outdate()
	}
	if effect.DropToken {
		if s.token != nil {
			s.removed = remembered(s.removed, removal{s.token.Value, now.Mono})
		}
		s.dropToken()
	}
	if effect.DropAll {
		s.clear()
	}
	return replaced
}

// InvalidateSource makes the next reader load the source again. That source then judges the
// cached token.
func (c *Cache) InvalidateSource() { c.change((*state).outdate) }

func (s *state) outdate() {
	s.supersede()
	s.outdated, s.unloadable, s.impatience = true, s.outdated && s.unloadable, 0
}

// InvalidateToken drops the cached token: storage has another, or none.
func (c *Cache) InvalidateToken() { c.change((*state).dropToken) }

func (s *state) dropToken() {
	s.supersede()
	s.token = nil
}
