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

// HandleRequest is part of logical.Backend. A warm read of the token goes around the
// framework, which would call back to Vault for the replication state: it takes no
// fields, and every node serves the token it holds.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if req.Operation == logical.ReadOperation && req.Path == tokenKey && len(req.Data) == 0 {
		if resp, ok := b.warmToken(); ok {
			return resp, nil
		}
	}
	if err := b.checkInput(req); err != nil {
		return answer(req, err)
	}
	resp, err := b.Backend.HandleRequest(ctx, req)
	if err == nil && req.Operation == logical.HelpOperation {
		err = keepReferences(resp)
	}
	return resp, err
}

// HandleExistenceCheck is part of logical.Backend. What is written has no part in it:
// Vault would hide from the user what is wrong with that, which the operation says.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checked, exists bool, err error) {
	bare := *req
	bare.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, &bare)
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
