// SPDX-License-Identifier: MPL-2.0

package install

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// shops are the twenty of docs/merchants.md. The first two are in examples/setup/shops.
var shops = []string{
	"north", "south", "east", "west", "airport", "beach", "castle", "docks", "foundry", "garden",
	"harbor", "island", "lake", "market", "old-town", "park", "ridge", "station", "tower", "valley",
}

func secretOf(shop string) string { return "secret-of-" + shop }

// merchants is a Vault for twenty shops, whose Fuuffy knows their clients.
type merchants struct {
	*site
	// apply is the command of the page that applies what is declared, without secrets, and
	// applySouth the same for one shop, which may be quicker.
	apply, applySouth string
}

// newMerchants types what the page says to do before either way. From then on, commands are typed
// with the installer's token.
func newMerchants(t *testing.T) *merchants {
	t.Helper()
	m := &merchants{site: newSite(t, "raw_storage_endpoint = true")}
	m.checkOut()
	m.install(programs.Plugin, pluginName+"-"+programs.PluginVersion)
	for _, shop := range shops {
		m.CreateClient(shop+"-1", secretOf(shop))
	}
	m.types(guide(t)["Before you begin: the installer's policy"]...)
	m.token = m.tokenFor("shops-installer")
	return m
}

// tokenFor returns a token of Vault with a policy.
func (m *merchants) tokenFor(policy string) string {
	m.t.Helper()
	created, err := m.vault.Client.Auth().Token().CreateWithContext(m.t.Context(), &api.TokenCreateRequest{Policies: []string{policy}})
	require.NoError(m.t, err)
	return created.Auth.ClientToken
}

// tries types commands of the page. Only what someone would type otherwise is replaced.
func (m *merchants) tries(commands ...string) (string, error) {
	m.t.Helper()
	script := strings.NewReplacer(
		"terraform apply", programs.Terraform+" apply -auto-approve -no-color",
		"terraform init", programs.Terraform+" init -no-color",
	).Replace(strings.Join(commands, ""))
	output, err := m.command("sh", "-euc", script).CombinedOutput()
	for _, shop := range shops {
		assert.False(m.t, strings.Contains(string(output), secretOf(shop)), "the secret of %s was printed", shop)
	}
	return string(output), err
}

func (m *merchants) types(commands ...string) string {
	m.t.Helper()
	output, err := m.tries(commands...)
	require.NoError(m.t, err, output)
	return output
}

// as types commands with another token of Vault.
func (m *merchants) as(token string, commands ...string) string {
	m.t.Helper()
	defer func(before string) { m.token = before }(m.token)
	m.token = token
	return m.types(commands...)
}

// TestMerchantsWithScript and TestMerchantsWithTerraform type docs/merchants.md for twenty shops:
// they set them up, apply the same again, rotate one, and read all.
func TestMerchantsWithScript(t *testing.T) {
	t.Parallel()
	m := newMerchants(t)
	commands := guide(t)["Set up with the script"]
	require.Len(t, commands, 3)
	m.types(commands[0])
	folder := filepath.Join(m.dir, "shops")
	north, err := os.ReadFile(filepath.Join(folder, "north.env"))
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(m.dir, "secrets"), 0o700))
	for _, shop := range shops {
		require.NoError(t, os.WriteFile(filepath.Join(folder, shop+".env"), []byte(strings.ReplaceAll(string(north), "north", shop)), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(m.dir, "secrets", shop), []byte(secretOf(shop)+"\n"), 0o600))
	}
	common := filepath.Join(folder, "common.env")
	text, err := os.ReadFile(common)
	require.NoError(t, err)
	declared := &setup{site: m.site, settings: string(text)}
	declared.registers(programs.Plugin, programs.PluginVersion, pluginName+"-"+programs.PluginVersion)
	declared.set("\nbase_url=", "\nbase_url="+m.BaseURL())
	declared.set("\nca_cert_file=", "\nca_cert_file=ca.pem")
	require.NoError(t, os.WriteFile(common, []byte(declared.settings), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, "ca.pem"), []byte(m.CACert()), 0o600))

	output := m.types(commands[1])
	assert.Equal(t, len(shops), strings.Count(output, "; health: ok; "), output)
	require.NoError(t, os.RemoveAll(filepath.Join(m.dir, "secrets")))
	m.apply = commands[2]
	m.applySouth = strings.TrimSpace(m.apply) + "/south.env"
	m.holds(func(output string) {
		assert.Equal(t, len(shops), strings.Count(output, "; changes: 0\n"), output)
	}, "shops/south/ has the credentials of client south-2, not of south-1", func() {
		replaceIn(t, filepath.Join(folder, "south.env"), "south-1", "south-2")
	})

	t.Log("Remove one, and add it again.")
	m.as(m.vault.Client.Token(), guide(t)["Remove a shop"]...)
	assert.NotContains(t, m.mounts(), "shops/west/")
	require.NoError(t, os.MkdirAll(filepath.Join(m.dir, "secrets"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, "secrets", "west"), []byte(secretOf("west")), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "west.env"), []byte(strings.ReplaceAll(string(north), "north", "west")), 0o600))
	assert.Contains(t, m.types(guide(t)["Add a shop"]...), "enabled shops/west/")
	assert.Len(t, m.tokens(), len(shops))

	t.Log("Rename one.")
	token, requests := m.tokens()["east"], m.requests()
	m.as(m.vault.Client.Token(), guide(t)["Rename a shop"]...)
	m.renamed(token, requests)

	t.Log("Upgrade one.")
	m.install(newPlugin, pluginName+"-new")
	declared.registers(newPlugin, newVersion, pluginName+"-new")
	require.NoError(t, os.WriteFile(common, []byte(declared.settings), 0o600))
	m.types(guide(t)["Upgrade all shops"][0])
	assert.Equal(t, newVersion, m.version("south"))
	assert.Equal(t, programs.PluginVersion, m.version("north"))
}

