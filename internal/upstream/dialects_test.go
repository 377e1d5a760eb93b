// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
