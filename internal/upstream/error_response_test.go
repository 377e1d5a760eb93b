// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
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

// A field of the error envelope that has another type than documented hides no other field.
func TestFieldsHideNoOther(t *testing.T) {
	for name, tt := range map[string]struct{ body, code, message string }{
		"error_trace as text":    {`{"error": {"code": "invalid_client", "message": "No", "error_trace": "trace-7"}}`, "invalid_client", "No; trace-7"},
		"error_trace as list":    {`{"error": {"code": "invalid_client", "message": "No", "error_trace": ["a", {"b": 1}]}}`, "invalid_client", "No; a; b: 1"},
		"error_trace nested":     {`{"error": {"code": "invalid_client", "message": "No", "error_trace": {"weight": ["Missing", "Zero"]}}}`, "invalid_client", "No; weight: Missing; Zero"},
		"message as list":        {`{"error": {"code": "invalid_client", "message": ["No", "client"]}}`, "invalid_client", "No; client"},
		"message as map":         {`{"error": {"code": "invalid_client", "message": {"en": "No"}}}`, "invalid_client", "en: No"},
		"message null":           {`{"error": {"code": "invalid_client", "message": null, "details": "No"}}`, "invalid_client", "No"},
		"code_reason as number":  {`{"error": {"code": "invalid_client", "code_reason": 7, "message": "No"}}`, "7 (invalid_client)", "No"},
		"code_reason as list":    {`{"error": {"code": "invalid_client", "code_reason": ["x"], "message": "No"}}`, "invalid_client", "No"},
		"code_reason alone":      {`{"error": {"code": {}, "code_reason": "invalid_client_id_or_client_secret", "message": "No"}}`, "invalid_client_id_or_client_secret", "No"},
		"field as list":          {`{"error": {"code": "invalid_client", "message": "No", "field": ["a", "b"]}}`, "invalid_client", "No; field a; b"},
		"details as map":         {`{"error": {"code": "invalid_client", "message": "No", "details": {"hint": "x"}}}`, "invalid_client", "No; hint: x"},
		"details as mixed list":  {`{"error": {"code": "invalid_client", "message": "No", "details": [7, {"field": 1, "message": "m"}, null, true]}}`, "invalid_client", "No; 7; 1: m; true"},
		"description as number":  {`{"error": {"code": "invalid_client", "message": "No"}, "error_description": 7}`, "invalid_client", "No; 7"},
		"description without it": {`{"error": null, "error_description": "No"}`, "", "No"},
		"error as list":          {`{"error": ["No"], "error_description": "No"}`, "", "No"},
	} {
		t.Run(name, func(t *testing.T) {
			failed := answerOf(t, 400, tt.body)
			assert.Equal(t, Rejected, failed.Failure)
			assert.Equal(t, tt.code, failed.Code)
			assert.Equal(t, tt.message, failed.Message)
			assert.Equal(t, strings.Contains(tt.code, "invalid_client"), failed.ProvesRevoked())
		})
	}
}

// Of a nested explanation the engine reads four levels, so that no response keeps it busy.
func TestNestedExplanations(t *testing.T) {
	for value, want := range map[string]string{
		`[[["a"]]]`:                                  "a",
		`[[[["a"]]]]`:                                noExplanation,
		`{"a": {"b": {"c": "d"}}}`:                   "a: b: c: d",
		`{"a": {"b": {"c": {"d": "e"}}}}`:            noExplanation,
		`{"message": {"message": {"message": "m"}}}`: "m",
		`{"message": {"message": {"message": {"message": "m"}}}}`: noExplanation,
		`[{"field": {"a": "c"}, "message": "m"}]`:                 "a: c: m",
		`[{"field": {"a": {"b": "c"}}, "message": "m"}]`:          "m",
		strings.Repeat("[", 9000) + strings.Repeat("]", 9000):     noExplanation,
	} {
		for _, field := range []string{"message", "details", "error_trace"} {
			assert.Equal(t, want, cmp.Or(parseError([]byte(`{"error": `+object(field, value)+`}`), newRedactor(testSecret)).Message, noExplanation), "%s: %.60s", field, value)
		}
	}
}

