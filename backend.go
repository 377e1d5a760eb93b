// SPDX-License-Identifier: MPL-2.0

// Package fuuffy is a Vault secrets engine that keeps the client credentials of
// the Fuuffy shipping API and hands out a cached access token in their place.
package fuuffy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// backend is one mount of the engine.
type backend struct {
	*framework.Backend

	cache   *tokenCache
	metrics *metrics
	// end ends the context that everything the backend starts runs on.
	end context.CancelFunc
	// newTransport makes the connections to Fuuffy.
	newTransport func(caCert string) (http.RoundTripper, error)

	// changes serialises the writes of the stored configuration.
	changes sync.Mutex

	// loading keeps concurrent readers from all reading the configuration.
	loading sync.Mutex

	// switching makes a change of live and of the cache's generation one step.
	switching sync.Mutex
	// live is the configuration in force; nil until it is read from storage.
	live atomic.Pointer[liveConfig]

	rateLimit *rateLimit
	// authFailures counts how often Fuuffy rejected the credentials in force, on this
	// node and since they are.
	authFailures authFailures
	// reminded is when this node last said that a rotation is due; only PeriodicFunc
	// uses it.
	reminded time.Time
}

// liveConfig is the stored configuration with what was built from it. It is
// immutable once it is in force.
type liveConfig struct {
	storedConfig
	client *client
	// generation is the one of the token cache that it belongs to.
	generation uint64
}

// Factory makes the backend of one mount. It touches no storage: Vault also calls
// it just to learn what the plugin offers.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := newBackend()
	if err := b.Setup(ctx, conf); err != nil {
		return nil, fmt.Errorf("set up backend: %w", err)
	}
	b.cache.log = b.Logger()
	return b, nil
}

func newBackend() *backend {
	life, end := context.WithCancel(context.Background())
	b := &backend{end: end, newTransport: newTransport, cache: newTokenCache(life, nil), rateLimit: newRateLimit()}
	b.metrics = newMetrics(b)
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: version,
		Paths: []*framework.Path{
			b.pathConfig(),
			b.pathToken(),
			b.pathRotate(),
			b.pathRotateStep("promote", b.promote, promoteSynopsis),
			b.pathRotateStep("rollback", b.rollback, rollbackSynopsis),
			b.pathComplete(),
			b.pathStatus(),
			b.pathMetrics(),
		},
		PathsSpecial: &logical.Paths{
			SealWrapStorage: []string{configKey, tokenKey},
			LocalStorage:    []string{tokenKey},
		},
		InitializeFunc: b.initialize,
		PeriodicFunc:   b.periodic,
		Invalidate:     b.invalidate,
		Clean:          b.clean,
	}
	return b
}

// HandleRequest is part of logical.Backend.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if err := b.checkTypes(req); err != nil {
		return answer(req, err)
	}
	return b.Backend.HandleRequest(ctx, req)
}

// HandleExistenceCheck is part of logical.Backend.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checked, exists bool, err error) {
	if err := b.checkTypes(req); err != nil {
		return false, false, &logical.StatusBadRequest{Err: err.Error()}
	}
	return b.Backend.HandleExistenceCheck(ctx, req)
}

// initialize loads what is stored, so that the first read after an unseal, a
// failover or a crash is a warm one. What can't be read now is tried again then.
func (b *backend) initialize(ctx context.Context, req *logical.InitializationRequest) error {
	live, err := b.config(ctx, req.Storage)
	if err != nil {
		if !errors.Is(err, errNotConfigured) {
			b.Logger().Warn("could not load the configuration; it is tried again on the first request", "error", err)
		}
		return nil
	}
	if t, ok := b.storedToken(ctx, req.Storage, live); ok {
		b.cache.offer(live.generation, t)
	}
	return nil
}

// periodic runs once a minute. It opens the refresh of a token that is in use.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	if !b.WriteSafeReplicationState() {
		return nil
	}
	live, err := b.config(ctx, req.Storage)
	if errors.Is(err, errNotConfigured) {
		return nil
	}
	if err != nil {
		return err
	}
	b.cache.refreshInUse(live.generation, b.newTokenRequest(req.Storage, live))
	b.remind(ctx, &live.storedConfig)
	return nil
}

// invalidate is called where another node changed a storage entry.
func (b *backend) invalidate(_ context.Context, key string) {
	switch key {
	case configKey:
		b.forget(false)
	case tokenKey:
		b.forget(true)
	}
}

// clean ends everything that the backend started.
func (b *backend) clean(context.Context) {
	b.end()
	b.cache.close()
	if live := b.live.Load(); live != nil {
		live.client.close()
	}
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
		stored, err := loadConfig(ctx, storage)
		if err != nil {
			return nil, err
		}
		if stored == nil {
			return nil, errNotConfigured
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

// putInForce enforces a configuration that was just saved, and makes the stored
// token the one that is served then.
func (b *backend) putInForce(ctx context.Context, storage logical.Storage, live *liveConfig, proof *accessToken) {
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

// mayAskFuuffy tells whether this node may get tokens of its own. A performance
// standby leaves that to the active node; a secondary has its own storage for them.
func (b *backend) mayAskFuuffy() bool {
	return !b.System().ReplicationState().HasState(consts.ReplicationPerformanceStandby | consts.ReplicationDRSecondary)
}

const backendHelp = `
The Fuuffy secrets engine keeps the client credentials of the Fuuffy shipping API
and hands out access tokens in their place.

Write the credentials to "config" once. Applications read "token": the access
token is cached, has at least five minutes to live, and is replaced in the
background, so that however many applications read it Fuuffy is asked about once
an hour. Operators rotate the credentials every 90 days through "rotate-root",
without an outage. "status" shows how the mount is doing, "metrics" the same for
Prometheus.
`
