// SPDX-License-Identifier: MPL-2.0

package install

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

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
	// caFile is the CA file that the settings name.
	caFile string
	// folder has the program through which the script talks to Vault, watched.
	folder string
	// arguments has all that was ever on that program's command line.
	arguments string
	settings  string
}

// TestSetup runs the script through the life of a mount.
func TestSetup(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
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

	t.Log("A rehearsal that was killed in the middle left its mount.")
	s.enableRehearsal()
	s.install(newPlugin, pluginName+"-new")
	s.registers(newPlugin, newVersion, pluginName+"-new")
	s.set("token_refresh_window=300", "token_refresh_window=600")
	s.brings(s.again, "switched fuuffy/ from "+programs.PluginVersion+" to "+newVersion, "configured fuuffy/", "changes: 3")
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

	t.Log("The version that runs, in another build: no start of the plugin would succeed.")
	s.registers(programs.Plugin, newVersion, pluginName+"-new")
	s.refuses("is registered with another checksum, and a mount runs it")
	s.settings = good
	s.brings(s.again, "changes: 0")
	assert.Equal(t, requests, s.requests(), "token requests")

	assert.NotZero(t, s.argued("client_id=shop-1"), "what was on command lines was noted")
	for what, value := range map[string]string{"the client secret": secret, "the token of Vault": s.token} {
		assert.Zero(t, s.argued(value), "%s was on a command line", what)
	}
}

// TestSetupConfigures compares the mount with the file. Each case begins with a mount that is as
// the file says.
func TestSetupConfigures(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	s.brings(s.first, "changes: 7")
	initial := s.settings
	const odd = "shop&co,1*"
	s.CreateClient(odd, secret)

	for name, test := range map[string]func(*setup){
		"the engine compares": func(s *setup) {
			s.set("base_url="+s.BaseURL(), "base_url="+s.BaseURL()+"//")
			s.set("request_timeout=10", "request_timeout=15s")
			s.brings(s.again, "configured fuuffy/", "changes: 1")
			s.brings(s.again, "changes: 0")
		},
		"the engine refuses a setting": func(s *setup) {
			s.set("request_timeout=10", "request_timeout=1h")
			s.refuses("request_timeout must be between 1s and 30s")
		},
		"CA file with CRLF": func(s *setup) {
			require.NoError(s.t, os.WriteFile(s.caFile, []byte(strings.ReplaceAll(s.CACert()+"\n", "\n", "\r\n")), 0o600))
			s.brings(s.again, "changes: 0")
			s.brings(s.first, "changes: 0")
		},
		"client that JSON escapes": func(s *setup) {
			s.rotate(odd, secret)
			s.set("client_id='shop-1'", "client_id='"+odd+"'")
			s.brings(s.again, "changes: 0")
		},
		"another address": func(s *setup) {
			s.set("environment=production", "environment=testing")
			s.refuses("This needs the client secret of shop-1")
			assert.Equal(s.t, "production", s.held("environment"))
			named := s.argued("client_id=shop-1")
			s.brings(s.first, "configured fuuffy/", "changes: 1")
			assert.Equal(s.t, named, s.argued("client_id=shop-1"), "a rotation at the same time would be undone")
			assert.Equal(s.t, "testing", s.held("environment"))
			s.brings(s.again, "changes: 0")
		},
		"rotation": func(s *setup) {
			s.rotate(newClientID, secret)
			s.refuses("fuuffy/ has the credentials of client shop-2, not of shop-1")
			s.set("client_id='shop-1'", "client_id='shop-2'")
			s.brings(s.again, "changes: 0")
		},
		"rotation and another address": func(s *setup) {
			s.rotate(newClientID, secret)
			s.set("environment=production", "environment=testing")
			output, err := s.run(s.first)
			assert.Error(s.t, err)
			assert.Contains(s.t, output, "fuuffy/ has the credentials of client shop-2, not of shop-1")
			assert.Equal(s.t, newClientID, s.held("client_id"), "the rotation is undone")
			assert.Equal(s.t, "production", s.held("environment"))
		},
		"rotation to another secret of the client": func(s *setup) {
			s.CreateClient(clientID, "newer-secret")
			defer s.CreateClient(clientID, secret)
			s.rotate(clientID, "newer-secret")
			requests := s.requests()
			s.set("request_timeout=10", "request_timeout=12")
			s.brings(s.first, "changes: 1")
			assert.Equal(s.t, requests, s.requests(), "token requests")
		},
		"a directory": func(s *setup) {
			const directory = "mkdir shops; cp fuuffy.env shops/common.env; : >shops/fuuffy.env; "
			s.brings(directory+"examples/setup/setup.sh shops", "changes: 0")
			s.brings("examples/setup/setup.sh ./shops/fuuffy.env", "changes: 0")
			output, err := s.run("echo mount=absent >shops/absent.env; examples/setup/setup.sh shops")
			require.Error(s.t, err, "no one may enable this mount")
			assert.Contains(s.t, output, "changes: 0\n", "the others are applied")
			assert.Contains(s.t, output, "setup.sh: These failed: absent\n")
			output, err = s.run("rm shops/absent.env; echo shared_policies=monitor >>shops/common.env; examples/setup/setup.sh shops")
			require.Error(s.t, err)
			assert.Contains(s.t, output, "mount=fuuffy: shared_policies are for mounts such as shops/north, below one path.")
		},
		"other ways to call it": func(s *setup) {
			for _, command := range []string{
				"cp fuuffy.env examples/setup; cd examples/setup; ./setup.sh fuuffy.env",
				"examples/setup/setup.sh \"$PWD/fuuffy.env\"",
			} {
				s.brings(command, "changes: 0")
			}
			for _, arguments := range []string{"", "absent.env", "examples", "fuuffy.env fuuffy.env"} {
				output, err := s.run("examples/setup/setup.sh " + arguments)
				ended, failed := errors.AsType[*exec.ExitError](err)
				require.True(s.t, failed, "%v\n%s", err, output)
				assert.Equal(s.t, 2, ended.ExitCode(), arguments)
				assert.Contains(s.t, output, "Usage: setup.sh ", arguments)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			site := *s.site
			site.t = t
			c := *s
			c.site, c.settings = &site, initial
			require.NoError(t, os.WriteFile(c.caFile, []byte(c.CACert()), 0o600))
			c.reload()
			_, err := c.vault.Client.Logical().DeleteWithDataWithContext(t.Context(), "fuuffy/config", map[string][]string{"force": {"true"}})
			require.NoError(t, err)
			c.write("config", c.credentials())
			test(&c)
		})
	}
}

