// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// roundTripFunc is a transport made of a function.
type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// sandboxClient returns a client whose connections end in a sandbox in the same
// process.
func sandboxClient(t *testing.T) (*client, *fuuffytest.Sandbox) {
	t.Helper()
	sandbox := fuuffytest.New(fuuffytest.Config{PerMinute: -1, PerHour: -1})
	sandbox.CreateClient(testClientID, testSecret)
	return newClient("https://gateway.example.com/v1", 10*time.Second, sandbox.RoundTripper(), time.Now, newRateLimit()), sandbox
}

// requireUpstream asks for a token in vain and returns why.
func requireUpstream(t *testing.T, c *client) *upstreamError {
	t.Helper()
	_, err := c.requestToken(t.Context(), testClientID, testSecret)
	upstream, ok := errors.AsType[*upstreamError](err)
	require.True(t, ok, "want an upstreamError, got %v", err)
	return upstream
}

func TestTokenRequestOnTheWire(t *testing.T) {
	var seen *http.Request
	var form url.Values
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.NoError(t, r.ParseForm())
		seen, form = r, r.PostForm
		fmt.Fprint(w, `{"data": {"access_token": "sk-1", "token_type": "bearer", "expires_in": 3600}}`)
	}))
	defer server.Close()
	c := newClient(server.URL+"/v1/", time.Second, server.Client().Transport, time.Now, newRateLimit())
	granted, err := c.requestToken(t.Context(), testClientID, testSecret)
	require.NoError(t, err)
	assert.Equal(t, grant{accessToken: "sk-1", expiresIn: time.Hour}, granted)
	assert.Equal(t, http.MethodPost, seen.Method)
	assert.Equal(t, "/v1/auth/token", seen.URL.Path)
	assert.Equal(t, "application/x-www-form-urlencoded", seen.Header.Get("Content-Type"))
	assert.Equal(t, "vault-plugin-secrets-fuuffy/"+version, seen.UserAgent())
	assert.Equal(t, url.Values{"grant_type": {"client_credentials"}, "client_id": {testClientID}, "client_secret": {testSecret}}, form)
}

// Each dialect of Fuuffy's error envelope is read.
func TestErrorDialects(t *testing.T) {
	for name, tt := range map[string]struct {
		status        int
		body          string
		failure       failure
		code, message string
	}{
		"details as text":  {401, `{"error": {"code": "invalid_client", "message": "Client authentication failed", "details": "Invalid client credentials provided"}}`, rejected, "invalid_client", "Client authentication failed; Invalid client credentials provided"},
		"code and reason":  {401, `{"error": {"code": "401021", "code_reason": "invalid_client_id_or_client_secret", "message": "Invalid client_id, client_secret, or session_key"}}`, rejected, "invalid_client_id_or_client_secret (401021)", "Invalid client_id, client_secret, or session_key"},
		"error trace":      {400, `{"error": {"code": "400000", "code_reason": "validation_error", "message": "Invalid request parameters", "error_trace": {"weight": "Missing", "age": "Missing too"}}}`, rejected, "validation_error (400000)", "Invalid request parameters; age: Missing too; weight: Missing"},
		"details as list":  {422, `{"error": {"code": "validation_error", "message": "Invalid request parameters", "details": [{"field": "sender.phone", "message": "Phone number is required"}]}}`, rejected, "validation_error", "Invalid request parameters; sender.phone: Phone number is required"},
		"field":            {400, `{"error": {"code": "invalid_request", "message": "The 'recipient' field is required", "field": "recipient"}}`, rejected, "invalid_request", "The 'recipient' field is required; field recipient"},
		"code as a number": {403, `{"error": {"code": 403001, "message": "No permission"}}`, rejected, "403001", "No permission"},
		"unauthorized":     {403, `{"error": {"code": "unauthorized_client", "message": "The account lacks permission"}}`, rejected, "unauthorized_client", "The account lacks permission"},
		"plain OAuth":      {400, `{"error": "invalid_client", "error_description": "unknown client"}`, rejected, "invalid_client", "unknown client"},
		"not found":        {404, `{"error": {"code": "not_found", "message": "No such page"}}`, rejected, "not_found", "No such page"},
		"conflict":         {409, `{"error": {"code": "conflict", "message": "In use"}}`, rejected, "conflict", "In use"},
		"rate limit":       {429, `{"error": {"code": "rate_limit_exceeded", "message": "Too many requests"}}`, rateLimited, "rate_limit_exceeded", "Too many requests"},
		"time-out":         {408, `{}`, unavailable, "", "no explanation in Fuuffy's format; a proxy or gateway may have answered in its place"},
		"server error":     {500, `{"error": {"code": "internal_error", "message": "Oops"}}`, unavailable, "internal_error", "Oops"},
		"maintenance":      {503, ``, unavailable, "", "no explanation in Fuuffy's format; a proxy or gateway may have answered in its place"},
		"HTML":             {502, `<html>Bad gateway</html>`, unavailable, "", "no explanation in Fuuffy's format; a proxy or gateway may have answered in its place"},
		"a list":           {400, `[1]`, rejected, "", "no explanation in Fuuffy's format; a proxy or gateway may have answered in its place"},
		"control bytes":    {400, `{"error": {"code": "a\nb", "message": "c\u0000\u001b[31md"}}`, rejected, "a b", "c  [31md"},
		"the secret back":  {400, `{"error": {"code": "x", "message": "` + testSecret + ` and ` + url.QueryEscape(testSecret) + `"}}`, rejected, "x", "[redacted] and [redacted]"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, sandbox := sandboxClient(t)
				if tt.body == "" {
					tt.body = " "
				}
				sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: tt.status, Body: tt.body})
				upstream := requireUpstream(t, c)
				assert.Equal(t, tt.failure, upstream.failure)
				assert.Equal(t, tt.status, upstream.status)
				assert.Equal(t, tt.code, upstream.code)
				assert.Equal(t, tt.message, upstream.message)
				want := 1
				if tt.failure == unavailable {
					want = maxAttempts
				}
				assert.Equal(t, want, sandbox.Stats().TokenRequests)
			})
		})
	}
}

