// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrNoSource says that nothing is configured.
var ErrNoSource = errors.New("not configured")

// Loader makes the source from the stored configuration, and bounds each wait for storage. The
// error wraps ErrNoSource if there is none.
type Loader func(context.Context) (Source, error)

// load is one run of a Loader, which all its readers share.
type load struct {
	// done is closed when source or err is set.
	done   chan struct{}
	source Source
	err    error
}

// Source returns the current source, and loads it if there is none, or if storage may have
// another. The error is the loader's, ctx's, or ErrClosed.
func (c *Cache) Source(ctx context.Context, loader Loader) (Source, error) {
	for {
		if s := c.state.Load(); s.source != nil && !s.outdated {
			return s.source, nil
		}
		l, err := c.joinLoad(loader)
		if err != nil {
			return nil, err
		}
		if l == nil {
			continue // Another load just ended.
		}
		select {
		case <-l.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the configuration: %w", ctx.Err())
		}
		if l.err != errSuperseded {
			return l.source, l.err
		}
	}
}

// loadPatience is how long readers wait for a load after one failed.
const loadPatience = 500 * time.Millisecond

// sourceForReaders is Source, but the former one goes on for readers if storage can't be read. Once
// a load failed, they wait only a moment for the next, and not at all while it would take as long.
func (c *Cache) sourceForReaders(ctx context.Context, loader Loader) (Source, error) {
	wait := ctx
	if s := c.state.Load(); s.unloadable {
		patience := loadPatience
		if c.options.Clock().Mono-s.failedAt < s.impatience {
			patience = 0
		}
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	source, err := c.Source(wait, loader)
	if err == nil || ctx.Err() != nil {
		return source, err
	}
	switch s := c.state.Load(); {
	case s.source != nil && s.uses(s.source):
		return s.source, nil
	case wait.Err() != nil:
		return c.sourceForReaders(ctx, loader) // The former one was deleted or replaced meanwhile.
	}
	return nil, err
}

// joinLoad returns the load in progress or starts one. It returns nil if none is needed.
func (c *Cache) joinLoad(loader Loader) (*load, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state.Load()
	switch {
	case s.closed:
		return nil, ErrClosed
	case s.source != nil && !s.outdated:
		return nil, nil
	case s.loading != nil:
		return s.loading, nil
	}
	l := &load{done: make(chan struct{})}
	c.changeLocked(func(s *state) { s.loading = l })
	c.background.Go(func() { c.runLoad(l, loader) })
	return l, nil
}

// runLoad loads a source and makes it current unless the load is out of date.
func (c *Cache) runLoad(l *load, loader Loader) {
	began := c.options.Clock().Mono
	var source Source
	err := guarded("load of the configuration", func() (err error) {
		source, err = loader(c.life)
		return err
	})
	if c.life.Err() != nil {
		err = ErrClosed // Clearer than a context error.
	}
	now := c.options.Clock().Mono
	// If the clock says that it took longer, the machine was suspended.
	took := min(now-began, storageTimeout)
	gone := errors.Is(err, ErrNoSource)
	c.mu.Lock()
	before := c.state.Load()
	superseded := before.loading != l
	// Even then a failure says that storage can't be read. Its readers have waited long enough.
	unloadable := err != nil && !gone && before.source != nil && before.outdated
	if superseded && !unloadable {
		c.mu.Unlock()
		l.err = errSuperseded
		close(l.done)
		return
	}
	c.changeLocked(func(s *state) {
		if superseded {
			s.unloadable = true
			return
		}
		s.loading = nil
		switch {
		case err == nil:
			c.enforce(s, source)
		case gone && s.source != nil:
			s.deleted = s.source
			s.clear()
		default:
			// If the next one takes as long, readers know its end by then.
			s.unloadable, s.impatience, s.failedAt = unloadable, took*5/4, now
		}
	})
	after := c.state.Load()
	c.mu.Unlock()
	l.source, l.err = source, err
	close(l.done)

	switch {
	case err == nil && before.token != nil && after.token == nil:
		c.report(source, Outcome{Dropped: true})
	case gone && after.deleted != nil:
		c.eraseDeleted(after.deleted)
	case after.unloadable && !before.unloadable && err != ErrClosed:
		c.logUnloadable(err)
	case before.source == nil:
		c.logPanic(err)
	}
}

// eraseDeleted removes the token of a configuration that another node deleted from this cluster's
// own storage. If that fails, the next load tries again.
func (c *Cache) eraseDeleted(deleted Source) {
	unlock, err := c.lockStoringSoon(c.life)
	if err == nil && c.state.Load().deleted == deleted {
		err = erase(c.life, deleted)
	}
	if err == nil {
		c.change(func(s *state) {
			if s.deleted == deleted {
				s.deleted = nil
			}
		})
	}
	unlock()
	c.logPanic(err)
}

// enforce makes a source current, and keeps the cached token if the source allows that.
func (c *Cache) enforce(s *state, source Source) {
	former := s.source
	s.source, s.outdated, s.unloadable, s.deleted = source, false, false, nil
	if s.flight != nil {
		s.supersede()
	}
	if former != nil && !source.SameUpstream(former) {
		s.holdOff, s.lastSuccess = holdOff{}, time.Time{}
	}
	old := s.token
	if old == nil {
		return
	}
	s.token = c.place(old.Token, source)
	if s.token == nil {
		return
	}
	s.token.firstLife, s.token.used = old.firstLife, old.used
	s.token.saved, s.token.unsaved, s.token.evicts = old.saved, old.unsaved, old.evicts
}
