// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

func TestStatus(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	m.configure(nil)
	m.token()

	table := command(t, shared, "read", m.path+"/status")
	assert.Regexp(t, `(?m)^token_state\s+fresh$`, table)
	assert.Regexp(t, `(?m)^upstream_state\s+ok$`, table)
	assert.Regexp(t, `(?m)^version\s+`+programs.PluginVersion+`$`, table)
	assert.NotContains(t, table, m.secret)
}

// The format that Prometheus reads comes through Vault as it is.
func TestMetrics(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	m.configure(nil)
	token := m.token()

	text := command(t, shared, "read", "-format=raw", m.path+"/metrics")
	assert.Contains(t, text, "# TYPE fuuffy_token_requests_total counter\n")
	assert.Contains(t, text, "\nfuuffy_token_requests_total{outcome=\"ok\"} 1\n")
	assert.NotContains(t, text, token)

	answer, err := m.client.Logical().ReadRawWithContext(t.Context(), m.path+"/metrics")
	if assert.NoError(t, err) {
		defer answer.Body.Close()
		assert.Equal(t, "text/plain; version=0.0.4; charset=utf-8", answer.Header.Get("Content-Type"))
	}
}
