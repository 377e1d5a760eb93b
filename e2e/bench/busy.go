// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const (
	// upstreamTakes is how long Fuuffy takes for a token, which is less than a slice.
	upstreamTakes = 2 * time.Second
	// tokenLife is so short that a refresh is soon due, and long enough that the token
	// held is still served for more than a slice from then on.
	tokenLife = 30 * time.Second
)

// measureBusy compares reads while nothing happens with reads during a refresh and
// during a promotion, all of the same plugin process. Both begin and end within the
// slice that is measured.
func measureBusy(ctx context.Context, b *bench) error {
	v, err := b.startVault(ctx, 1)
	if err != nil {
		return err
	}
	quietSandbox, err := b.newSandbox(fuuffytest.Config{})
	if err != nil {
		return err
	}
	quiet, err := b.enableEngine(ctx, v, "quiet", quietSandbox)
	if err != nil {
		return err
	}
	refreshing, err := b.newRefreshing(ctx, quiet)
	if err != nil {
		return err
	}
	promoting, err := b.newPromoting(ctx, quiet)
	if err != nil {
		return err
	}
	fmt.Printf("\nWhile Fuuffy is asked, and takes %s\n", upstreamTakes)
	return compare(ctx, []*target{quiet.target("quiet"), refreshing, promoting}, 16, b.rounds)
}

// newRefreshing is a mount whose token is refreshed while it is read.
func (b *bench) newRefreshing(ctx context.Context, beside *mount) (*target, error) {
	sandbox, err := b.newSandbox(fuuffytest.Config{TokenLifetime: tokenLife})
	if err != nil {
		return nil, err
	}
	m, err := b.enableEngine(ctx, beside.vault, "refreshing", sandbox)
	if err != nil {
		return nil, err
	}
	t := m.target("during a refresh")
	t.prepare = func(ctx context.Context) (func() error, error) {
		// A new token, so that its refresh is still to come.
		if _, err := m.vault.Client.Logical().DeleteWithContext(ctx, m.path+"/token"); err != nil {
			return nil, err
		}
		first, err := m.read(ctx)
		if err != nil {
			return nil, err
		}
		release := sandbox.Hold()
		if err := m.readUntilHeld(ctx, sandbox); err != nil {
			release()
			return nil, err
		}
		time.AfterFunc(upstreamTakes, release)
		return func() error {
			after, err := m.read(ctx)
			if err == nil && after.Data["access_token"] == first.Data["access_token"] {
				err = fmt.Errorf("the token was not refreshed")
			}
			return err
		}, nil
	}
	return t, nil
}

// readUntilHeld reads until that has started a refresh, which the sandbox holds.
func (m *mount) readUntilHeld(ctx context.Context, sandbox *fuuffytest.Server) error {
	ctx, cancel := context.WithTimeout(ctx, tokenLife/2)
	defer cancel()
	for sandbox.Stats().Held == 0 {
		if _, err := m.read(ctx); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// newPromoting is a mount whose new credentials are promoted while it is read.
func (b *bench) newPromoting(ctx context.Context, beside *mount) (*target, error) {
	sandbox, err := b.newSandbox(fuuffytest.Config{})
	if err != nil {
		return nil, err
	}
	sandbox.CreateClient("shop-2", secret)
	m, err := b.enableEngine(ctx, beside.vault, "promoting", sandbox)
	if err != nil {
		return nil, err
	}
	t := m.target("during a promotion")
	t.prepare = func(ctx context.Context) (func() error, error) {
		if err := m.write(ctx, "rotate-root", map[string]any{"client_id": "shop-2", "client_secret": secret}); err != nil {
			return nil, err
		}
		release := sandbox.Hold()
		promoted := make(chan error, 1)
		go func() { promoted <- m.write(ctx, "rotate-root/promote", nil) }()
		if err := sandbox.WaitHeld(ctx, 1); err != nil {
			release()
			return nil, err
		}
		time.AfterFunc(upstreamTakes, release)
		return func() error {
			if err := <-promoted; err != nil {
				return err
			}
			return m.write(ctx, "rotate-root/rollback", nil)
		}, nil
	}
	return t, nil
}

// measureHoldOff compares the errors of a mount that leaves Fuuffy alone with the
// floor, and counts the requests that reach Fuuffy.
func measureHoldOff(ctx context.Context, b *bench) error {
	constant, engine, sandbox, err := b.sideBySide(ctx)
	if err != nil {
		return err
	}
	sandbox.SetFault(fuuffytest.Fault{
		Kind: fuuffytest.FaultStatus, Status: http.StatusTooManyRequests, Header: map[string]string{"Retry-After": "3600"},
	})
	if _, err := engine.vault.Client.Logical().DeleteWithContext(ctx, "fuuffy/token"); err != nil {
		return err
	}
	if _, err := engine.read(ctx); err == nil {
		return fmt.Errorf("the engine gave a token although Fuuffy refuses all requests")
	}
	before := sandbox.Stats().TokenRequests
	held := engine.target("fuuffy/token, held off")
	held.wants = http.StatusTooManyRequests
	fmt.Println("\nWhile Fuuffy is left alone")
	for _, connections := range []int{1, 16, 128} {
		if err := compare(ctx, []*target{constant.target("constant plugin"), held}, connections, b.rounds); err != nil {
			return err
		}
	}
	fmt.Printf("token requests in all of this: %d\n", sandbox.Stats().TokenRequests-before)
	return nil
}
