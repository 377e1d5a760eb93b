// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// evilHost is an attacker's server. It keeps all that it is sent.
type evilHost struct {
	*httptest.Server
	mu   sync.Mutex
	seen strings.Builder
}

func newEvilHost(t *testing.T) *evilHost {
	e := &evilHost{}
	e.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, _ := io.ReadAll(r.Body)
		e.mu.Lock()
		e.seen.WriteString(r.URL.String() + "\n" + string(sent) + "\n")
		e.mu.Unlock()
		_, _ = io.WriteString(w, `{"data": {"access_token": "sk-evil", "token_type": "Bearer", "expires_in": 3600}}`)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *evilHost) log() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen.String()
}

// Whoever may update the config and take the steps of a rotation, but does not know
// the secret, can't have it sent to a host of theirs: not by any combination of
// fields, in any state of a rotation.
func TestStoredSecretCannotBeMadeToLeave(t *testing.T) {
	t.Parallel()
	evil := newEvilHost(t)
	certificate := mounttest.CertificatePEM(evil.Certificate())
	temptations := []map[string]any{
		{"base_url": evil.URL + "/v1"},
		{"ca_cert": certificate},
		{"environment": "testing"},
		{"client_id": "attacker"},
		{"client_secret": "the-attackers-own"},
		{"verify_connection": false},
		{"stale_if_error": true, "request_timeout": "1s"},
	}
	var steps []adviceRequest
	for _, path := range []string{"rotate-root", "rotate-root/promote", "rotate-root/rollback", "rotate-root/complete"} {
		for _, data := range []map[string]any{nil, {"client_id": "attacker", "client_secret": "the-attackers-own"}, {"force": true}, {"base_url": evil.URL}} {
			steps = append(steps, adviceRequest{logical.UpdateOperation, path, data})
		}
	}
	server := newServer(t)
	attempts := 0
	for _, state := range []string{rotation.Idle, rotation.Staged, rotation.Promoted, "compromised"} {
		for combination := range 1 << len(temptations) {
			data := map[string]any{}
			for i, temptation := range temptations {
				if combination&(1<<i) != 0 {
					for field, value := range temptation {
						data[field] = value
					}
				}
			}
			// Each mount holds the secret, and has a budget of its own. Each lower half of a
			// combination meets eight of the steps.
			m := newServerMount(t, server, state)
			_, _ = m.Handle(t.Context(), logical.UpdateOperation, "config", data)
			_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
			step := steps[(combination+combination/len(steps))%len(steps)]
			_, _ = m.Handle(t.Context(), step.operation, step.path, step.data)
			_, _ = m.Handle(t.Context(), logical.DeleteOperation, "token", nil)
			_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
			attempts += 2
			m.Backend.Cleanup(t.Context())
		}
	}
	seen := evil.log()
	t.Logf("%d attempts; the evil host was sent %d bytes", attempts, len(seen))
	assert.Contains(t, seen, "the-attackers-own", "the attacker's own secret arrives, so the host could be reached")
	for _, secret := range []string{mounttest.Secret, mounttest.NewSecret} {
		assert.NotContains(t, seen, secret)
		assert.NotContains(t, seen, url.QueryEscape(secret))
	}
}

// newServer returns a sandbox behind real connections, with both clients.
func newServer(t *testing.T) *fuuffytest.Server {
	t.Helper()
	server := fuuffytest.NewServer(t, fuuffytest.Config{PerMinute: -1, PerHour: -1})
	server.CreateClient(mounttest.ClientID, mounttest.Secret)
	server.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
	return server
}

// newServerMount returns an engine in a state of a rotation, with real connections to a sandbox.
func newServerMount(t *testing.T, server *fuuffytest.Server, state string) *mounttest.Mount {
	t.Helper()
	m := mounttest.New(t)
	m.Sandbox = server.Sandbox
	m.Transport = upstream.NewTransport
	m.Configure("base_url", server.BaseURL(), "ca_cert", server.CACert())
	m.RotateTo(state)
	return m
}

