// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// While storage can't be read, the former source asks for a token. Then the stored one is put in
// force. What the former one gets is not published, and readers don't wait for it.
func TestLoadEndsTheFlightOfTheFormerSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		former := &fakeSource{request: grants("first")}
		_, err := c.Read(t.Context(), former.load, 0)
		require.NoError(t, err)
		c.InvalidateSource()
		former.request = func() (Token, error) {
			time.Sleep(time.Minute)
			return hourToken("of the former source", 0), nil
		}
		time.Sleep(52 * time.Minute)
		_, err = c.Read(t.Context(), func(context.Context) (Source, error) { return nil, errors.New("storage is broken") }, 0)
		require.NoError(t, err)
		require.NotNil(t, c.state.Load().flight)

		source := &fakeSource{request: grants("new"), drops: "first"}
		_, err = c.Source(t.Context(), source.load)
		require.NoError(t, err)
		for range 2 {
			r, err := c.Read(t.Context(), source.load, 0)
			if assert.NoError(t, err) {
				assert.Equal(t, "new", r.Token.Value)
			}
			time.Sleep(2 * time.Minute)
		}
		assert.Empty(t, former.saved[1:])
	})
}

// A load that ends because the cache is closed says so.
func TestCloseDuringALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		go func() {
			time.Sleep(time.Second)
			c.Close()
		}()
		_, err := c.Source(t.Context(), func(ctx context.Context) (Source, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		assert.Equal(t, ErrClosed, err)
	})
}

// A configuration that another node deleted takes the stored token with it, once.
func TestLoadOfADeletedConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{request: grants("dead"), erasing: func() error { return errors.New("storage is broken") }}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		c.InvalidateSource()
		load := func(outcome error) {
			_, err := c.Source(t.Context(), func(context.Context) (Source, error) { return nil, outcome })
			require.ErrorIs(t, err, outcome)
			synctest.Wait()
		}
		load(ErrNoSource)
		assert.Equal(t, 1, source.erased)
		assert.Nil(t, c.Snapshot().Token)
		source.erasing = nil
		load(errors.New("storage is broken"))
		assert.Equal(t, 1, source.erased, "nobody knows whether there is a configuration")
		load(ErrNoSource)
		assert.Equal(t, 2, source.erased, "the first removal failed")
		load(ErrNoSource)
		assert.Equal(t, 2, source.erased)
	})
}

// A configuration was deleted and written again. If the removal of the token waits meanwhile, it
// must not hit the new one's.
func TestLoadOfARestoredConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{}
		_, err := c.Source(t.Context(), source.load)
		require.NoError(t, err)
		unlock, err := c.lockStoring(t.Context())
		require.NoError(t, err)
		c.InvalidateSource()
		_, err = c.Source(t.Context(), func(context.Context) (Source, error) { return nil, ErrNoSource })
		require.ErrorIs(t, err, ErrNoSource)
		synctest.Wait()
		_, err = c.Source(t.Context(), (&fakeSource{}).load)
		require.NoError(t, err)
		unlock()
		synctest.Wait()
		assert.Zero(t, source.erased)
	})
}

// Someone holds up all writes. The token of a deleted configuration is removed afterwards.
func TestLoadOfADeletedConfigurationWhileStorageIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{}
		_, err := c.Source(t.Context(), source.load)
		require.NoError(t, err)
		unlock, err := c.lockStoring(t.Context())
		require.NoError(t, err)
		c.InvalidateSource()
		for range 2 {
			_, err = c.Source(t.Context(), func(context.Context) (Source, error) { return nil, ErrNoSource })
			require.ErrorIs(t, err, ErrNoSource)
			time.Sleep(storageTimeout - time.Nanosecond)
			assert.Zero(t, source.erased)
		}
		unlock()
		synctest.Wait()
		assert.Equal(t, 1, source.erased)
	})
}

// A load fails once. No reader gets to know, whoever of them loads it again.
func TestLoadThatFailsOnce(t *testing.T) {
	c, _ := newInterruptedCache(t)
	source := &fakeSource{request: grants("new")}
	_, err := c.Read(t.Context(), source.load, 0)
	require.NoError(t, err)
	for range 2000 {
		c.InvalidateSource()
		var failed atomic.Bool
		load := func(context.Context) (Source, error) {
			if failed.CompareAndSwap(false, true) {
				return nil, errors.New("storage is broken")
			}
			return source, nil
		}
		var readers sync.WaitGroup
		for range 5 {
			readers.Go(func() {
				_, err := c.Read(t.Context(), load, 0)
				assert.NoError(t, err)
			})
		}
		readers.Wait()
	}
}
