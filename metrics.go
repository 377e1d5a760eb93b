// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// outcomeOK is the outcome of a token request that got a token. The other outcomes
// are the failures.
const outcomeOK = "ok"

var outcomes = []string{outcomeOK, string(upstream.Rejected), string(upstream.RateLimited), string(upstream.Unavailable), string(upstream.Malformed)}

// metrics are what one mount counts on this node, since the plugin started, with
// gauges that show its state. The hot path counts nothing: Vault does that itself.
type metrics struct {
	registry     *prometheus.Registry
	requests     *prometheus.CounterVec
	duration     prometheus.Histogram
	replacements prometheus.Counter
	early        prometheus.Counter
	steps        *prometheus.CounterVec
}

func newMetrics(gauges prometheus.Collector) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fuuffy_token_requests_total",
			Help: "Token requests to Fuuffy by outcome, including those of config writes and rotation steps.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "fuuffy_token_request_duration_seconds",
			Help:    "Duration of token requests, including retries.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 50},
		}),
		replacements: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fuuffy_rejected_token_reports_total",
			Help: "Tokens that apps reported as rejected.",
		}),
		early: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fuuffy_min_ttl_requests_total",
			Help: "Token requests that only a reader's min_ttl caused.",
		}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fuuffy_rotation_steps_total",
			Help: "Rotation steps taken.",
		}, []string{"step"}),
	}
	// All labels are there from the start, so that a first failure is an increase.
	for _, outcome := range outcomes {
		m.requests.WithLabelValues(outcome)
	}
	for _, step := range []string{"stage", "promote", "complete", "rollback", "discard"} {
		m.steps.WithLabelValues(step)
	}
	m.registry.MustRegister(m.requests, m.duration, m.replacements, m.early, m.steps, gauges)
	return m
}

// requested counts a token request and its outcome.
func (m *metrics) requested(err error, took time.Duration) {
	outcome := outcomeOK
	if err != nil {
		failure, ok := errors.AsType[*upstream.Error](err)
		if !ok || failure.OverBudget() {
			return // The caller has gone, or nothing was sent: that says nothing about Fuuffy.
		}
		outcome = string(failure.Failure)
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
