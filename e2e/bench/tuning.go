// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/hashicorp/vault/api"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// measureTuning compares what a user may change around the engine.
func measureTuning(ctx context.Context, b *bench) error {
	sandbox, err := b.newSandbox(fuuffytest.Config{})
	if err != nil {
		return err
	}
	usual, err := b.startVault(ctx, 1)
	if err != nil {
		return err
	}
	var targets []*target
	for _, environment := range []string{"", "GOMAXPROCS=1", "GOGC=400", "GOMEMLIMIT=32MiB"} {
		t, err := b.withEnvironment(ctx, usual, environment, sandbox)
		if err != nil {
			return err
		}
		targets = append(targets, t)
	}
	for _, audits := range []int{0, 2} {
		v, err := b.startVault(ctx, audits)
		if err != nil {
			return err
		}
		m, err := b.enableEngine(ctx, v, "fuuffy", sandbox)
		if err != nil {
			return err
		}
		targets = append(targets, m.target(fmt.Sprintf("%d audit devices", audits)))
	}
	for _, cache := range []string{"", "cache {}"} {
		address, err := b.startProxy(usual, cache)
		if err != nil {
			return err
		}
		if err := awaitProxy(ctx, address); err != nil {
			return err
		}
		targets = append(targets, newTarget("through Vault Agent "+cache, address+"/v1/fuuffy/token", usual.Client.Token()))
	}
	fmt.Println("\nWith other settings")
	return compare(ctx, targets, 16, b.rounds)
}

// withEnvironment is the engine in a plugin process of its own, that has a variable
// set. It must be registered under a name of its own for that.
func (b *bench) withEnvironment(ctx context.Context, v *stack.Vault, variable string, sandbox *fuuffytest.Server) (*target, error) {
	if variable == "" {
		m, err := b.enableEngine(ctx, v, "fuuffy", sandbox)
		if err != nil {
			return nil, err
		}
		return m.target("1 audit device, no variable"), nil
	}
	sum, err := stack.SHA256(b.programs.Plugin)
	if err != nil {
		return nil, err
	}
	err = v.Client.Sys().RegisterPluginWithContext(ctx, &api.RegisterPluginInput{
		Name: variable, Type: api.PluginTypeSecrets, Command: filepath.Base(b.programs.Plugin),
		SHA256: sum, Version: b.programs.PluginVersion, Env: []string{variable},
	})
	if err != nil {
		return nil, fmt.Errorf("register the plugin with %s: %w", variable, err)
	}
	m, err := enableAs(ctx, v, variable, variable, sandbox)
	if err != nil {
		return nil, err
	}
	return m.target(variable), nil
}

// startProxy starts a Vault Agent that passes requests on, and returns its address.
func (b *bench) startProxy(v *stack.Vault, settings string) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	address := listener.Addr().String()
	listener.Close()
	config := filepath.Join(b.stack.Dir, "agent-"+filepath.Base(address)+".hcl")
	text := fmt.Sprintf("vault {\n  address = %q\n}\napi_proxy {}\nlistener \"tcp\" {\n  address = %q\n  tls_disable = true\n}\n%s\n", v.Address, address, settings)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write the Agent's configuration: %w", err)
	}
	if _, err := b.stack.StartAgent(v.Binary, config, config+".log"); err != nil {
		return "", err
	}
	return "http://" + address, nil
}

func awaitProxy(ctx context.Context, address string) error {
	return stack.Eventually(ctx, "the Agent to listen", func() error {
		connection, err := net.Dial("tcp", address[len("http://"):])
		if err == nil {
			connection.Close()
		}
		return err
	})
}
