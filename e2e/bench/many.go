// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// measureMany tells what many mounts in one plugin process cost: its memory after each has
// served a token, and how long it takes from the start of a killed Vault to the first token
// of the last mount. Nothing of that may cost Fuuffy a token request.
func measureMany(ctx context.Context, b *bench) error {
	both, sandbox, err := b.apart(ctx)
	if err != nil {
		return err
	}
	var all []*many
	for _, p := range both {
		m := &many{process: p}
		if err := m.enableAll(ctx, b.mounts); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		all = append(all, m)
	}
	for range b.rounds {
		for _, m := range all {
			before := sandbox.Stats().TokenRequests
			if err := m.restart(ctx); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			m.requests += sandbox.Stats().TokenRequests - before
		}
	}
	fmt.Printf("\n%-30s %14s %24s %24s %16s\n", fmt.Sprint(b.mounts, " mounts"), "memory", "after a restart", "restart to last token", "token requests")
	for _, m := range all {
		fmt.Printf("%-30s %14s %24s %24s %16d\n", m.name, mib(m.enabled), spread(m.restarted, mib), spread(m.took, seconds), m.requests)
	}
	return nil
}

// many are the mounts of one engine.
type many struct {
	process
	mounts []*mount
	// enabled and restarted are what the process has resident when each mount has served a
	// token.
	enabled   int64
	restarted []int64
	// took is how long each restart took to the last mount's first token, and requests how many
	// token requests all of them caused.
	took     []time.Duration
	requests int
}

func (m *many) enableAll(ctx context.Context, mounts int) error {
	for i := range mounts {
		one, err := m.enable(ctx, m.vault, fmt.Sprintf("mount-%d", i))
		if err != nil {
			return err
		}
		m.mounts = append(m.mounts, one)
	}
	if err := m.readAll(ctx); err != nil {
		return err
	}
	var err error
	m.enabled, err = m.vault.PluginMemory()
	return err
}

func (m *many) restart(ctx context.Context) error {
	m.vault.Kill()
	began := time.Now()
	if err := m.vault.Restart(ctx); err != nil {
		return err
	}
	if err := m.readAll(ctx); err != nil {
		return err
	}
	m.took = append(m.took, time.Since(began))
	resident, err := m.vault.PluginMemory()
	m.restarted = append(m.restarted, resident)
	return err
}

// readAll reads each mount once, over as many connections as read a mount in the other
// measurements.
func (m *many) readAll(ctx context.Context) error {
	failures := make([]error, 16)
	var all sync.WaitGroup
	for i := range failures {
		all.Go(func() {
			for n := i; n < len(m.mounts) && failures[i] == nil; n += len(failures) {
				_, failures[i] = m.mounts[n].read(ctx)
			}
		})
	}
	all.Wait()
	return errors.Join(failures...)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
