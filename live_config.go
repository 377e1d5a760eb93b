// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"
)

// liveConfig is the stored configuration with what was built from it. It is
// immutable once it is in force.
type liveConfig struct {
	storedConfig
	client *client
	// generation is the one of the token cache that it belongs to.
	generation uint64
}

// config returns the configuration in force, from memory if it is there.
func (b *backend) config(ctx context.Context, storage logical.Storage) (*liveConfig, error) {
	if live := b.live.Load(); live != nil {
		return live, nil
	}
	b.loading.Lock()
	defer b.loading.Unlock()
	for {
		if live := b.live.Load(); live != nil {
			return live, nil
		}
		generation := b.cache.currentGeneration()
		stored, err := loadConfigured(ctx, storage)
		if err != nil {
			return nil, err
		}
		live, err := b.build(stored)
		if err != nil {
			return nil, err
		}
		if b.enforce(live, generation, nil) {
			return live, nil
		}
	}
}

// build makes what a configuration needs to work, without putting it in force.
func (b *backend) build(stored *storedConfig) (*liveConfig, error) {
	transport, err := b.newTransport(stored.Endpoint.CACert)
	if err != nil {
		return nil, err
	}
	now := b.cache.wallClock
	return &liveConfig{
		storedConfig: *stored,
		client:       newClient(stored.Endpoint.address(), stored.RequestTimeout, transport, now, b.rateLimit),
	}, nil
}

// enforce puts a configuration in force, unless generation, in which it was read,
// is over. latest may be a token of its credentials.
func (b *backend) enforce(live *liveConfig, generation uint64, latest *accessToken) bool {
	b.switching.Lock()
	defer b.switching.Unlock()
	next, ok := b.cache.renew(generation, live.policy(), live.judge, latest)
	if !ok {
		return false
	}
	live.generation = next
	if old := b.live.Swap(live); old != nil {
		old.client.close()
	}
	return true
}

// saveAndEnforce saves a configuration and puts it in force. proof, if there is one,
// is a token that was got on the way. The stored token is then the one that is served.
// b.changes is held.
func (b *backend) saveAndEnforce(ctx context.Context, storage logical.Storage, live *liveConfig, proof *accessToken) error {
	if err := saveConfig(ctx, storage, &live.storedConfig); err != nil {
		b.forget(false) // It may have been saved all the same: storage knows.
		return err
	}
	for !b.enforce(live, b.cache.currentGeneration(), proof) {
	}
	held := b.cache.held.Load()
	switch {
	case held == nil:
		// A leftover would not be served again: it is of other credentials.
		if err := b.eraseToken(ctx, storage); err != nil {
			b.Logger().Warn("could not remove the former access token", "error", err)
		}
	case proof != nil && held.Value == proof.Value:
		b.cache.save(ctx, live.generation, *proof, b.newTokenRequest(storage, live))
	}
	return nil
}

// forget makes the next request read the configuration from storage again.
func (b *backend) forget(dropToken bool) {
	b.switching.Lock()
	defer b.switching.Unlock()
	b.cache.supersede(dropToken)
	if old := b.live.Swap(nil); old != nil {
		old.client.close()
	}
}