func TestMerchantsWithTerraform(t *testing.T) {
	t.Parallel()
	if programs.Terraform == "" {
		t.Log("TERRAFORM_BIN isn't set, so this test runs nothing")
		return
	}
	m := newMerchants(t)
	commands := guide(t)["Set up with Terraform"]
	require.Len(t, commands, 2)
	folder := filepath.Join(m.dir, "examples", "terraform", "shops")
	secretsFile := filepath.Join(folder, "secrets.tfvars.json")
	clients, secrets := map[string]any{}, map[string]string{}
	for _, shop := range shops {
		clients[shop] = map[string]string{"client_id": shop + "-1"}
		secrets[shop] = secretOf(shop)
	}
	sum, err := stack.SHA256(programs.Plugin)
	require.NoError(t, err)
	declared := map[string]any{
		"shops": clients, "sha256": sum, "plugin_version": programs.PluginVersion,
		"settings": map[string]string{"base_url": m.BaseURL(), "ca_cert": m.CACert()},
	}
	declare := func() { writeJSON(t, filepath.Join(folder, "terraform.tfvars.json"), declared) }
	declare()
	writeJSON(t, secretsFile, map[string]any{"client_secrets": secrets})

	m.types(commands[0])
	require.NoError(t, os.Remove(secretsFile))
	m.apply, m.applySouth = commands[1], commands[1]
	m.holds(func(output string) {
		assert.Contains(t, output, "Resources: 0 added, 0 changed, 0 destroyed.")
	}, "client_id can't change without its client_secret", func() {
		clients["south"] = map[string]string{"client_id": "south-2"}
		declare()
	})

	t.Log("Remove one, and add it again.")
	west := clients["west"]
	delete(clients, "west")
	declare()
	m.as(m.vault.Client.Token(), m.apply) // It deletes, which the installer must not.
	assert.NotContains(t, m.mounts(), "shops/west/")
	clients["west"] = west
	declare()
	writeJSON(t, secretsFile, map[string]any{"client_secrets": map[string]string{"west": secretOf("west")}})
	m.types(commands[0])
	assert.Len(t, m.tokens(), len(shops))

	t.Log("Upgrade all.")
	m.install(newPlugin, pluginName+"-"+newVersion)
	declared["plugin_version"] = newVersion
	declared["sha256"], err = stack.SHA256(newPlugin)
	require.NoError(t, err)
	declare()
	m.as(m.vault.Client.Token(), m.apply) // It deletes the old version from the catalog.
	m.types(guide(t)["Upgrade all shops"][1])
	for _, shop := range shops {
		assert.Equal(t, newVersion, m.version(shop), shop)
	}

	states, err := filepath.Glob(filepath.Join(folder, "terraform.tfstate*"))
	require.NoError(t, err)
	require.NotEmpty(t, states)
	for _, file := range states {
		state, err := os.ReadFile(file)
		require.NoError(t, err)
		require.True(t, strings.Contains(string(state), "shops/south"), "%s is a state", filepath.Base(file))
		for _, kept := range append(slices.Collect(maps.Values(m.tokens())), slices.Collect(maps.Values(secrets))...) {
			assert.False(t, strings.Contains(string(state), kept), "a secret or a token is in %s", filepath.Base(file))
		}
	}

	t.Log("Rename one.")
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "merchants.md"))
	require.NoError(t, err)
	moved := regexp.MustCompile("(?s)```hcl\n(moved .*?)```").FindSubmatch(page)
	require.NotNil(t, moved)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "moved.tf"), moved[1], 0o600))
	token, requests := m.tokens()["east"], m.requests()
	clients["orient"] = clients["east"]
	delete(clients, "east")
	declare()
	m.as(m.vault.Client.Token(), m.apply)
	m.renamed(token, requests)
}

