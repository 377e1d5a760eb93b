// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// cacheLog is what a cache logs.
type cacheLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *cacheLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// count is how often a text is in the log.
func (l *cacheLog) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

func newLoggedCache(t *testing.T) (*Cache, *cacheLog) {
	log := &cacheLog{}
	logger := hclog.New(&hclog.LoggerOptions{Output: log})
	c := New(Options{Clock: SystemClock, Logger: func() hclog.Logger { return logger }})
	t.Cleanup(c.Close)
	return c, log
}

// The log says once that a token is only in memory, however often a save fails.
func TestLogOfAnUnsavedSuspect(t *testing.T) {
	unavailable := &upstream.Error{Failure: upstream.Unavailable}
	for name, before := range map[string]func(context.Context, *Cache, *fakeSource) error{
		"Fuuffy was asked": func(context.Context, *Cache, *fakeSource) error { return nil },
		"in a hold-off": func(ctx context.Context, c *Cache, source *fakeSource) error {
			return c.Commit(ctx, source.fails(unavailable))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, log := newLoggedCache(t)
				source := &fakeSource{request: grants("reported")}
				_, err := c.Read(t.Context(), source.load, 0)
				require.NoError(t, err)
				time.Sleep(time.Minute)
				require.NoError(t, before(t.Context(), c, source))
				source.request = func() (Token, error) { return Token{}, unavailable }
				source.unsaved = errors.New("storage is broken")
				_, err = c.Replace(t.Context(), source.load, "reported")
				require.Error(t, err)
				synctest.Wait()
				const unsaved = "could not save the access token"
				assert.Equal(t, 1, log.count(unsaved))
				assert.Error(t, c.Snapshot().Unsaved)
				c.RefreshInUse(source)
				synctest.Wait()
				assert.Len(t, source.saved, 3, "it was tried again")
				assert.Equal(t, 1, log.count(unsaved))

				source.unsaved = nil
				c.RefreshInUse(source)
				assert.NoError(t, c.Snapshot().Unsaved)
				_, err = c.Replace(t.Context(), source.load, "reported")
				require.Error(t, err)
				assert.Len(t, source.saved, 4, "it is stored")
			})
		})
	}
}

// That the use of a stored token isn't stored is nobody's worry.
func TestUnsavedUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, log := newLoggedCache(t)
		source := &fakeSource{stored: func() (Token, bool) { return hourToken("stored", 0), true }, unsaved: errors.New("storage is broken")}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		c.RefreshInUse(source)
		assert.Len(t, source.saved, 1)
		assert.NoError(t, c.Snapshot().Unsaved)
		assert.Zero(t, log.count("could not save"))

		source.unsaved = nil
		c.RefreshInUse(source)
		assert.Len(t, source.saved, 2, "it was tried again")
		c.RefreshInUse(source)
		assert.Len(t, source.saved, 2, "it is stored")
	})
}

// The log says where the engine panicked, whatever it did.
func TestLogOfAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, log := newLoggedCache(t)
		wrong := func(context.Context) (Source, error) { panic("wrong") }
		_, err := c.Source(t.Context(), wrong)
		require.Error(t, err)
		synctest.Wait()
		assert.Equal(t, 1, log.count("panic in a load of the configuration:"))

		source := &fakeSource{erasing: func() error { panic("wrong") }}
		_, err = c.Source(t.Context(), source.load)
		require.NoError(t, err)
		c.InvalidateSource()
		_, err = c.Source(t.Context(), func(context.Context) (Source, error) { return nil, ErrNoSource })
		require.ErrorIs(t, err, ErrNoSource)
		synctest.Wait()
		assert.Equal(t, 1, log.count("panic in a removal of the stored access token:"))
		require.Error(t, c.Commit(t.Context(), func(context.Context) (Effect, error) { panic("wrong") }))
		assert.Equal(t, 1, log.count("panic in a change of what is stored:"))
		assert.Zero(t, log.count("wrong"), "a panic's value may quote a secret")
	})
}

// A standby that finds the active node's next token in storage has nothing to complain of any more,
// unless that one is in its buffer.
func TestStoredTokenAfterAFailure(t *testing.T) {
	unavailable := &upstream.Error{Failure: upstream.Unavailable}
	for name, tt := range map[string]struct {
		age  time.Duration
		ends bool
	}{"a good one": {time.Second, true}, "in its buffer": {56 * time.Minute, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, log := newLoggedCache(t)
				source := &fakeSource{request: grants("old")}
				_, err := c.Read(t.Context(), source.load, 0)
				require.NoError(t, err)
				time.Sleep(58 * time.Minute)
				require.NoError(t, c.Commit(t.Context(), source.fails(unavailable)))
				since := c.Snapshot().Since
				time.Sleep(time.Minute) // The hold-off is over.
				require.NotNil(t, c.Snapshot().Failure)
				stored := hourToken("next", tt.age)
				source.stored = func() (Token, bool) { return stored, true }
				source.request = func() (Token, error) { return Token{}, unavailable }
				_, err = c.Read(t.Context(), source.load, 0)
				assert.Equal(t, tt.ends, err == nil)
				synctest.Wait()
				s := c.Snapshot()
				assert.Equal(t, "next", s.Token.Value)
				assert.Equal(t, stored.IssuedAt, s.LastSuccess)
				assert.Equal(t, tt.ends, s.Failure == nil)
				assert.Equal(t, tt.ends, s.Since.After(since))
				assert.Equal(t, tt.ends, log.count("Fuuffy issues tokens again") == 1)
			})
		})
	}
}

// The log says that a restart would bring a reported token back.
func TestLogOfALeftover(t *testing.T) {
	for name, replace := range map[string]func(context.Context, *Cache, *fakeSource) error{
		"a request": func(ctx context.Context, c *Cache, source *fakeSource) error {
			_, err := c.Replace(ctx, source.load, "reported")
			return err
		},
		"a check": func(ctx context.Context, c *Cache, source *fakeSource) error {
			return c.Commit(ctx, source.works(hourToken("new", 0)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, log := newLoggedCache(t)
				source := &fakeSource{request: grants("reported")}
				_, err := c.Read(t.Context(), source.load, 0)
				require.NoError(t, err)
				time.Sleep(time.Minute)
				c.change(func(s *state) { s.token = s.token.suspected() })
				source.request, source.unsaved = grants("new"), errors.New("storage is broken")
				source.erasing = func() error { return source.unsaved }
				require.NoError(t, replace(t.Context(), c, source))
				synctest.Wait()
				assert.Equal(t, "new", c.Snapshot().Token.Value)
				assert.Error(t, c.Snapshot().Unsaved)
				assert.Equal(t, 1, log.count("could not save the access token"))
				assert.Equal(t, 1, log.count("could not remove the rejected access token from storage"))
			})
		})
	}
}
