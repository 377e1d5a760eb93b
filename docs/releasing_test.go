// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The workflow types these when a release is published. It replaces the version, and the image.
func TestDocumentedVerification(t *testing.T) {
	for section, want := range map[string][]string{
		"Verify a release": {"gh release download v0.1.0", "cosign verify-blob SHA256SUMS", "sha256sum --check", "gh attestation verify vault-"},
		"Verify an image":  {"cosign verify ghcr.io/fuuffy/vault-plugin-secrets-fuuffy:0.1.0", "gh attestation verify oci://ghcr.io/fuuffy/vault-plugin-secrets-fuuffy:0.1.0"},
	} {
		output, err := exec.CommandContext(t.Context(), "sh", "../scripts/commands.sh", "verify.md", section).Output()
		require.NoError(t, err, section)
		commands := strings.Split(strings.TrimSpace(string(output)), "\n")
		require.Len(t, commands, len(want), section)
		for i, command := range commands {
			assert.True(t, strings.HasPrefix(command, want[i]), command)
			if strings.HasPrefix(command, "cosign ") {
				assert.Contains(t, command, "/.github/workflows/release.yml@refs/tags/v0.1.0")
			}
		}
	}
}