// answerOf requests a token from a host that gives one answer, and returns the error.
func answerOf(t *testing.T, status int, body string, header ...string) (failed *Error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { failed = requireFailed(t, answering(status, body, header...)) })
	return failed
}

// answering returns a client of a host that gives one answer to every request.
func answering(status int, body string, header ...string) *Client {
	return New(Config{BaseURL: "https://gateway.example.com", Timeout: time.Second, Transport: roundTripFunc(func(r *http.Request) (*http.Response, error) {
		resp := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: bodyOf(body), Request: r}
		for i := 0; i < len(header); i += 2 {
			resp.Header.Set(header[i], header[i+1])
		}
		return resp, nil
	})})
}

// "data" of another type is valid JSON, and not a token.
func TestDataOfAnotherType(t *testing.T) {
	for body, want := range map[string]string{
		`{"data": []}`:   `the response's "data" is not an object`,
		`{"data": "x"}`:  `the response's "data" is not an object`,
		`{"data": 7}`:    `the response's "data" is not an object`,
		`{"data": true}`: `the response's "data" is not an object`,
		`{"data": null}`: `the response has no "data" object`,
		`{}`:             `the response has no "data" object`,
		`null`:           `the response has no "data" object`,
		`[1]`:            `the response is JSON, but not an object`,
		`"x"`:            `the response is JSON, but not an object`,
		`{"data":`:       `the response is not valid JSON`,
	} {
		failed := answerOf(t, 200, body)
		assert.Equal(t, Malformed, failed.Failure, body)
		assert.Equal(t, want, failed.Message, body)
	}
}

// The types that JSON has, as values of a field. absent leaves the field out.
const absent = "absent"

var jsonTypes = []string{absent, `null`, `""`, `"words"`, `7`, `1e999`, `true`, `["a", {"b": [1]}]`, `{"a": {"b": [1]}}`}

// Every field of both envelopes has every type, at every class of status, one field at a time
// and each pair of fields: neither the class nor the code nor the proof depends on a neighbor.
func TestAllDialects(t *testing.T) {
	errorFields := []string{"message", "field", "details", "error_trace"}
	codes := map[string]string{absent: "", `null`: "", `""`: "", `"words"`: "words", `7`: "7", `1e999`: "1e999", `true`: "",
		`["a", {"b": [1]}]`: "", `{"a": {"b": [1]}}`: "", `"invalid_client"`: "invalid_client", `401021`: "401021"}
	classes := map[int]Failure{200: Malformed, 400: Rejected, 401: Rejected, 403: Rejected, 404: Rejected, 409: Rejected, 422: Rejected,
		429: RateLimited, 500: Unavailable, 503: Unavailable}
	redact := newRedactor(testSecret)

	for status, class := range classes {
		check := func(body, code string, dead bool) {
			t.Helper()
			granted, failed := readResponse(&http.Response{StatusCode: status, Header: http.Header{}}, []byte(body), time.Now(), redact)
			require.NotNil(t, failed, "%d %s", status, body)
			require.Empty(t, granted)
			require.Equal(t, class, failed.Failure, "%d %s", status, body)
			require.Equal(t, code, failed.Code, "%d %s", status, body)
			require.NotEmpty(t, failed.Message, "%d %s", status, body)
			require.Equal(t, class == Rejected && (status == 401 || dead), failed.ProvesRevoked(), "%d %s", status, body)
		}
		for code, codeWord := range codes {
			for reason, reasonWord := range codes {
				word := codeWord
				switch {
				case reasonWord != "" && codeWord != "":
					word = fmt.Sprintf("%s (%s)", reasonWord, codeWord)
				case reasonWord != "":
					word = reasonWord
				}
				dead := slices.Contains(deadCodes, codeWord) || slices.Contains(deadCodes, reasonWord)
				for _, field := range errorFields {
					for _, value := range jsonTypes {
						check(`{"error": `+object("code", code, "code_reason", reason, field, value)+`}`, word, dead)
					}
				}
			}
			// The fields beside "error".
			for _, value := range jsonTypes {
				check(object("error", object("code", code, "message", `"m"`), "error_description", value), codeWord, slices.Contains(deadCodes, codeWord))
				check(object("error", object("code", code), "data", value), codeWord, slices.Contains(deadCodes, codeWord))
			}
		}
		// Pairs of the fields that only explain.
		for _, field := range errorFields {
			for _, neighbor := range errorFields {
				for _, value := range jsonTypes {
					for _, other := range jsonTypes {
						if field != neighbor {
							check(`{"error": `+object("code", `"invalid_client"`, field, value, neighbor, other)+`}`, "invalid_client", true)
						}
					}
				}
			}
		}
		// Plain OAuth: its word is a code, and never proof. Other types of "error" give no code.
		for value, word := range codes {
			if strings.HasPrefix(value, "{") {
				continue // Fuuffy's own envelope, above.
			}
			for _, description := range jsonTypes {
				check(object("error", value, "error_description", description), word, false)
			}
		}
	}
}

