// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// TestReadme types what the section "Set up" of the Agents' README says, and starts
// an Agent with what came of it.
func TestReadme(t *testing.T) {
	t.Parallel()
	m := newMount(t, "fuuffy", fuuffytest.Config{}, nil)
	h := m.newHost("app")
	for _, file := range []string{"role_id", "secret_id"} {
		require.NoError(t, os.Remove(filepath.Join(h.etc, file)))
	}
	_, section, found := strings.Cut(readExample(t, "agent/README.md"), "\n## Set up\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	var commands strings.Builder
	for line := range strings.Lines(section) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			commands.WriteString(strings.ReplaceAll(command, "/etc/fuuffy-agent", h.etc))
		}
	}
	rest, found := strings.CutPrefix(commands.String(), "vault auth enable approle\n")
	require.True(t, found, "TestMain has enabled it already")
	shell := exec.CommandContext(t.Context(), "sh", "-eu")
	shell.Dir = filepath.Join("..", "..")
	shell.Stdin = strings.NewReader(rest)
	shell.Env = append(os.Environ(), vault.Environment()...)
	output, err := shell.CombinedOutput()
	require.NoError(t, err, "%s\n%s", commands.String(), output)

	for _, file := range []string{"role_id", "secret_id"} {
		info, err := os.Stat(filepath.Join(h.etc, file))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
	}
	h.startAgent("agent/token-file.hcl")
	token := tokensOf(t, []*host{h}, "")[0]
	assert.True(t, m.TokenAlive(token))
}

// TestUnit holds the systemd unit to the examples that it runs.
func TestUnit(t *testing.T) {
	t.Parallel()
	unit := readExample(t, "agent/fuuffy-agent.service")
	config := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/vault agent -config=/etc/fuuffy-agent/(\S+)$`).FindStringSubmatch(unit)
	require.Len(t, config, 2)
	assert.Contains(t, readExample(t, "agent/"+config[1]), `destination          = "/run/fuuffy/`)
	assert.Contains(t, unit, "\nRuntimeDirectory=fuuffy\nRuntimeDirectoryMode=0700\n")

	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("There is no systemd on this machine: the unit is only compared with the examples.")
		return
	}
	file := filepath.Join(t.TempDir(), "fuuffy-agent.service")
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(unit, "/usr/bin/vault", vault.Binary)), 0o600))
	// It also has things to say about other units of the machine, and about machines
	// that systemd does not run.
	output, err := exec.CommandContext(t.Context(), verify, "verify", file).CombinedOutput()
	t.Logf("systemd-analyze verify: %v %s", err, output)
	assert.NotContains(t, string(output), "fuuffy-agent.service")
}

// TestTemplatesShare gives one Agent two templates of the token.
func TestTemplatesShare(t *testing.T) {
	t.Parallel()
	m := newMount(t, "templates", fuuffytest.Config{}, nil)
	h := m.newHost("app")
	second := h.exampleFor("agent/env-file.hcl")
	h.startAgentWith(h.exampleFor("agent/token-file.hcl") + second[strings.Index(second, "\ntemplate {"):])

	token := tokensOf(t, []*host{h}, "")[0]
	require.NoError(t, stack.Eventually(t.Context(), "the second file", func() error {
		content, err := os.ReadFile(filepath.Join(h.run, "env"))
		if err == nil {
			assert.Contains(t, string(content), token)
		}
		return err
	}))
	assert.Len(t, m.reads(), 1)
}
