// SPDX-License-Identifier: MPL-2.0

package monitoring

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// TestTokenFile waits until the first token that Prometheus scraped with is dead:
// the Agent has replaced it, and the scrapes go on.
func TestTokenFile(t *testing.T) {
	ctx := t.Context()
	info, err := os.Stat(watched.TokenFile)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())
	first, err := watched.Vault.Client.Clone()
	require.NoError(t, err)
	first.SetToken(watched.FirstToken)
	require.NoError(t, stack.Eventually(ctx, "the end of the first token", func() error {
		_, err := first.Logical().ReadWithContext(ctx, "fuuffy/status")
		if refused, ok := errors.AsType[*api.ResponseError](err); ok && refused.StatusCode == http.StatusForbidden {
			return nil
		}
		return fmt.Errorf("it is not refused: %w", err)
	}))
	require.NoError(t, watched.AwaitScrapes(ctx))
}
