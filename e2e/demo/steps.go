// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

type step struct {
	title        string
	needsSandbox bool
	run          func(*tour, context.Context) error
}

var wholeTour = []step{
	{title: "Start Vault and Fuuffy", run: (*tour).start},
	{title: "Register and enable the plugin", run: (*tour).enable},
	{title: "Configure it", run: (*tour).configure},
	{title: "Read the configuration", run: (*tour).readConfig},
	{title: "Read a token, twice", run: (*tour).readTwice},
	{title: "Vault Agent keeps it in a file", run: (*tour).startAgent},
	{title: "Use the token", run: (*tour).useToken},
	{title: "A wrong secret", needsSandbox: true, run: (*tour).refuseSecret},
	{title: "An app gets a 401", needsSandbox: true, run: (*tour).replaceToken},
	{title: "Fuuffy is down", needsSandbox: true, run: (*tour).outage},
	{title: "Rotate the credentials: stage and promote", needsSandbox: true, run: (*tour).promote},
	{title: "Rotate the credentials: revoke and complete", needsSandbox: true, run: (*tour).complete},
	{title: "Clean up", run: (*tour).cleanUp},
}

// setUpSteps is how many steps set the engine up.
const setUpSteps = 3

const (
	// shortLifetime is the life of the first tokens, so that the tour soon reaches replaceAge,
	// before which the engine replaces no token. It is long enough that no step until then sees
	// a refresh, which comes after a third of the life. And after replaceAge, the mount may send
	// Fuuffy 10 token requests again, as many as the other steps need.
	shortLifetime = 2 * time.Minute
	replaceAge    = shortLifetime / 10
)

func (t *tour) start(ctx context.Context) error {
	t.say("A real Vault server, with Raft storage in a temporary directory.")
	var err error
	if t.vaultd, err = t.stack.StartVault(ctx, t.vault, filepath.Dir(t.plugin)); err != nil {
		return err
	}
	if t.realFuuffy() {
		t.baseURL = "https://testing-api-gateway.fuuffy.com/v1"
		t.say("FUUFFY_CLIENT_ID and FUUFFY_CLIENT_SECRET are set, so this uses Fuuffy's testing environment.")
	} else {
		t.say("The sandbox stands in for Fuuffy: the same API on this machine, over HTTPS with its own CA.")
		if t.fuuffy, err = t.stack.StartSandbox(ctx, t.sandbox); err != nil {
			return err
		}
		caCert, err := os.ReadFile(filepath.Join(t.stack.Dir, "ca.pem"))
		if err != nil {
			return fmt.Errorf("read the sandbox's CA: %w", err)
		}
		t.baseURL, t.caCert = t.fuuffy.BaseURL, string(caCert)
		if !t.stay {
			t.say("Its first tokens live for %.0f minutes instead of an hour, to keep this tour short.", shortLifetime.Minutes())
			if err := t.fuuffy.SetTokenLifetime(ctx, shortLifetime); err != nil {
				return err
			}
		}
	}
	t.printExports("$ ")
	if err := t.shows(ctx, 0, "vault status | grep -E '^(Sealed|Version|Storage Type|HA Mode) '", `(?m)^Sealed +false$`, "an unsealed Vault"); err != nil {
		return err
	}
	t.passed("Vault is unsealed and active.")
	return nil
}

func (t *tour) enable(ctx context.Context) error {
	t.say("Vault runs a plugin only if its catalog has the checksum.")
	sum, err := stack.SHA256(t.plugin)
	if err != nil {
		return err
	}
	if _, err := t.shell(ctx, 0, fmt.Sprintf("vault plugin register -command=%s -sha256=%s secret %s", filepath.Base(t.plugin), sum, stack.Engine)); err != nil {
		return err
	}
	if _, err := t.shell(ctx, 0, "vault secrets enable "+stack.Engine); err != nil {
		return err
	}
	output, err := t.shell(ctx, 0, "vault plugin list secret | grep -E '^Name|fuuffy'")
	if err != nil {
		return err
	}
	version := field(output, stack.Engine)
	if err := expect(strings.HasPrefix(version, "v"), "the plugin with its version in the list", "the output above"); err != nil {
		return err
	}
	t.passed("%s is mounted at fuuffy/.", version)
	return nil
}

