// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseGrant(t *testing.T) {
	for name, tt := range map[string]struct {
		body    string
		want    grant
		problem string
	}{
		"documented":              {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 3600}}`, grant{"sk-1", time.Hour, false}, ""},
		"lower case":              {`{"data": {"access_token": "sk-1", "token_type": "bearer", "expires_in": 3600}}`, grant{"sk-1", time.Hour, false}, ""},
		"text":                    {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": "3600"}}`, grant{"sk-1", time.Hour, false}, ""},
		"fraction":                {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 59.9}}`, grant{"sk-1", 59 * time.Second, false}, ""},
		"absent expiry":           {`{"data": {"access_token": "sk-1", "token_type": "Bearer"}}`, grant{"sk-1", time.Hour, true}, ""},
		"null expiry":             {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": null}}`, grant{"sk-1", time.Hour, true}, ""},
		"unknown fields":          {`{"meta": 1, "data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 60, "scope": "all"}}`, grant{"sk-1", time.Minute, false}, ""},
		"duplicate keys":          {`{"data": {"access_token": "sk-1", "access_token": "sk-2", "token_type": "Bearer", "expires_in": 60}}`, grant{"sk-2", time.Minute, false}, ""},
		"empty":                   {" \n", grant{}, "the answer is empty"},
		"truncated":               {`{"data": {"access_token": "sk-1"`, grant{}, "the answer is not valid JSON"},
		"two documents":           {`{"data": {"access_token": "sk-1", "token_type": "Bearer"}} {}`, grant{}, "the answer is not valid JSON"},
		"no envelope":             {`{"access_token": "sk-1", "token_type": "Bearer", "expires_in": 3600}`, grant{}, `the answer has no "data" object`},
		"null data":               {`{"data": null}`, grant{}, `the answer has no "data" object`},
		"data is a list":          {`{"data": []}`, grant{}, "the answer is not valid JSON"},
		"no token":                {`{"data": {"token_type": "Bearer"}}`, grant{}, "access_token is missing or not a string"},
		"token is a number":       {`{"data": {"access_token": 1, "token_type": "Bearer"}}`, grant{}, "access_token is missing or not a string"},
		"empty token":             {`{"data": {"access_token": "", "token_type": "Bearer"}}`, grant{}, "access_token is empty"},
		"space in the token":      {`{"data": {"access_token": "sk 1", "token_type": "Bearer"}}`, grant{}, "access_token has characters that no bearer token has (RFC 6750)"},
		"long token":              {`{"data": {"access_token": "` + strings.Repeat("a", maxTokenLength+1) + `", "token_type": "Bearer"}}`, grant{}, "access_token is longer than 16 KiB"},
		"mac":                     {`{"data": {"access_token": "sk-1", "token_type": "mac"}}`, grant{}, "token_type is not Bearer"},
		"no type":                 {`{"data": {"access_token": "sk-1"}}`, grant{}, "token_type is not Bearer"},
		"no life":                 {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 0}}`, grant{}, "expires_in is less than a second"},
		"negative life":           {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": -1}}`, grant{}, "expires_in is less than a second"},
		"absurd life":             {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 1e300}}`, grant{}, "expires_in is absurdly long"},
		"life beyond a float":     {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 1e999}}`, grant{}, "expires_in is absurdly long"},
		"life is not a number":    {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": "NaN"}}`, grant{}, "expires_in is not a number of seconds"},
		"life is a word":          {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": "long"}}`, grant{}, "expires_in is not a number of seconds"},
		"life is an object":       {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": {}}}`, grant{}, "expires_in is not a number of seconds"},
		"life is an empty string": {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": ""}}`, grant{}, "expires_in is not a number of seconds"},
		"too long to read":        {strings.Repeat(" ", maxBody+1), grant{}, "the answer is longer than 64 KiB"},
		"deep nesting":            {strings.Repeat(`{"data":`, 20000), grant{}, "the answer is longer than 64 KiB"},
		"nesting":                 {strings.Repeat(`[`, 60000), grant{}, "the answer is not valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			got, problem := parseGrant([]byte(tt.body), "application/json")
			assert.Equal(t, tt.problem, problem)
			assert.Equal(t, tt.want, got)
		})
	}
}

// A gateway that forgets the content type does not make a good answer a bad one.
func TestContentTypeIsOnlyForTheMessage(t *testing.T) {
	for _, contentType := range []string{"", "text/html", "nonsense;;"} {
		got, problem := parseGrant([]byte(`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 60}}`), contentType)
		assert.Empty(t, problem)
		assert.Equal(t, grant{"sk-1", time.Minute, false}, got)
	}
	_, problem := parseGrant([]byte("<html>"), "text/html; charset=utf-8")
	assert.Equal(t, "the answer is text/html instead of JSON; a proxy or gateway may have answered in Fuuffy's place", problem)
}

func TestTokenProblem(t *testing.T) {
	for token, valid := range map[string]bool{
		"sk-418e41a74ca2e7d941fa4456d73dbed7":  true,
		"AZaz09-._~+/==":                       true,
		strings.Repeat("a", maxTokenLength):    true,
		"":                                     false,
		"==":                                   false,
		"a=b":                                  false,
		"sk-1\n":                               false,
		"sk-\x001":                             false,
		"sk-1\u200b":                           false,
		"sk-😀":                                 false,
		"sk,1":                                 false,
		strings.Repeat("a", maxTokenLength+1):  false,
		"\"; Authorization: Bearer sk-another": false,
	} {
		problem := tokenProblem(token)
		assert.Equal(t, valid, problem == "", "%.40q: %s", token, problem)
	}
}

// FuzzReadAnswer holds every answer to the same few rules: a grant that can be
// served, or an error that is fit for a log line.
func FuzzReadAnswer(f *testing.F) {
	for _, body := range []string{
		`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 3600}}`,
		`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": "1e18"}}`,
		`{"error": {"code": "401021", "code_reason": "x", "message": "m", "details": [{"field": "f", "message": "m"}], "error_trace": {"w": [1, {}]}}}`,
		`{"error": {"code": [1], "message": "\u0000\ud800", "details": "d", "field": "f"}}`,
		`{"error": "invalid_client", "error_description": "d"}`,
		`<html>`, ``, `null`, `[]`, `{"data": 1}`,
	} {
		for _, status := range []int{200, 204, 302, 400, 401, 404, 408, 429, 500, 503} {
			f.Add(status, []byte(body), "application/json", "120")
		}
	}
	f.Add(429, []byte(""), "text/html; charset=", "Fri, 31 Dec 9999 23:59:59 GMT")
	f.Fuzz(func(t *testing.T, status int, body []byte, contentType, wait string) {
		resp := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {contentType}, "Retry-After": {wait}, "X-Ratelimit-Reset": {wait}}}
		granted, err := readAnswer(resp, body, time.Unix(1_800_000_000, 0))
		if err == nil {
			require.Empty(t, tokenProblem(granted.accessToken))
			require.Positive(t, granted.expiresIn)
			require.LessOrEqual(t, granted.expiresIn, maxTokenLife)
			return
		}
		upstream := err.(*upstreamError)
		require.NotEmpty(t, upstream.failure)
		require.NotEmpty(t, upstream.message)
		require.GreaterOrEqual(t, upstream.retryAfter, time.Duration(0))
		require.LessOrEqual(t, upstream.retryAfter, maxRetryAfter)
		require.True(t, utf8.ValidString(upstream.Error()))
		require.NotContains(t, upstream.Error(), "\n")
		require.Less(t, len(upstream.Error()), 8*maxErrorText+100)
	})
}

// FuzzTokenProblem compares the validator with RFC 6750's grammar, written down
// another way.
func FuzzTokenProblem(f *testing.F) {
	for _, token := range []string{"sk-1", "", "=", "a==", "a=b", "a b", "a\n", "ä", "😀", "a\x00", strings.Repeat("a", maxTokenLength+1)} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		require.Equal(t, b64token.MatchString(token) && len(token) <= maxTokenLength, tokenProblem(token) == "", "%q", token)
	})
}
