// SPDX-License-Identifier: MPL-2.0

// Command bench measures the engine in a real Vault with Raft storage and an audit
// device: reads of a warm token against what Vault charges for any plugin call (a
// plugin that answers a constant, with and without the SDK's framework) and against Vault's own KV; reads while Fuuffy is
// being asked, or is left alone; what a user may tune; memory, starts, and many mounts. What is
// compared is measured in one run, in turns, so that a noisy machine is noisy to all.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measurements in the order in which they run.
var measurements = []struct {
	name    string
	measure func(context.Context, *bench) error
}{
	{"reads", measureReads},
	{"busy", measureBusy},
	{"hold-off", measureHoldOff},
	{"tuning", measureTuning},
	{"memory", measureMemory},
	{"starts", measureStarts},
	{"many", measureMany},
}

func run(ctx context.Context) error {
	b := new(bench)
	only := flag.String("only", "", "the `name` of one measurement: reads, busy, hold-off, tuning, memory, starts or many; all if empty")
	flag.StringVar(&b.constant, "constant", "", "the `program` of the constant plugin, in the folder of the engine's")
	flag.IntVar(&b.rounds, "rounds", 5, "how many times each is measured")
	flag.IntVar(&b.mounts, "mounts", 300, "how many mounts the measurement many has of each plugin")
	flag.Float64Var(&b.least, "least", 0, "the least `share` of the floor's reads a second that a warm token must have, in the median of all rounds")
	flag.Parse()
	var err error
	if b.programs, err = stack.ProgramsToTest(); err != nil {
		return err
	}
	// Tests want Vault's log at the finest level; here it would be measured.
	if err := os.Setenv("VAULT_LOG_LEVEL", "error"); err != nil {
		return err
	}
	fmt.Printf("%d rounds of %s for each; medians over the rounds, and their range\n", b.rounds, slice)
	measured := false
	for _, m := range measurements {
		if *only != "" && *only != m.name {
			continue
		}
		if err := b.alone(func() error { return m.measure(ctx, b) }); err != nil {
			return fmt.Errorf("measure %s: %w", m.name, err)
		}
		measured = true
	}
	if !measured {
		return fmt.Errorf("there is no measurement %q: run it with -h for their names", *only)
	}
	return nil
}
