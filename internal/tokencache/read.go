// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// Reading is what one reader gets.
type Reading struct {
	Token *Cached
	// TTL is when the reader should come back.
	TTL time.Duration
	// Failure is why there is no newer token although one is due.
	Failure error
	// Stale is set for a token inside its buffer that stands in because there is no other.
	Stale bool
	// TooYoung is set when a reported token was kept because of its age.
	TooYoung bool
}

// demand is what a reader wants from a token, besides validity.
type demand struct {
	// reported is a token that Fuuffy rejected: any other is better.
	reported string
	// minTTL is how long the token must live, zero if it doesn't matter.
	minTTL time.Duration
	// waits is set if a reader waits for the token.
	waits bool
}

// and combines two demands.
func (d demand) and(other demand) demand {
	return demand{cmp.Or(other.reported, d.reported), max(d.minTTL, other.minTTL), d.waits || other.waits}
}

// MinTTLError says that no token lives as long as a reader wants.
type MinTTLError struct {
	// Max is the longest minTTL that the tokens of this mount allow.
	Max time.Duration
}

func (e *MinTTLError) Error() string {
	return "min_ttl is more than half of the access token's life"
}

// Warm returns the cached token if serving it is all there is to do: it is fresh, or its
// refresh is in progress or pointless, and there is no failure to report. It takes no lock.
func (c *Cache) Warm(minTTL time.Duration) (Reading, bool) {
	now, s := c.options.Clock(), c.state.Load()
	if s.source == nil || s.outdated || s.token == nil || !s.token.allows(minTTL, now) {
		return Reading{}, false
	}
	switch s.tokenState(now) {
	case Fresh:
		return c.serve(s, now, minTTL, nil), true
	case InWindow:
		if s.holdOff.cause == nil && (s.flight != nil || s.repeatsFor(now) > 0) {
			return c.serve(s, now, minTTL, nil), true
		}
	}
	return Reading{}, false
}

// Read returns a valid token that lives for at least minTTL, and waits for one if it must. In
// the refresh window it returns the cached one and starts a refresh in the background. The
// error is a *MinTTLError if minTTL is more than half of the token's life, so that a mount
// makes at most two requests per life.
func (c *Cache) Read(ctx context.Context, loader Loader, minTTL time.Duration) (Reading, error) {
	return c.retry(ctx, loader, func(source Source) (Reading, error) { return c.read(ctx, source, demand{minTTL: minTTL}) })
}

// Replace returns another token than the reported one, which Fuuffy rejected. It returns the
// cached one if an earlier report already replaced the reported one. An empty report means
// whichever token is cached.
func (c *Cache) Replace(ctx context.Context, loader Loader, reported string) (Reading, error) {
	return c.retry(ctx, loader, func(source Source) (Reading, error) { return c.replace(ctx, source, reported) })
}

// retry runs a read with the current source, and again if the source changed during it.
func (c *Cache) retry(ctx context.Context, loader Loader, read func(Source) (Reading, error)) (Reading, error) {
	for {
		source, err := c.sourceForReaders(ctx, loader)
		if err != nil {
			return Reading{}, err
		}
		if r, err := read(source); err != errSuperseded {
			return r, err
		}
	}
}

// stalePatience is how long readers wait for a request, from its start, while Fuuffy is known to
// fail and a token inside its buffer is at hand.
const stalePatience = 2 * time.Second

// errImpatient says that a reader's patience is at its end.
var errImpatient = errors.New("a token is at hand")

