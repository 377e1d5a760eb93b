// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

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
