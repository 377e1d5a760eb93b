// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"fmt"
)

// Loader makes the source from the stored configuration.
type Loader func(context.Context) (Source, error)

// load is one run of a Loader, which all its readers share.
type load struct {
	// done is closed when source or err is set.
	done   chan struct{}
	source Source
	err    error
}

// Source returns the source in force, and loads it if there is none. The error is the
// loader's, ctx's, or ErrClosed.
func (c *Cache) Source(ctx context.Context, loader Loader) (Source, error) {
	for {
		if s := c.state.Load(); s.source != nil {
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

// joinLoad returns the load in progress or starts one. It returns nil if none is needed.
func (c *Cache) joinLoad(loader Loader) (*load, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state.Load()
	switch {
	case s.closed:
		return nil, ErrClosed
	case s.source != nil:
		return nil, nil
	case s.loading != nil:
		return s.loading, nil
	}
	l := &load{done: make(chan struct{})}
	c.changeLocked(func(s *state) { s.loading = l })
	c.background.Go(func() {
		defer close(l.done)
		l.source, l.err = c.runLoad(l, loader)
	})
	return l, nil
}

// runLoad loads a source and puts it in force unless the load is out of date.
func (c *Cache) runLoad(l *load, loader Loader) (source Source, err error) {
	if panicked := guard("load of the configuration", func() { source, err = loader(c.life) }); panicked != nil {
		c.logPanic(panicked)
		source, err = nil, panicked
	}
	now := c.options.Clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Load().loading != l {
		return nil, errSuperseded
	}
	c.changeLocked(func(s *state) {
		s.loading = nil
		if err == nil {
			c.enforce(s, source, now)
		}
	})
	return source, err
}

// enforce puts a source in force, and keeps the cached token if the source allows that.
func (c *Cache) enforce(s *state, source Source, now Instant) {
	s.source = source
	old := s.token
	if old == nil {
		return
	}
	s.token = c.place(old.Token, source, now)
	if s.token == nil {
		s.suspect = false
		return
	}
	s.token.issuedMono, s.token.firstLife, s.token.unsaved = old.issuedMono, old.firstLife, old.unsaved
	s.token.used.Store(old.used.Load())
}
