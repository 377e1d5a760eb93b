// SPDX-License-Identifier: MPL-2.0

// Command fuuffy-sandbox imitates the Fuuffy API on this machine, to try and to test the secrets engine, and apps,
// without a Fuuffy account. docs/sandbox.md shows how.
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
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fuuffy-sandbox:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	listen, admin, dir string
	agent              bool
	config             fuuffytest.Config
}

// run serves until ctx is done. It prints how to use the sandbox once all is ready, and not before.
func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	opts, err := parseFlags(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}

	files, err := openFolder(opts.dir)
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
	admin := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
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

// parseFlags prints the help to stdout where it is asked for, and then returns flag.ErrHelp.
func parseFlags(args []string, stdout io.Writer) (options, error) {
	var opts options
	flags := flag.NewFlagSet("fuuffy-sandbox", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // Errors are returned, and printed once.
	flags.StringVar(&opts.listen, "listen", "127.0.0.1:0", "loopback `address` (or any, with -name) of the Fuuffy API, HTTPS; port 0: any free one")
	flags.StringVar(&opts.admin, "admin", "127.0.0.1:0", "loopback `address` (or any, with -name) of the admin API, plain HTTP; port 0: any free one")
	flags.StringVar(&opts.dir, "dir", "", "`folder` for certificate, credentials and addresses; default a temporary one, removed at the end")
	flags.BoolVar(&opts.agent, "agent", false, "also stand in for Vault and Vault Agent: keep a token in the folder, and take reports of rejected ones")
	flags.StringVar(&opts.config.Name, "name", "", "host `name` for other machines, as in a compose file; allows addresses that are not loopback")
	flags.DurationVar(&opts.config.TokenLifetime, "token-lifetime", time.Hour, "`life` of a token, at least 1s")
	flags.IntVar(&opts.config.PerMinute, "per-minute", 100, "`requests` a minute before 429; negative: no limit")
	flags.IntVar(&opts.config.PerHour, "per-hour", 1000, "`requests` an hour before 429; negative: no limit")

	err := flags.Parse(args)
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
	case opts.config.TokenLifetime < time.Second:
		return options{}, fmt.Errorf("parse flags: -token-lifetime is %s: use at least 1s", opts.config.TokenLifetime)
	case opts.config.PerMinute == 0 || opts.config.PerHour == 0:
		return options{}, errors.New("parse flags: -per-minute and -per-hour can't be 0: use -1 for no limit")
	}
	return opts, nil
}

const help = `fuuffy-sandbox imitates the Fuuffy API on this machine: access tokens, orders, rate limits, and faults on demand.
It serves HTTPS with a CA of its own, creates a first client, prints what to type next, and runs until it is
interrupted (Ctrl-C or SIGTERM). All of it is made up: no request leaves this machine.

It writes into the folder of -dir:
  ca.pem          the CA certificate to trust
  client_id       credentials of the first client,
  client_secret   readable by you only
  addresses.env   shell variables with the addresses and the paths of the files above; written last, and removed
                  at the end: while it is there, the sandbox is ready
  token           with -agent: a token that is kept fresh, as by Vault Agent,
  vault.sock      and the socket to report one that Fuuffy rejected; POST /v1/fuuffy/token on the
                  address of the admin API does the same. The secrets engine behind it is the real one

Flags:
`

// agentReady is for apps, with -agent.
const agentReady = `
An app reads its token from the file $FUUFFY_TOKEN_FILE, and reports one that Fuuffy rejected as through Vault Agent:
  curl --unix-socket "$FUUFFY_AGENT_SOCKET" -H "X-Vault-Request: true" http://agent/v1/fuuffy/token -d '{"rejected_token": "sk-..."}'
`

// ready has the places of the base URL, the path of addresses.env, agentReady and the admin usage.
const ready = `The Fuuffy sandbox is ready at %[1]s. Press Ctrl-C to end it.

In another shell, get its addresses:
  . %[2]s
%[3]s
Configure the secrets engine, mounted at fuuffy/, and read a token:
  vault write fuuffy/config base_url="$FUUFFY_BASE_URL" ca_cert=@"$FUUFFY_CA_CERT" \
    client_id=@"$FUUFFY_CLIENT_ID_FILE" client_secret=@"$FUUFFY_CLIENT_SECRET_FILE"
  vault read fuuffy/token

Or ask Fuuffy yourself for a token, and use it:
  curl --cacert "$FUUFFY_CA_CERT" "$FUUFFY_BASE_URL/auth/token" -d grant_type=client_credentials \
    --data-urlencode client_id@"$FUUFFY_CLIENT_ID_FILE" --data-urlencode client_secret@"$FUUFFY_CLIENT_SECRET_FILE"
  curl --cacert "$FUUFFY_CA_CERT" "$FUUFFY_BASE_URL/orders" -H "Authorization: Bearer sk-..."

%[4]s`
