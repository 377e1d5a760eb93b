// SPDX-License-Identifier: MPL-2.0

// Command demo shows the secrets engine at work in a real Vault. For each step it prints
// the command and its output, and checks the outcome.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// options are the flags, and the credentials from the environment.
type options struct {
	vault, plugin, sandbox string
	// stay sets everything up and then waits, so that people can try the engine.
	stay bool
	// Credentials of Fuuffy's testing environment, used instead of the sandbox.
	clientID, clientSecret string
}

func (o *options) realFuuffy() bool { return o.clientID != "" && o.clientSecret != "" }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	o, err := parseOptions()
	if err == nil {
		err = run(ctx, o, os.Stdout)
	}
	switch {
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

var errInterrupted = errors.New("interrupted; cleaned up")

func parseOptions() (options, error) {
	o := options{clientID: os.Getenv("FUUFFY_CLIENT_ID"), clientSecret: os.Getenv("FUUFFY_CLIENT_SECRET")}
	flag.StringVar(&o.vault, "vault", "", "the vault `program`")
	flag.StringVar(&o.plugin, "plugin", "", "the `program` vault-plugin-secrets-fuuffy")
	flag.StringVar(&o.sandbox, "sandbox", "", "the `program` fuuffy-sandbox")
	flag.BoolVar(&o.stay, "stay", false, "set everything up, then wait for Ctrl-C")
	flag.Parse()
	if (o.clientID == "") != (o.clientSecret == "") {
		return o, errors.New("set both FUUFFY_CLIENT_ID and FUUFFY_CLIENT_SECRET to use Fuuffy's testing environment, or neither to use the sandbox")
	}
	for _, program := range []*string{&o.vault, &o.plugin, &o.sandbox} {
		absolute, err := filepath.Abs(*program)
		if err == nil {
			_, err = os.Stat(absolute)
		}
		if *program == "" || err != nil {
			return o, errors.New("-vault, -plugin and -sandbox must name programs; `make demo` builds and names them")
		}
		*program = absolute
	}
	stack.ClearEnvironment()
	return o, nil
}

// run goes through the steps and cleans up, whatever happens.
func run(ctx context.Context, o options, out io.Writer) error {
	s, err := stack.New()
	if err != nil {
		return err
	}
	defer s.Close()
	t := &tour{options: o, out: out, stack: s}
	steps := wholeTour
	if o.stay {
		steps = steps[:setUpSteps]
	}
	for i, step := range steps {
		t.printf("\n=== %d. %s ===\n", i+1, step.title)
		if step.needsSandbox && o.realFuuffy() {
			t.say("Skipped: this step needs the sandbox, and the demo is using Fuuffy's testing environment.")
			continue
		}
		err := step.run(t, ctx)
		if ctx.Err() != nil {
			return errInterrupted
		}
		if err != nil {
			return t.failure(i+1, step.title, err)
		}
	}
	if o.stay {
		return t.wait(ctx)
	}
	t.printf("\nDone. Every step did what it said. To try next:\n" +
		"  make dev                     # keeps such a Vault running, and prints commands to try in it\n" +
		"  bin/fuuffy-sandbox -agent    # starts only the sandbox, to test your app with: see docs/sandbox.md\n" +
		"  make build VERSION=v0.1.0    # builds the plugin for your own Vault: see docs/install.md\n")
	return nil
}
