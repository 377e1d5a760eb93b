// SPDX-License-Identifier: MPL-2.0

// Command bench compares reads of a warm token, over HTTP from a real Vault with Raft
// storage and an audit device, with what Vault charges for any plugin call (a plugin
// that answers a constant) and with Vault's own KV. All are measured in one run, in
// turns, so that a noisy machine is noisy to all of them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/hashicorp/vault/api"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	constant := flag.String("constant", "", "the `program` of the constant plugin, in the folder of the engine's")
	rounds := flag.Int("rounds", 7, "how many times each is measured")
	flag.Parse()
	programs, err := stack.ProgramsToTest()
	if err != nil {
		return err
	}
	s, err := stack.New()
	if err != nil {
		return err
	}
	defer s.Close()
	targets, err := setUp(ctx, s, programs, *constant)
	if err != nil {
		return err
	}
	fmt.Printf("%d rounds of %s for each; medians over the rounds, and their range\n", *rounds, slice)
	for _, connections := range []int{1, 16, 128} {
		if err := compare(ctx, targets, connections, *rounds); err != nil {
			return err
		}
	}
	return nil
}

// setUp returns what is compared. The first one is the floor.
func setUp(ctx context.Context, s *stack.Stack, programs stack.Programs, constant string) ([]*target, error) {
	// Tests want Vault's log at the finest level; here it would be measured.
	if err := os.Setenv("VAULT_LOG_LEVEL", "error"); err != nil {
		return nil, err
	}
	v, err := s.StartVault(ctx, programs.Vault, filepath.Dir(programs.Plugin))
	if err != nil {
		return nil, err
	}
	audit := &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": filepath.Join(s.Dir, "audit.log")}}
	if err := v.Client.Sys().EnableAuditWithOptionsWithContext(ctx, "file", audit); err != nil {
		return nil, fmt.Errorf("enable audit: %w", err)
	}
	if err := v.RegisterPlugin(ctx, programs.Plugin, programs.PluginVersion); err != nil {
		return nil, err
	}
	if err := v.RegisterPlugin(ctx, constant, ""); err != nil {
		return nil, err
	}
	for path, input := range map[string]*api.MountInput{
		"constant": {Type: filepath.Base(constant)},
		"fuuffy":   {Type: filepath.Base(programs.Plugin)},
		"kv1":      {Type: "kv", Options: map[string]string{"version": "1"}},
		"kv2":      {Type: "kv", Options: map[string]string{"version": "2"}},
	} {
		if err := v.Client.Sys().MountWithContext(ctx, path, input); err != nil {
			return nil, fmt.Errorf("mount %s: %w", path, err)
		}
	}
	if err := fill(ctx, v); err != nil {
		return nil, err
	}
	var targets []*target
	for _, t := range []struct{ name, path string }{
		{"constant", "constant/token"}, {"fuuffy", "fuuffy/token"}, {"KV v1", "kv1/token"}, {"KV v2", "kv2/data/token"},
	} {
		targets = append(targets, newTarget(t.name, v.Address+"/v1/"+t.path, v.Client.Token()))
	}
	return targets, nil
}

// fill configures the engine and gives the KVs a secret of the same size.
func fill(ctx context.Context, v *stack.Vault) error {
	sandbox, err := fuuffytest.Start(fuuffytest.Config{}, "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer sandbox.Close() // From here on, the token is in the cache for an hour.
	sandbox.CreateClient("shop", "secret")
	logical := v.Client.Logical()
	_, err = logical.WriteWithContext(ctx, "fuuffy/config", map[string]any{
		"client_id": "shop", "client_secret": "secret", "base_url": sandbox.BaseURL(), "ca_cert": sandbox.CACert(),
	})
	if err != nil {
		return fmt.Errorf("configure the engine: %w", err)
	}
	token, err := logical.ReadWithContext(ctx, "fuuffy/token")
	if err != nil {
		return fmt.Errorf("read a token: %w", err)
	}
	if _, err := logical.WriteWithContext(ctx, "kv1/token", token.Data); err != nil {
		return fmt.Errorf("fill KV v1: %w", err)
	}
	return stack.Eventually(ctx, "KV v2 to be ready", func() error {
		_, err := logical.WriteWithContext(ctx, "kv2/data/token", map[string]any{"data": token.Data})
		return err
	})
}
