// SPDX-License-Identifier: MPL-2.0

package install

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pages is the text of the installation guide.
func pages(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{"docs/install.md", "docs/clusters.md", "docs/kubernetes.md", "docs/merchants.md", "examples/setup/README.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", name))
		require.NoError(t, err)
		all.Write(text)
	}
	return all.String()
}

// guide is the commands of the installation guide, block by block, under their headings.
func guide(t *testing.T) map[string][]string {
	t.Helper()
	commands := map[string][]string{}
	heading, inside := "", false
	for line := range strings.Lines(pages(t)) {
		switch {
		case strings.HasPrefix(line, "```"):
			if inside = line == "```sh\n"; inside {
				commands[heading] = append(commands[heading], "")
			}
		case inside:
			commands[heading][len(commands[heading])-1] += line
		case strings.HasPrefix(line, "#"):
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	return commands
}

// TestEveryCommandIsRun is a list of what the other tests run.
func TestEveryCommandIsRun(t *testing.T) {
	t.Parallel()
	assert.ElementsMatch(t, slices.Collect(maps.Keys(guide(t))), []string{
		"Install", "Check", "Upgrade", "Roll back", "Remove an old version", "Uninstall", // TestGuide
		"Without the registry", "Namespaces", // They need OpenBao: by hand, and TestPastedInNamespace.
		"A node without the plugin", // TestTrouble
		"Configuration as code",     // TestSetup
		"Back up and restore",       // TestRestore
		// TestMerchantsWithScript, TestMerchantsWithTerraform
		"Before you begin: the installer's policy", "Set up with the script", "Set up with Terraform",
		"Watch all shops", "Rotate one shop", "Add a shop", "Rename a shop", "Remove a shop", "Upgrade all shops",
		"Register the plugin", "Configure the engine", "Let apps log in", "Vault Secrets Operator", // TestKubernetes
	})
}

// typed runs commands of the guide. Only addresses and folders are replaced in them.
func (s *site) typed(commands ...string) string {
	s.t.Helper()
	script := strings.NewReplacer(
		"/etc/vault.d/plugins", s.plugins,
		"vault write fuuffy/config ", "vault write fuuffy/config base_url="+s.BaseURL()+" ca_cert=@ca.pem ",
	).Replace(strings.Join(commands, ""))
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "ca.pem"), []byte(s.CACert()), 0o600))
	output, err := s.command("sh", "-euc", script).CombinedOutput()
	require.NoError(s.t, err, "%s\n%s", script, output)
	return string(output)
}

// checkOut copies what the guide needs of the checkout, to build and to write there.
func (s *site) checkOut() {
	s.t.Helper()
	root := filepath.Join("..", "..")
	files, err := filepath.Glob(filepath.Join(root, "*.go"))
	require.NoError(s.t, err)
	for _, name := range []string{"go.mod", "go.sum", "Makefile"} {
		files = append(files, filepath.Join(root, name))
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(s.t, err)
		require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, filepath.Base(file)), content, 0o600))
	}
	for _, name := range []string{"cmd", "internal", "examples"} {
		require.NoError(s.t, os.CopyFS(filepath.Join(s.dir, name), os.DirFS(filepath.Join(root, name))))
	}
}

func TestGuide(t *testing.T) {
	t.Parallel()
	s, commands := newSite(t), guide(t)
	s.checkOut()

	s.token = s.installer()
	s.typed(commands["Install"]...)
	token := s.accessToken()
	require.True(t, s.TokenAlive(token))
	require.Equal(t, "v0.1.0", s.running())
	requests := s.requests()

	checked := s.typed(commands["Check"]...)
	assert.NotContains(t, checked, token)
	assert.Contains(t, checked, "v0.1.0")

	s.typed(commands["Upgrade"]...)
	assert.Equal(t, "v0.2.0", s.running())
	s.typed(commands["Roll back"]...)
	assert.Equal(t, "v0.1.0", s.running())
	s.typed(append([]string{"version=v0.2.0\n"}, commands["Upgrade"][2:]...)...)
	assert.Equal(t, "v0.2.0", s.running())
	s.token = s.vault.Client.Token()
	s.typed(commands["Remove an old version"]...)
	assert.NotContains(t, s.typed("vault plugin list -detailed secret"), "v0.1.0")

	assert.Equal(t, token, s.accessToken(), "all this time")
	assert.Equal(t, requests, s.requests(), "token requests")

	s.typed(commands["Uninstall"]...)
	assert.NotContains(t, s.typed("vault plugin list secret; vault secrets list"), "fuuffy")
	left, err := os.ReadDir(s.plugins)
	require.NoError(t, err)
	assert.Empty(t, left)
}