// Fuuffy's own host, taken over for a moment, can't pass the secret on either.
func TestRedirectsAreNotFollowed(t *testing.T) {
	evil := newEvilHost(t)
	m := newServerMount(t, newServer(t), rotation.Idle)
	for _, location := range []string{evil.URL + "/v1/auth/token", strings.Replace(evil.URL, "https", "http", 1), "//" + evil.Listener.Addr().String()} {
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultRedirect, Header: map[string]string{"Location": location}})
		m.Do(logical.DeleteOperation, "token", nil)
		_, text := m.Refused(logical.ReadOperation, "token", nil)
		assert.Contains(t, text, "redirect")
	}
	assert.Empty(t, evil.log())
}

// What the backend started ends with it, connections to Fuuffy included.
func TestCleanLeavesNothingRunning(t *testing.T) {
	before := goleak.IgnoreCurrent()
	server, err := fuuffytest.Start(fuuffytest.Config{}, "127.0.0.1:0")
	require.NoError(t, err)
	server.CreateClient(mounttest.ClientID, mounttest.Secret)
	m := mounttest.New(t)
	m.Transport = upstream.NewTransport
	m.Configure("base_url", server.BaseURL(), "ca_cert", server.CACert())
	m.Do(logical.DeleteOperation, "token", nil)
	m.Read()
	m.Do(logical.UpdateOperation, "config", mounttest.Pairs("request_timeout", 9)) // Replaces the client, and its connections.
	server.Hold()
	m.Do(logical.DeleteOperation, "token", nil)
	go func() { _, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil) }()
	require.NoError(t, server.WaitHeld(t.Context(), 1))

	m.Backend.Cleanup(t.Context())
	server.Close()
	goleak.VerifyNone(t, before)
}

// acceptedHostile are the hostile values that are valid after all, by hand: what is
// left out or emptied, and what the type takes. Everything else must be refused.
var acceptedHostile = map[string][]string{
	"base_url":             {"null", "empty"},
	"ca_cert":              {"null", "empty"},
	"environment":          {"null"},
	"credentials_created":  {"null"},
	"request_timeout":      {"null"},
	"token_expiry_buffer":  {"null"},
	"token_refresh_window": {"null"},
	"rotation_period":      {"null"},
	"rotation_reminder":    {"null"},
	"max_read_ttl":         {"null"},
	"stale_if_error":       {"null", "bool"},
	"verify_connection":    {"null", "bool"},
	"compromised":          {}, // It never comes alone.
	"force":                {}, // No rotation is in progress.
	// Whatever an app got a 401 for, it is not the cached one.
	"rejected_token": {"absurd duration", "negative duration"},
	"min_ttl":        {"null"},
	// What is left out of config stays as it is.
	"config client_id":     {"null"},
	"config client_secret": {"null"},
	"config force":         {"null"},
}

// plainTexts could be credentials, for all that the engine knows. Fuuffy refuses them.
var plainTexts = []string{"template", "absurd duration", "negative duration"}

// hostileEffects are the settings that such a value does change.
var hostileEffects = map[string]any{
	"stale_if_error=bool": true,
}

