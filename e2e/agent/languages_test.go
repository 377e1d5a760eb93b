// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// exampleProgram is one of examples/app: the same app in another language.
type exampleProgram struct {
	language string
	// needs is the program that must be there to run it.
	needs string
	// every is a tenth of a second as its flag -every takes it, empty if it has none.
	every   string
	command []string
}

// exampleProgramsIn are the apps, with their interpreters.
func exampleProgramsIn(folder string) []exampleProgram {
	return []exampleProgram{
		{"go", exampleApp, "100ms", []string{exampleApp}},
		{"shell", "curl", "", []string{filepath.Join(folder, "orders.sh")}},
		{"typescript", "node", "0.1", []string{"node", filepath.Join(folder, "orders.mjs")}},
		{"python", "python3", "0.1", []string{"python3", filepath.Join(folder, "orders.py")}},
		{"php", "php", "0.1", []string{"php", filepath.Join(folder, "orders.php")}},
	}
}

// installedApps are those that can run on this machine. It names the others.
func installedApps(t *testing.T) []exampleProgram {
	t.Helper()
	folder, err := filepath.Abs("../../examples/app")
	require.NoError(t, err)
	var installed []exampleProgram
	var languages, missing []string
	for _, app := range exampleProgramsIn(folder) {
		if _, err := exec.LookPath(app.needs); err != nil {
			missing = append(missing, app.language+" (no "+app.needs+")")
			continue
		}
		installed, languages = append(installed, app), append(languages, app.language)
	}
	t.Logf("examples/app is run in %s; not run here: %s", strings.Join(languages, ", "), strings.Join(append(missing, "none")[:max(1, len(missing))], ", "))
	return installed
}

// commandOf prepares one of the apps.
func (a *appHost) commandOf(app exampleProgram) *exec.Cmd {
	c := a.command(app.command[0])
	c.Args = append(c.Args, app.command[1:]...)
	return c
}

// newFileHost is a host whose token file a test writes, without a Vault or an Agent.
func newFileHost(t *testing.T) *appHost {
	t.Helper()
	dir := t.TempDir()
	server := fuuffytest.NewServer(t, fuuffytest.Config{PerMinute: -1, PerHour: -1})
	server.CreateClient("shop", secret)
	a := &appHost{host: &host{mount: &mount{Server: server, t: t, path: "fuuffy"}, etc: dir, run: dir}}
	a.trust(server)
	a.token = a.newToken()
	a.writeToken(a.token)
	return a
}

// trust has the app trust the CA of a sandbox.
func (a *appHost) trust(server *fuuffytest.Server) {
	a.t.Helper()
	require.NoError(a.t, os.WriteFile(filepath.Join(a.etc, "ca.pem"), []byte(server.CACert()), 0o600))
}

// newToken has the sandbox issue a token.
func (a *appHost) newToken() string {
	a.t.Helper()
	client := &http.Client{Transport: a.RoundTripper()}
	response, err := client.PostForm(a.BaseURL()+"/auth/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"shop"}, "client_secret": {secret},
	})
	require.NoError(a.t, err)
	defer response.Body.Close()
	var granted struct {
		Data struct {
			AccessToken string `json:"access_token"`
		} `json:"data"`
	}
	require.NoError(a.t, json.NewDecoder(response.Body).Decode(&granted))
	return granted.Data.AccessToken
}

// writeToken replaces the file in one step, as an Agent does.
func (a *appHost) writeToken(token string) {
	a.t.Helper()
	next := filepath.Join(a.run, "token.next")
	require.NoError(a.t, os.WriteFile(next, []byte(token), 0o600))
	require.NoError(a.t, os.Rename(next, filepath.Join(a.run, "token")))
}

// An app follows its file: it keeps no token that the Agent has replaced.
func TestAppFollowsTheFile(t *testing.T) {
	t.Parallel()
	for _, app := range installedApps(t) {
		if app.every == "" {
			continue // It ends after one request.
		}
		t.Run(app.language, func(t *testing.T) {
			t.Parallel()
			a := newFileHost(t)
			complaints := a.runOften(app)
			require.NoError(t, awaitOrders(t, a.Server, 3))
			a.writeToken(a.newToken())
			// What was read before the file changed has been answered by then.
			require.NoError(t, awaitOrders(t, a.Server, a.Stats().OrderRequests+3))
			require.True(t, a.RevokeToken(a.token))
			require.NoError(t, awaitOrders(t, a.Server, a.Stats().OrderRequests+5))
			assert.Empty(t, complaints())
			assert.Zero(t, a.Stats().OrderRejections)
		})
	}
}

// An app sends its token to no one but Fuuffy, and shows it to no one: not if the
// server is another, if its file is damaged, nor if it has no Agent to report to.
func TestAppKeepsItsToken(t *testing.T) {
	t.Parallel()
	for _, app := range installedApps(t) {
		t.Run(app.language, func(t *testing.T) {
			t.Parallel()
			for name, tt := range map[string]struct {
				prepare func(*appHost)
				orders  int
			}{
				"unknown CA": {func(a *appHost) {
					a.trust(fuuffytest.NewServer(t, fuuffytest.Config{}))
				}, 0},
				"certificate for another host": {func(a *appHost) {
					a.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultWrongHostCertificate})
				}, 0},
				"damaged file": {func(a *appHost) { a.writeToken(a.token + "\r\nX-More: " + a.token) }, 0},
				"quoted token": {func(a *appHost) { a.writeToken(`"` + a.token + `"`) }, 0},
				"empty file":   {func(a *appHost) { a.writeToken("\n") }, 0},
				"no Agent":     {func(a *appHost) { require.True(t, a.RevokeToken(a.token)) }, 1},
			} {
				t.Run(name, func(t *testing.T) {
					a := newFileHost(t)
					tt.prepare(a)
					output, err := a.commandOf(app).CombinedOutput()
					require.Error(t, err, "%s", output)
					assert.NotContains(t, string(output), a.token)
					assert.NotContains(t, string(output), "FF-100231")
					assert.NotEmpty(t, output)
					assert.Equal(t, tt.orders, a.Stats().OrderRequests)
				})
			}
		})
	}
}

// TestTypeScript has the compiler check what Node runs without it.
func TestTypeScript(t *testing.T) {
	t.Parallel()
	tsc, err := exec.LookPath("tsc")
	if err != nil {
		t.Log("The types of orders.mjs are not checked here: there is no tsc.")
		return
	}
	tsc, err = filepath.EvalSymlinks(tsc)
	require.NoError(t, err)
	// @types/node lies where typescript does.
	types := filepath.Join(filepath.Dir(tsc), "..", "..", "@types")
	output, err := exec.Command("tsc", "--noEmit", "--checkJs", "--strict", "--target", "es2022", "--module", "nodenext",
		"--types", "node", "--typeRoots", types, "../../examples/app/orders.mjs").CombinedOutput()
	require.NoError(t, err, "%s", output)
	t.Log("The types of orders.mjs are checked.")
}
