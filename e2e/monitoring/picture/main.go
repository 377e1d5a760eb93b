// SPDX-License-Identifier: MPL-2.0

// Command picture draws docs/images/a-day.svg. It runs what the tests of monitoring
// run, with tokens so short-lived that five minutes have as many as a day, lets an
// operator make a mistake and rotate the credentials, and draws what Prometheus scraped
// of it. Run it in the folder e2e, with `make picture`.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/monitoring"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const (
	tokenLife = 30 * time.Second
	length    = 5 * time.Minute
	readers   = 3
	mount     = "fuuffy"
)

func main() {
	out := flag.String("out", "../docs/images/a-day.svg", "the file to write")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string) error {
	programs, err := stack.ProgramsToTest()
	if err != nil {
		return err
	}
	if err := programs.NeedPrometheus(); err != nil {
		return err
	}
	s, err := stack.New()
	if err != nil {
		return err
	}
	defer s.Close()
	w, err := monitoring.Watch(ctx, s, programs, fuuffytest.Config{TokenLifetime: tokenLife})
	if err != nil {
		return err
	}
	began := time.Now()
	if err := live(ctx, w, began); err != nil {
		return err
	}
	seen, err := look(ctx, w.Prometheus.API, began)
	if err != nil {
		return err
	}
	return os.WriteFile(out, draw(seen), 0o644)
}

// step is something that an operator does at some time of the day.
type step struct {
	at    time.Duration
	label string
	do    func(context.Context, *monitoring.Watched) error
}

var steps = []step{
	{75 * time.Second, "somebody revokes the client", revoke(monitoring.ClientID)},
	{125 * time.Second, "new credentials", func(ctx context.Context, w *monitoring.Watched) error {
		w.Fuuffys[mount].CreateClient("shop-2", "second-secret")
		return w.Configure(ctx, mount, "shop-2", "second-secret")
	}},
	{180 * time.Second, "stage", func(ctx context.Context, w *monitoring.Watched) error {
		w.Fuuffys[mount].CreateClient("shop-3", "third-secret")
		return write(ctx, w, "rotate-root", map[string]any{"client_id": "shop-3", "client_secret": "third-secret"})
	}},
	{200 * time.Second, "promote", func(ctx context.Context, w *monitoring.Watched) error {
		return write(ctx, w, "rotate-root/promote", nil)
	}},
	{230 * time.Second, "the old client is revoked", revoke("shop-2")},
	{245 * time.Second, "complete", func(ctx context.Context, w *monitoring.Watched) error {
		return write(ctx, w, "rotate-root/complete", nil)
	}},
}

func revoke(clientID string) func(context.Context, *monitoring.Watched) error {
	return func(_ context.Context, w *monitoring.Watched) error {
		w.Fuuffys[mount].RevokeClient(clientID)
		return nil
	}
}

func write(ctx context.Context, w *monitoring.Watched, path string, data map[string]any) error {
	_, err := w.Vault.Client.Logical().WriteWithContext(ctx, mount+"/"+path, data)
	return err
}

// live takes the steps, each in its time, while apps read the token.
func live(ctx context.Context, w *monitoring.Watched, began time.Time) error {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	for range readers {
		go read(reading, w.Vault.Client.Logical())
	}
	for _, s := range steps {
		if err := wait(ctx, time.Until(began.Add(s.at))); err != nil {
			return err
		}
		fmt.Printf("%s  %s\n", clock(s.at), s.label)
		if err := s.do(ctx, w); err != nil {
			return fmt.Errorf("%s: %w", s.label, err)
		}
	}
	return wait(ctx, time.Until(began.Add(length)))
}

// read follows the token as Vault Agent does.
func read(ctx context.Context, vault *api.Logical) {
	for pause := time.Duration(0); wait(ctx, pause) == nil; {
		pause = time.Second
		answer, err := vault.ReadWithContext(ctx, mount+"/token")
		if err != nil {
			continue
		}
		if ttl, err := answer.Data["ttl"].(json.Number).Int64(); err == nil {
			pause += time.Duration(ttl) * time.Second
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// clock writes a time of the run as minutes and seconds.
func clock(d time.Duration) string {
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}
