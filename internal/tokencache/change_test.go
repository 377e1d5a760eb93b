// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"testing"

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
		for operation, act := range map[string]func(*Cache) error{
			"switch": func(c *Cache) error {
				return c.Switch(t.Context(), Switch{Store: func(context.Context) (Source, error) { return nil, tt.err }})
			},
			"delete": func(c *Cache) error { return c.DeleteAll(t.Context(), func(context.Context) error { return tt.err }) },
		} {
			t.Run(operation+", "+name, func(t *testing.T) {
				c, _ := newInterruptedCache(t)
				source := &fakeSource{}
				_, err := c.Source(t.Context(), source.load)
				require.NoError(t, err)
				c.Fail(source, &upstream.Error{Failure: upstream.Rejected})
				assert.ErrorIs(t, act(c), fault)
				assert.Equal(t, tt.kept, c.Snapshot().Source != nil)
				assert.Equal(t, tt.kept, c.Snapshot().HeldOffFor > 0)
			})
		}
	}
}
