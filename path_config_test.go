// SPDX-License-Identifier: MPL-2.0

package fuuffy_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

func TestConfigDefaults(t *testing.T) {
	m := mounttest.New(t)
	assert.Nil(t, m.Configure(), "nothing to warn of")
	assert.Equal(t, map[string]any{
		"client_id":            mounttest.ClientID,
		"environment":          "production",
		"base_url":             "",
		"ca_cert":              "",
		"stale_if_error":       false,
		"request_timeout":      int64(10),
		"token_expiry_buffer":  int64(300),
		"token_refresh_window": int64(300),
		"rotation_period":      int64(90 * 24 * 3600),
		"rotation_reminder":    int64(14 * 24 * 3600),
	}, m.ReadConfig())
}

func TestConfigReadBeforeWrite(t *testing.T) {
	m := mounttest.New(t)
	resp, err := m.Backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "config", Storage: m.Storage})
	require.NoError(t, err)
	assert.Nil(t, resp, "which Vault makes a 404")
}

func TestConfigExistence(t *testing.T) {
	m := mounttest.New(t)
	exists := func() bool {
		checked, exists, err := m.Backend.HandleExistenceCheck(t.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: "config", Storage: m.Storage})
		require.NoError(t, err)
		require.True(t, checked)
		return exists
	}
	assert.False(t, exists())
	m.Configure()
	assert.True(t, exists())
}

func TestConfigPartialUpdate(t *testing.T) {
	m := mounttest.New(t)
	m.Configure("request_timeout", "7s")
	before := m.ReadConfig()
	token := m.ReadToken()

	m.Do(logical.UpdateOperation, "config", mounttest.Pairs("token_expiry_buffer", "10m", "stale_if_error", true))
	before["token_expiry_buffer"], before["stale_if_error"] = int64(600), true
	assert.Equal(t, before, m.ReadConfig())
	resp := m.Read()
	assert.Equal(t, token, resp.Data["access_token"], "a change of policy keeps the token")
	assert.EqualValues(t, 50*60, resp.Data["rotation_period"], "and applies to it")
	assert.Equal(t, 1, m.Requests(), "what does not change the credentials is not tried")
}

// Anyone who may update the config sets max_read_ttl and removes it, without credentials and
// without a request. A read of the config without it shows what it showed before there was one.
func TestConfigMaxReadTTL(t *testing.T) {
	m := mounttest.NewConfigured(t)
	token := m.ReadToken()
	storage := m.UseFaultyStorage()
	before := m.ReadConfig()
	assert.NotContains(t, before, "max_read_ttl")
	assert.NotContains(t, storage.Stored(t, mounttest.ConfigKey), "max_read_ttl", "an entry without it is as an older version wrote it")
	for _, step := range []struct {
		written, shown any
		same           bool
	}{
		{0, nil, true}, {"0s", nil, true}, {"10s", int64(10), false}, {10, int64(10), true}, {nil, int64(10), true},
		{"2m", int64(120), false}, {"120", int64(120), true}, {"24h", int64(86400), false}, {0, nil, false}, {"0", nil, true},
	} {
		entry := storage.Stored(t, mounttest.ConfigKey)
		assert.Nil(t, m.Write("config", "max_read_ttl", step.written), "nothing to warn of")
		assert.Equal(t, step.same, storage.Stored(t, mounttest.ConfigKey) == entry, "%v: a write that changes nothing writes nothing", step.written)
		shown := m.ReadConfig()
		assert.Equal(t, step.shown, shown["max_read_ttl"], "%v", step.written)
		delete(shown, "max_read_ttl")
		assert.Equal(t, before, shown, "%v", step.written)
	}
	m.Write("config", "max_read_ttl", "1m")
	m.Write("config", "request_timeout", "9s")
	m.Restart()
	assert.EqualValues(t, 60, m.ReadConfig()["max_read_ttl"], "a write that doesn't name it keeps it")
	assert.True(t, m.ReadToken() == token)
	assert.Equal(t, 1, m.Requests(), "nothing was tried")
}

// The token that proved the credentials is the first one served.
func TestVerificationTokenIsServed(t *testing.T) {
	m := mounttest.New(t)
	m.Configure()
	assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
	m.Restart()
	m.Read()
	assert.Equal(t, 1, m.Requests())
}

