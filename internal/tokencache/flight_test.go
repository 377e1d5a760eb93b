// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// Somebody holds up all writes. A new token is served without being saved, and then saved.
func TestTokenWhileStorageIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, log := newLoggedCache(t)
		source := &fakeSource{request: grants("new")}
		unlock, err := c.lockStoring(t.Context())
		require.NoError(t, err)
		_, err = c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		assert.ErrorIs(t, c.Snapshot().Unsaved, errStorageTimeout)
		assert.Empty(t, source.saved)
		unlock()
		synctest.Wait()
		assert.NoError(t, c.Snapshot().Unsaved)
		assert.Equal(t, []string{"new"}, source.saved)
		assert.Equal(t, 1, log.count("could not save the access token"))
	})
}

// Somebody holds up all writes. That a token is suspect is saved afterwards, not meanwhile.
func TestSuspectTokenWhileStorageIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{request: grants("reported")}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		source.request = func() (Token, error) { return Token{}, &upstream.Error{Failure: upstream.Unavailable} }
		unlock, err := c.lockStoring(t.Context())
		require.NoError(t, err)
		_, err = c.Replace(t.Context(), source.load, "reported")
		require.Error(t, err)
		assert.Len(t, source.saved, 1)
		unlock()
		synctest.Wait()
		assert.Len(t, source.saved, 2)
	})
}

// After a restart, apps still hold a token that was reported. When its successor comes, they must
// hear of it.
func TestStoredSuspectIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		suspect := hourToken("reported", time.Minute)
		suspect.Suspect = true
		source := &fakeSource{request: grants("new"), stored: func() (Token, bool) { return suspect, true }}
		r, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		assert.True(t, r.Token.Suspect, "no one waits")
		synctest.Wait()
		assert.Equal(t, []Outcome{{Replaced: true}}, source.reported)
		r, err = c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		assert.Equal(t, "new", r.Token.Value)
	})
}

// A start that a reader or the end forestalled looks for nothing.
func TestRestoreThatIsTooLate(t *testing.T) {
	for name, before := range map[string]func(*Cache, Loader) error{
		"a reader": func(c *Cache, load Loader) error {
			_, err := c.Read(context.Background(), load, 0)
			return err
		},
		"the end": func(c *Cache, load Loader) error {
			_, err := c.Source(context.Background(), load)
			c.Close()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := newInterruptedCache(t)
			source := &fakeSource{request: grants("new")}
			require.NoError(t, before(c, source.load))
			source.stored = func() (Token, bool) {
				t.Error("it looks for a token")
				return Token{}, false
			}
			c.Restore(t.Context(), source)
		})
	}
}

// At the end of a token that Fuuffy repeats, a token that is too short is no failure. What else goes
// wrong is one.
func TestFailureAtTheEndOfARepeatedToken(t *testing.T) {
	unavailable := &upstream.Error{Failure: upstream.Unavailable}
	for name, tt := range map[string]struct{ err, failure error }{
		"too short":   {err: &upstream.Error{Failure: upstream.Malformed}},
		"unavailable": {err: unavailable, failure: unavailable},
		"a standby":   {err: ErrForward, failure: ErrForward},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := newInterruptedCache(t)
				held := hourToken("repeated", 0)
				source := &fakeSource{request: func() (Token, error) { return held, nil }}
				_, err := c.Read(t.Context(), source.load, 0)
				require.NoError(t, err)
				time.Sleep(52 * time.Minute)
				_, err = c.Read(t.Context(), source.load, 0)
				require.NoError(t, err)
				time.Sleep(8*time.Minute + time.Second)
				synctest.Wait()
				source.request = func() (Token, error) { return Token{}, tt.err }
				_, err = c.Read(t.Context(), source.load, 0)
				if tt.failure != nil {
					assert.Equal(t, tt.failure, err)
				} else {
					_, repeated := errors.AsType[*RepeatedError](err)
					assert.True(t, repeated, "%v", err)
				}
				assert.Equal(t, tt.failure == unavailable, c.Snapshot().Failure != nil)
			})
		})
	}
}

// A request that fails writes nothing.
func TestFailureIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		stored := hourToken("stored", 52*time.Minute)
		source := &fakeSource{stored: func() (Token, bool) { return stored, true }}
		source.request = func() (Token, error) { return Token{}, &upstream.Error{Failure: upstream.Unavailable} }
		for range 2 {
			_, err := c.Read(t.Context(), source.load, 0)
			require.NoError(t, err)
			synctest.Wait()
		}
		require.NotNil(t, c.Snapshot().Failure)
		assert.Empty(t, source.saved)
		c.RefreshInUse(source)
		assert.Len(t, source.saved, 1, "its use is")
	})
}

// A stored token that has expired is as good as none.
func TestRestoreOfAnExpiredToken(t *testing.T) {
	for age, want := range map[time.Duration]bool{time.Hour - time.Second: true, time.Hour: false} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := newInterruptedCache(t)
			stored := hourToken("stored", age)
			source := &fakeSource{stored: func() (Token, bool) { return stored, true }}
			_, err := c.Source(t.Context(), source.load)
			require.NoError(t, err)
			c.Restore(t.Context(), source)
			assert.Equal(t, want, c.Snapshot().Token != nil, age)
		})
	}
}

// An app reports a token at the end of which Fuuffy issues one that is too short. For that app, this
// is a failure.
func TestReportAtTheEndOfARepeatedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		held := hourToken("repeated", 0)
		source := &fakeSource{request: func() (Token, error) { return held, nil }}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		time.Sleep(52 * time.Minute)
		_, err = c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		time.Sleep(8*time.Minute - 15*time.Second)
		synctest.Wait()
		failure := &upstream.Error{Failure: upstream.Malformed}
		source.request = func() (Token, error) {
			time.Sleep(10 * time.Second) // In the end, the token has less left than a token may.
			return Token{}, failure
		}
		_, err = c.Replace(t.Context(), source.load, "repeated")
		assert.Equal(t, failure, err)
		assert.Equal(t, failure, c.Snapshot().Failure)
	})
}

// The cached token could not be saved. The one before it, which storage still has, does not come back.
func TestStoredTokenThatIsWorse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		stored := hourToken("stored", 2*time.Minute)
		source := &fakeSource{request: grants("unsaved"), unsaved: errors.New("storage is broken")}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		time.Sleep(51 * time.Minute)
		source.stored = func() (Token, bool) { return stored, true }
		source.request = func() (Token, error) { return Token{}, &upstream.Error{Failure: upstream.Unavailable} }
		_, err = c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		synctest.Wait()
		assert.NotNil(t, c.Snapshot().Failure)
		assert.Equal(t, "unsaved", c.Snapshot().Token.Value)
	})
}

// A check fails while a request is in progress. Whoever reports the cached token waits for that
// request, and isn't refused because of the check.
func TestReportDuringARequestAndAHoldOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{request: grants("old")}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		time.Sleep(51 * time.Minute)
		source.request = func() (Token, error) {
			time.Sleep(2 * time.Second)
			return hourToken("new", 0), nil
		}
		_, err = c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.NoError(t, c.Commit(t.Context(), func(context.Context) (Effect, error) {
			return Effect{Test: &Test{Source: source, Failure: &upstream.Error{Failure: upstream.RateLimited}}}, nil
		}))
		require.NotZero(t, c.Snapshot().HeldOffFor)
		r, err := c.Replace(t.Context(), source.load, "old")
		require.NoError(t, err)
		assert.Equal(t, "new", r.Token.Value)
	})
}