// TestSetupRegisters is about checksums that someone forgot to set, or to correct.
func TestSetupRegisters(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	good := s.settings
	catalog := func(version string) string {
		t.Helper()
		answer, err := s.vault.Client.Logical().ReadWithDataWithContext(t.Context(), "sys/plugins/catalog/secret/"+stack.Engine, map[string][]string{"version": {version}})
		require.NoError(t, err)
		if answer == nil {
			return ""
		}
		return answer.Data["sha256"].(string)
	}
	for _, unset := range []string{strings.Repeat("0", 64), ""} {
		s.checksum(unset)
		s.refuses("Set plugin_sha256")
		require.Empty(t, catalog(programs.PluginVersion), "the checksum that is registered")
	}
	s.checksum(strings.Repeat("1", 64))
	s.refuses("checksums did not match")
	require.NotEmpty(t, catalog(programs.PluginVersion))
	s.settings = good
	s.brings(s.first, "registered fuuffy "+programs.PluginVersion, "enabled fuuffy/", "changes: 7")

	t.Log("Only the name of the file was wrong.")
	s.install(programs.Plugin, pluginName+"-renamed")
	s.set("plugin_command="+pluginName, "plugin_command="+pluginName+"-renamed")
	s.brings(s.again, "registered fuuffy "+programs.PluginVersion, "changes: 1")
	s.brings(s.again, "changes: 0")
	s.settings = good

	t.Log("The same for an upgrade.")
	s.install(newPlugin, pluginName+"-new")
	s.registers(newPlugin, newVersion, pluginName+"-new")
	good = s.settings
	s.checksum(strings.Repeat("1", 64))
	s.refuses("checksums did not match")
	assert.Equal(t, programs.PluginVersion, s.running())
	s.settings = good
	s.brings(s.again, "registered fuuffy "+newVersion, "changes: 2")
	assert.Equal(t, newVersion, s.running())
}

