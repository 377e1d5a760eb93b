// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// What an error says about the credentials: whether others are worth a try, whether it
// proves that these are dead, and whether something else than the token endpoint responded.
func TestWhatARejectionProves(t *testing.T) {
	for name, tt := range map[string]struct {
		status                  int
		body                    string
		others, dead, elsewhere bool
	}{
		"401 of Fuuffy":            {401, `{"error": {"code": "invalid_client"}}`, true, true, false},
		"401 without a body":       {401, ` `, true, true, false},
		"400 invalid_client":       {400, `{"error": {"code": "invalid_client"}}`, true, true, false},
		"403 401021":               {403, `{"error": {"code": "401021"}}`, true, true, false},
		"403 by its reason":        {403, `{"error": {"code": "1", "code_reason": "invalid_client_id_or_client_secret"}}`, true, true, false},
		"400 about something else": {400, `{"error": {"code": "invalid_request"}}`, true, false, false},
		"400 of another OAuth":     {400, `{"error": "invalid_client"}`, true, false, false},
		"403 page":                 {403, `<html>Forbidden</html>`, true, false, false},
		"403 in words":             {403, `invalid_client`, true, false, false},
		"403 missing permission":   {403, `{"error": {"code": "unauthorized_client"}}`, true, false, false},
		"404":                      {404, ` `, false, false, true},
		"405":                      {405, ` `, false, false, true},
		"409":                      {409, ` `, false, false, false},
		"422":                      {422, ` `, false, false, false},
		"429 that says it":         {429, `{"error": {"code": "invalid_client"}}`, false, false, false},
		"503 that says it":         {503, `{"error": {"code": "invalid_client"}}`, false, false, false},
		"200 that says it":         {200, `{"error": {"code": "invalid_client"}}`, false, false, false},
		"302":                      {302, `{"error": {"code": "invalid_client"}}`, false, false, true},
		"404 that says it":         {404, `{"error": {"code": "invalid_client"}}`, false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, sandbox := sandboxClient(t)
				sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: tt.status, Body: tt.body})
				failed := requireFailed(t, c)
				assert.Equal(t, tt.others, failed.RejectsCredentials())
				assert.Equal(t, tt.dead, failed.ProvesRevoked())
				assert.Equal(t, tt.elsewhere, failed.LeadsElsewhere())
			})
		})
	}
}

// RFC 9110 §15: a status out of range counts as a server error. An informational one is
// no answer, and what follows it is not read.
func TestUnusualStatus(t *testing.T) {
	for status, want := range map[int]Failure{0: Unavailable, 99: Unavailable, 100: Malformed, 101: Malformed, 199: Malformed, 600: Unavailable, 999: Unavailable} {
		c := New(Config{BaseURL: "https://gateway.example.com/v1", Timeout: time.Second,
			Transport: roundTripFunc(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, Body: io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF)), Request: r}, nil
			})})
		synctest.Test(t, func(t *testing.T) { assert.Equal(t, want, requireFailed(t, c).Failure, "status %d", status) })
	}
}

// A body that is cut, too long or endless takes away the explanation, not the class and
// not Retry-After.
func TestStatusDecidesWhateverTheBody(t *testing.T) {
	bodies := map[string]func(context.Context) io.Reader{
		"cut": func(context.Context) io.Reader {
			return io.MultiReader(strings.NewReader(`{"error": {"code": "invalid_client", "message": "m"}}`), iotest.ErrReader(io.ErrUnexpectedEOF))
		},
		"silent": func(ctx context.Context) io.Reader {
			reader, writer := io.Pipe()
			context.AfterFunc(ctx, func() { writer.CloseWithError(ctx.Err()) })
			return reader
		},
		"long": func(context.Context) io.Reader { return bytes.NewReader(make([]byte, 2*maxBody)) },
	}
	for status, want := range map[int]Failure{300: Rejected, 400: Rejected, 401: Rejected, 403: Rejected, 404: Rejected, 408: Unavailable, 429: RateLimited, 500: Unavailable, 503: Unavailable} {
		for name, body := range bodies {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					requests := 0
					transport := roundTripFunc(func(r *http.Request) (*http.Response, error) {
						requests++
						return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"600"}}, Body: io.NopCloser(body(r.Context())), Request: r}, nil
					})
					failed := requireFailed(t, New(Config{BaseURL: "https://gateway.example.com", Timeout: time.Second, Transport: transport}))
					assert.Equal(t, want, failed.Failure)
					assert.Equal(t, status, failed.Status)
					if status >= 400 {
						assert.Equal(t, noExplanation, failed.Message)
					} else {
						assert.Contains(t, failed.Message, "redirect")
					}
					if want != Rejected {
						assert.Equal(t, 10*time.Minute, failed.RetryAfter)
					}
					assert.Equal(t, 1, requests, "Fuuffy asked to be left alone")
				})
			})
		}
	}
}

