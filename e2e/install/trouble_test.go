// SPDX-License-Identifier: MPL-2.0

package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

var errNothing = errors.New("there is nothing at this path")

// TestTrouble brings about what the guide says may go wrong.
func TestTrouble(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enable()
	t.Run("refused", func(t *testing.T) { testRefused(t, s) })
	t.Run("deregistered while it runs", func(t *testing.T) { testDeregistered(t, s) })
	t.Run("another file", func(t *testing.T) { testAnotherFile(t, s) })
	t.Run("node without the plugin", func(t *testing.T) { testNodeWithoutPlugin(t, s) })
}

func testRefused(t *testing.T, s *site) {
	guide := pages(t)
	// says expects a message that is in the guide too.
	says := func(err error, message string) {
		t.Helper()
		assert.ErrorContains(t, err, message)
		assert.Contains(t, guide, message)
	}
	sum, err := stack.SHA256(programs.Plugin)
	require.NoError(t, err)
	register := func(version, command string) error {
		return s.vault.Client.Sys().RegisterPluginWithContext(t.Context(), &api.RegisterPluginInput{
			Name: "another", Type: api.PluginTypeSecrets, Version: version, Command: command, SHA256: sum,
		})
	}

	says(register(programs.PluginVersion, "absent"), "no such file or directory")

	require.NoError(t, os.Symlink(programs.Plugin, filepath.Join(s.plugins, "link")))
	says(register(programs.PluginVersion, "link"), "cannot execute files outside of configured plugin directory")

	file := filepath.Join(s.plugins, pluginName)
	require.NoError(t, os.Chmod(file, 0o775))
	says(register(programs.PluginVersion, pluginName), "has insecure permissions")
	require.NoError(t, os.Chmod(file, 0o755))

	says(register("v98.0.0", pluginName), "plugin version mismatch")

	s.install(programs.Plugin, "not-executable")
	require.NoError(t, os.Chmod(filepath.Join(s.plugins, "not-executable"), 0o644))
	require.NoError(t, register(programs.PluginVersion, "not-executable"))
	says(s.vault.Client.Sys().MountWithContext(t.Context(), "another", &api.MountInput{Type: "another"}), "permission denied")
}

func testDeregistered(t *testing.T, s *site) {
	token := s.accessToken()
	require.NoError(t, s.vault.Client.Sys().DeregisterPluginWithContext(t.Context(), &api.DeregisterPluginInput{
		Name: stack.Engine, Type: api.PluginTypeSecrets, Version: programs.PluginVersion,
	}))
	assert.Equal(t, token, s.accessToken(), "it goes on running")
	const message = "plugin not found in the catalog"
	_, err := s.vault.Client.Sys().ReloadPluginWithContext(t.Context(), &api.ReloadPluginInput{Mounts: []string{"fuuffy"}})
	require.ErrorContains(t, err, message)
	_, err = s.readToken()
	assert.ErrorContains(t, err, message)
	assert.Contains(t, pages(t), message)

	require.NoError(t, s.vault.RegisterPlugin(t.Context(), filepath.Join(s.plugins, pluginName), programs.PluginVersion))
	assert.Equal(t, token, s.accessToken())
}

// testAnotherFile ends the plugin while its file is missing, or another: the right file heals
// the mount, without another command.
func testAnotherFile(t *testing.T, s *site) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "troubleshooting.md"))
	require.NoError(t, err)
	token, requests := s.accessToken(), s.requests()
	file := filepath.Join(s.plugins, pluginName)
	for message, spoil := range map[string]func(){
		"error verifying checksum: open " + file + ": no such file or directory": func() {},
		"checksums did not match": func() { require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"), 0o755)) },
	} {
		require.NoError(t, os.Remove(file))
		spoil()
		require.NoError(t, s.vault.KillPlugin(t.Context()))
		require.NoError(t, stack.Eventually(t.Context(), "Vault to notice", func() error {
			_, err := s.readToken()
			if err == nil || !strings.Contains(err.Error(), message) {
				return fmt.Errorf("it says: %w", err)
			}
			return nil
		}))
		_, err := s.vault.Client.Logical().WriteWithContext(t.Context(), "fuuffy/config", map[string]any{"stale_if_error": true})
		assert.ErrorContains(t, err, "internal error")
		_, err = s.vault.Client.Sys().ReloadPluginWithContext(t.Context(), &api.ReloadPluginInput{Plugin: stack.Engine})
		assert.Error(t, err, "a reload doesn't help")
		documented := strings.Replace(message, file, "…", 1)
		assert.Contains(t, string(page), "`"+documented+"`")

		s.install(programs.Plugin, pluginName)
		assert.Equal(t, token, s.accessToken(), "the file heals the mount")
		assert.Equal(t, requests, s.requests())
	}
}

// testNodeWithoutPlugin lets Vault become active where the plugin's file is missing, as
// it is on a node to which no one has copied it.
func testNodeWithoutPlugin(t *testing.T, s *site) {
	commands := guide(t)["A node without the plugin"]
	require.Len(t, commands, 2)
	token, requests := s.accessToken(), s.requests()

	require.NoError(t, os.Remove(filepath.Join(s.plugins, pluginName)))
	require.NoError(t, s.vault.Client.Sys().SealWithContext(t.Context()))
	require.NoError(t, s.vault.Unseal(t.Context()))
	_, err := s.readToken()
	assert.ErrorIs(t, err, errNothing)
	_, err = s.vault.Client.Logical().WriteWithContext(t.Context(), "fuuffy/config", map[string]any{"stale_if_error": true})
	assert.ErrorContains(t, err, `no handler for route "fuuffy/config". route entry found, but backend is nil`)
	assert.Contains(t, s.typed("vault read sys/mounts/fuuffy"), programs.PluginVersion)
	log, err := os.ReadFile(s.vault.LogFile)
	require.NoError(t, err)
	assert.Contains(t, string(log), "skipping plugin-based mount entry: path=fuuffy/")

	s.install(programs.Plugin, pluginName)
	s.typed(commands[0])
	assert.Equal(t, token, s.accessToken())
	change := map[string]any{"stale_if_error": true}
	_, err = s.vault.Client.Logical().WriteWithContext(t.Context(), "fuuffy/config", change)
	assert.ErrorContains(t, err, "cannot write to storage during setup")

	s.typed(commands[1])
	require.NoError(t, stack.Eventually(t.Context(), "a write to the configuration", func() error {
		_, err := s.vault.Client.Logical().WriteWithContext(t.Context(), "fuuffy/config", change)
		return err
	}))
	assert.Equal(t, token, s.accessToken())
	assert.Equal(t, requests, s.requests())
}
