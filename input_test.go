// SPDX-License-Identifier: MPL-2.0

package fuuffy_test

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

	fuuffy "github.com/fuuffy/vault-plugin-secrets-fuuffy"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// An unset shell variable leaves an empty value. For a switch or a duration, that is an error:
// the credentials must not be saved untested, and an emergency must not pass as a plain stage.
func TestEmptyValueIsRefused(t *testing.T) {
	m := mounttest.New(t)
	untested := mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", "wrong", "verify_connection", "")
	_, text := m.Refused(logical.CreateOperation, "config", untested)
	assert.Contains(t, text, "verify_connection is empty")
	assert.Contains(t, text, "shell variable")
	assert.Contains(t, text, "true or false")
	keys, err := m.Storage.List(t.Context(), "")
	require.NoError(t, err)
	assert.Empty(t, keys, "nothing was saved")

	m.Configure("stale_if_error", true)
	m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
	before := m.ReadConfig()
	for _, tt := range []struct {
		path, field string
		data        map[string]any
	}{
		{"rotate-root", "compromised", mounttest.NewPair("compromised", "")},
		{"rotate-root/complete", "force", mounttest.Pairs("force", "")},
		{"config", "stale_if_error", mounttest.Pairs("stale_if_error", "")},
		{"config", "stale_if_error", mounttest.Pairs("stale_if_error", " \n")},
		{"config", "rotation_reminder", mounttest.Pairs("rotation_reminder", "")},
		{"config", "request_timeout", mounttest.Pairs("request_timeout", "")},
	} {
		_, text := m.Refused(logical.UpdateOperation, tt.path, tt.data)
		assert.Contains(t, text, tt.field+" is empty")
		assert.Equal(t, before, m.ReadConfig())
		assert.Equal(t, "idle", m.Rotation()["state"])
	}
	m.Read()
	_, text = m.Refused(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", ""))
	assert.Contains(t, text, "min_ttl is empty", "a job that needs a long life must not get a short one")
}

// null is the same as leaving a field out, which keeps what is stored, or the default.
func TestNullLeavesAFieldOut(t *testing.T) {
	m := mounttest.New(t)
	_, text := m.Refused(logical.CreateOperation, "config", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", "wrong", "verify_connection", nil))
	assert.Contains(t, text, "Nothing was saved")
	assert.Equal(t, 1, m.Requests(), "the credentials were tested")

	m.Configure("stale_if_error", true, "request_timeout", 7, "base_url", "https://gateway.example.com/v1", "ca_cert", mounttest.NewAuthority(t), "environment", "testing", "rotation_reminder", 60, "max_read_ttl", 60)
	before := m.ReadConfig()
	data := map[string]any{}
	for _, field := range fuuffy.ConfigFields {
		data[field] = nil
	}
	for _, operation := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
		m.Do(operation, "config", data)
		assert.Equal(t, before, m.ReadConfig())
		assert.Len(t, data, len(fuuffy.ConfigFields), "the request is as it was, for Vault's audit log")
	}
	assert.Equal(t, 2, m.Requests())

	held := m.ReadToken()
	assert.True(t, m.Do(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", nil)).Data["access_token"] == held)
	m.Do(logical.DeleteOperation, "token", mounttest.Pairs("min_ttl", nil))
	_, text = m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("client_secert", nil))
	assert.Contains(t, text, "unknown field client_secert", "a mistyped name is still one")
}

// A number in JSON loses digits before the engine sees it, and no one's secret is true.
func TestTextTakesNothingElse(t *testing.T) {
	m := mounttest.NewConfigured(t)
	before := m.ReadConfig()
	for name, value := range map[string]any{
		"number": json.Number("4711"), "number from a plugin process": 9007199254740993.0, "boolean": true, "list": []any{}, "map": map[string]any{},
	} {
		for _, tt := range []struct{ path, field string }{
			{"config", "client_id"}, {"config", "client_secret"}, {"config", "ca_cert"}, {"config", "credentials_created"},
			{"rotate-root", "client_id"}, {"rotate-root", "client_secret"}, {"rotate-root/revoked", "client_id"}, {"token", "rejected_token"},
		} {
			data := mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret)
			if tt.path == "token" || tt.path == "rotate-root/revoked" {
				data = map[string]any{}
			}
			data[tt.field] = value
			status, text := m.Refused(logical.UpdateOperation, tt.path, data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, text, tt.field+" must be a string", "%s, %s", tt.path, name)
			assert.Contains(t, text, "quotes")
		}
	}
	assert.Equal(t, before, m.ReadConfig())
	assert.Zero(t, m.Requests(), "nothing was sent to Fuuffy")
}

// A report that names no token must not cost a good one. One that has what an app sends as its
// Authorization header names a token.
func TestRejectedTokenAsItWasMeant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		held := m.ReadToken()
		time.Sleep(10 * time.Minute)
		for _, nothing := range []any{"", "  ", "\n", nil, "Bearer", "bearer \n", " BEARER  "} {
			_, text := m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", nothing))
			assert.Contains(t, text, "rejected_token is empty", "%q", nothing)
			assert.Contains(t, text, "shell variable", "%q", nothing)
		}
		for _, other := range []string{"Authorization: Bearer " + held, held + " " + held, "\ufeff" + held, `"` + held + `"`, held + "\x00", "Bearer Bearer " + held, strings.Repeat("x", 16<<10+1)} {
			_, text := m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", other))
			assert.Contains(t, text, "rejected_token is not an access token")
			assert.NotContains(t, text, held)
		}
		assert.Equal(t, 1, m.Requests())
		assert.Equal(t, held, m.ReadToken(), "nothing was replaced")

		for i, prefix := range []string{"", "Bearer ", "bearer\t", " BEARER  ", "\n"} {
			reported := m.ReadToken()
			time.Sleep(time.Minute)
			resp := m.Do(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", prefix+reported+" \n"))
			assert.NotEqual(t, reported, resp.Data["access_token"], "%q", prefix)
			assert.Equal(t, i+2, m.Requests())
		}
	})
}

// FuzzConfigText holds what gets through the check of a text field to its rules.
func FuzzConfigText(f *testing.F) {
	for _, value := range []string{"shop-1", "", "a b", "a\u200bb", "a\xff", "a\x00", "päss", strings.Repeat("x", fuuffy.MaxTextLength+1)} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		err := fuuffy.CheckText("client_secret", value)
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
		if address == "" || fuuffy.CheckBaseURL(address) != nil {
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

		lower := fuuffy.LowerCaseHost(address)
		require.NoError(t, fuuffy.CheckBaseURL(lower))
		require.Equal(t, lower, fuuffy.LowerCaseHost(lower))
		same, err := http.NewRequest(http.MethodPost, strings.TrimSuffix(lower, "/")+"/auth/token", nil)
		require.NoError(t, err)
		require.Equal(t, strings.ToLower(req.URL.Host), same.URL.Host)
		require.Equal(t, req.URL.Path, same.URL.Path)
	})
}
