// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The engine stores the certificates in ca_cert and nothing else. A private key that
// was copied along, whole or not, is neither stored nor shown.
func TestOnlyCertificatesOfCACertAreStored(t *testing.T) {
	certificate := strings.TrimSpace(newAuthority(t))
	const planted = "cGxhbnRlZC1wcml2YXRlLWtleS1wbGFudGVk"
	whole := "-----BEGIN PRIVATE KEY-----\n" + planted + "\n-----END PRIVATE KEY-----"
	headless := planted + "\n-----END PRIVATE KEY-----"
	endless := "-----BEGIN PRIVATE KEY-----\n" + planted
	block, _ := pem.Decode([]byte(certificate))
	require.NotNil(t, block)
	withHeaders := string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Headers: map[string]string{"Key": planted}, Bytes: block.Bytes}))

	for name, tt := range map[string]struct {
		bundle       string
		certificates int // 0: the bundle is refused, or one certificate is stored
	}{
		"certificate":                      {certificate, 1},
		"two certificates":                 {certificate + "\n" + strings.TrimSpace(newAuthority(t)) + "\n", 2},
		"key without an end, before":       {endless + "\n" + certificate, 0},
		"key without an end, after":        {certificate + "\n" + endless, 0},
		"key without an end, between":      {certificate + "\n" + endless + "\n" + certificate, 0},
		"key without a beginning, before":  {headless + "\n" + certificate, 0},
		"key without a beginning, after":   {certificate + "\n" + headless, 0},
		"whole key, before":                {whole + "\n" + certificate, 0},
		"whole key, after":                 {certificate + "\n" + whole, 0},
		"text before":                      {"subject=" + planted + "\n" + certificate, 0},
		"headers inside":                   {withHeaders, 0},
		"key without an end, and no blank": {endless + certificate, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			storage := m.useFaultyStorage()
			resp, err := m.handle(t.Context(), "create", "config",
				pairs("client_id", testClientID, "client_secret", testSecret, "verify_connection", false, "ca_cert", tt.bundle))
			assert.False(t, strings.Contains(storage.stored(t, "config"), planted), "the key was stored")
			if err != nil || resp.IsError() {
				status, text := refusal(t, resp, err)
				assert.Equal(t, 400, status)
				assert.False(t, strings.Contains(text, planted), "the error quotes the key")
				assert.Zero(t, tt.certificates, "a good bundle was refused: %s", text)
				return
			}
			shown := m.readConfig()["ca_cert"].(string)
			assert.False(t, strings.Contains(shown, planted), "the key is shown")
			if tt.certificates > 0 {
				assert.Equal(t, strings.TrimSpace(tt.bundle), strings.TrimSpace(shown))
				assert.Equal(t, tt.certificates, strings.Count(shown, "BEGIN CERTIFICATE"))
			}
			rest := []byte(shown)
			for len(strings.TrimSpace(string(rest))) > 0 {
				var block *pem.Block
				block, rest = pem.Decode(rest)
				if !assert.NotNil(t, block) {
					break
				}
				assert.Equal(t, "CERTIFICATE", block.Type)
				assert.Empty(t, block.Headers)
			}
		})
	}
}

// With a damaged certificate in storage nothing can be tested, so nothing changes, not even by
// a step that needs no test. Who writes the certificate again gets the mount going.
func TestDamagedStoredCACert(t *testing.T) {
	m := newRotatingMount(t, stateStaged)
	damage := func() string {
		stored, err := loadConfig(t.Context(), m.storage)
		require.NoError(t, err)
		stored.Endpoint.CACert = "damaged"
		require.NoError(t, saveConfig(t.Context(), m.storage, stored))
		m.startWith(func(*logical.BackendConfig) {})
		return m.useFaultyStorage().stored(t, configKey)
	}
	damaged := damage()
	for _, r := range []adviceRequest{
		{logical.ReadOperation, "token", nil},
		{logical.ReadOperation, "status", nil},
		{logical.ReadOperation, "rotate-root", nil},
		{logical.UpdateOperation, "rotate-root", m.newPair()},
		{logical.UpdateOperation, "rotate-root/promote", nil},
		{logical.UpdateOperation, "rotate-root/check", nil},
		{logical.DeleteOperation, "rotate-root", nil},
		{logical.UpdateOperation, "config", pairs("stale_if_error", true)},
	} {
		status, text := m.refused(r.operation, r.path, r.data)
		assert.Equal(t, http.StatusInternalServerError, status, "%s %s", r.operation, r.path)
		assert.Contains(t, text, "no certificate in it", "%s %s", r.operation, r.path)
	}
	assert.True(t, m.useFaultyStorage().stored(t, configKey) == damaged, "nothing was stored")

	m.useSandbox()
	m.do(logical.DeleteOperation, "rotate-root", nil)
	damage()
	m.write("config", "ca_cert", newAuthority(t), "client_secret", testSecret, "verify_connection", false)
	assert.Equal(t, "ok", m.status()["upstream_state"])
}
