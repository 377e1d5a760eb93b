// SPDX-License-Identifier: MPL-2.0

package mounttest

import (
	"cmp"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

var (
	TypedPattern       = regexp.MustCompile(`\bvault [a-z].*`)
	PlaceholderPattern = regexp.MustCompile(`<([a-z_]+)>`)
	// unquotedPattern is what may stand outside quotes: nothing that a shell expands, and an escaped
	// character.
	unquotedPattern = regexp.MustCompile(`^([A-Za-z0-9_@%+=:,./-]|\\.)*$`)
	InstantPattern  = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
)

// CommandsIn returns the words of each command in a text for people, as a POSIX shell would pass
// them on. It fails the test if a shell would do anything else with a pasted line: the command
// must be all that stands from "vault" to the end of its line. A placeholder <field> becomes the
// word field.
func CommandsIn(t testing.TB, text string) [][]string {
	t.Helper()
	var all [][]string
	for line := range strings.Lines(text) {
		command := TypedPattern.FindString(strings.TrimRight(line, "\n"))
		if command == "" {
			continue
		}
		all = append(all, shellWords(t, PlaceholderPattern.ReplaceAllString(command, "$1")))
	}
	return all
}

// shellWords returns the words of a line that must be one simple command.
func shellWords(t testing.TB, line string) []string {
	t.Helper()
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX), syntax.KeepComments(true)).Parse(strings.NewReader(line), "")
	require.NoError(t, err, "a shell can't parse %q", line)
	require.Len(t, file.Stmts, 1, "one command in %q", line)
	require.Empty(t, file.Last, "a comment in %q", line)
	statement := file.Stmts[0]
	require.False(t, len(statement.Comments) > 0 || len(statement.Redirs) > 0 || statement.Background || statement.Negated, "something after the command in %q", line)
	call, ok := statement.Cmd.(*syntax.CallExpr)
	require.True(t, ok && len(call.Assigns) == 0, "a simple command in %q", line)
	var words []string
	for _, word := range call.Args {
		for _, part := range word.Parts {
			switch part := part.(type) {
			case *syntax.Lit:
				require.Regexp(t, unquotedPattern, part.Value, "unquoted in %q", line)
			case *syntax.SglQuoted:
				require.False(t, part.Dollar, "$'…' isn't POSIX: %q", line)
			default:
				require.Fail(t, "a shell would expand this", "%T in %q", part, line)
			}
		}
		fields, err := expand.Fields(&expand.Config{Env: expand.ListEnviron()}, word)
		require.NoError(t, err, line)
		words = append(words, fields...)
	}
	return words
}

// Typed is a command as the vault CLI understands it.
type Typed struct {
	Verb   string
	flags  []string
	Path   string
	Fields map[string]string
}

// String names a command without the path of its mount.
func (c Typed) String() string { return c.Verb + " " + c.Path }

// typedCommand parses the words of a command as the vault CLI does: flags until the first word
// without a dash or until --, then the path, then the fields.
func typedCommand(t testing.TB, words []string) Typed {
	t.Helper()
	require.Greater(t, len(words), 2, "%q", words)
	c := Typed{Verb: words[1], Fields: map[string]string{}}
	rest := words[2:]
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") && rest[0] != "--" {
		c.flags, rest = append(c.flags, rest[0]), rest[1:]
	}
	if len(rest) > 0 && rest[0] == "--" {
		rest = rest[1:]
	}
	require.NotEmpty(t, rest, "no path in %q", words)
	c.Path = rest[0]
	for _, field := range rest[1:] {
		name, value, ok := strings.Cut(field, "=")
		require.True(t, ok, "%q is no field in %q", field, words)
		c.Fields[name] = value
	}
	return c
}

