// SPDX-License-Identifier: MPL-2.0

package install

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// setup is a script of examples/setup, and the file that tells it what to bring about.
type setup struct {
	*site
	// first is the command that gives the secret, and again the one that doesn't.
	first, again string
	// folder has the program through which the script talks to Vault, watched.
	folder string
	// arguments has all that was ever on that program's command line.
	arguments string
	settings  string
}

// TestSetup runs the script through the life of a mount.
func TestSetup(t *testing.T) {
	t.Parallel()
	s := newSetup(t, "vault", programs.Vault)
	s.first = guide(t)["Configuration as code"][0]
	s.again = strings.TrimPrefix(s.first, "FUUFFY_CLIENT_SECRET_FILE=/dev/stdin ")
	require.NotEqual(t, s.first, s.again)
	s.refuses("This needs the client secret of shop-1")

	s.brings(s.first, "configured fuuffy/", "wrote the policy fuuffy-app", "changes: 5")
	assert.True(t, s.TokenAlive(s.accessToken()))
	assert.Equal(t, programs.PluginVersion, s.running())
	for _, policy := range []string{"app", "monitor", "operator", "rotator"} {
		want, err := os.ReadFile(filepath.Join("..", "..", "examples", "policies", policy+".hcl"))
		require.NoError(t, err)
		got, err := s.vault.Client.Sys().GetPolicyWithContext(t.Context(), "fuuffy-"+policy)
		require.NoError(t, err)
		assert.Equal(t, string(want), got)
	}
	token, requests := s.accessToken(), s.requests()

	t.Log("Trailing slashes make no other address.")
	s.set("base_url="+s.BaseURL(), "base_url="+s.BaseURL()+"//")
	s.brings(s.again, "changes: 0")

	t.Log("A rehearsal that was killed in the middle left its mount.")
	s.enableRehearsal()
	s.install(newPlugin, pluginName+"-new")
	s.registers(newPlugin, newVersion, pluginName+"-new")
	s.set("token_refresh_window=300", "token_refresh_window=600")
	s.brings(s.again, "chose "+newVersion, "reloaded fuuffy/", "configured fuuffy/", "changes: 4")
	assert.Equal(t, newVersion, s.running())
	assert.Equal(t, token, s.accessToken())

	t.Log("A version that can't run on the server is found out before apps notice.")
	good := s.settings
	s.registers(programs.Plugin, "v100.0.0", pluginName+"-new")
	s.refuses("checksums did not match")
	assert.NotContains(t, s.mounts(), "fuuffy-rehearsal/", "a rehearsal that fails leaves nothing")
	assert.Equal(t, newVersion, s.running())
	assert.Equal(t, token, s.accessToken())
	s.settings = good

	t.Log("What runs is asked of the engine, not of Vault's tables.")
	require.NoError(t, os.Rename(filepath.Join(s.plugins, pluginName+"-new"), filepath.Join(s.plugins, "away")))
	require.NoError(t, s.vault.Client.Sys().SealWithContext(t.Context()))
	require.NoError(t, s.vault.Unseal(t.Context()))
	s.refuses("fuuffy/ doesn't run " + newVersion)
	require.NoError(t, os.Rename(filepath.Join(s.plugins, "away"), filepath.Join(s.plugins, pluginName+"-new")))
	require.NoError(t, s.vault.Client.Sys().SealWithContext(t.Context()))
	require.NoError(t, s.vault.Unseal(t.Context()))
	assert.Equal(t, token, s.accessToken())

	t.Log("The same version in another build.")
	s.registers(programs.Plugin, newVersion, pluginName+"-new")
	s.refuses("is registered with another checksum")
	s.settings = good

	t.Log("The secret is not sent elsewhere without being given anew.")
	s.set("environment=production", "environment=testing")
	s.refuses("This needs the client secret of shop-1")
	s.settings = good
	assert.Equal(t, requests, s.requests(), "token requests")

	t.Log("A rotation is not undone.")
	s.write("rotate-root", map[string]any{"client_id": newClientID, "client_secret": secret})
	s.write("rotate-root/promote", nil)
	s.refuses("fuuffy/ has the credentials of client shop-2, not of shop-1")
	s.set("client_id=shop-1", "client_id=shop-2")
	s.brings(s.again, "changes: 0")

	arguments, err := os.ReadFile(s.arguments)
	require.NoError(t, err)
	assert.Contains(t, string(arguments), "fuuffy", "what was on command lines was noted")
	for what, value := range map[string]string{"the client secret": secret, "the token of Vault": s.token} {
		assert.False(t, strings.Contains(string(arguments), value), "%s was on a command line", what)
	}
}

