// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"net/http"
	"regexp"
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
		want    Grant
		problem string
	}{
		"documented":              {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 3600}}`, Grant{"sk-1", time.Hour, false}, ""},
		"lower case":              {`{"data": {"access_token": "sk-1", "token_type": "bearer", "expires_in": 3600}}`, Grant{"sk-1", time.Hour, false}, ""},
		"shortest life":           {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 10}}`, Grant{"sk-1", 10 * time.Second, false}, ""},
		"longest life":            {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 2592000}}`, Grant{"sk-1", 30 * 24 * time.Hour, false}, ""},
		"as long as is read":      {padded(`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 3600}}`, maxBody), Grant{"sk-1", time.Hour, false}, ""},
		"text":                    {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": "3600"}}`, Grant{"sk-1", time.Hour, false}, ""},
		"fraction":                {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 59.9}}`, Grant{"sk-1", 59 * time.Second, false}, ""},
		"absent expiry":           {`{"data": {"access_token": "sk-1", "token_type": "Bearer"}}`, Grant{"sk-1", time.Hour, true}, ""},
		"null expiry":             {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": null}}`, Grant{"sk-1", time.Hour, true}, ""},
		"unknown fields":          {`{"meta": 1, "data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 60, "scope": "all"}}`, Grant{"sk-1", time.Minute, false}, ""},
		"duplicate keys":          {`{"data": {"access_token": "sk-1", "access_token": "sk-2", "token_type": "Bearer", "expires_in": 60}}`, Grant{"sk-2", time.Minute, false}, ""},
		"empty":                   {" \n", Grant{}, "the response is empty"},
		"truncated":               {`{"data": {"access_token": "sk-1"`, Grant{}, "the response is not valid JSON"},
		"two documents":           {`{"data": {"access_token": "sk-1", "token_type": "Bearer"}} {}`, Grant{}, "the response is not valid JSON"},
		"no envelope":             {`{"access_token": "sk-1", "token_type": "Bearer", "expires_in": 3600}`, Grant{}, `the response has no "data" object`},
		"null data":               {`{"data": null}`, Grant{}, `the response has no "data" object`},
		"data is a list":          {`{"data": []}`, Grant{}, `the response's "data" is not an object`},
		"no token":                {`{"data": {"token_type": "Bearer"}}`, Grant{}, "access_token is missing or not a string"},
		"token is a number":       {`{"data": {"access_token": 1, "token_type": "Bearer"}}`, Grant{}, "access_token is missing or not a string"},
		"empty token":             {`{"data": {"access_token": "", "token_type": "Bearer"}}`, Grant{}, "access_token is empty"},
		"space in the token":      {`{"data": {"access_token": "sk 1", "token_type": "Bearer"}}`, Grant{}, "access_token has characters that no bearer token has (RFC 6750)"},
		"long token":              {`{"data": {"access_token": "` + strings.Repeat("a", maxTokenLength+1) + `", "token_type": "Bearer"}}`, Grant{}, "access_token is longer than 16 KiB"},
		"mac":                     {`{"data": {"access_token": "sk-1", "token_type": "mac"}}`, Grant{}, "token_type is not Bearer"},
		"no type":                 {`{"data": {"access_token": "sk-1"}}`, Grant{}, "token_type is not Bearer"},
		"no life":                 {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 0}}`, Grant{}, "expires_in is less than 10 seconds"},
		"negative life":           {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": -1}}`, Grant{}, "expires_in is less than 10 seconds"},
		"endlessly negative life": {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": "-Inf"}}`, Grant{}, "expires_in is less than 10 seconds"},
		"a second too long":       {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 2592001}}`, Grant{}, "expires_in is absurdly long"},
		"absurd life":             {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 1e300}}`, Grant{}, "expires_in is absurdly long"},
		"life beyond a float":     {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 1e999}}`, Grant{}, "expires_in is absurdly long"},
		"life is not a number":    {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": "NaN"}}`, Grant{}, "expires_in is not a number of seconds"},
		"life is a word":          {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": "long"}}`, Grant{}, "expires_in is not a number of seconds"},
		"life is an object":       {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": {}}}`, Grant{}, "expires_in is not a number of seconds"},
		"life is an empty string": {`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": ""}}`, Grant{}, "expires_in is not a number of seconds"},
		"longer than is read":     {padded("", maxBody+1), Grant{}, "the response is longer than 64 KiB"},
		"deep nesting":            {strings.Repeat(`{"data":`, 20000), Grant{}, "the response is longer than 64 KiB"},
		"nesting":                 {strings.Repeat(`[`, 60000), Grant{}, "the response is not valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			got, problem := parseGrant([]byte(tt.body), http.Header{"Content-Type": {"application/json"}}, newRedactor(testSecret))
			assert.Equal(t, tt.problem, problem)
			assert.Equal(t, tt.want, got)
		})
	}
}

