// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// measureMemory tells what a plugin process has resident: with one mount, with many,
// and after 128 readers of one of them. Each mount of the engine holds a token.
func measureMemory(ctx context.Context, b *bench) error {
	sandbox, err := b.newSandbox(fuuffytest.Config{})
	if err != nil {
		return err
	}
	fmt.Printf("\nMemory of the plugin process\n%-20s %14s %20s %20s %20s\n", "", "1 mount", "100 mounts", "1000 mounts", "then 128 readers")
	if err := b.memory(ctx, "constant plugin", b.enableConstant); err != nil {
		return err
	}
	return b.memory(ctx, "fuuffy/token", func(ctx context.Context, v *stack.Vault, path string) (*mount, error) {
		return b.enableEngine(ctx, v, path, sandbox)
	})
}

func (b *bench) memory(ctx context.Context, name string, enable enabler) error {
	v, err := b.startVault(ctx, 1)
	if err != nil {
		return err
	}
	mounts := 0
	next := func() (*mount, error) {
		mounts++
		m, err := enable(ctx, v, fmt.Sprintf("mount-%d", mounts))
		if err == nil {
			_, err = m.read(ctx)
		}
		return m, err
	}
	first, err := next()
	if err != nil {
		return err
	}
	one, err := v.PluginMemory()
	if err != nil {
		return err
	}
	fmt.Printf("%-20s %14s", name, mib(one))
	for _, goal := range []int{100, 1000} {
		for mounts < goal {
			if _, err := next(); err != nil {
				return err
			}
		}
		now, err := v.PluginMemory()
		if err != nil {
			return err
		}
		fmt.Printf(" %20s", fmt.Sprintf("%s, %d KiB each", mib(now), (now-one)/1024/int64(mounts-1)))
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
	defer client.CloseIdleConnections()
	if _, err := first.target(name).load(ctx, client, 128); err != nil {
		return err
	}
	loaded, err := v.PluginMemory()
	if err != nil {
		return err
	}
	fmt.Printf(" %20s\n", mib(loaded))
	return nil
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
