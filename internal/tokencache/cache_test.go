// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
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
