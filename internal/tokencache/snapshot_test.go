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
