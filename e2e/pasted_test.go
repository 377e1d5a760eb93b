// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// awkward are mount paths and client IDs that a shell, or the vault program, would take for
// something else. Vault accepts all these paths.
var awkward = []struct{ path, clientID string }{
	{"my fuuffy", "my&shop"},
	{"fu&uffy", "shop;touch${IFS}pasted"},
	{"-dash", "-dash"},
	{"team/fuuffy", "team/shop"},
	{"-team/my fuuffy", "@shop"},
	{"$(touch pasted)", "$(touch${IFS}pasted)"},
	{"fu`touch pasted`", "`touch${IFS}pasted`"},
	{"fuuffy;touch pasted", "it's"},
	{"don't", `shop"$HOME`},
	{"fuuffy>pasted", "shop>pasted"},
	{"~", "*"},
	{"#fuuffy", "#shop"},
	{"-h", "-h"},
}

// TestPastedCommands pastes each command that the engine prints, in the order of a rotation,
// as it is.
func TestPastedCommands(t *testing.T) {
	t.Parallel()
	for i, names := range awkward {
		t.Run(names.path, func(t *testing.T) {
			m := newMountAt(t, shared, names.path, fuuffytest.Config{PerMinute: -1})
			m.CreateClient(names.clientID, newSecret)
			p := newPaster(m, names.clientID)
			if strings.Contains(m.path, "/") {
				// The first part of the path may be a namespace.
				p.environments = append(p.environments, []string{"VAULT_NAMESPACE=" + m.path[:strings.Index(m.path, "/")]})
			}
			p.rotate()
			t.Logf("%d: %d commands, such as %s", i, len(p.pasted), p.pasted[len(p.pasted)-1])
		})
	}
}

// TestPastedInNamespace does the same in a namespace, where the mount's path that the engine
// sees contains the namespace.
func TestPastedInNamespace(t *testing.T) {
	_, err := shared.Client.Logical().WriteWithContext(t.Context(), "sys/namespaces/team", nil)
	if stack.Lacks(t, "namespaces", err, "enterprise-only feature", "unsupported path") {
		return
	}
	deleteInTheEnd(t, shared.Client, "team")
	inside := shared.Client.WithNamespace("team")
	_, err = inside.Logical().WriteWithContext(t.Context(), "sys/namespaces/eu", nil)
	require.NoError(t, err)
	deleteInTheEnd(t, inside, "eu")

	for _, namespace := range []string{"team", "team/eu"} {
		t.Run(namespace, func(t *testing.T) {
			v := *shared
			v.Client = shared.Client.WithNamespace(namespace)
			m := newMountAt(t, &v, "my fuuffy", fuuffytest.Config{PerMinute: -1})
			m.CreateClient(newClientID, newSecret)
			p := newPaster(m, newClientID)
			p.environments = append(p.environments,
				[]string{"VAULT_NAMESPACE=" + namespace},
				[]string{"BAO_NAMESPACE=" + namespace},
				[]string{"VAULT_NAMESPACE=" + namespace, "VAULT_TOKEN=", "HOME=" + logIn(t, v.Client)},
			)
			p.rotate()
		})
	}
}

// deleteInTheEnd deletes a namespace when the test ends, and waits until it is gone: others
// mount at the same path.
func deleteInTheEnd(t *testing.T, client *api.Client, name string) {
	t.Cleanup(func() {
		path := "sys/namespaces/" + name
		_, err := client.Logical().Delete(path)
		assert.NoError(t, err)
		assert.NoError(t, stack.Eventually(context.Background(), name+" to be deleted", func() error {
			namespace, err := client.Logical().Read(path)
			if err == nil && namespace != nil {
				err = errors.New("still there")
			}
			return err
		}))
	})
}

// logIn returns the home of a person with a token of the client's namespace, which has no rights
// elsewhere.
func logIn(t *testing.T, client *api.Client) (home string) {
	t.Helper()
	policy, err := os.ReadFile(filepath.Join("..", "examples", "policies", "operator.hcl"))
	require.NoError(t, err)
	mounted := strings.ReplaceAll(string(policy), `"fuuffy/`, `"my fuuffy/`)
	require.NoError(t, client.Sys().PutPolicyWithContext(t.Context(), "operator", mounted))
	token, err := client.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"operator"}})
	require.NoError(t, err)
	home = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(home, ".vault-token"), []byte(token.Auth.ClientToken), 0o600))
	return home
}

// paster pastes commands into a shell.
type paster struct {
	*mount
	// clientID is the client of the second pair.
	clientID string
	// environments are those in which each command is pasted.
	environments [][]string
	dir          string
	pasted       []string
}

func newPaster(m *mount, clientID string) *paster {
	p := &paster{mount: m, clientID: clientID, environments: [][]string{nil}, dir: m.t.TempDir()}
	require.NoError(m.t, os.WriteFile(filepath.Join(p.dir, "ca.pem"), []byte(m.CACert()), 0o600))
	return p
}

