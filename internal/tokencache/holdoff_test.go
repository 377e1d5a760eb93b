// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// How long Fuuffy is left alone, by class, number of failures and what it asked for;
// with the least and the most that chance makes of it.
func TestHoldOffTime(t *testing.T) {
	for name, tt := range map[string]struct {
		failure     upstream.Failure
		retryAfter  time.Duration
		failures    int
		least, most time.Duration
	}{
		"rejected once":                {upstream.Rejected, 0, 1, 30 * time.Second, 30 * time.Second},
		"rejected twice":               {upstream.Rejected, 0, 2, 45 * time.Second, time.Minute},
		"rejected often":               {upstream.Rejected, 0, 100, 225 * time.Second, 5 * time.Minute},
		"rejected, the fallback waits": {upstream.Rejected, time.Hour, 1, time.Hour, time.Hour},
		"rate limited":                 {upstream.RateLimited, 0, 1, time.Minute, time.Minute + time.Second},
		"rate limited until":           {upstream.RateLimited, 10 * time.Minute, 9, 10 * time.Minute, 10*time.Minute + time.Second},
		"unavailable once":             {upstream.Unavailable, 0, 1, time.Second, time.Second},
		"unavailable often":            {upstream.Unavailable, 0, 100, 45 * time.Second, time.Minute},
		"unavailable, asked for more":  {upstream.Unavailable, time.Hour, 1, time.Minute, time.Minute},
		"malformed thrice":             {upstream.Malformed, 0, 3, 3 * time.Second, 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			cause := &upstream.Error{Failure: tt.failure, RetryAfter: tt.retryAfter}
			assert.Equal(t, tt.most, max(holdOffTime(cause, tt.failures, 0), holdOffTime(cause, tt.failures, nearlyOne).Round(time.Millisecond)))
			assert.Equal(t, tt.least, min(holdOffTime(cause, tt.failures, 0), holdOffTime(cause, tt.failures, nearlyOne).Round(time.Millisecond)))
		})
	}
}

// A row of failures counts on, also across the two that pass; an operator ends the wait,
// but not what is known.
func TestHoldOffRow(t *testing.T) {
	at := func(seconds int) Instant {
		return Instant{Wall: time.Unix(int64(1_800_000_000+seconds), 0), Mono: time.Duration(seconds) * time.Second}
	}
	unavailable, malformed, rejected := &upstream.Error{Failure: upstream.Unavailable}, &upstream.Error{Failure: upstream.Malformed}, &upstream.Error{Failure: upstream.Rejected}
	h := holdOff{}.after(unavailable, at(0), 0).after(malformed, at(1), 0).after(unavailable, at(2), 0)
	assert.Equal(t, 3, h.failures)
	assert.Equal(t, at(0).Wall, h.since)
	assert.Equal(t, 4*time.Second, h.left(at(2)))
	assert.Error(t, h.active(at(5)))
	assert.NoError(t, h.active(at(6)), "until, not after")

	other := h.after(rejected, at(3), 0)
	assert.Equal(t, 1, other.failures)
	assert.Equal(t, at(3).Wall, other.since)
	assert.Equal(t, 1, other.after(unavailable, at(4), 0).failures, "and back")

	lifted := h.lifted()
	assert.Zero(t, lifted.left(at(2)))
	assert.Equal(t, unavailable, lifted.cause)
	assert.Equal(t, at(0).Wall, lifted.since)
	assert.Equal(t, holdOff{since: at(9).Wall}, h.over(at(9)))
	assert.Equal(t, holdOff{since: at(9).Wall}, h.over(at(9)).over(at(10)), "since when all is well")
	assert.Equal(t, holdOff{since: at(9).Wall}, holdOff{}.over(at(9)), "since the first token")
}

// A test that fails has the last word, but it changes no wait in progress, starts no longer one
// than the first, and doesn't count.
func TestHoldOffOfATest(t *testing.T) {
	at := func(seconds int) Instant {
		return Instant{Wall: time.Unix(int64(1_800_000_000+seconds), 0), Mono: time.Duration(seconds) * time.Second}
	}
	limited := &upstream.Error{Failure: upstream.RateLimited, RetryAfter: 10 * time.Minute}
	unavailable, rejected := &upstream.Error{Failure: upstream.Unavailable}, &upstream.Error{Failure: upstream.Rejected}

	h := holdOff{}.after(limited, at(0), 0).heard(rejected, at(1), 0)
	assert.Equal(t, 599*time.Second, h.left(at(1)))
	assert.Equal(t, rejected, h.cause)
	assert.Equal(t, 1, h.failures)
	assert.Equal(t, at(1).Wall, h.since)
	assert.Equal(t, at(1).Wall, h.heard(rejected, at(2), 0).since)
	assert.Equal(t, 2, h.after(limited, at(700), 0).failures, "the row of readers' failures goes on")
	assert.Equal(t, 1, h.after(rejected, at(700), 0).failures)

	h = holdOff{}.heard(rejected, at(0), 0)
	assert.Equal(t, 30*time.Second, h.left(at(0)))
	assert.Equal(t, 0, h.failures)
	assert.Equal(t, 30*time.Second, h.heard(unavailable, at(0), 0).left(at(0)))
	assert.Equal(t, time.Nanosecond, h.heard(rejected, Instant{Mono: 30*time.Second - 1}, 0).left(Instant{Mono: 30*time.Second - 1}))
	assert.Equal(t, 30*time.Second, h.heard(rejected, at(30), 0).left(at(30)))
	assert.Equal(t, 30*time.Second, h.after(rejected, at(30), 0).left(at(30)), "the first failure of a reader")

	h = holdOff{}.after(unavailable, at(0), 0).after(unavailable, at(1), 0).after(unavailable, at(3), 0)
	assert.Equal(t, time.Second, h.heard(unavailable, at(7), 0).left(at(7)))
	assert.Equal(t, 8*time.Second, h.heard(unavailable, at(7), 0).after(unavailable, at(8), 0).left(at(8)))
	assert.Zero(t, h.lifted().left(at(3)))
}
