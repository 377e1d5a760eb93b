// SPDX-License-Identifier: MPL-2.0

// Package cluster has the tests of what an operator and an outage do to Vault while
// apps read: failovers of a Raft cluster, the death of the plugin's process,
// upgrades, and the end of a mount.
package cluster

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const (
	clientID    = "shop"
	newClientID = "new-shop"
	secret      = "right-secret"
)

var programs stack.Programs

func TestMain(m *testing.M) {
	os.Exit(stack.RunTests(m, func(p stack.Programs, _ *stack.Stack) error {
		programs = p
		return nil
	}))
}

func newStack(t *testing.T) *stack.Stack {
	t.Helper()
	s, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// newVault starts a single Vault that knows the plugin.
func newVault(t *testing.T) *stack.Vault {
	t.Helper()
	v, err := newStack(t).StartVault(t.Context(), programs.Vault, filepath.Dir(programs.Plugin))
	require.NoError(t, err)
	require.NoError(t, v.RegisterPlugin(t.Context(), programs.Plugin, programs.PluginVersion))
	return v
}

// mount is the engine at a path of its own, with a Fuuffy of its own that knows two
// clients, of which the first is configured.
type mount struct {
	*fuuffytest.Server
	t    *testing.T
	path string
	// client is an operator's. It changes when another node becomes active.
	client *api.Client
}

func newMount(t *testing.T, v *stack.Vault, path string, sandbox fuuffytest.Config, settings map[string]any) *mount {
	t.Helper()
	sandbox.PerMinute, sandbox.PerHour = -1, -1
	m := &mount{Server: fuuffytest.NewServer(t, sandbox), t: t, path: path, client: v.Client}
	m.CreateClient(clientID, secret)
	m.CreateClient(newClientID, secret)
	require.NoError(t, v.Client.Sys().MountWithContext(t.Context(), path, &api.MountInput{Type: stack.Engine}))
	data := map[string]any{"client_id": clientID, "client_secret": secret, "base_url": m.BaseURL(), "ca_cert": m.CACert()}
	maps.Copy(data, settings)
	_, err := m.write("config", data)
	require.NoError(t, err)
	return m
}

func (m *mount) write(path string, data map[string]any) (*api.Secret, error) {
	return m.client.Logical().WriteWithContext(m.t.Context(), m.path+"/"+path, data)
}

// retry makes a request again that met a cluster without an active node, as people do. A
// busy machine may cost the active node its lead at any time.
func (m *mount) retry(request func() (*api.Secret, error)) *api.Secret {
	m.t.Helper()
	var answer *api.Secret
	require.NoError(m.t, stack.Eventually(m.t.Context(), "an active node", func() (err error) {
		answer, err = request()
		if err != nil && !election.covers(err) {
			require.NoError(m.t, err)
		}
		return err
	}))
	return answer
}

func (m *mount) read(path string) *api.Secret {
	m.t.Helper()
	answer := m.retry(func() (*api.Secret, error) {
		return m.client.Logical().ReadWithContext(m.t.Context(), m.path+"/"+path)
	})
	require.NotNil(m.t, answer)
	return answer
}

// token reads the token as an app does.
func (m *mount) token() string {
	m.t.Helper()
	answer := m.read("token")
	token, _ := answer.Data["access_token"].(string)
	require.NotEmpty(m.t, token)
	return token
}

// step takes a step of the rotation and expects that it leads to a state.
func (m *mount) step(path string, data map[string]any, state string) {
	m.t.Helper()
	answer := m.retry(func() (*api.Secret, error) { return m.write(path, data) })
	require.Equal(m.t, state, answer.Data["state"])
}

// rotation is where the rotation stands, without what a node counts for itself.
func (m *mount) rotation() map[string]any {
	m.t.Helper()
	answer := m.read("rotate-root")
	delete(answer.Data, "auth_failures")
	return answer.Data
}

func (m *mount) requests() int { return m.Stats().TokenRequests }

// awaitHeld waits for the token request that Hold keeps waiting.
func (m *mount) awaitHeld() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	require.NoError(m.t, m.WaitHeld(ctx, 1))
}
