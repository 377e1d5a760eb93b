// SPDX-License-Identifier: MPL-2.0

// Package e2e has the tests that run the engine in a real Vault server with Raft
// storage, against the Fuuffy sandbox.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const clientID = "shop"

var (
	programs stack.Programs
	// shared is the Vault of all tests that leave it as it is.
	shared *stack.Vault
)

func TestMain(m *testing.M) {
	os.Exit(stack.RunTests(m, func(p stack.Programs, s *stack.Stack) (err error) {
		programs = p
		shared, err = startVault(context.Background(), s)
		return err
	}))
}

// startVault starts a Vault that knows the plugin.
func startVault(ctx context.Context, s *stack.Stack) (*stack.Vault, error) {
	v, err := s.StartVault(ctx, programs.Vault, filepath.Dir(programs.Plugin))
	if err != nil {
		return nil, err
	}
	return v, v.RegisterPlugin(ctx, programs.Plugin, programs.PluginVersion)
}

// ownVault is for tests that restart Vault, or look at all of its log.
func ownVault(t *testing.T) *stack.Vault {
	t.Helper()
	s, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	v, err := startVault(t.Context(), s)
	require.NoError(t, err)
	return v
}

// auditedVault is a Vault of one's own with an audit log, whose file it returns.
func auditedVault(t *testing.T) (v *stack.Vault, audit string) {
	t.Helper()
	v, audit = ownVault(t), filepath.Join(t.TempDir(), "audit.log")
	options := &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": audit}}
	require.NoError(t, v.Client.Sys().EnableAuditWithOptionsWithContext(t.Context(), "file", options))
	return v, audit
}

// mount is the engine at a path of its own, with a Fuuffy of its own.
type mount struct {
	*fuuffytest.Server
	t      *testing.T
	path   string
	client *api.Client
	secret string
}

func newMount(t *testing.T, v *stack.Vault, sandbox fuuffytest.Config) *mount {
	t.Helper()
	return newMountAt(t, v, t.Name(), sandbox)
}

// newMountAt is for tests that choose the path.
func newMountAt(t *testing.T, v *stack.Vault, path string, sandbox fuuffytest.Config) *mount {
	t.Helper()
	m := &mount{
		Server: fuuffytest.NewServer(t, sandbox),
		t:      t,
		path:   path,
		client: v.Client,
		secret: "right-secret-of-" + t.Name(),
	}
	m.CreateClient(clientID, m.secret)
	require.NoError(t, v.Client.Sys().MountWithContext(t.Context(), m.path, &api.MountInput{Type: stack.Engine}))
	t.Cleanup(func() {
		// Whatever the test did to Vault, the sandbox must not go before the mount.
		_ = v.Client.Sys().Unmount(m.path)
	})
	return m
}

// settings are those with which the engine works; changes override them, and nil
// leaves one out.
func (m *mount) settings(changes map[string]any) map[string]any {
	all := map[string]any{
		"client_id":     clientID,
		"client_secret": m.secret,
		"base_url":      m.BaseURL(),
		"ca_cert":       m.CACert(),
	}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return all
}

func (m *mount) write(path string, data map[string]any) (*api.Secret, error) {
	return m.client.Logical().WriteWithContext(m.t.Context(), m.path+"/"+path, data)
}

// configure writes the settings and expects that they are taken.
func (m *mount) configure(changes map[string]any) *api.Secret {
	m.t.Helper()
	answer, err := m.write("config", m.settings(changes))
	require.NoError(m.t, err)
	return answer
}

func (m *mount) readConfig() *api.Secret {
	m.t.Helper()
	answer, err := m.client.Logical().ReadWithContext(m.t.Context(), m.path+"/config")
	require.NoError(m.t, err)
	return answer
}

// token reads the token as an app does.
func (m *mount) token() string {
	m.t.Helper()
	answer, err := m.client.Logical().ReadWithContext(m.t.Context(), m.path+"/token")
	require.NoError(m.t, err)
	return accessToken(m.t, answer)
}

func accessToken(t *testing.T, answer *api.Secret) string {
	t.Helper()
	require.NotNil(t, answer)
	token, _ := answer.Data["access_token"].(string)
	require.NotEmpty(t, token)
	return token
}

func (m *mount) requests() int { return m.Stats().TokenRequests }

// reload starts the engine anew. Tests that take many steps need it: a mount sends Fuuffy ten
// requests at once, and then one more every six seconds.
func (m *mount) reload() {
	m.t.Helper()
	_, err := m.client.Sys().ReloadPluginWithContext(m.t.Context(), &api.ReloadPluginInput{Mounts: []string{m.path}})
	require.NoError(m.t, err)
}

// orders returns the status that Fuuffy answers to someone with the token.
func (m *mount) orders(token string) int {
	m.t.Helper()
	status, _, err := stack.Orders(m.t.Context(), m.BaseURL(), m.CACert(), token)
	require.NoError(m.t, err)
	return status
}

// command runs vault as a person does and returns its standard output.
func command(t *testing.T, v *stack.Vault, arguments ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), v.Binary, arguments...)
	c.Env = append(os.Environ(), v.Environment()...)
	output, err := c.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("vault %v: %v\n%s", arguments, err, exit.Stderr)
	}
	require.NoError(t, err)
	return string(output)
}

// decode reads JSON without making floating-point numbers of integers.
func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var value map[string]any
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&value))
	return value
}
