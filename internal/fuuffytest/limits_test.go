// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func wantLimit(t *testing.T, r reply, limit, remaining string, reset time.Time) {
	t.Helper()
	got := [3]string{
		r.header.Get("X-RateLimit-Limit"), r.header.Get("X-RateLimit-Remaining"), r.header.Get("X-RateLimit-Reset"),
	}
	if want := [3]string{limit, remaining, strconv.FormatInt(reset.Unix(), 10)}; got != want {
		t.Errorf("got limit, remaining, reset %v, want %v", got, want)
	}
}

func TestRateLimitPerMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newInProcess(t, Config{PerMinute: 3})
		start := time.Now()
		reset := start.Add(time.Minute)

		wantLimit(t, c.requestToken(), "3", "2", reset)
		time.Sleep(10500 * time.Millisecond)
		wantLimit(t, c.orders("sk-dead"), "3", "1", reset)
		wantLimit(t, c.get("/unknown", ""), "3", "0", reset)

		r := c.requestToken()
		wantStatus(t, r, http.StatusTooManyRequests)
		wantLimit(t, r, "3", "0", reset)
		if want := `{"error":{"code":"rate_limit_exceeded","message":"Too many requests, please try again later"}}`; r.body != want {
			t.Errorf("got %s, want %s", r.body, want)
		}
		if got := r.header.Get("Retry-After"); got != "50" {
			t.Errorf("got Retry-After %q, want 50: 49.5 s rounded up", got)
		}
		if got := s.Stats(); got.RateLimited != 1 || got.TokenRequests != 2 || got.TokensIssued != 1 {
			t.Errorf("got stats %+v", got)
		}

		time.Sleep(49500 * time.Millisecond)
		r = c.requestToken()
		wantStatus(t, r, http.StatusOK)
		wantLimit(t, r, "3", "2", start.Add(2*time.Minute))
	})
}

func TestRateLimitPerHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newInProcess(t, Config{PerMinute: 2, PerHour: 3})
		start := time.Now()
		wantLimit(t, c.requestToken(), "2", "1", start.Add(time.Minute))
		wantStatus(t, c.requestToken(), http.StatusOK)
		time.Sleep(time.Minute)
		// Both windows allow one more request. Then the hourly limit stops the client.
		wantLimit(t, c.requestToken(), "3", "0", start.Add(time.Hour))
		r := c.requestToken()
		wantStatus(t, r, http.StatusTooManyRequests)
		wantLimit(t, r, "3", "0", start.Add(time.Hour))
		if got := r.header.Get("Retry-After"); got != "3540" {
			t.Errorf("got Retry-After %q, want 3540", got)
		}
	})
}

func TestRateLimitNamesTheLongerWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newInProcess(t, Config{PerMinute: 1, PerHour: 1})
		c.token()
		r := c.requestToken()
		wantLimit(t, r, "1", "0", time.Now().Add(time.Hour))
		if got := r.header.Get("Retry-After"); got != "3600" {
			t.Errorf("got Retry-After %q, want 3600: the minute alone would not let the client in", got)
		}
	})
}

func TestRateLimitDefaultsAreFuuffys(t *testing.T) {
	_, c := newInProcess(t, Config{})
	if got := c.requestToken().header.Get("X-RateLimit-Limit"); got != "100" {
		t.Errorf("got %s requests a minute, want 100", got)
	}
	_, c = newInProcess(t, Config{PerMinute: -1})
	if got := c.requestToken().header.Get("X-RateLimit-Limit"); got != "1000" {
		t.Errorf("got %s requests an hour, want 1000", got)
	}
}

func TestNoRateLimit(t *testing.T) {
	_, c := newInProcess(t, Config{PerMinute: -1, PerHour: -1})
	for range 150 {
		r := c.requestToken()
		if r.status != http.StatusOK || r.header.Get("X-RateLimit-Limit") != "" {
			t.Fatalf("got status %d, header %v, want 200 without limits", r.status, r.header)
		}
	}
}
