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
	// Stale is set for a token inside its buffer, served because there is no other.
	Stale bool
	// Suspect is set for a token that an app reported and Fuuffy did not replace.
	Suspect bool
	// TooYoung is set when a reported token was kept because of its age.
	TooYoung bool
}

// Warm returns the cached token if there is nothing to do but serve it: it is fresh, or
// its refresh is under way and there is no failure to tell of. It takes no lock.
func (c *Cache) Warm() (Reading, bool) {
	now, s := c.options.Clock(), c.state.Load()
	if s.source == nil || s.token == nil {
		return Reading{}, false
	}
	switch s.tokenState(now) {
	case Fresh:
		return c.serve(s, now, nil), true
	case InWindow:
		if s.flight != nil && s.holdOff.cause == nil && !s.suspect {
			return c.serve(s, now, nil), true
		}
	}
	return Reading{}, false
}

// Read returns a valid token and waits for one if it must. In the refresh window it
// returns the cached one and starts a refresh in the background.
func (c *Cache) Read(ctx context.Context, loader Loader) (Reading, error) {
	return c.retry(ctx, loader, func(source Source) (Reading, error) { return c.read(ctx, source, "") })
}

// Replace returns another token than the reported one, which Fuuffy refused. It is the
// cached one if somebody already had the reported one replaced. An empty report means
// whichever is cached.
func (c *Cache) Replace(ctx context.Context, loader Loader, reported string) (Reading, error) {
	return c.retry(ctx, loader, func(source Source) (Reading, error) { return c.replace(ctx, source, reported) })
}

// retry runs a read with the source in force, and again if that changed under it.
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

// read never returns the token that was reported, if one was.
func (c *Cache) read(ctx context.Context, source Source, reported string) (Reading, error) {
	now := c.options.Clock()
	s, f, err := c.joinFlight(source, now, "")
	if err == errSuperseded {
		return Reading{}, err
	}
	switch s.tokenState(now) {
	case Fresh:
		return c.serve(s, now, nil), nil
	case InWindow:
		if err == nil && s.holdOff.cause != nil {
			err = s.holdOff.cause // One more attempt is under way.
		}
		return c.serve(s, now, err), nil
	}
	if err == nil {
		var r Reading
		if r, err = c.wait(ctx, f); err == nil || err == errSuperseded {
			return r, err
		}
	}
	// While this reader waited, the token may have left its buffer.
	now = c.options.Clock()
	s = c.state.Load()
	if source.Policy().StaleIfError && excusable(err) && s.source == source && s.tokenState(now) == InBuffer && s.token.Value != reported {
		r := c.serve(s, now, err)
		r.Stale = true
		return r, nil
	}
	return Reading{}, err
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
		r, err := c.read(ctx, source, reported)
		if err == nil && r.Token.Value == reported {
			return Reading{}, errSuperseded // Found in storage, after a restart. Now it is the cached one.
		}
		return r, err
	}
	if s.token.age(now) < s.token.ReplaceAge() {
		r := c.serve(s, now, nil)
		r.TooYoung = true
		return r, nil
	}
	_, f, err := c.joinFlight(source, now, reported)
	if err != nil {
		return Reading{}, err
	}
	return c.wait(ctx, f)
}

// RefreshInUse starts the refresh of a token that was read and is due for one.
func (c *Cache) RefreshInUse(source Source) {
	now := c.options.Clock()
	s := c.state.Load()
	if s.token == nil || !s.token.InUse() {
		return
	}
	if state := s.tokenState(now); state == InWindow || state == InBuffer {
		// A hold-off or another source is no fault: the next minute sees to it.
		_, _, _ = c.joinFlight(source, now, "")
	}
}

// serve makes the reading of the cached token.
func (c *Cache) serve(s *state, now Instant, failure error) Reading {
	t := s.token
	t.markUsed()
	soon := t.Superseded || s.suspect
	return Reading{Token: t, TTL: t.ttl(now, c.options.Random(), soon, failure != nil), Failure: failure, Suspect: s.suspect}
}

// wait returns the outcome of a flight. Who gives up waiting does not disturb it.
func (c *Cache) wait(ctx context.Context, f *flight) (Reading, error) {
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	select {
	case <-f.done:
	case <-ctx.Done():
		return Reading{}, fmt.Errorf("wait for an access token: %w", ctx.Err())
	}
	if f.err != nil {
		return Reading{}, f.err
	}
	return c.serve(f.published, c.options.Clock(), nil), nil
}

// excusable tells whether a token inside its buffer may stand in for a new one:
// not when Fuuffy rejected the credentials themselves.
func excusable(err error) bool {
	failure, ok := errors.AsType[*upstream.Error](err)
	return ok && failure.Failure != upstream.Rejected
}
