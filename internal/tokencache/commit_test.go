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

// A change that wrote nothing leaves everything as it is. One with an unknown outcome has the next
// reader look.
func TestRefusedChange(t *testing.T) {
	fault := errors.New("wrong")
	for name, tt := range map[string]struct {
		err  error
		kept bool
	}{"refused": {&Refused{fault}, true}, "unknown": {fault, false}} {
		t.Run(name, func(t *testing.T) {
			c, _ := newInterruptedCache(t)
			source := &fakeSource{}
			_, err := c.Source(t.Context(), source.load)
			require.NoError(t, err)
			require.NoError(t, c.Commit(t.Context(), source.fails(&upstream.Error{Failure: upstream.Rejected})))
			assert.ErrorIs(t, c.Commit(t.Context(), func(context.Context) (Effect, error) { return Effect{}, tt.err }), fault)
			loaded := false
			_, err = c.Source(t.Context(), func(ctx context.Context) (Source, error) {
				loaded = true
				return source, nil
			})
			require.NoError(t, err)
			assert.Equal(t, tt.kept, !loaded)
			assert.Equal(t, tt.kept, c.Snapshot().HeldOffFor > 0)
		})
	}
}

// A check got the cached token once more, before an operator deleted that one. It is not brought back.
func TestCheckDuringADeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{request: grants("again")}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		before := hourToken("again", 0)
		time.Sleep(time.Second)
		require.NoError(t, c.Commit(t.Context(), func(context.Context) (Effect, error) { return Effect{DropToken: true}, nil }))
		require.NoError(t, c.Commit(t.Context(), source.works(before)))
		assert.Nil(t, c.Snapshot().Token)
		require.NoError(t, c.Commit(t.Context(), source.works(hourToken("again", 0))))
		assert.NotNil(t, c.Snapshot().Token, "the check began after the deletion")
	})
}

// A check that brings no better token leaves the cached one in place.
func TestCheckOfAGoodToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newInterruptedCache(t)
		source := &fakeSource{request: grants("good")}
		_, err := c.Read(t.Context(), source.load, 0)
		require.NoError(t, err)
		worse := hourToken("worse", 10*time.Minute)
		for _, age := range []time.Duration{0, 52 * time.Minute} {
			time.Sleep(age)
			require.NoError(t, c.Commit(t.Context(), source.works(worse)))
			assert.Equal(t, "good", c.Snapshot().Token.Value)
		}
		assert.Equal(t, []string{"good"}, source.saved)
	})
}
