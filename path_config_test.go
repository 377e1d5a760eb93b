// SPDX-License-Identifier: MPL-2.0

package fuuffy

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
)

func TestConfigDefaults(t *testing.T) {
	m := newMount(t)
	assert.Nil(t, m.configure(), "nothing to warn of")
	assert.Equal(t, map[string]any{
		"client_id":            testClientID,
		"environment":          "production",
		"base_url":             "",
		"ca_cert":              "",
		"stale_if_error":       false,
		"request_timeout":      int64(10),
		"token_expiry_buffer":  int64(300),
		"token_refresh_window": int64(300),
		"rotation_period":      int64(90 * 24 * 3600),
		"rotation_reminder":    int64(14 * 24 * 3600),
	}, m.readConfig())
}

func TestConfigReadBeforeWrite(t *testing.T) {
	m := newMount(t)
	resp, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "config", Storage: m.storage})
	require.NoError(t, err)
	assert.Nil(t, resp, "which Vault makes a 404")
}

func TestConfigExistence(t *testing.T) {
	m := newMount(t)
	exists := func() bool {
		checked, exists, err := m.b.HandleExistenceCheck(t.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: "config", Storage: m.storage})
		require.NoError(t, err)
		require.True(t, checked)
		return exists
	}
	assert.False(t, exists())
	m.configure()
	assert.True(t, exists())
}

func TestConfigPartialUpdate(t *testing.T) {
	m := newMount(t)
	m.configure("request_timeout", "7s")
	before := m.readConfig()
	token := m.readToken()

	m.do(logical.UpdateOperation, "config", pairs("token_expiry_buffer", "10m", "stale_if_error", true))
	before["token_expiry_buffer"], before["stale_if_error"] = int64(600), true
	assert.Equal(t, before, m.readConfig())
	resp := m.read()
	assert.Equal(t, token, resp.Data["access_token"], "a change of policy keeps the token")
	assert.EqualValues(t, 50*60, resp.Data["rotation_period"], "and applies to it")
	assert.Equal(t, 1, m.requests(), "what does not change the credentials is not tried")
}

// Anyone who may update the config sets max_read_ttl and removes it, without credentials and
// without a request. A read of the config without it shows what it showed before there was one.
func TestConfigMaxReadTTL(t *testing.T) {
	m := newConfiguredMount(t)
	token := m.readToken()
	storage := m.useFaultyStorage()
	before := m.readConfig()
	assert.NotContains(t, before, "max_read_ttl")
	assert.NotContains(t, storage.stored(t, configKey), "max_read_ttl", "an entry without it is as an older version wrote it")
	for _, step := range []struct {
		written, shown any
		same           bool
	}{
		{0, nil, true}, {"0s", nil, true}, {"10s", int64(10), false}, {10, int64(10), true}, {nil, int64(10), true},
		{"2m", int64(120), false}, {"120", int64(120), true}, {"24h", int64(86400), false}, {0, nil, false}, {"0", nil, true},
	} {
		entry := storage.stored(t, configKey)
		assert.Nil(t, m.write("config", "max_read_ttl", step.written), "nothing to warn of")
		assert.Equal(t, step.same, storage.stored(t, configKey) == entry, "%v: a write that changes nothing writes nothing", step.written)
		shown := m.readConfig()
		assert.Equal(t, step.shown, shown["max_read_ttl"], "%v", step.written)
		delete(shown, "max_read_ttl")
		assert.Equal(t, before, shown, "%v", step.written)
	}
	m.write("config", "max_read_ttl", "1m")
	m.write("config", "request_timeout", "9s")
	m.restart()
	assert.EqualValues(t, 60, m.readConfig()["max_read_ttl"], "a write that doesn't name it keeps it")
	assert.True(t, m.readToken() == token)
	assert.Equal(t, 1, m.requests(), "nothing was tried")
}

