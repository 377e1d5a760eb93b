// SPDX-License-Identifier: MPL-2.0

package advice

import (
	"errors"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// hostileIDs are client IDs that a shell or the vault program could take for something else.
// The engine accepts every graphic text without white space.
var hostileIDs = []string{
	"shop-1", "shop_1", "$(reboot)", "`reboot`", "shop;reboot", "shop&reboot", "shop&&reboot", "shop|sh", "shop<in", "shop>out", "shop>>out",
	"*", "sh?p", "[a-z]", "{a,b}", "~", "~root", "!", "!!", "!-1", "#", "shop#1", "=", "a=b", "=ls", "%", "%1", "^", "$", "$HOME", "${HOME}", "$'x'", `$"x"`,
	"'", "''", "'$(reboot)'", `'\''`, `"`, `"$(reboot)"`, `\`, `\\`, `\'`, `shop\`, "(", ")", "(reboot)",
	"-", "--", "-f", "-namespace=other", "--help", "@", "@/etc/passwd", `\@`, `\@x`, `\\@x`, `\-`, "x@y", "+", ",", ":", ".", "..", "/", "//",
	"<client_id>", "<", ">", "ключ", "店", "é", "🛒", "‘quoted’", "\u202e", "client_id=x",
}

// hostileMounts are mount paths. Vault takes every printable path.
var hostileMounts = []string{
	"fuuffy/", "shops/eu/", "my fuuffy/", "fu&uffy/", "fuuffy;x/", "-dash/", "--/", "-dash/inner/", "it's/", `a"b/`, "$(reboot)/", "$HOME/", "`reboot`/",
	"a|b/", "a>b/", "a<b/", "*/", "~/", "#/", "!/", `a\b/`, "a'b/c d/", "ключ/", "<mount>/", "=/", "@x/", "%/",
}

// unquoted is what every shell takes as it is: in any place of a word, and interactively too.
var unquoted = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]*$`)

// shellWords returns the arguments of the command that a POSIX shell makes of a text. It fails
// if that is more than one simple command, or if a shell does anything to its words.
func shellWords(t testing.TB, text string) []string {
	t.Helper()
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX), syntax.KeepComments(true)).Parse(strings.NewReader(text), "")
	require.NoError(t, err, text)
	require.Len(t, file.Stmts, 1, "more than one command: %s", text)
	require.Empty(t, file.Last, "a comment: %s", text)
	statement := file.Stmts[0]
	require.Empty(t, statement.Comments, "a comment: %s", text)
	require.Empty(t, statement.Redirs, "a redirection: %s", text)
	require.False(t, statement.Negated || statement.Background || statement.Coprocess, text)
	call, ok := statement.Cmd.(*syntax.CallExpr)
	require.True(t, ok, "not a simple command: %s", text)
	require.Empty(t, call.Assigns, "an assignment: %s", text)
	for _, word := range call.Args {
		for _, part := range word.Parts {
			switch part := part.(type) {
			case *syntax.SglQuoted:
				require.False(t, part.Dollar, text)
			case *syntax.Lit:
				if part.Value != `\'` {
					require.Regexp(t, unquoted, part.Value, "a shell may change %s", text)
				}
			default:
				require.Failf(t, "an expansion", "%T in %s", part, text)
			}
		}
	}
	words, err := expand.Fields(&expand.Config{
		Env:      expand.FuncEnviron(func(string) string { return "expanded" }),
		ReadDir2: func(string) ([]fs.DirEntry, error) { return nil, errors.New("a shell looks for files") },
	}, call.Args...)
	require.NoError(t, err, text)
	return words
}

// vaultProgram is what the vault program makes of its arguments: its flags end at the first
// word that isn't one, and its fields are read as its kv-builder does.
type vaultProgram struct {
	verb, path string
	flags      []string
	fields     map[string]string
}

const fromStdin = "(standard input)"

