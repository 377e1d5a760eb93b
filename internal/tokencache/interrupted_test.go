// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// These tests do something between two steps of the cache, where it takes luck from outside.

// interruptedClock runs something once at a look at the clock, between two steps of the cache.
type interruptedClock struct {
	began time.Time
	looks atomic.Int64
	act   func()
}

// at acts at the n-th look from now.
func (k *interruptedClock) at(n int64, act func()) {
	k.act = act
	k.looks.Store(n)
}

func (k *interruptedClock) now() Instant {
	if k.looks.Add(-1) == 0 {
		k.act()
	}
	now := time.Now()
	return Instant{Wall: now, Mono: now.Sub(k.began)}
}

func newInterruptedCache(t *testing.T) (*Cache, *interruptedClock) {
	clock := &interruptedClock{began: time.Now()}
	c := New(Options{Clock: clock.now, Logger: hclog.NewNullLogger})
	t.Cleanup(c.Close)
	return c, clock
}

// whileItWaits runs do, and edits the state when do waits for the cache's lock in a function.
func (c *Cache) whileItWaits(function string, do func(), edit func(*state)) {
	c.mu.Lock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	for stacks := make([]byte, 1<<20); !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*Cache)."+function+"("); {
		runtime.Gosched()
	}
	c.changeLocked(edit)
	c.mu.Unlock()
	<-done
}

// A request ends in vain if a better token turned up in storage meanwhile. A reader that
// joins it in its last moment, and needs one that lives longer, starts another.
func TestMinTTLReaderJoinsARequestThatEndedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stored := false
		asked := make(chan struct{})
		requests := 0
		source := &fakeSource{
			stored: func() (Token, bool) { return hourToken("stored", 40*time.Minute), stored },
			request: func() (Token, error) {
				requests++
				if requests == 1 {
					<-asked
				}
				return hourToken("new", 0), nil
			},
		}
		c, clock := newInterruptedCache(t)
		go func() {
			_, err := c.Read(t.Context(), source.load, 0)
			assert.NoError(t, err)
		}()
		synctest.Wait()

		stored = true
		c.Restore(t.Context(), source)
		require.Equal(t, "stored", c.Snapshot().Token.Value)
		got := make(chan Reading, 1)
		clock.at(2, func() { // The first look is that of admit.
			go func() {
				r, err := c.Read(t.Context(), source.load, 25*time.Minute)
				assert.NoError(t, err)
				got <- r
			}()
			time.Sleep(time.Second) // The reader waits for the flight by then.
			require.EqualValues(t, 2, c.Snapshot().Waiting)
		})
		close(asked)
		if r := <-got; assert.NotNil(t, r.Token) {
			assert.Equal(t, "new", r.Token.Value)
		}
		synctest.Wait() // The other reader may be on its way out.
		assert.Equal(t, 2, requests)
		assert.Zero(t, c.Snapshot().Waiting)
	})
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
	}, func(s *state) { s.token = c.place(hourToken("new", 0), source, c.options.Clock()) })
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

// Another node's change is announced while the configuration before it is put in force. It is
// not lost: the next reader loads what is stored.
func TestForgetWhileASourceIsPutInForce(t *testing.T) {
	c, _ := newInterruptedCache(t)
	source := &fakeSource{request: grants("new")}
	_, err := c.Read(t.Context(), source.load, 0)
	require.NoError(t, err)
	c.Forget()

	forgotten := make(chan struct{})
	source.described = func() {
		go func() {
			defer close(forgotten)
			c.Forget()
		}()
		// It waits for the lock, or was quicker.
		for stacks := make([]byte, 1<<20); ; runtime.Gosched() {
			for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
				if strings.Contains(stack, "[sync.Mutex.Lock") && strings.Contains(stack, "(*Cache).Forget(") {
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
	assert.Nil(t, c.Snapshot().Source)
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
					clock.at(1, c.Forget)
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
// be deleted in the meantime, or the operator may have forbidden that.
func TestStaleTokenIsNotServedAfterAChange(t *testing.T) {
	strict := &fakeSource{}
	for name, change := range map[string]func(context.Context, *Cache) error{
		"none": func(context.Context, *Cache) error { return nil },
		"token deleted": func(ctx context.Context, c *Cache) error {
			return c.DeleteToken(ctx, func(context.Context) error { return nil })
		},
		"setting changed": func(ctx context.Context, c *Cache) error { return c.Switch(ctx, Switch{Store: strict.load}) },
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
					return Token{}, &upstream.Error{Failure: upstream.Unavailable}
				}
				r, err := c.Read(t.Context(), source.load, 0)
				assert.Equal(t, name == "none", r.Stale)
				assert.Equal(t, name == "none", err == nil)
			})
		})
	}
}

// Fuuffy grants the token that is cached once more, for longer. An app reports it before it is
// published. It hears that the engine just got that token.
func TestReportOfATokenThatIsGrantedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, clock := newInterruptedCache(t)
		source := &fakeSource{request: grants("again")}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		time.Sleep(52 * time.Minute)
		got := make(chan Reading, 1)
		source.request = func() (Token, error) {
			clock.at(2, func() { // The first look is that of admit.
				go func() {
					r, err := c.Replace(t.Context(), source.load, "again")
					assert.NoError(t, err)
					got <- r
				}()
				time.Sleep(time.Second) // The reader waits for the flight by then.
				require.EqualValues(t, 1, c.Snapshot().Waiting)
			})
			return hourToken("again", 0), nil
		}
		_, err = c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		assert.True(t, (<-got).TooYoung)
	})
}

// A start reads the stored token for a source that is no longer in force, or gives up.
func TestRestoreInVain(t *testing.T) {
	c, _ := newInterruptedCache(t)
	source := &fakeSource{}
	_, err := c.Source(t.Context(), source.load)
	require.NoError(t, err)
	c.Restore(t.Context(), &fakeSource{stored: func() (Token, bool) { return hourToken("other", 0), true }})
	assert.Nil(t, c.Snapshot().Token)

	unlock, err := c.lockStoring(t.Context())
	require.NoError(t, err)
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	source.stored = func() (Token, bool) { return hourToken("stored", 0), true }
	c.Restore(ctx, source)
	assert.Nil(t, c.Snapshot().Token)
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
			clock.at(1, c.DropToken) // The look is that of admit.
			return hourToken("superseded", 0), nil
		}
		r, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		assert.Equal(t, "next", r.Token.Value)
		assert.Equal(t, []string{"next"}, source.saved)
	})
}
