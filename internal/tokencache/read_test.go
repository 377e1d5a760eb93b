// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeSource is a source whose storage and whose Fuuffy a test decides about.
type fakeSource struct {
	stored  func() (Token, bool)
	request func() Token
}

func (*fakeSource) Policy() Policy                            { return Policy{Buffer: 5 * time.Minute, Window: 5 * time.Minute} }
func (*fakeSource) Judge(Token) Verdict                       { return KeepToken }
func (*fakeSource) Describe(*Cached) (map[string]any, string) { return nil, "" }
func (*fakeSource) Save(context.Context, Token) error         { return nil }
func (*fakeSource) Report(context.Context, Outcome)           {}
func (f *fakeSource) load(context.Context) (Source, error)    { return f, nil }
func (f *fakeSource) Stored(context.Context) (Token, bool, error) {
	t, ok := f.stored()
	return t, ok, nil
}
func (f *fakeSource) Request(context.Context, *Cached) (Token, error) { return f.request(), nil }

func hourToken(value string, age time.Duration) Token {
	issued := time.Now().Add(-age).Truncate(time.Second)
	return Token{Value: value, IssuedAt: issued, ExpiresAt: issued.Add(time.Hour)}
}

// A request ends in vain if a better token turned up in storage meanwhile. A reader that
// joins it in its last moment, and needs one that lives longer, starts another.
func TestMinTTLReaderJoinsARequestThatEndedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		stored := false
		asked := make(chan struct{})
		requests := 0
		source := &fakeSource{
			stored: func() (Token, bool) { return hourToken("stored", 40*time.Minute), stored },
			request: func() Token {
				requests++
				if requests == 1 {
					<-asked
				}
				return hourToken("new", 0)
			},
		}
		// late runs once at a look at the clock, between two steps of the flight.
		var late func()
		var looks atomic.Int64
		c := New(Options{
			Clock: func() Instant {
				if looks.Add(-1) == 0 {
					late()
				}
				now := time.Now()
				return Instant{Wall: now, Mono: now.Sub(began)}
			},
			Logger: hclog.NewNullLogger,
		})
		defer c.Close()
		go func() {
			_, err := c.Read(t.Context(), source.load, 0)
			assert.NoError(t, err)
		}()
		synctest.Wait()

		stored = true
		c.Restore(t.Context(), source)
		require.Equal(t, "stored", c.Snapshot().Token.Value)
		got := make(chan Reading, 1)
		late = func() {
			go func() {
				r, err := c.Read(t.Context(), source.load, 25*time.Minute)
				assert.NoError(t, err)
				got <- r
			}()
			time.Sleep(time.Second) // The reader waits for the flight by then.
			require.EqualValues(t, 2, c.Snapshot().Waiting)
		}
		looks.Store(2) // The first is that of admit.
		close(asked)
		if r := <-got; assert.NotNil(t, r.Token) {
			assert.Equal(t, "new", r.Token.Value)
		}
		assert.Equal(t, 2, requests)
	})
}

// A warm read waits for nobody, whatever it demands.
func TestWarmTakesNoLock(t *testing.T) {
	source := &fakeSource{
		stored:  func() (Token, bool) { return Token{}, false },
		request: func() Token { return hourToken("new", 0) },
	}
	c := New(Options{Clock: func() Instant { return Instant{Wall: time.Now()} }, Logger: hclog.NewNullLogger})
	defer c.Close()
	_, err := c.Read(t.Context(), source.load, 0)
	require.NoError(t, err)
	unlock, err := c.lockStoring(t.Context())
	require.NoError(t, err)
	defer unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, minTTL := range []time.Duration{0, 20 * time.Minute} {
		_, warm := c.Warm(minTTL)
		assert.True(t, warm, "min_ttl %s", minTTL)
	}
}
