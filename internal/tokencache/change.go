// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// Switch is a change of the stored configuration and, with it, of the source.
type Switch struct {
	// Store writes the configuration and returns its source. If it fails, nobody knows what
	// storage contains, unless the error is a *Refused.
	Store func(context.Context) (Source, error)
	// Proof is a token that tested the change, nil for none. If it belongs to the credentials
	// in force after the change, and there is no better one, the cache serves it, so that no
	// reader waits.
	Proof *Token
	// Renewed is set when the credentials are different. What Fuuffy said about the old ones
	// doesn't apply to these.
	Renewed bool
}

// Refused is the error of a change that wrote nothing. The cache goes on as if nobody had
// tried: it keeps its source, its requests in progress, and its hold-off.
type Refused struct{ Err error }

func (e *Refused) Error() string { return e.Err.Error() }

func (e *Refused) Unwrap() error { return e.Err }

// forgetUnlessRefused follows a change that failed.
func (c *Cache) forgetUnlessRefused(err error) {
	if _, refused := errors.AsType[*Refused](err); !refused {
		c.Forget() // Storage may have it anyway: the next reader looks.
	}
}

// Switch carries out a change. Nothing else is stored at the same time, and readers see the
// change as one step. The error is Store's, or ctx's if another change took too long.
func (c *Cache) Switch(ctx context.Context, change Switch) error {
	before := c.state.Load().holdOff
	next, rescued, unsaved, err := c.carryOut(ctx, change)
	if err != nil {
		return err
	}
	c.logUnsaved(unsaved)
	c.logOutcome(before, c.state.Load().holdOff, c.options.Clock())
	if rescued {
		c.report(ctx, next, Outcome{Replaced: true})
	}
	return nil
}

// carryOut also tells whether the proof took the place of a suspect token.
func (c *Cache) carryOut(ctx context.Context, change Switch) (next Source, rescued bool, unsaved, err error) {
	unlock, err := c.lockStoring(ctx)
	if err != nil {
		return nil, false, nil, err
	}
	defer unlock()
	next, err = change.Store(ctx)
	if err != nil {
		c.forgetUnlessRefused(err)
		return nil, false, nil, err
	}
	now := c.options.Clock()
	answered := change.Proof != nil && next.Judge(*change.Proof) == KeepToken
	var proof *Cached
	if answered {
		proof = c.improvement(*change.Proof, next, now)
	}
	if proof != nil {
		unsaved = c.save(ctx, next, proof)
	}
	c.change(func(s *state) {
		s.supersede()
		c.enforce(s, next, now)
		if proof != nil {
			rescued = s.suspect
			s.token, s.suspect = proof, false
		}
		switch {
		case answered:
			s.holdOff, s.lastSuccess = s.holdOff.over(now), change.Proof.IssuedAt
		case change.Renewed:
			s.holdOff, s.lastSuccess = holdOff{}, time.Time{}
		}
	})
	return next, rescued, unsaved, nil
}

// improvement places a token that was requested for another purpose. It is nil if a flight
// would not publish it in place of the cached one, or would not have been started: a fresh
// token is only replaced if it is a fallback's that is no longer needed.
func (c *Cache) improvement(t Token, source Source, now Instant) *Cached {
	s := *c.state.Load()
	c.enforce(&s, source, now)
	reported := ""
	if s.suspect {
		reported = s.token.Value
	}
	placed := c.place(t, source, now)
	switch {
	case placed == nil, s.tokenState(now) == Fresh && !s.endsFallback(placed), s.objection(placed, reported, now) != nil:
		return nil
	}
	return placed
}

// ReadStored reads what is stored while no change is under way: what it finds is in force.
func (c *Cache) ReadStored(ctx context.Context, read func(context.Context) error) error {
	unlock, err := c.lockStoring(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return read(ctx)
}

// DeleteToken deletes the token, in storage first. After it returns, no reader gets that
// token.
func (c *Cache) DeleteToken(ctx context.Context, remove func(context.Context) error) error {
	unlock, err := c.lockStoring(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := remove(ctx); err != nil {
		return err
	}
	c.DropToken()
	return nil
}

// DeleteAll deletes everything stored, and the source and the token in memory. If remove fails,
// nobody knows what storage contains, unless the error is a *Refused.
func (c *Cache) DeleteAll(ctx context.Context, remove func(context.Context) error) error {
	unlock, err := c.lockStoring(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := remove(ctx); err != nil {
		c.forgetUnlessRefused(err)
		return err
	}
	c.change(func(s *state) {
		s.supersede()
		*s = state{closed: s.closed}
	})
	return nil
}

// Succeed records that a request outside a flight got a token with the source in force. The
// cache serves that token if it has no better one. It ignores a source that is no longer in
// force.
func (c *Cache) Succeed(ctx context.Context, source Source, t Token) error {
	unlock, err := c.lockStoring(ctx)
	if err != nil {
		return err
	}
	now, before := c.options.Clock(), c.state.Load()
	var placed *Cached
	if before.source == source {
		placed = c.improvement(t, source, now)
	}
	var unsaved error
	if placed != nil {
		unsaved = c.save(ctx, source, placed)
	}
	rescued := false
	c.change(func(s *state) {
		if s.source != source {
			return
		}
		s.supersede()
		if placed != nil {
			rescued = s.suspect
			s.token, s.suspect = placed, false
		}
		s.holdOff, s.lastSuccess = s.holdOff.over(now), t.IssuedAt
	})
	unlock()
	c.logUnsaved(unsaved)
	c.logOutcome(before.holdOff, c.state.Load().holdOff, now)
	if rescued {
		c.report(ctx, source, Outcome{Replaced: true})
	}
	return nil
}

// Fail records that a request outside a flight failed with the source in force. Readers learn
// of the failure, but what is only a test neither shortens a wait nor makes the next one longer.
func (c *Cache) Fail(source Source, failure *upstream.Error) {
	now, random := c.options.Clock(), c.options.Random()
	before := c.state.Load().holdOff
	c.change(func(s *state) {
		if s.source == source {
			s.holdOff = s.holdOff.heard(failure, now, random)
		}
	})
	c.logOutcome(before, c.state.Load().holdOff, now)
}

// Forget makes the next reader load the source again. That source then judges the cached
// token.
func (c *Cache) Forget() {
	c.change(func(s *state) {
		s.supersede()
		s.source = nil
	})
}

// DropToken drops the cached token, but not the stored one.
func (c *Cache) DropToken() {
	c.change(func(s *state) {
		s.supersede()
		s.token, s.suspect = nil, false
	})
}

// Restore serves the stored token, so that the first read after a start is a warm one.
func (c *Cache) Restore(ctx context.Context, source Source) {
	unlock, err := c.lockStoring(ctx)
	if err != nil {
		return
	}
	r := &restoration{source}
	c.change(func(s *state) { s.restoring = r })
	t, ok, err := c.stored(ctx, source, c.state.Load().token)
	now := c.options.Clock()
	c.change(func(s *state) {
		if s.restoring != r {
			return // Another node may have deleted the token in the meantime.
		}
		s.restoring = nil
		if ok && s.source == source {
			s.token, s.suspect, s.lastSuccess = c.place(t, source, now), false, t.IssuedAt
		}
	})
	unlock()
	c.logUnreadable(err)
}

// restoration is one run of Restore. Whatever supersedes a flight supersedes it too.
type restoration struct{ source Source }
