// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"fmt"
	"math"
	"time"

	"golang.org/x/time/rate"
)

const (
	// budgetBurst requests may follow each other immediately. Then there is one more every
	// budgetPause. So no minute has more than MaxPerMinute.
	budgetBurst = 10
	budgetPause = 6 * time.Second
	// MaxPerMinute is the most token requests that a mount sends in any minute. Fuuffy allows
	// the whole account 100.
	MaxPerMinute = budgetBurst + int(time.Minute/budgetPause)
)

// Budget bounds how many token requests a mount sends, whoever asks for whatever. The clients
// of a mount share it. A nil Budget has no bound. It is safe for concurrent use.
type Budget struct{ limiter *rate.Limiter }

// NewBudget returns a Budget of which nothing is spent.
func NewBudget() *Budget {
	return &Budget{rate.NewLimiter(rate.Every(budgetPause), budgetBurst)}
}

// wait spends one request as soon as it may be sent. It returns false, immediately, if that
// would be after the end of ctx, and when ctx ends.
func (b *Budget) wait(ctx context.Context) bool {
	return b == nil || b.limiter.Wait(ctx) == nil
}

// take spends one request if it may be sent now.
func (b *Budget) take(context.Context) bool {
	return b == nil || b.limiter.Allow()
}

// Room returns an *Error that is OverBudget unless n requests may be sent now. It spends none:
// who needs several, one after the other, looks first, so that the last isn't refused.
func (b *Budget) Room(n int) error {
	if b == nil || b.limiter.Tokens() >= float64(n)-inexact {
		return nil
	}
	return b.exhausted(n)
}

// inexact is how much less than a whole number of requests the limiter may count.
const inexact = 1e-6

// exhausted is the error of n requests that may not be sent.
func (b *Budget) exhausted(n int) *Error {
	missing := (float64(n) - b.limiter.Tokens()) * budgetPause.Seconds()
	return &Error{
		Failure:    RateLimited,
		Message:    fmt.Sprintf("this mount sends Fuuffy at most %d token requests a minute", MaxPerMinute),
		RetryAfter: time.Duration(max(1, math.Ceil(missing-inexact))) * time.Second,
		overBudget: true,
	}
}