func TestConfigIsVerifiedBeforeItIsSaved(t *testing.T) {
	for name, tt := range map[string]struct {
		fault  fuuffytest.Fault
		status int
		text   string
	}{
		"rejected":     {mounttest.FaultRejected, 400, "invalid_client: Client authentication failed"},
		"not found":    {fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 404}, 400, "base_url doesn't lead to Fuuffy"},
		"redirect":     {fuuffytest.Fault{Kind: fuuffytest.FaultRedirect}, 400, "a redirect. The engine doesn't follow it"},
		"unavailable":  {mounttest.FaultUnavailable, 502, "Fuuffy returned 503"},
		"malformed":    {mounttest.FaultMalformed, 502, "text/html instead of JSON"},
		"rate limited": {mounttest.FaultRateLimited, 429, "Fuuffy asks to wait until 2000-01-01T00:10:00Z"},
		"hanging":      {fuuffytest.Fault{Kind: fuuffytest.FaultHang}, 504, "Can't reach Fuuffy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.New(t)
				m.Sandbox.SetFault(tt.fault)
				status, text := m.Refused(logical.CreateOperation, "config", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret))
				assert.Equal(t, tt.status, status)
				assert.Contains(t, text, "Nothing was saved")
				assert.Contains(t, text, tt.text)
				assert.Positive(t, m.Requests())
				keys, err := m.Storage.List(t.Context(), "")
				require.NoError(t, err)
				assert.Empty(t, keys)

				// A working engine goes on with what it had.
				m.Sandbox.ClearFault()
				m.Configure()
				before, token := m.ReadConfig(), m.ReadToken()
				m.Sandbox.SetFault(tt.fault)
				m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("client_secret", "wrong", "stale_if_error", true))
				assert.Equal(t, before, m.ReadConfig())
				assert.Equal(t, token, m.ReadToken())
			})
		})
	}
}

func TestConfigWithoutVerification(t *testing.T) {
	m := mounttest.New(t)
	resp := m.Do(logical.CreateOperation, "config", mounttest.Pairs("client_id", "anything", "client_secret", "wrong", "verify_connection", false))
	require.Len(t, resp.Warnings, 1)
	assert.Contains(t, resp.Warnings[0], "without a test")
	assert.Zero(t, m.Requests())
}

func TestConfigTrimsWhatAPasteBringsAlong(t *testing.T) {
	m := mounttest.New(t)
	resp := m.Do(logical.CreateOperation, "config", mounttest.Pairs("client_id", " "+mounttest.ClientID+"\t", "client_secret", mounttest.Secret+"\r\n", "base_url", " https://gateway.example.com/v1/ "))
	assert.Equal(t, []string{
		"client_id had white space around it; the engine removed it",
		"base_url had white space around it; the engine removed it",
	}, resp.Warnings)
	assert.Equal(t, mounttest.ClientID, m.ReadConfig()["client_id"])
	assert.Equal(t, "https://gateway.example.com/v1", m.ReadConfig()["base_url"])
	assert.Equal(t, 1, m.Requests(), "the trimmed credentials work")
}

// Whoever may write the config but does not know the secret can't have it sent
// to a host of theirs.
func TestEndpointChangeNeedsTheSecret(t *testing.T) {
	ca := fuuffytest.NewServer(t, fuuffytest.Config{}).CACert()
	for field, value := range map[string]string{
		"environment": "testing",
		"base_url":    "https://evil.example.com/v1",
		"ca_cert":     ca,
	} {
		t.Run(field, func(t *testing.T) {
			m := mounttest.New(t)
			m.Configure()
			token := m.ReadToken()
			status, text := m.Refused(logical.UpdateOperation, "config", mounttest.Pairs(field, value))
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, text, "Add client_secret=-")
			assert.Equal(t, 1, m.Requests(), "nothing was sent anywhere")
			assert.Equal(t, token, m.ReadToken())

			m.Do(logical.UpdateOperation, "config", mounttest.Pairs(field, value, "client_secret", mounttest.Secret))
			assert.Equal(t, 2, m.Requests())
			assert.NotEqual(t, token, m.ReadToken(), "the token of the former endpoint is dropped")

			m.Do(logical.UpdateOperation, "config", mounttest.Pairs(field, value))
			assert.Equal(t, 2, m.Requests(), "the same again is no change")
		})
	}
}

