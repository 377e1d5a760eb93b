// SPDX-License-Identifier: MPL-2.0

// Package fuuffy is a Vault secrets engine that keeps the client credentials of the Fuuffy
// shipping API and gives apps a cached access token.
package fuuffy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

// backend is one mount of the engine. Everything that changes together is in the state of its
// cache, including the current configuration.
type backend struct {
	*framework.Backend
	*host

	cache *tokencache.Cache
	// reminded is when this node last said that a rotation is due; only PeriodicFunc
	// uses it.
	reminded time.Time
	// checked is when an operator last tested the credentials, in Unix nanoseconds.
	checked atomic.Int64
}

// Dependencies are what an embedder may replace, such as a test. A nil field is what the plugin
// uses. The engine calls them from many goroutines, and while it holds locks, so they must be quick.
type Dependencies struct {
	// Clock returns the wall clock, which someone may set, and a monotonic one, whose origin
	// doesn't matter. The second never goes back, or the engine would serve expired tokens. The
	// engine's timeouts, pauses, and limit of requests a minute follow the process's clock.
	Clock func() (wall time.Time, monotonic time.Duration)
	// Random returns numbers in [0, 1). They spread refreshes, retries, and readers over time.
	Random func() float64
	// Transport returns what makes the connections to Fuuffy. The engine calls it for each
	// configuration that it loads or tries. caCert is the PEM bundle to trust, empty for the
	// system's. A request must end with its context, and must not be sent again or to another host:
	// it carries the client secret.
	Transport func(caCert string) (http.RoundTripper, error)
}

// New returns a factory of backends with these dependencies.
func New(d Dependencies) logical.Factory {
	return func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
		b := newBackend(d)
		if err := b.Setup(ctx, conf); err != nil {
			return nil, fmt.Errorf("set up backend: %w", err)
		}
		return b, nil
	}
}

// Factory makes the backend of one mount. It touches no storage, because Vault also calls it
// just to learn what the plugin offers.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	return New(Dependencies{})(ctx, conf)
}

func newBackend(d Dependencies) *backend {
	b := &backend{host: newHost(d)}
	b.cache = tokencache.New(tokencache.Options{
		Clock:  b.clock,
		Random: b.random,
		Logger: func() hclog.Logger { return b.log() },
		// Vault calls PeriodicFunc each minute, and Vault Agent adds a second to each ttl.
		RefreshInterval: time.Minute,
		ReaderDelay:     time.Second,
	})
	b.metrics = newMetrics(&gauges{b})
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: version,
		Paths: []*framework.Path{
			b.pathConfig(),
			b.pathToken(),
			b.pathRotate(),
			b.pathPromote(),
			b.pathRollback(),
			b.pathComplete(),
			b.pathRevoked(),
			b.pathCheck(),
			b.pathStatus(),
			b.pathMetrics(),
		},
		PathsSpecial: &logical.Paths{
			SealWrapStorage: []string{configKey, tokenKey, leaksKey},
			LocalStorage:    []string{tokenKey},
		},
		InitializeFunc: b.initialize,
		PeriodicFunc:   b.periodic,
		Invalidate:     b.invalidate,
		Clean:          b.clean,
	}
	b.vault = b.Backend
	return b
}

// HandleRequest is part of logical.Backend. A warm read of the token bypasses the framework,
// which would call back to Vault for the replication state. Every node serves its own cached
// token, so it doesn't need that call.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if req.Operation == logical.ReadOperation && req.Path == tokenKey {
		if resp, ok := b.warmToken(req.Data); ok {
			return resp, nil
		}
	}
	if req.MountPoint != "" && b.mountPoint.Load() != req.MountPoint {
		b.mountPoint.Store(req.MountPoint)
	}
	bounded := *req
	bounded.Storage = boundedStorage{req.Storage}
	req, err := b.checkInput(&bounded)
	if err != nil {
		return b.respond(ctx, req, err)
	}
	resp, err := b.Backend.HandleRequest(ctx, req)
	if err == nil && req.Operation == logical.HelpOperation {
		err = finishHelp(req, resp)
	}
	if err != nil {
		return b.respond(ctx, req, err)
	}
	return resp, nil
}

