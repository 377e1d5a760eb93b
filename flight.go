// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// tokenSource is where a flight gets its token and keeps it.
type tokenSource interface {
	// fetch returns a new token, an *upstreamError, or errForward.
	fetch(ctx context.Context) (accessToken, error)
	// save keeps a token for after a restart.
	save(ctx context.Context, t accessToken) error
	// report tells the outcome to who is interested, after everybody who waited.
	report(ctx context.Context, err error)
}

// flight is one token request and its outcome, which all who wait for it share.
type flight struct {
	generation uint64
	// started is on the monotonic clock: the token is at least as old as that.
	started time.Duration
	cancel  context.CancelFunc
	// replaces is set when the held token was reported dead: whatever comes is better.
	replaces bool
	// retries is set when the request before this one failed.
	retries bool
	// done is closed once token or err is set.
	done  chan struct{}
	token *heldToken
	err   error
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
	if f := c.flight.Load(); f != nil {
		return f, nil
	}
	if err := c.holdOff.active(now); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(c.life)
	f := &flight{generation: generation, started: now.mono, cancel: cancel, retries: c.holdOff.cause != nil, done: make(chan struct{})}
	c.flight.Store(f)
	c.flights.Go(func() {
		defer cancel()
		c.fly(ctx, f, source)
	})
	return f, nil
}

// fly carries out a flight, and tells its outcome to all who wait.
func (c *tokenCache) fly(ctx context.Context, f *flight, source tokenSource) {
	c.deliver(ctx, f, source)
	source.report(ctx, f.err)
}

// deliver gets one token, publishes it and saves it. The save comes before anybody
// is given the token, so that a token once given out survives a crash.
func (c *tokenCache) deliver(ctx context.Context, f *flight, source tokenSource) {
	defer close(f.done)
	token, err := fetchSafely(ctx, source)
	if err != nil && c.life.Err() != nil {
		err = errClosed // Rather than that some context ended.
	}
	f.token, f.err = c.land(f, token, err)
	if f.err == nil && f.token.Value == token.Value {
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
	c.flight.Store(nil)

	old := c.held.Load()
	if old != nil && old.state(now) == fresh && !f.replaces {
		return old, nil // Another one was published meanwhile, from storage.
	}
	var t *heldToken
	if err == nil {
		t = c.hold(token, now)
		err = objection(t, old, f.replaces, now)
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

// objection says why a token that came is not worth publishing in place of the old
// one, if it is not.
func objection(t, old *heldToken, replaces bool, now instant) error {
	if t == nil || t.state(now) > inWindow {
		return &upstreamError{failure: malformed, message: "the access token arrived too late to be of use"}
	}
	needed := replaces || old == nil || old.superseded || old.state(now) > inWindow
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

// wait returns the outcome of a flight. Who gives up waiting does not disturb it.
func (c *tokenCache) wait(ctx context.Context, f *flight) (*heldToken, error) {
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for an access token: %w", ctx.Err())
	}
}
