// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"slices"

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
	var shares []float64
	for _, connections := range []int{1, 16, 64} {
		if err := compare(ctx, targets, connections, b.rounds); err != nil {
			return err
		}
		shares = append(shares, token.shares(floor)...)
	}
	return b.fastEnough(shares)
}

// shares are what the target has of the floor's reads a second, in each round. What disturbs a
// round disturbs both.
func (t *target) shares(floor *target) (shares []float64) {
	for i := range t.samples {
		shares = append(shares, t.samples[i].perSecond/floor.samples[i].perSecond)
	}
	return shares
}

// fastEnough compares the median share with the least that -least allows. On two cores with 20
// to 40 busy processes, 255 shares were between 0.2 and 3.9. Of 75 of them, the median is below 0.88
// once in a hundred times. On a quiet machine it is 1.0, and without our way around the
// framework, 0.85.
func (b *bench) fastEnough(shares []float64) error {
	slices.Sort(shares)
	median := shares[len(shares)/2]
	fmt.Printf("\na warm token has %.3f of the floor's reads a second, the median of %d rounds\n", median, len(shares))
	if median < b.least {
		return fmt.Errorf("it must have at least %.3f", b.least)
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
