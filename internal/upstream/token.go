// SPDX-License-Identifier: MPL-2.0

package upstream

import "strings"

// maxTokenLength is more than any gateway lets through in a header.
const maxTokenLength = 16 << 10

// TokenProblem says why a string is not a bearer token (RFC 6750 §2.1, b64token),
// without repeating the string. It is empty if nothing is wrong.
func TokenProblem(token string) string {
	switch {
	case token == "":
		return "is empty"
	case len(token) > maxTokenLength:
		return "is longer than 16 KiB"
	}
	body := strings.TrimRight(token, "=")
	if body == "" || strings.ContainsFunc(body, func(r rune) bool { return !isTokenCharacter(r) }) {
		return "has characters that no bearer token has (RFC 6750)"
	}
	return ""
}

func isTokenCharacter(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._~+/", r)
}
