// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

var (
	typedPattern       = regexp.MustCompile(`\bvault [a-z].*`)
	placeholderPattern = regexp.MustCompile(`<([a-z_]+)>`)
	// unquotedPattern is what may stand outside quotes: nothing that a shell expands, and an escaped
	// character.
	unquotedPattern = regexp.MustCompile(`^([A-Za-z0-9_@%+=:,./-]|\\.)*$`)
	instantPattern  = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
)

// commandsIn returns the words of each command in a text for people, as a POSIX shell would pass
// them on. It fails the test if a shell would do anything else with a pasted line: the command
// must be all that stands from "vault" to the end of its line. A placeholder <field> becomes the
// word field.
func commandsIn(t testing.TB, text string) [][]string {
	t.Helper()
	var all [][]string
	for line := range strings.Lines(text) {
		command := typedPattern.FindString(strings.TrimRight(line, "\n"))
		if command == "" {
			continue
		}
		all = append(all, shellWords(t, placeholderPattern.ReplaceAllString(command, "$1")))
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

// typed is a command as the vault CLI understands it.
type typed struct {
	verb   string
	flags  []string
	path   string
	fields map[string]string
}

// String names a command without the path of its mount.
func (c typed) String() string { return c.verb + " " + c.path }

// typedCommand parses the words of a command as the vault CLI does: flags until the first word
// without a dash or until --, then the path, then the fields.
func typedCommand(t testing.TB, words []string) typed {
	t.Helper()
	require.Greater(t, len(words), 2, "%q", words)
	c := typed{verb: words[1], fields: map[string]string{}}
	rest := words[2:]
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") && rest[0] != "--" {
		c.flags, rest = append(c.flags, rest[0]), rest[1:]
	}
	if len(rest) > 0 && rest[0] == "--" {
		rest = rest[1:]
	}
	require.NotEmpty(t, rest, "no path in %q", words)
	c.path = rest[0]
	for _, field := range rest[1:] {
		name, value, ok := strings.Cut(field, "=")
		require.True(t, ok, "%q is no field in %q", field, words)
		c.fields[name] = value
	}
	return c
}

// commands returns the commands in texts. It fails the test if one of them isn't an operation of
// this mount that the vault CLI would send. Their paths are without the mount's.
func (m *mount) commands(texts ...string) []typed {
	m.t.Helper()
	mountPath := cmp.Or(m.path, "fuuffy/")
	var all []typed
	for _, words := range commandsIn(m.t, strings.Join(texts, "\n")) {
		c := typedCommand(m.t, words)
		require.True(m.t, strings.HasPrefix(c.path, mountPath), "%q is on this mount, %s", words, mountPath)
		c.path = strings.TrimPrefix(c.path, mountPath)
		operation := map[string]logical.Operation{
			"read": logical.ReadOperation, "write": logical.UpdateOperation, "patch": logical.PatchOperation, "delete": logical.DeleteOperation,
		}[c.verb]
		route := m.framework().Route(c.path)
		require.NotNil(m.t, route, "there is no path %q: %q", c.path, words)
		require.Contains(m.t, route.Operations, operation, "%q", words)
		for field := range c.fields {
			require.Contains(m.t, route.Fields, field, "%q", words)
		}
		if c.verb == "write" {
			require.Equal(m.t, len(c.fields) == 0, slices.Contains(c.flags, "-f"), "the CLI wants -f without fields: %q", words)
		}
		if strings.Contains(strings.TrimSuffix(mountPath, "/"), "/") {
			// The path may begin with a namespace.
			require.NotEmpty(m.t, c.flags, "%q", words)
			require.Equal(m.t, "-namespace=", c.flags[0], "the path has the namespace already, whatever VAULT_NAMESPACE says: %q", words)
		}
		all = append(all, c)
	}
	return all
}

// names are the commands in texts, without the mount's path and without fields.
func (m *mount) names(texts ...string) []string {
	m.t.Helper()
	var names []string
	for _, c := range m.commands(texts...) {
		names = append(names, c.String())
	}
	return names
}

// enter types a command whose placeholders are filled in.
func (m *mount) enter(c typed, fill ...any) (*logical.Response, error) {
	m.t.Helper()
	data := map[string]any{}
	for name, value := range c.fields {
		data[name] = value
	}
	for name, value := range pairs(fill...) {
		if _, ok := data[name]; ok {
			data[name] = value
		}
	}
	operation := map[string]logical.Operation{"read": logical.ReadOperation, "write": logical.UpdateOperation, "delete": logical.DeleteOperation}[c.verb]
	return m.handle(m.t.Context(), operation, c.path, data)
}

// toldBy is everything that an answer tells people, the next step first.
func toldBy(t testing.TB, resp *logical.Response, err error) []string {
	t.Helper()
	if err != nil || resp.IsError() {
		_, text := refusal(t, resp, err)
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

// said sends a request, and returns everything that the answer tells people.
func (m *mount) said(operation logical.Operation, path string, data map[string]any) string {
	m.t.Helper()
	resp, err := m.handle(m.t.Context(), operation, path, data)
	return strings.Join(toldBy(m.t, resp, err), "\n")
}

// next is the next step. Status and the rotation agree on it.
func (m *mount) nextStep() string {
	m.t.Helper()
	next, _ := m.status()["next_step"].(string)
	require.Equal(m.t, next, m.rotation()["next_step"], "one place knows")
	return next
}

// unrevoked is the list of clients that may still work, a line each.
func (m *mount) unrevoked() []string {
	m.t.Helper()
	list, _ := m.rotation()["unrevoked"].(string)
	if list == "" {
		return nil
	}
	return strings.Split(list, "\n")
}

// intercept puts something between Vault and Fuuffy: it may change the form of a token request,
// or return the response.
func (m *mount) intercept(meet func(form url.Values) *gatewayAnswer) {
	direct := m.transport
	m.transport = func(caCert string) (http.RoundTripper, error) {
		next, err := direct(caCert)
		if err != nil {
			return nil, err
		}
		return roundTripFunc(func(r *http.Request) (*http.Response, error) {
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
			header := http.Header{"Content-Type": {a.contentType}}
			if a.retryAfter != "" {
				header.Set("Retry-After", a.retryAfter)
			}
			return &http.Response{
				StatusCode: a.status, Status: http.StatusText(a.status),
				Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
				Header: header, Body: io.NopCloser(strings.NewReader(a.body)), ContentLength: int64(len(a.body)), Request: r,
			}, nil
		}), nil
	}
}

// answering has token requests for a pair meet another answer than Fuuffy's, nil for Fuuffy's.
func (m *mount) answering(answer func(clientID, secret string) *gatewayAnswer) {
	m.intercept(func(form url.Values) *gatewayAnswer { return answer(form.Get("client_id"), form.Get("client_secret")) })
}

// answers is what stands between Vault and Fuuffy, by client.
type answers map[string]gatewayAnswer

// between lets some clients meet another answer than Fuuffy's. A change of the map counts from
// the next request on.
func (m *mount) between(a answers) {
	m.answering(func(clientID, _ string) *gatewayAnswer {
		if answer, ok := a[clientID]; ok {
			return &answer
		}
		return nil
	})
}

func TestCommandsIn(t *testing.T) {
	assert.Equal(t, [][]string{
		{"vault", "write", "fuuffy/rotate-root", "client_id=client_id", "client_secret=-"},
		{"vault", "write", "-f", "--", "-a b/x", "y=it's $(not) run"},
	}, commandsIn(t, "Stage new ones: vault write fuuffy/rotate-root client_id=<client_id> client_secret=-\n"+
		`vault write -f -- '-a b/x' y='it'\''s $(not) run'`+"\nThe Vault server has no vault."))
}

// awkwardMounts are paths that Vault takes, and a shell or the vault CLI would misread. A path with
// a slash inside may begin with a namespace.
var awkwardMounts = []string{
	"fuuffy/", "my fuuffy/", "fu&uffy/", "fuuffy;x/", "-dash/", "--/", "$(id)/", "`id`/", "a'b/", `a"b/`, `a\b/`, "#fuuffy/", "~fuuffy/", "fuu*y/", "(f)/", "a|b/", "a>b/", "!f/", "fuuffy=x/", "føffy/",
	"team/fuuffy/", "team/my fuuffy/", "-team/fuuffy/", "a/b/c/",
}

// adviceStates are the states that give different advice.
var adviceStates = map[string]func(m *mount, between answers){
	"not configured": nil,
	"idle":           func(*mount, answers) {},
	"untested": func(m *mount, _ answers) {
		m.write("config", "client_id", thirdID, "client_secret", thirdSecret, "verify_connection", false)
	},
	"due":      func(m *mount, _ answers) { time.Sleep(80 * 24 * time.Hour) },
	"staged":   func(m *mount, _ answers) { m.rotateTo(rotation.Staged) },
	"promoted": func(m *mount, _ answers) { m.rotateTo(rotation.Promoted) },
	"promoted long ago": func(m *mount, _ answers) {
		m.rotateTo(rotation.Promoted)
		time.Sleep(8 * 24 * time.Hour)
		m.read()
	},
	"compromised": func(m *mount, _ answers) { m.rotateTo(stateCompromised) },
	"rolled back": func(m *mount, _ answers) { m.rotateTo(rotation.Promoted); m.write("rotate-root/rollback") },
	"forced": func(m *mount, _ answers) {
		m.rotateTo(rotation.Promoted)
		m.write("rotate-root/complete", "force", true)
	},
	"rejected": func(m *mount, _ answers) { m.sandbox.RevokeClient(testClientID); m.loseToken(); m.refusedToken() },
	"fallback": func(m *mount, _ answers) {
		m.rotateTo(rotation.Promoted)
		m.sandbox.RevokeClient(newClientID)
		m.loseToken()
		m.read()
	},
	"both revoked": func(m *mount, _ answers) {
		m.rotateTo(rotation.Promoted)
		m.sandbox.RevokeClient(testClientID)
		m.sandbox.RevokeClient(newClientID)
		m.loseToken()
		m.refusedToken()
	},
	"unavailable":  func(m *mount, _ answers) { m.sandbox.SetFault(faultUnavailable); m.loseToken(); m.refusedToken() },
	"rate limited": func(m *mount, b answers) { b[testClientID] = provesNothing["429"]; m.loseToken(); m.refusedToken() },
	"login page": func(m *mount, b answers) {
		b[testClientID] = provesNothing["200 without a token"]
		m.loseToken()
		m.refusedToken()
	},
	"redirect": func(m *mount, b answers) {
		b[testClientID] = provesNothing["redirect to a login page"]
		m.loseToken()
		m.refusedToken()
	},
	"redirect while staged": func(m *mount, b answers) {
		m.rotateTo(rotation.Staged)
		b[testClientID] = provesNothing["redirect to a login page"]
		m.loseToken()
		m.refusedToken()
	},
	"redirect while promoted": func(m *mount, b answers) {
		m.rotateTo(rotation.Promoted)
		b[newClientID] = provesNothing["redirect to a login page"]
		m.loseToken()
		m.refusedToken()
	},
	"in its buffer": func(m *mount, _ answers) {
		m.sandbox.SetFault(faultUnavailable)
		time.Sleep(57 * time.Minute)
		m.refusedToken()
	},
	"suspect": func(m *mount, _ answers) {
		time.Sleep(time.Minute)
		m.sandbox.SetFault(faultUnavailable)
		m.refused(logical.UpdateOperation, "token", nil)
	},
}

// everyRequest is what people send, in an order in which each finds something to say.
var everyRequest = []adviceRequest{
	{logical.ReadOperation, "status", nil},
	{logical.ReadOperation, "rotate-root", nil},
	{logical.ReadOperation, "config", nil},
	{logical.ReadOperation, "token", nil},
	{logical.UpdateOperation, "token", pairs("min_ttl", "20m")},
	{logical.UpdateOperation, "rotate-root/check", nil},
	{logical.UpdateOperation, "rotate-root/check", nil},
	{logical.UpdateOperation, "config", pairs("client_id", "typo", "client_secret", "wrong")},
	{logical.UpdateOperation, "config", pairs("client_id", testClientID, "client_secret", testSecret)},
	{logical.UpdateOperation, "config", pairs("environment", "testing", "client_secret", testSecret)},
	{logical.UpdateOperation, "rotate-root", nil},
	{logical.UpdateOperation, "rotate-root", pairs("client_id", testClientID, "client_secret", testSecret)},
	{logical.UpdateOperation, "rotate-root", pairs("client_id", thirdID, "client_secret", thirdSecret)},
	{logical.UpdateOperation, "rotate-root/rollback", nil},
	{logical.UpdateOperation, "rotate-root/complete", nil},
	{logical.UpdateOperation, "rotate-root/promote", nil},
	{logical.UpdateOperation, "rotate-root/complete", nil},
	{logical.DeleteOperation, "rotate-root", nil},
	{logical.UpdateOperation, "rotate-root", pairs("client_id", newClientID, "client_secret", newSecret)},
	{logical.UpdateOperation, "rotate-root/complete", pairs("force", true)},
	{logical.UpdateOperation, "rotate-root/revoked", nil},
	{logical.UpdateOperation, "rotate-root/complete", pairs("compromised_client_id", testClientID)},
	{logical.DeleteOperation, "config", nil},
	{logical.ReadOperation, "status", nil},
}

// Defect 8: each command in each text can be pasted into a shell as it stands, on any mount: it
// is one command of this mount, at the end of its line.
func TestAdviceCanBePasted(t *testing.T) {
	for name, prepare := range adviceStates {
		for _, path := range awkwardMounts {
			t.Run(name+" at "+path, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, between := newMount(t), answers{}
					m.path = path
					m.between(between)
					m.sandbox.CreateClient(newClientID, newSecret)
					m.sandbox.CreateClient(thirdID, thirdSecret)
					if prepare != nil {
						m.configure()
						m.read()
						prepare(m, between)
					}
					require.NotEmpty(t, m.said(logical.ReadOperation, "status", nil))
					commands := 0
					for _, r := range everyRequest {
						if prepare == nil && r.path == "config" && r.operation == logical.ReadOperation {
							continue // Vault answers 404 itself.
						}
						text := m.said(r.operation, r.path, r.data)
						commands += len(m.commands(text))
						time.Sleep(3 * time.Second)
					}
					assert.Greater(t, commands, 3)
				})
			})
		}
	}
}