// A scheme and a host mean the same in either case. A path doesn't.
func TestEndpointIsComparedWithoutCase(t *testing.T) {
	m := mounttest.New(t)
	m.Configure("base_url", "HTTPS://Gateway.Example.com:8443/v1/")
	assert.Equal(t, "https://gateway.example.com:8443/v1", m.ReadConfig()["base_url"])
	token := m.ReadToken()
	storage := m.UseFaultyStorage()
	stored := storage.Stored(t, mounttest.ConfigKey)
	for _, same := range []string{"https://gateway.example.com:8443/v1", "HTTPS://GATEWAY.EXAMPLE.COM:8443/v1", "hTTps://gatewaY.example.com:8443/v1/"} {
		m.Do(logical.UpdateOperation, "config", mounttest.Pairs("base_url", same))
		assert.True(t, storage.Stored(t, mounttest.ConfigKey) == stored, same)
	}
	assert.Equal(t, token, m.ReadToken())
	assert.Equal(t, 1, m.Requests())
	_, text := m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("base_url", "https://gateway.example.com:8443/V1"))
	assert.Contains(t, text, "client_secret")
	m.Write("config", "base_url", "Https://GATEWAY.example.com/V1", "client_secret", mounttest.Secret, "verify_connection", false)
	assert.Equal(t, "https://gateway.example.com/V1", m.ReadConfig()["base_url"])
}

// An address that an older version stored as it was written is still the same endpoint.
func TestStoredEndpointIsComparedWithoutCase(t *testing.T) {
	m := mounttest.NewConfigured(t, "base_url", "https://gateway.example.com/v1")
	m.Edit(mounttest.ConfigKey, func(stored map[string]any) {
		stored["endpoint"].(map[string]any)["base_url"] = "HTTPS://Gateway.example.com/v1"
	})
	m.Restart()
	m.Write("config", "stale_if_error", true)
	m.Write("config", "base_url", "HTTPS://Gateway.example.com/v1")
	assert.Equal(t, "https://gateway.example.com/v1", m.ReadConfig()["base_url"])
}

// Some characters become ASCII letters in lower case. They name another host all the same.
func TestHostIsCheckedAsItIsWritten(t *testing.T) {
	m := mounttest.New(t)
	_, text := m.Refused(logical.CreateOperation, "config", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "base_url", "https://\u212aey.example.com"))
	assert.Contains(t, text, "ASCII letters")
}

func TestNewCredentialsDropTheToken(t *testing.T) {
	for name, verify := range map[string]bool{"verified": true, "not verified": false} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.New(t)
			m.Configure()
			old := m.ReadToken()
			m.Sandbox.CreateClient("shop-2", "other-secret")
			m.Do(logical.UpdateOperation, "config", mounttest.Pairs("client_id", "shop-2", "client_secret", "other-secret", "verify_connection", verify))
			entry, err := m.Storage.Storage.Get(t.Context(), mounttest.TokenKey)
			require.NoError(t, err)
			assert.Equal(t, verify, entry != nil, "only a token of the new credentials is stored")
			assert.NotEqual(t, old, m.ReadToken())
			assert.Equal(t, 2, m.Requests())
		})
	}
}

func TestDeleteConfig(t *testing.T) {
	m := mounttest.New(t)
	m.Configure()
	m.Read()
	m.Do(logical.DeleteOperation, "config", nil)
	keys, err := m.Storage.List(t.Context(), "")
	require.NoError(t, err)
	assert.Empty(t, keys)
	_, text := m.Refused(logical.ReadOperation, "token", nil)
	assert.Contains(t, text, "no Fuuffy credentials yet")
	m.Do(logical.DeleteOperation, "config", nil)
	m.Tick()
}

// Of two writes that were verified at the same time, the second one is told.
func TestConcurrentConfigWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.CreateClient("shop-2", "other-secret")
		release := m.Sandbox.Hold()
		answered := make(chan string, 1)
		go func() {
			resp, err := m.Handle(context.Background(), logical.UpdateOperation, "config", mounttest.Pairs("client_id", "shop-2", "client_secret", "other-secret"))
			_, text := mounttest.Refusal(t, resp, err)
			answered <- text
		}()
		synctest.Wait()
		m.Do(logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true))
		release()
		assert.Contains(t, <-answered, "someone else changed the configuration")
		assert.Equal(t, mounttest.ClientID, m.ReadConfig()["client_id"])
		assert.Equal(t, true, m.ReadConfig()["stale_if_error"])
	})
}

