// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

var (
	// errSuperseded says that the configuration changed under a request: load the
	// new one and ask again.
	errSuperseded = errors.New("the configuration changed meanwhile")
	// errForward says that this node may not ask Fuuffy.
	errForward = errors.New("only the active node asks Fuuffy")
	errClosed  = errors.New("the secrets engine is being stopped")
)

// tokenCache holds one token and sees to it that at most one request for another
// is under way. It knows neither Vault nor HTTP.
type tokenCache struct {
	clock  func() instant
	random func() float64
	log    hclog.Logger
	// life is the backend's: flights run on it and end with it.
	life context.Context
	// flights counts the goroutines that close waits for.
	flights sync.WaitGroup

	// waiting counts the readers in front of a flight.
	waiting atomic.Int64

	// held and flight are written under mu and read without it.
	held   atomic.Pointer[heldToken]
	flight atomic.Pointer[flight]

	// saving is held across storage writes of the token, so that one of an older
	// generation can't come after one of a newer.
	saving sync.Mutex

	// mu guards what follows. It is never held across I/O.
	mu sync.Mutex
	// generation counts the changes of credentials and settings. What was begun in
	// an older one is not published.
	generation uint64
	policy     policy
	// judge says what becomes of a token under the credentials in force.
	judge   func(accessToken) verdict
	holdOff holdOff
	closed  bool
}

// reading is what one reader gets.
type reading struct {
	token *heldToken
	ttl   time.Duration
	// failure is why there is no newer token although one is due.
	failure error
	// stale is set for a token inside its buffer, served for want of another.
	stale bool
	// tooYoung is set when a token reported dead was kept because of its age.
	tooYoung bool
}

func newTokenCache(life context.Context, log hclog.Logger) *tokenCache {
	return &tokenCache{clock: systemClock, random: rand.Float64, log: log, life: life}
}

func (c *tokenCache) wallClock() time.Time { return c.clock().wall }

// warm returns the held token if there is nothing to do but serve it: it is fresh, or
// its refresh is under way and there is no failure to tell of.
func (c *tokenCache) warm() (reading, bool) {
	now := c.clock()
	t := c.held.Load()
	if t == nil {
		return reading{}, false
	}
	switch t.state(now) {
	case fresh:
		return c.serve(t, now, nil), true
	case inWindow:
		if f := c.flight.Load(); f != nil && !f.retries {
			return c.serve(t, now, nil), true
		}
	}
	return reading{}, false
}

// get returns a valid token, waiting for one if need be. In the refresh window it
// returns the held one and starts a refresh in the background. generation is the
// one that source belongs to.
func (c *tokenCache) get(ctx context.Context, generation uint64, source tokenSource) (reading, error) {
	now := c.clock()
	c.mu.Lock()
	held, staleIfError := c.held.Load(), c.policy.staleIfError
	if held != nil && held.state(now) == fresh {
		c.mu.Unlock()
		return c.serve(held, now, nil), nil
	}
	f, err := c.takeOff(generation, source, now)
	if err == nil && c.holdOff.cause != nil {
		err = c.holdOff.cause // One more attempt is under way.
	}
	c.mu.Unlock()

	if held != nil && held.state(now) == inWindow && !errors.Is(err, errSuperseded) {
		return c.serve(held, now, err), nil
	}
	if f != nil {
		var t *heldToken
		if t, err = c.wait(ctx, f); err == nil {
			return c.serve(t, c.clock(), nil), nil
		}
	}
	if staleIfError && excusable(err) && held != nil && held.state(c.clock()) == inBuffer {
		r := c.serve(held, c.clock(), err)
		r.stale = true
		return r, nil
	}
	return reading{}, err
}

// replace returns another token than the one reported dead, or the current one if
// somebody already had it replaced. An empty report means whichever is held.
func (c *tokenCache) replace(ctx context.Context, generation uint64, dead string, source tokenSource) (reading, error) {
	now := c.clock()
	c.mu.Lock()
	t := c.held.Load()
	if t == nil || t.state(now) > inWindow || (dead != "" && dead != t.Value) {
		c.mu.Unlock()
		return c.get(ctx, generation, source)
	}
	if t.age(now) < t.replaceAge() {
		c.mu.Unlock()
		r := c.serve(t, now, nil)
		r.tooYoung = true
		return r, nil
	}
	f, err := c.takeOff(generation, source, now)
	if err == nil {
		f.replaces = true
	}
	c.mu.Unlock()
	if err != nil {
		return reading{}, err
	}
	t, err = c.wait(ctx, f)
	if err != nil {
		return reading{}, err
	}
	return c.serve(t, c.clock(), nil), nil
}

// due tells whether the held token is served but ought to be replaced.
func (c *tokenCache) due() bool {
	t := c.held.Load()
	return t != nil && t.state(c.clock()) == inWindow
}

// refreshInUse starts the refresh of a token that was read and is due for one.
func (c *tokenCache) refreshInUse(generation uint64, source tokenSource) {
	now := c.clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.held.Load()
	if t == nil || !t.used.Load() {
		return
	}
	if state := t.state(now); state == inWindow || state == inBuffer {
		// A hold-off or a newer generation is no fault: the next minute sees to it.
		_, _ = c.takeOff(generation, source, now)
	}
}

// serve makes the reading of a token that its reader may have.
func (c *tokenCache) serve(t *heldToken, now instant, failure error) reading {
	t.markUsed()
	return reading{token: t, ttl: t.ttl(now, c.random(), failure != nil), failure: failure}
}

// excusable tells whether a token inside its buffer may stand in for a new one:
// not when the credentials themselves were refused.
func excusable(err error) bool {
	upstream, ok := errors.AsType[*upstreamError](err)
	return ok && upstream.failure != rejected
}
