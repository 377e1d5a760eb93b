// SPDX-License-Identifier: MPL-2.0

package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "scripts"), os.DirFS(".")))
	changelog := "# Changelog\n\n## [Unreleased]\n\n- soon\n\n## [1.10.0] - 2026-02-02\n\n### Added\n\n- ten\n\n## [1.1.0] - 2026-01-01\n\n- one\n\n## [0.9.0] - 2025-01-01\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "CHANGELOG.md"), []byte(changelog), 0o644))
	changes := func(version string) (string, error) {
		printed, err := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, "scripts", "changes.sh"), version).CombinedOutput()
		return string(printed), err
	}
	for version, want := range map[string]string{
		"v1.10.0":     "### Added\n\n- ten\n\n",
		"v1.1.0":      "- one\n\n",
		"v1.10.0-rc1": "### Added\n\n- ten\n\n",
		"v2.0.0-rc1":  "- soon\n\n",
	} {
		printed, err := changes(version)
		require.NoError(t, err, version)
		assert.Equal(t, want, printed, version)
	}
	for _, version := range []string{"v2.0.0", "v1.1", "v0.9.0", "v1x1.0"} {
		printed, err := changes(version)
		assert.Error(t, err, version)
		assert.Contains(t, printed, "CHANGELOG.md says nothing about "+strings.TrimPrefix(version, "v"))
	}
}
