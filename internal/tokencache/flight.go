// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// flight is one look for a token, in storage and then at Fuuffy, and its outcome, which all its
// readers share.
type flight struct {
	source Source
	// started is on the monotonic clock.
	started time.Duration
	cancel  context.CancelFunc
	// wanted is set if someone needs a token. Otherwise the flight only looks in storage.
	// Cache.mu guards it and the next two.
	wanted bool
	// demand combines what its readers want.
	demand demand
	// early is set if only a reader's minTTL made it necessary.
	early bool
	// done is closed when the outcome, below, is set.
	done      chan struct{}
	published *state
	err       error
	// stored is set if the token comes from storage.
	stored bool
	// logs run when all waiters have the outcome.
	logs []func()
}

func (f *flight) log(do func()) { f.logs = append(f.logs, do) }

// Restore looks for a stored token, so that the first read after a start is a warm one.
func (c *Cache) Restore(ctx context.Context, source Source) {
	now := c.options.Clock()
	c.mu.Lock()
	s := c.state.Load()
	if s.source != source || s.closed || s.token != nil || s.flight != nil {
		c.mu.Unlock()
		return
	}
	f := c.startLocked(source, now)
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	select {
	case <-f.done:
	case <-ctx.Done():
	}
}

// joinFlight returns the flight in progress, or starts one if the token needs it and nothing
// speaks against a request: the error is what does, and then a flight only looks in storage. It
// also returns the state that it decided on.
func (c *Cache) joinFlight(source Source, now Instant, want demand) (*state, *flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state.Load()
	switch {
	case !s.uses(source):
		return s, nil, errSuperseded
	case s.closed:
		return s, nil, ErrClosed
	}
	want = s.ofHeld(want)
	if s.meets(want, now) {
		return s, nil, nil
	}
	f := s.flight
	if err := s.wait(want, now); err != nil && (f == nil || !f.wanted) {
		c.changeLocked(func(s *state) { s.suspect(want) })
		if f == nil && s.token == nil && (s.unreadable || s.unseen) {
			f = c.startLocked(source, now) // It only looks in storage, which may work again.
		}
		return c.state.Load(), f, err
	}
	if f == nil {
		f = c.startLocked(source, now)
		f.early = want.reported == "" && s.tokenState(now) == Fresh
	}
	f.wanted, f.demand = true, f.demand.and(want)
	return s, f, nil
}

// ofHeld is a demand as it applies to the cached token: only a report of this one counts, and
// that it is suspect means that it was reported.
func (s *state) ofHeld(want demand) demand {
	switch {
	case s.token != nil && s.token.Suspect:
		want.reported = s.token.Value
	case s.token == nil || s.token.Value != want.reported:
		want.reported = ""
	}
	return want
}

// meets tells whether the cached token satisfies a demand without a request.
func (s *state) meets(want demand, now Instant) bool {
	return want.reported == "" && s.tokenState(now) == Fresh && s.token.left(now) >= want.minTTL
}

// wait is why the cache sends no request now, nil if it may.
func (s *state) wait(want demand, now Instant) error {
	if err := s.holdOff.active(now); err != nil {
		return err
	}
	if want.reported == "" || s.ending(now) {
		return s.repeats(now)
	}
	return nil
}

// suspect marks the cached token if it is the reported one.
func (s *state) suspect(want demand) {
	if s.token != nil && s.token.Value == want.reported && !s.token.Suspect {
		s.token = s.token.suspected()
	}
}

func (c *Cache) startLocked(source Source, now Instant) *flight {
	ctx, cancel := context.WithCancel(c.life)
	f := &flight{source: source, started: now.Mono, cancel: cancel, done: make(chan struct{})}
	c.changeLocked(func(s *state) { s.flight = f })
	c.background.Go(func() {
		defer cancel()
		if !c.look(ctx, f) {
			c.ask(ctx, f)
		}
		for _, log := range f.logs {
			c.logPanic(guard("report of a token request", log))
		}
	})
	return f
}

// look admits a stored token: after a start, and on a standby, where the active node stored it.
// It tells whether that ends the flight.
func (c *Cache) look(ctx context.Context, f *flight) bool {
	var t Token
	var found bool
	err := guarded("look for the stored access token", func() (err error) {
		t, found, err = f.source.Stored(ctx)
		return err
	})
	now := c.options.Clock()
	c.mu.Lock()
	before := c.state.Load()
	if before.flight != f {
		c.mu.Unlock()
		f.err = c.ended()
		close(f.done)
		return true
	}
	var placed *Cached
	if found && err == nil {
		placed = c.admitStored(before, t, now)
	}
	replaced := false
	usable := placed != nil && placed.state(now) <= InWindow
	ends := usable || !f.wanted
	c.changeLocked(func(s *state) {
		s.unreadable, s.unseen = err != nil, false
		if placed != nil {
			if replaced = s.ofHeld(f.demand).reported != ""; replaced {
				s.replace(placed, f.demand, now)
			}
			s.token, s.lastSuccess = placed, placed.IssuedAt
		}
		if usable && s.holdOff.left(now) == 0 {
			s.holdOff = s.holdOff.over(now)
		}
		if ends {
			s.flight = nil
		}
	})
	after := c.state.Load()
	f.demand = after.ofHeld(f.demand)
	if ends && f.wanted && placed.Suspect { // There is no other for readers.
		next := c.startLocked(f.source, now)
		next.wanted, next.demand = true, f.demand
	}
	c.mu.Unlock()
	f.log(func() {
		if !before.unreadable {
			c.logUnreadable(err)
		}
		if usable {
			c.logOutcome(before.holdOff, after.holdOff, now)
		}
		if replaced {
			c.report(f.source, Outcome{Replaced: true})
		}
	})
	if ends {
		f.published, f.stored = after, true
		if !usable {
			f.err = errSuperseded
		}
		close(f.done)
	}
	return ends
}

