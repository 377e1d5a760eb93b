// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// answer is a response that the sandbox hasn't sent yet, so that a fault can still spoil it.
type answer struct {
	status int
	body   []byte
}

// apiError is Fuuffy's error object. Fuuffy's documentation shows several dialects. Code is a word, or digits with the
// word in CodeReason. Details is a string or a list. Details, ErrorTrace, or Field may say which field is wrong.
type apiError struct {
	Code       string            `json:"code"`
	CodeReason string            `json:"code_reason,omitempty"`
	Message    string            `json:"message"`
	Details    any               `json:"details,omitempty"`
	Field      string            `json:"field,omitempty"`
	ErrorTrace map[string]string `json:"error_trace,omitempty"`
}

// fieldError is an entry of Details, if Details is a list.
type fieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

var (
	errInvalidClient = apiError{
		Code:    "invalid_client",
		Message: "Client authentication failed",
		Details: "Invalid client credentials provided",
	}
	errInvalidToken = apiError{
		Code:    "invalid_token",
		Message: "The access token is invalid or expired",
		Details: "Please request a new access token",
	}
)

// standardErrors has an error for each status that Fuuffy documents, in the dialects of its documentation.
var standardErrors = map[int]apiError{
	http.StatusBadRequest: {
		Code:       "400000",
		CodeReason: "validation_error",
		Message:    "Invalid request parameters",
		ErrorTrace: map[string]string{"client_id": "Missing required field 'client_id'"},
	},
	http.StatusUnauthorized: errInvalidClient,
	http.StatusForbidden: {
		Code:    "unauthorized_client",
		Message: "The client is not authorized to perform this action",
	},
	http.StatusNotFound: {Code: "not_found", Message: "The requested resource was not found"},
	http.StatusConflict: {Code: "conflict", Message: "The resource is in a conflicting state"},
	http.StatusUnprocessableEntity: {
		Code:    "validation_error",
		Message: "Invalid request parameters",
		Details: []fieldError{{Field: "client_id", Message: "Client id is malformed"}},
	},
	http.StatusTooManyRequests: {
		Code:    "rate_limit_exceeded",
		Message: "Too many requests, please try again later",
	},
	http.StatusInternalServerError: {Code: "internal_server_error", Message: "An unexpected error occurred"},
	http.StatusServiceUnavailable:  {Code: "service_unavailable", Message: "The service is under maintenance"},
}

// standardError returns the documented error for a status, or else one named after the status.
func standardError(status int) apiError {
	if e, ok := standardErrors[status]; ok {
		return e
	}
	text := cmp.Or(http.StatusText(status), "Status "+strconv.Itoa(status))
	return apiError{Code: strings.ReplaceAll(strings.ToLower(text), " ", "_"), Message: text}
}

func refuse(status int, e apiError) answer {
	return answer{status: status, body: encode(map[string]apiError{"error": e})}
}

// missingField uses the dialect in which Fuuffy names one bad field.
func missingField(name string) answer {
	return invalidRequest(name, "The '"+name+"' field is required")
}

func invalidRequest(field, message string) answer {
	return refuse(http.StatusBadRequest, apiError{Code: "invalid_request", Message: message, Field: field})
}

// succeed wraps data in the envelope of Fuuffy's successful responses.
func succeed(data any) answer {
	return answer{status: http.StatusOK, body: encode(map[string]any{"data": data})}
}

// encode panics if JSON can't represent v. No value from this package causes that.
func encode(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body
}

// start sends the status and the header, with the length of the whole body.
func (a answer) start(w http.ResponseWriter) {
	header := w.Header()
	if header.Get("Content-Type") == "" {
		header.Set("Content-Type", "application/json")
	}
	if hasBody(a.status) {
		header.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
}

// send sends the whole answer. It ignores a write error: the client is gone, so there is no one to tell.
func (a answer) send(w http.ResponseWriter) {
	a.start(w)
	if hasBody(a.status) {
		_, _ = w.Write(a.body)
	}
}

// hasBody reports whether a response with this status may have a body (RFC 9110 §6.4.1).
func hasBody(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}
