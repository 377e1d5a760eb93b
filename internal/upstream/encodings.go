// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"cmp"
	"html"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// reading is one way to read the beginning of a text.
type reading struct {
	length int    // of the text, in bytes
	means  string // never empty
}

const (
	// maxEntity is longer than the name of any HTML entity.
	maxEntity = 40
	// maxBackslashes is how many four encodings on top of each other put before one character.
	// A hostile response may have thousands in a row.
	maxBackslashes = 16
)

// readings returns all the ways to read the beginning of a text: as it stands, and
// decoded from percent-encoding, JSON or Go escapes, and HTML entities. Each reads
// the fewest bytes that its encoding allows, so that a text may mix them.
func readings(text string) []reading {
	all := []reading{{1, text[:1]}}
	switch text[0] {
	case '%':
		all = appendPercent(all, text)
	case '\\':
		all = appendEscape(all, text)
	case '&':
		all = appendEntity(all, text)
	}
	return all
}

// appendPercent reads %2B. What was encoded more than once has %25 for the %.
func appendPercent(all []reading, text string) []reading {
	for i := 1; ; i += 2 {
		if code, ok := hexadecimal(text[i:], 2); ok {
			all = append(all, reading{i + 2, string([]byte{byte(code)})})
		}
		if !strings.HasPrefix(text[i:], "25") {
			return all
		}
	}
}

// appendEscape reads the escapes of JSON, and those of Go's %q, which net/http uses
// to quote what it can't read. What was encoded more than once has more backslashes.
func appendEscape(all []reading, text string) []reading {
	head := text[:min(len(text), maxBackslashes)]
	i := len(head) - len(strings.TrimLeft(head, `\`))
	for n := 2; n <= i; n++ {
		all = append(all, reading{n, `\`})
	}
	if i == len(text) {
		return all
	}
	kind, rest := text[i], text[i+1:]
	if strings.IndexByte(`abfnrtv`, kind) >= 0 {
		return all // It stands for a control character.
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[kind]
	code, ok := hexadecimal(rest, digits)
	switch {
	case digits == 0:
		return append(all, reading{i + 1, text[i : i+1]})
	case !ok:
		return all
	case kind == 'x':
		return append(all, reading{i + 3, string([]byte{byte(code)})})
	}
	length := i + 1 + digits
	if low := strings.TrimLeft(rest[digits:], `\`); utf16.IsSurrogate(code) && strings.HasPrefix(low, "u") {
		if second, ok := hexadecimal(low[1:], 4); ok {
			return append(all, reading{len(text) - len(low) + 5, string(utf16.DecodeRune(code, second))})
		}
	}
	return append(all, reading{length, string(code)})
}

// appendEntity reads &amp; &#38; and &#x26;, with or without the semicolon. What was
// encoded more than once has &amp; for the &.
func appendEntity(all []reading, text string) []reading {
	start := 1
	for strings.HasPrefix(text[start:], "amp;") {
		start += len("amp;")
		all = append(all, reading{start, "&"})
	}
	for i := start; i < min(len(text), start+maxEntity); i++ {
		c := text[i]
		entity := "&" + text[start:i+1]
		if decoded := html.UnescapeString(entity); decoded != entity {
			all = append(all, reading{i + 1, decoded})
		}
		if !isTokenCharacter(rune(c)) && c != '#' {
			break
		}
	}
	return all
}

// hexadecimal reads exactly so many digits, in either case.
func hexadecimal(text string, digits int) (rune, bool) {
	if len(text) < digits {
		return 0, false
	}
	code, err := strconv.ParseUint(text[:digits], 16, 32)
	return rune(code), err == nil
}

// merge sorts spans and joins those that overlap or touch.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var merged []span
	for _, s := range spans {
		if last := len(merged) - 1; last >= 0 && s.from <= merged[last].to {
			merged[last].to = max(merged[last].to, s.to)
		} else {
			merged = append(merged, s)
		}
	}
	return merged
}
