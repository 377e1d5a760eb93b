// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// storageTimeout bounds each look into storage and each save of a token: storage that
// hangs must not keep readers from Fuuffy.
const storageTimeout = 5 * time.Second

// flight is one token request and its outcome, which all its readers share.
type flight struct {
	source Source
	// started is on the monotonic clock: the token is at least as old as that.
	started time.Duration
	cancel  context.CancelFunc
	// demand combines what its readers want. Cache.mu guards it until the cache publishes
	// the flight.
	demand demand
	// early is set if only a reader's minTTL made it necessary. Cache.mu guards it too.
	early bool
	// done is closed when the outcome, below, is set.
	done      chan struct{}
	published *state
	err       error
	// stored is set if the token comes from storage.
	stored bool
}

// joinFlight returns the flight in progress, or starts one if the token needs it and there
// is no hold-off. It also returns the state that it decided on.
func (c *Cache) joinFlight(source Source, now Instant, want demand) (*state, *flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state.Load()
	switch {
	case s.source != source:
		return s, nil, errSuperseded
	case s.closed:
		return s, nil, ErrClosed
	case s.token == nil || s.token.Value != want.reported:
		want.reported = ""
	}
	if s.suspect {
		want.reported = s.token.Value
	}
	if s.meets(want, now) {
		return s, nil, nil
	}
	f := s.flight
	if f == nil {
		if err := s.holdOff.active(now); err != nil {
			if want.reported != "" {
				c.changeLocked(func(s *state) { s.suspect = true })
			}
			return s, nil, err
		}
		if err := s.repeats(now); err != nil && want.reported == "" {
			return s, nil, err
		}
		f = c.startLocked(source, now)
		f.early = want.reported == "" && s.tokenState(now) == Fresh
	}
	f.demand = f.demand.and(want)
	return s, f, nil
}

// meets tells whether the cached token satisfies a demand without a request.
func (s *state) meets(want demand, now Instant) bool {
	return want.reported == "" && s.tokenState(now) == Fresh && s.token.left(now) >= want.minTTL
}

func (c *Cache) startLocked(source Source, now Instant) *flight {
	ctx, cancel := context.WithCancel(c.life)
	f := &flight{source: source, started: now.Mono, cancel: cancel, done: make(chan struct{})}
	c.changeLocked(func(s *state) { s.flight = f })
	c.background.Go(func() {
		defer cancel()
		f.published, f.err = c.run(ctx, f)
		close(f.done)
		if !f.stored && !errors.Is(f.err, ErrForward) {
			c.report(ctx, source, Outcome{Err: f.err, Replaced: f.demand.reported != "", Early: f.early})
		}
	})
	return f
}

// report tells the source of an outcome. No lock is held.
func (c *Cache) report(ctx context.Context, source Source, o Outcome) {
	c.logPanic(guard("report of a token request", func() { source.Report(ctx, o) }))
}

// run gets one token, stores it, and publishes it, in this order, so that a token that a
// reader has survives a crash.
func (c *Cache) run(ctx context.Context, f *flight) (*state, error) {
	token, err := c.fetch(ctx, f)
	if c.life.Err() != nil {
		return nil, ErrClosed // Clearer than a context error.
	}
	unlock, lockErr := c.lockStoring(ctx)
	if lockErr != nil {
		return nil, errSuperseded
	}
	placed, err := c.admit(f, token, err)
	var unsaved error
	if err == nil && !f.stored {
		unsaved = c.save(ctx, f.source, placed)
	}
	now, before := c.options.Clock(), c.state.Load().holdOff
	published, err := c.publish(f, placed, err, now)
	unlock()

	if err != errSuperseded {
		c.logUnsaved(unsaved)
		c.logOutcome(before, published.holdOff, now)
	}
	return published, err
}

// fetch prefers a stored token to a new one if it is better than the cached one: after a
// start, and on a standby, where the active node stored it.
func (c *Cache) fetch(ctx context.Context, f *flight) (t Token, err error) {
	panicked := guard("token request", func() {
		cached := c.state.Load().token
		var unreadable error
		if t, f.stored, unreadable = c.stored(ctx, f.source, cached); !f.stored {
			c.logUnreadable(unreadable)
			t, err = f.source.Request(ctx, cached)
		}
	})
	if panicked != nil {
		c.logPanic(panicked)
		err = &upstream.Error{Failure: upstream.Malformed, Message: "the engine could not process Fuuffy's response", Cause: panicked}
	}
	return t, err
}

