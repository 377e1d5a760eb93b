// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// encodings are the ways in which a text may echo a secret.
var encodings = map[string]func(string) string{
	"plain":              func(s string) string { return s },
	"query":              url.QueryEscape,
	"path":               url.PathEscape,
	"lower-case percent": func(s string) string { return percent(s, "%%%02x") },
	"every byte percent": func(s string) string { return percent(s, "%%%02X") },
	"percent twice":      func(s string) string { return url.QueryEscape(url.QueryEscape(s)) },
	"JSON": func(s string) string {
		encoded, _ := json.Marshal(s)
		return string(encoded[1 : len(encoded)-1])
	},
	"JSON, all escaped": func(s string) string {
		var out strings.Builder
		for _, unit := range utf16.Encode([]rune(s)) {
			fmt.Fprintf(&out, `\u%04x`, unit)
		}
		return out.String()
	},
	"Go":           func(s string) string { quoted := strconv.Quote(s); return quoted[1 : len(quoted)-1] },
	"HTML":         html.EscapeString,
	"HTML decimal": func(s string) string { return entities(s, "&#%d;") },
	"HTML hex":     func(s string) string { return entities(s, "&#x%X;") },
}

func percent(s, format string) string {
	var out strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&out, format, s[i])
	}
	return out.String()
}

func entities(s, format string) string {
	var out strings.Builder
	for _, r := range s {
		fmt.Fprintf(&out, format, r)
	}
	return out.String()
}

const secretWithEverything = `p1&nt"d+<s>é/=%\z'`

// A secret is taken out of a text wherever it stands, also where the cut would have
// shown its head, and also where only a part of it is there.
func TestRedaction(t *testing.T) {
	for name, encode := range encodings {
		t.Run(name, func(t *testing.T) {
			for _, before := range []int{0, 1, 17, 385, 390, 395, 399, 400, 500} {
				text := newRedactor(secretWithEverything).clean(strings.Repeat("_", before) + encode(secretWithEverything) + " tail")
				requireHidden(t, secretWithEverything, encode, text)
			}
			for length := 6; length < utf8.RuneCountInString(secretWithEverything); length++ {
				head := string([]rune(secretWithEverything)[:length])
				requireHidden(t, secretWithEverything, encode, newRedactor(secretWithEverything).clean("echo: "+encode(head)))
			}
		})
	}
}

// requireHidden fails if six characters of the secret in a row are in the text.
func requireHidden(t *testing.T, secret string, encode func(string) string, text string) {
	t.Helper()
	runes := []rune(secret)
	for i := 0; i+6 <= len(runes); i++ {
		part := string(runes[i : i+6])
		if strings.Contains(text, part) || strings.Contains(text, encode(part)) {
			require.Fail(t, "a part of the secret is shown", "characters %d to %d, in a text of %d bytes", i, i+6, len(text))
		}
	}
}

// Of a secret in a text nothing is left, not even of how its first and last characters were
// encoded, and nothing around it is taken.
func TestRedactionIsExact(t *testing.T) {
	for _, tt := range []struct{ secret, text string }{
		{"abcdefgh", `%61bcdefg%68`},
		{"abcdefgh", `%2561bcdefg%2568`},
		{"abcdefgh", `%252561bcdefg%252568`},
		{"%bcdefg%", `%25bcdefg%2525`},
		{"abcdefgh", `\x61bcdefg\x68`},
		{"abcdefgh", `\\x61bcdefg\\\\x68`},
		{"ébcdefgé", `\xc3\xa9bcdefg\xc3\xa9`},
		{"abcdefgh", `\u0061bcdefg\u0068`},
		{"abcdefgh", `\U00000061bcdefg\U00000068`},
		{"😀bcdefg😀", `\ud83d\ude00bcdefg\ud83d\ude00`},
		{"😀bcdefg😀", `\\ud83d\\ude00bcdefg\U0001F600`},
		{"abcdefgh", `&#97;bcdefg&#x68;`},
		{"abcdefgh", `&amp;#97;bcdefg&amp;amp;#104;`},
		{`"bcdefg"`, `\"bcdefg\\\"`},
		{`ab"cdefg`, `ab\"cdefg`},
		{`abcd\nfgh`, `abcd\\nfgh`},
		{`\zbcdefg`, `\\zbcdefg`},
		{"s3cr", "s3crs3cr"},             // One directly after the other.
		{"&#x61;|xyabcd", "xy&#x61;bcd"}, // Two parts of it, one inside the other.
		{"abcdefgh", "abcdef"},           // A part that is just long enough.
	} {
		assert.Equal(t, "echo: [redacted], sorry", newRedactor(tt.secret).clean("echo: "+tt.text+", sorry"), "%s", tt.text)
	}
	assert.Equal(t, "echo: a[redacted]", newRedactor("abcdefgh").clean("echo: aabcdefgh"), "only the second begins it")
	assert.Equal(t, "echo: abcde, sorry", newRedactor("abcdefgh").clean("echo: abcde, sorry"), "five characters may be chance")
	assert.Equal(t, "echo: abcdef, sorry", newRedactor("abcdefg").clean("echo: abcdef, sorry"), "a short secret counts as a whole")
}