func newSetup(t *testing.T, program, binary string) *setup {
	t.Helper()
	s := &setup{site: newSite(t)}
	s.checkOut()
	s.folder = filepath.Join(s.stack.Dir, "watched")
	s.arguments = filepath.Join(s.stack.Dir, "arguments")
	require.NoError(t, os.Mkdir(s.folder, 0o700))
	s.watch(program, binary)

	s.token = s.installer()
	settings, err := os.ReadFile(filepath.Join(s.dir, "examples", "setup", "fuuffy.env"))
	require.NoError(t, err)
	s.settings = string(settings)
	caCert := filepath.Join(s.stack.Dir, "ca.pem")
	require.NoError(t, os.WriteFile(caCert, []byte(s.CACert()), 0o600))
	s.set("\nbase_url=", "\nbase_url="+s.BaseURL())
	s.set("\nca_cert_file=", "\nca_cert_file="+caCert)
	s.install(programs.Plugin, pluginName)
	s.registers(programs.Plugin, programs.PluginVersion, pluginName)
	return s
}

// watch puts a program into the folder that notes its arguments before it runs a binary.
func (s *setup) watch(program, binary string) {
	s.t.Helper()
	script := "#!/bin/sh\nprintf '%s\\n' \"$@\" >>'" + s.arguments + "'\nexec '" + binary + "' \"$@\"\n"
	require.NoError(s.t, os.WriteFile(filepath.Join(s.folder, program), []byte(script), 0o700))
}

// set replaces a setting.
func (s *setup) set(old, new string) {
	s.t.Helper()
	require.Equal(s.t, 1, strings.Count(s.settings, old+"\n"), old)
	s.settings = strings.Replace(s.settings, old+"\n", new+"\n", 1)
}

// registers has the settings name a version of the plugin.
func (s *setup) registers(file, version, command string) {
	s.t.Helper()
	sum, err := stack.SHA256(file)
	require.NoError(s.t, err)
	lines := strings.Split(s.settings, "\n")
	for i, line := range lines {
		switch name, _, _ := strings.Cut(line, "="); name {
		case "plugin_version":
			lines[i] = name + "=" + version
		case "plugin_command":
			lines[i] = name + "=" + command
		case "plugin_sha256":
			lines[i] = name + "=" + sum
		}
	}
	s.settings = strings.Join(lines, "\n")
}

// run types a command, with the client secret on standard input.
func (s *setup) run(command string) (string, error) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "fuuffy.env"), []byte(s.settings), 0o600))
	shell := s.command("sh", "-euc", command)
	shell.Env = append(shell.Env, "PATH="+s.folder+string(os.PathListSeparator)+os.Getenv("PATH"))
	output, err := shell.CombinedOutput()
	assert.False(s.t, strings.Contains(string(output), s.token), "the token of Vault was printed")
	return string(output), err
}

// brings expects that a command succeeds and says what it did.
func (s *setup) brings(command string, said ...string) {
	s.t.Helper()
	output, err := s.run(command)
	require.NoError(s.t, err, output)
	for _, line := range said {
		assert.Contains(s.t, output, line)
	}
}

// refuses expects that the script, without the secret, fails and says why.
func (s *setup) refuses(why string) {
	s.t.Helper()
	output, err := s.run(s.again)
	_, failed := errors.AsType[*exec.ExitError](err)
	require.True(s.t, failed, "%v\n%s", err, output)
	assert.Contains(s.t, output, why)
}

// enableRehearsal leaves the mount of a rehearsal, as a run that was killed does.
func (s *setup) enableRehearsal() {
	s.t.Helper()
	require.NoError(s.t, s.vault.Client.Sys().MountWithContext(s.t.Context(), "fuuffy-rehearsal", &api.MountInput{Type: stack.Engine}))
}

func (s *setup) mounts() map[string]*api.MountOutput {
	s.t.Helper()
	mounts, err := s.vault.Client.Sys().ListMountsWithContext(s.t.Context())
	require.NoError(s.t, err)
	return mounts
}
