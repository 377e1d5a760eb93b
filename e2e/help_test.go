// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

var update = flag.Bool("update", false, "write the golden files")

// What vault path-help says of each path is worth reading: it is kept in testdata/help,
// where a change shows in a review.
func TestPathHelp(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	for _, path := range []string{
		"", "/config", "/token", "/rotate-root", "/rotate-root/promote", "/rotate-root/rollback", "/rotate-root/complete", "/rotate-root/check", "/rotate-root/revoked", "/status", "/metrics",
	} {
		t.Run(path, func(t *testing.T) {
			help := strings.ReplaceAll(command(t, shared, "path-help", m.path+path), m.path, "fuuffy")
			requireGolden(t, filepath.Join("testdata", "help", strings.ReplaceAll("fuuffy"+path, "/", "-")+".txt"), help)
		})
	}
}

// requireGolden holds a file to what a test found; -update writes it.
func requireGolden(t *testing.T, file, found string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(found), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	wanted, lines := strings.Split(string(want), "\n"), strings.Split(found, "\n")
	for i := range min(len(wanted), len(lines)) {
		require.Equal(t, wanted[i], lines[i], "%s, line %d; if it is meant to change: make docs", file, i+1)
	}
	require.Len(t, lines, len(wanted), "the lines of %s", file)
}
