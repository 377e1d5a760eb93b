// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An unset shell variable leaves an empty value. For a switch or a duration, that is an error:
// the credentials must not be saved untested, and an emergency must not pass as a plain stage.
func TestEmptyValueIsRefused(t *testing.T) {
	m := newMount(t)
	untested := pairs("client_id", testClientID, "client_secret", "wrong", "verify_connection", "")
	_, text := m.refused(logical.CreateOperation, "config", untested)
	assert.Contains(t, text, "verify_connection is empty")
	assert.Contains(t, text, "shell variable")
	assert.Contains(t, text, "true or false")
	keys, err := m.storage.List(t.Context(), "")
	require.NoError(t, err)
	assert.Empty(t, keys, "nothing was saved")

	m.configure("stale_if_error", true)
	m.sandbox.CreateClient(newClientID, newSecret)
	before := m.readConfig()
	for _, tt := range []struct {
		path, field string
		data        map[string]any
	}{
		{"rotate-root", "compromised", newPair("compromised", "")},
		{"rotate-root/complete", "force", pairs("force", "")},
		{"config", "stale_if_error", pairs("stale_if_error", "")},
		{"config", "stale_if_error", pairs("stale_if_error", " \n")},
		{"config", "rotation_reminder", pairs("rotation_reminder", "")},
		{"config", "request_timeout", pairs("request_timeout", "")},
	} {
		_, text := m.refused(logical.UpdateOperation, tt.path, tt.data)
		assert.Contains(t, text, tt.field+" is empty")
		assert.Equal(t, before, m.readConfig())
		assert.Equal(t, "idle", m.rotation()["state"])
	}
	m.read()
	_, text = m.refused(logical.ReadOperation, "token", pairs("min_ttl", ""))
	assert.Contains(t, text, "min_ttl is empty", "a job that needs a long life must not get a short one")
}

// null is the same as leaving a field out, which keeps what is stored, or the default.
func TestNullLeavesAFieldOut(t *testing.T) {
	m := newMount(t)
	_, text := m.refused(logical.CreateOperation, "config", pairs("client_id", testClientID, "client_secret", "wrong", "verify_connection", nil))
	assert.Contains(t, text, "Nothing was saved")
	assert.Equal(t, 1, m.requests(), "the credentials were tested")

	m.configure("stale_if_error", true, "request_timeout", 7, "base_url", "https://gateway.example.com/v1", "ca_cert", newAuthority(t), "environment", "testing", "rotation_reminder", 60, "max_read_ttl", 60)
	before := m.readConfig()
	data := map[string]any{}
	for _, field := range ConfigFields {
		data[field] = nil
	}
	for _, operation := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
		m.do(operation, "config", data)
		assert.Equal(t, before, m.readConfig())
		assert.Len(t, data, len(ConfigFields), "the request is as it was, for Vault's audit log")
	}
	assert.Equal(t, 2, m.requests())

	held := m.readToken()
	assert.True(t, m.do(logical.ReadOperation, "token", pairs("min_ttl", nil)).Data["access_token"] == held)
	m.do(logical.DeleteOperation, "token", pairs("min_ttl", nil))
	_, text = m.refused(logical.UpdateOperation, "config", pairs("client_secert", nil))
	assert.Contains(t, text, "unknown field client_secert", "a mistyped name is still one")
}

// A number in JSON loses digits before the engine sees it, and no one's secret is true.
func TestTextTakesNothingElse(t *testing.T) {
	m := newConfiguredMount(t)
	before := m.readConfig()
	for name, value := range map[string]any{
		"number": json.Number("4711"), "number from a plugin process": 9007199254740993.0, "boolean": true, "list": []any{}, "map": map[string]any{},
	} {
		for _, tt := range []struct{ path, field string }{
			{"config", "client_id"}, {"config", "client_secret"}, {"config", "ca_cert"}, {"config", "credentials_created"},
			{"rotate-root", "client_id"}, {"rotate-root", "client_secret"}, {"rotate-root/revoked", "client_id"}, {"token", "rejected_token"},
		} {
			data := pairs("client_id", testClientID, "client_secret", testSecret)
			if tt.path == "token" || tt.path == "rotate-root/revoked" {
				data = map[string]any{}
			}
			data[tt.field] = value
			status, text := m.refused(logical.UpdateOperation, tt.path, data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, text, tt.field+" must be a string", "%s, %s", tt.path, name)
			assert.Contains(t, text, "quotes")
		}
	}
	assert.Equal(t, before, m.readConfig())
	assert.Zero(t, m.requests(), "nothing was sent to Fuuffy")
}