// The token that proved the credentials is the first one served.
func TestVerificationTokenIsServed(t *testing.T) {
	m := newMount(t)
	m.configure()
	assert.True(t, m.sandbox.TokenAlive(m.readToken()))
	m.restart()
	m.read()
	assert.Equal(t, 1, m.requests())
}

func TestConfigIsVerifiedBeforeItIsSaved(t *testing.T) {
	for name, tt := range map[string]struct {
		fault  fuuffytest.Fault
		status int
		text   string
	}{
		"rejected":     {faultRejected, 400, "invalid_client: Client authentication failed"},
		"not found":    {fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 404}, 400, "base_url doesn't lead to Fuuffy"},
		"redirect":     {fuuffytest.Fault{Kind: fuuffytest.FaultRedirect}, 400, "a redirect. The engine doesn't follow it"},
		"unavailable":  {faultUnavailable, 502, "Fuuffy returned 503"},
		"malformed":    {faultMalformed, 502, "text/html instead of JSON"},
		"rate limited": {faultRateLimited, 429, "Fuuffy asks to wait until 2000-01-01T00:10:00Z"},
		"hanging":      {fuuffytest.Fault{Kind: fuuffytest.FaultHang}, 504, "Can't reach Fuuffy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				m.sandbox.SetFault(tt.fault)
				status, text := m.refused(logical.CreateOperation, "config", pairs("client_id", testClientID, "client_secret", testSecret))
				assert.Equal(t, tt.status, status)
				assert.Contains(t, text, "Nothing was saved")
				assert.Contains(t, text, tt.text)
				assert.Positive(t, m.requests())
				keys, err := m.storage.List(t.Context(), "")
				require.NoError(t, err)
				assert.Empty(t, keys)

				// A working engine goes on with what it had.
				m.sandbox.ClearFault()
				m.configure()
				before, token := m.readConfig(), m.readToken()
				m.sandbox.SetFault(tt.fault)
				m.refused(logical.UpdateOperation, "config", pairs("client_secret", "wrong", "stale_if_error", true))
				assert.Equal(t, before, m.readConfig())
				assert.Equal(t, token, m.readToken())
			})
		})
	}
}

func TestConfigWithoutVerification(t *testing.T) {
	m := newMount(t)
	resp := m.do(logical.CreateOperation, "config", pairs("client_id", "anything", "client_secret", "wrong", "verify_connection", false))
	require.Len(t, resp.Warnings, 1)
	assert.Contains(t, resp.Warnings[0], "without a test")
	assert.Zero(t, m.requests())
}

func TestConfigTrimsWhatAPasteBringsAlong(t *testing.T) {
	m := newMount(t)
	resp := m.do(logical.CreateOperation, "config", pairs("client_id", " "+testClientID+"\t", "client_secret", testSecret+"\r\n", "base_url", " https://gateway.example.com/v1/ "))
	assert.Equal(t, []string{
		"client_id had white space around it; the engine removed it",
		"base_url had white space around it; the engine removed it",
	}, resp.Warnings)
	assert.Equal(t, testClientID, m.readConfig()["client_id"])
	assert.Equal(t, "https://gateway.example.com/v1", m.readConfig()["base_url"])
	assert.Equal(t, 1, m.requests(), "the trimmed credentials work")
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
			m := newMount(t)
			m.configure()
			token := m.readToken()
			status, text := m.refused(logical.UpdateOperation, "config", pairs(field, value))
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, text, "Add client_secret=-")
			assert.Equal(t, 1, m.requests(), "nothing was sent anywhere")
			assert.Equal(t, token, m.readToken())

			m.do(logical.UpdateOperation, "config", pairs(field, value, "client_secret", testSecret))
			assert.Equal(t, 2, m.requests())
			assert.NotEqual(t, token, m.readToken(), "the token of the former endpoint is dropped")

			m.do(logical.UpdateOperation, "config", pairs(field, value))
			assert.Equal(t, 2, m.requests(), "the same again is no change")
		})
	}
}

