// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// deadCodes are Fuuffy's words for credentials that it no longer accepts.
var deadCodes = []string{"invalid_client", "invalid_client_id_or_client_secret", "401021"}

// parseError reads the error envelope in every dialect that Fuuffy's pages show, and in the
// plain OAuth one (RFC 6749 §5.2). It reads each field on its own, so that a field of an
// unexpected type hides no other. What it can't read stays empty.
func parseError(body []byte, redact *redactor) *Error {
	var envelope struct {
		Error            json.RawMessage `json:"error"`
		ErrorDescription json.RawMessage `json:"error_description"`
	}
	if len(body) > maxBody || json.Unmarshal(body, &envelope) != nil {
		return &Error{}
	}
	var fuuffy struct {
		Code       json.RawMessage `json:"code"`
		CodeReason json.RawMessage `json:"code_reason"`
		Message    json.RawMessage `json:"message"`
		Field      json.RawMessage `json:"field"`
		Details    json.RawMessage `json:"details"`
		ErrorTrace json.RawMessage `json:"error_trace"`
	}
	plain := json.Unmarshal(envelope.Error, &fuuffy) != nil

	// The code is a word, or digits; then code_reason is the word.
	code, reason := word(fuuffy.Code), word(fuuffy.CodeReason)
	denies := slices.Contains(deadCodes, code) || slices.Contains(deadCodes, reason)
	switch {
	case plain:
		code = word(envelope.Error)
	case code != "" && reason != "":
		code = fmt.Sprintf("%s (%s)", reason, code)
	default:
		code = cmp.Or(reason, code)
	}
	field := explanation(fuuffy.Field)
	if field != "" {
		field = "field " + field
	}
	message := join("; ", explanation(fuuffy.Message), field, explanation(fuuffy.Details), explanation(fuuffy.ErrorTrace), explanation(envelope.ErrorDescription))
	return &Error{Code: redact.clean(code), Message: redact.clean(message), deniesClient: denies}
}

// word reads a string or a number. Another type is no word.
func word(raw json.RawMessage) string {
	var text string
	var number json.Number
	switch {
	case json.Unmarshal(raw, &text) == nil:
		return text
	case json.Unmarshal(raw, &number) == nil:
		return number.String()
	}
	return ""
}

// explanation reads a value of any type as text for people.
func explanation(raw json.RawMessage) string {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	_ = decoder.Decode(&value) // An absent field stays nil, which has no words.
	return inWords(value, maxNesting)
}

// maxNesting is how deep an explanation is read. Fuuffy's have two levels.
const maxNesting = 4

func inWords(value any, levels int) string {
	if levels == 0 {
		return ""
	}
	var parts []string
	switch value := value.(type) {
	case string:
		return value
	case json.Number:
		return value.String()
	case bool:
		return strconv.FormatBool(value)
	case []any:
		for _, entry := range value {
			parts = append(parts, inWords(entry, levels-1))
		}
	case map[string]any:
		// An entry of details has a message, and the name of its field.
		if message := inWords(value["message"], levels-1); message != "" {
			return join(": ", inWords(value["field"], levels-1), message)
		}
		for _, name := range slices.Sorted(maps.Keys(value)) {
			if words := inWords(value[name], levels-1); words != "" {
				parts = append(parts, name+": "+words)
			}
		}
	}
	return join("; ", parts...)
}

// join is strings.Join without what is empty.
func join(separator string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), separator)
}