// renamed asserts that the shop east is now orient, and that nothing else happened to it.
func (m *merchants) renamed(token string, requests int) {
	m.t.Helper()
	assert.NotContains(m.t, m.mounts(), "shops/east/")
	answer, err := m.vault.Client.Logical().ReadWithContext(m.t.Context(), "shops/orient/token")
	require.NoError(m.t, err)
	assert.Equal(m.t, token, answer.Data["access_token"])
	assert.Equal(m.t, requests, m.requests(), "token requests")
	policy, err := m.vault.Client.Sys().GetPolicyWithContext(m.t.Context(), "shops-orient-app")
	require.NoError(m.t, err)
	assert.Contains(m.t, policy, `"shops/orient/token"`)
}

// holds is what twenty shops that were just set up have in common, whichever way. same holds what
// applying the same again prints, undone what applying prints that would undo a rotation, and
// rotated declares the new client of south.
func (m *merchants) holds(same func(output string), undone string, rotated func()) {
	t := m.t
	assert.Equal(t, len(shops), m.requests(), "token requests")
	tokens, entries := m.tokens(), m.entries()
	same(m.types(m.apply))
	assert.Equal(t, entries, m.entries())
	assert.Equal(t, len(shops), m.requests(), "token requests")
	m.policiesHold()

	healthy := m.types(guide(t)["Watch all shops"][0])
	for _, shop := range shops {
		assert.Contains(t, healthy, "shops/"+shop+"/ ok\n")
	}

	t.Log("Rotate one.")
	rotator := m.tokenFor("shops-rotator")
	rotation := guide(t)["Rotate one shop"]
	require.Len(t, rotation, 2)
	m.CreateClient("south-2", secret)
	m.as(rotator, rotation[0])
	output, err := m.tries(m.applySouth)
	require.Error(t, err)
	assert.Contains(t, output, undone)
	rotated()
	requests := m.requests()
	m.types(m.applySouth)
	assert.Equal(t, requests, m.requests(), "token requests")
	m.RevokeClient("south-1")
	m.as(rotator, rotation[1])

	after := m.entries()
	assert.NotEqual(t, entries["south"], after["south"])
	delete(entries, "south")
	delete(after, "south")
	assert.Equal(t, entries, after)
	for shop, token := range m.tokens() {
		assert.True(t, m.TokenAlive(token), shop)
		assert.Equal(t, shop != "south", token == tokens[shop], shop)
	}
}

// policiesHold reads with the policies that were written.
func (m *merchants) policiesHold() {
	t := m.t
	reads := func(policy, path string) bool {
		client, err := m.vault.Client.Clone()
		require.NoError(t, err)
		client.SetToken(m.tokenFor(policy))
		_, err = client.Logical().ReadWithContext(t.Context(), path)
		if err != nil {
			require.ErrorContains(t, err, "permission denied")
		}
		return err == nil
	}
	for _, shop := range shops {
		assert.True(t, reads("shops-"+shop+"-app", "shops/"+shop+"/token"), shop)
		assert.True(t, reads("shops-monitor", "shops/"+shop+"/status"), shop)
	}
	assert.False(t, reads("shops-north-app", "shops/south/token"))
	assert.False(t, reads("shops-monitor", "shops/north/token"))
	assert.True(t, reads("shops-operator", "shops/north/config"))
	assert.True(t, reads("shops-rotator", "shops/north/rotate-root"))
	assert.True(t, reads("shops-on-call", "shops/north/status"))
}

// version is what runs at a mount, as the engine says.
func (m *merchants) version(shop string) string {
	m.t.Helper()
	answer, err := m.vault.Client.Logical().ReadWithContext(m.t.Context(), "shops/"+shop+"/status")
	require.NoError(m.t, err)
	return answer.Data["version"].(string)
}

// tokens are the access tokens by shop.
func (m *merchants) tokens() map[string]string {
	m.t.Helper()
	tokens := map[string]string{}
	for _, shop := range shops {
		answer, err := m.vault.Client.Logical().ReadWithContext(m.t.Context(), "shops/"+shop+"/token")
		require.NoError(m.t, err)
		tokens[shop] = answer.Data["access_token"].(string)
	}
	return tokens
}

// entries are fingerprints of what is stored of each shop's configuration.
func (m *merchants) entries() map[string]string {
	m.t.Helper()
	mounts := m.mounts()
	entries := map[string]string{}
	for _, shop := range shops {
		answer, err := m.vault.Client.Logical().ReadWithContext(m.t.Context(), "sys/raw/logical/"+mounts["shops/"+shop+"/"].UUID+"/config")
		require.NoError(m.t, err)
		entries[shop] = fmt.Sprintf("%x", sha256.Sum256([]byte(answer.Data["value"].(string))))
	}
	return entries
}

func writeJSON(t *testing.T, file string, content any) {
	t.Helper()
	text, err := json.Marshal(content)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, text, 0o600))
}

func replaceIn(t *testing.T, file, old, new string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(text), old)
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(text), old, new)), 0o600))
}
