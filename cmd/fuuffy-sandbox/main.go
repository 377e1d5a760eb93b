// SPDX-License-Identifier: MPL-2.0

// Command fuuffy-sandbox imitates the Fuuffy API on this machine. Use it to try and test the secrets engine, or an
// app, without a Fuuffy account. docs/sandbox.md shows how.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fuuffy-sandbox:", err)
		os.Exit(1)
	}
}

// options holds the flags.
type options struct {
	listen, admin, dir string
	agent              bool
	config             fuuffytest.Config
}

// run serves until ctx is done. It prints how to use the sandbox when everything is ready, and nothing before.
func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	opts, err := parseFlags(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}

	files, err := openDirectory(opts.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, files.close()) }()

	server, err := fuuffytest.Start(opts.config, opts.listen)
	if err != nil {
		return fmt.Errorf("start Fuuffy API: %w", err)
	}
	defer server.Close()
	id, secret := fuuffytest.RandomCredentials()
	server.CreateClient(id, secret)
	if err := files.writeCredentials(server, id, secret); err != nil {
		return err
	}
	handler := http.NewServeMux()
	handler.Handle("/", fuuffytest.AdminHandler(server.Sandbox))
	if opts.agent {
		a, startErr := startAgent(server, files, id, secret)
		if startErr != nil {
			return fmt.Errorf("start agent: %w", startErr)
		}
		defer func() { err = errors.Join(err, a.close()) }()
		handler.Handle(enginePath, a)
	}
	adminListener, err := opts.config.Listen(opts.admin)
	if err != nil {
		return fmt.Errorf("start admin API: %w", err)
	}
	admin := &http.Server{Handler: opts.config.RefuseBrowsers(handler), ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	go func() { stopped <- admin.Serve(adminListener) }()
	defer func() { err = errors.Join(err, admin.Close()) }()

	if err := files.writeAddresses(server, "http://"+opts.config.Address(adminListener), opts.agent); err != nil {
		return err
	}
	forApps := ""
	if opts.agent {
		forApps = agentReady
	}
	if _, err := fmt.Fprintf(stdout, ready, server.BaseURL(), quote(files.path(addressesFile)), forApps, fuuffytest.AdminUsage); err != nil {
		return fmt.Errorf("print usage: %w", err)
	}

	select {
	case <-ctx.Done():
		return nil
	case err := <-stopped:
		return fmt.Errorf("serve admin API: %w", err)
	}
}

// parseFlags prints the help to stdout if args request it, and then returns flag.ErrHelp.
func parseFlags(args []string, stdout io.Writer) (options, error) {
	var opts options
	flags := flag.NewFlagSet("fuuffy-sandbox", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // main prints the error that we return.
	flags.StringVar(&opts.listen, "listen", "127.0.0.1:0", "loopback `address` of the Fuuffy API (HTTPS), or any address with -name. Port 0 picks a free port")
	flags.StringVar(&opts.admin, "admin", "127.0.0.1:0", "loopback `address` of the admin API (plain HTTP), or any address with -name. Port 0 picks a free port")
	flags.StringVar(&opts.dir, "dir", "", "`directory` for the certificate, credentials, and addresses (default a temporary one that the sandbox removes when it stops)")
	flags.BoolVar(&opts.agent, "agent", false, "also stand in for Vault and Vault Agent: keep a token in the directory, and accept reports of rejected tokens")
	flags.StringVar(&opts.config.Name, "name", "", "host `name` for other machines, as in a compose file. Allows addresses other than loopback")
	flags.DurationVar(&opts.config.TokenLifetime, "token-lifetime", time.Hour, "`life` of a token, at least 1s, or 10s with -agent")
	flags.IntVar(&opts.config.PerMinute, "per-minute", 100, "`requests` a minute before 429. -1 means no limit")
	flags.IntVar(&opts.config.PerHour, "per-hour", 1000, "`requests` an hour before 429. -1 means no limit")

	err := flags.Parse(args)
	opts.config.MinTokenLifetime = time.Second
	if opts.agent {
		opts.config.MinTokenLifetime = upstream.MinTokenLife
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(stdout, help)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return options{}, err
	case err != nil:
		return options{}, fmt.Errorf("parse flags: %w (fuuffy-sandbox -h explains them)", err)
	case flags.NArg() > 0:
		return options{}, fmt.Errorf("parse flags: unexpected argument %q (fuuffy-sandbox -h explains the flags)", flags.Arg(0))
	case opts.config.TokenLifetime < opts.config.MinTokenLifetime:
		return options{}, fmt.Errorf("parse flags: -token-lifetime is %s: use at least 1s, or 10s with -agent, whose secrets engine refuses shorter tokens", opts.config.TokenLifetime)
	case opts.config.PerMinute == 0 || opts.config.PerHour == 0:
		return options{}, errors.New("parse flags: -per-minute and -per-hour can't be 0: use -1 for no limit")
	}
	return opts, nil
}

const help = `fuuffy-sandbox imitates the Fuuffy API on this machine: access tokens, orders, rate limits, and faults on demand.
It serves HTTPS with its own CA, creates a first client, prints what to type next, and runs until you stop it
(Ctrl-C or SIGTERM). All data is made up. No request leaves this machine.

It writes these files into the directory of -dir:
  ca.pem          the CA certificate to trust
  client_id       the first client's ID, readable only by you
  client_secret   its secret, readable only by you
  addresses.env   shell variables with the addresses, and the paths of the other files. The sandbox is ready
                  while this file exists
  token           with -agent: a token that the sandbox keeps fresh, as Vault Agent does
  vault.sock      with -agent: the socket where an app reports a token that Fuuffy rejected. The real secrets
                  engine responds. POST /v1/fuuffy/token at the admin API's address does the same

Flags:
`

// agentReady tells app developers what -agent offers.
const agentReady = `
An app reads its token from the file $FUUFFY_TOKEN_FILE. If Fuuffy rejects the token, report it as you would to Vault Agent:
  curl --unix-socket "$FUUFFY_AGENT_SOCKET" -H "X-Vault-Request: true" http://agent/v1/fuuffy/token -d '{"rejected_token": "sk-..."}'
`

// ready is a format for the base URL, the path of addresses.env, agentReady, and the admin usage.
const ready = `The Fuuffy sandbox is ready at %[1]s. Press Ctrl-C to stop it.

In another shell, load its addresses:
  set -a; . %[2]s; set +a
%[3]s
Configure the secrets engine, mounted at fuuffy/, and read a token:
  vault write fuuffy/config base_url="$FUUFFY_BASE_URL" ca_cert=@"$FUUFFY_CA_CERT" \
    client_id=@"$FUUFFY_CLIENT_ID_FILE" client_secret=@"$FUUFFY_CLIENT_SECRET_FILE"
  vault read fuuffy/token

Or request a token from Fuuffy yourself, and use it:
  curl --cacert "$FUUFFY_CA_CERT" "$FUUFFY_BASE_URL/auth/token" -d grant_type=client_credentials \
    --data-urlencode client_id@"$FUUFFY_CLIENT_ID_FILE" --data-urlencode client_secret@"$FUUFFY_CLIENT_SECRET_FILE"
  curl --cacert "$FUUFFY_CA_CERT" "$FUUFFY_BASE_URL/orders" -H "Authorization: Bearer sk-..."

%[4]s`
