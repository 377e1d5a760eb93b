// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	dto "github.com/prometheus/client_model/go"
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

func (b *backend) pathMetrics() *framework.Path {
	return &framework.Path{
		Pattern:      "metrics",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "metrics"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.readMetrics,
				Summary:   "Read this node's metrics in Prometheus' text format.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "The metrics.", MediaType: string(metricsFormat)}}},
			},
		},
		HelpSynopsis:    strings.TrimSpace(metricsSynopsis),
		HelpDescription: strings.TrimSpace(metricsDescription),
	}
}

// statusFields are flat so that the vault CLI shows them as a table. What does not
// apply is null.
var statusFields = map[string]*framework.FieldSchema{
	"version":              {Type: framework.TypeString, Required: true, Description: "The plugin's version."},
	"environment":          {Type: framework.TypeString, Required: true, Description: "The Fuuffy environment of the mount."},
	"base_url":             {Type: framework.TypeString, Required: true, Description: "The address of the Fuuffy API."},
	"client_id":            {Type: framework.TypeString, Required: true, Description: "The client in force."},
	"token_state":          {Type: framework.TypeString, Required: true, Description: "none, fresh, refreshing, buffer or expired."},
	"token_issued_at":      {Type: framework.TypeTime, Required: true, Description: "When the token held was issued."},
	"token_served_until":   {Type: framework.TypeTime, Required: true, Description: "Until when the token held is served."},
	"token_expires_at":     {Type: framework.TypeTime, Required: true, Description: "When Fuuffy will refuse the token held."},
	"token_in_use":         {Type: framework.TypeBool, Required: true, Description: "Whether the token held was read on this node; one that was not is left to lapse."},
	"upstream_state":       {Type: framework.TypeString, Required: true, Description: "ok, or the class of the last failure: rejected, rate_limited, unavailable or malformed."},
	"upstream_message":     {Type: framework.TypeString, Required: true, Description: "What the last failure was."},
	"upstream_failures":    {Type: framework.TypeInt64, Required: true, Description: "Failures in a row of the class in upstream_state; 0 if that is ok."},
	"upstream_next_try":    {Type: framework.TypeTime, Required: true, Description: "When Fuuffy is asked again, at the earliest."},
	"rate_limit_remaining": {Type: framework.TypeInt64, Required: true, Description: "Requests that Fuuffy's rate limit leaves, by its last answer."},
	"readers_waiting":      {Type: framework.TypeInt64, Required: true, Description: "Readers that wait for Fuuffy right now."},
	"rotation_state":       {Type: framework.TypeString, Required: true, Description: "idle, staged or promoted."},
	"rotation_due":         {Type: framework.TypeTime, Required: true, Description: "When the credentials are due for rotation."},
	"rotation_overdue":     {Type: framework.TypeBool, Required: true, Description: "Whether the credentials are overdue for rotation."},
	"fallback_active":      {Type: framework.TypeBool, Required: true, Description: "Whether tokens of the old credentials are served because the new ones are rejected."},
	"token_requests":       {Type: framework.TypeMap, Required: true, Description: "Token requests of this node since the plugin started, by outcome."},
}

func (b *backend) readStatus(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	live, err := b.config(ctx, req.Storage)
	if err != nil {
		return answer(req, err)
	}
	upstream := b.cache.upstream()
	data := map[string]any{
		"version":              version,
		"environment":          live.Endpoint.Environment,
		"base_url":             live.Endpoint.address(),
		"client_id":            live.Current.ClientID,
		"token_state":          "none",
		"token_issued_at":      nil,
		"token_served_until":   nil,
		"token_expires_at":     nil,
		"token_in_use":         false,
		"upstream_state":       outcomeOK,
		"upstream_message":     nil,
		"upstream_failures":    int64(upstream.failures),
		"upstream_next_try":    nil,
		"rate_limit_remaining": nil,
		"readers_waiting":      b.cache.waiting.Load(),
		"rotation_state":       live.Rotation.state(),
		"rotation_due":         timestamp(live.dueAt()),
		"rotation_overdue":     live.overdue(b.cache.wallClock()),
		"fallback_active":      b.fallbackActive(&live.storedConfig),
		"token_requests":       b.metrics.requestCounts(),
	}
	if held := b.cache.held.Load(); held != nil {
		data["token_state"] = held.state(b.cache.clock()).String()
		data["token_issued_at"] = timestamp(held.IssuedAt)
		data["token_served_until"] = timestamp(held.IssuedAt.Add(held.servedUntil))
		data["token_expires_at"] = timestamp(held.ExpiresAt)
		data["token_in_use"] = held.used.Load()
	}
	if upstream.cause != nil {
		data["upstream_state"] = string(upstream.cause.failure)
		data["upstream_message"] = upstream.cause.Error()
		data["upstream_next_try"] = timestamp(b.cache.wallClock().Add(upstream.heldOffFor))
	}
	if remaining := b.rateLimit.Load(); remaining >= 0 {
		data["rate_limit_remaining"] = remaining
	}
	resp := &logical.Response{Data: data}
	live.warnIfDue(resp, b.cache.wallClock(), req.MountPoint)
	return resp, nil
}

func (b *backend) readMetrics(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	// After a start nothing may be loaded yet. A mount without credentials has metrics too.
	_, _ = b.config(ctx, req.Storage)
	text, err := b.metrics.text()
	if err != nil {
		return answer(req, err)
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:  http.StatusOK,
		logical.HTTPContentType: string(metricsFormat),
		logical.HTTPRawBody:     text,
	}}, nil
}

// requestCounts reads the counters by outcome back, for people.
func (m *metrics) requestCounts() map[string]any {
	counts := make(map[string]any, len(outcomes))
	for _, outcome := range outcomes {
		var value dto.Metric
		if err := m.requests.WithLabelValues(outcome).Write(&value); err == nil {
			counts[outcome] = int64(value.GetCounter().GetValue())
		}
	}
	return counts
}

// upstreamStatus is how the last token request went.
type upstreamStatus struct {
	cause      *upstreamError
	failures   int
	heldOffFor time.Duration
}

// upstream tells how the last token request went, and how long Fuuffy is left alone.
func (c *tokenCache) upstream() upstreamStatus {
	now := c.clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holdOff.cause == nil {
		return upstreamStatus{}
	}
	return upstreamStatus{cause: c.holdOff.cause, failures: c.holdOff.failures, heldOffFor: max(0, c.holdOff.until-now.mono)}
}

const statusSynopsis = `
See how the mount is doing: token, Fuuffy, rotation.
`

const statusDescription = `
One look for an operator. The state of the token and of Fuuffy, and the counters,
are those of the node that answers. For a graph, read "metrics".
`

const metricsSynopsis = `
Read this node's metrics in Prometheus' text format.
`

const metricsDescription = `
The same as "status" for Prometheus, which reads /v1/fuuffy/metrics with a Vault
token. By hand: vault read -format=raw fuuffy/metrics. Counters are of this node
and begin at zero when the plugin starts.
`
