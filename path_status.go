// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
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
		"last_success":         {Type: framework.TypeTime, Description: "When Fuuffy last issued a token, as far as this node knows."},
		"upstream_state":       {Type: framework.TypeString, Description: "ok, untested, or the class of the last failure: rejected, rate_limited, unavailable, or malformed."},
		"upstream_since":       {Type: framework.TypeTime, Description: "When upstream_state last changed, as far as this node knows."},
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

func (b *backend) readMetrics(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	// After a start nothing may be loaded yet. A mount without credentials has metrics too.
	_, _ = b.inForce(ctx, req.Storage)
	text, err := b.metrics.text()
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:  http.StatusOK,
		logical.HTTPContentType: string(metricsFormat),
		logical.HTTPRawBody:     text,
	}}, nil
}

// requestCounts reads the counters by outcome back, for people.
func (m *metrics) requestCounts() map[string]int64 {
	counts := make(map[string]int64, len(outcomes))
	for _, outcome := range outcomes {
		counts[outcome] = count(m.requests.WithLabelValues(outcome))
	}
	return counts
}

// count reads a counter.
func count(c prometheus.Counter) int64 {
	var value dto.Metric
	if err := c.Write(&value); err != nil {
		return 0
	}
	return int64(value.GetCounter().GetValue())
}

// gauges collects the state of a mount at the time of a scrape.
type gauges struct{ b *backend }

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("fuuffy_"+name, help, labels, nil)
}

var (
	gaugeBuild        = gauge("build_info", "Always 1. The label is the plugin's version.", "version")
	gaugeTokenExpiry  = gauge("token_expiry_timestamp_seconds", "When the cached token expires; 0 if there is none.")
	gaugeServedUntil  = gauge("token_served_until_timestamp_seconds", "When the engine stops serving the cached token; 0 if there is none.")
	gaugeSuspect      = gauge("token_suspect", "1 if an app reported the cached token as rejected and Fuuffy issued no other.")
	gaugeUnrevoked    = gauge("rotation_unrevoked_clients", "Clients that are no longer used but may still work.")
	gaugeWaiting      = gauge("readers_waiting", "Readers that are waiting for Fuuffy.")
	gaugeUpstream     = gauge("upstream_state", "1 for the outcome of the last token request for readers: ok, untested, or the class of the failure. All are 0 if the mount has no credentials.", "state")
	gaugeHoldOff      = gauge("hold_off_seconds", "Time until the engine tries again after a failure; 0 if it isn't waiting.")
	gaugeRateLimit    = gauge("rate_limit_remaining", "Requests that Fuuffy's rate limit leaves, according to its last response; NaN before the first.")
	gaugeConfigured   = gauge("configured", "1 if the mount has credentials.")
	gaugeRotated      = gauge("credentials_rotated_timestamp_seconds", "When the current credentials were created or promoted.")
	gaugeRotationDue  = gauge("rotation_due_timestamp_seconds", "When the current credentials are due for rotation.")
	gaugeRotation     = gauge("rotation_state", "1 for the current state of the rotation.", "state")
	gaugePromoted     = gauge("rotation_promoted_timestamp_seconds", "When the new credentials were promoted; 0 if no rotation is in progress.")
	gaugeFallback     = gauge("rotation_fallback_active", "1 if the engine serves tokens of the old credentials because Fuuffy rejects the new ones.")
	gaugeAuthFailures = gauge("rotation_auth_failures", "Times that Fuuffy rejected the current credentials, on this node.")
)

// Describe is part of prometheus.Collector.
func (g *gauges) Describe(descriptions chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		gaugeBuild, gaugeTokenExpiry, gaugeServedUntil, gaugeSuspect, gaugeWaiting, gaugeUpstream, gaugeHoldOff, gaugeRateLimit,
		gaugeConfigured, gaugeRotated, gaugeRotationDue, gaugeRotation, gaugePromoted, gaugeFallback, gaugeAuthFailures, gaugeUnrevoked,
	} {
		descriptions <- d
	}
}

// Collect is part of prometheus.Collector. It uses what is in memory: a scrape touches neither
// storage nor Fuuffy.
func (g *gauges) Collect(values chan<- prometheus.Metric) {
	set := func(d *prometheus.Desc, value float64, labels ...string) {
		values <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	cached := g.b.cache.Snapshot()
	var expiry, servedUntil time.Time
	if t := cached.Token; t != nil {
		expiry, servedUntil = t.ExpiresAt, t.ServedUntil()
	}
	set(gaugeBuild, 1, version)
	set(gaugeTokenExpiry, unix(expiry))
	set(gaugeServedUntil, unix(servedUntil))
	set(gaugeSuspect, boolFloat(cached.Token != nil && cached.Token.Suspect))
	set(gaugeWaiting, float64(cached.Waiting))

	set(gaugeHoldOff, cached.HeldOffFor.Seconds())
	remaining := math.NaN() // Nothing is known before the first response.
	if n, known := g.b.rateLimit.Remaining(); known {
		remaining = float64(n)
	}
	set(gaugeRateLimit, remaining)
	c, configured := cached.Source.(*client)
	set(gaugeConfigured, boolFloat(configured))
	var v *view
	upstreamState := "" // No state is 1 if nothing is configured.
	if configured {
		v = g.b.viewOf(c, cached)
		upstreamState = v.upstreamState()
	}
	for _, state := range append([]string{string(advice.Untested)}, outcomes...) {
		set(gaugeUpstream, boolFloat(state == upstreamState), state)
	}
	if !configured {
		return
	}
	set(gaugeRotated, unix(v.Current.SetAt))
	set(gaugeRotationDue, unix(v.mount.DueAt()))
	for _, state := range []string{rotation.Idle, rotation.Staged, rotation.Promoted} {
		set(gaugeRotation, boolFloat(v.Rotation.Name() == state), state)
	}
	set(gaugePromoted, unix(v.Rotation.PromotedAt))
	set(gaugeFallback, boolFloat(v.mount.FallbackActive))
	set(gaugeAuthFailures, float64(g.b.pairs.of(v.Current.ID).rejections))
	set(gaugeUnrevoked, float64(len(v.Rotation.Unrevoked)))
}

// unix is 0 for no time.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func boolFloat(is bool) float64 {
	if is {
		return 1
	}
	return 0
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

const metricsSynopsis = `
Read this node's metrics in Prometheus' text format.
`

const metricsDescription = `
Shows Prometheus what "status" shows people. Prometheus reads /v1/<mount>metrics with
a Vault token. In a terminal, type:

    vault read -format=raw <mount>metrics

Counters belong to this node and start at zero when the plugin starts.
`
