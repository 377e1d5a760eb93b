// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"slices"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// This is the one way in for a token, whoever brings it: a flight, the proof of a change, a
// check, or storage.

const tooLate = "the access token arrived too late to be usable"

// admit places a token if it should take the place of the cached one. Otherwise the error says
// why not: errSuperseded if the cached one will do, errNoBetter with the placed token, which is no
// failure either, or an *upstream.Error.
func (c *Cache) admit(s *state, t Token, want demand, now Instant) (*Cached, error) {
	malformed := func(text string) error { return &upstream.Error{Failure: upstream.Malformed, Message: text} }
	placed := c.place(t, s.source)
	switch {
	case s.meets(want, now) && !s.endsFallback(placed), s.removedAfter(t):
		return nil, errSuperseded
	case placed == nil:
		return nil, malformed(tooLate)
	case t.Value == want.reported:
		return nil, malformed("Fuuffy issued the very access token that an app reported as rejected")
	case !s.needs(want, now) && !s.endsFallback(placed) && !placed.betterThan(s.token, now):
		return placed, errNoBetter
	case placed.state(now) > InWindow:
		return nil, malformed(tooLate)
	}
	return placed, nil
}

// admitStored is admit for a token from storage: it may be in its buffer, but it must be another
// one than the cached one, and live longer. It returns nil otherwise.
func (c *Cache) admitStored(s *state, t Token, now Instant) *Cached {
	t, ok := fromStorage(t, s.source.Policy(), now)
	if !ok || s.removedEver(t) || s.token != nil && s.token.Value == t.Value {
		return nil
	}
	placed := c.place(t, s.source)
	if placed == nil || placed.state(now) == Expired || s.token != nil && !placed.betterThan(s.token, now) {
		return nil
	}
	placed.saved = true
	if slices.Contains(s.reported, t.Value) && !t.Suspect {
		return placed.suspected()
	}
	return placed
}

// removedAfter tells whether a token was removed after the request for it, and removedEver whether
// one was removed at all.
func (s *state) removedAfter(t Token) bool {
	return slices.ContainsFunc(s.removed, func(r removal) bool { return r.token == t.Value && t.IssuedMono < r.at })
}

func (s *state) removedEver(t Token) bool {
	return slices.ContainsFunc(s.removed, func(r removal) bool { return r.token == t.Value })
}

// needs tells whether any usable token is better than the cached one.
func (s *state) needs(want demand, now Instant) bool {
	return want.reported != "" || s.tokenState(now) > InWindow || s.token.Superseded
}

// endsFallback tells whether a token, nil for none, shows that the current credentials work
// again, while a token of their fallback is cached.
func (s *state) endsFallback(t *Cached) bool {
	return t != nil && s.token != nil && s.token.FallbackFor != "" && s.token.FallbackFor == t.CredentialsID && t.FallbackFor == ""
}

// place puts a token under a source. It returns nil if the cache must not serve the token under
// the source's credentials.
func (c *Cache) place(t Token, source Source) *Cached {
	verdict := source.Judge(t)
	if verdict == DropToken {
		return nil
	}
	placed := newCached(t, source.Policy(), c.options.RefreshInterval, c.options.Random())
	placed.Superseded = verdict == ReplaceToken
	placed.Description, placed.Warning = source.Describe(placed)
	return placed
}

// save stores a token. If that fails, the cache still serves it from memory, and it says why.
func (c *Cache) save(ctx context.Context, source Source, t *Cached) *Cached {
	stored := t.Token
	stored.Used = t.InUse()
	return t.after(guarded("save of the access token", func() error { return source.Save(ctx, stored) }))
}

// erase removes the token from storage.
func erase(ctx context.Context, source Source) error {
	return guarded("removal of the stored access token", func() error { return source.Erase(ctx) })
}

// persist saves what memory knows of the cached token and storage doesn't. If it can't, it at
// least removes a reported token. failed is why a save just failed, nil if there was none. The
// caller holds storing. The errors are for the log.
func (c *Cache) persist(ctx context.Context, failed error) (unsaved, leftover error) {
	s := c.state.Load()
	t := s.token
	if t == nil || !t.differs() {
		return failed, nil
	}
	saved := t.after(failed)
	if failed == nil {
		saved = c.save(ctx, s.source, t)
	}
	if saved.unsaved != nil && t.evicts {
		leftover = erase(ctx, s.source)
		saved.evicts = leftover != nil
	}
	if saved.unsaved != nil && t.saved {
		return nil, nil // Only its use isn't stored yet.
	}
	c.change(func(s *state) {
		if s.token == t {
			s.token = saved
		}
	})
	if t.unsaved != nil && failed == nil {
		return nil, leftover // The log has the first one.
	}
	return saved.unsaved, leftover
}