// Of Fuuffy's words the engine reads only so many, and shows fewer.
func TestLongText(t *testing.T) {
	r := newRedactor("abcdefgh")
	assert.Equal(t, strings.Repeat("é", maxErrorText), r.clean(strings.Repeat("é", maxErrorText)))
	assert.Equal(t, strings.Repeat("é", maxErrorText)+"…", r.clean(strings.Repeat("é", maxErrorText+1)))
	assert.Equal(t, redacted, r.clean(strings.Repeat("abcdefgh", maxReadText/8)+" and more"))
}

func TestShortSecretIsTakenOutWhole(t *testing.T) {
	assert.Equal(t, "a [redacted] b", newRedactor("s3cr").clean("a s3cr b"))
	assert.Equal(t, "a s3c b", newRedactor("s3cr").clean("a s3c b"), "a part of so little says nothing")
	assert.Equal(t, "nothing", newRedactor("").clean("nothing"))
}

// The marker itself may spell the secret. Then nothing is shown.
func TestMarkerThatSpellsTheSecret(t *testing.T) {
	assert.Equal(t, withheld, newRedactor("redacted").clean("echo: redacted"))
}

// What an escape stands for is part of what is hidden, and an escape of something else is
// not.
func TestEscapeBeforeTheSecret(t *testing.T) {
	assert.Equal(t, `\[redacted]`, newRedactor("abcdefgh").clean(`\abcdefgh`))
}

// A backslash in the middle, which JSON doubles, does not keep the secret from being seen.
func TestBackslashInTheMiddle(t *testing.T) {
	for _, text := range []string{`abcd\efgh`, `abcd\\efgh`, `abcd\\\\efgh`} {
		assert.Equal(t, "echo: [redacted]", newRedactor(`abcd\efgh`).clean("echo: "+text))
	}
}

// An entity or an escape may be cut where the text ends.
func TestTextThatEndsInAnEncoding(t *testing.T) {
	for _, end := range []string{"&", "&am", "&#3", "&#x2", "&amp;", "&amp;am", "%", "%2", `\`, `\u00`, `\ud83d`, `\ud83d\`} {
		text := "this text ends in " + end
		assert.Equal(t, text, newRedactor(testSecret).clean(text))
	}
}

func TestCodesAreRedactedToo(t *testing.T) {
	failed := parseError([]byte(`{"error": {"code": "x-`+testSecret+`", "message": "m"}}`), newRedactor(testSecret))
	assert.Equal(t, "x-[redacted]", failed.Code)
}

// FuzzRedact: no secret of eight characters or more, nor six characters of it in a row,
// is shown, whatever text contains it in whatever encoding at whatever offset.
func FuzzRedact(f *testing.F) {
	for i := range len(encodings) {
		f.Add(secretWithEverything, "before ", " after", i)
		f.Add("0123456789abcdef", strings.Repeat("x", 395), "", i)
	}
	// In order, so that an input that failed fails again.
	names := slices.Sorted(maps.Keys(encodings))
	f.Fuzz(func(t *testing.T, secret, before, after string, encoding int) {
		secret = strings.Map(func(r rune) rune {
			if r < 0x21 || r == utf8.RuneError {
				return -1 // config refuses white space and control characters.
			}
			return r
		}, strings.ToValidUTF8(secret, ""))
		runes := []rune(secret)
		if len(runes) < longSecret {
			return
		}
		encode := encodings[names[max(encoding, -encoding, 0)%len(names)]]
		text := newRedactor(secret).clean(before + encode(secret) + after)
		marked := strings.ReplaceAll(strings.ReplaceAll(text, redacted, "\x00"), withheld, "\x00")
		for i := 0; i+6 <= len(runes); i++ {
			part := string(runes[i : i+6])
			if strings.Contains(marked, part) || strings.Contains(marked, encode(part)) {
				t.Fatalf("characters %d to %d of the secret are shown", i, i+6)
			}
		}
	})
}

// A hostile answer does not keep the engine busy, which serves other mounts too.
func TestRedactionOfAHostileTextTakesNoTime(t *testing.T) {
	for name, tt := range map[string]struct{ secret, text string }{
		"backslashes":                {secretWithEverything, strings.Repeat(`\`, maxBody)},
		"percent signs, encoded":     {secretWithEverything, "%" + strings.Repeat("25", maxBody/2)},
		"ampersands, encoded":        {secretWithEverything, "&" + strings.Repeat("amp;", maxBody/4)},
		"surrogates":                 {secretWithEverything, strings.Repeat(`\ud83d`, maxBody/6) + strings.Repeat(`\`, maxBody)},
		"the secret again and again": {secretWithEverything, strings.Repeat(secretWithEverything, maxBody/len(secretWithEverything))},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			newRedactor(tt.secret).clean(tt.text)
			assert.Less(t, time.Since(began), 5*time.Second)
		})
	}
}
