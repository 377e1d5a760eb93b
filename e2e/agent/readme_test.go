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

// TestReadme types what the section "Set up" of the Agents' README says, on a machine
// without systemd, with an editor that enters the address and the certificate (and the directories of the test).
func TestReadme(t *testing.T) {
	t.Parallel()
	m := newMount(t, "fuuffy", fuuffytest.Config{}, nil)
	h := m.newHost("readme")
	require.NoError(t, os.RemoveAll(h.etc))
	require.NoError(t, os.RemoveAll(h.run))
	authority := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(authority, []byte(m.CACert()), 0o600))
	_, section, found := strings.Cut(readExample(t, "agent/README.md"), "\n## Set up\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	here := strings.NewReplacer(
		"/etc/fuuffy-agent", h.etc, "/run/fuuffy", h.run,
		" -o app -g app", "", "app:app", "$(id -u):$(id -g)", "sudo -u app ", "", // There is no user app.
	)
	shell := func(line string) string {
		output, err := vault.Shell(t.Context(), filepath.Join("..", ".."), "umask 077; "+line, "", "VAULT_CACERT="+authority,
			"EDITOR=sed -i s|https://vault.example.com:8200|"+vault.Address+"|;s|#.ca_cert.=.*|ca_cert=\""+authority+"\"|;s|/etc/fuuffy-agent|"+h.etc+"|;s|/run/fuuffy|"+h.run+"|")
		require.NoError(t, err)
		return output
	}

	var agent *stack.Agent
	var typed, left []string
	for line := range strings.Lines(section) {
		line, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "    ")
		switch line = here.Replace(line); {
		case !ok:
			continue
		case strings.HasPrefix(line, "systemctl"), strings.HasSuffix(line, "/etc/systemd/system/"),
			line == "vault auth enable approle": // TestMain has enabled it already.
			left = append(left, line)
			continue
		case strings.HasPrefix(line, "vault agent"):
			config, found := strings.CutPrefix(line, "vault agent -config=")
			require.True(t, found, line)
			var err error
			agent, err = h.stack.StartAgent(vault.Binary, config, filepath.Join(h.etc, "agent.log"))
			require.NoError(t, err)
			tokensOf(t, []*host{h}, "") // The first token arrives a moment later.
		case strings.HasPrefix(line, "cat "):
			assert.True(t, m.TokenAlive(shell(line)), "the token in the file")
		default:
			shell(line)
		}
		typed = append(typed, line)
	}
	assert.Len(t, typed, 13, "%q", typed)
	assert.Len(t, left, 4, "%q", left)
	for _, file := range []string{"role_id", "secret_id", "proxy.hcl"} {
		info, err := os.Stat(filepath.Join(h.etc, file))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode(), file)
	}

	// What the README says about the log.
	log, err := agent.Log()
	require.NoError(t, err)
	readme := readExample(t, "agent/README.md")
	for _, text := range []string{"will be deprecating API proxy functionality", "[INFO]  agent: (runner) rendered"} {
		assert.Contains(t, log, text)
		assert.Contains(t, readme, text)
	}
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
