// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"context"
	"fmt"
	"net/http"
	"sync"
)

// Hold makes token requests wait from now on. The sandbox receives and counts them, but answers only after you call
// release, and decides their outcome then. Calling release again does nothing.
func (s *Sandbox) Hold() (release func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = gate
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		// A later Hold has its own gate, which stays closed.
		if s.gate == gate {
			s.gate = nil
		}
		close(gate)
	})
}

// WaitHeld waits until Hold keeps at least n token requests waiting, or the context is done.
func (s *Sandbox) WaitHeld(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		held, changed := s.stats.Held, s.heldChanged
		s.mu.Unlock()
		if held >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d held token requests (have %d): %w", n, held, ctx.Err())
		}
	}
}

// waitReleased waits while Hold is on. If the client disconnects or the server closes, it aborts the request.
func (s *Sandbox) waitReleased(ctx context.Context) {
	gate := s.enterHold()
	if gate == nil {
		return
	}
	defer s.leaveHold()
	select {
	case <-gate:
	case <-ctx.Done():
		panic(http.ErrAbortHandler)
	}
}

func (s *Sandbox) enterHold() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate != nil {
		s.countHeld(1)
	}
	return s.gate
}

func (s *Sandbox) leaveHold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countHeld(-1)
}

func (s *Sandbox) countHeld(change int) {
	s.stats.Held += change
	close(s.heldChanged)
	s.heldChanged = make(chan struct{})
}
