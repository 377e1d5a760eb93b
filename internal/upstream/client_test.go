// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
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
func sandboxClient(t *testing.T) (*Client, *fuuffytest.Sandbox) {
	t.Helper()
	sandbox := fuuffytest.New(fuuffytest.Config{PerMinute: -1, PerHour: -1})
	sandbox.CreateClient(testClientID, testSecret)
	return New(Config{BaseURL: "https://gateway.example.com/v1", Timeout: 10 * time.Second, Transport: sandbox.RoundTripper(), UserAgent: "test/1"}), sandbox
}

// requireFailed asks for a token in vain and returns why.
func requireFailed(t *testing.T, c *Client) *Error {
	t.Helper()
	_, err := c.RequestToken(t.Context(), testClientID, testSecret)
	failed, ok := errors.AsType[*Error](err)
	require.True(t, ok, "want an *Error, got %v", err)
	return failed
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
	c := New(Config{BaseURL: server.URL + "/v1/", Timeout: 10 * time.Second, Transport: server.Client().Transport, UserAgent: "test/1"})
	granted, err := c.RequestToken(t.Context(), testClientID, testSecret)
	require.NoError(t, err)
	assert.Equal(t, Grant{AccessToken: "sk-1", ExpiresIn: time.Hour}, granted)
	assert.Equal(t, http.MethodPost, seen.Method)
	assert.Equal(t, "/v1/auth/token", seen.URL.Path)
	assert.Equal(t, "application/x-www-form-urlencoded", seen.Header.Get("Content-Type"))
	assert.Equal(t, "application/json", seen.Header.Get("Accept"))
	assert.Equal(t, []string{"identity"}, seen.Header.Values("Accept-Encoding"))
	assert.Equal(t, "test/1", seen.UserAgent())
	assert.Equal(t, url.Values{"grant_type": {"client_credentials"}, "client_id": {testClientID}, "client_secret": {testSecret}}, form)
}

// Each dialect of Fuuffy's error envelope is read.
func TestErrorDialects(t *testing.T) {
	for name, tt := range map[string]struct {
		status        int
		body          string
		failure       Failure
		code, message string
	}{
		"details as text":  {401, `{"error": {"code": "invalid_client", "message": "Client authentication failed", "details": "Invalid client credentials provided"}}`, Rejected, "invalid_client", "Client authentication failed; Invalid client credentials provided"},
		"code and reason":  {401, `{"error": {"code": "401021", "code_reason": "invalid_client_id_or_client_secret", "message": "Invalid client_id, client_secret, or session_key"}}`, Rejected, "invalid_client_id_or_client_secret (401021)", "Invalid client_id, client_secret, or session_key"},
		"error trace":      {400, `{"error": {"code": "400000", "code_reason": "validation_error", "message": "Invalid request parameters", "error_trace": {"weight": "Missing", "age": "Missing too"}}}`, Rejected, "validation_error (400000)", "Invalid request parameters; age: Missing too; weight: Missing"},
		"details as list":  {422, `{"error": {"code": "validation_error", "message": "Invalid request parameters", "details": [{"field": "sender.phone", "message": "Phone number is required"}]}}`, Rejected, "validation_error", "Invalid request parameters; sender.phone: Phone number is required"},
		"details as else":  {422, `{"error": {"code": "validation_error", "message": "Invalid request parameters", "details": [{"field": 7, "message": "Phone number is required"}]}}`, Rejected, "validation_error", "Invalid request parameters; 7: Phone number is required"},
		"details empty":    {422, `{"error": {"code": "validation_error", "message": "Invalid request parameters", "details": ""}}`, Rejected, "validation_error", "Invalid request parameters"},
		"message as else":  {400, `{"error": {"code": "invalid_client", "message": 7}}`, Rejected, "invalid_client", "7"},
		"OAuth as else":    {400, `{"error": "invalid_client", "error_description": 7}`, Rejected, "invalid_client", "7"},
		"64 KiB":           {400, padded(`{"error": {"code": "conflict", "message": "In use"}}`, maxBody), Rejected, "conflict", "In use"},
		"over 64 KiB":      {400, padded(`{"error": {"code": "conflict", "message": "In use"}}`, maxBody+1), Rejected, "", noExplanation},
		"field":            {400, `{"error": {"code": "invalid_request", "message": "The 'recipient' field is required", "field": "recipient"}}`, Rejected, "invalid_request", "The 'recipient' field is required; field recipient"},
		"code as a number": {403, `{"error": {"code": 403001, "message": "No permission"}}`, Rejected, "403001", "No permission"},
		"unauthorized":     {403, `{"error": {"code": "unauthorized_client", "message": "The account lacks permission"}}`, Rejected, "unauthorized_client", "The account lacks permission"},
		"plain OAuth":      {400, `{"error": "invalid_client", "error_description": "unknown client"}`, Rejected, "invalid_client", "unknown client"},
		"not found":        {404, `{"error": {"code": "not_found", "message": "No such page"}}`, Rejected, "not_found", "No such page"},
		"conflict":         {409, `{"error": {"code": "conflict", "message": "In use"}}`, Rejected, "conflict", "In use"},
		"rate limit":       {429, `{"error": {"code": "rate_limit_exceeded", "message": "Too many requests"}}`, RateLimited, "rate_limit_exceeded", "Too many requests"},
		"time-out":         {408, `{}`, Unavailable, "", "no explanation in Fuuffy's format; a proxy or gateway may have responded instead"},
		"server error":     {500, `{"error": {"code": "internal_error", "message": "Oops"}}`, Unavailable, "internal_error", "Oops"},
		"maintenance":      {503, ``, Unavailable, "", "no explanation in Fuuffy's format; a proxy or gateway may have responded instead"},
		"HTML":             {502, `<html>Bad gateway</html>`, Unavailable, "", "no explanation in Fuuffy's format; a proxy or gateway may have responded instead"},
		"a list":           {400, `[1]`, Rejected, "", "no explanation in Fuuffy's format; a proxy or gateway may have responded instead"},
		"control bytes":    {400, `{"error": {"code": "a\nb", "message": "c\u0000\u001b[31md"}}`, Rejected, "a b", "c  [31md"},
		"the secret back":  {400, `{"error": {"code": "x", "message": "` + testSecret + ` and ` + url.QueryEscape(testSecret) + `"}}`, Rejected, "x", "[redacted] and [redacted]"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, sandbox := sandboxClient(t)
				if tt.body == "" {
					tt.body = " "
				}
				sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: tt.status, Body: tt.body})
				failed := requireFailed(t, c)
				assert.Equal(t, tt.failure, failed.Failure)
				assert.Equal(t, tt.status, failed.Status)
				assert.Equal(t, tt.code, failed.Code)
				assert.Equal(t, tt.message, failed.Message)
				want := 1
				if tt.failure == Unavailable {
					want = maxAttempts
				}
				assert.Equal(t, want, sandbox.Stats().TokenRequests)
			})
		})
	}
}

