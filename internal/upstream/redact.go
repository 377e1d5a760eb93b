// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxErrorText bounds, in characters, how much of Fuuffy's own words the engine shows.
	maxErrorText = 400
	// maxReadText bounds, in bytes, how much of a text is read: a hostile response must not
	// keep the engine busy. The cut may split a secret. What it leaves is either found or too
	// short to matter.
	maxReadText = 2 << 10
	// longSecret is the length, in characters, from which the engine hides even parts of a
	// secret. A part is shownAtMost+1 characters in a row.
	longSecret  = 8
	shownAtMost = 5
	// redacted replaces the secret, and withheld replaces a text in which even the marker
	// would spell a part of the secret.
	redacted = "[redacted]"
	withheld = "…"
)

// redactor makes texts from outside safe to show: it removes the secret, in case the text
// echoes it.
type redactor struct {
	// secret has no white space and no control characters.
	secret string
	// starts has the offsets in secret of each byte.
	starts [256][]int
	// enough is how many bytes of the secret in a row are not shown.
	enough int
}

func newRedactor(secret string) *redactor {
	r := &redactor{secret: secret, enough: len(secret)}
	if utf8.RuneCountInString(secret) >= longSecret {
		r.enough = shownAtMost + 1
	}
	for i := range len(secret) {
		r.starts[secret[i]] = append(r.starts[secret[i]], i)
	}
	return r
}

// clean returns the text without the secret, fit for a log line. It redacts before
// it cuts, or a secret at the edge would show its head.
func (r *redactor) clean(text string) string {
	text = text[:min(len(text), maxReadText)]
	var out strings.Builder
	end := 0
	for _, s := range r.find(text) {
		out.WriteString(text[end:s.from] + redacted)
		end = s.to
	}
	out.WriteString(text[end:])
	cleaned := Printable(out.String())
	// The marker, alone or with what surrounds it, may spell a part of the secret.
	if len(r.find(cleaned+": ")) > 0 {
		return withheld
	}
	return cleaned
}

// span is a part of a text, as offsets of bytes.
type span struct{ from, to int }

// run is a part of the text that reads as consecutive bytes of the secret.
type run struct{ from, length int }

// find returns the parts of the text that show too much of the secret, in order and apart. It
// reads each character in all encodings in parallel: at each offset of the text it knows the
// longest run that ends there before each offset of the secret.
func (r *redactor) find(text string) []span {
	var found []span
	ends := map[int][]run{} // by offset in the text, then in the secret
	for at := range len(text) {
		here := ends[at]
		delete(ends, at)
		for _, read := range readings(text[at:]) {
			next := at + read.length
			widest := next
			for _, from := range r.starts[read.means[0]] {
				if !strings.HasPrefix(r.secret[from:], read.means) {
					continue
				}
				longer := run{from: at}
				if here != nil && here[from].length > 0 {
					longer = here[from]
				}
				longer.length += len(read.means)
				if longer.length >= r.enough {
					widest = min(widest, longer.from)
				}
				to := from + len(read.means)
				if ends[next] == nil {
					ends[next] = make([]run, len(r.secret)+1)
				}
				if longer.length > ends[next][to].length {
					ends[next][to] = longer
				}
			}
			if widest < next {
				found = append(found, span{widest, next})
			}
		}
	}
	return merge(found)
}

// Printable makes a text from outside fit for a log line: valid UTF-8, no control
// characters, not long.
func Printable(text string) string {
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
