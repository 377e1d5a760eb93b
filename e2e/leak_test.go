// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// Secrets with characters that change in an URL, so that the encoded form can be
// told from the plain one.
const (
	rightSecret = "planted/right+secret=1"
	wrongSecret = "planted/wrong+secret=2"
	plantedBody = "planted body of an answer"
)

// Neither Vault's log, with all that the plugin writes, at the finest level, nor the
// audit log, nor an error may have a secret, a token or what Fuuffy answered.
func TestNoLeaks(t *testing.T) {
	t.Parallel()
	v, audit := auditedVault(t)
	m := newMount(t, v, fuuffytest.Config{PerMinute: -1})
	m.secret = rightSecret
	m.CreateClient(clientID, rightSecret)

	tokens, failures := m.everything()

	planted := append(tokens, rightSecret, wrongSecret, plantedBody)
	for place, text := range map[string]string{
		"Vault's log":   content(t, v.LogFile),
		"the audit log": content(t, audit),
		"an error":      fmt.Sprint(failures),
		"an answer":     m.path + m.answers(),
	} {
		// That the text is the right one: it tells of the mount.
		require.Contains(t, text, m.path, place)
		for _, secret := range planted {
			for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret))} {
				assert.False(t, strings.Contains(text, form), "%s has %q", place, form)
			}
		}
	}
}

// answers is all that the engine shows but the token itself.
func (m *mount) answers() string {
	m.t.Helper()
	var all strings.Builder
	for _, path := range []string{"config", "rotate-root", "status", "metrics"} {
		answer, err := m.client.Logical().ReadRawWithContext(m.t.Context(), m.path+"/"+path)
		require.NoError(m.t, err)
		defer answer.Body.Close()
		_, err = io.Copy(&all, answer.Body)
		require.NoError(m.t, err)
	}
	require.Contains(m.t, all.String(), "fuuffy_token_requests_total")
	return all.String()
}

func content(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(text)
}

// everything does what an operator and an app do, with every way to fail, and
// returns the tokens that were issued and the errors.
func (m *mount) everything() (tokens []string, failures []error) {
	m.t.Helper()
	refused := func(_ *api.Secret, err error) {
		m.t.Helper()
		require.Error(m.t, err)
		failures = append(failures, err)
	}
	refused(m.write("config", m.settings(map[string]any{"client_secret": wrongSecret})))
	refused(m.write("config", m.settings(map[string]any{"client_secret": wrongSecret, "unknown": wrongSecret})))
	refused(m.write("config", m.settings(map[string]any{"base_url": "http://127.0.0.1/v1"})))
	refused(m.write("config", m.settings(map[string]any{"base_url": "https://user:" + wrongSecret + "@127.0.0.1/v1"})))
	m.configure(map[string]any{"client_secret": rightSecret + "\n"})
	tokens = append(tokens, m.token())
	_, err := m.write("token", map[string]any{"rejected_token": tokens[0]})
	require.NoError(m.t, err)

	for _, fault := range []fuuffytest.Fault{
		{Kind: fuuffytest.FaultBody, Body: plantedBody},
		{Kind: fuuffytest.FaultBody, Body: `{"data": {"access_token": "` + plantedBody + `", "token_type": "Bearer", "expires_in": 3600}}`},
		{Kind: fuuffytest.FaultStatus, Status: http.StatusInternalServerError, Body: plantedBody},
		{Kind: fuuffytest.FaultStatus, Status: http.StatusUnauthorized, Body: plantedBody},
		{Kind: fuuffytest.FaultStatus, Status: http.StatusTooManyRequests},
		{Kind: fuuffytest.FaultRedirect, Header: map[string]string{"Location": "https://elsewhere.invalid/?" + url.QueryEscape(plantedBody)}},
		{Kind: fuuffytest.FaultTruncated},
		{Kind: fuuffytest.FaultCut},
		{Kind: fuuffytest.FaultRefuse},
		{Kind: fuuffytest.FaultExpiredCertificate},
	} {
		m.reload()
		m.SetFault(fault)
		hits := m.Stats().FaultsHit
		m.deleteToken()
		refused(m.client.Logical().ReadWithContext(m.t.Context(), m.path+"/token"))
		require.Greater(m.t, m.Stats().FaultsHit, hits, "requests that met %v", fault.Kind)
		hits = m.Stats().FaultsHit
		refused(m.write("config", map[string]any{"client_secret": wrongSecret}))
		require.Greater(m.t, m.Stats().FaultsHit, hits, "requests that met %v", fault.Kind)
	}
	m.ClearFault()
	m.reload()
	m.deleteToken()
	return append(tokens, m.token()), failures
}

func (m *mount) deleteToken() {
	m.t.Helper()
	_, err := m.client.Logical().DeleteWithContext(m.t.Context(), m.path+"/token")
	require.NoError(m.t, err)
}