// Commands returns the commands in texts. It fails the test if one of them isn't an operation of
// this mount that the vault CLI would send. Their paths are without the mount's.
func (m *Mount) Commands(texts ...string) []Typed {
	m.T.Helper()
	mountPath := cmp.Or(m.Path, "fuuffy/")
	var all []Typed
	for _, words := range CommandsIn(m.T, strings.Join(texts, "\n")) {
		c := typedCommand(m.T, words)
		require.True(m.T, strings.HasPrefix(c.Path, mountPath), "%q is on this mount, %s", words, mountPath)
		c.Path = strings.TrimPrefix(c.Path, mountPath)
		operation := map[string]logical.Operation{
			"read": logical.ReadOperation, "write": logical.UpdateOperation, "patch": logical.PatchOperation, "delete": logical.DeleteOperation,
		}[c.Verb]
		route := m.Framework().Route(c.Path)
		require.NotNil(m.T, route, "there is no path %q: %q", c.Path, words)
		require.Contains(m.T, route.Operations, operation, "%q", words)
		for field := range c.Fields {
			require.Contains(m.T, route.Fields, field, "%q", words)
		}
		if c.Verb == "write" {
			require.Equal(m.T, len(c.Fields) == 0, slices.Contains(c.flags, "-f"), "the CLI wants -f without fields: %q", words)
		}
		if strings.Contains(strings.TrimSuffix(mountPath, "/"), "/") {
			// The path may begin with a namespace.
			require.NotEmpty(m.T, c.flags, "%q", words)
			require.Equal(m.T, "-namespace=", c.flags[0], "the path has the namespace already, whatever VAULT_NAMESPACE says: %q", words)
		}
		all = append(all, c)
	}
	return all
}

// ToldBy is everything that an answer tells people, the next step first.
func ToldBy(t testing.TB, resp *logical.Response, err error) []string {
	t.Helper()
	if err != nil || resp.IsError() {
		_, text := Refusal(t, resp, err)
		return []string{text}
	}
	var all []string
	if resp == nil {
		return nil
	}
	if next, ok := resp.Data["next_step"].(string); ok {
		all = append(all, next)
	}
	return append(all, resp.Warnings...)
}

// Said sends a request, and returns everything that the answer tells people.
func (m *Mount) Said(operation logical.Operation, path string, data map[string]any) string {
	m.T.Helper()
	resp, err := m.Handle(m.T.Context(), operation, path, data)
	return strings.Join(ToldBy(m.T, resp, err), "\n")
}

// Intercept puts something between Vault and Fuuffy: it may change the form of a token request,
// or return the response.
func (m *Mount) Intercept(meet func(form url.Values) *GatewayAnswer) {
	direct := m.Transport
	m.Transport = func(caCert string) (http.RoundTripper, error) {
		next, err := direct(caCert)
		if err != nil {
			return nil, err
		}
		return RoundTripFunc(func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			form, err := url.ParseQuery(string(body))
			if err != nil {
				return nil, err
			}
			a := meet(form)
			if a == nil {
				passed, encoded := r.Clone(r.Context()), form.Encode()
				passed.Body, passed.ContentLength = io.NopCloser(strings.NewReader(encoded)), int64(len(encoded))
				return next.RoundTrip(passed)
			}
			header := http.Header{"Content-Type": {a.ContentType}}
			if a.RetryAfter != "" {
				header.Set("Retry-After", a.RetryAfter)
			}
			return &http.Response{
				StatusCode: a.Status, Status: http.StatusText(a.Status),
				Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
				Header: header, Body: io.NopCloser(strings.NewReader(a.Body)), ContentLength: int64(len(a.Body)), Request: r,
			}, nil
		}), nil
	}
}

// Answering has token requests for a pair meet another answer than Fuuffy's, nil for Fuuffy's.
func (m *Mount) Answering(answer func(clientID, secret string) *GatewayAnswer) {
	m.Intercept(func(form url.Values) *GatewayAnswer { return answer(form.Get("client_id"), form.Get("client_secret")) })
}

// Answers is what stands between Vault and Fuuffy, by client.
type Answers map[string]GatewayAnswer

// Between lets some clients meet another answer than Fuuffy's. A change of the map counts from
// the next request on.
func (m *Mount) Between(a Answers) {
	m.Answering(func(clientID, _ string) *GatewayAnswer {
		if answer, ok := a[clientID]; ok {
			return &answer
		}
		return nil
	})
}