// A scheme and a host mean the same in either case. A path doesn't.
func TestEndpointIsComparedWithoutCase(t *testing.T) {
	m := newMount(t)
	m.configure("base_url", "HTTPS://Gateway.Example.com:8443/v1/")
	assert.Equal(t, "https://gateway.example.com:8443/v1", m.readConfig()["base_url"])
	token := m.readToken()
	storage := m.useFaultyStorage()
	stored := storage.stored(t, configKey)
	for _, same := range []string{"https://gateway.example.com:8443/v1", "HTTPS://GATEWAY.EXAMPLE.COM:8443/v1", "hTTps://gatewaY.example.com:8443/v1/"} {
		m.do(logical.UpdateOperation, "config", pairs("base_url", same))
		assert.True(t, storage.stored(t, configKey) == stored, same)
	}
	assert.Equal(t, token, m.readToken())
	assert.Equal(t, 1, m.requests())
	_, text := m.refused(logical.UpdateOperation, "config", pairs("base_url", "https://gateway.example.com:8443/V1"))
	assert.Contains(t, text, "client_secret")
	m.write("config", "base_url", "Https://GATEWAY.example.com/V1", "client_secret", testSecret, "verify_connection", false)
	assert.Equal(t, "https://gateway.example.com/V1", m.readConfig()["base_url"])
}

// An address that an older version stored as it was written is still the same endpoint.
func TestStoredEndpointIsComparedWithoutCase(t *testing.T) {
	m := newConfiguredMount(t, "base_url", "https://gateway.example.com/v1")
	m.edit(configKey, func(stored map[string]any) {
		stored["endpoint"].(map[string]any)["base_url"] = "HTTPS://Gateway.example.com/v1"
	})
	m.restart()
	m.write("config", "stale_if_error", true)
	m.write("config", "base_url", "HTTPS://Gateway.example.com/v1")
	assert.Equal(t, "https://gateway.example.com/v1", m.readConfig()["base_url"])
}

// Some characters become ASCII letters in lower case. They name another host all the same.
func TestHostIsCheckedAsItIsWritten(t *testing.T) {
	m := newMount(t)
	_, text := m.refused(logical.CreateOperation, "config", pairs("client_id", testClientID, "client_secret", testSecret, "base_url", "https://\u212aey.example.com"))
	assert.Contains(t, text, "ASCII letters")
}

func TestNewCredentialsDropTheToken(t *testing.T) {
	for name, verify := range map[string]bool{"verified": true, "not verified": false} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			m.configure()
			old := m.readToken()
			m.sandbox.CreateClient("shop-2", "other-secret")
			m.do(logical.UpdateOperation, "config", pairs("client_id", "shop-2", "client_secret", "other-secret", "verify_connection", verify))
			entry, err := m.storage.Storage.Get(t.Context(), tokenKey)
			require.NoError(t, err)
			assert.Equal(t, verify, entry != nil, "only a token of the new credentials is stored")
			assert.NotEqual(t, old, m.readToken())
			assert.Equal(t, 2, m.requests())
		})
	}
}

func TestDeleteConfig(t *testing.T) {
	m := newMount(t)
	m.configure()
	m.read()
	m.do(logical.DeleteOperation, "config", nil)
	keys, err := m.storage.List(t.Context(), "")
	require.NoError(t, err)
	assert.Empty(t, keys)
	_, text := m.refused(logical.ReadOperation, "token", nil)
	assert.Contains(t, text, "no Fuuffy credentials yet")
	m.do(logical.DeleteOperation, "config", nil)
	m.tick()
}

// Of two writes that were verified at the same time, the second one is told.
func TestConcurrentConfigWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.CreateClient("shop-2", "other-secret")
		release := m.sandbox.Hold()
		answered := make(chan string, 1)
		go func() {
			resp, err := m.handle(context.Background(), logical.UpdateOperation, "config", pairs("client_id", "shop-2", "client_secret", "other-secret"))
			_, text := refusal(t, resp, err)
			answered <- text
		}()
		synctest.Wait()
		m.do(logical.UpdateOperation, "config", pairs("stale_if_error", true))
		release()
		assert.Contains(t, <-answered, "someone else changed the configuration")
		assert.Equal(t, testClientID, m.readConfig()["client_id"])
		assert.Equal(t, true, m.readConfig()["stale_if_error"])
	})
}

