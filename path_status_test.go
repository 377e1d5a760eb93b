// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

func (m *mount) status() map[string]any {
	m.t.Helper()
	return m.do(logical.ReadOperation, "status", nil).Data
}

// metric returns a sample of the metrics, as "name" or "name/label value".
func (m *mount) metric(sample string) float64 {
	m.t.Helper()
	name, label, _ := strings.Cut(sample, "/")
	family := m.metrics()[name]
	require.NotNil(m.t, family, "no metric %s", name)
	for _, metric := range family.GetMetric() {
		if label == "" || metric.GetLabel()[0].GetValue() == label {
			switch family.GetType() {
			case dto.MetricType_COUNTER:
				return metric.GetCounter().GetValue()
			case dto.MetricType_GAUGE:
				return metric.GetGauge().GetValue()
			default:
				return float64(metric.GetHistogram().GetSampleCount())
			}
		}
	}
	m.t.Fatalf("no sample %s", sample)
	return 0
}

func (m *mount) metrics() map[string]*dto.MetricFamily {
	m.t.Helper()
	resp, err := m.b.HandleRequest(m.t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "metrics", Storage: m.storage})
	require.NoError(m.t, err)
	require.Equal(m.t, http.StatusOK, resp.Data[logical.HTTPStatusCode])
	require.Equal(m.t, "text/plain; version=0.0.4; charset=utf-8", resp.Data[logical.HTTPContentType])
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(resp.Data[logical.HTTPRawBody].([]byte))))
	require.NoError(m.t, err)
	return families
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		assert.Equal(t, map[string]any{
			"health": "not configured", "version": "v0.1.0-dev",
			"next_step": "Write the credentials: vault write fuuffy/config client_id=<client_id> client_secret=-",
		}, m.status())

		m.configure("verify_connection", false)
		status := m.status()
		assert.Equal(t, "none", status["token_state"])
		assert.Equal(t, "untested", status["upstream_state"])
		assert.Equal(t, "untested", status["health"])
		assert.Contains(t, status["next_step"], "vault write -f fuuffy/rotate-root/check")
		assert.Equal(t, "https://api-gateway.fuuffy.com/v1", status["base_url"])
		assert.Equal(t, "idle", status["rotation_state"])
		assert.Nil(t, status["token_expires_at"])

		issued := time.Now()
		m.read()
		status = m.status()
		assert.Equal(t, "fresh", status["token_state"])
		assert.Equal(t, "ok", status["upstream_state"])
		assert.Equal(t, "ok", status["health"])
		assert.Equal(t, timestamp(issued.Add(time.Hour)), status["token_expires_at"])
		assert.Equal(t, timestamp(issued.Add(55*time.Minute)), status["token_served_until"])
		assert.Equal(t, true, status["token_in_use"])

		for _, state := range []string{"refreshing", "not served", "expired"} {
			time.Sleep(map[string]time.Duration{"refreshing": 52 * time.Minute, "not served": 5 * time.Minute, "expired": 5 * time.Minute}[state])
			assert.Equal(t, state, m.status()["token_state"])
		}

		m.sandbox.SetFault(faultUnavailable)
		m.do(logical.DeleteOperation, "token", nil)
		m.refused(logical.ReadOperation, "token", nil)
		status = m.status()
		assert.Equal(t, "unavailable", status["upstream_state"])
		assert.Contains(t, status["upstream_message"], "HTTP status 503")
		assert.EqualValues(t, 1, status["upstream_failures"])
		assert.NotNil(t, status["upstream_next_try"])
		for outcome, count := range map[string]int64{"ok": 1, "rejected": 0, "rate_limited": 0, "unavailable": 1, "malformed": 0} {
			assert.Equal(t, count, status["token_requests_"+outcome], outcome)
		}
	})
}

