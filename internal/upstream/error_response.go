// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// deadCodes are Fuuffy's words for credentials that it no longer accepts.
var deadCodes = []string{"invalid_client", "invalid_client_id_or_client_secret", "401021"}

// parseError reads the error envelope in every dialect that Fuuffy's pages show, and in the
// plain OAuth one (RFC 6749 §5.2). What it can't read stays empty.
func parseError(body []byte, redact *redactor) *Error {
	var envelope struct {
		Error            json.RawMessage `json:"error"`
		ErrorDescription string          `json:"error_description"`
	}
	if len(body) > maxBody || json.Unmarshal(body, &envelope) != nil {
		return &Error{}
	}
	var word string
	if json.Unmarshal(envelope.Error, &word) == nil {
		return &Error{Code: redact.clean(word), Message: redact.clean(envelope.ErrorDescription)}
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
		return &Error{}
	}

	// The code is a word, or digits; then code_reason is the word.
	code := string(fuuffy.Code)
	if json.Unmarshal(fuuffy.Code, &word) == nil {
		code = word
	}
	denies := slices.Contains(deadCodes, code) || slices.Contains(deadCodes, fuuffy.CodeReason)
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
	return &Error{Code: redact.clean(code), Message: redact.clean(strings.Join(parts, "; ")), deniesClient: denies}
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