func TestConfigStorageFaults(t *testing.T) {
	t.Run("save", func(t *testing.T) {
		m := newMount(t)
		m.configure()
		token := m.readToken()
		m.storage.failing(failAll("put", configKey))
		status, text := m.refused(logical.UpdateOperation, "config", pairs("stale_if_error", true))
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Contains(t, text, "save config: storage is broken")
		assert.Equal(t, false, m.readConfig()["stale_if_error"])
		assert.Equal(t, token, m.readToken())
	})
	t.Run("read only, as text", func(t *testing.T) {
		m := newMount(t)
		m.configure()
		m.storage.failing(func(operation, _ string) error {
			if operation == "put" {
				return errors.New(logical.ErrReadOnly.Error())
			}
			return nil
		})
		_, err := m.handle(t.Context(), logical.UpdateOperation, "config", pairs("stale_if_error", true))
		assert.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)
	})
	t.Run("delete", func(t *testing.T) {
		m := newMount(t)
		m.configure()
		m.storage.failing(failAll("delete", configKey))
		m.refused(logical.DeleteOperation, "config", nil)
		m.read()
	})
	for name, entry := range map[string]string{"damaged": "damaged: " + testSecret, "of a newer version": `{"format": 99}`} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: configKey, Value: []byte(entry)}))
			for _, path := range []string{"config", "token"} {
				status, text := m.refused(logical.ReadOperation, path, nil)
				assert.Equal(t, http.StatusInternalServerError, status)
				assert.Contains(t, text, "decode config")
				assert.NotContains(t, text, testSecret)
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
			m := newMount(t)
			m.setReplicationState(state)
			for _, operation := range []logical.Operation{logical.CreateOperation, logical.UpdateOperation, logical.DeleteOperation} {
				_, err := m.handle(t.Context(), operation, "config", pairs("client_id", "shop-1", "client_secret", "x"))
				assert.True(t, err == logical.ErrReadOnly, "%s: want the bare error, got %v", operation, err)
			}
			assert.Zero(t, m.requests())
		})
	}
}