func (t *tour) configure(ctx context.Context) error {
	t.say("The secret comes from standard input, so it is on no command line.\n" +
		"The engine requests a token with the credentials before it saves them.")
	line := fmt.Sprintf("vault write fuuffy/config client_id=@client_id client_secret=- base_url=%s ca_cert=@ca.pem < client_secret", t.baseURL)
	if t.realFuuffy() {
		line = `printf %s "$FUUFFY_CLIENT_SECRET" | vault write fuuffy/config client_id="$FUUFFY_CLIENT_ID" client_secret=- environment=testing`
	}
	if _, err := t.shell(ctx, 0, line); err != nil {
		return err
	}
	t.passed("Fuuffy accepted the credentials. The engine saved them.")
	return nil
}

func (t *tour) readConfig(ctx context.Context) error {
	t.say("Reads show every setting except the secret.")
	output, err := t.shell(ctx, 0, "vault read fuuffy/config")
	if err != nil {
		return err
	}
	secret := t.clientSecret
	if !t.realFuuffy() {
		content, err := os.ReadFile(filepath.Join(t.stack.Dir, "client_secret"))
		if err != nil {
			return fmt.Errorf("read the sandbox's secret: %w", err)
		}
		secret = string(content)
	}
	if err := expect(field(output, "client_id") != "" && !strings.Contains(output, secret),
		"the client_id and not the secret", "the output above"); err != nil {
		return err
	}
	t.passed("The secret isn't there.")
	return nil
}

func (t *tour) readTwice(ctx context.Context) error {
	t.say("Apps do this. However many they are, the engine requests about one token an hour.")
	if err := t.read(ctx); err != nil {
		return err
	}
	if err := t.readSame(ctx); err != nil {
		return err
	}
	if t.realFuuffy() {
		t.passed("The same token both times.")
		return nil
	}
	requests, err := t.tokenRequests(ctx)
	if err != nil {
		return err
	}
	if err := expect(requests == 1, "1 token request in all at the sandbox", fmt.Sprint(requests)); err != nil {
		return err
	}
	t.passed("The same token both times. The sandbox counted 1 token request: the one that tested the credentials.")
	return nil
}

func (t *tour) useToken(ctx context.Context) error {
	t.say("The app sends the token with its requests to Fuuffy.")
	if err := t.orders(ctx, 200); err != nil {
		return err
	}
	t.passed("Fuuffy accepts the token.")
	return nil
}

func (t *tour) refuseSecret(ctx context.Context) error {
	t.say("An operator pastes the wrong secret. The engine tests it before saving it.")
	if err := t.write(map[string]string{"wrong_secret": "not-the-secret"}); err != nil {
		return err
	}
	if err := t.shows(ctx, 2, "vault write fuuffy/config client_secret=- < wrong_secret", "invalid_client", "Fuuffy's reason, invalid_client"); err != nil {
		return err
	}
	if err := t.readSame(ctx); err != nil {
		return err
	}
	if err := t.orders(ctx, 200); err != nil {
		return err
	}
	t.passed("The engine refused the wrong secret, with the reason, and still uses the right one.")
	return nil
}

func (t *tour) replaceToken(ctx context.Context) error {
	t.say("We revoke the token in the sandbox. The engine can't know, but the app notices.")
	if err := t.fuuffy.RevokeToken(ctx, t.token); err != nil {
		return err
	}
	if err := t.orders(ctx, 401); err != nil {
		return err
	}
	before, err := t.tokenRequests(ctx)
	if err != nil {
		return err
	}
	if err := t.waitForAge(ctx); err != nil {
		return err
	}
	t.say("\nThe app reports its token and gets a new one. From here on, tokens live for an hour.")
	if err := t.fuuffy.SetTokenLifetime(ctx, time.Hour); err != nil {
		return err
	}
	output, err := t.shell(ctx, 0, "vault read -field=access_token fuuffy/token | vault write fuuffy/token rejected_token=-")
	if err != nil {
		return err
	}
	dead := t.token
	if err := t.take(output); err != nil {
		return err
	}
	if err := expect(t.token != dead, "another token than "+short(dead), "the same one"); err != nil {
		return err
	}
	if err := t.orders(ctx, 200); err != nil {
		return err
	}
	after, err := t.tokenRequests(ctx)
	if err != nil {
		return err
	}
	if err := expect(after == before+1, "1 more token request", fmt.Sprint(after-before)); err != nil {
		return err
	}
	t.passed("%s replaced %s, with 1 more token request. If every app reported it, it would still be 1.", short(t.token), short(dead))
	return nil
}

