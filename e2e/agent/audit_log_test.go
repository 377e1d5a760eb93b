// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// TestReadableAuditLog types the command of docs/monitoring.md that has Vault log fields
// in the clear, uses every path, and reads the audit log: of what the engine was sent
// and what it answered, only secrets and tokens are hashed, and all of them are.
func TestReadableAuditLog(t *testing.T) {
	t.Parallel()
	m := newMount(t, "audited", fuuffytest.Config{}, nil)
	m.CreateClient("shop-2", "second-secret")
	m.CreateClient("shop-3", "third-secret")
	m.runTuning()
	before := len(m.audited())

	token := m.call("read", "token?min_ttl=20m", nil)["access_token"].(string)
	replaced := m.call("write", "token", map[string]any{"rejected_token": token})["access_token"].(string)
	m.call("write", "config", map[string]any{
		"environment": "testing", "client_id": "shop", "client_secret": secret, "base_url": m.BaseURL(), "ca_cert": m.CACert(),
		"request_timeout": "9s", "token_expiry_buffer": "5m", "token_refresh_window": "4m", "stale_if_error": "true",
		"rotation_period": "1440h", "rotation_reminder": "240h", "max_read_ttl": "2m", "credentials_created": "2026-01-02", "verify_connection": "true",
	})
	m.call("read", "config", nil)
	m.call("write", "rotate-root", map[string]any{"client_id": "shop-2", "client_secret": "second-secret"})
	m.call("write", "rotate-root/check", nil)
	m.call("write", "rotate-root/promote", nil)
	m.call("write", "rotate-root/complete", map[string]any{"force": "true"})
	m.call("write", "rotate-root/revoked", map[string]any{"client_id": "shop"})
	m.call("write", "rotate-root", map[string]any{"client_id": "shop-3", "client_secret": "third-secret", "compromised": "true"})
	m.call("write", "rotate-root/complete", map[string]any{"force": "true"})
	m.call("read", "rotate-root", nil)
	m.call("read", "status", nil)
	_, err := vault.Client.Logical().WriteWithContext(t.Context(), m.path+"/rotate-root/promote", nil)
	require.ErrorContains(t, err, "staged")
	last := m.call("read", "token", nil)["access_token"].(string)

	log := m.audited()[before:]
	hashed, clear := map[string]bool{}, map[string]bool{}
	for line := range bytes.Lines(log) {
		var entry struct {
			Request, Response struct {
				Data map[string]any `json:"data"`
			}
		}
		require.NoError(t, json.Unmarshal(line, &entry))
		for _, data := range []map[string]any{entry.Request.Data, entry.Response.Data} {
			for field, value := range data {
				if text, ok := value.(string); ok && strings.HasPrefix(text, "hmac-sha256:") {
					hashed[field] = true
				} else {
					clear[field] = true
				}
			}
		}
	}
	assert.Equal(t, []string{"access_token", "client_secret", "rejected_token"}, slices.Sorted(maps.Keys(hashed)), "fields that are hashed")
	assert.Subset(t, slices.Collect(maps.Keys(clear)), []string{"client_id", "base_url", "next_step", "expires_at", "min_ttl", "force", "compromised", "unrevoked", "history", "error"})
	for what, value := range map[string]string{"the client secret": secret, "a staged secret": "second-secret", "a new secret": "third-secret", "a token": token, "another token": replaced, "the last token": last} {
		assert.False(t, bytes.Contains(log, []byte(value)), "%s is in the audit log", what)
	}
}

// runTuning types the command of the document.
func (m *mount) runTuning() {
	m.t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "monitoring.md"))
	require.NoError(m.t, err)
	_, command, found := strings.Cut(string(page), "    vault write sys/mounts/fuuffy/tune ")
	require.True(m.t, found)
	command, _, _ = strings.Cut(command, "\n\n")
	_, err = vault.Shell(m.t.Context(), "", "vault write sys/mounts/"+m.path+"/tune "+command, "")
	require.NoError(m.t, err)
}

// call makes a request with root's token, and returns the data of the answer.
func (m *mount) call(operation, path string, data map[string]any) map[string]any {
	m.t.Helper()
	path, query, _ := strings.Cut(m.path+"/"+path, "?")
	var answer *api.Secret
	var err error
	if operation == "read" {
		parameters, parseErr := url.ParseQuery(query)
		require.NoError(m.t, parseErr)
		answer, err = vault.Client.Logical().ReadWithDataWithContext(m.t.Context(), path, parameters)
	} else {
		answer, err = vault.Client.Logical().WriteWithContext(m.t.Context(), path, data)
	}
	require.NoError(m.t, err, path)
	if answer == nil {
		return nil
	}
	return answer.Data
}

// audited returns the lines of the audit log about the mount.
func (m *mount) audited() []byte {
	m.t.Helper()
	log, err := os.ReadFile(auditFile)
	require.NoError(m.t, err)
	// The last line may be half written.
	log = log[:bytes.LastIndexByte(log, '\n')+1]
	var lines []byte
	for line := range bytes.Lines(log) {
		if bytes.Contains(line, []byte(`"path":"`+m.path+`/`)) {
			lines = append(lines, line...)
		}
	}
	require.NotEmpty(m.t, lines)
	return lines
}
