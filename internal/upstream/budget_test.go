// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// countingHost notes when attempts arrive, and answers as status says, after delay.
type countingHost struct {
	mu     sync.Mutex
	times  []time.Time
	status func() int
	delay  time.Duration
}

// RoundTrip is part of http.RoundTripper.
func (h *countingHost) RoundTrip(r *http.Request) (*http.Response, error) {
	h.mu.Lock()
	h.times = append(h.times, time.Now())
	status := h.status()
	h.mu.Unlock()
	time.Sleep(h.delay)
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: bodyOf(goodGrant), Request: r}, nil
}

func (h *countingHost) attempts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.times)
}

// requireBudget fails if any minute has more than 20 attempts.
func (h *countingHost) requireBudget(t *testing.T) {
	t.Helper()
	for i := 20; i < len(h.times); i++ {
		require.Greater(t, h.times[i].Sub(h.times[i-20]), time.Minute, "attempts %d to %d are 21 within a minute", i-20, i)
	}
}

func always(status int) func() int { return func() int { return status } }

// client returns another client of the mount.
func (h *countingHost) client(budget *Budget) *Client {
	return New(Config{BaseURL: "https://gateway.example.com", Timeout: 10 * time.Second, Transport: h, Budget: budget})
}

func tried(t *testing.T, c *Client) *Error {
	t.Helper()
	_, err := c.TryToken(t.Context(), testClientID, testSecret)
	failed, _ := errors.AsType[*Error](err)
	require.Equal(t, err == nil, failed == nil, "want an *Error, got %v", err)
	return failed
}

// No minute has more than 20 attempts, whoever asks and however often, with whatever clients,
// and whatever Fuuffy answers. Retries count. Meanwhile, readers are served in time.
func TestBudgetUnderAMixedLoad(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			budget := NewBudget()
			host := &countingHost{delay: 50 * time.Millisecond, status: func() int {
				return []int{200, 200, 200, 401, 429, 503, 503}[random.IntN(7)]
			}}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			var all sync.WaitGroup
			repeat := func(pause time.Duration, act func(*Client)) {
				random := rand.New(rand.NewPCG(seed, uint64(pause)))
				all.Go(func() {
					c := host.client(budget)
					for ctx.Err() == nil {
						act(c)
						wait(ctx, time.Duration(random.Int64N(int64(pause))))
					}
				})
			}
			refused := 0
			for range 3 {
				repeat(2*time.Second, func(c *Client) {
					if failed := tried(t, c); failed != nil && failed.OverBudget() {
						host.mu.Lock()
						refused++
						host.mu.Unlock()
					}
				})
			}
			reads := 0
			repeat(30*time.Second, func(c *Client) {
				began := time.Now()
				_, err := c.RequestToken(ctx, testClientID, testSecret)
				if failed, ok := errors.AsType[*Error](err); ok {
					assert.False(t, failed.OverBudget(), "a reader was sent away")
				}
				// Three attempts, their pauses, and their turns.
				assert.LessOrEqual(t, time.Since(began), maxAttempts*(budgetPause+host.delay)+2*maxPause)
				reads++
			})
			all.Wait()
			host.requireBudget(t)
			assert.Greater(t, refused, 1000)
			assert.Greater(t, reads, 100)
			assert.Greater(t, host.attempts(), 500, "the budget is used")
		})
	}
}

// A spent budget says when there is a request again, and is right.
func TestBudgetSaysWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &countingHost{status: always(200)}
		c := host.client(NewBudget())
		for range 10 {
			require.Nil(t, tried(t, c))
		}
		failed := tried(t, c)
		require.NotNil(t, failed)
		assert.True(t, failed.OverBudget())
		assert.Equal(t, RateLimited, failed.Failure)
		assert.Zero(t, failed.Status, "Fuuffy didn't answer")
		assert.False(t, failed.RejectsCredentials())
		assert.False(t, failed.ProvesRevoked())
		assert.False(t, failed.LeadsElsewhere())
		assert.False(t, failed.NotFuuffy())
		assert.Equal(t, "this mount sends Fuuffy at most 20 token requests a minute", failed.Error())
		assert.Equal(t, 6*time.Second, failed.RetryAfter)
		time.Sleep(5 * time.Second)
		assert.Equal(t, time.Second, tried(t, c).RetryAfter)
		time.Sleep(time.Second)
		assert.Nil(t, tried(t, c), "the time that it named")
		assert.Equal(t, 6*time.Second, tried(t, c).RetryAfter)
		assert.Equal(t, 11, host.attempts())
		assert.Nil(t, tried(t, host.client(NewBudget())), "another mount has its own")
	})
}

// Readers wait for their turn, one after the other. Those whose turn would come after the end
// of their request are told immediately.
func TestReadersWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &countingHost{status: always(200)}
		c := host.client(NewBudget())
		for range 10 {
			require.Nil(t, tried(t, c))
		}
		began := time.Now()
		var mu sync.Mutex
		var served, sentAway int
		for range 12 {
			go func() {
				_, err := c.RequestToken(t.Context(), testClientID, testSecret)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					served++
					return
				}
				failed, ok := errors.AsType[*Error](err)
				if assert.True(t, ok) && assert.True(t, failed.OverBudget()) {
					sentAway++
					assert.Equal(t, RateLimited, failed.Failure)
					assert.Equal(t, 54*time.Second, failed.RetryAfter)
					assert.Equal(t, began, time.Now())
				}
			}()
		}
		synctest.Wait()
		assert.Equal(t, 4, sentAway)
		require.NotNil(t, tried(t, c), "an operator doesn't take a reader's turn")
		for turn := 1; turn <= 8; turn++ {
			time.Sleep(budgetPause)
			synctest.Wait()
			mu.Lock()
			assert.Equal(t, turn, served)
			mu.Unlock()
		}
		host.requireBudget(t)
	})
}

// A reader that gives up gets its own error, and gives its turn back.
func TestReaderThatGivesUpItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &countingHost{status: always(200)}
		c := host.client(NewBudget())
		for range 10 {
			require.Nil(t, tried(t, c))
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		_, err := c.RequestToken(ctx, testClientID, testSecret)
		assert.Equal(t, context.Canceled, err)
		assert.Equal(t, 5*time.Second, tried(t, c).RetryAfter)
		assert.Equal(t, 10, host.attempts())
	})
}

// A retry that the budget doesn't allow ends the request with what Fuuffy said.
func TestRetryBeyondTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &countingHost{status: always(200)}
		c := host.client(NewBudget())
		for range 9 {
			require.Nil(t, tried(t, c))
		}
		host.status = always(503)
		failed := tried(t, c)
		require.NotNil(t, failed)
		assert.Equal(t, 503, failed.Status)
		assert.False(t, failed.OverBudget())
		assert.Equal(t, 10, host.attempts())

		// A reader's retries wait.
		_, err := c.RequestToken(t.Context(), testClientID, testSecret)
		failed, _ = errors.AsType[*Error](err)
		require.NotNil(t, failed)
		assert.Equal(t, 503, failed.Status)
		assert.Equal(t, 10+maxAttempts, host.attempts())
	})
}

// Without a budget, nothing is bounded.
func TestNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &countingHost{status: always(200)}
		c := host.client(nil)
		for range 100 {
			require.Nil(t, tried(t, c))
		}
	})
}
