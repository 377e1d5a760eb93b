// SPDX-License-Identifier: MPL-2.0

// Package docs types the commands of documents in a real Vault.
package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// root is the repository.
const root = "../.."

// programsToTest takes the programs from the environment, which it clears.
var programsToTest = sync.OnceValues(stack.ProgramsToTest)

// operator types commands in a Vault whose Fuuffy is the sandbox.
type operator struct {
	*fuuffytest.Server
	t     *testing.T
	vault *stack.Vault
	dir   string
}

// mounted enables the engine anew, with shop-1 as its client.
func (o *operator) mounted(path string) {
	o.t.Helper()
	require.NoError(o.t, o.vault.Client.Sys().UnmountWithContext(o.t.Context(), path))
	require.NoError(o.t, o.vault.Client.Sys().MountWithContext(o.t.Context(), path, &api.MountInput{Type: stack.Engine}))
	for _, client := range []string{"shop-1", "shop-2", "shop-3"} {
		o.CreateClient(client, "secret")
	}
	o.types("vault write " + path + "/config client_id=shop-1 client_secret=- ca_cert=@ca.pem base_url=" + o.BaseURL())
}

// shell types a command, with a secret on its standard input.
func (o *operator) shell(line string) (string, error) {
	return o.vault.Shell(o.t.Context(), o.dir, line, "secret")
}

func (o *operator) types(line string) string {
	o.t.Helper()
	output, err := o.shell(line)
	require.NoError(o.t, err)
	return output
}

// TestRotationPage types every command of docs/rotation.md, section by section, in the state
// that the section is about.
func TestRotationPage(t *testing.T) {
	programs, err := programsToTest()
	require.NoError(t, err)
	s, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	vault, err := s.StartVault(t.Context(), programs.Vault, filepath.Dir(programs.Plugin))
	require.NoError(t, err)
	require.NoError(t, vault.RegisterPlugin(t.Context(), programs.Plugin, programs.PluginVersion))
	o := &operator{Server: fuuffytest.NewServer(t, fuuffytest.Config{PerMinute: -1}), t: t, vault: vault, dir: t.TempDir()}
	require.NoError(t, os.WriteFile(filepath.Join(o.dir, "ca.pem"), []byte(o.CACert()), 0o600))
	require.NoError(t, vault.Client.Sys().EnableAuditWithOptionsWithContext(t.Context(), "file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": filepath.Join(o.dir, "audit.log")},
	}))
	page, err := os.ReadFile(filepath.Join(root, "docs", "rotation.md"))
	require.NoError(t, err)

	promoted := func() {
		o.types("vault write fuuffy/rotate-root client_id=shop-2 client_secret=-")
		o.types("vault write -f fuuffy/rotate-root/promote")
	}
	leaked := func() {
		o.types("vault write fuuffy/rotate-root client_id=shop-2 client_secret=- compromised=true")
	}
	const complete = "vault write -f fuuffy/rotate-root/complete"
	sections := map[string]struct {
		// begin leads to the state that the section is about.
		begin func()
		// before is what happens outside Vault before a command.
		before map[string]func()
		// commands and the end of the rotation, for one that names no clients.
		commands           int
		client, end, shows string
	}{
		"The routine": {
			before:   map[string]func(){complete: func() { o.RevokeClient("shop-1") }},
			commands: 4, client: "shop-2", end: "idle", shows: "completed shop-2 (revoked: shop-1)",
		},
		"Roll back": {begin: promoted, commands: 1, client: "shop-1", end: "idle", shows: "shop-2 (rolled back)"},
		"`complete` says that Fuuffy still accepts the old client": {
			begin: func() {
				promoted()
				output, err := o.shell(complete)
				require.Error(t, err)
				require.Contains(t, output, "Fuuffy still accepts client shop-1")
			},
			commands: 1, client: "shop-2", end: "idle", shows: "shop-1 (forced)",
		},
		"Emergency: the credentials are compromised": {
			before:   map[string]func(){complete: func() { o.RevokeClient("shop-1") }},
			commands: 2, client: "shop-2", end: "idle", shows: "replaced shop-1, which is compromised",
		},
		"A second emergency before the first is over": {
			begin:    leaked,
			before:   map[string]func(){complete: func() { o.RevokeClient("shop-1"); o.RevokeClient("shop-2") }},
			commands: 3, client: "shop-3", end: "idle", shows: "marked revoked shop-1",
		},
		"Both clients are revoked": {
			begin:    func() { promoted(); o.RevokeClient("shop-1"); o.RevokeClient("shop-2") },
			commands: 2, client: "shop-3", end: "promoted", shows: "completed shop-2 (revoked: shop-1)",
		},
		"Which credentials work?": {begin: promoted, commands: 1, client: "shop-2", end: "promoted"},
		"Clients that may still work": {
			begin:    func() { promoted(); o.types("vault write fuuffy/rotate-root/complete force=true") },
			commands: 1, client: "shop-2", end: "idle", shows: "marked revoked shop-1",
		},
		"Several environments": {begin: func() { o.mounted("fuuffy-testing") }, commands: 2, client: "shop-1", end: "idle"},
	}
	tested := 0
	for _, part := range regexp.MustCompile(`(?ms)^###? (.*?)\n(.*?)(?:^##|\z)`).FindAllStringSubmatch(strings.ReplaceAll(string(page), "\n##", "\n##\n##"), -1) {
		commands := regexp.MustCompile(`(?m)^(?:    )+(vault .*)$`).FindAllStringSubmatch(part[2], -1)
		section, known := sections[part[1]]
		if !known {
			require.Empty(t, commands, "no test types the commands of %q", part[1])
			continue
		}
		tested++
		o.mounted("fuuffy")
		if section.begin != nil {
			section.begin()
		}
		for _, command := range commands {
			if happens := section.before[command[1]]; happens != nil {
				happens()
			}
			o.types(command[1])
		}
		require.Len(t, commands, section.commands, part[1])
		state := o.types("vault read fuuffy/rotate-root")
		assert.Regexp(t, `(?m)^state +`+section.end+`$`, state, part[1])
		assert.Regexp(t, `(?m)^client_id +`+section.client+`$`, state, part[1])
		assert.Contains(t, state, section.shows, part[1])
	}
	require.Len(t, sections, tested, "sections that are not on the page")

	t.Run("audit log", func(t *testing.T) { testAuditedSteps(t, o, string(page)) })
}

