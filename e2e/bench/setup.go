// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/vault/api"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const secret = "right-secret"

// bench has what all measurements need.
type bench struct {
	programs stack.Programs
	constant string
	rounds   int
	// mounts is how many there are of each plugin where there are many.
	mounts int
	// least is the least share of the floor's reads a second that a warm token must have.
	least float64

	stack     *stack.Stack
	sandboxes []*fuuffytest.Server
}

// alone runs a measurement with a stack of its own, and ends what it started.
func (b *bench) alone(measure func() error) (err error) {
	if b.stack, err = stack.New(); err != nil {
		return err
	}
	defer func() {
		b.stack.Close()
		for _, sandbox := range b.sandboxes {
			sandbox.Close()
		}
		b.sandboxes = nil
	}()
	return measure()
}

// startVault starts a Vault that knows both plugins and has so many file audit
// devices.
func (b *bench) startVault(ctx context.Context, audits int) (*stack.Vault, error) {
	v, err := b.stack.StartVault(ctx, b.programs.Vault, filepath.Dir(b.programs.Plugin))
	if err != nil {
		return nil, err
	}
	for i := range audits {
		name := fmt.Sprintf("file-%d", i)
		audit := &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": v.LogFile + "." + name}}
		if err := v.Client.Sys().EnableAuditWithOptionsWithContext(ctx, name, audit); err != nil {
			return nil, fmt.Errorf("enable audit: %w", err)
		}
	}
	if err := v.RegisterPlugin(ctx, b.programs.Plugin, b.programs.PluginVersion); err != nil {
		return nil, err
	}
	return v, v.Register(ctx, filepath.Base(b.constant), b.constant, "")
}

func (b *bench) newSandbox(config fuuffytest.Config) (*fuuffytest.Server, error) {
	config.PerMinute, config.PerHour = -1, -1
	sandbox, err := fuuffytest.Start(config, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b.sandboxes = append(b.sandboxes, sandbox)
	sandbox.CreateClient("shop", secret)
	return sandbox, nil
}

// mount is a secrets engine.
type mount struct {
	vault *stack.Vault
	path  string
}

func enable(ctx context.Context, v *stack.Vault, path string, input *api.MountInput) (*mount, error) {
	if err := v.Client.Sys().MountWithContext(ctx, path, input); err != nil {
		return nil, fmt.Errorf("mount %s: %w", path, err)
	}
	return &mount{v, path}, nil
}

// enabler mounts a secrets engine at a path, ready to be read.
type enabler func(ctx context.Context, v *stack.Vault, path string) (*mount, error)

func (b *bench) enableConstant(ctx context.Context, v *stack.Vault, path string) (*mount, error) {
	return enable(ctx, v, path, &api.MountInput{Type: filepath.Base(b.constant)})
}

// enableEngine mounts the engine and configures it, so that it holds a token.
func (b *bench) enableEngine(ctx context.Context, v *stack.Vault, path string, sandbox *fuuffytest.Server) (*mount, error) {
	return enableAs(ctx, v, path, stack.Engine, sandbox)
}

// enableAs is for an engine that is registered under another name.
func enableAs(ctx context.Context, v *stack.Vault, path, plugin string, sandbox *fuuffytest.Server) (*mount, error) {
	m, err := enable(ctx, v, path, &api.MountInput{Type: plugin})
	if err != nil {
		return nil, err
	}
	return m, m.write(ctx, "config", map[string]any{
		"client_id": "shop", "client_secret": secret, "base_url": sandbox.BaseURL(), "ca_cert": sandbox.CACert(),
	})
}

// sideBySide has the constant plugin and the engine, whose Fuuffy is the sandbox, in one Vault.
func (b *bench) sideBySide(ctx context.Context) (constant, engine *mount, sandbox *fuuffytest.Server, err error) {
	v, err := b.startVault(ctx, 1)
	if err != nil {
		return nil, nil, nil, err
	}
	if sandbox, err = b.newSandbox(fuuffytest.Config{}); err != nil {
		return nil, nil, nil, err
	}
	if constant, err = b.enableConstant(ctx, v, "constant"); err != nil {
		return nil, nil, nil, err
	}
	engine, err = b.enableEngine(ctx, v, "fuuffy", sandbox)
	return constant, engine, sandbox, err
}

// process is a plugin in a Vault of its own, where its process is the only one.
type process struct {
	name   string
	vault  *stack.Vault
	enable enabler
}

// apart has the constant plugin and the engine, whose Fuuffy is the sandbox, each in a Vault
// of its own.
func (b *bench) apart(ctx context.Context) ([]process, *fuuffytest.Server, error) {
	sandbox, err := b.newSandbox(fuuffytest.Config{})
	if err != nil {
		return nil, nil, err
	}
	both := []process{
		{name: "constant plugin", enable: b.enableConstant},
		{name: "fuuffy/token", enable: func(ctx context.Context, v *stack.Vault, path string) (*mount, error) {
			return b.enableEngine(ctx, v, path, sandbox)
		}},
	}
	for i := range both {
		if both[i].vault, err = b.startVault(ctx, 1); err != nil {
			return nil, nil, err
		}
	}
	return both, sandbox, nil
}

func (m *mount) write(ctx context.Context, path string, data map[string]any) error {
	if _, err := m.vault.Client.Logical().WriteWithContext(ctx, m.path+"/"+path, data); err != nil {
		return fmt.Errorf("write %s/%s: %w", m.path, path, err)
	}
	return nil
}

// read reads what the engine answers at token.
func (m *mount) read(ctx context.Context) (*api.Secret, error) {
	answer, err := m.vault.Client.Logical().ReadWithContext(ctx, m.path+"/token")
	if err != nil {
		return nil, fmt.Errorf("read %s/token: %w", m.path, err)
	}
	return answer, nil
}

// floor is the constant plugin without the framework.
func (m *mount) floor() *target {
	return newTarget("constant plugin", m.vault.Address+"/v1/"+m.path+"/bare", m.vault.Client.Token())
}

// target is the mount as something to load.
func (m *mount) target(name string) *target {
	return newTarget(name, m.vault.Address+"/v1/"+m.path+"/token", m.vault.Client.Token())
}