func TestConfigStorageFaults(t *testing.T) {
	t.Run("save", func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		token := m.ReadToken()
		m.Storage.Failing(mounttest.FailAll("put", mounttest.ConfigKey))
		status, text := m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true))
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Contains(t, text, "save config: storage is broken")
		assert.Equal(t, false, m.ReadConfig()["stale_if_error"])
		assert.Equal(t, token, m.ReadToken())
	})
	t.Run("read only, as text", func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		m.Storage.Failing(func(operation, _ string) error {
			if operation == "put" {
				return errors.New(logical.ErrReadOnly.Error())
			}
			return nil
		})
		_, err := m.Handle(t.Context(), logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true))
		assert.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)
	})
	t.Run("delete", func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		m.Storage.Failing(mounttest.FailAll("delete", mounttest.ConfigKey))
		m.Refused(logical.DeleteOperation, "config", nil)
		m.Read()
	})
	for name, entry := range map[string]string{"damaged": "damaged: " + mounttest.Secret, "of a newer version": `{"format": 99}`} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.New(t)
			require.NoError(t, m.Storage.Put(t.Context(), &logical.StorageEntry{Key: mounttest.ConfigKey, Value: []byte(entry)}))
			for _, path := range []string{"config", "token"} {
				status, text := m.Refused(logical.ReadOperation, path, nil)
				assert.Equal(t, http.StatusInternalServerError, status)
				assert.Contains(t, text, "decode config")
				assert.NotContains(t, text, mounttest.Secret)
			}
		})
	}
}

func TestConfigIsForwarded(t *testing.T) {
	for name, state := range map[string]consts.ReplicationState{
		"performance standby":   consts.ReplicationPerformanceStandby,
		"performance secondary": consts.ReplicationPerformanceSecondary,
	} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.New(t)
			m.SetReplicationState(state)
			for _, operation := range []logical.Operation{logical.CreateOperation, logical.UpdateOperation, logical.DeleteOperation} {
				_, err := m.Handle(t.Context(), operation, "config", mounttest.Pairs("client_id", "shop-1", "client_secret", "x"))
				assert.True(t, err == logical.ErrReadOnly, "%s: want the bare error, got %v", operation, err)
			}
			assert.Zero(t, m.Requests())
		})
	}
}

// A node learns by Invalidate that another one changed the config.
func TestInvalidateConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		old := m.ReadToken()
		other := m.Twin(0)
		other.Do(logical.UpdateOperation, "config", mounttest.Pairs("environment", "testing", "client_secret", mounttest.Secret))

		assert.Equal(t, old, m.ReadToken(), "not told yet")
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		resp := m.Read()
		assert.NotEqual(t, old, resp.Data["access_token"])
		assert.Equal(t, "testing", resp.Data["environment"])
	})
}

