// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// DefaultTokenLife is the documented life of a token, for a response that doesn't say.
	DefaultTokenLife = time.Hour
	// MinTokenLife is the shortest life that the engine accepts. Fuuffy issues no shorter
	// tokens, and they would cost a request every few seconds.
	MinTokenLife = 10 * time.Second
	// MaxTokenLife is the longest life that the engine believes.
	MaxTokenLife = 30 * 24 * time.Hour
	// MaxRetryAfter bounds how long Fuuffy can keep the engine from requesting again.
	MaxRetryAfter = time.Hour
)

const (
	// noExplanation is the message for an error that isn't in Fuuffy's format.
	noExplanation = "no explanation in Fuuffy's format; a proxy or gateway may have responded instead"
	// onlyCode is the message for an error that has only a code.
	onlyCode = "no explanation given"
)

// byteOrderMark begins the texts of some gateways. JSON has none (RFC 8259 §8.1).
var byteOrderMark = []byte("\ufeff")

// readResponse turns a response into a Grant or an *Error. The status alone decides the class
// of an error; the body only explains it.
func readResponse(resp *http.Response, body []byte, now time.Time, redact *redactor) (Grant, *Error) {
	status := resp.StatusCode
	body = bytes.TrimPrefix(body, byteOrderMark)
	switch {
	case status >= 100 && status < 200:
		return Grant{}, &Error{
			Failure: Malformed, Status: status, notFuuffy: true,
			Message: "the response is only informational or switches protocols, and has no token",
		}
	case status >= 200 && status < 300:
		granted, problem := parseGrant(body, resp.Header, redact)
		if problem == "" {
			return granted, nil
		}
		// A gateway may put an error under this status. Only the status can make it proof.
		failed := parseError(body, redact)
		failed.notFuuffy = failed.Code == "" && failed.Message == "" && !hasData(body) && compression(resp.Header) == ""
		failed.Failure, failed.Status, failed.deniesClient = Malformed, status, false
		failed.Message = cmp.Or(failed.Message, problem)
		return Grant{}, failed
	case status >= 300 && status < 400:
		return Grant{}, &Error{
			Failure: Rejected, Status: status,
			Message: "the address responds with a redirect. The engine doesn't follow it, because it would send the client secret elsewhere",
		}
	}

	failed := parseError(body, redact)
	failed.Status = status
	switch {
	case failed.Message != "":
	case failed.Code != "":
		failed.Message = onlyCode
	default:
		failed.Message = cmp.Or(compressed(resp.Header, redact), noExplanation)
	}
	now = clockOf(resp.Header, now)
	switch {
	case status == http.StatusTooManyRequests:
		failed.Failure = RateLimited
		failed.RetryAfter = cmp.Or(retryAfter(resp.Header, now), rateLimitReset(resp.Header, now))
	case status == http.StatusRequestTimeout || status < 100 || status >= 500:
		// RFC 9110 §15: a status out of range counts as a server error.
		failed.Failure = Unavailable
		failed.RetryAfter = retryAfter(resp.Header, now)
	default:
		failed.Failure = Rejected
	}
	return Grant{}, failed
}

// parseGrant reads a token response. Fuuffy wraps each success in "data". The second result
// says what is wrong with the response, without quoting it.
func parseGrant(body []byte, header http.Header, redact *redactor) (Grant, string) {
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	err := json.Unmarshal(body, &envelope)
	switch {
	case len(body) > maxBody:
		return Grant{}, cmp.Or(compressed(header, redact), fmt.Sprintf("the response is longer than %d KiB", maxBody>>10))
	case len(bytes.TrimSpace(body)) == 0:
		return Grant{}, "the response is empty"
	case err != nil && json.Valid(body):
		return Grant{}, "the response is JSON, but not an object"
	case err != nil:
		return Grant{}, cmp.Or(compressed(header, redact), notJSON(header, redact))
	case len(envelope.Data) == 0 || string(envelope.Data) == "null":
		return Grant{}, `the response has no "data" object`
	}
	var data struct {
		AccessToken json.RawMessage `json:"access_token"`
		TokenType   json.RawMessage `json:"token_type"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
	}
	if json.Unmarshal(envelope.Data, &data) != nil {
		return Grant{}, `the response's "data" is not an object`
	}

	var token, tokenType string
	if string(data.AccessToken) == "null" || json.Unmarshal(data.AccessToken, &token) != nil {
		return Grant{}, "access_token is missing or not a string"
	}
	if problem := TokenProblem(token); problem != "" {
		return Grant{}, "access_token " + problem
	}
	// RFC 6749 §5.1: the type is case insensitive.
	if json.Unmarshal(data.TokenType, &tokenType) != nil || !strings.EqualFold(tokenType, "Bearer") {
		return Grant{}, "token_type is not Bearer"
	}
	life, given, problem := parseExpiresIn(data.ExpiresIn)
	if problem != "" {
		return Grant{}, "expires_in " + problem
	}
	return Grant{AccessToken: token, ExpiresIn: life, AssumedExpiry: !given}, ""
}