// ended is the error of a flight that something superseded.
func (c *Cache) ended() error {
	if c.life.Err() != nil {
		return ErrClosed
	}
	return errSuperseded
}

// ask requests a token, stores it, and publishes it, in this order, so that a token that a
// reader has survives a crash.
func (c *Cache) ask(ctx context.Context, f *flight) {
	token, announce, err := c.request(ctx, f)
	// Storage that is busy for long keeps no reader from the token.
	unlock, busy := c.lockStoringSoon(ctx)
	now := c.options.Clock()
	placed, err := c.decide(f, token, err, now)
	var unsaved error
	switch {
	case err != nil:
	case busy != nil:
		placed, unsaved = placed.after(busy), busy
	default:
		placed = c.save(ctx, f.source, placed)
		unsaved = placed.unsaved
	}
	before, after, replaced, err := c.publish(f, placed, err, now)
	var leftover error
	if busy == nil && (f.demand.reported != "" || placed != nil && placed.evicts) {
		unsaved, leftover = c.persist(c.life, unsaved)
	}
	unlock()
	f.published, f.err = after, err
	close(f.done)
	f.log(func() {
		c.logUnsaved(unsaved)
		c.logLeftover(leftover)
		if after != nil && err != errNoBetter {
			announce()
		}
		if after != nil {
			c.logOutcome(before.holdOff, after.holdOff, now)
		}
		if !errors.Is(err, ErrForward) {
			c.report(f.source, Outcome{Err: err, Replaced: replaced, Early: f.early})
		}
	})
	if busy != nil {
		c.persistSoon()
	}
}

// request gets a token from Fuuffy.
func (c *Cache) request(ctx context.Context, f *flight) (t Token, announce func(), err error) {
	announce = func() {}
	panicked := guard("token request", func() { t, announce, err = f.source.Request(ctx, c.state.Load().token) })
	switch {
	case c.life.Err() != nil:
		err = ErrClosed // Clearer than a context error.
	case panicked != nil:
		f.log(func() { c.logPanic(panicked) })
		err = &upstream.Error{Failure: upstream.Malformed, Message: "the engine could not process Fuuffy's response", Cause: panicked}
	}
	return t, announce, err
}

// decide tells whether to store the token that a flight brought.
func (c *Cache) decide(f *flight, t Token, err error, now Instant) (placed *Cached, _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state.Load()
	switch {
	case s.flight != f:
		return nil, c.ended()
	case err == nil:
		placed, err = c.admit(s, t, f.demand, now)
	case f.demand.reported == "" && s.ending(now) && isMalformed(err):
		err = errNoBetter // The failure only says that a repeated token is ending.
	}
	if placed != nil && f.demand.waits {
		placed.markUsed()
	}
	return placed, err
}

func isMalformed(err error) bool {
	failure, ok := errors.AsType[*upstream.Error](err)
	return ok && failure.Failure == upstream.Malformed
}

// replace notes that a token takes the place of one that an app reported, if it does: that one
// must not come back from storage. Nor must an entry that doesn't know of this fallback.
func (s *state) replace(t *Cached, want demand, now Instant) (replaced bool) {
	reported := s.reported
	if held := s.ofHeld(want).reported; held != "" {
		reported = []string{held}
	}
	for _, value := range reported {
		if value != t.Value {
			replaced = true
			s.removed = remembered(s.removed, removal{value, now.Mono})
		}
	}
	s.reported = nil
	t.evicts = t.unsaved != nil && (replaced || t.FallbackFor != "")
	return replaced
}

// publish ends a flight unless something superseded it. It returns the states before and after,
// if so, and whether the token replaces one that an app reported.
func (c *Cache) publish(f *flight, t *Cached, err error, now Instant) (before, after *state, replaced bool, _ error) {
	random := c.options.Random()
	failure, failed := errors.AsType[*upstream.Error](err)
	c.mu.Lock()
	defer c.mu.Unlock()
	before = c.state.Load()
	if before.flight != f {
		return nil, nil, false, c.ended()
	}
	c.changeLocked(func(s *state) {
		s.flight = nil
		switch {
		case failed:
			s.holdOff = s.holdOff.after(failure, now, random)
			s.suspect(f.demand)
		case err == errNoBetter:
			s.repetition, s.holdOff = s.repeated(t, now), s.holdOff.over(now)
			if t != nil {
				s.lastSuccess = t.IssuedAt
			}
		case err == nil:
			if s.token != nil && s.token.Value == t.Value && !t.betterThan(s.token, now) {
				s.repetition, t.firstLife = s.repeated(t, now), s.token.wholeLife()
			}
			replaced = s.replace(t, f.demand, now)
			s.token, s.holdOff, s.lastSuccess = t, s.holdOff.over(now), t.IssuedAt
		}
	})
	if err == nil && t.Value == f.demand.reported {
		err = errSuperseded // The report came after the decision, so the waiters try again.
	}
	return before, c.state.Load(), replaced, err
}

// report tells the source of an outcome. No lock is held.
func (c *Cache) report(source Source, o Outcome) {
	c.logPanic(guard("report of an outcome", func() { source.Report(c.life, o) }))
}
