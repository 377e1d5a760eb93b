// SPDX-License-Identifier: MPL-2.0

package cluster

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const (
	oldVersion = "v1.0.0"
	newVersion = "v1.1.0"
)

// buildPlugin builds the plugin as another version and returns its file.
func buildPlugin(t *testing.T, dir, version string) string {
	t.Helper()
	const module = "github.com/fuuffy/vault-plugin-secrets-fuuffy"
	file := filepath.Join(dir, filepath.Base(programs.Plugin)+"-"+version)
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w -X "+module+".version="+version,
		"-o", file, "./cmd/vault-plugin-secrets-fuuffy")
	build.Dir = filepath.Join("..", "..")
	// As in the Makefile, so that all but the linking is done already.
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	output, err := build.CombinedOutput()
	require.NoErrorf(t, err, "%s", output)
	return file
}

// switchTo does what an operator does to run another version: `vault secrets tune
// -plugin-version=…` and `vault plugin reload`.
func (m *mount) switchTo(version string) {
	m.t.Helper()
	require.NoError(m.t, m.client.Sys().TuneMountAllowNilWithContext(m.t.Context(), m.path, api.TuneMountConfigInput{PluginVersion: &version}))
	m.reload()
	assert.Equal(m.t, version, m.info().RunningVersion)
}

func (m *mount) reload() {
	m.t.Helper()
	_, err := m.client.Sys().ReloadPluginWithContext(m.t.Context(), &api.ReloadPluginInput{Mounts: []string{m.path}})
	require.NoError(m.t, err)
}

func (m *mount) info() *api.MountOutput {
	m.t.Helper()
	info, err := m.client.Sys().GetMountWithContext(m.t.Context(), m.path)
	require.NoError(m.t, err)
	return info
}

// An upgrade in place, and the way back, in the middle of a rotation.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	oldPlugin, newPlugin := buildPlugin(t, dir, oldVersion), buildPlugin(t, dir, newVersion)
	v, err := newStack(t).StartVault(t.Context(), programs.Vault, dir)
	require.NoError(t, err)
	require.NoError(t, v.RegisterPlugin(t.Context(), oldPlugin, oldVersion))
	m := newMount(t, v, "upgraded", fuuffytest.Config{}, nil)
	require.Equal(t, oldVersion, m.info().RunningVersion)
	m.step("rotate-root", map[string]any{"client_id": newClientID, "client_secret": secret}, "staged")

	require.NoError(t, v.RegisterPlugin(t.Context(), newPlugin, newVersion))
	m.keeps(func() { m.switchTo(newVersion) })
	m.step("rotate-root/promote", nil, "promoted")
	assert.Contains(t, m.Stats().LastUserAgent, strings.TrimPrefix(newVersion, "v"))

	m.keeps(func() { m.switchTo(oldVersion) })
	m.step("rotate-root/rollback", nil, "idle")
	assert.Contains(t, m.Stats().LastUserAgent, strings.TrimPrefix(oldVersion, "v"))
	assert.True(t, m.TokenAlive(m.token()))
}

// keeps expects that the token and the rotation are after something what they were
// before, and that Fuuffy is not asked.
func (m *mount) keeps(something func()) {
	m.t.Helper()
	token, rotation, requests := m.token(), m.rotation(), m.requests()
	something()
	assert.Equal(m.t, token, m.token())
	assert.Equal(m.t, rotation, m.rotation())
	assert.Equal(m.t, requests, m.requests())
}

// After a downgrade the storage may have entries of a format that this version does
// not know. They are there for the newer one still when that comes back.
func TestFutureFormat(t *testing.T) {
	t.Parallel()
	v, err := newStack(t).StartVault(t.Context(), programs.Vault, filepath.Dir(programs.Plugin), "raw_storage_endpoint = true")
	require.NoError(t, err)
	require.NoError(t, v.RegisterPlugin(t.Context(), programs.Plugin, programs.PluginVersion))
	m := newMount(t, v, "future", fuuffytest.Config{}, nil)
	m.step("rotate-root", map[string]any{"client_id": newClientID, "client_secret": secret}, "staged")
	held, config := m.token(), m.stored("config")

	m.keeps(func() {
		future := strings.Replace(config, `"format":1,`, `"format":99,`, 1)
		require.NotEqual(t, config, future)
		m.store("config", future)
		token := m.stored("token")
		m.reload()

		for _, path := range []string{"config", "token", "rotate-root"} {
			_, err := m.client.Logical().ReadWithContext(t.Context(), m.path+"/"+path)
			assert.ErrorContains(t, err, "this plugin is older than the stored configuration (format 99; it supports 1): use the newer plugin version", path)
		}
		for path, data := range map[string]map[string]any{
			"config":               {"client_id": clientID, "client_secret": secret},
			"token":                {"rejected_token": held},
			"rotate-root":          {"client_id": newClientID, "client_secret": secret},
			"rotate-root/promote":  nil,
			"rotate-root/rollback": nil,
			"rotate-root/complete": {"force": true},
		} {
			_, err := m.write(path, data)
			assert.ErrorContains(t, err, "this plugin is older than the stored configuration", path)
		}
		assert.Equal(t, future, m.stored("config"))
		assert.Equal(t, token, m.stored("token"))
		m.store("config", config)
		m.reload()
	})

	// A token is not worth refusing anything for: there is another to be had.
	requests := m.requests()
	m.store("token", strings.Replace(m.stored("token"), `"format":1,`, `"format":99,`, 1))
	m.reload()
	assert.NotEqual(t, held, m.token())
	assert.Equal(t, requests+1, m.requests())
}

// stored is what the engine has in storage, as Vault decrypts it.
func (m *mount) stored(key string) string {
	m.t.Helper()
	answer, err := m.client.Logical().ReadWithContext(m.t.Context(), m.rawPath(key))
	require.NoError(m.t, err)
	require.NotNil(m.t, answer)
	return answer.Data["value"].(string)
}

func (m *mount) store(key, value string) {
	m.t.Helper()
	_, err := m.client.Logical().WriteWithContext(m.t.Context(), m.rawPath(key), map[string]any{"value": value})
	require.NoError(m.t, err)
}

func (m *mount) rawPath(key string) string { return "sys/raw/logical/" + m.info().UUID + "/" + key }