func runVault(t testing.TB, words []string) (v vaultProgram) {
	t.Helper()
	require.GreaterOrEqual(t, len(words), 3)
	require.Equal(t, "vault", words[0])
	v.verb, words = words[1], words[2:]
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		flag := words[0]
		words = words[1:]
		if flag == "--" {
			break
		}
		v.flags = append(v.flags, flag)
	}
	require.NotEmpty(t, words, "no path")
	v.path, v.fields = words[0], map[string]string{}
	for _, word := range words[1:] {
		name, value, ok := strings.Cut(word, "=")
		require.True(t, ok, "%q is no field", word)
		require.NotContains(t, v.fields, name)
		switch {
		case strings.HasPrefix(value, "@"):
			require.Failf(t, "it reads a file", "%q", word)
		case strings.HasPrefix(value, `\@`):
			value = value[1:]
		case value == "-":
			value = fromStdin
		}
		v.fields[name] = value
	}
	return v
}

// showsPlaceholder tells whether the vault program can't take an ID as a value. Then the command
// shows a placeholder.
func showsPlaceholder(id string) bool { return id == "-" || strings.HasPrefix(id, `\@`) }

// checkCommand pastes a command into a shell at a mount.
func checkCommand(t testing.TB, c Command, mount, verb, path string, fields map[string]string) {
	t.Helper()
	text := c.Render(mount)
	assert.NotContains(t, text, "\n")
	for _, a := range c.args {
		if a.placeholder {
			text = strings.Replace(text, a.name+"=<"+a.value+">", a.name+"=word", 1)
		}
	}
	got := runVault(t, shellWords(t, text))
	var flags []string
	if strings.Contains(strings.TrimSuffix(mount, "/"), "/") {
		flags = append(flags, "-namespace=")
	}
	if verb == "write" && len(fields) == 0 {
		flags = append(flags, "-f")
	}
	assert.Equal(t, vaultProgram{verb, mount + path, flags, fields}, got, text)
}

func checkMark(t testing.TB, mount, id string) {
	t.Helper()
	meant := id
	if showsPlaceholder(id) {
		meant = "word"
		assert.Contains(t, Mark(id).Render(mount), "client_id=<client_id>")
	}
	checkCommand(t, Mark(id), mount, "write", "rotate-root/revoked", map[string]string{"client_id": meant})
}

// TestCommandsInAShell pastes each command, with each client ID and at each mount, into a shell.
func TestCommandsInAShell(t *testing.T) {
	type fields = map[string]string
	commands := []struct {
		name, verb, path string
		command          Command
		fields           fields
	}{
		{"configure", "write", "config", Configure, fields{"client_id": "word", "client_secret": fromStdin}},
		{"stage", "write", "rotate-root", Stage, fields{"client_id": "word", "client_secret": fromStdin}},
		{"emergency", "write", "rotate-root", Emergency, fields{"client_id": "word", "client_secret": fromStdin, "compromised": "true"}},
		{"promote", "write", "rotate-root/promote", Promote, fields{}},
		{"complete", "write", "rotate-root/complete", Complete, fields{}},
		{"force", "write", "rotate-root/complete", Force, fields{"force": "true"}},
		{"rollback", "write", "rotate-root/rollback", Rollback, fields{}},
		{"discard", "delete", "rotate-root", Discard, fields{}},
		{"check", "write", "rotate-root/check", Check, fields{}},
		{"rotation", "read", "rotate-root", Rotation, fields{}},
		{"report", "write", "token", Report, fields{"rejected_token": fromStdin}},
		{"change the endpoint", "write", "config", settingBaseURL.on(Write("config")).WithSecret("client_secret"), fields{"base_url": "word", "client_secret": fromStdin}},
	}
	for _, mount := range hostileMounts {
		for _, c := range commands {
			t.Run(c.name+" at "+mount, func(t *testing.T) { checkCommand(t, c.command, mount, c.verb, c.path, c.fields) })
		}
		for _, id := range hostileIDs {
			t.Run("mark "+id+" at "+mount, func(t *testing.T) { checkMark(t, mount, id) })
		}
	}
}

