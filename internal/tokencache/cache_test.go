// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// The error says whether the engine or the caller ended a storage call, or storage itself failed.
func TestStorageTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		began := time.Now()
		err := WithStorageTimeout(t.Context(), hangs)
		assert.Equal(t, storageTimeout, time.Since(began))
		assert.ErrorIs(t, err, errStorageTimeout)
		assert.ErrorIs(t, err, context.DeadlineExceeded)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = WithStorageTimeout(ctx, hangs)
		assert.NotErrorIs(t, err, errStorageTimeout)
		assert.ErrorIs(t, err, context.DeadlineExceeded)

		broken := errors.New("storage is broken")
		assert.Equal(t, broken, WithStorageTimeout(t.Context(), func(context.Context) error { return broken }))
		assert.NoError(t, WithStorageTimeout(t.Context(), func(ctx context.Context) error {
			<-ctx.Done() // It was just in time.
			return nil
		}))
	})
}

// The cached token knows whether it is stored, for as long as it is cached.
func TestUnsaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{request: grants("first"), unsaved: errors.New("storage is broken")}
		assert.NoError(t, c.Snapshot().Unsaved, "there is no token")
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		assert.Error(t, c.Snapshot().Unsaved)
		require.NoError(t, c.Commit(t.Context(), source.switched))
		assert.Error(t, c.Snapshot().Unsaved, "a change that keeps the token")

		source.unsaved = nil
		time.Sleep(52 * time.Minute)
		require.NoError(t, c.Commit(t.Context(), source.works(hourToken("second", 0))))
		assert.NoError(t, c.Snapshot().Unsaved, "a test brought another")

		source.unsaved = errors.New("storage is broken")
		time.Sleep(52 * time.Minute)
		require.NoError(t, c.Commit(t.Context(), func(context.Context) (Effect, error) {
			return Effect{Source: source, Test: &Test{Source: source, Token: hourToken("third", 0)}}, nil
		}))
		assert.Error(t, c.Snapshot().Unsaved)
		c.InvalidateToken()
		assert.NoError(t, c.Snapshot().Unsaved, "it is gone")
	})
}

// The snapshot says what readers get.
func TestSnapshotOfAStaleToken(t *testing.T) {
	for name, tt := range map[string]struct {
		age     time.Duration
		strict  bool
		failure upstream.Failure
		want    bool
	}{
		"unavailable":       {age: 56 * time.Minute, failure: upstream.Unavailable, want: true},
		"rate limited":      {age: 56 * time.Minute, failure: upstream.RateLimited, want: true},
		"rejected":          {age: 56 * time.Minute, failure: upstream.Rejected},
		"not allowed":       {age: 56 * time.Minute, failure: upstream.Unavailable, strict: true},
		"before its buffer": {age: 55*time.Minute - 1, failure: upstream.Unavailable},
		"at its buffer":     {age: 55 * time.Minute, failure: upstream.Unavailable, want: true},
		"expired":           {age: time.Hour, failure: upstream.Unavailable},
		"no failure":        {age: 56 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := newInterruptedCache(t)
				source := &fakeSource{request: grants("stale"), staleIfError: !tt.strict}
				_, err := c.Read(t.Context(), source.load, 0)
				require.NoError(t, err)
				time.Sleep(tt.age)
				if tt.failure != "" {
					require.NoError(t, c.Commit(t.Context(), source.fails(&upstream.Error{Failure: tt.failure})))
				}
				s := c.Snapshot()
				assert.Equal(t, tt.want, s.Stale)
				if tt.failure != "" && s.State == InBuffer {
					r, err := c.Read(t.Context(), source.load, 0) // In the hold-off.
					assert.Equal(t, s.Stale, err == nil && r.Stale, "readers get what the snapshot says")
				}
			})
		})
	}
}

// A token is reported twice at the same time. The second report comes when the first has just
// replaced it.
func TestReportOfATokenThatWasJustReplaced(t *testing.T) {
	c, _ := newInterruptedCache(t)
	source := &fakeSource{stored: func() (Token, bool) { return hourToken("reported", time.Minute), true }}
	_, err := c.Read(t.Context(), source.load, 0)
	require.NoError(t, err)
	c.whileItWaits("joinFlight", func() {
		r, err := c.Replace(t.Context(), source.load, "reported")
		if assert.NoError(t, err) {
			assert.Equal(t, "new", r.Token.Value)
		}
	}, func(s *state) { s.token = c.place(hourToken("new", 0), source) })
}

// Two readers need the configuration. The second is about to load it when the first has.
func TestConfigurationThatWasJustLoaded(t *testing.T) {
	c, _ := newInterruptedCache(t)
	source := &fakeSource{}
	c.whileItWaits("joinLoad", func() {
		found, err := c.Source(t.Context(), func(context.Context) (Source, error) {
			t.Error("it is loaded again")
			return source, nil
		})
		assert.NoError(t, err)
		assert.Same(t, source, found)
	}, func(s *state) { s.source = source })
}

// Another node's change is announced while the configuration before it becomes current. It is
// not lost: the next reader loads what is stored.
func TestForgetWhileASourceIsPutInForce(t *testing.T) {
	c, _ := newInterruptedCache(t)
	source := &fakeSource{request: grants("new")}
	_, err := c.Read(t.Context(), source.load, 0)
	require.NoError(t, err)
	c.InvalidateSource()

	forgotten := make(chan struct{})
	source.described = func() {
		go func() {
			defer close(forgotten)
			c.InvalidateSource()
		}()
		// It waits for the lock, or was quicker.
		for stacks := make([]byte, 1<<20); ; runtime.Gosched() {
			for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
				if strings.Contains(stack, "[sync.Mutex.Lock") && strings.Contains(stack, "(*Cache).InvalidateSource(") {
					return
				}
			}
			select {
			case <-forgotten:
				return
			default:
			}
		}
	}
	_, err = c.Source(t.Context(), source.load)
	require.NoError(t, err)
	<-forgotten
	assert.False(t, c.state.Load().uses(source))
}

