// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// What cannot work is refused with what to do about it, and nothing is stored.
func TestConfigRefused(t *testing.T) {
	other := fuuffytest.NewServer(t, fuuffytest.Config{})
	for name, c := range map[string]struct {
		changes map[string]any
		fault   string
		says    []string
	}{
		"nobody listens":              {changes: map[string]any{"base_url": "https://" + closedPort(t) + "/v1"}, says: []string{"base_url"}},
		"certificate of another host": {fault: fuuffytest.FaultWrongHostCertificate, says: []string{"base_url"}},
		"expired certificate":         {fault: fuuffytest.FaultExpiredCertificate, says: []string{"expired"}},
		"system's CAs":                {changes: map[string]any{"ca_cert": nil}, says: []string{"ca_cert"}},
		"another CA":                  {changes: map[string]any{"ca_cert": other.CACert()}, says: []string{"ca_cert"}},
		"no certificate":              {changes: map[string]any{"ca_cert": "no PEM"}, says: []string{"ca_cert", "PEM"}},
		"http":                        {changes: map[string]any{"base_url": "http://127.0.0.1/v1"}, says: []string{"base_url", "https"}},
		"no secret":                   {changes: map[string]any{"client_secret": nil}, says: []string{"client_secret"}},
		"no id":                       {changes: map[string]any{"client_id": nil}, says: []string{"client_id"}},
		"wrong secret":                {changes: map[string]any{"client_secret": "wrong"}, says: []string{"invalid_client", "dashboard"}},
		"secret with a gap":           {changes: map[string]any{"client_secret": "two words"}, says: []string{"client_secret", "white space"}},
		"wrong environment":           {changes: map[string]any{"environment": "staging"}, says: []string{"environment", "testing"}},
		"not a duration":              {changes: map[string]any{"request_timeout": "soon"}, says: []string{"request_timeout must be a duration"}},
		"secret is a map":             {changes: map[string]any{"client_secret": map[string]any{"a": "b"}}, says: []string{"client_secret must be a string"}},
		"unknown field":               {changes: map[string]any{"client_secert": "x"}, says: []string{"client_secert"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, shared, fuuffytest.Config{})
			if c.fault != "" {
				m.SetFault(fuuffytest.Fault{Kind: c.fault})
			}

			_, err := m.write("config", m.settings(c.changes))

			require.Error(t, err)
			for _, text := range c.says {
				assert.ErrorContains(t, err, text)
			}
			assert.Nil(t, m.readConfig())
		})
	}
}

// closedPort returns an address at which no one listens.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}

// A refused change leaves everything as it was.
func TestConfigGoesOnServing(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	m.configure(nil)
	held, config := m.token(), m.readConfig().Data

	for name, change := range map[string]map[string]any{
		"wrong secret":           {"client_secret": "wrong"},
		"endpoint, no secret":    {"base_url": "https://127.0.0.1:1/v1"},
		"endpoint, with secret":  {"base_url": "https://" + closedPort(t) + "/v1", "client_secret": m.secret},
		"certificate, no secret": {"ca_cert": ""},
	} {
		_, err := m.write("config", change)
		require.Error(t, err, name)
		assert.Equal(t, config, m.readConfig().Data, name)
		assert.Equal(t, held, m.token(), name)
	}
}

func TestConfigNeverShowsTheSecret(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	m.configure(nil)

	answer := command(t, shared, "read", "-format=json", m.path+"/config")

	assert.NotContains(t, answer, m.secret)
	data, _ := decode(t, answer)["data"].(map[string]any)
	assert.Equal(t, clientID, data["client_id"])
	assert.NotContains(t, data, "client_secret")
}

// A pasted secret brings a newline along. That is no reason to fail.
func TestConfigTrims(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})

	answer := m.configure(map[string]any{"client_secret": " " + m.secret})

	require.NotNil(t, answer)
	assert.Contains(t, strings.Join(answer.Warnings, " "), "client_secret")
	assert.Equal(t, 1, m.requests())
	m.token()
}

// An update changes what it names, and tries nothing that it does not change.
func TestConfigUpdate(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	m.configure(nil)
	held := m.token()

	_, err := m.write("config", map[string]any{"request_timeout": "5s"})
	require.NoError(t, err)

	config := m.readConfig().Data
	assert.Equal(t, json.Number("5"), config["request_timeout"])
	assert.Equal(t, clientID, config["client_id"])
	assert.Equal(t, held, m.token())
	assert.Equal(t, 1, m.requests())
}

func TestConfigDeleted(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	m.configure(nil)
	m.token()

	_, err := m.client.Logical().DeleteWithContext(t.Context(), m.path+"/config")
	require.NoError(t, err)

	assert.Nil(t, m.readConfig())
	_, err = m.client.Logical().ReadWithContext(t.Context(), m.path+"/token")
	assert.ErrorContains(t, err, "config", "the error must say what to configure")
	assert.Equal(t, 1, m.requests())
}
