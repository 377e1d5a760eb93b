// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// measureStarts tells how long it takes from `secrets enable` to the first answer, the
// configuration with its token request included, and how long the first read takes
// after a SIGKILL of the plugin.
func measureStarts(ctx context.Context, b *bench) error {
	both, _, err := b.apart(ctx)
	if err != nil {
		return err
	}
	var all []*starts
	for _, p := range both {
		all = append(all, &starts{process: p})
	}
	for range b.rounds {
		for _, s := range all {
			if err := s.round(ctx); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	fmt.Printf("\n%-30s %20s %20s %20s\n", "Starts", "first mount", "second mount", "read after SIGKILL")
	for _, s := range all {
		fmt.Printf("%-30s %20s %20s %20s\n", s.name, spread(s.first, milliseconds), spread(s.second, milliseconds), spread(s.killed, milliseconds))
	}
	return nil
}

// starts are those of one engine.
type starts struct {
	process
	// first starts the process that second finds running.
	first, second, killed []time.Duration
}

func (s *starts) round(ctx context.Context) error {
	one, err := s.timed(ctx, &s.first, func() (*mount, error) { return s.enable(ctx, s.vault, "first") })
	if err != nil {
		return err
	}
	two, err := s.timed(ctx, &s.second, func() (*mount, error) { return s.enable(ctx, s.vault, "second") })
	if err != nil {
		return err
	}
	if err := s.vault.KillPlugin(ctx); err != nil {
		return err
	}
	if _, err := s.timed(ctx, &s.killed, func() (*mount, error) { return one, nil }); err != nil {
		return err
	}
	for _, m := range []*mount{one, two} {
		if err := s.vault.Client.Sys().UnmountWithContext(ctx, m.path); err != nil {
			return fmt.Errorf("unmount %s: %w", m.path, err)
		}
	}
	return nil
}

// timed adds how long it takes to get a mount and read from it.
func (s *starts) timed(ctx context.Context, times *[]time.Duration, get func() (*mount, error)) (*mount, error) {
	began := time.Now()
	m, err := get()
	if err != nil {
		return nil, err
	}
	if _, err := m.read(ctx); err != nil {
		return nil, err
	}
	*times = append(*times, time.Since(began))
	return m, nil
}

// spread is the median, and the range.
func spread[T int64 | time.Duration](values []T, format func(T) string) string {
	slices.Sort(values)
	return fmt.Sprintf("%s (%s-%s)", format(values[len(values)/2]), format(values[0]), format(values[len(values)-1]))
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