// object writes an object of "name", value, "name", value. It leaves out what is absent.
func object(namesAndValues ...string) string {
	var fields []string
	for i := 0; i < len(namesAndValues); i += 2 {
		if namesAndValues[i+1] != absent {
			fields = append(fields, fmt.Sprintf("%q: %s", namesAndValues[i], namesAndValues[i+1]))
		}
	}
	return "{" + strings.Join(fields, ", ") + "}"
}

// A token response with every field of every type: it issues a token exactly if each field is
// right, and names the first that isn't.
func TestAllDialectsOfSuccess(t *testing.T) {
	const good = `"sk-1"`
	tokens := map[string]string{good: "", absent: "access_token is missing or not a string", `null`: "access_token is missing or not a string", `""`: "access_token is empty"}
	kinds := map[string]string{`"Bearer"`: ""}
	lives := map[string]string{`3600`: "", `"3600"`: "", absent: "", `null`: "", `7`: "expires_in is less than 10 seconds", `1e999`: "expires_in is absurdly long"}
	for _, value := range jsonTypes {
		if _, ok := tokens[value]; !ok && value != `"words"` {
			tokens[value] = "access_token is missing or not a string"
		}
		kinds[value] = "token_type is not Bearer"
		if _, ok := lives[value]; !ok {
			lives[value] = "expires_in is not a number of seconds"
		}
	}
	for token, tokenProblem := range tokens {
		for kind, kindProblem := range kinds {
			for life, lifeProblem := range lives {
				for _, neighbor := range jsonTypes {
					if strings.HasPrefix(neighbor, "{") || neighbor == `"words"` || neighbor == `7` || neighbor == `1e999` {
						neighbor = absent // An error under status 200 is shown as such.
					}
					body := object("data", object("access_token", token, "token_type", kind, "expires_in", life, "scope", `{"a": 1}`), "error", neighbor)
					granted, failed := readResponse(&http.Response{StatusCode: 200, Header: http.Header{}}, []byte(body), time.Now(), newRedactor(testSecret))
					problem := firstOf(tokenProblem, kindProblem, lifeProblem)
					if problem == "" {
						require.Nil(t, failed, body)
						require.Equal(t, "sk-1", granted.AccessToken, body)
						continue
					}
					require.NotNil(t, failed, body)
					require.Equal(t, Malformed, failed.Failure, body)
					require.Equal(t, problem, failed.Message, body)
				}
			}
		}
	}
}

func firstOf(texts ...string) string {
	return append(slices.DeleteFunc(texts, func(text string) bool { return text == "" }), "")[0]
}

func bodyOf(text string) io.ReadCloser { return io.NopCloser(strings.NewReader(text)) }