// What passes is tried again inside the request; it may still succeed.
func TestRetries(t *testing.T) {
	for _, kind := range []fuuffytest.Fault{
		faultUnavailable, {Kind: fuuffytest.FaultCut}, {Kind: fuuffytest.FaultRefuse}, {Kind: fuuffytest.FaultHang},
	} {
		t.Run(kind.Kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, sandbox := sandboxClient(t)
				kind.Times = maxAttempts - 1
				sandbox.SetFault(kind)
				granted, err := c.requestToken(t.Context(), testClientID, testSecret)
				require.NoError(t, err)
				assert.True(t, sandbox.TokenAlive(granted.accessToken))
				assert.Equal(t, maxAttempts, sandbox.Stats().TokenRequests)
			})
		})
	}
}

// Time bounds: one attempt, and all of them.
func TestRequestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, sandbox := sandboxClient(t)
		sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultHang})
		began := time.Now()
		upstream := requireUpstream(t, c)
		assert.True(t, upstream.timeout)
		assert.Equal(t, unavailable, upstream.failure)
		assert.GreaterOrEqual(t, time.Since(began), 30*time.Second)
		assert.LessOrEqual(t, time.Since(began), 30*time.Second+2*maxRetryWait)

		c = newClient("https://gateway.example.com/v1", 30*time.Second, sandbox.RoundTripper(), time.Now, newRateLimit())
		began = time.Now()
		assert.True(t, requireUpstream(t, c).timeout)
		assert.Equal(t, maxRequestTime, time.Since(began))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.requestToken(ctx, testClientID, testSecret)
		assert.Equal(t, context.DeadlineExceeded, err, "the caller's own end is not Fuuffy's failure")
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	in := func(d time.Duration) string { return now.Add(d).UTC().Format(http.TimeFormat) }
	unix := func(d time.Duration) string { return strconv.FormatInt(now.Add(d).Unix(), 10) }
	for name, tt := range map[string]struct {
		retryAfter, reset string
		want              time.Duration
	}{
		"seconds":               {"120", "", 2 * time.Minute},
		"fractions":             {"1.5", "", 2 * time.Second},
		"a date":                {in(90 * time.Second), "", 90 * time.Second},
		"a past date":           {in(-time.Hour), "", 0},
		"a far date":            {"Fri, 31 Dec 9999 23:59:59 GMT", "", time.Hour},
		"absurd":                {"99999999999999999999999999", "", time.Hour},
		"overflowing a float":   {strings.Repeat("9", 400), "", time.Hour},
		"infinite":              {"Inf", "", time.Hour},
		"not a number":          {"NaN", "", 0},
		"negative":              {"-5", "", 0},
		"garbage":               {"soon", "", 0},
		"absent":                {"", "", 0},
		"reset":                 {"", unix(45 * time.Second), 45 * time.Second},
		"reset in the past":     {"", unix(-time.Hour), 0},
		"reset far away":        {"", unix(1000 * time.Hour), time.Hour},
		"Retry-After before it": {"7", unix(45 * time.Second), 7 * time.Second},
		"garbage before it":     {"soon", unix(45 * time.Second), 45 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			c, sandbox := sandboxClient(t)
			c.now = func() time.Time { return now }
			sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 429, Header: map[string]string{"Retry-After": tt.retryAfter, "X-RateLimit-Reset": tt.reset}})
			upstream := requireUpstream(t, c)
			assert.Equal(t, rateLimited, upstream.failure)
			assert.Equal(t, tt.want, upstream.retryAfter)
			assert.Equal(t, 1, sandbox.Stats().TokenRequests)
		})
	}
}

