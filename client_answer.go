// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	// defaultTokenLife is the documented life of a token, taken when an answer
	// does not say.
	defaultTokenLife = time.Hour
	// maxTokenLife is the longest life that is believed.
	maxTokenLife = 30 * 24 * time.Hour
	// maxRetryAfter bounds how long Fuuffy can keep the engine from asking again.
	maxRetryAfter = time.Hour
	// maxErrorText bounds, in characters, what is passed on of Fuuffy's own words.
	maxErrorText = 400
)

// readAnswer turns Fuuffy's answer into a grant or an *upstreamError.
func readAnswer(resp *http.Response, body []byte, now time.Time) (grant, error) {
	status := resp.StatusCode
	switch {
	case status >= 200 && status < 300:
		granted, problem := parseGrant(body, resp.Header.Get("Content-Type"))
		if problem != "" {
			return grant{}, &upstreamError{failure: malformed, status: status, message: problem}
		}
		return granted, nil
	case status >= 300 && status < 400:
		return grant{}, &upstreamError{
			failure: rejected, status: status,
			message: "the address answers with a redirect, which is not followed because it would carry the client secret elsewhere",
		}
	}

	upstream := parseError(body)
	upstream.status = status
	if upstream.message == "" {
		upstream.message = "no explanation in Fuuffy's format; a proxy or gateway may have answered in its place"
	}
	switch {
	case status == http.StatusTooManyRequests:
		upstream.failure = rateLimited
		upstream.retryAfter = cmp.Or(retryAfter(resp.Header, now), rateLimitReset(resp.Header, now))
	case status == http.StatusRequestTimeout || status >= 500:
		upstream.failure = unavailable
		upstream.retryAfter = retryAfter(resp.Header, now)
	default:
		upstream.failure = rejected
	}
	return grant{}, upstream
}

