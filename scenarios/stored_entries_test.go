// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// A config of a newer version of the plugin is called that, whatever that version made
// of its fields. It is not called damaged: who believes it deletes good credentials.
func TestConfigOfANewerVersion(t *testing.T) {
	for name, entry := range map[string]string{
		"a field has another type":   `{"format": 2, "revision": "text", "current": {"id": "a", "client_id": "shop-1", "client_secret": "planted-stored-secret"}}`,
		"credentials became a list":  `{"format": 3, "revision": 7, "current": [{"client_id": "shop-1", "client_secret": "planted-stored-secret"}]}`,
		"durations became texts":     `{"format": 2, "revision": 7, "request_timeout": "10s", "current": {"client_secret": "planted-stored-secret"}}`,
		"the rotation became a text": `{"format": 2, "revision": 7, "rotation": "idle", "current": {"client_secret": "planted-stored-secret"}}`,
		"nothing else is known":      `{"format": 99, "everything": {"is": ["new"]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Read()
				m.Put("config", entry)
				m.Log.Reset()
				m.Restart()
				for _, call := range []struct {
					operation logical.Operation
					path      string
					data      map[string]any
				}{
					{logical.ReadOperation, "config", nil},
					{logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true)},
					{logical.UpdateOperation, "config", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret)},
					{logical.ReadOperation, "token", nil},
					{logical.UpdateOperation, "token", nil},
					{logical.ReadOperation, "rotate-root", nil},
					{logical.UpdateOperation, "rotate-root", mounttest.NewPair()},
					{logical.UpdateOperation, "rotate-root/promote", nil},
				} {
					_, text := m.Refused(call.operation, call.path, call.data)
					assert.Contains(t, text, "use the newer plugin version", "%s %s", call.operation, call.path)
					assert.NotContains(t, text, "damaged", "%s %s", call.operation, call.path)
					assert.False(t, strings.Contains(text, "planted"), "%s %s: the error quotes the entry", call.operation, call.path)
				}
				assert.Contains(t, m.Log.String(), "use the newer plugin version")
				assert.Zero(t, m.Log.Count("damaged"), "the log calls it damaged")
				assert.Zero(t, m.Log.Count("planted"), "the log quotes the entry")
				left, err := m.Storage.Storage.Get(t.Context(), "config")
				require.NoError(t, err)
				assert.True(t, left != nil && string(left.Value) == entry, "the entry is as it was")
			})
		})
	}
}

// A config that really is damaged is still called so.
func TestDamagedConfig(t *testing.T) {
	for name, entry := range map[string]string{
		"cut":                      `{"format": 1, "revision": 1, "current": {"client_secret": "planted-stored-se`,
		"wrong type, known format": `{"format": 1, "revision": "text"}`,
	} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.NewConfigured(t)
			m.Put("config", entry)
			m.Restart()
			for _, path := range []string{"config", "token"} {
				_, text := m.Refused(logical.ReadOperation, path, nil)
				assert.Contains(t, text, "damaged")
				assert.NotContains(t, text, "use the newer plugin version")
				assert.False(t, strings.Contains(text, "planted"), "the error quotes the entry")
			}
		})
	}
}

// A stored token of a newer version is not served and not called damaged: this version
// gets one of its own.
func TestTokenOfANewerVersion(t *testing.T) {
	for name, entry := range map[string]string{
		"a field has another type": `{"format": 2, "access_token": "sk-planted", "issued_at": 946684800, "expires_at": 946688400}`,
		"token became an object":   `{"format": 2, "access_token": {"value": "sk-planted"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Put("token", entry)
				m.Log.Reset()
				m.Restart()
				assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
				assert.Equal(t, 1, m.Requests())
				assert.Zero(t, m.Log.Count("damaged"), "the log calls it damaged")
				assert.Zero(t, m.Log.Count("sk-planted"), "the log quotes the entry")
			})
		})
	}
}

// A stored token that this engine can't have written is not served.
func TestDamagedToken(t *testing.T) {
	for name, damage := range map[string]map[string]any{
		"without a format":       {"format": 0},
		"not an access token":    {"access_token": "two words"},
		"of no life":             {"expires_at": "2000-01-01T00:00:00Z"},
		"of another life":        {"expires_at": "2100-01-01T01:00:00Z"},
		"of other credentials":   {"credentials_id": "another"},
		"from far in the future": {"issued_at": "2001-01-01T00:00:00Z", "expires_at": "2001-01-01T01:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				m.Edit(mounttest.TokenKey, func(stored map[string]any) {
					require.Equal(t, "2000-01-01T00:00:00Z", stored["issued_at"])
					require.Equal(t, json.Number("1"), stored["format"])
					maps.Copy(stored, damage)
				})
				m.Restart()
				served := m.ReadToken()
				assert.False(t, served == token || served == damage["access_token"], "the engine serves it")
			})
		})
	}
}

// A stored token that can't be read costs a request, and the log says why, without a word of
// the entry.
func TestUnreadableTokenIsLogged(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*mounttest.Mount)
		want  string
	}{
		"storage fails": {func(m *mounttest.Mount) { m.Storage.Failing(mounttest.FailAll("get", mounttest.TokenKey)) }, "read the stored token: storage is broken"},
		"cut":           {func(m *mounttest.Mount) { m.Put(mounttest.TokenKey, `{"format": 1, "access_token": "sk-planted`) }, "decode the stored token: the entry is damaged"},
		"wrong type":    {func(m *mounttest.Mount) { m.Put(mounttest.TokenKey, `{"format": 1, "access_token": ["sk-planted"]}`) }, "decode the stored token: the entry is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				tt.spoil(m)
				m.Restart()
				synctest.Wait()
				assert.NotZero(t, m.Log.Count("could not use the stored access token"))
				assert.NotZero(t, m.Log.Count(tt.want))
				assert.Zero(t, m.Log.Count("sk-planted"), "the log quotes the entry")
				assert.False(t, m.ReadToken() == token)
				assert.Equal(t, 2, m.Requests())
			})
		})
	}
}

// The longest life that the engine believes is one that it believes after a restart too.
func TestTokenOfTheLongestLifeIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetTokenLifetime(upstream.MaxTokenLife)
		token := m.ReadToken()
		m.Restart()
		assert.True(t, m.ReadToken() == token)
		assert.Equal(t, 1, m.Requests())
	})
}
