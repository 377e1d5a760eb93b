// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/api"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// measureReads compares a warm token with the floor, with a plugin that uses the
// framework, and with KV.
func measureReads(ctx context.Context, b *bench) error {
	constant, engine, _, err := b.sideBySide(ctx)
	if err != nil {
		return err
	}
	floor, token := constant.floor(), engine.target("fuuffy/token")
	targets := []*target{floor, constant.target("constant, through the framework"), token}
	first, err := engine.read(ctx)
	if err != nil {
		return err
	}
	for _, version := range []string{"1", "2"} {
		kv, err := enable(ctx, engine.vault, "kv"+version, &api.MountInput{Type: "kv", Options: map[string]string{"version": version}})
		if err != nil {
			return err
		}
		t, err := kv.keep(ctx, version, first.Data)
		if err != nil {
			return err
		}
		targets = append(targets, t)
	}
	fmt.Println("\nA warm read")
	var slow []error
	for _, connections := range []int{1, 16, 64} {
		if err := compare(ctx, targets, connections, b.rounds); err != nil {
			return err
		}
		slow = append(slow, b.fastEnough(connections, token, floor))
	}
	return errors.Join(slow...)
}

// fastEnough compares the rates that were measured last with the least that -least allows.
func (b *bench) fastEnough(connections int, t, floor *target) error {
	ratio := t.median().perSecond / floor.median().perSecond
	if ratio < b.least {
		return fmt.Errorf("with %d connections, %s has %.3f of the floor's reads a second; it must have at least %.3f", connections, t.name, ratio, b.least)
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