// hasData tells whether a body has the envelope of Fuuffy's successes, whatever is in it.
func hasData(body []byte) bool {
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	return json.Unmarshal(body, &envelope) == nil && envelope.Data != nil
}

// compression is how a gateway compressed a body, although the engine requested an uncompressed
// one. It is empty if the body isn't compressed.
func compression(header http.Header) string {
	encoding := strings.TrimSpace(strings.Join(header.Values("Content-Encoding"), ", "))
	if strings.EqualFold(encoding, "identity") {
		return ""
	}
	return encoding
}

// compressed is the message for a body that is unreadable because it is compressed, and empty
// for others.
func compressed(header http.Header, redact *redactor) string {
	encoding := compression(header)
	if encoding == "" {
		return ""
	}
	return fmt.Sprintf("the response is compressed (%s), although the engine requested an uncompressed one; a proxy or gateway may have compressed it", redact.clean(encoding))
}

func notJSON(header http.Header, redact *redactor) string {
	mediaType, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || strings.HasSuffix(mediaType, "json") {
		return "the response is not valid JSON"
	}
	return fmt.Sprintf("the response is %s instead of JSON; a proxy or gateway may have responded instead of Fuuffy", redact.clean(mediaType))
}

// parseExpiresIn reads a life in seconds, a number or a numeric string. It checks the
// bounds while the life is still a number: as a Duration 1e300 s would overflow.
func parseExpiresIn(raw json.RawMessage) (life time.Duration, given bool, problem string) {
	if len(raw) == 0 || string(raw) == "null" {
		return DefaultTokenLife, false, ""
	}
	text := string(raw)
	var quoted string
	if json.Unmarshal(raw, &quoted) == nil {
		text = strings.TrimSpace(quoted)
	}
	seconds, err := strconv.ParseFloat(text, 64)
	switch {
	case seconds > MaxTokenLife.Seconds():
		return 0, true, "is absurdly long"
	case err != nil || math.IsNaN(seconds):
		return 0, true, "is not a number of seconds"
	case seconds < MinTokenLife.Seconds():
		return 0, true, fmt.Sprintf("is less than %.0f seconds", MinTokenLife.Seconds())
	}
	return time.Duration(seconds) * time.Second, true, ""
}

// clockOf returns the time at which a response was written, by the clock that also wrote the
// times in it. Without a Date that is the engine's own clock.
func clockOf(header http.Header, now time.Time) time.Time {
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		return date
	}
	return now
}

// retryAfter reads Retry-After, which is in seconds or a date (RFC 9110 §10.2.3);
// 0 if it is absent or unreadable.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if date, err := http.ParseTime(value); err == nil {
		return clampSeconds(date.Sub(now).Seconds())
	}
	return clampSeconds(number(value))
}

// rateLimitReset reads X-RateLimit-Reset, in Unix seconds, like retryAfter. Every
// response carries it, so it means "wait until then" only on a 429.
func rateLimitReset(header http.Header, now time.Time) time.Duration {
	return clampSeconds(number(header.Get("X-RateLimit-Reset")) - float64(now.Unix()))
}

// number reads a decimal number; one out of range is infinite, an unreadable one 0.
func number(text string) float64 {
	value, _ := strconv.ParseFloat(strings.TrimSpace(text), 64) // A syntax error comes with a 0.
	return value
}

// clampSeconds returns at least 0, which NaN becomes too, and at most MaxRetryAfter.
// It compares numbers, because a Duration would overflow.
func clampSeconds(seconds float64) time.Duration {
	if !(seconds > 0) {
		return 0
	}
	return time.Duration(math.Ceil(min(seconds, MaxRetryAfter.Seconds()))) * time.Second
}