// waitForAge waits until the engine would replace the token. It doesn't guess: the
// response says when Fuuffy issued the token.
func (t *tour) waitForAge(ctx context.Context) error {
	// The response has whole seconds.
	left := time.Until(t.issued.Add(replaceAge + time.Second))
	if left <= 0 {
		return nil
	}
	t.say("\nThe engine doesn't replace a token younger than a tenth of its life, here %.0f seconds, so that an app in a loop\n"+
		"can't use up Fuuffy's rate limit. (In production: 30 seconds.) We wait about %.0f seconds.", replaceAge.Seconds(), left.Seconds())
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(left):
		return nil
	}
}

func (t *tour) outage(ctx context.Context) error {
	t.say("Fuuffy now responds 503, for maintenance. Apps don't notice: the cached token is valid.")
	// With a time to retry, the engine sends one request instead of three.
	if err := t.fuuffy.StartMaintenance(ctx, 10*time.Minute); err != nil {
		return err
	}
	if err := t.read(ctx); err != nil {
		return err
	}
	t.say("\nWithout a cached token they do. status has the verdict and the next step.")
	if _, err := t.shell(ctx, 0, "vault delete fuuffy/token"); err != nil {
		return err
	}
	if _, err := t.shell(ctx, 2, "vault read fuuffy/token"); err != nil {
		return err
	}
	if err := t.shows(ctx, 0, "vault read fuuffy/status | grep -E '^(health|next_step|upstream_)'", `(?m)^health +failing$`, "health failing"); err != nil {
		return err
	}
	t.say("\nFuuffy is back. A check doesn't wait for the engine's next attempt.")
	if err := t.fuuffy.EndMaintenance(ctx); err != nil {
		return err
	}
	if _, err := t.shell(ctx, 0, "vault write -f fuuffy/rotate-root/check"); err != nil {
		return err
	}
	if err := t.shows(ctx, 0, "vault read fuuffy/status | grep '^health'", `(?m)^health +ok$`, "health ok"); err != nil {
		return err
	}
	if err := t.read(ctx); err != nil {
		return err
	}
	t.passed("status explained the outage, and one command ended it.")
	return nil
}

func (t *tour) cleanUp(ctx context.Context) error {
	t.say("Disable the mount, stop every process, remove the directory.")
	if _, err := t.shell(ctx, 0, "vault secrets disable fuuffy"); err != nil {
		return err
	}
	t.stack.Close()
	_, err := os.Stat(t.stack.Dir)
	if err := expect(os.IsNotExist(err), "no directory "+t.stack.Dir, "that it is still there"); err != nil {
		return err
	}
	t.passed("Nothing is left.")
	return nil
}

// wait keeps the set-up engine running, for -stay.
func (t *tour) wait(ctx context.Context) error {
	if err := t.writeAgentConfig(); err != nil {
		return err
	}
	t.printf("\nVault is ready. In another terminal, type:\n")
	t.printExports("  ")
	t.printf("\nThen try, for example:\n" +
		"  vault read fuuffy/token\n" +
		"  vault read -format=json fuuffy/token\n" +
		"  vault read fuuffy/config\n" +
		"  vault read fuuffy/status\n" +
		"  vault read fuuffy/rotate-root\n" +
		"  vault path-help fuuffy\n" +
		"  vault agent -config=agent.hcl    # keeps the token in the file ./token\n")
	if t.fuuffy != nil {
		t.printf("  cat sandbox.log    # how to make the sandbox revoke, reject, delay …\n")
	}
	t.printf("\nPress Ctrl-C here to stop Vault and remove everything.\n")
	<-ctx.Done()
	t.printf("\nStopping Vault and cleaning up.\n")
	return nil
}