// awkwardIDs are client IDs that a shell would expand, split, or run. Whoever may write the config
// without a test can plant one.
var awkwardIDs = []string{
	"$(id)", "`id`", "a;id", "a&id", "a&&id", "a|id", "a>b", "a<b", "a'b", `a"b`, "'", "$HOME", "${HOME}", "#a", "~", `a\b`, `\`, "*", "a?b[c]", "{a,b}", "!!", "-force", "a=b", "(a)", "é", "%s", "<mount>",
}

// Defect 8: a client ID is pasted as it is, whatever it contains, and the command does what it
// says.
func TestClientIDsCanBePasted(t *testing.T) {
	for _, id := range awkwardIDs {
		t.Run(id, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				m.sandbox.CreateClient(id, testSecret)
				m.configure("client_id", id)
				m.sandbox.CreateClient(newClientID, newSecret)
				hear := func(text string) string {
					m.commandsOf(id, text)
					return text
				}
				hear(m.said(logical.ReadOperation, "status", nil))
				hear(m.said(logical.UpdateOperation, "rotate-root/check", nil))
				m.stage()
				hear(m.nextStep())
				m.promote()
				hear(m.nextStep())
				hear(m.said(logical.UpdateOperation, "rotate-root/complete", nil))
				hear(m.said(logical.UpdateOperation, "rotate-root/complete", pairs("force", true)))
				require.Len(t, m.unrevoked(), 1)

				next := hear(m.nextStep())
				commands := m.commandsOf(id, next)
				at := slices.IndexFunc(commands, func(c typed) bool { return c.String() == "write rotate-root/revoked" })
				require.GreaterOrEqual(t, at, 0, next)
				assert.Equal(t, id, commands[at].fields["client_id"])
				resp, err := m.enter(commands[at])
				require.NoError(t, err)
				require.False(t, resp.IsError(), "%v", resp)
				assert.Empty(t, m.unrevoked())
			})
		})
	}
}

// commandsOf is commands where an ID may look like a placeholder.
func (m *mount) commandsOf(id, text string) []typed {
	m.t.Helper()
	const standIn = "xIDx"
	if !placeholderPattern.MatchString(id) {
		return m.commands(text)
	}
	all := m.commands(strings.ReplaceAll(text, id, standIn))
	for _, c := range all {
		for name, value := range c.fields {
			c.fields[name] = strings.ReplaceAll(value, standIn, id)
		}
	}
	return all
}

// The vault CLI reads a value that begins with @ from a file; \@ is an @.
func TestClientIDThatTheCLIWouldReadFromAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure("client_id", "@/etc/passwd", "verify_connection", false)
		m.sandbox.CreateClient(newClientID, newSecret)
		m.stage()
		m.promote()
		m.write("rotate-root/complete", "force", true)
		commands := m.commands(m.nextStep())
		at := slices.IndexFunc(commands, func(c typed) bool { return c.String() == "write rotate-root/revoked" })
		require.GreaterOrEqual(t, at, 0)
		assert.Equal(t, `\@/etc/passwd`, commands[at].fields["client_id"])
	})
}