func TestConfigRefusesBadInput(t *testing.T) {
	pem := fuuffytest.NewServer(t, fuuffytest.Config{}).CACert()
	long := strings.Repeat("x", 5000)
	for name, tt := range map[string]struct {
		data map[string]any
		text string
	}{
		"no client_id":          {mounttest.Pairs("client_id", ""), "client_id is missing"},
		"no client_secret":      {mounttest.Pairs("client_secret", " \n"), "client_secret is missing"},
		"secret is a map":       {mounttest.Pairs("client_secret", map[string]any{"a": mounttest.Secret}), "client_secret must be a string"},
		"secret is a list":      {mounttest.Pairs("client_secret", []any{mounttest.Secret}), "client_secret must be a string"},
		"space in the secret":   {mounttest.Pairs("client_secret", "two words"), "client_secret has white space or an invisible character inside (character 4)"},
		"zero width space":      {mounttest.Pairs("client_secret", "ab\u200bc"), "(character 3)"},
		"control character":     {mounttest.Pairs("client_id", "ab\x00"), "client_id has white space or an invisible character"},
		"not UTF-8":             {mounttest.Pairs("client_id", "ab\xff"), "client_id is not valid UTF-8"},
		"long":                  {mounttest.Pairs("client_id", long), "client_id is longer than 4096 bytes"},
		"unknown field":         {mounttest.Pairs("client_secert", "x", "buffer", 1), "unknown field buffer, client_secert"},
		"environment":           {mounttest.Pairs("environment", "staging"), "environment must be one of production, testing"},
		"http":                  {mounttest.Pairs("base_url", "http://gateway.example.com/v1"), "base_url must begin with https://"},
		"no scheme":             {mounttest.Pairs("base_url", "gateway.example.com"), "base_url must begin with https://"},
		"user info":             {mounttest.Pairs("base_url", "https://api-gateway.fuuffy.com@evil.example.com"), "base_url must not have a user name"},
		"query":                 {mounttest.Pairs("base_url", "https://gateway.example.com/v1?x=1"), "base_url must not have a query or fragment"},
		"empty query":           {mounttest.Pairs("base_url", "https://gateway.example.com/v1?"), "base_url must not have a query or fragment"},
		"fragment":              {mounttest.Pairs("base_url", "https://gateway.example.com/v1#x"), "base_url must not have a query or fragment"},
		"no host":               {mounttest.Pairs("base_url", "https:///v1"), "base_url has no host"},
		"port out of range":     {mounttest.Pairs("base_url", "https://gateway.example.com:70000"), "base_url has no valid port"},
		"port zero":             {mounttest.Pairs("base_url", "https://gateway.example.com:0"), "base_url has no valid port"},
		"empty port":            {mounttest.Pairs("base_url", "https://gateway.example.com:"), "base_url has no valid port"},
		"not a URL":             {mounttest.Pairs("base_url", "https://[::1"), "base_url is not a URL"},
		"international name":    {mounttest.Pairs("base_url", "https://gätewäy.example.com"), "ASCII letters"},
		"IPv6 zone":             {mounttest.Pairs("base_url", "https://[fe80::1%25eth0]/v1"), "without a zone"},
		"path traversal":        {mounttest.Pairs("base_url", "https://gateway.example.com/v1/../x"), "plain path"},
		"encoded path":          {mounttest.Pairs("base_url", "https://gateway.example.com/v1/%2e%2e"), "plain path"},
		"ca_cert is no PEM":     {mounttest.Pairs("ca_cert", "/etc/ca.pem"), "ca_cert is not a PEM bundle"},
		"ca_cert with a key":    {mounttest.Pairs("ca_cert", pem+"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"), "only CERTIFICATE blocks"},
		"ca_cert damaged":       {mounttest.Pairs("ca_cert", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"), "certificate 1 in ca_cert can't be read: x509: malformed certificate"},
		"timeout of no time":    {mounttest.Pairs("request_timeout", 0), "request_timeout must be between 1s and 30s"},
		"timeout too long":      {mounttest.Pairs("request_timeout", "1h"), "request_timeout must be between 1s and 30s"},
		"timeout negative":      {mounttest.Pairs("request_timeout", -5), "request_timeout must be a duration like 5m"},
		"timeout not a time":    {mounttest.Pairs("request_timeout", "soon"), "request_timeout must be a duration like 5m"},
		"timeout overflows":     {mounttest.Pairs("request_timeout", 18446744083), "request_timeout must be a duration"},
		"timeout overflows too": {mounttest.Pairs("request_timeout", "18446744083"), "request_timeout must be a duration"},
		"buffer":                {mounttest.Pairs("token_expiry_buffer", "1s"), "token_expiry_buffer must be between 30s and 30m"},
		"window":                {mounttest.Pairs("token_refresh_window", "2h"), "token_refresh_window must be between 30s and 30m"},
		"period":                {mounttest.Pairs("rotation_period", "1m"), "rotation_period must be between 1h and 26280h"},
		"reminder":              {mounttest.Pairs("rotation_reminder", "2160h"), "rotation_reminder (2160h) must be shorter than rotation_period (2160h)"},
		"read ttl too short":    {mounttest.Pairs("max_read_ttl", "9s"), "max_read_ttl must be between 10s and 24h. To remove the limit, write 0."},
		"read ttl too long":     {mounttest.Pairs("max_read_ttl", 24*3600+1), "max_read_ttl must be between 10s and 24h. To remove the limit, write 0."},
		"read ttl negative":     {mounttest.Pairs("max_read_ttl", "-1s"), "max_read_ttl must be a duration like 5m"},
		"read ttl of half":      {mounttest.Pairs("max_read_ttl", "10.5s"), "max_read_ttl must be whole seconds"},
		"read ttl below half":   {mounttest.Pairs("max_read_ttl", "0.4s"), "max_read_ttl must be whole seconds"},
		"read ttl empty":        {mounttest.Pairs("max_read_ttl", ""), "max_read_ttl is empty"},
		"not a bool":            {mounttest.Pairs("stale_if_error", "perhaps"), "stale_if_error must be true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, existing := range []bool{false, true} {
				m := mounttest.New(t)
				data := mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret)
				if existing {
					m.Configure()
				}
				requests := m.Requests()
				for field, value := range tt.data {
					data[field] = value
				}
				status, text := m.Refused(logical.UpdateOperation, "config", data)
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, text, tt.text)
				assert.NotContains(t, text, mounttest.Secret)
				assert.Equal(t, requests, m.Requests(), "nothing was tried")
				entry, err := m.Storage.Storage.Get(t.Context(), mounttest.ConfigKey)
				require.NoError(t, err)
				assert.Equal(t, existing, entry != nil, "nothing was stored")
			}
		})
	}
}

