// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The release tool types these before a release is published. It sets the version, and the image.
func TestDocumentedVerification(t *testing.T) {
	for section, want := range map[string][]string{
		"Verify a release": {"version=0.1.0", "gh release download v$version", "cosign verify-blob SHA256SUMS", "sha256sum --check", "gh attestation verify vault-"},
		"Verify an image":  {"version=0.1.0", "image=ghcr.io/fuuffy/vault-plugin-secrets-fuuffy:$version", "cosign verify $image", "gh attestation verify oci://$image"},
	} {
		output, err := exec.CommandContext(t.Context(), "sh", "../scripts/commands.sh", "verify.md", section).Output()
		require.NoError(t, err, section)
		commands := strings.Split(strings.TrimSpace(string(output)), "\n")
		require.Len(t, commands, len(want), section)
		for i, command := range commands {
			assert.True(t, strings.HasPrefix(command, want[i]), command)
			if strings.HasPrefix(command, "cosign ") {
				assert.Contains(t, command, "/.github/workflows/release.yml@refs/tags/v$version")
			}
		}
	}
}

// The pages call the release tool with one of its commands.
func TestDocumentedReleaseTool(t *testing.T) {
	source, err := os.ReadFile("../tools/release/main.go")
	require.NoError(t, err)
	usage := regexp.MustCompile(`usage: release ([a-z |]+) \[flags\]`).FindSubmatch(source)
	require.NotNil(t, usage)
	commands := strings.Split(string(usage[1]), " | ")
	call, calls := regexp.MustCompile(`tools/release \. (\S+)`), 0
	for name := range readDocuments(t) {
		text, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		for _, c := range call.FindAllStringSubmatch(string(text), -1) {
			calls++
			assert.Contains(t, commands, c[1], name)
		}
	}
	assert.GreaterOrEqual(t, calls, 2)
}
