// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"testing"
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
	drops   string
	stored  func() (Token, bool)
	request func() (Token, error)
	saved   []string
	// unsaved is why it saves nothing, nil if it does.
	unsaved error
	// saving runs during a save. It may be nil.
	saving func()
	// described runs when a token is put under the source. It may be nil.
	described func()
	// erased counts the removals of the stored token.
	erased int
}

// SameUpstream is true: the sources of a test have the same credentials.
func (*fakeSource) SameUpstream(Source) bool { return true }

// Erase removes nothing.
func (f *fakeSource) Erase(context.Context) error {
	f.erased++
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
	if t.Value == f.drops {
		return DropToken
	}
	return KeepToken
}
func (f *fakeSource) Describe(*Cached) (map[string]any, string) {
	if f.described != nil {
		f.described()
	}
	return nil, ""
}
func (*fakeSource) Report(context.Context, Outcome)        {}
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