// A 503 that says when is left alone until then instead of being retried at once.
func TestMaintenanceWithRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, sandbox := sandboxClient(t)
		sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 503, Header: map[string]string{"Retry-After": "30"}})
		upstream := requireUpstream(t, c)
		assert.Equal(t, 30*time.Second, upstream.retryAfter)
		assert.Equal(t, 1, sandbox.Stats().TokenRequests)
	})
}

// The connection: verified, never redirected, bounded. None of it reaches the
// token endpoint of a host that is not Fuuffy's.
func TestConnection(t *testing.T) {
	server := fuuffytest.NewServer(t, fuuffytest.Config{PerMinute: -1, PerHour: -1})
	server.CreateClient(testClientID, testSecret)
	trusting, err := newTransport(server.CACert())
	require.NoError(t, err)
	distrusting, err := newTransport("")
	require.NoError(t, err)

	evil := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the secret was sent to another host")
	}))
	defer evil.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())

	for name, tt := range map[string]struct {
		transport http.RoundTripper
		address   string
		fault     fuuffytest.Fault
		failure   failure
		text      string
	}{
		"untrusted":           {transport: distrusting, failure: unavailable, text: "unknown authority"},
		"expired certificate": {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultExpiredCertificate}, failure: unavailable, text: "expired"},
		"wrong host":          {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultWrongHostCertificate}, failure: unavailable, text: "cannot validate certificate"},
		"refused":             {transport: trusting, address: "https://" + closed.Addr().String() + "/v1", failure: unavailable, text: "connection refused"},
		"redirect":            {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultRedirect, Header: map[string]string{"Location": evil.URL}}, failure: rejected, text: "redirect"},
		"cut connection":      {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultCut}, failure: unavailable, text: "unexpected EOF"},
		"no answer":           {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultRefuse}, failure: unavailable, text: "EOF"},
		"huge body":           {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultBody, Body: strings.Repeat(" ", 10<<20)}, failure: malformed, text: "longer than 64 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			server.ClearFault()
			if tt.fault.Kind != "" {
				server.SetFault(tt.fault)
			}
			address := server.BaseURL()
			if tt.address != "" {
				address = tt.address
			}
			upstream := requireUpstream(t, newClient(address, 10*time.Second, tt.transport, time.Now, newRateLimit()))
			assert.Equal(t, tt.failure, upstream.failure)
			assert.Contains(t, upstream.Error(), tt.text)
		})
	}

	server.ClearFault()
	_, err = newClient(server.BaseURL(), 10*time.Second, trusting, time.Now, newRateLimit()).requestToken(t.Context(), testClientID, testSecret)
	assert.NoError(t, err)
}

// A certificate that is not trusted does not get better in a second.
func TestCertificateErrorsAreNotRetried(t *testing.T) {
	c, sandbox := sandboxClient(t)
	sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultExpiredCertificate})
	requireUpstream(t, c)
	assert.Equal(t, 1, sandbox.Stats().FaultsHit)
}

func TestOldTLSIsRefused(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the secret was sent over TLS 1.1")
	}))
	server.Config.ErrorLog = discardLog
	server.TLS = oldTLS
	server.StartTLS()
	defer server.Close()
	transport, err := newTransport(certificatePEM(server.Certificate()))
	require.NoError(t, err)
	upstream := requireUpstream(t, newClient(server.URL, time.Second, transport, time.Now, newRateLimit()))
	assert.Contains(t, upstream.Error(), "protocol version")
}

// An error of the transport may quote what the other side sent.
func TestTransportErrorsDoNotQuoteTheSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := roundTripFunc(func(*http.Request) (*http.Response, error) {
			return nil, errors.New("malformed HTTP response \"" + testSecret + "\"\n")
		})
		c := newClient("https://gateway.example.com", time.Second, transport, time.Now, newRateLimit())
		text := requireUpstream(t, c).Error()
		assert.Contains(t, text, "[redacted]")
		assert.NotContains(t, text, testSecret)
	})
}