// rotate takes every step of a rotation with the commands that the engine prints.
func (p *paster) rotate() {
	t := p.t
	p.paste(p.advice("status", "<client_id>")+" base_url="+p.BaseURL()+" ca_cert=@ca.pem", clientID, p.secret)
	require.Equal(t, clientID, p.readConfig().Data["client_id"])

	_, err := p.write("rotate-root", nil)
	require.ErrorContains(t, err, "take turns")
	p.paste(p.find(err.Error(), "<client_id>"), p.clientID, newSecret)
	require.Equal(t, "staged", p.rotation()["state"])
	p.paste(p.advice("rotate-root", "vault delete"), "", "")
	require.Equal(t, "idle", p.rotation()["state"])

	for range 2 {
		p.reload()
		p.step("rotate-root", map[string]any{"client_id": p.clientID, "client_secret": newSecret}, "staged")
		p.paste(p.advice("rotate-root", "promote"), "", "")
		require.Equal(t, "promoted", p.rotation()["state"])
		p.paste(p.advice("rotate-root", "rollback"), "", "")
		require.Equal(t, "idle", p.rotation()["state"])
	}
	require.Contains(t, p.rotation()["unrevoked"], p.clientID)
	p.paste(p.advice("rotate-root", "revoked"), "", "")
	require.NotContains(t, p.rotation(), "unrevoked")

	p.reload()
	p.step("rotate-root", map[string]any{"client_id": p.clientID, "client_secret": newSecret, "compromised": true}, "promoted")
	p.RevokeClient(clientID)
	p.paste(p.advice("rotate-root", "complete"), "", "")
	require.Equal(t, "idle", p.rotation()["state"])

	_, err = p.write("config", map[string]any{"client_id": p.clientID, "client_secret": newSecret, "verify_connection": false})
	require.NoError(t, err)
	require.Equal(t, p.clientID, p.rotation()["client_id"])

	p.RevokeClient(p.clientID)
	_, err = p.client.Logical().DeleteWithContext(t.Context(), p.path+"/token")
	require.NoError(t, err)
	_, err = p.client.Logical().ReadWithContext(t.Context(), p.path+"/token")
	require.ErrorContains(t, err, "Fuuffy rejected client")
	p.CreateClient(clientID, p.secret)
	p.reload()
	p.paste(p.find(err.Error(), "<client_id>"), clientID, p.secret)
	require.Equal(t, "idle", p.rotation()["state"])

	// The engine allows one check in ten seconds, so this is the only one.
	p.environments = p.environments[len(p.environments)-1:]
	output := p.paste(p.find(p.pathHelp("rotate-root/check"), "check"), "", "")
	require.Contains(t, output, "works")
	p.paste(p.find(output, "rejected_token=-"), "", p.token())

	_, err = os.Stat(filepath.Join(p.dir, "pasted"))
	require.ErrorIs(t, err, os.ErrNotExist, "the shell ran a part of a name")
}

// advice is the command of next_step that contains a text.
func (p *paster) advice(path, contains string) string {
	p.t.Helper()
	answer, err := p.client.Logical().ReadWithContext(p.t.Context(), p.path+"/"+path)
	require.NoError(p.t, err)
	require.NotNil(p.t, answer)
	return p.find(answer.Data["next_step"].(string), contains)
}

var commandAtEnd = regexp.MustCompile(`(?m)\bvault (?:read|write|delete) .*$`)

// find returns the command at the end of a line that contains a text.
func (p *paster) find(text, contains string) string {
	p.t.Helper()
	for _, command := range commandAtEnd.FindAllString(text, -1) {
		if strings.Contains(command, contains) {
			return command
		}
	}
	require.Fail(p.t, "no such command", "%q in:\n%s", contains, text)
	return ""
}

func (p *paster) pathHelp(path string) string {
	p.t.Helper()
	help, err := p.client.HelpWithContext(p.t.Context(), p.path+"/"+path)
	require.NoError(p.t, err)
	return help.Help
}

// paste types a command in each environment, with an ID for its placeholder, and gives it a
// secret. It returns the last output.
func (p *paster) paste(line, id, secret string) (output string) {
	p.t.Helper()
	if strings.HasPrefix(id, "@") {
		id = `\` + id // Otherwise the vault program reads a file.
	}
	line = strings.ReplaceAll(line, "<client_id>", "'"+strings.ReplaceAll(id, "'", `'\''`)+"'")
	for _, environment := range p.environments {
		printed, err := shared.Shell(p.t.Context(), p.dir, line, secret, environment...)
		require.NoError(p.t, err, environment)
		p.pasted, output = append(p.pasted, line), printed
	}
	return output
}

// Each help text names the mount in its commands, whatever its path.
func TestPathHelpElsewhere(t *testing.T) {
	for path, shown := range map[string]string{"elsewhere": "elsewhere/", "my fuuffy": "'my fuuffy/", "team/fuuffy": "team/fuuffy/", "-dash": "-- -dash/"} {
		newMountAt(t, shared, path, fuuffytest.Config{})
		for _, page := range []string{
			"config", "token", "rotate-root", "rotate-root/promote", "rotate-root/rollback", "rotate-root/complete", "rotate-root/check", "rotate-root/revoked", "status", "metrics",
		} {
			help := command(t, shared, "path-help", "--", path+"/"+page)
			commands := strings.Count(help, "vault read") + strings.Count(help, "vault write") + strings.Count(help, "vault delete")
			require.Positive(t, commands, page)
			named := regexp.MustCompile(`vault (?:read|write|delete)(?: -[a-z]\S*)* `+regexp.QuoteMeta(shown)).FindAllString(help, -1)
			assert.Len(t, named, commands, "%s: %s\n%s", path, page, help)
			assert.NotContains(t, help, "<mount>", page)
		}
	}
}
