// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"net/http"
)

// measureMemory tells what a plugin process has resident: with one mount, with many,
// and after 128 readers of one of them. Each mount of the engine holds a token.
func measureMemory(ctx context.Context, b *bench) error {
	both, _, err := b.apart(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\nMemory of the plugin process\n%-20s %14s %20s %20s %20s\n", "", "1 mount", "100 mounts", "1000 mounts", "then 128 readers")
	for _, p := range both {
		if err := p.memory(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p process) memory(ctx context.Context) error {
	mounts := 0
	next := func() (*mount, error) {
		mounts++
		m, err := p.enable(ctx, p.vault, fmt.Sprintf("mount-%d", mounts))
		if err == nil {
			_, err = m.read(ctx)
		}
		return m, err
	}
	first, err := next()
	if err != nil {
		return err
	}
	one, err := p.vault.PluginMemory()
	if err != nil {
		return err
	}
	fmt.Printf("%-20s %14s", p.name, mib(one))
	for _, goal := range []int{100, 1000} {
		for mounts < goal {
			if _, err := next(); err != nil {
				return err
			}
		}
		now, err := p.vault.PluginMemory()
		if err != nil {
			return err
		}
		fmt.Printf(" %20s", fmt.Sprintf("%s, %d KiB each", mib(now), (now-one)/1024/int64(mounts-1)))
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
	defer client.CloseIdleConnections()
	if _, err := first.target(p.name).load(ctx, client, 128); err != nil {
		return err
	}
	loaded, err := p.vault.PluginMemory()
	if err != nil {
		return err
	}
	fmt.Printf(" %20s\n", mib(loaded))
	return nil
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
