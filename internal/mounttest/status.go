// SPDX-License-Identifier: MPL-2.0

package mounttest

import (
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

func (m *Mount) Status() map[string]any {
	m.T.Helper()
	return m.Do(logical.ReadOperation, "status", nil).Data
}

// Metric returns a sample of the metrics, as "name" or "name/label value".
func (m *Mount) Metric(sample string) float64 {
	m.T.Helper()
	name, label, _ := strings.Cut(sample, "/")
	family := m.Metrics()[name]
	require.NotNil(m.T, family, "no metric %s", name)
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
	m.T.Fatalf("no sample %s", sample)
	return 0
}

func (m *Mount) Metrics() map[string]*dto.MetricFamily {
	m.T.Helper()
	resp, err := m.Backend.HandleRequest(m.T.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "metrics", Storage: m.Storage})
	require.NoError(m.T, err)
	require.Equal(m.T, http.StatusOK, resp.Data[logical.HTTPStatusCode])
	require.Equal(m.T, "text/plain; version=0.0.4; charset=utf-8", resp.Data[logical.HTTPContentType])
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(resp.Data[logical.HTTPRawBody].([]byte))))
	require.NoError(m.T, err)
	return families
}
