// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const goodGrant = `{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 3600}}`

// A time in a response is judged by the response's own clock. Only without one does the
// engine's clock count.
func TestTimesAreJudgedByTheClockThatWroteThem(t *testing.T) {
	local := time.Unix(1_800_000_000, 0)
	for name, ahead := range map[string]time.Duration{"ahead": 20 * time.Minute, "behind": -20 * time.Minute, "the same": 0} {
		theirs := local.Add(ahead)
		until := theirs.Add(30 * time.Second)
		date := theirs.UTC().Format(http.TimeFormat)
		for _, tt := range []struct {
			name   string
			header []string
			want   time.Duration
		}{
			{"Retry-After", []string{"Date", date, "Retry-After", until.UTC().Format(http.TimeFormat)}, 30 * time.Second},
			{"reset", []string{"Date", date, "X-RateLimit-Reset", strconv.FormatInt(until.Unix(), 10)}, 30 * time.Second},
			{"seconds", []string{"Date", date, "Retry-After", "30"}, 30 * time.Second},
			{"without a date", []string{"Retry-After", until.UTC().Format(http.TimeFormat)}, max(0, 30*time.Second+ahead)},
			{"unreadable date", []string{"Date", "yesterday", "Retry-After", until.UTC().Format(http.TimeFormat)}, max(0, 30*time.Second+ahead)},
			{"reset without a date", []string{"X-RateLimit-Reset", strconv.FormatInt(until.Unix(), 10)}, max(0, 30*time.Second+ahead)},
		} {
			t.Run(name+", "+tt.name, func(t *testing.T) {
				c := answering(429, `{}`, tt.header...)
				c.config.Now = func() time.Time { return local }
				assert.Equal(t, tt.want, requireFailed(t, c).RetryAfter)
			})
		}
	}
}

// A 429 that names no time gives none: what to wait is the caller's decision.
func TestRateLimitWithoutATime(t *testing.T) {
	assert.Zero(t, answerOf(t, 429, `{"error": {"code": "rate_limit_exceeded", "message": "Too many requests"}}`).RetryAfter)
}

// An error envelope under status 200 is shown as the error that it is. It proves nothing.
func TestSuccessThatIsAnError(t *testing.T) {
	for name, tt := range map[string]struct{ body, text string }{
		"Fuuffy's":        {`{"error": {"code": "invalid_client", "message": "Client authentication failed"}}`, "invalid_client: Client authentication failed (HTTP status 200)"},
		"with null data":  {`{"data": null, "error": {"code": "401021", "code_reason": "invalid_client_id_or_client_secret", "message": "No"}}`, "invalid_client_id_or_client_secret (401021): No (HTTP status 200)"},
		"plain OAuth":     {`{"error": "invalid_client"}`, `invalid_client: the response has no "data" object (HTTP status 200)`},
		"only a message":  {`{"error": {"message": "Maintenance"}}`, "Maintenance (HTTP status 200)"},
		"not an envelope": {`{"error": []}`, `the response has no "data" object (HTTP status 200)`},
		"the secret back": {`{"error": {"code": "x", "message": "` + "planted+s3cr3t&=/%é" + `"}}`, "x: [redacted] (HTTP status 200)"},
	} {
		t.Run(name, func(t *testing.T) {
			failed := answerOf(t, 200, tt.body)
			assert.Equal(t, tt.text, failed.Error())
			assert.Equal(t, Malformed, failed.Failure)
			assert.False(t, failed.ProvesRevoked())
			assert.False(t, failed.RejectsCredentials())
		})
	}
}

// A byte order mark before the JSON is skipped, in a success and in an error.
func TestByteOrderMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		granted, err := answering(200, "\ufeff"+goodGrant).RequestToken(t.Context(), testClientID, testSecret)
		require.NoError(t, err)
		assert.Equal(t, "sk-1", granted.AccessToken)
	})
	assert.True(t, answerOf(t, 400, "\ufeff"+`{"error": {"code": "invalid_client"}}`).ProvesRevoked())
	assert.Equal(t, "the response is empty", answerOf(t, 200, "\ufeff").Message)
}