// A report that names no token must not cost a good one. One that has what an app sends as its
// Authorization header names a token.
func TestRejectedTokenAsItWasMeant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		held := m.readToken()
		time.Sleep(10 * time.Minute)
		for _, nothing := range []any{"", "  ", "\n", nil, "Bearer", "bearer \n", " BEARER  "} {
			_, text := m.refused(logical.UpdateOperation, "token", pairs("rejected_token", nothing))
			assert.Contains(t, text, "rejected_token is empty", "%q", nothing)
			assert.Contains(t, text, "shell variable", "%q", nothing)
		}
		for _, other := range []string{"Authorization: Bearer " + held, held + " " + held, "\ufeff" + held, `"` + held + `"`, held + "\x00", "Bearer Bearer " + held, strings.Repeat("x", 16<<10+1)} {
			_, text := m.refused(logical.UpdateOperation, "token", pairs("rejected_token", other))
			assert.Contains(t, text, "rejected_token is not an access token")
			assert.NotContains(t, text, held)
		}
		assert.Equal(t, 1, m.requests())
		assert.Equal(t, held, m.readToken(), "nothing was replaced")

		for i, prefix := range []string{"", "Bearer ", "bearer\t", " BEARER  ", "\n"} {
			reported := m.readToken()
			time.Sleep(time.Minute)
			resp := m.do(logical.UpdateOperation, "token", pairs("rejected_token", prefix+reported+" \n"))
			assert.NotEqual(t, reported, resp.Data["access_token"], "%q", prefix)
			assert.Equal(t, i+2, m.requests())
		}
	})
}

// FuzzConfigText holds what gets through the check of a text field to its rules.
func FuzzConfigText(f *testing.F) {
	for _, value := range []string{"shop-1", "", "a b", "a\u200bb", "a\xff", "a\x00", "päss", strings.Repeat("x", MaxTextLength+1)} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		err := CheckText("client_secret", value)
		if err == nil {
			require.True(t, utf8.ValidString(value))
			require.NotContains(t, value, "\n")
			require.Equal(t, strings.Fields(value), strings.Fields(" "+value+" "))
			require.LessOrEqual(t, len(strings.Fields(value)), 1)
			return
		}
		require.Contains(t, err.Error(), "client_secret")
		if len(value) > 20 {
			require.NotContains(t, err.Error(), value)
		}
	})
}

// FuzzBaseURL holds what gets through as an address to what the secret may be sent to.
func FuzzBaseURL(f *testing.F) {
	for _, address := range []string{
		"https://gateway.example.com/v1", "https://a@b", "https://[::1]:1/x", "https://a:0", "https://a/..", "https://a?", "https://a#", "http://a", "//a", "HTTPS://A.b/C", "https://\u212aey", "https:a", "https://a%2fb",
	} {
		f.Add(address)
	}
	f.Fuzz(func(t *testing.T, address string) {
		if address == "" || CheckBaseURL(address) != nil {
			return
		}
		req, err := http.NewRequest(http.MethodPost, strings.TrimSuffix(address, "/")+"/auth/token", nil)
		require.NoError(t, err)
		require.Equal(t, "https", req.URL.Scheme)
		require.NotEmpty(t, req.URL.Hostname())
		require.Nil(t, req.URL.User)
		require.Empty(t, req.URL.RawQuery)
		require.Empty(t, req.URL.Fragment)
		require.True(t, strings.HasSuffix(req.URL.Path, "/auth/token"))

		lower := LowerCaseHost(address)
		require.NoError(t, CheckBaseURL(lower))
		require.Equal(t, lower, LowerCaseHost(lower))
		same, err := http.NewRequest(http.MethodPost, strings.TrimSuffix(lower, "/")+"/auth/token", nil)
		require.NoError(t, err)
		require.Equal(t, strings.ToLower(req.URL.Host), same.URL.Host)
		require.Equal(t, req.URL.Path, same.URL.Path)
	})
}