// upstreamStates are the labels of fuuffy_upstream_state that are 1.
func (m *mount) upstreamStates() (states []string) {
	m.t.Helper()
	for _, metric := range m.metrics()["fuuffy_upstream_state"].GetMetric() {
		if metric.GetGauge().GetValue() == 1 {
			states = append(states, metric.GetLabel()[0].GetValue())
		}
	}
	return states
}

// The metric has one state, the one that status names, and none where nothing is configured.
func TestUpstreamStateMetric(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		agree := func(want string) {
			t.Helper()
			assert.Equal(t, want, m.status()["upstream_state"])
			assert.Equal(t, []string{want}, m.upstreamStates())
		}
		assert.Empty(t, m.upstreamStates(), "not configured")
		m.configure("verify_connection", false)
		agree("untested")
		m.read()
		agree("ok")
		m.sandbox.SetFault(faultUnavailable)
		m.loseToken()
		m.refused(logical.ReadOperation, "token", nil)
		agree("unavailable")
		m.do(logical.DeleteOperation, "config", nil)
		assert.Empty(t, m.upstreamStates(), "not configured any more")
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		assert.Equal(t, 0.0, m.metric("fuuffy_configured"))
		assert.Equal(t, 0.0, m.metric("fuuffy_token_requests_total/rejected"), "there from the start")

		m.configure()
		issued := time.Now()
		m.read()
		assert.Equal(t, 1.0, m.metric("fuuffy_configured"))
		assert.Equal(t, 1.0, m.metric("fuuffy_build_info/v0.1.0-dev"))
		assert.Equal(t, 1.0, m.metric("fuuffy_token_requests_total/ok"))
		assert.Equal(t, 1.0, m.metric("fuuffy_token_request_duration_seconds"))
		assert.Equal(t, float64(issued.Add(time.Hour).Unix()), m.metric("fuuffy_token_expiry_timestamp_seconds"))
		assert.Equal(t, float64(issued.Add(55*time.Minute).Unix()), m.metric("fuuffy_token_served_until_timestamp_seconds"))
		assert.Equal(t, float64(issued.Add(90*24*time.Hour).Unix()), m.metric("fuuffy_rotation_due_timestamp_seconds"))
		assert.Equal(t, 1.0, m.metric("fuuffy_rotation_state/idle"))
		assert.Equal(t, 0.0, m.metric("fuuffy_hold_off_seconds"))
		assert.Equal(t, 1.0, m.metric("fuuffy_upstream_state/ok"))

		for fault, outcome := range map[string]string{"rejected": "rejected", "unavailable": "unavailable", "malformed": "malformed", "rate limited": "rate_limited"} {
			time.Sleep(time.Minute) // The budget is whole again.
			switch fault {
			case "rejected":
				m.sandbox.SetFault(faultRejected)
			case "unavailable":
				m.sandbox.SetFault(faultUnavailable)
			case "malformed":
				m.sandbox.SetFault(faultMalformed)
			default:
				m.sandbox.SetFault(faultRateLimited)
			}
			m.do(logical.DeleteOperation, "token", nil)
			m.refused(logical.ReadOperation, "token", nil)
			assert.Equal(t, 1.0, m.metric("fuuffy_token_requests_total/"+outcome))
			assert.Positive(t, m.metric("fuuffy_hold_off_seconds"))
			assert.Equal(t, 1.0, m.metric("fuuffy_upstream_state/"+outcome))
			assert.Equal(t, 0.0, m.metric("fuuffy_upstream_state/ok"))

			// What someone tried to write says nothing about what readers get.
			m.refused(logical.UpdateOperation, "config", pairs("client_id", "shop-9", "client_secret", "x"))
			assert.Equal(t, 2.0, m.metric("fuuffy_token_requests_total/"+outcome))
			assert.Equal(t, 1.0, m.metric("fuuffy_upstream_state/"+outcome))
		}
		time.Sleep(time.Minute)
		m.sandbox.ClearFault()
		m.do(logical.DeleteOperation, "token", nil)
		m.read()
		assert.Equal(t, 1.0, m.metric("fuuffy_upstream_state/ok"))
		m.refused(logical.UpdateOperation, "config", pairs("client_id", "shop-9", "client_secret", "x"))
		assert.Equal(t, 3.0, m.metric("fuuffy_token_requests_total/rejected"))
		assert.Equal(t, 1.0, m.metric("fuuffy_upstream_state/ok"), "a mistyped secret is no failure of the mount")
		m.do(logical.UpdateOperation, "token", pairs("rejected_token", "sk-x"))
		assert.Equal(t, 1.0, m.metric("fuuffy_rejected_token_reports_total"))
	})
}

