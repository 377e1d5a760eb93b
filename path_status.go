// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

func (b *backend) pathStatus() *framework.Path {
	return &framework.Path{
		Pattern:      "status",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "status"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.readStatus,
				Summary:   "See how the mount is doing: token, Fuuffy, rotation.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "How the mount is doing on this node.", Fields: statusFields}}},
			},
		},
		HelpSynopsis:    strings.TrimSpace(statusSynopsis),
		HelpDescription: strings.TrimSpace(statusDescription),
	}
}

// statusFields are flat so that the vault CLI shows them as a table. Responses leave out what
// doesn't apply.
var statusFields = func() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"health":               {Type: framework.TypeString, Required: true, Description: "ok, untested, degraded, failing, or not configured. The warnings say why."},
		"next_step":            {Type: framework.TypeString, Required: true, Description: "What to do now. A command stands at the end of its line."},
		"version":              {Type: framework.TypeString, Required: true, Description: "The plugin's version."},
		"environment":          {Type: framework.TypeString, Description: "The Fuuffy environment of the mount."},
		"base_url":             {Type: framework.TypeString, Description: "The address of the Fuuffy API."},
		"client_id":            {Type: framework.TypeString, Description: "The current client."},
		"token_state":          {Type: framework.TypeString, Description: "What readers get: none, fresh, refreshing, suspect, stale (stale_if_error), not served, or expired."},
		"token_issued_at":      {Type: framework.TypeTime, Description: "When Fuuffy issued the cached token."},
		"token_served_until":   {Type: framework.TypeTime, Description: "When the engine stops serving the cached token."},
		"token_expires_at":     {Type: framework.TypeTime, Description: "When the cached token expires."},
		"token_in_use":         {Type: framework.TypeBool, Description: "Whether an app read the cached token on this node. The engine doesn't refresh a token that no app reads."},
		"last_success":         {Type: framework.TypeTime, Description: "When Fuuffy last issued a token, on this node."},
		"upstream_state":       {Type: framework.TypeString, Description: "ok, untested, or the class of the last failure: rejected, rate_limited, unavailable, or malformed."},
		"upstream_since":       {Type: framework.TypeTime, Description: "When upstream_state last changed, on this node."},
		"upstream_message":     {Type: framework.TypeString, Description: "What failed last."},
		"upstream_failures":    {Type: framework.TypeInt64, Description: "Failures in a row; 0 if upstream_state is ok, or if an operator changed something since."},
		"upstream_next_try":    {Type: framework.TypeTime, Description: "When the engine sends the next request to Fuuffy, at the earliest."},
		"rate_limit_remaining": {Type: framework.TypeInt64, Description: "Requests that Fuuffy's rate limit leaves, according to its last response."},
		"readers_waiting":      {Type: framework.TypeInt64, Description: "Readers that are waiting for Fuuffy."},
		"min_ttl_requests":     {Type: framework.TypeInt64, Description: "Token requests that only a reader's min_ttl caused, on this node, since the plugin started."},
		"rotation_state":       {Type: framework.TypeString, Description: "idle, staged or promoted."},
		"rotation_due":         {Type: framework.TypeTime, Description: "When the credentials are due for rotation."},
		"rotation_overdue":     {Type: framework.TypeBool, Description: "Whether the credentials are overdue for rotation."},
		"fallback_active":      {Type: framework.TypeBool, Description: "Whether the engine serves tokens of the previous credentials because Fuuffy rejects the new ones."},
		"unrevoked":            {Type: framework.TypeString, Description: "Clients that are no longer used but may still work, one per line: since when, which client, and why."},
	}
	for _, outcome := range outcomes {
		fields["token_requests_"+outcome] = &framework.FieldSchema{
			Type: framework.TypeInt64, Description: "Token requests with the outcome " + strings.ReplaceAll(outcome, "_", " ") + ", on this node, since the plugin started.",
		}
	}
	return fields
}()

func (b *backend) readStatus(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	v, err := b.view(ctx, req.Storage)
	if errors.Is(err, errNotConfigured) {
		return b.unconfiguredStatus(ctx, req)
	}
	if err != nil {
		return nil, err
	}
	m := &v.mount
	data := map[string]any{
		"health":            string(m.Health()),
		"next_step":         m.NextStep().Render(req.MountPoint),
		"version":           version,
		"environment":       v.Endpoint.Environment,
		"base_url":          v.Endpoint.address(),
		"client_id":         v.Current.ClientID,
		"token_state":       v.tokenState(),
		"last_success":      timestamp(v.cached.LastSuccess),
		"upstream_state":    v.upstreamState(),
		"upstream_since":    timestamp(v.cached.Since),
		"upstream_failures": int64(v.cached.Failures),
		"readers_waiting":   v.cached.Waiting,
		"rotation_state":    v.Rotation.Name(),
		"rotation_due":      timestamp(m.DueAt()),
		"rotation_overdue":  m.Overdue(),
		"fallback_active":   m.FallbackActive,
		"unrevoked":         v.Rotation.UnrevokedText(),
	}
	if t := v.cached.Token; t != nil {
		data["token_issued_at"] = timestamp(t.IssuedAt)
		data["token_served_until"] = timestamp(m.Token.ServedUntil)
		data["token_expires_at"] = timestamp(t.ExpiresAt)
		data["token_in_use"] = t.InUse()
	}
	if m.Failure != nil {
		data["upstream_message"] = m.Failure.Error()
		data["upstream_next_try"] = timestamp(m.RetryAt)
	}
	if remaining, known := b.rateLimit.Remaining(); known {
		data["rate_limit_remaining"] = remaining
	}
	data["min_ttl_requests"] = count(b.metrics.early)
	for outcome, count := range b.metrics.requestCounts() {
		data["token_requests_"+outcome] = count
	}
	resp := &logical.Response{Data: applicable(data)}
	v.warn(resp)
	return resp, nil
}

// unconfiguredStatus names the leaks that outlived a configuration.
func (b *backend) unconfiguredStatus(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	leaks, err := loadLeaks(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: applicable(map[string]any{
		"health":    string(advice.NotConfigured),
		"next_step": advice.Unconfigured(&leaks).Render(req.MountPoint),
		"version":   version,
		"unrevoked": leaks.UnrevokedText(),
	})}, nil
}

// tokenState is what readers get, for people.
func (v *view) tokenState() string {
	switch {
	case v.cached.Token == nil:
		return "none"
	case v.cached.Stale:
		return "stale"
	case v.cached.Token.Suspect && v.cached.State == tokencache.InWindow:
		return "suspect"
	}
	return v.cached.State.String()
}

// upstreamState is the class of the last outcome of a token request for readers.
func (v *view) upstreamState() string {
	switch {
	case v.mount.Failure != nil:
		return string(v.mount.Failure.Failure)
	case !v.mount.Tested:
		return string(advice.Untested)
	}
	return outcomeOK
}

const statusSynopsis = `
See how the mount is doing: token, Fuuffy, rotation.
`

const statusDescription = `
Shows at a glance whether the mount is healthy, and what to do if it isn't. The state
of the token and of Fuuffy, and the counters, are those of the node that responds.
To see the same as Prometheus does:

    vault read -format=raw <mount>metrics
`