// testAuditedSteps runs the command that lists the steps: it leaves out reads, checks, and
// steps that the engine refused.
func testAuditedSteps(t *testing.T, o *operator, page string) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Log("What needs jq is not run: it is not on this machine.")
		return
	}
	_, command, found := strings.Cut(page, "\n    jq -r ")
	require.True(t, found)
	o.mounted("fuuffy")
	require.NoError(t, os.Truncate(filepath.Join(o.dir, "audit.log"), 0))
	refuse := func(line string) {
		t.Helper()
		output, err := o.shell(line)
		require.Error(t, err, output)
	}

	refuse("vault write -f fuuffy/rotate-root/promote")
	o.types("vault write fuuffy/rotate-root client_id=shop-2 client_secret=-")
	o.types("vault read fuuffy/rotate-root")
	o.types("vault write -f fuuffy/rotate-root/check")
	o.types("vault write -f fuuffy/rotate-root/promote")
	o.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 503})
	refuse("vault write -f fuuffy/rotate-root/complete")
	o.ClearFault()
	o.types("vault write -f fuuffy/rotate-root/rollback")

	var steps []string
	for line := range strings.Lines(o.types("jq -r " + command)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		require.Len(t, fields, 4, line)
		steps = append(steps, fmt.Sprint(fields[1], " ", fields[3]))
	}
	assert.Equal(t, []string{"root fuuffy/rotate-root", "root fuuffy/rotate-root/promote", "root fuuffy/rotate-root/rollback"}, steps)
}
