// SPDX-License-Identifier: MPL-2.0

// Package agent has the tests that run the examples, as they are in the folder
// examples: real Vault Agents, a real Vault, and the Fuuffy sandbox. They take their
// time, for tokens must live and die: all scenarios run at once.
package agent

import (
	"context"
	"flag"
	"fmt"
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

var (
	programs stack.Programs
	vault    *stack.Vault
	// auditFile is where Vault notes each request.
	auditFile string
	// exampleApp is examples/app.
	exampleApp string
)

func TestMain(m *testing.M) { os.Exit(stack.RunTests(m, setUp)) }

func setUp(p stack.Programs, s *stack.Stack) (err error) {
	programs = p
	ctx := context.Background()
	if vault, err = s.StartVault(ctx, programs.Vault, filepath.Dir(programs.Plugin)); err != nil {
		return err
	}
	if err := vault.RegisterPlugin(ctx, programs.Plugin, programs.PluginVersion); err != nil {
		return err
	}
	if err := vault.Client.Sys().EnableAuthWithOptionsWithContext(ctx, "approle", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		return err
	}
	auditFile = filepath.Join(s.Dir, "audit.log")
	err = vault.Client.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type:    "file",
		Options: map[string]string{"file_path": auditFile},
	})
	if err != nil {
		return err
	}
	exampleApp = filepath.Join(s.Dir, "app")
	build := exec.Command("go", "build", "-o", exampleApp, "github.com/fuuffy/vault-plugin-secrets-fuuffy/examples/app")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build examples/app: %w\n%s", err, output)
	}
	// They wait for most of their time, and not for a processor.
	flag.Parse()
	if err := flag.Set("test.parallel", "32"); err != nil {
		return err
	}
	return nil
}

// mount is the engine at a path of its own, with a Fuuffy of its own.
type mount struct {
	*fuuffytest.Server
	t    *testing.T
	path string
}

const secret = "right-secret"

// newMount returns an engine that holds the token with which its credentials were
// tried.
func newMount(t *testing.T, path string, sandbox fuuffytest.Config, settings map[string]any) *mount {
	t.Helper()
	sandbox.PerMinute, sandbox.PerHour = -1, -1
	m := &mount{Server: fuuffytest.NewServer(t, sandbox), t: t, path: path}
	m.CreateClient("shop", secret)
	require.NoError(t, vault.Client.Sys().MountWithContext(t.Context(), path, &api.MountInput{Type: stack.Engine}))
	t.Cleanup(func() {
		if err := vault.Client.Sys().Unmount(path); err != nil {
			t.Errorf("unmount the engine: %v", err)
		}
	})
	data := m.settings()
	maps.Copy(data, settings)
	_, err := vault.Client.Logical().WriteWithContext(t.Context(), path+"/config", data)
	require.NoError(t, err)
	return m
}

// settings are those with which the engine works.
func (m *mount) settings() map[string]any {
	return map[string]any{"client_id": "shop", "client_secret": secret, "base_url": m.BaseURL(), "ca_cert": m.CACert()}
}

// requests is how many token requests reached Fuuffy.
func (m *mount) requests() int { return m.Stats().TokenRequests }

// host is a machine with an app and what works for it: folders, and credentials of
// an AppRole identity that has the policy for apps.
type host struct {
	*mount
	stack *stack.Stack
	// name is that of the identity.
	name string
	// etc and run stand for /etc/fuuffy-agent and /run/fuuffy.
	etc, run string
}

func (m *mount) newHost(name string) *host {
	m.t.Helper()
	s, err := stack.New()
	require.NoError(m.t, err)
	m.t.Cleanup(s.Close)
	return m.newHostIn(s, name)
}

// newHostIn makes one of many hosts in one stack, with folders of their own.
func (m *mount) newHostIn(s *stack.Stack, name string) *host {
	m.t.Helper()
	h := &host{mount: m, stack: s, name: m.path + "-" + name, etc: filepath.Join(s.Dir, name, "etc"), run: filepath.Join(s.Dir, name, "run")}
	for _, dir := range []string{h.etc, h.run} {
		require.NoError(m.t, os.MkdirAll(dir, 0o700))
	}
	roleID, secretID := m.newIdentity(h.name)
	require.NoError(m.t, os.WriteFile(filepath.Join(h.etc, "role_id"), []byte(roleID), 0o600))
	require.NoError(m.t, os.WriteFile(filepath.Join(h.etc, "secret_id"), []byte(secretID), 0o600))
	return h
}

// newIdentity makes an AppRole with the policy for apps.
func (m *mount) newIdentity(name string) (roleID, secretID string) {
	m.t.Helper()
	return m.newIdentityWith(name, "app")
}

// newIdentityWith makes an AppRole with an example's policy.
func (m *mount) newIdentityWith(name, example string) (roleID, secretID string) {
	m.t.Helper()
	ctx, role := m.t.Context(), "auth/approle/role/"+name
	policy := m.path + "-" + example
	require.NoError(m.t, vault.Client.Sys().PutPolicyWithContext(ctx, policy, m.example("policies/"+example+".hcl")))
	_, err := vault.Client.Logical().WriteWithContext(ctx, role, map[string]any{"token_policies": policy, "token_type": "batch", "token_ttl": "1h"})
	require.NoError(m.t, err)
	id, err := vault.Client.Logical().ReadWithContext(ctx, role+"/role-id")
	require.NoError(m.t, err)
	created, err := vault.Client.Logical().WriteWithContext(ctx, role+"/secret-id", nil)
	require.NoError(m.t, err)
	return id.Data["role_id"].(string), created.Data["secret_id"].(string)
}

// startAgent starts a Vault Agent with an example's configuration.
func (h *host) startAgent(example string, replaced ...string) *stack.Agent {
	h.t.Helper()
	return h.startAgentWith(h.exampleFor(example, replaced...))
}

func (h *host) startAgentWith(text string) *stack.Agent {
	h.t.Helper()
	config := filepath.Join(h.etc, "agent.hcl")
	require.NoError(h.t, os.WriteFile(config, []byte(text), 0o600))
	a, err := h.stack.StartAgent(vault.Binary, config, filepath.Join(h.etc, "agent.log"))
	require.NoError(h.t, err)
	h.t.Cleanup(func() {
		if h.t.Failed() {
			h.t.Logf("The end of the log of %s:\n%s", h.name, a.LogTail())
		}
	})
	return a
}
