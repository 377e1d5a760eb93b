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
	// Suspect is set for a token that an app reported and Fuuffy did not replace.
	Suspect bool
	// TooYoung is set when a reported token was kept because of its age.
	TooYoung bool
}

// demand is what a reader wants from a token, besides validity.
type demand struct {
	// reported is a token that Fuuffy rejected: any other is better.
	reported string
	// minTTL is how long the token must live, zero if it doesn't matter.
	minTTL time.Duration
}

// and combines two demands.
func (d demand) and(other demand) demand {
	return demand{cmp.Or(other.reported, d.reported), max(d.minTTL, other.minTTL)}
}

// MinTTLError says that no token lives as long as a reader wants.
type MinTTLError struct {
	// Most is the longest minTTL that the tokens of this mount allow.
	Most time.Duration
}

func (e *MinTTLError) Error() string {
	return "min_ttl is more than half of the access token's life"
}

// Warm returns the cached token if serving it is all there is to do: it is fresh, or its
// refresh is in progress or pointless, and there is no failure to report. It takes no lock.
func (c *Cache) Warm(minTTL time.Duration) (Reading, bool) {
	now, s := c.options.Clock(), c.state.Load()
	if s.source == nil || s.token == nil || !s.token.allows(minTTL, now) {
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

// retry runs a read with the source in force, and again if the source changed during it.
func (c *Cache) retry(ctx context.Context, loader Loader, read func(Source) (Reading, error)) (Reading, error) {
	for {
		source, err := c.Source(ctx, loader)
		if err != nil {
			return Reading{}, err
		}
		if r, err := read(source); err != errSuperseded {
			return r, err
		}
	}
}

// read returns a token that meets a demand. It never returns the reported one: replace calls
// it only if another one is cached, so only a stale token could still be it.
func (c *Cache) read(ctx context.Context, source Source, want demand) (Reading, error) {
	now := c.options.Clock()
	if s := c.state.Load(); s.tokenState(now) <= InWindow && want.minTTL > s.token.maxMinTTL() {
		return Reading{}, &MinTTLError{s.token.maxMinTTL()}
	}
	s, f, err := c.joinFlight(source, now, demand{minTTL: want.minTTL})
	if err == errSuperseded {
		return Reading{}, err
	}
	if state := s.tokenState(now); state <= InWindow && s.token.left(now) >= want.minTTL {
		_, repeated := errors.AsType[*RepeatedError](err)
		switch {
		case state == Fresh, repeated:
			err = nil
		case err == nil && s.holdOff.cause != nil:
			err = s.holdOff.cause // One more attempt is in progress.
		}
		return c.serve(s, now, want.minTTL, err), nil
	}
	if err == nil {
		var r Reading
		if r, err = c.wait(ctx, f, want.minTTL); err == nil {
			return r, nil
		}
	}
	// While this reader waited, the token may have left its buffer, or Restore found one.
	now = c.options.Clock()
	s = c.state.Load()
	failure, failed := errors.AsType[*upstream.Error](err)
	switch state := s.tokenState(now); {
	case !failed, s.source != source, state == Expired, s.token.Value == want.reported, s.token.left(now) < want.minTTL:
		return Reading{}, err
	case state <= InWindow:
		return Reading{}, errSuperseded
	case !s.standsIn(failure, now):
		return Reading{}, err
	}
	r := c.serve(s, now, want.minTTL, err)
	r.Stale = true
	return r, nil
}

// standsIn tells whether the token inside its buffer is served because of a failure, nil for
// none.
func (s *state) standsIn(failure *upstream.Error, now Instant) bool {
	return failure != nil && failure.Failure != upstream.Rejected &&
		s.source != nil && s.source.Policy().StaleIfError && s.tokenState(now) == InBuffer
}

func (c *Cache) replace(ctx context.Context, source Source, reported string) (Reading, error) {
	now, s := c.options.Clock(), c.state.Load()
	if s.source != source {
		return Reading{}, errSuperseded
	}
	if s.token != nil {
		reported = cmp.Or(reported, s.token.Value)
	}
	if s.tokenState(now) > InWindow || s.token.Value != reported {
		r, err := c.read(ctx, source, demand{reported: reported})
		if err == nil && r.Token.Value == reported {
			return Reading{}, errSuperseded // It came from storage after a restart, and is now the cached one.
		}
		return r, err
	}
	if s.token.age(now) < s.token.ReplaceAge() {
		r := c.serve(s, now, 0, nil)
		r.TooYoung = true
		return r, nil
	}
	_, f, err := c.joinFlight(source, now, demand{reported: reported})
	switch {
	case err != nil:
		return Reading{}, err
	case f == nil:
		return Reading{}, errSuperseded // Another report replaced it in the meantime.
	}
	return c.wait(ctx, f, 0)
}

// RefreshInUse starts the refresh of a token that is in use and due.
func (c *Cache) RefreshInUse(source Source) {
	now := c.options.Clock()
	s := c.state.Load()
	if s.token == nil || !s.token.InUse() {
		return
	}
	if state := s.tokenState(now); state == InWindow || state == InBuffer {
		// A hold-off or another source isn't an error: the next run tries again.
		_, _, _ = c.joinFlight(source, now, demand{})
	}
}

// serve makes the reading of the cached token.
func (c *Cache) serve(s *state, now Instant, minTTL time.Duration, failure error) Reading {
	t := s.token
	t.markUsed()
	v := visit{random: c.options.Random(), minTTL: minTTL, soon: t.Superseded || s.suspect, failing: failure != nil}
	return Reading{Token: t, TTL: t.ttl(now, v), Failure: failure, Suspect: s.suspect}
}

// wait returns the outcome of a flight. A reader that gives up doesn't affect the flight.
func (c *Cache) wait(ctx context.Context, f *flight, minTTL time.Duration) (Reading, error) {
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	select {
	case <-f.done:
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