// TestShellWordsSees makes sure that the test's shell sees what a hostile text would do.
func TestShellWordsSees(t *testing.T) {
	for name, text := range map[string]string{
		"two commands":          "vault read x; reboot",
		"a pipe":                "vault read x | sh",
		"a redirection":         "vault read x >y",
		"a background command":  "vault read x &",
		"a substitution":        "vault read $(reboot)",
		"backticks":             "vault read `reboot`",
		"a variable":            "vault read $HOME",
		"a quoted variable":     `vault read "$HOME"`,
		"an assignment":         "A=b vault read x",
		"a pattern":             "vault read *",
		"a home directory":      "vault read ~root",
		"a tilde after =":       "vault write x client_id=~root",
		"braces":                "vault read {a,b}",
		"a comment":             "vault read x #y",
		"a history expansion":   "vault read !!",
		"a subshell":            "(vault read x)",
		"an unfinished quote":   "vault read 'x",
		"a second line":         "vault read x\nreboot",
		"a function":            "f() { vault read x; }",
		"a backslash":           `vault read \x`,
		"an ANSI C quoted word": `vault read $'x'`,
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			func() {
				defer func() { _ = recover() }()
				shellWords(r, text)
			}()
			assert.True(t, r.failed, "nothing saw %q", text)
		})
	}
}

// recorder is a test that notes its failure.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) FailNow()              { r.failed = true; panic("failed") }

func acceptable(text string, space bool) bool {
	return text != "" && utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return !unicode.IsGraphic(r) || unicode.IsSpace(r) && (!space || r != ' ')
	})
}

func FuzzCommandInAShell(f *testing.F) {
	for i, id := range hostileIDs {
		f.Add(hostileMounts[i%len(hostileMounts)], id)
	}
	f.Fuzz(func(t *testing.T, mount, id string) {
		mount = strings.TrimSuffix(mount, "/")
		if !acceptable(mount, true) || !acceptable(id, false) || strings.HasPrefix(mount, "/") {
			return // The engine or Vault accepts no such text.
		}
		mount += "/"
		checkMark(t, mount, id)
		checkCommand(t, Complete, mount, "write", "rotate-root/complete", map[string]string{})
		checkCommand(t, Stage, mount, "write", "rotate-root", map[string]string{"client_id": "word", "client_secret": fromStdin})
	})
}

// TestNothingStandsAfterACommand looks at each text that has commands. Clients have names that
// look like commands, so that no part of a line can pass for one.
func TestNothingStandsAfterACommand(t *testing.T) {
	pair := func(id string) *rotation.Pair { return &rotation.Pair{ID: id, ClientID: id, ClientSecret: "secret"} }
	texts := map[string]Text{
		"a text of two lines": Do("First:", Check).Then("Then:", Promote),
		"only a command":      Do("", Check),
		"repeat":              Repeat(settingBaseURL),
	}
	for reason := rotation.AlreadyCurrent; reason <= rotation.StillAccepted; reason++ {
		text := Explain(&rotation.Refusal{Reason: reason, Pair: pair("$(a)"), Other: pair("$(b)"), State: rotation.Promoted}, nil)
		texts["refusal "+rotation.Record{Step: string(rune('a' + reason))}.String()] = text
	}
	for notice := rotation.TestedAgain; notice <= rotation.LeakedTokens; notice++ {
		texts["notice "+string(rune('a'+notice))] = Tell(rotation.Note{Notice: notice, Pair: pair("$(a)")}, pair("$(b)"))
	}
	for _, mount := range []string{"fuuffy/", "my fuuffy/", "it's/"} {
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			checkLines(t, name, texts[name], mount)
		}
	}
}

// checkLines makes sure that a text's commands stand at the end of their lines, and nowhere else.
func checkLines(t testing.TB, name string, text Text, mount string) {
	t.Helper()
	lines := strings.Split(text.Render(mount), "\n")
	require.Len(t, lines, len(text), name)
	for i, line := range text {
		said := lines[i]
		if line.Command != nil {
			command := line.Command.Render(mount)
			require.True(t, strings.HasSuffix(said, command), "%s: %q doesn't end with its command", name, said)
			said = strings.TrimSuffix(said, command)
			assert.True(t, said == "" || strings.HasSuffix(said, ": "), "%s: %q doesn't lead to its command", name, said)
		}
		assert.NotContains(t, said, "vault ", name)
	}
}