// A gateway that forgets the content type does not make a good answer a bad one.
func TestContentTypeIsOnlyForTheMessage(t *testing.T) {
	for _, contentType := range []string{"", "text/html", "nonsense;;"} {
		got, problem := parseGrant([]byte(`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 60}}`), http.Header{"Content-Type": {contentType}}, newRedactor(testSecret))
		assert.Empty(t, problem)
		assert.Equal(t, Grant{"sk-1", time.Minute, false}, got)
	}
	for contentType, want := range map[string]string{
		"text/html; charset=utf-8": "the response is text/html instead of JSON; a proxy or gateway may have responded instead of Fuuffy",
		"application/problem+json": "the response is not valid JSON",
		"":                         "the response is not valid JSON",
		"nonsense;;":               "the response is not valid JSON",
	} {
		_, problem := parseGrant([]byte("<html>"), http.Header{"Content-Type": {contentType}}, newRedactor(testSecret))
		assert.Equal(t, want, problem, contentType)
	}
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
		problem := TokenProblem(token)
		assert.Equal(t, valid, problem == "", "%.40q: %s", token, problem)
	}
}

// FuzzReadResponse holds every response to the same few rules: a grant that can be
// served, or an error that is fit for a log line.
func FuzzReadResponse(f *testing.F) {
	for _, body := range []string{
		`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 3600}}`,
		`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": "1e18"}}`,
		`{"error": {"code": "401021", "code_reason": "x", "message": "m", "details": [{"field": "f", "message": "m"}], "error_trace": {"w": [1, {}]}}}`,
		`{"error": {"code": [1], "message": "\u0000\ud800", "details": "d", "field": "f"}}`,
		`{"error": "invalid_client", "error_description": "d"}`,
		`{"error": {"code": "x", "message": ["m", {"message": {"a": [1, true, null]}}]}, "error_description": {"b": 1e999}}`,
		"\ufeff" + `{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 3600}}`,
		`<html>`, ``, `null`, `[]`, `{"data": 1}`,
	} {
		for _, status := range []int{200, 204, 302, 400, 401, 404, 408, 429, 500, 503} {
			f.Add(status, []byte(body), "application/json", "120")
		}
	}
	f.Add(429, []byte(""), "text/html; charset=", "Fri, 31 Dec 9999 23:59:59 GMT")
	f.Fuzz(func(t *testing.T, status int, body []byte, contentType, wait string) {
		resp := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {contentType}, "Retry-After": {wait}, "X-Ratelimit-Reset": {wait}, "Date": {wait}, "Content-Encoding": {contentType}}}
		granted, failed := readResponse(resp, body, time.Unix(1_800_000_000, 0), newRedactor(testSecret))
		if failed == nil {
			require.Empty(t, TokenProblem(granted.AccessToken))
			require.GreaterOrEqual(t, granted.ExpiresIn, MinTokenLife)
			require.LessOrEqual(t, granted.ExpiresIn, MaxTokenLife)
			return
		}
		require.NotEmpty(t, failed.Failure)
		require.NotEmpty(t, failed.Message)
		require.GreaterOrEqual(t, failed.RetryAfter, time.Duration(0))
		require.LessOrEqual(t, failed.RetryAfter, MaxRetryAfter)
		require.True(t, utf8.ValidString(failed.Error()))
		require.NotContains(t, failed.Error(), "\n")
		require.Less(t, len(failed.Error()), 8*maxErrorText+100)
	})
}

// FuzzTokenProblem compares the validator with RFC 6750's grammar, written down
// another way.
func FuzzTokenProblem(f *testing.F) {
	for _, token := range []string{"sk-1", "", "=", "a==", "a=b", "a b", "a\n", "ä", "😀", "a\x00", strings.Repeat("a", maxTokenLength+1)} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		require.Equal(t, b64token.MatchString(token) && len(token) <= maxTokenLength, TokenProblem(token) == "", "%q", token)
	})
}

// b64token is the grammar of a bearer token in RFC 6750 §2.1.
var b64token = regexp.MustCompile(`\A[A-Za-z0-9\-._~+/]+=*\z`)
