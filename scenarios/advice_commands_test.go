// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// names are the commands in texts, without the mount's path and without fields.
func names(m *mounttest.Mount, texts ...string) []string {
	m.T.Helper()
	var names []string
	for _, c := range m.Commands(texts...) {
		names = append(names, c.String())
	}
	return names
}

// enter types a command whose placeholders are filled in.
func enter(m *mounttest.Mount, c mounttest.Typed, fill ...any) (*logical.Response, error) {
	m.T.Helper()
	data := map[string]any{}
	for name, value := range c.Fields {
		data[name] = value
	}
	for name, value := range mounttest.Pairs(fill...) {
		if _, ok := data[name]; ok {
			data[name] = value
		}
	}
	operation := map[string]logical.Operation{"read": logical.ReadOperation, "write": logical.UpdateOperation, "delete": logical.DeleteOperation}[c.Verb]
	return m.Handle(m.T.Context(), operation, c.Path, data)
}

// next is the next step. Status and the rotation agree on it.
func nextStep(m *mounttest.Mount) string {
	m.T.Helper()
	next, _ := m.Status()["next_step"].(string)
	require.Equal(m.T, next, m.Rotation()["next_step"], "one place knows")
	return next
}

// unrevoked is the list of clients that may still work, a line each.
func unrevoked(m *mounttest.Mount) []string {
	m.T.Helper()
	list, _ := m.Rotation()["unrevoked"].(string)
	if list == "" {
		return nil
	}
	return strings.Split(list, "\n")
}

func TestCommandsIn(t *testing.T) {
	assert.Equal(t, [][]string{
		{"vault", "write", "fuuffy/rotate-root", "client_id=client_id", "client_secret=-"},
		{"vault", "write", "-f", "--", "-a b/x", "y=it's $(not) run"},
	}, mounttest.CommandsIn(t, "Stage new ones: vault write fuuffy/rotate-root client_id=<client_id> client_secret=-\n"+
		`vault write -f -- '-a b/x' y='it'\''s $(not) run'`+"\nThe Vault server has no vault."))
}

// awkwardMounts are paths that Vault takes, and a shell or the vault CLI would misread. A path with
// a slash inside may begin with a namespace.
var awkwardMounts = []string{
	"fuuffy/", "my fuuffy/", "fu&uffy/", "fuuffy;x/", "-dash/", "--/", "$(id)/", "`id`/", "a'b/", `a"b/`, `a\b/`, "#fuuffy/", "~fuuffy/", "fuu*y/", "(f)/", "a|b/", "a>b/", "!f/", "fuuffy=x/", "føffy/",
	"team/fuuffy/", "team/my fuuffy/", "-team/fuuffy/", "a/b/c/",
}

