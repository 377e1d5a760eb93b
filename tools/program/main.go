// SPDX-License-Identifier: MPL-2.0

// Command program prints the path of a usable Vault, Prometheus, or promtool on stdout, and
// everything else on stderr. It takes the first of these:
//
//  1. $VAULT_BIN, $PROMETHEUS_BIN, or $PROMTOOL_BIN, if set. It must be usable. VAULT_BIN may
//     also name OpenBao.
//  2. the program in PATH, if it is new enough
//  3. the program in the user's cache
//  4. the official release, downloaded into the cache. $PROGRAMS_URL names a mirror.
//  5. the program built from source, into the cache
//
// The Go modules in tools/ pin the versions of the last three. vault-1.NN is always the Vault
// that tools/vault-1.NN pins, whatever PATH has.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	tools := flag.String("tools", "tools", "the `directory` with the modules that pin the versions")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	p, err := newProgram(*tools, flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "program:", err)
		os.Exit(1)
	}
	path, err := p.find(ctx)
	switch {
	case ctx.Err() != nil:
		p.say("interrupted")
		os.Exit(130)
	case err != nil:
		p.say("%v", err)
		os.Exit(1)
	}
	fmt.Println(path)
}
