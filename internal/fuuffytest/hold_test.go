// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newInProcess(t, Config{})
		release := s.Hold()
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() { wantStatus(t, c.requestToken(), http.StatusUnauthorized) })
		}
		if err := s.WaitHeld(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		if got := s.Stats(); got.TokenRequests != 3 || got.Held != 3 || got.TokensIssued+got.TokenRejections != 0 {
			t.Errorf("got stats %+v, want 3 requests received and none answered", got)
		}
		wantStatus(t, c.orders("sk-dead"), http.StatusUnauthorized) // Hold doesn't affect orders.

		s.RevokeClient(testID) // The sandbox decides the outcome after the release.
		release()
		release()
		waiting.Wait()
		wantStatus(t, c.requestToken(), http.StatusUnauthorized)
		if got := s.Stats(); got.Held != 0 || got.TokenRejections != 4 {
			t.Errorf("got stats %+v, want all 4 answered", got)
		}
	})
}

func TestHoldAgainBeforeRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newInProcess(t, Config{})
		releaseFirst := s.Hold()
		releaseSecond := s.Hold()
		answered := make(chan reply, 1)
		go func() { answered <- c.requestToken() }()
		releaseFirst()
		synctest.Wait()
		if s.Stats().Held != 1 {
			t.Error("the release of the first hold ended the second")
		}
		releaseSecond()
		wantStatus(t, <-answered, http.StatusOK)
	})
}

func TestHeldRequestEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newInProcess(t, Config{})
		defer s.Hold()()
		c.client.Timeout = time.Second
		if r := c.requestToken(); !errors.Is(r.err, context.DeadlineExceeded) {
			t.Errorf("got error %v, want deadline exceeded", r.err)
		}
		synctest.Wait()
		if got := s.Stats(); got.Held != 0 || got.TokensIssued != 0 {
			t.Errorf("got stats %+v, want none held or issued", got)
		}
	})
}

func TestWaitHeldGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := s.WaitHeld(ctx, 2)
		if !errors.Is(err, context.DeadlineExceeded) || err.Error() != "wait for 2 held token requests (have 0): context deadline exceeded" {
			t.Errorf("got error %v", err)
		}
	})
}