// adviceStates are the states that give different advice.
var adviceStates = map[string]func(m *mounttest.Mount, between mounttest.Answers){
	"not configured": nil,
	"idle":           func(*mounttest.Mount, mounttest.Answers) {},
	"untested": func(m *mounttest.Mount, _ mounttest.Answers) {
		m.Write("config", "client_id", mounttest.ThirdID, "client_secret", mounttest.ThirdSecret, "verify_connection", false)
	},
	"due":      func(m *mounttest.Mount, _ mounttest.Answers) { time.Sleep(80 * 24 * time.Hour) },
	"staged":   func(m *mounttest.Mount, _ mounttest.Answers) { m.RotateTo(rotation.Staged) },
	"promoted": func(m *mounttest.Mount, _ mounttest.Answers) { m.RotateTo(rotation.Promoted) },
	"promoted long ago": func(m *mounttest.Mount, _ mounttest.Answers) {
		m.RotateTo(rotation.Promoted)
		time.Sleep(8 * 24 * time.Hour)
		m.Read()
	},
	"compromised": func(m *mounttest.Mount, _ mounttest.Answers) { m.RotateTo(mounttest.StateCompromised) },
	"rolled back": func(m *mounttest.Mount, _ mounttest.Answers) {
		m.RotateTo(rotation.Promoted)
		m.Write("rotate-root/rollback")
	},
	"forced": func(m *mounttest.Mount, _ mounttest.Answers) {
		m.RotateTo(rotation.Promoted)
		m.Write("rotate-root/complete", "force", true)
	},
	"rejected": func(m *mounttest.Mount, _ mounttest.Answers) {
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.LoseToken()
		refusedToken(m)
	},
	"fallback": func(m *mounttest.Mount, _ mounttest.Answers) {
		m.RotateTo(rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.LoseToken()
		m.Read()
	},
	"both revoked": func(m *mounttest.Mount, _ mounttest.Answers) {
		m.RotateTo(rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.LoseToken()
		refusedToken(m)
	},
	"unavailable": func(m *mounttest.Mount, _ mounttest.Answers) {
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.LoseToken()
		refusedToken(m)
	},
	"rate limited": func(m *mounttest.Mount, b mounttest.Answers) {
		b[mounttest.ClientID] = mounttest.ProvesNothing["429"]
		m.LoseToken()
		refusedToken(m)
	},
	"login page": func(m *mounttest.Mount, b mounttest.Answers) {
		b[mounttest.ClientID] = mounttest.ProvesNothing["200 without a token"]
		m.LoseToken()
		refusedToken(m)
	},
	"redirect": func(m *mounttest.Mount, b mounttest.Answers) {
		b[mounttest.ClientID] = mounttest.ProvesNothing["redirect to a login page"]
		m.LoseToken()
		refusedToken(m)
	},
	"redirect while staged": func(m *mounttest.Mount, b mounttest.Answers) {
		m.RotateTo(rotation.Staged)
		b[mounttest.ClientID] = mounttest.ProvesNothing["redirect to a login page"]
		m.LoseToken()
		refusedToken(m)
	},
	"redirect while promoted": func(m *mounttest.Mount, b mounttest.Answers) {
		m.RotateTo(rotation.Promoted)
		b[mounttest.NewClientID] = mounttest.ProvesNothing["redirect to a login page"]
		m.LoseToken()
		refusedToken(m)
	},
	"in its buffer": func(m *mounttest.Mount, _ mounttest.Answers) {
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		time.Sleep(57 * time.Minute)
		refusedToken(m)
	},
	"suspect": func(m *mounttest.Mount, _ mounttest.Answers) {
		time.Sleep(time.Minute)
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.Refused(logical.UpdateOperation, "token", nil)
	},
}

// everyRequest is what people send, in an order in which each finds something to say.
var everyRequest = []adviceRequest{
	{logical.ReadOperation, "status", nil},
	{logical.ReadOperation, "rotate-root", nil},
	{logical.ReadOperation, "config", nil},
	{logical.ReadOperation, "token", nil},
	{logical.UpdateOperation, "token", mounttest.Pairs("min_ttl", "20m")},
	{logical.UpdateOperation, "rotate-root/check", nil},
	{logical.UpdateOperation, "rotate-root/check", nil},
	{logical.UpdateOperation, "config", mounttest.Pairs("client_id", "typo", "client_secret", "wrong")},
	{logical.UpdateOperation, "config", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret)},
	{logical.UpdateOperation, "config", mounttest.Pairs("environment", "testing", "client_secret", mounttest.Secret)},
	{logical.UpdateOperation, "rotate-root", nil},
	{logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret)},
	{logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", mounttest.ThirdID, "client_secret", mounttest.ThirdSecret)},
	{logical.UpdateOperation, "rotate-root/rollback", nil},
	{logical.UpdateOperation, "rotate-root/complete", nil},
	{logical.UpdateOperation, "rotate-root/promote", nil},
	{logical.UpdateOperation, "rotate-root/complete", nil},
	{logical.DeleteOperation, "rotate-root", nil},
	{logical.UpdateOperation, "rotate-root", mounttest.NewPair()},
	{logical.UpdateOperation, "rotate-root/complete", mounttest.Pairs("force", true)},
	{logical.UpdateOperation, "rotate-root/revoked", nil},
	{logical.UpdateOperation, "rotate-root/complete", mounttest.Pairs("compromised_client_id", mounttest.ClientID)},
	{logical.DeleteOperation, "config", nil},
	{logical.ReadOperation, "status", nil},
}

// Defect 8: each command in each text can be pasted into a shell as it stands, on any mount: it
// is one command of this mount, at the end of its line.
func TestAdviceCanBePasted(t *testing.T) {
	t.Parallel()
	for name, prepare := range adviceStates {
		for _, path := range awkwardMounts {
			t.Run(name+" at "+path, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, between := mounttest.New(t), mounttest.Answers{}
					m.Path = path
					m.Between(between)
					m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
					m.Sandbox.CreateClient(mounttest.ThirdID, mounttest.ThirdSecret)
					if prepare != nil {
						m.Configure()
						m.Read()
						prepare(m, between)
					}
					require.NotEmpty(t, m.Said(logical.ReadOperation, "status", nil))
					commands := 0
					for _, r := range everyRequest {
						if prepare == nil && r.path == "config" && r.operation == logical.ReadOperation {
							continue // Vault answers 404 itself.
						}
						text := m.Said(r.operation, r.path, r.data)
						commands += len(m.Commands(text))
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
				m := mounttest.New(t)
				m.Sandbox.CreateClient(id, mounttest.Secret)
				m.Configure("client_id", id)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				hear := func(text string) string {
					commandsOf(m, id, text)
					return text
				}
				hear(m.Said(logical.ReadOperation, "status", nil))
				hear(m.Said(logical.UpdateOperation, "rotate-root/check", nil))
				m.Stage()
				hear(nextStep(m))
				m.Promote()
				hear(nextStep(m))
				hear(m.Said(logical.UpdateOperation, "rotate-root/complete", nil))
				hear(m.Said(logical.UpdateOperation, "rotate-root/complete", mounttest.Pairs("force", true)))
				require.Len(t, unrevoked(m), 1)

				next := hear(nextStep(m))
				commands := commandsOf(m, id, next)
				at := slices.IndexFunc(commands, func(c mounttest.Typed) bool { return c.String() == "write rotate-root/revoked" })
				require.GreaterOrEqual(t, at, 0, next)
				assert.Equal(t, id, commands[at].Fields["client_id"])
				resp, err := enter(m, commands[at])
				require.NoError(t, err)
				require.False(t, resp.IsError(), "%v", resp)
				assert.Empty(t, unrevoked(m))
			})
		})
	}
}

// commandsOf is commands where an ID may look like a placeholder.
func commandsOf(m *mounttest.Mount, id, text string) []mounttest.Typed {
	m.T.Helper()
	const standIn = "xIDx"
	if !mounttest.PlaceholderPattern.MatchString(id) {
		return m.Commands(text)
	}
	all := m.Commands(strings.ReplaceAll(text, id, standIn))
	for _, c := range all {
		for name, value := range c.Fields {
			c.Fields[name] = strings.ReplaceAll(value, standIn, id)
		}
	}
	return all
}

// The vault CLI reads a value that begins with @ from a file; \@ is an @.
func TestClientIDThatTheCLIWouldReadFromAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure("client_id", "@/etc/passwd", "verify_connection", false)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Stage()
		m.Promote()
		m.Write("rotate-root/complete", "force", true)
		commands := m.Commands(nextStep(m))
		at := slices.IndexFunc(commands, func(c mounttest.Typed) bool { return c.String() == "write rotate-root/revoked" })
		require.GreaterOrEqual(t, at, 0)
		assert.Equal(t, `\@/etc/passwd`, commands[at].Fields["client_id"])
	})
}
