// SPDX-License-Identifier: MPL-2.0

package fuuffy_test

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// requireInDocs holds a table in a document, between markers, to what a test found;
// -update writes it.
func requireInDocs(t *testing.T, file, name, table string) {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	begin, end := fmt.Sprintf("<!-- %s -->\n", name), fmt.Sprintf("<!-- end of %s -->", name)
	before, rest, ok := strings.Cut(string(content), begin)
	old, after, ok2 := strings.Cut(rest, end)
	require.True(t, ok && ok2, "%s has no markers for the %s", file, name)
	if *mounttest.Update && old != table {
		require.NoError(t, os.WriteFile(file, []byte(before+begin+table+end+after), 0o644))
		return
	}
	assert.Equal(t, table, old, "%s is out of date: go test -run %s -update .", file, cmp.Or(t.Name(), "Test"))
}

// Defect 52: a metric is there from the start. A rule on one that is absent never fires.
func TestRateLimitMetricIsThereFromTheStart(t *testing.T) {
	m := mounttest.New(t)
	assert.Contains(t, m.Metrics(), "fuuffy_rate_limit_remaining", "not configured")
	m.Configure("verify_connection", false)
	assert.Contains(t, m.Metrics(), "fuuffy_rate_limit_remaining", "configured, and nothing requested")
	require.Zero(t, m.Requests())
	m.Restart()
	assert.Contains(t, m.Metrics(), "fuuffy_rate_limit_remaining", "restarted")

	limited := mounttest.New(t)
	limited.Sandbox = fuuffytest.New(fuuffytest.Config{})
	limited.Sandbox.CreateClient(mounttest.ClientID, mounttest.Secret)
	limited.Configure()
	assert.Equal(t, 99.0, limited.Metric("fuuffy_rate_limit_remaining"))
}

// upstreamStates are the labels of fuuffy_upstream_state that are 1.
func upstreamStates(m *mounttest.Mount) (states []string) {
	m.T.Helper()
	for _, metric := range m.Metrics()["fuuffy_upstream_state"].GetMetric() {
		if metric.GetGauge().GetValue() == 1 {
			states = append(states, metric.GetLabel()[0].GetValue())
		}
	}
	return states
}

// The metric has one state, the one that status names, and none where nothing is configured.
func TestUpstreamStateMetric(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		agree := func(want string) {
			t.Helper()
			assert.Equal(t, want, m.Status()["upstream_state"])
			assert.Equal(t, []string{want}, upstreamStates(m))
		}
		assert.Empty(t, upstreamStates(m), "not configured")
		m.Configure("verify_connection", false)
		agree("untested")
		m.Read()
		agree("ok")
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.LoseToken()
		m.Refused(logical.ReadOperation, "token", nil)
		agree("unavailable")
		m.Do(logical.DeleteOperation, "config", nil)
		assert.Empty(t, upstreamStates(m), "not configured any more")
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		assert.Equal(t, 0.0, m.Metric("fuuffy_configured"))
		assert.Equal(t, 0.0, m.Metric("fuuffy_token_requests_total/rejected"), "there from the start")

		m.Configure()
		issued := time.Now()
		m.Read()
		assert.Equal(t, 1.0, m.Metric("fuuffy_configured"))
		assert.Equal(t, 1.0, m.Metric("fuuffy_build_info/v0.1.0-dev"))
		assert.Equal(t, 1.0, m.Metric("fuuffy_token_requests_total/ok"))
		assert.Equal(t, 1.0, m.Metric("fuuffy_token_request_duration_seconds"))
		assert.Equal(t, float64(issued.Add(time.Hour).Unix()), m.Metric("fuuffy_token_expiry_timestamp_seconds"))
		assert.Equal(t, float64(issued.Add(55*time.Minute).Unix()), m.Metric("fuuffy_token_served_until_timestamp_seconds"))
		assert.Equal(t, float64(issued.Add(90*24*time.Hour).Unix()), m.Metric("fuuffy_rotation_due_timestamp_seconds"))
		assert.Equal(t, 1.0, m.Metric("fuuffy_rotation_state/idle"))
		assert.Equal(t, 0.0, m.Metric("fuuffy_hold_off_seconds"))
		assert.Equal(t, 1.0, m.Metric("fuuffy_upstream_state/ok"))

		for fault, outcome := range map[string]string{"rejected": "rejected", "unavailable": "unavailable", "malformed": "malformed", "rate limited": "rate_limited"} {
			time.Sleep(time.Minute) // The budget is whole again.
			switch fault {
			case "rejected":
				m.Sandbox.SetFault(mounttest.FaultRejected)
			case "unavailable":
				m.Sandbox.SetFault(mounttest.FaultUnavailable)
			case "malformed":
				m.Sandbox.SetFault(mounttest.FaultMalformed)
			default:
				m.Sandbox.SetFault(mounttest.FaultRateLimited)
			}
			m.Do(logical.DeleteOperation, "token", nil)
			m.Refused(logical.ReadOperation, "token", nil)
			assert.Equal(t, 1.0, m.Metric("fuuffy_token_requests_total/"+outcome))
			assert.Positive(t, m.Metric("fuuffy_hold_off_seconds"))
			assert.Equal(t, 1.0, m.Metric("fuuffy_upstream_state/"+outcome))
			assert.Equal(t, 0.0, m.Metric("fuuffy_upstream_state/ok"))

			// What someone tried to write says nothing about what readers get.
			m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("client_id", "shop-9", "client_secret", "x"))
			assert.Equal(t, 2.0, m.Metric("fuuffy_token_requests_total/"+outcome))
			assert.Equal(t, 1.0, m.Metric("fuuffy_upstream_state/"+outcome))
		}
		time.Sleep(time.Minute)
		m.Sandbox.ClearFault()
		m.Do(logical.DeleteOperation, "token", nil)
		m.Read()
		assert.Equal(t, 1.0, m.Metric("fuuffy_upstream_state/ok"))
		m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("client_id", "shop-9", "client_secret", "x"))
		assert.Equal(t, 3.0, m.Metric("fuuffy_token_requests_total/rejected"))
		assert.Equal(t, 1.0, m.Metric("fuuffy_upstream_state/ok"), "a mistyped secret is no failure of the mount")
		m.Do(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", "sk-x"))
		assert.Equal(t, 1.0, m.Metric("fuuffy_rejected_token_reports_total"))
	})
}

