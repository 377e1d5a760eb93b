// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"time"
)

// verdict is what a change of the configuration means for the held token.
type verdict int

const (
	// keepToken: it belongs to the credentials in force.
	keepToken verdict = iota
	// replaceToken: it belongs to credentials that were rotated; served until there
	// is one of the new.
	replaceToken
	// dropToken: it is not served again.
	dropToken
)

// renew begins a generation with the policy and the credentials in force now.
// latest, if there is one, is a token of these credentials that was got on the way:
// it is served if the change leaves no better one, so that no reader waits.
//
// It refuses, by returning false, if generation from is over: whoever read the
// configuration then must read it again.
func (c *tokenCache) renew(from uint64, p policy, judge func(accessToken) verdict, latest *accessToken) (uint64, bool) {
	now := c.clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation != from {
		return 0, false
	}
	c.begin()
	c.policy, c.judge = p, judge
	if old := c.held.Load(); old != nil {
		t := c.hold(old.accessToken, now)
		if t != nil {
			t.issuedMono = old.issuedMono
			t.used.Store(old.used.Load())
		}
		c.held.Store(t)
	}
	if latest != nil {
		c.adopt(*latest, now)
	}
	return c.generation, true
}

// hold places a token under the policy and the credentials in force; nil if it is
// not served under them. c.mu is held.
func (c *tokenCache) hold(token accessToken, now instant) *heldToken {
	verdict := c.judge(token)
	if verdict == dropToken {
		return nil
	}
	t := hold(token, c.policy, now, c.random())
	t.superseded = verdict == replaceToken
	return t
}

// adopt serves a token that was not got by a flight, unless the one held needs no
// replacement. c.mu is held.
func (c *tokenCache) adopt(token accessToken, now instant) {
	if old := c.held.Load(); old != nil && old.state(now) == fresh {
		return
	}
	if t := c.hold(token, now); t != nil && t.state(now) <= inWindow {
		c.held.Store(t)
	}
}

// supersede ends the generation without knowing the next one's configuration.
// The held token goes on being served unless it is dropped.
func (c *tokenCache) supersede(drop bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin()
	if drop {
		c.held.Store(nil)
	}
}

// begin counts a new generation. What the old one had under way is called off, and
// what it learned about Fuuffy may not hold any more. c.mu is held.
func (c *tokenCache) begin() {
	c.generation++
	c.holdOff = holdOff{}
	if f := c.flight.Load(); f != nil {
		f.cancel()
		c.flight.Store(nil)
	}
}

// offer serves a token from storage, unless the one held needs no replacement.
func (c *tokenCache) offer(generation uint64, token accessToken) {
	now := c.clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation == generation {
		c.adopt(token, now)
	}
}

// usable tells whether a token from storage would be served.
func (c *tokenCache) usable(token accessToken) bool {
	now := c.clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.judge == nil || token.IssuedAt.After(now.wall.Add(maxClockSkew)) {
		return false
	}
	t := c.hold(token, now)
	return t != nil && t.state(now) <= inWindow
}

// saveTimeout bounds the storage write after a token request.
const saveTimeout = 5 * time.Second

// save keeps the token for after a restart, unless its generation is over. It is
// served from memory all the same if that fails.
func (c *tokenCache) save(ctx context.Context, generation uint64, t accessToken, source tokenSource) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	c.saving.Lock()
	defer c.saving.Unlock()
	if c.currentGeneration() != generation {
		return
	}
	if err := source.save(ctx, t); err != nil {
		c.log.Warn("could not save the access token; it is served from memory and lost on a restart", "error", err)
	}
}

// erase runs remove when no save is under way. Saves of a generation that ended
// before are not begun any more.
func (c *tokenCache) erase(remove func() error) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	return remove()
}

func (c *tokenCache) currentGeneration() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

// close lets no flight start any more and waits for those under way, which end
// with life.
func (c *tokenCache) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.flights.Wait()
}