// HandleExistenceCheck is part of logical.Backend. It ignores the written fields: if they were
// wrong, Vault would hide the reason from the user. The operation itself says it.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checked, exists bool, err error) {
	bare := *req
	bare.Data, bare.Storage = nil, boundedStorage{req.Storage}
	return b.Backend.HandleExistenceCheck(ctx, &bare)
}

// initialize loads what is stored, so that the first read after an unseal, a failover, or a
// crash is a warm one. If that fails, the first read retries.
func (b *backend) initialize(ctx context.Context, req *logical.InitializationRequest) error {
	c, err := b.inForce(ctx, boundedStorage{req.Storage})
	if err == nil {
		b.cache.Restore(ctx, c)
	} else if !errors.Is(err, errNotConfigured) {
		b.log().Warn("could not load the configuration; the first request retries", "error", err)
	}
	return nil
}

// periodic runs once a minute. It starts the refresh of a token that is in use.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	c, err := b.inForce(ctx, req.Storage) // A node that serves reads hears of a change by then.
	if errors.Is(err, errNotConfigured) || err == nil && !b.WriteSafeReplicationState() {
		return nil
	}
	if err != nil {
		return err
	}
	b.cache.RefreshInUse(c)
	b.remind(ctx, c)
	return nil
}

// reminderInterval is how often a due rotation is logged.
const reminderInterval = 24 * time.Hour

// remind logs once a day that a rotation is due.
func (b *backend) remind(ctx context.Context, c *client) {
	now, m := b.now(), b.due(c.storedConfig)
	text := m.DueText()
	// A clock that was set back must not silence this for as long.
	if since := now.Sub(b.reminded); text == "" || since >= 0 && since < reminderInterval {
		return
	}
	b.reminded = now
	b.log().Warn(text, "days_left", m.DaysLeft())
	b.notify(ctx, "rotate-root-due", rotatePath, "client_id", c.Current.ClientID, "due", m.DueAt().UTC().Format(time.RFC3339))
}

// invalidate is called where another node changed a storage entry.
func (b *backend) invalidate(_ context.Context, key string) {
	switch key {
	case configKey:
		b.cache.InvalidateSource()
	case tokenKey:
		b.cache.InvalidateToken()
	}
}

// clean ends everything that the backend started.
func (b *backend) clean(context.Context) {
	b.end()
	b.cache.Close()
}

// finishHelp names the mount in a help text, and completes the mount's OpenAPI document.
func finishHelp(req *logical.Request, resp *logical.Response) error {
	if help, ok := resp.Data["help"].(string); ok {
		resp.Data["help"] = advice.RenderHelp(help, req.MountPoint)
	}
	if req.Path == "" {
		return keepReferences(resp)
	}
	return nil
}

var schemaReference = regexp.MustCompile(`"\$ref":("[^"]*")`)

// keepReferences keeps the schemas in the mount's OpenAPI document tied to their operations.
// Vault expects a plugin's references as ref instead of $ref and would lose them
// (hashicorp/vault#30714), so the document has both.
func keepReferences(resp *logical.Response) error {
	document, err := json.Marshal(resp.Data["openapi"])
	if err != nil {
		return fmt.Errorf("encode the OpenAPI document: %w", err)
	}
	var both map[string]any
	if err := json.Unmarshal(schemaReference.ReplaceAll(document, []byte(`$0,"ref":$1`)), &both); err != nil {
		return fmt.Errorf("decode the OpenAPI document: %w", err)
	}
	resp.Data["openapi"] = both
	return nil
}

const backendHelp = `
The Fuuffy secrets engine keeps the client credentials of the Fuuffy shipping API
and gives applications access tokens. Applications never see the client secret.

Write the credentials to "config" once. Applications read "token": the engine caches
the access token, refreshes it in the background, and serves it only while it is
valid for at least five more minutes. However many applications read it, the engine makes
about one request an hour. Rotate the credentials every 90 days with "rotate-root",
without an outage. "status" shows people how the mount is doing, and "metrics"
shows it to Prometheus.
`
