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
	t.say("Every 90 days, an operator creates new credentials in the dashboard (here: in the sandbox).\n" +
		"First, a mistake: the new ID with the old secret.")
	id, secret, err := t.fuuffy.CreateClient(ctx)
	if err != nil {
		return err
	}
	if err := t.write(map[string]string{"new_client_id": id, "new_client_secret": secret}); err != nil {
		return err
	}
	const mistake = "vault write fuuffy/rotate-root client_id=@new_client_id client_secret=- < client_secret"
	if err := t.shows(ctx, 2, mistake, "Nothing was changed", "that nothing was changed"); err != nil {
		return err
	}
	t.say("\nNow the right ones. The engine tests and stages them. Apps keep using the old ones until promote.")
	if err := t.rotate(ctx, "vault write fuuffy/rotate-root client_id=@new_client_id client_secret=- < new_client_secret", staged); err != nil {
		return err
	}
	if err := t.rotate(ctx, "vault write -f fuuffy/rotate-root/promote", promoted); err != nil {
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
	t.passed("Apps get tokens of the new credentials. No read had to wait for one.")
	return nil
}

func (t *tour) complete(ctx context.Context) error {
	t.say("The engine forgets the old credentials only when they are revoked. Fuuffy still accepts them.")
	if err := t.shows(ctx, 2, "vault write -f fuuffy/rotate-root/complete", "Fuuffy still accepts client", "that Fuuffy still accepts the old client"); err != nil {
		return err
	}
	old, err := os.ReadFile(filepath.Join(t.stack.Dir, "client_id"))
	if err != nil {
		return fmt.Errorf("read the old client's ID: %w", err)
	}
	t.say("\nThe operator revokes client %s in the dashboard (here: in the sandbox) and completes again.\n"+
		"In production, wait until revoke_old_after first.", old)
	if err := t.fuuffy.RevokeClient(ctx, string(old)); err != nil {
		return err
	}
	if err := t.rotate(ctx, "vault write -f fuuffy/rotate-root/complete", done); err != nil {
		return err
	}
	if err := t.orders(ctx, 200); err != nil {
		return err
	}
	t.passed("The engine proved that the old credentials are revoked, and forgot them.")
	return nil
}

// The places where a rotation can stand, in order.
const (
	idle = iota
	staged
	promoted
	done
)

// rotate takes a rotation step, checks the state that it leads to, and draws it.
func (t *tour) rotate(ctx context.Context, line string, place int) error {
	state := rotationStates[place]
	if err := t.shows(ctx, 0, line, `(?m)^state +`+state+`$`, "the state "+state); err != nil {
		return err
	}
	t.say("\n%s", rotationPicture(place))
	return nil
}

var rotationStates = [...]string{idle: "idle", staged: "staged", promoted: "promoted", done: "idle"}

// rotationPicture draws the way of a rotation and marks the place where it stands.
func rotationPicture(place int) string {
	arrows := [...]string{"", " ──stage──▶ ", " ──promote──▶ ", " ──complete──▶ "}
	var picture strings.Builder
	for i, state := range rotationStates {
		if i == place {
			state = "[" + state + "]"
		}
		picture.WriteString(arrows[i] + state)
	}
	return picture.String()
}
