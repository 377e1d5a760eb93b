// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
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

// log is the mount's log. Its lines name the mount once a request has.
func (b *backend) log() hclog.Logger {
	if mount, ok := b.mountPoint.Load().(string); ok {
		return b.Logger().With("mount", mount)
	}
	return b.Logger()
}

// now is the wall clock.
func (b *backend) now() time.Time { return b.clock().Wall }

// mayRequestTokens tells whether this node may request its own tokens. A performance standby
// leaves that to the active node; a secondary has its own storage for them.
func (b *backend) mayRequestTokens() bool {
	return !b.System().ReplicationState().HasState(consts.ReplicationPerformanceStandby | consts.ReplicationDRSecondary)
}

// tokenEvent is an event about the access token.
type tokenEvent struct {
	kind, operation string
	// modified is set if the token that apps hold is dead or about to be. The Vault
	// Secrets Operator then reads the new one immediately. It is not set for a routine
	// refresh, which must not bring a fleet back within one second.
	modified bool
}

// notifyToken sends an event about the access token. The operator finds the mount's
// subscribers by name, which is the last segment of the path that they read.
func (b *backend) notifyToken(ctx context.Context, e tokenEvent, metadata ...string) {
	metadata = append(metadata, "name", tokenKey,
		logical.EventMetadataDataPath, tokenKey,
		logical.EventMetadataOperation, e.operation,
		logical.EventMetadataModified, strconv.FormatBool(e.modified))
	b.notify(ctx, "token-"+e.kind, tokenKey, metadata...)
}

// eventTimeout bounds the sending of an event. Nobody should wait long for one.
const eventTimeout = 5 * time.Second

// notify sends an event to those who subscribed to it in Vault and may subscribe to the path.
// The log has the same facts, so nothing is lost where Vault sends no events.
func (b *backend) notify(ctx context.Context, name, path string, metadata ...string) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	metadata = append([]string{logical.EventMetadataPath, path}, metadata...)
	err := logical.SendEvent(ctx, b, "fuuffy/"+name, metadata...)
	if err != nil {
		b.log().Trace("could not send an event", "event", name, "error", err)
	}
}