// The histogram has how long Fuuffy took.
func TestMetricsOfTheDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.SetFault(slowAnswer)
		m.read()
		duration := m.metrics()["fuuffy_token_request_duration_seconds"].GetMetric()[0].GetHistogram()
		assert.InDelta(t, slowAnswer.Delay.Seconds(), duration.GetSampleSum(), 0.1)
	})
}

func TestMetricsOfWaitingReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		release := m.sandbox.Hold()
		for range 7 {
			go func() { _, _ = m.handle(t.Context(), logical.ReadOperation, "token", nil) }()
		}
		synctest.Wait()
		assert.Equal(t, 7.0, m.metric("fuuffy_readers_waiting"))
		assert.EqualValues(t, 7, m.status()["readers_waiting"])
		release()
		synctest.Wait()
		assert.Equal(t, 0.0, m.metric("fuuffy_readers_waiting"))
	})
}

func TestMetricsOfARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Staged)
		assert.Equal(t, 1.0, m.metric("fuuffy_rotation_state/staged"))
		m.promote()
		assert.Equal(t, 1.0, m.metric("fuuffy_rotation_state/promoted"))
		assert.Equal(t, float64(time.Now().Unix()), m.metric("fuuffy_rotation_promoted_timestamp_seconds"))
		assert.Equal(t, 1.0, m.metric("fuuffy_rotation_steps_total/promote"))

		time.Sleep(time.Minute)
		m.sandbox.RevokeClient(newClientID)
		m.do(logical.DeleteOperation, "token", nil)
		m.read()
		assert.Equal(t, 1.0, m.metric("fuuffy_rotation_fallback_active"))
		assert.Equal(t, 1.0, m.metric("fuuffy_rotation_auth_failures"))
		assert.Equal(t, true, m.status()["fallback_active"])
	})
}

// Names and labels follow Prometheus' conventions, and none comes from outside.
func TestMetricNames(t *testing.T) {
	m := newRotatingMount(t, rotation.Staged)
	m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusTooManyRequests, Header: map[string]string{"X-RateLimit-Remaining": "7"}})
	m.do(logical.DeleteOperation, "token", nil)
	m.refused(logical.ReadOperation, "token", nil)
	assert.Equal(t, 7.0, m.metric("fuuffy_rate_limit_remaining"))
	families := m.metrics()
	for name, family := range families {
		assert.True(t, strings.HasPrefix(name, "fuuffy_"), name)
		assert.NotEmpty(t, family.GetHelp(), name)
		assert.Equal(t, family.GetType() == dto.MetricType_COUNTER, strings.HasSuffix(name, "_total"), name)
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				assert.Contains(t, []string{"outcome", "state", "step", "version"}, label.GetName())
				assert.NotContains(t, label.GetValue(), testClientID)
			}
		}
	}

	var table strings.Builder
	table.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(families)) {
		family, labels := families[name], ""
		if pairs := family.GetMetric()[0].GetLabel(); len(pairs) > 0 {
			labels = "`" + pairs[0].GetName() + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(family.GetType().String()), labels, family.GetHelp())
	}
	requireInDocs(t, "docs/monitoring.md", "metrics", table.String())
}
