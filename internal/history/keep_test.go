// SPDX-License-Identifier: MPL-2.0

package history

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestKeep judges histories that were kept as it judged the originals, and draws what has no order.
func TestKeep(t *testing.T) {
	for name, h := range map[string]*History{"a simulation": goodInside(), "a real cluster": goodCluster()} {
		t.Run(name, func(t *testing.T) {
			h.first(OpReadConfig).Seen.Reminder = 9
			violations := Judge(h)
			assert.NotEmpty(t, violations)
			file := filepath.Join(t.TempDir(), "history.json")
			written, err := h.Keep(file)
			require.NoError(t, err)
			for _, file := range written {
				assert.FileExists(t, file)
			}
			assert.Equal(t, h.Cluster != nil, len(written) == 2, "only a search for an order is drawn")

			kept, err := Read(file)
			require.NoError(t, err)
			assert.Equal(t, violations, Judge(kept))
		})
	}
}