// padded adds white space, which changes nothing in JSON but its length.
func padded(text string, length int) string { return text + strings.Repeat(" ", length-len(text)) }

// What passes is tried again inside the request; it may still succeed.
func TestRetries(t *testing.T) {
	for _, kind := range []fuuffytest.Fault{
		{Kind: fuuffytest.FaultStatus, Status: 503}, {Kind: fuuffytest.FaultCut}, {Kind: fuuffytest.FaultRefuse}, {Kind: fuuffytest.FaultHang},
	} {
		t.Run(kind.Kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, sandbox := sandboxClient(t)
				kind.Times = maxAttempts - 1
				sandbox.SetFault(kind)
				granted, err := c.RequestToken(t.Context(), testClientID, testSecret)
				require.NoError(t, err)
				assert.True(t, sandbox.TokenAlive(granted.AccessToken))
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
		failed := requireFailed(t, c)
		assert.True(t, failed.Timeout)
		assert.Equal(t, Unavailable, failed.Failure)
		assert.GreaterOrEqual(t, time.Since(began), 30*time.Second)
		assert.LessOrEqual(t, time.Since(began), 30*time.Second+2*maxPause)

		c = New(Config{BaseURL: "https://gateway.example.com/v1", Timeout: 30 * time.Second, Transport: sandbox.RoundTripper(), UserAgent: "test/1"})
		began = time.Now()
		assert.True(t, requireFailed(t, c).Timeout)
		assert.Equal(t, maxRequestTime, time.Since(began))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.RequestToken(ctx, testClientID, testSecret)
		assert.Equal(t, context.DeadlineExceeded, err, "the caller's own end is not Fuuffy's failure")
	})
}

// If the time is over during a pause, the error is Fuuffy's last word.
func TestTimeIsOverDuringAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{BaseURL: "https://gateway.example.com/v1", Timeout: time.Minute,
			Transport: roundTripFunc(func(r *http.Request) (*http.Response, error) {
				time.Sleep(maxRequestTime - minPause/2)
				return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody, Request: r}, nil
			})})
		began := time.Now()
		failed := requireFailed(t, c)
		assert.Equal(t, http.StatusServiceUnavailable, failed.Status)
		assert.False(t, failed.Timeout)
		assert.Equal(t, maxRequestTime, time.Since(began))
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
		"a part of a second":    {"0.5", "", time.Second},
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
			c.config.Now = func() time.Time { return now }
			sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 429, Header: map[string]string{"Retry-After": tt.retryAfter, "X-RateLimit-Reset": tt.reset}})
			failed := requireFailed(t, c)
			assert.Equal(t, RateLimited, failed.Failure)
			assert.Equal(t, tt.want, failed.RetryAfter)
			assert.Equal(t, 1, sandbox.Stats().TokenRequests)
		})
	}
}

// A 503 that says when is left alone until then instead of being retried at once.
func TestMaintenanceWithRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, sandbox := sandboxClient(t)
		sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 503, Header: map[string]string{"Retry-After": "30"}})
		failed := requireFailed(t, c)
		assert.Equal(t, 30*time.Second, failed.RetryAfter)
		assert.Equal(t, 1, sandbox.Stats().TokenRequests)
	})
}

// An operator's attempt is the only one.
func TestTryTokenDoesNotRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, sandbox := sandboxClient(t)
		sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 503, Times: 1})
		_, err := c.TryToken(t.Context(), testClientID, testSecret)
		require.Error(t, err)
		assert.Equal(t, 1, sandbox.Stats().TokenRequests)
		_, err = c.TryToken(t.Context(), testClientID, testSecret)
		require.NoError(t, err)
	})
}

// An error of the transport may quote what the other side sent.
func TestTransportErrorsDoNotQuoteTheSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := roundTripFunc(func(*http.Request) (*http.Response, error) {
			return nil, errors.New("malformed HTTP response \"" + testSecret + "\"\n")
		})
		c := New(Config{BaseURL: "https://gateway.example.com", Timeout: time.Second, Transport: transport, UserAgent: "test/1"})
		text := requireFailed(t, c).Error()
		assert.Contains(t, text, "[redacted]")
		assert.NotContains(t, text, testSecret)
	})
}

const (
	testClientID = "shop-1"
	// testSecret needs URL-encoding.
	testSecret = "planted+s3cr3t&=/%é"
)
