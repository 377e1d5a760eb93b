// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

var update = flag.Bool("update", false, "write the golden files")

// What vault path-help says of each path is worth reading: it is kept in testdata/help,
// where a change shows in a review.
func TestPathHelp(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	for _, path := range []string{
		"", "/config", "/token", "/rotate-root", "/rotate-root/promote", "/rotate-root/rollback", "/rotate-root/complete", "/status", "/metrics",
	} {
		t.Run(path, func(t *testing.T) {
			help := strings.ReplaceAll(command(t, shared, "path-help", m.path+path), m.path, "fuuffy")
			golden := filepath.Join("testdata", "help", strings.ReplaceAll("fuuffy"+path, "/", "-")+".txt")
			if *update {
				require.NoError(t, os.MkdirAll(filepath.Dir(golden), 0o755))
				require.NoError(t, os.WriteFile(golden, []byte(help), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			assert.Equal(t, string(want), help, "if it is meant to change: go test -run TestPathHelp . -update")
		})
	}
}