func TestConfigAccepts(t *testing.T) {
	pem := fuuffytest.NewServer(t, fuuffytest.Config{}).CACert()
	for name, data := range map[string]map[string]any{
		"duration as text":      mounttest.Pairs("request_timeout", "15s"),
		"duration as a number":  mounttest.Pairs("request_timeout", 15),
		"a port and no path":    mounttest.Pairs("base_url", "https://gateway.example.com:8443", "verify_connection", false),
		"an IPv6 address":       mounttest.Pairs("base_url", "https://[::1]:8443/v1"),
		"two certificates":      mounttest.Pairs("ca_cert", pem+"\n"+pem),
		"a cleared override":    mounttest.Pairs("base_url", "", "ca_cert", ""),
		"the other environment": mounttest.Pairs("environment", "testing"),
		"numbers as a secret":   mounttest.Pairs("client_id", "4711", "verify_connection", false),
	} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.New(t)
			var settings []any
			for field, value := range data {
				settings = append(settings, field, value)
			}
			m.Configure(settings...)
		})
	}
}

func TestBufferBelowFuuffysRuleIsWarnedOf(t *testing.T) {
	m := mounttest.New(t)
	resp := m.Configure("token_expiry_buffer", "1m")
	require.Len(t, resp.Warnings, 1)
	assert.Contains(t, resp.Warnings[0], "below the five minutes")
}

// The secret goes in, never out: not in answers, not in the log.
func TestSecretsStayInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		var answers []string
		note := func(resp *logical.Response, err error) {
			if resp != nil {
				answers = append(answers, resp.Warnings...)
				if resp.IsError() {
					answers = append(answers, resp.Error().Error())
				}
			}
			if err != nil {
				answers = append(answers, err.Error())
			}
		}
		m.Configure()
		for name, value := range m.ReadConfig() {
			assert.NotEqual(t, mounttest.Secret, value, name)
		}
		token := m.ReadToken()
		for _, fault := range []fuuffytest.Fault{
			mounttest.FaultRejected, mounttest.FaultUnavailable, mounttest.FaultMalformed, mounttest.FaultRateLimited,
			{Kind: fuuffytest.FaultStatus, Status: 400, Body: `{"error": {"code": "x", "message": "client_secret ` + mounttest.Secret + ` is wrong"}}`},
			{Kind: fuuffytest.FaultBody, Body: `{"data": {"access_token": "` + token + ` ", "token_type": "Bearer"}}`},
			{Kind: fuuffytest.FaultBody, Body: mounttest.Secret},
			{Kind: fuuffytest.FaultTruncated}, {Kind: fuuffytest.FaultCut}, {Kind: fuuffytest.FaultRefuse},
		} {
			time.Sleep(time.Minute) // The budget is whole again: every fault is met.
			before := m.Requests()
			m.Sandbox.SetFault(fault)
			note(m.Handle(t.Context(), logical.UpdateOperation, "config", mounttest.Pairs("client_id", "shop-9", "client_secret", mounttest.Secret)))
			note(m.Handle(t.Context(), logical.UpdateOperation, "config", mounttest.Pairs("client_secret", mounttest.Secret, "environment", "testing")))
			m.Do(logical.DeleteOperation, "token", nil)
			note(m.Handle(t.Context(), logical.ReadOperation, "token", nil))
			assert.GreaterOrEqual(t, m.Requests()-before, 3, "%v", fault.Kind)
		}
		note(m.Handle(t.Context(), logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", []any{token})))
		require.Greater(t, len(answers), 30)
		for _, secret := range []string{mounttest.Secret, token} {
			assert.NotContains(t, m.Log.String(), secret)
			for _, text := range answers {
				assert.NotContains(t, text, secret)
			}
		}
		time.Sleep(time.Second)
	})
}

// Writing dead credentials again does not clear the alarm, and writing them once they
// work again does.
func TestDeadCredentialsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.LoseToken()
		m.Refused(logical.ReadOperation, "token", nil)

		same := mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret)
		status, text := m.Refused(logical.UpdateOperation, "config", same)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, text, "Nothing was saved")
		assert.Equal(t, "rejected", m.Status()["upstream_state"])
		m.Write("config", "request_timeout", 9)
		assert.Equal(t, "rejected", m.Status()["upstream_state"], "a setting says nothing about the credentials")

		m.Sandbox.CreateClient(mounttest.ClientID, mounttest.Secret)
		m.Do(logical.UpdateOperation, "config", same)
		assert.Equal(t, "ok", m.Status()["upstream_state"])
		assert.Equal(t, 1, m.Log.Count("Fuuffy issues tokens again"))
	})
}

