// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// outcomeOK is the outcome of a token request that got a token. The other outcomes
// are the failures.
const outcomeOK = "ok"

var outcomes = []string{outcomeOK, string(rejected), string(rateLimited), string(unavailable), string(malformed)}

// metrics are what one mount counts on this node, since the plugin started. The
// hot path counts nothing: Vault does that itself.
type metrics struct {
	registry     *prometheus.Registry
	requests     *prometheus.CounterVec
	duration     prometheus.Histogram
	replacements prometheus.Counter
	steps        *prometheus.CounterVec
}

func newMetrics(b *backend) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fuuffy_token_requests_total",
			Help: "Token requests to Fuuffy by outcome, those of config writes and rotation steps included.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "fuuffy_token_request_duration_seconds",
			Help:    "How long token requests took, with their retries.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 50},
		}),
		replacements: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fuuffy_rejected_token_reports_total",
			Help: "Reports of apps that Fuuffy refused a token.",
		}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fuuffy_rotation_steps_total",
			Help: "Steps of the rotation that were taken.",
		}, []string{"step"}),
	}
	// All labels are there from the start, so that a first failure is an increase.
	for _, outcome := range outcomes {
		m.requests.WithLabelValues(outcome)
	}
	for _, step := range []string{"stage", "promote", "complete", "rollback", "discard"} {
		m.steps.WithLabelValues(step)
	}
	m.registry.MustRegister(m.requests, m.duration, m.replacements, m.steps, &gauges{b})
	return m
}

// requested counts a token request and its outcome.
func (m *metrics) requested(err error, took time.Duration) {
	outcome := outcomeOK
	if err != nil {
		upstream, ok := errors.AsType[*upstreamError](err)
		if !ok {
			return // Who asked has gone; that says nothing about Fuuffy.
		}
		outcome = string(upstream.failure)
	}
	m.requests.WithLabelValues(outcome).Inc()
	m.duration.Observe(took.Seconds())
}

// text returns all metrics in Prometheus' text format 0.0.4.
func (m *metrics) text() ([]byte, error) {
	families, err := m.registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("gather metrics: %w", err)
	}
	var out bytes.Buffer
	encoder := expfmt.NewEncoder(&out, metricsFormat)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return nil, fmt.Errorf("encode metrics: %w", err)
		}
	}
	return out.Bytes(), nil
}

var metricsFormat = expfmt.NewFormat(expfmt.TypeTextPlain)

// gauges shows the state of a mount as it is when it is asked for.
type gauges struct{ b *backend }

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("fuuffy_"+name, help, labels, nil)
}

var (
	gaugeBuild        = gauge("build_info", "Always 1; the label has the plugin's version.", "version")
	gaugeTokenExpiry  = gauge("token_expiry_timestamp_seconds", "When Fuuffy will refuse the token held; 0 if none is.")
	gaugeServedUntil  = gauge("token_served_until_timestamp_seconds", "Until when the token held is served; 0 if none is.")
	gaugeWaiting      = gauge("readers_waiting", "Readers that wait for Fuuffy right now.")
	gaugeUpstream     = gauge("upstream_state", "1 for how the last token request for readers ended: ok, or the class of the failure.", "state")
	gaugeHoldOff      = gauge("hold_off_seconds", "For how long Fuuffy is still left alone after a failure; 0 if it is not.")
	gaugeRateLimit    = gauge("rate_limit_remaining", "Requests that Fuuffy's rate limit leaves, by its last answer.")
	gaugeConfigured   = gauge("configured", "1 if the mount has credentials.")
	gaugeRotated      = gauge("credentials_rotated_timestamp_seconds", "When the credentials in force were put in force.")
	gaugeRotationDue  = gauge("rotation_due_timestamp_seconds", "When the credentials in force are due for rotation.")
	gaugeRotation     = gauge("rotation_state", "1 for the state that the rotation is in.", "state")
	gaugePromoted     = gauge("rotation_promoted_timestamp_seconds", "When the new credentials were promoted; 0 if no rotation is there.")
	gaugeFallback     = gauge("rotation_fallback_active", "1 if tokens of the old credentials are served because the new ones are rejected.")
	gaugeAuthFailures = gauge("rotation_auth_failures", "How often Fuuffy rejected the credentials in force, on this node.")
)

// Describe is part of prometheus.Collector.
func (g *gauges) Describe(descriptions chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		gaugeBuild, gaugeTokenExpiry, gaugeServedUntil, gaugeWaiting, gaugeUpstream, gaugeHoldOff, gaugeRateLimit,
		gaugeConfigured, gaugeRotated, gaugeRotationDue, gaugeRotation, gaugePromoted, gaugeFallback, gaugeAuthFailures,
	} {
		descriptions <- d
	}
}

// Collect is part of prometheus.Collector. It uses what is in memory: a scrape
// asks neither storage nor Fuuffy.
func (g *gauges) Collect(values chan<- prometheus.Metric) {
	set := func(d *prometheus.Desc, value float64, labels ...string) {
		values <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	cache := g.b.cache
	var expiry, servedUntil time.Time
	if held := cache.held.Load(); held != nil {
		expiry, servedUntil = held.ExpiresAt, held.IssuedAt.Add(held.servedUntil)
	}
	set(gaugeBuild, 1, version)
	set(gaugeTokenExpiry, unix(expiry))
	set(gaugeServedUntil, unix(servedUntil))
	set(gaugeWaiting, float64(cache.waiting.Load()))

	upstream, state := cache.upstream(), outcomeOK
	if upstream.cause != nil {
		state = string(upstream.cause.failure)
	}
	for _, outcome := range outcomes {
		set(gaugeUpstream, truth(outcome == state), outcome)
	}
	set(gaugeHoldOff, upstream.heldOffFor.Seconds())
	if remaining := g.b.rateLimit.Load(); remaining >= 0 {
		set(gaugeRateLimit, float64(remaining))
	}
	live := g.b.live.Load()
	set(gaugeConfigured, truth(live != nil))
	if live == nil {
		return
	}
	set(gaugeRotated, unix(live.Current.SetAt))
	set(gaugeRotationDue, unix(live.dueAt()))
	for _, state := range []string{stateIdle, stateStaged, statePromoted} {
		set(gaugeRotation, truth(live.Rotation.state() == state), state)
	}
	set(gaugePromoted, unix(live.Rotation.PromotedAt))
	set(gaugeFallback, truth(g.b.fallbackActive(&live.storedConfig)))
	set(gaugeAuthFailures, float64(g.b.authFailures.of(live.Current.ID)))
}

// unix is 0 for no time.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
