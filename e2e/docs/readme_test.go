// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// TestReadme types what the README has under "Use it in your Vault", and its transcript at
// the top as soon as the engine is enabled, in a Vault whose Fuuffy is the sandbox.
func TestReadme(t *testing.T) {
	programs, err := programsToTest()
	require.NoError(t, err)
	s, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	plugins := t.TempDir()
	vault, err := s.StartVault(t.Context(), programs.Vault, plugins)
	require.NoError(t, err)
	fuuffy := fuuffytest.NewServer(t, fuuffytest.Config{})
	fuuffy.CreateClient("shop-1", "first-secret")
	fuuffy.CreateClient("shop-2", "second-secret")
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(caFile, []byte(fuuffy.CACert()), 0o600))

	shell := func(line, input string) string {
		output, err := vault.Shell(t.Context(), root, line, input)
		require.NoError(t, err)
		return output
	}

	var typed int
	run := func(line string) {
		var input string
		switch {
		case strings.Contains(line, "client_id=shop-1"):
			line = strings.Replace(line, `printf %s "$secret"`, "printf %s first-secret", 1)
			line += " base_url=" + fuuffy.BaseURL() + " ca_cert=@" + caFile
		case strings.Contains(line, "client_id=shop-2"):
			input = "second-secret"
		case strings.Contains(line, "rotate-root/complete"):
			fuuffy.RevokeClient("shop-1")
		}
		line = strings.ReplaceAll(line, "v0.1.0", programs.PluginVersion)
		shell(strings.ReplaceAll(line, "/etc/vault.d/plugins", plugins), input)
		typed++
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	transcript, rest, found := strings.Cut(string(readme), "\nTo see this ")
	require.True(t, found)
	_, section, found := strings.Cut(rest, "\n## Use it in your Vault\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	for _, line := range commandsOf(section) {
		switch {
		case strings.HasPrefix(line, "make build"), strings.HasPrefix(line, "vault agent"):
			continue // Make has built it; the Agent has tests of its own.
		case strings.HasPrefix(line, "read -rs"):
			continue // A shell of its own has no use for it.
		}
		run(line)
		if strings.HasPrefix(line, "vault secrets enable") {
			for _, shown := range commandsOf(transcript) {
				run(shown)
			}
		}
	}
	require.Equal(t, 14, typed)
	assert.Contains(t, shell("vault read fuuffy/rotate-root", ""), "shop-2")
	assert.Contains(t, shell("vault read fuuffy/status", ""), "fresh")
}

// commandsOf are the commands of a text, without their output.
func commandsOf(text string) []string {
	var commands []string
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", "")) {
		code, ok := strings.CutPrefix(line, "    ")
		code = strings.TrimSpace(strings.TrimPrefix(code, "$ "))
		program, _, _ := strings.Cut(code, " ")
		if ok && slices.Contains([]string{"vault", "install", "make", "printf", "read"}, program) {
			commands = append(commands, code)
		}
	}
	return commands
}