// The fields of every path, with values of the wrong type and of absurd size: a 400
// that is short, or a success that was expected and changes only that field. A value
// is neither stored nor shown nor logged.
func TestHostileFields(t *testing.T) {
	values := map[string]any{
		"null": nil, "map": mounttest.Pairs("a", "b"), "list": []any{"a", 1}, "number": -1e300, "huge text": strings.Repeat("x", 1<<20),
		"control characters": "a\x00\x1b[31m\r\nb", "not UTF-8": "\xff\xfe", "template": "${jndi:ldap://x}{{.}}%s%n", "bool": true, "empty": "",
		"absurd duration": "999999999h", "negative duration": "-1s",
	}
	attempts := 0
	for _, path := range []string{"config", "token", "rotate-root", "rotate-root/promote", "rotate-root/rollback", "rotate-root/complete"} {
		for name, value := range values {
			m := mounttest.NewConfigured(t)
			fields := []string{"unknown-" + name}
			for field := range m.Framework().Route(path).Fields {
				fields = append(fields, field)
			}
			for _, field := range fields {
				attempts++
				before, requests := m.ReadConfig(), m.Requests()
				m.Log.Reset()
				data := map[string]any{}
				if field == "client_id" || field == "client_secret" {
					// In good company, so that nothing else is wrong with the write.
					data = mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret)
				}
				data[field] = value
				resp, err := m.Handle(t.Context(), logical.UpdateOperation, path, data)
				what := fmt.Sprintf("%s: %s=%s", path, field, name)
				refused := err != nil || resp.IsError()
				if len(data) > 1 {
					assert.Equal(t, slices.Contains(plainTexts, name), m.Requests() > requests, "%s: only what could be right is tried", what)
				}
				accepted := slices.Concat(acceptedHostile[field], acceptedHostile[path+" "+field])
				assert.Equal(t, !slices.Contains(accepted, name), refused, what)
				if refused {
					status, text := mounttest.Refusal(t, resp, err)
					assert.Equal(t, http.StatusBadRequest, status, "%s: %s", what, text)
					assert.Less(t, len(text), 4096, what)
				}
				if effect, ok := hostileEffects[field+"="+name]; ok && !refused {
					before[field] = effect
				}
				assert.Equal(t, before, m.ReadConfig(), what)
				if text, ok := value.(string); ok && len(text) > 2 {
					assert.NotContains(t, m.Log.String(), text[:3], what)
				}
			}
		}
	}
	assert.Greater(t, attempts, 250, "every field with every value")
}

// However many fields a path does not have, the error that names them is short.
func TestManyUnknownFields(t *testing.T) {
	m := mounttest.NewConfigured(t)
	data := map[string]any{}
	for i := range 10_000 {
		data[fmt.Sprintf("field-%d-%s", i, strings.Repeat("x", 1000))] = "value"
	}
	_, text := m.Refused(logical.UpdateOperation, "config", data)
	assert.Contains(t, text, "unknown field field-0-")
	assert.Contains(t, text, "and 9995 more")
	assert.Less(t, len(text), 4096)
}

// No connection stays open after its request: what arrives on an idle one, net/http writes
// to the log of the process, which is Vault's, as it comes.
func TestSurplusOfAnAnswerIsNotLogged(t *testing.T) {
	var printed mounttest.Log
	log.SetOutput(&printed)
	defer log.SetOutput(os.Stderr)
	for name, head := range map[string]string{
		"after an error":        "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}",
		"after an empty answer": "HTTP/1.1 204 No Content\r\n\r\n",
		"after a token": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 75\r\n\r\n" +
			`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 60}}`[:75],
	} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan struct{}, 10)
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					panic(err)
				}
				_, _ = io.WriteString(conn, head+"client_secret="+r.PostForm.Get("client_secret"))
				_, _ = io.Copy(io.Discard, conn) // Until the engine closes the connection.
				conn.Close()
				closed <- struct{}{}
			}))
			defer server.Close()
			m := mounttest.New(t)
			m.Transport = upstream.NewTransport
			m.Start()
			m.Configure("base_url", server.URL, "ca_cert", mounttest.CertificatePEM(server.Certificate()), "verify_connection", false)
			_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
			select {
			case <-closed:
			case <-time.After(10 * time.Second):
				t.Fatal("the connection stays open")
			}
			assert.False(t, strings.Contains(printed.String(), mounttest.Secret[:7]), "the secret is in the log of the process")
			assert.Zero(t, printed.Count("HTTP channel"))
		})
	}
}