// TestSetupForAnotherMount uses installer.hcl as it says to, and all policies.
func TestSetupForAnotherMount(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	policies := filepath.Join(s.dir, "examples", "policies")
	installer, err := os.ReadFile(filepath.Join(s.dir, "examples", "setup", "installer.hcl"))
	require.NoError(t, err)
	_, command, found := strings.Cut(string(installer), "#     sed ")
	require.True(t, found)
	command, _, _ = strings.Cut(command, "\n")
	s.token = s.vault.Client.Token()
	s.typed("cd examples/setup && sed " + command)
	created, err := s.vault.Client.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"shop-installer"}})
	require.NoError(t, err)
	s.token = created.Auth.ClientToken

	s.set("mount=fuuffy", "mount='sh*p'") // This policy would open other mounts.
	s.refuses("mount")
	s.set("mount='sh*p'", "mount=shop")
	s.set("policies='app monitor operator rotator'", "policies='app monitor operator rotator instant-updates'")
	output, err := s.run(s.first)
	wrote := []string{"app", "monitor", "operator", "rotator"}
	if err == nil || !stack.Lacks(t, "events", errors.New(output), `invalid capability "subscribe"`, `invalid key "subscribe_event_types"`) {
		require.NoError(t, err, output)
		wrote = append(wrote, "instant-updates")
		s.brings(s.again, "changes: 0")
	}
	for _, name := range wrote {
		want, err := os.ReadFile(filepath.Join(policies, name+".hcl"))
		require.NoError(t, err)
		got, err := s.vault.Client.Sys().GetPolicyWithContext(t.Context(), "shop-"+name)
		require.NoError(t, err)
		// Only events are called by the engine's name, whatever the mount.
		text := regexp.MustCompile(`path "(sys/mounts/)?fuuffy\b`).ReplaceAllString(string(want), `path "${1}shop`)
		assert.Equal(t, text, got)
	}
}

func newSetup(t *testing.T) *setup {
	t.Helper()
	s := &setup{site: newSite(t)}
	s.checkOut()
	s.first = guide(t)["Configuration as code"][0]
	s.again = strings.TrimPrefix(s.first, "FUUFFY_CLIENT_SECRET_FILE=/dev/stdin ")
	require.NotEqual(t, s.first, s.again)
	s.folder = filepath.Join(s.stack.Dir, "watched")
	s.arguments = filepath.Join(s.stack.Dir, "arguments")
	require.NoError(t, os.Mkdir(s.folder, 0o700))
	s.watch("vault", programs.Vault)

	s.token = s.installer()
	settings, err := os.ReadFile(filepath.Join(s.dir, "examples", "setup", "fuuffy.env"))
	require.NoError(t, err)
	s.settings = string(settings)
	s.caFile = filepath.Join(s.stack.Dir, "ca.pem")
	require.NoError(t, os.WriteFile(s.caFile, []byte(s.CACert()), 0o600))
	s.set("\nbase_url=", "\nbase_url="+s.BaseURL())
	s.set("\nca_cert_file=", "\nca_cert_file="+s.caFile)
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

// argued counts how often a text was on the program's command line.
func (s *setup) argued(text string) int {
	s.t.Helper()
	arguments, err := os.ReadFile(s.arguments)
	require.NoError(s.t, err)
	return strings.Count(string(arguments), text)
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

// checksum sets only the checksum.
func (s *setup) checksum(sum string) {
	s.settings = regexp.MustCompile(`(?m)^plugin_sha256=.*$`).ReplaceAllString(s.settings, "plugin_sha256="+sum)
}

// reload starts the engine anew, with all the token requests of a minute ahead of it.
func (s *setup) reload() {
	s.t.Helper()
	_, err := s.vault.Client.Sys().ReloadPluginWithContext(s.t.Context(), &api.ReloadPluginInput{Mounts: []string{"fuuffy"}})
	require.NoError(s.t, err)
}

// rotate makes another pair current, without the script.
func (s *setup) rotate(id, secret string) {
	s.t.Helper()
	s.write("rotate-root", map[string]any{"client_id": id, "client_secret": secret})
	s.write("rotate-root/promote", nil)
	s.write("rotate-root/complete", map[string]any{"force": true})
}

// held is a field of the configuration.
func (s *setup) held(field string) any {
	s.t.Helper()
	answer, err := s.vault.Client.Logical().ReadWithContext(s.t.Context(), "fuuffy/config")
	require.NoError(s.t, err)
	return answer.Data[field]
}

// run types a command, with the client secret on standard input.
func (s *setup) run(command string) (string, error) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "fuuffy.env"), []byte(s.settings), 0o600))
	var output []byte
	var err error
	// The cases write faster than a mount sends token requests. What is refused changes nothing.
	require.Eventually(s.t, func() bool {
		shell := s.command("sh", "-euc", command)
		shell.Env = append(shell.Env, "PATH="+s.folder+string(os.PathListSeparator)+os.Getenv("PATH"))
		output, err = shell.CombinedOutput()
		return err == nil || !strings.Contains(string(output), "token requests a minute")
	}, time.Minute, time.Second)
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