// The histogram has how long Fuuffy took.
func TestMetricsOfTheDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetFault(mounttest.SlowAnswer)
		m.Read()
		duration := m.Metrics()["fuuffy_token_request_duration_seconds"].GetMetric()[0].GetHistogram()
		assert.InDelta(t, mounttest.SlowAnswer.Delay.Seconds(), duration.GetSampleSum(), 0.1)
	})
}

func TestMetricsOfWaitingReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		release := m.Sandbox.Hold()
		for range 7 {
			go func() { _, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil) }()
		}
		synctest.Wait()
		assert.Equal(t, 7.0, m.Metric("fuuffy_readers_waiting"))
		assert.EqualValues(t, 7, m.Status()["readers_waiting"])
		release()
		synctest.Wait()
		assert.Equal(t, 0.0, m.Metric("fuuffy_readers_waiting"))
	})
}

func TestMetricsOfARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Staged)
		assert.Equal(t, 1.0, m.Metric("fuuffy_rotation_state/staged"))
		m.Promote()
		assert.Equal(t, 1.0, m.Metric("fuuffy_rotation_state/promoted"))
		assert.Equal(t, float64(time.Now().Unix()), m.Metric("fuuffy_rotation_promoted_timestamp_seconds"))
		assert.Equal(t, 1.0, m.Metric("fuuffy_rotation_steps_total/promote"))

		time.Sleep(time.Minute)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.Do(logical.DeleteOperation, "token", nil)
		m.Read()
		assert.Equal(t, 1.0, m.Metric("fuuffy_rotation_fallback_active"))
		assert.Equal(t, 1.0, m.Metric("fuuffy_rotation_auth_failures"))
		assert.Equal(t, true, m.Status()["fallback_active"])
	})
}

// Names and labels follow Prometheus' conventions, and none comes from outside.
func TestMetricNames(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Staged)
	m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusTooManyRequests, Header: map[string]string{"X-RateLimit-Remaining": "7"}})
	m.Do(logical.DeleteOperation, "token", nil)
	m.Refused(logical.ReadOperation, "token", nil)
	assert.Equal(t, 7.0, m.Metric("fuuffy_rate_limit_remaining"))
	families := m.Metrics()
	for name, family := range families {
		assert.True(t, strings.HasPrefix(name, "fuuffy_"), name)
		assert.NotEmpty(t, family.GetHelp(), name)
		assert.Equal(t, family.GetType() == dto.MetricType_COUNTER, strings.HasSuffix(name, "_total"), name)
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				assert.Contains(t, []string{"outcome", "state", "step", "version"}, label.GetName())
				assert.NotContains(t, label.GetValue(), mounttest.ClientID)
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