// read returns a token that meets a demand. It never returns the reported one: replace calls
// it only if another one is cached, so only a stale token could still be it.
func (c *Cache) read(ctx context.Context, source Source, want demand) (Reading, error) {
	now := c.options.Clock()
	s := c.state.Load()
	if s.tokenState(now) <= InWindow && want.minTTL > s.token.maxMinTTL() {
		return Reading{}, &MinTTLError{s.token.maxMinTTL()}
	}
	s, f, reason := c.joinFlight(source, now, demand{minTTL: want.minTTL, waits: !s.serves(want, now)})
	if reason == errSuperseded {
		return Reading{}, reason
	}
	switch {
	case f != nil && reason != nil:
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		now, f, s = c.options.Clock(), nil, c.state.Load()
		if !s.uses(source) {
			return Reading{}, errSuperseded
		}
	case reason == nil && s.holdOff.cause != nil:
		reason = s.holdOff.cause // One more attempt is in progress.
	}
	if s.serves(want, now) {
		if _, repeated := errors.AsType[*RepeatedError](reason); repeated || s.tokenState(now) == Fresh {
			reason = nil
		}
		return c.serve(s, now, want.minTTL, reason), nil
	}
	standIn, ok := c.standIn(s, want, reason, now)
	switch {
	case f == nil && ok:
		return standIn, nil
	case f == nil:
		return Reading{}, reason
	}
	var patience <-chan time.Time
	if ok {
		patience = time.After(stalePatience - (now.Mono - f.started))
	}
	r, err := c.wait(ctx, f, want.minTTL, patience)
	if err == errImpatient && c.state.Load().tokenState(c.options.Clock()) == Expired {
		r, err = c.wait(ctx, f, want.minTTL, nil)
	}
	if err == nil {
		return r, nil
	}
	// While this reader waited, the token may have left its buffer, or become another.
	now, s = c.options.Clock(), c.state.Load()
	if err == errImpatient {
		err = reason
	}
	_, failed := errors.AsType[*upstream.Error](err)
	if failed && (!s.uses(source) || s.serves(want, now) && s.token.Value != want.reported) {
		return Reading{}, errSuperseded
	}
	if r, ok := c.standIn(s, want, err, now); ok {
		return r, nil
	}
	return Reading{}, err
}

// serves tells whether the cached token, in its window perhaps, is what a reader wants.
func (s *state) serves(want demand, now Instant) bool {
	return s.tokenState(now) <= InWindow && s.token.left(now) >= want.minTTL
}

// standIn is the reading of a token inside its buffer that stands in because of a failure. It is
// false if the token can't.
func (c *Cache) standIn(s *state, want demand, reason error, now Instant) (Reading, bool) {
	failure, _ := errors.AsType[*upstream.Error](reason)
	if !s.standsIn(failure, now) || s.token.Value == want.reported || s.token.left(now) < want.minTTL {
		return Reading{}, false
	}
	r := c.serve(s, now, want.minTTL, reason)
	r.Stale = true
	return r, true
}

// standsIn tells whether the token inside its buffer is served because of a failure, nil for
// none.
func (s *state) standsIn(failure *upstream.Error, now Instant) bool {
	return failure != nil && failure.Failure != upstream.Rejected &&
		s.source != nil && s.source.Policy().StaleIfError && s.tokenState(now) == InBuffer
}

func (c *Cache) replace(ctx context.Context, source Source, reported string) (Reading, error) {
	now, s := c.options.Clock(), c.state.Load()
	if !s.uses(source) {
		return Reading{}, errSuperseded
	}
	if s.token == nil && reported == "" {
		c.Restore(ctx, source) // It means what this node would serve.
		s = c.state.Load()
	}
	switch {
	case s.token != nil:
		reported = cmp.Or(reported, s.token.Value)
	case reported != "":
		c.change(func(s *state) { s.reported = remembered(s.reported, reported) }) // Storage may have it.
	}
	state := s.tokenState(now)
	if s.token != nil && s.token.Value != reported && !s.token.saved {
		c.evict(ctx, reported)
	}
	if state == Expired || s.token.Value != reported {
		r, err := c.read(ctx, source, demand{reported: reported})
		switch {
		case err == nil && r.Token.Value == reported:
			return Reading{}, errSuperseded // It came from storage after a restart, and is now the cached one.
		case err == nil && reported == "" && r.Token.IssuedMono < now.Mono:
			return c.replace(ctx, source, r.Token.Value) // The report means this one.
		}
		return r, err
	}
	if state <= InWindow && s.token.age(now) < s.token.ReplaceAge() {
		r := c.serve(s, now, 0, nil)
		r.TooYoung = true
		return r, nil
	}
	s, f, reason := c.joinFlight(source, now, demand{reported: reported, waits: true})
	switch {
	case reason != nil:
		c.awaitPersisted(ctx, s)
		return Reading{}, reason
	case f == nil:
		return Reading{}, errSuperseded // Another report replaced it in the meantime.
	}
	return c.wait(ctx, f, 0, nil)
}

