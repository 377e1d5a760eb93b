// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// pluginName is the program, as Fuuffy sees it in the User-Agent.
const pluginName = "vault-plugin-secrets-fuuffy"

// operationPrefix is what generated clients call this engine.
const operationPrefix = "fuuffy"

// version is what `vault plugin list` shows: a semantic version with a leading
// v. The Makefile sets it through the linker.
var version = "v0.1.0-dev"

// The paths that other files refer to. The first two are storage keys too.
const (
	configKey  = "config"
	tokenKey   = "token"
	rotatePath = "rotate-root"
)

// leaksKey is the storage key of what outlives a deleted configuration.
const leaksKey = "leaks"

// host is what surrounds one mount on this node: clocks, Vault's services, the connections to
// Fuuffy, and what the node remembers and counts. The backend and its clients share it.
type host struct {
	vault   *framework.Backend
	metrics *metrics
	// newTransport makes the connections to Fuuffy.
	newTransport func(caCert string) (http.RoundTripper, error)
	clock        func() tokencache.Instant
	random       func() float64

	// life ends with the mount on this node.
	life context.Context
	end  context.CancelFunc

	rateLimit *upstream.RateLimit
	budget    *upstream.Budget
	pairs     pairRecords
	// mountPoint is the mount's path, for the log.
	mountPoint atomic.Value
}

func newHost(d Dependencies) *host {
	h := &host{
		newTransport: upstream.NewTransport,
		clock:        tokencache.SystemClock,
		random:       rand.Float64,
		rateLimit:    upstream.NewRateLimit(),
		budget:       upstream.NewBudget(),
	}
	if d.Transport != nil {
		h.newTransport = d.Transport
	}
	if d.Clock != nil {
		h.clock = func() tokencache.Instant {
			wall, monotonic := d.Clock()
			return tokencache.Instant{Wall: wall, Mono: monotonic}
		}
	}
	if d.Random != nil {
		h.random = d.Random
	}
	h.pairs.clock = h.clock
	h.life, h.end = context.WithCancel(context.Background())
	return h
}

// log is the mount's log. Its lines name the mount once a request has.
func (h *host) log() hclog.Logger {
	if mount, ok := h.mountPoint.Load().(string); ok {
		return h.vault.Logger().With("mount", mount)
	}
	return h.vault.Logger()
}

// now is the wall clock.
func (h *host) now() time.Time { return h.clock().Wall }

// mayRequestTokens tells whether this node may request its own tokens. A performance standby
// leaves that to the active node; a secondary has its own storage for them.
func (h *host) mayRequestTokens() bool {
	return !h.vault.System().ReplicationState().HasState(consts.ReplicationPerformanceStandby | consts.ReplicationDRSecondary)
}

// tokenEvent is an event about the access token.
type tokenEvent struct {
	kind, operation string
	// modified is set if Fuuffy rejects the token that apps hold, or is about to. The Vault
	// Secrets Operator then reads the new one immediately. It is not set for a routine
	// refresh, which must not bring a fleet back within one second.
	modified bool
}

// notifyToken sends an event about the access token. The operator finds the mount's
// subscribers by name, which is the last segment of the path that they read.
func (h *host) notifyToken(ctx context.Context, e tokenEvent, metadata ...string) {
	metadata = append(metadata, "name", tokenKey,
		logical.EventMetadataDataPath, tokenKey,
		logical.EventMetadataOperation, e.operation,
		logical.EventMetadataModified, strconv.FormatBool(e.modified))
	h.notify(ctx, "token-"+e.kind, tokenKey, metadata...)
}

// notifyDropped sends the event that the token that apps hold is dead.
func (h *host) notifyDropped(ctx context.Context, why deadTokens, clientID string) {
	h.notifyToken(ctx, tokenEvent{kind: "drop", operation: string(why), modified: true}, "client_id", clientID)
}

// eventTimeout bounds the sending of an event. No one should wait long for one.
const eventTimeout = 5 * time.Second

// notify sends an event to those who subscribed to it in Vault and may subscribe to the path.
// The log has the same facts, so nothing is lost where Vault sends no events. That the caller
// gave up doesn't matter: it happened.
func (h *host) notify(ctx context.Context, name, path string, metadata ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), eventTimeout)
	defer cancel()
	defer context.AfterFunc(h.life, cancel)()
	metadata = append([]string{logical.EventMetadataPath, path}, metadata...)
	err := logical.SendEvent(ctx, h.vault, "fuuffy/"+name, metadata...)
	if err != nil {
		h.log().Trace("could not send an event", "event", name, "error", err)
	}
}