// A compressed body is named so. What can be read nevertheless is read.
func TestCompressedResponse(t *testing.T) {
	const gzipped = "\x1f\x8b\x08\x00\x00\x00\x00\x00"
	const compressed = "the response is compressed (gzip), although the engine requested an uncompressed one; a proxy or gateway may have compressed it"
	for name, tt := range map[string]struct {
		status               int
		body, encoding, want string
	}{
		"200":             {200, gzipped, "gzip", compressed},
		"200, in capital": {200, gzipped, "GZIP", "the response is compressed (GZIP), although the engine requested an uncompressed one; a proxy or gateway may have compressed it"},
		"401":             {401, gzipped, "gzip", compressed},
		"503":             {503, gzipped, "gzip", compressed},
		"identity":        {200, "<html>", "identity", "the response is not valid JSON"},
		"a readable one":  {401, `{"error": {"code": "x", "message": "m"}}`, "gzip", "m"},
		"hostile":         {401, gzipped, "x-" + testSecret + "\x1b", "the response is compressed (x-[redacted]), although the engine requested an uncompressed one; a proxy or gateway may have compressed it"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, tt.want, answerOf(t, tt.status, tt.body, "Content-Encoding", tt.encoding).Message)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		_, err := answering(200, goodGrant, "Content-Encoding", "gzip").RequestToken(t.Context(), testClientID, testSecret)
		assert.NoError(t, err)
	})
}

// The engine asks for an uncompressed response.
func TestNoCompressionIsRequested(t *testing.T) {
	var encoding string
	c := New(Config{BaseURL: "https://gateway.example.com", Timeout: time.Second, Transport: roundTripFunc(func(r *http.Request) (*http.Response, error) {
		encoding = r.Header.Get("Accept-Encoding")
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: bodyOf(goodGrant), Request: r}, nil
	})})
	_, err := c.RequestToken(t.Context(), testClientID, testSecret)
	require.NoError(t, err)
	assert.Equal(t, "identity", encoding)
}

// A success that isn't in Fuuffy's envelope comes from something else: a login page, a proxy,
// another API.
func TestResponseThatIsNotFuuffys(t *testing.T) {
	for name, tt := range map[string]struct {
		status      int
		contentType string
		body        string
		want        bool
	}{
		"login page":              {200, "text/html", "<html>Log in</html>", true},
		"long login page":         {200, "text/html", padded("<html>Log in</html>", maxBody+1), true},
		"page without a type":     {200, "", "<html>", true},
		"text":                    {200, "text/plain", "It works!", true},
		"empty":                   {200, "application/json", " ", true},
		"no content":              {204, "", "", true},
		"cut JSON":                {200, "application/json", `{"data": {"access_tok`, true},
		"a list":                  {200, "application/json", `[]`, true},
		"another API":             {200, "application/json", `{"status": "ok"}`, true},
		"another OAuth":           {200, "application/json", `{"access_token": "sk-1", "token_type": "Bearer"}`, true},
		"another API's error":     {200, "application/json", `{"error": null, "result": {}}`, true},
		"switching protocols":     {101, "", "", true},
		"no token":                {200, "application/json", `{"data": {}}`, false},
		"null data":               {200, "application/json", `{"data": null}`, false},
		"a list as data":          {200, "application/json", `{"data": []}`, false},
		"an error":                {200, "application/json", `{"error": {"code": "x"}}`, false},
		"an error, with a mark":   {200, "application/json", "\ufeff" + `{"error": {"code": "x"}}`, false},
		"an error under its own":  {400, "text/html", "<html>", false},
		"a redirect to the login": {302, "text/html", "<html>", false},
	} {
		t.Run(name, func(t *testing.T) {
			failed := answerOf(t, tt.status, tt.body, "Content-Type", tt.contentType)
			assert.Equal(t, tt.want, failed.NotFuuffy(), failed.Message)
			assert.Equal(t, tt.status == 302, failed.LeadsElsewhere())
		})
	}
	assert.False(t, answerOf(t, 200, "\x1f\x8b", "Content-Encoding", "gzip").NotFuuffy(), "what is compressed may be Fuuffy's")
}