// A node learns by Invalidate that another one changed the config.
func TestInvalidateConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		old := m.readToken()
		other := m.twin(0)
		other.do(logical.UpdateOperation, "config", pairs("environment", "testing", "client_secret", testSecret))

		assert.Equal(t, old, m.readToken(), "not told yet")
		m.b.InvalidateKey(t.Context(), configKey)
		resp := m.read()
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
		"no client_id":          {pairs("client_id", ""), "client_id is missing"},
		"no client_secret":      {pairs("client_secret", " \n"), "client_secret is missing"},
		"secret is a map":       {pairs("client_secret", map[string]any{"a": testSecret}), "client_secret must be a string"},
		"secret is a list":      {pairs("client_secret", []any{testSecret}), "client_secret must be a string"},
		"space in the secret":   {pairs("client_secret", "two words"), "client_secret has white space or an invisible character inside (character 4)"},
		"zero width space":      {pairs("client_secret", "ab\u200bc"), "(character 3)"},
		"control character":     {pairs("client_id", "ab\x00"), "client_id has white space or an invisible character"},
		"not UTF-8":             {pairs("client_id", "ab\xff"), "client_id is not valid UTF-8"},
		"long":                  {pairs("client_id", long), "client_id is longer than 4096 bytes"},
		"unknown field":         {pairs("client_secert", "x", "buffer", 1), "unknown field buffer, client_secert"},
		"environment":           {pairs("environment", "staging"), "environment must be one of production, testing"},
		"http":                  {pairs("base_url", "http://gateway.example.com/v1"), "base_url must begin with https://"},
		"no scheme":             {pairs("base_url", "gateway.example.com"), "base_url must begin with https://"},
		"user info":             {pairs("base_url", "https://api-gateway.fuuffy.com@evil.example.com"), "base_url must not have a user name"},
		"query":                 {pairs("base_url", "https://gateway.example.com/v1?x=1"), "base_url must not have a query or fragment"},
		"empty query":           {pairs("base_url", "https://gateway.example.com/v1?"), "base_url must not have a query or fragment"},
		"fragment":              {pairs("base_url", "https://gateway.example.com/v1#x"), "base_url must not have a query or fragment"},
		"no host":               {pairs("base_url", "https:///v1"), "base_url has no host"},
		"port out of range":     {pairs("base_url", "https://gateway.example.com:70000"), "base_url has no valid port"},
		"port zero":             {pairs("base_url", "https://gateway.example.com:0"), "base_url has no valid port"},
		"empty port":            {pairs("base_url", "https://gateway.example.com:"), "base_url has no valid port"},
		"not a URL":             {pairs("base_url", "https://[::1"), "base_url is not a URL"},
		"international name":    {pairs("base_url", "https://gätewäy.example.com"), "ASCII letters"},
		"IPv6 zone":             {pairs("base_url", "https://[fe80::1%25eth0]/v1"), "without a zone"},
		"path traversal":        {pairs("base_url", "https://gateway.example.com/v1/../x"), "plain path"},
		"encoded path":          {pairs("base_url", "https://gateway.example.com/v1/%2e%2e"), "plain path"},
		"ca_cert is no PEM":     {pairs("ca_cert", "/etc/ca.pem"), "ca_cert is not a PEM bundle"},
		"ca_cert with a key":    {pairs("ca_cert", pem+"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"), "only CERTIFICATE blocks"},
		"ca_cert damaged":       {pairs("ca_cert", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"), "certificate 1 in ca_cert can't be read: x509: malformed certificate"},
		"timeout of no time":    {pairs("request_timeout", 0), "request_timeout must be between 1s and 30s"},
		"timeout too long":      {pairs("request_timeout", "1h"), "request_timeout must be between 1s and 30s"},
		"timeout negative":      {pairs("request_timeout", -5), "request_timeout must be a duration like 5m"},
		"timeout not a time":    {pairs("request_timeout", "soon"), "request_timeout must be a duration like 5m"},
		"timeout overflows":     {pairs("request_timeout", 18446744083), "request_timeout must be a duration"},
		"timeout overflows too": {pairs("request_timeout", "18446744083"), "request_timeout must be a duration"},
		"buffer":                {pairs("token_expiry_buffer", "1s"), "token_expiry_buffer must be between 30s and 30m"},
		"window":                {pairs("token_refresh_window", "2h"), "token_refresh_window must be between 30s and 30m"},
		"period":                {pairs("rotation_period", "1m"), "rotation_period must be between 1h and 26280h"},
		"reminder":              {pairs("rotation_reminder", "2160h"), "rotation_reminder (2160h) must be shorter than rotation_period (2160h)"},
		"read ttl too short":    {pairs("max_read_ttl", "9s"), "max_read_ttl must be between 10s and 24h. To remove the limit, write 0."},
		"read ttl too long":     {pairs("max_read_ttl", 24*3600+1), "max_read_ttl must be between 10s and 24h. To remove the limit, write 0."},
		"read ttl negative":     {pairs("max_read_ttl", "-1s"), "max_read_ttl must be a duration like 5m"},
		"read ttl of half":      {pairs("max_read_ttl", "10.5s"), "max_read_ttl must be whole seconds"},
		"read ttl below half":   {pairs("max_read_ttl", "0.4s"), "max_read_ttl must be whole seconds"},
		"read ttl empty":        {pairs("max_read_ttl", ""), "max_read_ttl is empty"},
		"not a bool":            {pairs("stale_if_error", "perhaps"), "stale_if_error must be true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, existing := range []bool{false, true} {
				m := newMount(t)
				data := pairs("client_id", testClientID, "client_secret", testSecret)
				if existing {
					m.configure()
				}
				requests := m.requests()
				for field, value := range tt.data {
					data[field] = value
				}
				status, text := m.refused(logical.UpdateOperation, "config", data)
				assert.Equal(t, http.StatusBadRequest, status)
				assert.Contains(t, text, tt.text)
				assert.NotContains(t, text, testSecret)
				assert.Equal(t, requests, m.requests(), "nothing was tried")
				entry, err := m.storage.Storage.Get(t.Context(), configKey)
				require.NoError(t, err)
				assert.Equal(t, existing, entry != nil, "nothing was stored")
			}
		})
	}
}