// A retry inside the request waits for as long as Fuuffy asks, or there is none.
func TestRetriesWaitForRetryAfter(t *testing.T) {
	for seconds, want := range map[string]struct {
		requests int
		least    time.Duration
	}{"1": {3, 2 * time.Second}, "2": {3, 4 * time.Second}, "3": {1, 0}, "600": {1, 0}} {
		t.Run(seconds+" s", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, sandbox := sandboxClient(t)
				sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 503, Header: map[string]string{"Retry-After": seconds}})
				began := time.Now()
				requireFailed(t, c)
				assert.Equal(t, want.requests, sandbox.Stats().TokenRequests)
				assert.GreaterOrEqual(t, time.Since(began), want.least)
			})
		})
	}
}

// Pauses grow, have a random part, and stay within their bounds.
func TestJitter(t *testing.T) {
	for attempt := 1; attempt <= 3; attempt++ {
		least, most := time.Hour, time.Duration(0)
		for range 2000 {
			pause := jitter(attempt, rand.Float64())
			least, most = min(least, pause), max(most, pause)
		}
		limit := min(2*minPause<<attempt, maxPause)
		assert.GreaterOrEqual(t, least, minPause)
		assert.Less(t, least, minPause+limit/20, "random from the bottom")
		assert.LessOrEqual(t, most, limit)
		assert.Greater(t, most, limit-limit/20, "to the top")
	}
}

func TestRateLimitRemaining(t *testing.T) {
	c, sandbox := sandboxClient(t)
	_, known := c.config.RateLimit.Remaining()
	assert.False(t, known)
	for _, tt := range []struct {
		header string
		want   int64
	}{{"7", 7}, {"42", 42}, {"", 42}, {"many", 42}, {"-1", 42}, {"0", 0}} {
		sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 429, Header: map[string]string{"X-RateLimit-Remaining": tt.header}})
		requireFailed(t, c)
		n, known := c.config.RateLimit.Remaining()
		assert.True(t, known)
		assert.Equal(t, tt.want, n, "%q", tt.header)
	}
}

func TestErrorText(t *testing.T) {
	for want, failed := range map[string]*Error{
		"x: m (HTTP status 400)": {Status: 400, Code: "x", Message: "m"},
		"m (HTTP status 503)":    {Status: 503, Message: "m"},
		"m":                      {Message: "m"},
	} {
		assert.Equal(t, want, failed.Error())
	}
}

// A transport says in several ways that time ran out. The engine's own deadline counts even
// if the transport also names what it broke.
func TestTransportErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		err     error
		timeout bool
	}{
		"the engine's deadline":    {context.DeadlineExceeded, true},
		"the transport's deadline": {os.ErrDeadlineExceeded, true},
		"both":                     {fmt.Errorf("%w: %w", syscall.ECONNRESET, context.DeadlineExceeded), true},
		"neither":                  {syscall.ECONNRESET, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, tt.err })
				failed := requireFailed(t, New(Config{BaseURL: "https://gateway.example.com", Timeout: time.Second, Transport: transport}))
				assert.Equal(t, tt.timeout, failed.Timeout)
				assert.ErrorIs(t, failed, tt.err)
			})
		})
	}
}
