// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// saveTimeout bounds the storage write after a token request.
const saveTimeout = 5 * time.Second

var (
	// errSuperseded says that the configuration changed under a request: load the
	// new one and ask again.
	errSuperseded = errors.New("the configuration changed meanwhile")
	// errForward says that this node may not ask Fuuffy.
	errForward = errors.New("only the active node asks Fuuffy")
	errClosed  = errors.New("the secrets engine is being stopped")
)

// tokenSource is where a flight gets its token and keeps it.
type tokenSource interface {
	// fetch returns a new token, an *upstreamError, or errForward.
	fetch(ctx context.Context) (accessToken, error)
	// save keeps a token for after a restart.
	save(ctx context.Context, t accessToken) error
}

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

	// held is written under mu and read without it.
	held atomic.Pointer[heldToken]

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
	flight  *flight
	holdOff holdOff
	closed  bool
}

// flight is one token request and its outcome, which all who wait for it share.
type flight struct {
	generation uint64
	// started is on the monotonic clock: the token is at least as old as that.
	started time.Duration
	cancel  context.CancelFunc
	// replaces is set when the held token was reported dead: whatever comes is better.
	replaces bool
	// done is closed once token or err is set.
	done  chan struct{}
	token *heldToken
	err   error
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

// warm returns the held token if there is nothing to do but serve it.
func (c *tokenCache) warm() (reading, bool) {
	now := c.clock()
	t := c.held.Load()
	if t == nil || t.state(now) != fresh {
		return reading{}, false
	}
	return c.serve(t, now, nil), true
}

// get returns a valid token, waiting for one if need be. In the refresh window it
// returns the held one and starts a refresh in the background. generation is the
// one that source belongs to.
func (c *tokenCache) get(ctx context.Context, generation uint64, source tokenSource) (reading, error) {
	now := c.clock()
	c.mu.Lock()
	t := c.held.Load()
	if t != nil && t.state(now) <= inWindow {
		var failure error
		if t.state(now) == inWindow {
			_, failure = c.takeOff(generation, source, now)
			if failure == nil && c.holdOff.cause != nil {
				failure = c.holdOff.cause // One more attempt is under way.
			}
		}
		c.mu.Unlock()
		if errors.Is(failure, errSuperseded) {
			return reading{}, failure
		}
		return c.serve(t, now, failure), nil
	}
	f, err := c.takeOff(generation, source, now)
	stale := t != nil && c.policy.staleIfError
	c.mu.Unlock()

	if err == nil {
		t2, err2 := f.wait(ctx)
		if err2 == nil {
			return c.serve(t2, c.clock(), nil), nil
		}
		err = err2
	}
	if stale && excusable(err) && t.state(c.clock()) == inBuffer {
		r := c.serve(t, c.clock(), err)
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
	t, err = f.wait(ctx)
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

// takeOff returns the flight under way, or starts one unless Fuuffy is to be left
// alone. c.mu is held.
func (c *tokenCache) takeOff(generation uint64, source tokenSource, now instant) (*flight, error) {
	if generation != c.generation {
		return nil, errSuperseded
	}
	if c.closed {
		return nil, errClosed
	}
	if c.flight != nil {
		return c.flight, nil
	}
	if err := c.holdOff.active(now); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(c.life)
	f := &flight{generation: generation, started: now.mono, cancel: cancel, done: make(chan struct{})}
	c.flight = f
	c.flights.Go(func() {
		defer cancel()
		c.fly(ctx, f, source)
	})
	return f, nil
}

// fly gets one token, publishes it and saves it, and then tells all who wait. The
// save comes before that, so that a token once given out survives a crash.
func (c *tokenCache) fly(ctx context.Context, f *flight, source tokenSource) {
	defer close(f.done)
	token, err := fetchSafely(ctx, source)
	f.token, f.err = c.land(f, token, err)
	if f.err == nil {
		c.save(ctx, f.generation, f.token.accessToken, source)
	}
}

// fetchSafely makes a panic an error: the process serves other mounts too.
func fetchSafely(ctx context.Context, source tokenSource) (t accessToken, err error) {
	defer func() {
		if r := recover(); r != nil {
			// The value of a panic may quote what was being worked on; its place does not.
			err = &upstreamError{failure: malformed, message: "the engine stumbled over Fuuffy's answer", cause: &panicError{stack: string(debug.Stack())}}
		}
	}()
	return source.fetch(ctx)
}

// panicError keeps where a panic happened for the log.
type panicError struct{ stack string }

func (e *panicError) Error() string { return "panic in a token request" }

// land publishes the outcome of a flight, unless its generation is over.
func (c *tokenCache) land(f *flight, token accessToken, err error) (*heldToken, error) {
	now := c.clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation != f.generation {
		return nil, errSuperseded
	}
	c.flight = nil

	var t *heldToken
	if err == nil {
		t = c.hold(token, now)
		err = c.objection(t, f, now)
	}
	if err != nil {
		c.failed(err, now)
		return nil, err
	}
	if c.holdOff.cause != nil {
		c.log.Info("Fuuffy gives tokens again", "failures", c.holdOff.failures)
	}
	c.holdOff = holdOff{}
	t.issuedMono = min(t.issuedMono, f.started)
	c.held.Store(t)
	return t, nil
}

// objection says why a token that came is not worth publishing, if it is not. c.mu
// is held.
func (c *tokenCache) objection(t *heldToken, f *flight, now instant) error {
	if t == nil || t.state(now) > inWindow {
		return &upstreamError{failure: malformed, message: "the access token arrived too late to be of use"}
	}
	old := c.held.Load()
	needed := old == nil || old.superseded || old.state(now) > inWindow || f.replaces
	if !needed && !old.ExpiresAt.Before(t.ExpiresAt) {
		return &upstreamError{failure: malformed, message: "the new access token expires before the one it would replace"}
	}
	return nil
}

// failed starts or prolongs the hold-off, and logs a change for the worse once.
// c.mu is held.
func (c *tokenCache) failed(err error, now instant) {
	upstream, ok := errors.AsType[*upstreamError](err)
	if !ok {
		return // The end of the backend, or another node's business.
	}
	if p, ok := errors.AsType[*panicError](err); ok {
		c.log.Error("panic in a token request", "stack", p.stack)
	}
	before := c.holdOff
	c.holdOff = before.after(upstream, now, c.random())
	if before.cause == nil || before.cause.failure != upstream.failure {
		c.log.Warn("Fuuffy gives no token", "failure", upstream.failure, "error", upstream,
			"next_try_in", (c.holdOff.until - now.mono).Truncate(time.Second).String())
	}
}

// wait returns the outcome of the flight. Who gives up waiting does not disturb it.
func (f *flight) wait(ctx context.Context) (*heldToken, error) {
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for an access token: %w", ctx.Err())
	}
}