func TestConfigAccepts(t *testing.T) {
	pem := fuuffytest.NewServer(t, fuuffytest.Config{}).CACert()
	for name, data := range map[string]map[string]any{
		"duration as text":      pairs("request_timeout", "15s"),
		"duration as a number":  pairs("request_timeout", 15),
		"a port and no path":    pairs("base_url", "https://gateway.example.com:8443", "verify_connection", false),
		"an IPv6 address":       pairs("base_url", "https://[::1]:8443/v1"),
		"two certificates":      pairs("ca_cert", pem+"\n"+pem),
		"a cleared override":    pairs("base_url", "", "ca_cert", ""),
		"the other environment": pairs("environment", "testing"),
		"numbers as a secret":   pairs("client_id", "4711", "verify_connection", false),
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			var settings []any
			for field, value := range data {
				settings = append(settings, field, value)
			}
			m.configure(settings...)
		})
	}
}

func TestBufferBelowFuuffysRuleIsWarnedOf(t *testing.T) {
	m := newMount(t)
	resp := m.configure("token_expiry_buffer", "1m")
	require.Len(t, resp.Warnings, 1)
	assert.Contains(t, resp.Warnings[0], "below the five minutes")
}

// The secret goes in, never out: not in answers, not in the log.
func TestSecretsStayInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
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
		m.configure()
		for name, value := range m.readConfig() {
			assert.NotEqual(t, testSecret, value, name)
		}
		token := m.readToken()
		for _, fault := range []fuuffytest.Fault{
			faultRejected, faultUnavailable, faultMalformed, faultRateLimited,
			{Kind: fuuffytest.FaultStatus, Status: 400, Body: `{"error": {"code": "x", "message": "client_secret ` + testSecret + ` is wrong"}}`},
			{Kind: fuuffytest.FaultBody, Body: `{"data": {"access_token": "` + token + ` ", "token_type": "Bearer"}}`},
			{Kind: fuuffytest.FaultBody, Body: testSecret},
			{Kind: fuuffytest.FaultTruncated}, {Kind: fuuffytest.FaultCut}, {Kind: fuuffytest.FaultRefuse},
		} {
			time.Sleep(time.Minute) // The budget is whole again: every fault is met.
			before := m.requests()
			m.sandbox.SetFault(fault)
			note(m.handle(t.Context(), logical.UpdateOperation, "config", pairs("client_id", "shop-9", "client_secret", testSecret)))
			note(m.handle(t.Context(), logical.UpdateOperation, "config", pairs("client_secret", testSecret, "environment", "testing")))
			m.do(logical.DeleteOperation, "token", nil)
			note(m.handle(t.Context(), logical.ReadOperation, "token", nil))
			assert.GreaterOrEqual(t, m.requests()-before, 3, "%v", fault.Kind)
		}
		note(m.handle(t.Context(), logical.UpdateOperation, "token", pairs("rejected_token", []any{token})))
		require.Greater(t, len(answers), 30)
		for _, secret := range []string{testSecret, token} {
			assert.NotContains(t, m.log.String(), secret)
			for _, text := range answers {
				assert.NotContains(t, text, secret)
			}
		}
		time.Sleep(time.Second)
	})
}