// evict removes a reported token from storage, which may have it in place of the cached one.
func (c *Cache) evict(ctx context.Context, reported string) {
	now, evicts := c.options.Clock(), false
	c.change(func(s *state) {
		if evicts = s.token != nil && !s.token.saved && !s.removedEver(Token{Value: reported}); !evicts {
			return
		}
		t := *s.token
		t.evicts = true
		s.token, s.removed = &t, remembered(s.removed, removal{reported, now.Mono})
	})
	if evicts {
		c.awaitPersisted(ctx, c.state.Load())
	}
}

// awaitPersisted is persistSoon for a caller that may give up, which doesn't affect that.
func (c *Cache) awaitPersisted(ctx context.Context, s *state) {
	if s.token == nil || !s.token.differs() {
		return
	}
	done := make(chan struct{})
	c.mu.Lock()
	closed := c.state.Load().closed
	if !closed {
		c.background.Go(func() {
			defer close(done)
			c.persistSoon()
		})
	}
	c.mu.Unlock()
	if closed {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// RefreshInUse starts the refresh of a token that is in use and due, and stores what storage
// doesn't know of the token yet.
func (c *Cache) RefreshInUse(source Source) {
	now := c.options.Clock()
	s := c.state.Load()
	if s.token == nil || !s.uses(source) {
		return
	}
	if state := s.tokenState(now); s.token.InUse() && (state == InWindow || state == InBuffer) {
		// A hold-off or another source isn't an error: the next run tries again.
		_, _, _ = c.joinFlight(source, now, demand{})
	}
	if s.token.differs() {
		c.persistSoon()
	}
}

// persistSoon is persist for who doesn't hold storing.
func (c *Cache) persistSoon() {
	unlock, busy := c.lockStoringSoon(c.life)
	var unsaved, leftover error
	if busy == nil {
		unsaved, leftover = c.persist(c.life, nil)
	}
	unlock()
	c.logUnsaved(unsaved)
	c.logLeftover(leftover)
}

// serve makes the reading of the cached token.
func (c *Cache) serve(s *state, now Instant, minTTL time.Duration, failure error) Reading {
	t := s.token
	t.markUsed()
	v := ttlInput{random: c.options.Random(), delay: c.options.ReaderDelay, minTTL: minTTL, soon: t.Superseded || t.Suspect, failing: failure != nil}
	return Reading{Token: t, TTL: t.ttl(now, v), Failure: failure}
}

// wait returns the outcome of a flight, or errImpatient. A reader that gives up doesn't affect the
// flight.
func (c *Cache) wait(ctx context.Context, f *flight, minTTL time.Duration, patience <-chan time.Time) (Reading, error) {
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	select {
	case <-f.done:
	case <-patience:
		return Reading{}, errImpatient
	case <-ctx.Done():
		return Reading{}, fmt.Errorf("wait for an access token: %w", ctx.Err())
	}
	if f.err == errNoBetter {
		return Reading{}, errSuperseded // The next look finds out whether the cached one will do.
	}
	if f.err != nil {
		return Reading{}, f.err
	}
	now, t := c.options.Clock(), f.published.token
	switch {
	case t.state(now) <= InWindow && t.allows(minTTL, now):
		return c.serve(f.published, now, minTTL, nil), nil
	case f.stored:
		return Reading{}, errSuperseded // The next flight finds no better one in storage.
	case minTTL > t.maxMinTTL():
		return Reading{}, &MinTTLError{t.maxMinTTL()}
	}
	message := tooLate
	if minTTL > 0 {
		message = "the access token arrived too late to live for min_ttl"
	}
	return Reading{}, &upstream.Error{Failure: upstream.Malformed, Message: message}
}