// parseGrant reads a token response. Fuuffy wraps each success in "data". The
// second result says what is wrong with it, without repeating any of it.
func parseGrant(body []byte, contentType string) (grant, string) {
	if len(body) > maxBody {
		return grant{}, fmt.Sprintf("the answer is longer than %d KiB", maxBody>>10)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return grant{}, "the answer is empty"
	}
	var envelope struct {
		Data *struct {
			AccessToken json.RawMessage `json:"access_token"`
			TokenType   json.RawMessage `json:"token_type"`
			ExpiresIn   json.RawMessage `json:"expires_in"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		return grant{}, notJSON(contentType)
	}
	if envelope.Data == nil {
		return grant{}, `the answer has no "data" object`
	}

	var token, tokenType string
	if json.Unmarshal(envelope.Data.AccessToken, &token) != nil {
		return grant{}, "access_token is missing or not a string"
	}
	if problem := tokenProblem(token); problem != "" {
		return grant{}, "access_token " + problem
	}
	// RFC 6749 §5.1: the type is case insensitive.
	if json.Unmarshal(envelope.Data.TokenType, &tokenType) != nil || !strings.EqualFold(tokenType, "Bearer") {
		return grant{}, "token_type is not Bearer"
	}
	life, given, problem := parseExpiresIn(envelope.Data.ExpiresIn)
	if problem != "" {
		return grant{}, "expires_in " + problem
	}
	return grant{accessToken: token, expiresIn: life, assumedExpiry: !given}, ""
}

func notJSON(contentType string) string {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil || strings.HasSuffix(mediaType, "json") {
		return "the answer is not valid JSON"
	}
	return fmt.Sprintf("the answer is %s instead of JSON; a proxy or gateway may have answered in Fuuffy's place", printable(mediaType))
}

// parseExpiresIn reads a life in seconds, a number or a numeric string. It is
// bounded while still a number: as a Duration 1e300 s would overflow.
func parseExpiresIn(raw json.RawMessage) (life time.Duration, given bool, problem string) {
	if len(raw) == 0 || string(raw) == "null" {
		return defaultTokenLife, false, ""
	}
	text := string(raw)
	var quoted string
	if json.Unmarshal(raw, &quoted) == nil {
		text = strings.TrimSpace(quoted)
	}
	seconds, err := strconv.ParseFloat(text, 64)
	switch {
	case math.IsInf(seconds, 0) || seconds > maxTokenLife.Seconds():
		return 0, true, "is absurdly long"
	case err != nil || math.IsNaN(seconds):
		return 0, true, "is not a number of seconds"
	case seconds < 1:
		return 0, true, "is less than a second"
	}
	return time.Duration(seconds) * time.Second, true, ""
}

// parseError reads the error envelope in all of the dialects that Fuuffy's pages
// show, and the plain OAuth one (RFC 6749 §5.2). What it can't read stays empty.
func parseError(body []byte) *upstreamError {
	var envelope struct {
		Error            json.RawMessage `json:"error"`
		ErrorDescription string          `json:"error_description"`
	}
	if json.Unmarshal(body, &envelope) != nil {
		return &upstreamError{}
	}
	var word string
	if json.Unmarshal(envelope.Error, &word) == nil {
		return &upstreamError{code: printable(word), message: printable(envelope.ErrorDescription)}
	}
	var fuuffy struct {
		Code       json.RawMessage `json:"code"`
		CodeReason string          `json:"code_reason"`
		Message    string          `json:"message"`
		Field      string          `json:"field"`
		Details    json.RawMessage `json:"details"`
		ErrorTrace map[string]any  `json:"error_trace"`
	}
	if json.Unmarshal(envelope.Error, &fuuffy) != nil {
		return &upstreamError{}
	}

	// The code is a word, or digits; then code_reason is the word.
	code := string(fuuffy.Code)
	if json.Unmarshal(fuuffy.Code, &word) == nil {
		code = word
	}
	if fuuffy.CodeReason != "" {
		code = fmt.Sprintf("%s (%s)", fuuffy.CodeReason, code)
	}
	parts := []string{fuuffy.Message}
	if fuuffy.Field != "" {
		parts = append(parts, "field "+fuuffy.Field)
	}
	parts = append(parts, errorDetails(fuuffy.Details)...)
	for _, field := range slices.Sorted(maps.Keys(fuuffy.ErrorTrace)) {
		parts = append(parts, fmt.Sprintf("%s: %v", field, fuuffy.ErrorTrace[field]))
	}
	return &upstreamError{code: printable(code), message: printable(strings.Join(parts, "; "))}
}

// errorDetails reads "details", which is a string or a list of fields and messages.
func errorDetails(raw json.RawMessage) []string {
	var text string
	if json.Unmarshal(raw, &text) == nil && text != "" {
		return []string{text}
	}
	var fields []struct{ Field, Message string }
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	details := make([]string, 0, len(fields))
	for _, f := range fields {
		details = append(details, f.Field+": "+f.Message)
	}
	return details
}

// retryAfter reads Retry-After, which is in seconds or a date (RFC 9110 §10.2.3);
// 0 if it is absent or unreadable. It is clamped to maxRetryAfter as a number.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if date, err := http.ParseTime(value); err == nil {
		return clampSeconds(date.Sub(now).Seconds())
	}
	return clampSeconds(number(value))
}

// rateLimitReset reads X-RateLimit-Reset, in Unix seconds, like retryAfter. Every
// answer carries it, so it means "wait until then" only on a 429.
func rateLimitReset(header http.Header, now time.Time) time.Duration {
	return clampSeconds(number(header.Get("X-RateLimit-Reset")) - float64(now.Unix()))
}

// number reads a decimal number; one out of range is infinite, an unreadable one 0.
func number(text string) float64 {
	value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil && !math.IsInf(value, 0) {
		return 0
	}
	return value
}

// clampSeconds returns at least 0, which NaN becomes too, and at most maxRetryAfter.
func clampSeconds(seconds float64) time.Duration {
	if !(seconds > 0) {
		return 0
	}
	return time.Duration(math.Ceil(min(seconds, maxRetryAfter.Seconds()))) * time.Second
}

// printable makes a text from outside fit for a log line: valid UTF-8, no
// control characters, not long.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, " "))
	if runes := []rune(text); len(runes) > maxErrorText {
		text = string(runes[:maxErrorText]) + "…"
	}
	return strings.TrimSpace(text)
}