// stored returns the token in storage if it is better than the cached one.
func (c *Cache) stored(ctx context.Context, source Source, cached *Cached) (Token, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	t, ok, err := source.Stored(ctx)
	now := c.options.Clock()
	switch {
	case !ok || err != nil,
		t.IssuedAt.After(now.Wall.Add(maxClockSkew)),
		cached != nil && !t.ExpiresAt.After(cached.ExpiresAt):
		return Token{}, false, err
	}
	placed := c.place(t, source, now)
	switch {
	case placed == nil || placed.state(now) > InWindow,
		cached != nil && cached.state(now) <= InWindow && !placed.betterThan(cached, now):
		return Token{}, false, nil
	}
	return t, true, nil
}

// admit decides whether to store the token that a flight brought. The error is errSuperseded
// if there is a better one by now, and errNoBetter if the cached one is as good.
func (c *Cache) admit(f *flight, token Token, err error) (*Cached, error) {
	if err != nil {
		return nil, c.excuse(f, err)
	}
	now := c.options.Clock()
	placed := c.place(token, f.source, now)
	if placed != nil {
		placed.issuedMono = min(placed.issuedMono, f.started)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state.Load()
	restored := f.stored && s.token != nil && !token.ExpiresAt.After(s.token.ExpiresAt) // Restore was quicker.
	if s.flight != f || restored || s.meets(f.demand, now) {
		return nil, errSuperseded
	}
	return placed, s.objection(placed, f.demand.reported, now)
}

const tooLate = "the access token arrived too late to be usable"

// objection says why a token can't replace the cached one. It is errNoBetter, which is no
// failure, or a failure.
func (s *state) objection(t *Cached, reported string, now Instant) error {
	malformed := func(text string) error { return &upstream.Error{Failure: upstream.Malformed, Message: text} }
	switch {
	case t == nil:
		return malformed(tooLate)
	case t.Value == reported:
		return malformed("Fuuffy issued the very access token that an app reported as rejected")
	}
	needed := reported != "" || s.tokenState(now) > InWindow || s.token.Superseded || s.endsFallback(t)
	switch {
	case !needed && !t.betterThan(s.token, now):
		return errNoBetter
	case t.state(now) > InWindow:
		return malformed(tooLate)
	}
	return nil
}

// endsFallback tells whether a token shows that the credentials in force work again, while a
// token of their fallback is cached.
func (s *state) endsFallback(t *Cached) bool {
	return s.token != nil && s.token.FallbackFor != "" && s.token.FallbackFor == t.CredentialsID && t.FallbackFor == ""
}

// publish ends a flight unless something superseded it.
func (c *Cache) publish(f *flight, t *Cached, err error, now Instant) (*state, error) {
	random := c.options.Random()
	failure, failed := errors.AsType[*upstream.Error](err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Load().flight != f {
		return nil, errSuperseded
	}
	c.changeLocked(func(s *state) {
		s.flight = nil
		switch {
		case failed:
			s.holdOff = s.holdOff.after(failure, now, random)
			s.suspect = f.demand.reported != ""
		case err == errNoBetter:
			s.repetition, s.holdOff = s.repeated(t, now), s.holdOff.over(now)
			if t != nil {
				s.lastSuccess = t.IssuedAt
			}
		case err == nil:
			if s.token != nil && s.token.Value == t.Value && !t.betterThan(s.token, now) {
				s.repetition, t.firstLife = s.repeated(t, now), s.token.wholeLife()
			}
			s.token, s.suspect, s.holdOff, s.lastSuccess = t, false, s.holdOff.over(now), t.IssuedAt
		}
	})
	if err == nil && t.Value == f.demand.reported {
		return nil, errSuperseded // The report came after admit, so the waiters try again.
	}
	return c.state.Load(), err
}

// save stores a token within storageTimeout. If it fails, the cache still serves the token from
// memory, and the token says why.
func (c *Cache) save(ctx context.Context, source Source, t *Cached) error {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	if panicked := guard("save of the access token", func() { t.unsaved = source.Save(ctx, t.Token) }); panicked != nil {
		t.unsaved = panicked
	}
	return t.unsaved
}
