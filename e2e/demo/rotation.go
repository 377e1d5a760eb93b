// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func (t *tour) promote(ctx context.Context) error {
	t.say("Every 90 days. New credentials come from the Fuuffy dashboard, here from the sandbox's. First a mistake:\n" +
		"the new ID with the old secret.")
	id, secret, err := t.fuuffy.CreateClient(ctx)
	if err != nil {
		return err
	}
	for name, value := range map[string]string{"new_client_id": id, "new_client_secret": secret} {
		if err := os.WriteFile(filepath.Join(t.stack.Dir, name), []byte(value), 0o600); err != nil {
			return fmt.Errorf("write the new credentials: %w", err)
		}
	}
	output, err := t.shell(ctx, 2, "vault write fuuffy/rotate-root client_id=@new_client_id client_secret=- < client_secret")
	if err != nil {
		return err
	}
	if err := expect(strings.Contains(output, "Nothing was changed"), "that nothing was changed", "the output above"); err != nil {
		return err
	}
	t.say("\nNow the right ones. They are tried and staged; apps go on with the old ones until they are promoted.")
	if err := t.rotate(ctx, "vault write fuuffy/rotate-root client_id=@new_client_id client_secret=- < new_client_secret", "staged"); err != nil {
		return err
	}
	if err := t.rotate(ctx, "vault write -f fuuffy/rotate-root/promote", "promoted"); err != nil {
		return err
	}
	held := t.token
	if err := t.read(ctx); err != nil {
		return err
	}
	if err := expect(t.token != held, "a token of the new credentials instead of "+short(held), "the same one"); err != nil {
		return err
	}
	if err := t.orders(ctx, 200); err != nil {
		return err
	}
	t.passed("Apps get tokens of the new credentials, and nobody waited for one.")
	return nil
}

func (t *tour) complete(ctx context.Context) error {
	t.say("The old credentials still work, so the engine does not forget them.")
	output, err := t.shell(ctx, 2, "vault write -f fuuffy/rotate-root/complete")
	if err != nil {
		return err
	}
	if err := expect(strings.Contains(output, "the old credentials still work"), "that the old credentials still work", "the output above"); err != nil {
		return err
	}
	old, err := os.ReadFile(filepath.Join(t.stack.Dir, "client_id"))
	if err != nil {
		return fmt.Errorf("read the old client's ID: %w", err)
	}
	t.say("\nAn operator revokes client %s in the dashboard (we, at the sandbox), and completes again.\n"+
		"In real life, wait until revoke_old_after before.", old)
	if err := t.fuuffy.RevokeClient(ctx, string(old)); err != nil {
		return err
	}
	if err := t.rotate(ctx, "vault write -f fuuffy/rotate-root/complete", "idle"); err != nil {
		return err
	}
	if err := t.orders(ctx, 200); err != nil {
		return err
	}
	t.passed("The old credentials are proved to be dead, and forgotten.")
	return nil
}

// rotate takes a step of the rotation and checks the state that it leads to.
func (t *tour) rotate(ctx context.Context, line, state string) error {
	output, err := t.shell(ctx, 0, line)
	if err != nil {
		return err
	}
	return expect(field(output, "state") == state, "the state "+state, "the output above")
}