// Terraform repeats a write with each plan: while all is well, that costs nothing.
func TestWriteThatChangesNothing(t *testing.T) {
	m := mounttest.New(t)
	m.Configure()
	stored, err := m.Storage.Storage.Get(t.Context(), mounttest.ConfigKey)
	require.NoError(t, err)
	puts := 0
	m.Storage.Failing(func(operation, _ string) error {
		if operation != "get" {
			puts++
		}
		return nil
	})
	requests := m.Requests()
	for range 3 {
		m.Configure("environment", "production", "token_expiry_buffer", "5m")
	}
	again, err := m.Storage.Storage.Get(t.Context(), mounttest.ConfigKey)
	require.NoError(t, err)
	assert.Equal(t, stored.Value, again.Value)
	assert.Zero(t, puts)
	assert.Equal(t, requests, m.Requests())
}

func TestConfigIsNotDeletedInTheMiddleOfARotation(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Staged)
	_, text := m.Refused(logical.DeleteOperation, "config", nil)
	assert.Contains(t, text, "vault delete fuuffy/config force=true")
	m.Read()
	m.Do(logical.DeleteOperation, "config", mounttest.Pairs("force", true))
	m.Refused(logical.ReadOperation, "token", nil)
	_, text = m.Refused(logical.CreateOperation, "config", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "force", true))
	assert.Contains(t, text, "force is for deleting")
}

func TestCredentialsCreated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // It is 2000-01-01.
		m := mounttest.New(t)
		for value, text := range map[string]string{"2000-01-02": "within the last year", "1998-12-31": "within the last year", "yesterday": "must be a date"} {
			_, refusal := m.Refused(logical.CreateOperation, "config", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "credentials_created", value))
			assert.Contains(t, refusal, text, value)
		}
		m.Configure("credentials_created", "1999-11-02")
		assert.EqualValues(t, 30, m.Rotation()["days_left"])
		assert.NotContains(t, m.ReadConfig(), "credentials_created")
		m.Write("config", "credentials_created", "1999-12-02T00:00:00Z")
		assert.EqualValues(t, 60, m.Rotation()["days_left"])
	})
}

// A date can leave the last year while Fuuffy tests the credentials. The write is then refused
// as a whole.
func TestDateThatAgesDuringTheTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Idle)
		before := m.ReadConfig()
		m.Sandbox.SetFault(mounttest.SlowAnswer)
		_, text := m.Refused(logical.UpdateOperation, "config", mounttest.NewPair("credentials_created", time.Now().AddDate(-1, 0, 0).Format(time.RFC3339)))
		assert.Contains(t, text, "credentials_created must be within the last year")
		assert.Equal(t, 2, m.Requests(), "the credentials were tested")
		for range 2 {
			assert.Equal(t, before, m.ReadConfig())
			assert.Equal(t, mounttest.ClientID, m.ServedClientID())
			m.Restart()
		}
	})
}

func TestFractionOfASecondIsRefused(t *testing.T) {
	m := mounttest.New(t)
	m.Configure()
	for _, value := range []any{7.5, "7.5s", "7500ms"} {
		_, text := m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("request_timeout", value))
		assert.Contains(t, text, "request_timeout must be whole seconds", "%v", value)
	}
	m.Write("config", "request_timeout", "7000ms")
	assert.EqualValues(t, 7, m.ReadConfig()["request_timeout"])
}

func TestPatchIsAnUpdate(t *testing.T) {
	m := mounttest.New(t)
	m.Configure("request_timeout", 7)
	m.Do(logical.PatchOperation, "config", mounttest.Pairs("stale_if_error", true))
	assert.Equal(t, true, m.ReadConfig()["stale_if_error"])
	assert.EqualValues(t, 7, m.ReadConfig()["request_timeout"])
	_, text := m.Refused(logical.PatchOperation, "config", mounttest.Pairs("stale", true))
	assert.Contains(t, text, "unknown field stale")
}

// The 90 days are those of the pair. Another endpoint, authority or setting for the
// same pair does not make it younger.
func TestAgeOfCredentialsOutlivesOtherChanges(t *testing.T) {
	authority := mounttest.NewAuthority(t)
	for name, change := range map[string]map[string]any{
		"base_url":             mounttest.Pairs("base_url", "https://gateway.example.com/v1", "client_secret", mounttest.Secret),
		"ca_cert":              mounttest.Pairs("ca_cert", authority, "client_secret", mounttest.Secret),
		"environment":          mounttest.Pairs("environment", "testing", "client_secret", mounttest.Secret),
		"all, not verified":    mounttest.Pairs("base_url", "https://gateway.example.com/v1", "ca_cert", authority, "environment", "testing", "client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "verify_connection", false),
		"setting":              mounttest.Pairs("stale_if_error", true),
		"setting and the pair": mounttest.Pairs("stale_if_error", true, "client_id", mounttest.ClientID, "client_secret", mounttest.Secret),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				created := m.Rotation()["last_rotated"]
				time.Sleep(100 * 24 * time.Hour)
				m.Do(logical.UpdateOperation, "config", change)
				for range 2 {
					rotation := m.Rotation()
					assert.Equal(t, created, rotation["last_rotated"])
					assert.EqualValues(t, -10, rotation["days_left"])
					assert.Equal(t, true, rotation["overdue"])
					m.Restart()
				}
			})
		})
	}
}

