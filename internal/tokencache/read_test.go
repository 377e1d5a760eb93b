// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// fakeSource is a source whose storage and whose Fuuffy a test decides about.
type fakeSource struct {
	staleIfError bool
	// drops is a token that it does not keep.
	drops string
	// rotated is a token of the credentials before its own.
	rotated string
	// other is set if the former sources had other credentials.
	other   bool
	stored  func() (Token, bool)
	request func() (Token, error)
	saved   []string
	// unsaved is why it saves nothing, nil if it does.
	unsaved error
	// saving runs during a save. It may be nil.
	saving func()
	// described runs when a token is put under the source. It may be nil.
	described func()
	// erasing runs during a removal of the stored token, and tells how it ends. It may be nil.
	erasing func() error
	// erased counts these removals.
	erased int
	// reported are the outcomes that it heard of, under mu.
	mu       sync.Mutex
	reported []Outcome
}

func (f *fakeSource) SameUpstream(Source) bool { return !f.other }

// Erase removes nothing.
func (f *fakeSource) Erase(context.Context) error {
	f.erased++
	if f.erasing != nil {
		return f.erasing()
	}
	return nil
}

// switched makes the source current.
func (f *fakeSource) switched(context.Context) (Effect, error) { return Effect{Source: f}, nil }

// fails is a check that fails.
func (f *fakeSource) fails(failure *upstream.Error) func(context.Context) (Effect, error) {
	return func(context.Context) (Effect, error) {
		return Effect{Test: &Test{Source: f, Failure: failure}}, nil
	}
}

// works is a check that brings a token.
func (f *fakeSource) works(t Token) func(context.Context) (Effect, error) {
	return func(context.Context) (Effect, error) { return Effect{Test: &Test{Source: f, Token: t}}, nil }
}

func (f *fakeSource) Policy() Policy {
	return Policy{Buffer: 5 * time.Minute, Window: 5 * time.Minute, StaleIfError: f.staleIfError}
}
func (f *fakeSource) Judge(t Token) Verdict {
	switch t.Value {
	case f.drops:
		return DropToken
	case f.rotated:
		return ReplaceToken
	}
	return KeepToken
}
func (f *fakeSource) Describe(*Cached) (map[string]any, string) {
	if f.described != nil {
		f.described()
	}
	return nil, ""
}
func (f *fakeSource) Report(_ context.Context, o Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reported = append(f.reported, o)
}
func (f *fakeSource) load(context.Context) (Source, error) { return f, nil }
func (f *fakeSource) Stored(context.Context) (Token, bool, error) {
	if f.stored == nil {
		return Token{}, false, nil
	}
	t, ok := f.stored()
	return t, ok, nil
}
func (f *fakeSource) Save(_ context.Context, t Token) error {
	if f.saving != nil {
		f.saving()
	}
	f.saved = append(f.saved, t.Value)
	return f.unsaved
}
func (f *fakeSource) Request(context.Context, *Cached) (Token, func(), error) {
	t, err := f.request()
	return t, func() {}, err
}

// grants is a request that brings an hour's token.
func grants(value string) func() (Token, error) {
	return func() (Token, error) { return hourToken(value, 0), nil }
}

func monotonic(at time.Time) time.Duration { return at.Sub(processStart) }

func hourToken(value string, age time.Duration) Token {
	issued := time.Now().Add(-age)
	return Token{Value: value, IssuedAt: issued, IssuedMono: monotonic(issued), ExpiresAt: issued.Add(time.Hour)}
}

// A warm read waits for no one, whatever it demands.
func TestWarmTakesNoLock(t *testing.T) {
	source := &fakeSource{request: grants("new")}
	c := New(Options{Clock: SystemClock, Logger: hclog.NewNullLogger})
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

// A closed cache serves the token that it has. That it refreshes none anymore is no failure.
func TestReadOfAClosedCache(t *testing.T) {
	source := &fakeSource{request: grants("new")}
	c := New(Options{Clock: SystemClock, Logger: hclog.NewNullLogger})
	_, err := c.Read(t.Context(), source.load, 0)
	require.NoError(t, err)
	c.Close()
	r, err := c.Read(t.Context(), source.load, 0)
	require.NoError(t, err)
	assert.NoError(t, r.Failure)
}

// A token that Fuuffy repeats is served without a lock too.
func TestWarmReadOfARepeatedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		held := hourToken("repeated", 0)
		source := &fakeSource{request: func() (Token, error) { return held, nil }}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		time.Sleep(51 * time.Minute)
		_, warm := c.Warm(0)
		require.False(t, warm, "nobody asked yet")
		_, err = c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		synctest.Wait()
		r, warm := c.Warm(0)
		if assert.True(t, warm) {
			assert.NoError(t, r.Failure)
		}
		time.Sleep(5*time.Minute - time.Nanosecond)
		_, warm = c.Warm(0)
		assert.False(t, warm, "in its buffer")
	})
}

// Storage has a token that will do for others, but not for this reader, who gets another one.
func TestStoredTokenThatEndsTooSoon(t *testing.T) {
	stored := hourToken("stored", 45*time.Minute)
	source := &fakeSource{request: grants("new"), stored: func() (Token, bool) { return stored, true }}
	c, _ := newInterruptedCache(t)
	r, err := c.Read(t.Context(), source.load, 20*time.Minute)
	if assert.NoError(t, err) {
		assert.Equal(t, "new", r.Token.Value)
	}
}

// Credentials were rotated just after Fuuffy issued a token. A report of that one waits for its time,
// as of any other.
func TestReportOfAYoungSupersededToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{request: grants("old"), rotated: "old"}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		source.request = grants("new")
		time.Sleep(30*time.Second - time.Nanosecond)
		r, err := c.Replace(t.Context(), source.load, "old")
		require.NoError(t, err)
		assert.True(t, r.TooYoung)
		time.Sleep(time.Nanosecond)
		r, err = c.Replace(t.Context(), source.load, "old")
		require.NoError(t, err)
		assert.Equal(t, "new", r.Token.Value)
	})
}

// A cache that closes writes nothing more.
func TestReportToAClosedCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{request: grants("unsaved"), unsaved: errors.New("storage is broken")}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		c.change(func(s *state) { s.closed = true })
		_, err = c.Replace(t.Context(), source.load, "unsaved")
		assert.Equal(t, ErrClosed, err)
		assert.Len(t, source.saved, 1)
	})
}

// A request fails, and at the same time a check brings a token. Readers who waited get that one.
func TestCheckDuringAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, clock := newInterruptedCache(t)
		source := &fakeSource{}
		source.request = func() (Token, error) {
			// The first look is that of the flight, the second that of the reader.
			clock.at(2, func() { assert.NoError(t, c.Commit(t.Context(), source.works(hourToken("new", 0)))) })
			return Token{}, &upstream.Error{Failure: upstream.Unavailable}
		}
		r, err := c.Read(t.Context(), source.load, 0)
		if assert.NoError(t, err) {
			assert.Equal(t, "new", r.Token.Value)
		}
	})
}