// A change that drops the token comes in the middle of a call. Its answer is a token of the
// new source, and the old one is not asked for another.
func TestSourceChangesDuringACall(t *testing.T) {
	for name, call := range map[string]func(context.Context, *Cache, Loader) (Reading, error){
		"read":   func(ctx context.Context, c *Cache, load Loader) (Reading, error) { return c.Read(ctx, load, 0) },
		"report": func(ctx context.Context, c *Cache, load Loader) (Reading, error) { return c.Replace(ctx, load, "old") },
	} {
		for state, age := range map[string]time.Duration{"young": 0, "in its window": 52 * time.Minute} {
			t.Run(name+", "+state, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, clock := newInterruptedCache(t)
					before := &fakeSource{request: grants("old")}
					after := &fakeSource{request: grants("new"), drops: "old"}
					_, err := c.Read(t.Context(), before.load, 0)
					require.NoError(t, err)
					time.Sleep(age)
					before.request = func() (Token, error) {
						t.Error("the old source is asked for a token")
						return hourToken("old", 0), nil
					}
					clock.at(1, c.InvalidateSource)
					r, err := call(t.Context(), c, after.load)
					if assert.NoError(t, err) {
						assert.Equal(t, "new", r.Token.Value)
						assert.NoError(t, r.Failure)
					}
				})
			})
		}
	}
}

// A token inside its buffer may stand in for a new one. When the request for one fails, it may
// be deleted in the meantime, or the operator may have forbidden that. A change that leaves all that
// alone, such as one that another node wrote, changes nothing for the reader.
func TestStaleTokenIsNotServedAfterAChange(t *testing.T) {
	strict := &fakeSource{}
	for name, change := range map[string]func(context.Context, *Cache) error{
		"none": func(context.Context, *Cache) error { return nil },
		"token deleted": func(ctx context.Context, c *Cache) error {
			return c.Commit(ctx, func(context.Context) (Effect, error) { return Effect{DropToken: true}, nil })
		},
		"setting changed": func(ctx context.Context, c *Cache) error { return c.Commit(ctx, strict.switched) },
		"another setting, elsewhere": func(_ context.Context, c *Cache) error {
			c.InvalidateSource()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, clock := newInterruptedCache(t)
				source := &fakeSource{staleIfError: true, request: grants("stale")}
				_, err := c.Read(t.Context(), source.load, 0)
				require.NoError(t, err)
				time.Sleep(56 * time.Minute)
				source.request = func() (Token, error) {
					// The first look is that of the flight, the second that of the reader.
					clock.at(2, func() { assert.NoError(t, change(t.Context(), c)) })
					source.request = func() (Token, error) { return Token{}, &upstream.Error{Failure: upstream.Unavailable} }
					return source.request()
				}
				r, err := c.Read(t.Context(), source.load, 0)
				served := name == "none" || name == "another setting, elsewhere"
				assert.Equal(t, served, r.Stale)
				assert.Equal(t, served, err == nil)
			})
		})
	}
}

// Fuuffy issues the token that is cached once more, for longer. An app reports it before it is
// published. It hears that the engine just got that token.
func TestReportOfATokenThatIsGrantedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{request: grants("again")}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		time.Sleep(52 * time.Minute)
		got := make(chan Reading, 1)
		source.saving = func() {
			go func() {
				r, err := c.Replace(t.Context(), source.load, "again")
				assert.NoError(t, err)
				got <- r
			}()
			time.Sleep(time.Second) // The reader waits for the flight by then.
			require.EqualValues(t, 1, c.Snapshot().Waiting)
		}
		_, err = c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		assert.True(t, (<-got).TooYoung)
	})
}

// A start looks for the stored token of the current source only, and waits for no request.
func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{}
		_, err := c.Source(t.Context(), source.load)
		require.NoError(t, err)
		c.Restore(t.Context(), &fakeSource{stored: func() (Token, bool) { return hourToken("other", 0), true }})
		assert.Nil(t, c.Snapshot().Token)

		source.stored = func() (Token, bool) {
			time.Sleep(time.Minute)
			return hourToken("stored", 0), true
		}
		began := time.Now()
		c.Restore(t.Context(), source)
		assert.Equal(t, storageTimeout, time.Since(began))
		time.Sleep(time.Minute)
		assert.Equal(t, "stored", c.Snapshot().Token.Value)
	})
}

// A source that drops the very token that it got is a failure, not a token.
func TestSourceDropsItsOwnToken(t *testing.T) {
	c, _ := newInterruptedCache(t)
	source := &fakeSource{request: grants("new"), drops: "new"}
	_, err := c.Read(t.Context(), source.load, 0)
	failure, ok := errors.AsType[*upstream.Error](err)
	if assert.True(t, ok, "%v", err) {
		assert.Equal(t, upstream.Malformed, failure.Failure)
	}
	assert.Nil(t, c.Snapshot().Token)
}

// The token is deleted when a flight has its successor. That one is neither served nor saved.
func TestSupersededTokenIsNotSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, clock := newInterruptedCache(t)
		source := &fakeSource{}
		source.request = func() (Token, error) {
			source.request = grants("next")
			clock.at(1, c.InvalidateToken) // The look is that of admit.
			return hourToken("superseded", 0), nil
		}
		r, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		assert.Equal(t, "next", r.Token.Value)
		assert.Equal(t, []string{"next"}, source.saved)
	})
}