// Another pair, or another secret of the same client, does begin at zero.
func TestAgeOfCredentialsBeginsWithThem(t *testing.T) {
	for name, change := range map[string]map[string]any{
		"another client": mounttest.NewPair(),
		"another secret": mounttest.Pairs("client_secret", mounttest.NewSecret),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				time.Sleep(100 * 24 * time.Hour)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				m.Sandbox.CreateClient(mounttest.ClientID, mounttest.NewSecret)
				m.Do(logical.UpdateOperation, "config", change)
				rotation := m.Rotation()
				assert.Equal(t, time.Now().UTC().Format(time.RFC3339), rotation["last_rotated"])
				assert.EqualValues(t, 90, rotation["days_left"])
			})
		})
	}
}

// Today has begun up to 14 hours earlier in the east. A date that is still ahead counts as now.
func TestTodayInTheEast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // It is 2000-01-01, 00:00 UTC.
		m := mounttest.New(t)
		time.Sleep(10*time.Hour - time.Second)
		data := mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "credentials_created", "2000-01-02")
		_, text := m.Refused(logical.CreateOperation, "config", data)
		assert.Contains(t, text, "credentials_created must be within the last year, and not after today")
		assert.Zero(t, m.Requests())
		time.Sleep(time.Second)
		m.Do(logical.CreateOperation, "config", data)
		assert.Equal(t, "2000-01-01T10:00:00Z", m.Rotation()["last_rotated"])
	})
}

// Terraform repeats a write with each plan. What was accepted once changes nothing later,
// however old the date gets by then.
func TestAcceptedDateIsAcceptedAgain(t *testing.T) {
	for _, date := range []string{"1999-12-02", "1999-12-02T08:00:00+02:00", "1999-12-02T08:00:00.5Z", "2000-01-01", "2000-01-02", "2000-01-02T10:30:00Z"} {
		t.Run(date, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.New(t)
				time.Sleep(21*time.Hour + 500*time.Millisecond)
				write := mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "credentials_created", date)
				m.Do(logical.CreateOperation, "config", write)
				storage := m.UseFaultyStorage()
				stored, created := storage.Stored(t, mounttest.ConfigKey), m.Rotation()["last_rotated"]
				for _, later := range []time.Duration{0, time.Hour, 12 * time.Hour, 48 * time.Hour, 399 * 24 * time.Hour, 3000 * 24 * time.Hour} {
					time.Sleep(later)
					m.Do(logical.UpdateOperation, "config", write)
					m.Do(logical.PatchOperation, "config", mounttest.Pairs("credentials_created", date))
					m.Do(logical.UpdateOperation, "config", mounttest.Pairs("credentials_created", created))
					assert.True(t, storage.Stored(t, mounttest.ConfigKey) == stored, "the write is a no-op %s later", later)
					assert.Equal(t, created, m.Rotation()["last_rotated"])
					m.Restart()
				}
				assert.Equal(t, 1, m.Requests())
				m.Write("config", "credentials_created", date, "stale_if_error", true)
				assert.Equal(t, true, m.ReadConfig()["stale_if_error"])
				assert.Equal(t, created, m.Rotation()["last_rotated"])
			})
		})
	}
}

// A date that was ahead is that pair's. It means nothing once there is another date, or pair.
func TestDateThatWasAheadIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		time.Sleep(20 * time.Hour)
		m.Configure("credentials_created", "2000-01-02")
		time.Sleep(48 * time.Hour)
		m.Write("config", "credentials_created", "1999-12-24")
		assert.Equal(t, "1999-12-24T00:00:00Z", m.Rotation()["last_rotated"])
		m.Write("config", "credentials_created", "2000-01-02")
		assert.Equal(t, "2000-01-02T00:00:00Z", m.Rotation()["last_rotated"])

		m = mounttest.New(t)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Configure("credentials_created", "2000-01-04")
		m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret)
		time.Sleep(72 * time.Hour)
		m.Write("config", "credentials_created", "2000-01-04")
		assert.Equal(t, "2000-01-04T00:00:00Z", m.Rotation()["last_rotated"])
		for _, old := range []string{"1998-01-04", "0001-01-01"} {
			_, text := m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("credentials_created", old))
			assert.Contains(t, text, "within the last year")
		}
	})
}
