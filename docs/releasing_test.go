// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"os/exec"
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
