// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/api"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// measureReads compares a warm token with the floor, with a plugin that uses the
// framework, and with KV.
func measureReads(ctx context.Context, b *bench) error {
	v, err := b.startVault(ctx, 1)
	if err != nil {
		return err
	}
	sandbox, err := b.newSandbox(fuuffytest.Config{})
	if err != nil {
		return err
	}
	constant, err := b.enableConstant(ctx, v, "constant")
	if err != nil {
		return err
	}
	engine, err := b.enableEngine(ctx, v, "fuuffy", sandbox)
	if err != nil {
		return err
	}
	targets := []*target{constant.floor(), constant.target("constant, through the framework"), engine.target("fuuffy/token")}
	token, err := engine.read(ctx)
	if err != nil {
		return err
	}
	for _, version := range []string{"1", "2"} {
		kv, err := enable(ctx, v, "kv"+version, &api.MountInput{Type: "kv", Options: map[string]string{"version": version}})
		if err != nil {
			return err
		}
		t, err := kv.keep(ctx, version, token.Data)
		if err != nil {
			return err
		}
		targets = append(targets, t)
	}
	fmt.Println("\nA warm read")
	for _, connections := range []int{1, 16, 64} {
		if err := compare(ctx, targets, connections, b.rounds); err != nil {
			return err
		}
	}
	return nil
}

// keep writes a secret into a KV of that version and returns it as a target.
func (m *mount) keep(ctx context.Context, version string, secret map[string]any) (*target, error) {
	path := "token"
	if version == "2" {
		path, secret = "data/token", map[string]any{"data": secret}
	}
	t := newTarget("KV v"+version, m.vault.Address+"/v1/"+m.path+"/"+path, m.vault.Client.Token())
	// A new KV v2 is not ready at once.
	return t, stack.Eventually(ctx, "the KV to be ready", func() error { return m.write(ctx, path, secret) })
}
