// SPDX-License-Identifier: MPL-2.0

package install

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

var (
	declaration = regexp.MustCompile("(?s)\n```hcl\n(plugin_[^`]*\nplugin \"secret\"[^`]*)```\n")
	checksum    = regexp.MustCompile(`(sha256sum +=) "[0-9a-f]{64}"`)
)

// TestDeclaredPlugin starts servers with what the guide puts into OpenBao's configuration.
// A server that does not know it says so, and goes on without it.
func TestDeclaredPlugin(t *testing.T) {
	t.Parallel()
	declarations := declaration.FindAllStringSubmatch(pages(t), -1)
	require.Len(t, declarations, 2)
	sum, err := stack.SHA256(programs.Plugin)
	require.NoError(t, err)

	for i, name := range []string{"as a file", "as an image"} {
		t.Run(name, func(t *testing.T) {
			s := &site{
				Server:  fuuffytest.NewServer(t, fuuffytest.Config{}),
				t:       t,
				plugins: t.TempDir(),
			}
			s.CreateClient(clientID, secret)
			if name == "as a file" {
				s.install(programs.Plugin, pluginName+"-"+programs.PluginVersion)
			}
			settings := strings.NewReplacer(
				`plugin_directory     = "/etc/openbao/plugins"`, "", // The stack names it.
				"v0.1.0", programs.PluginVersion,
				"ghcr.io", startRegistry(t, programs.Plugin),
			).Replace(declarations[i][1])
			settings = checksum.ReplaceAllString(settings, `$1 "`+sum+`"`)

			s.stack, err = stack.New()
			require.NoError(t, err)
			t.Cleanup(s.stack.Close)
			s.vault, err = s.stack.StartVault(t.Context(), programs.Vault, s.plugins, settings)
			require.NoError(t, err)
			log, err := os.ReadFile(s.vault.LogFile)
			require.NoError(t, err)
			_, err = s.vault.Client.Sys().GetPluginWithContext(t.Context(), &api.GetPluginInput{
				Name: stack.Engine, Type: api.PluginTypeSecrets, Version: programs.PluginVersion,
			})
			if strings.Contains(string(log), "unknown or unsupported field plugin_auto_register found in configuration") {
				require.True(t, stack.Lacks(t, "plugins in the server's configuration file", err, "Code: 404"))
				return
			}
			require.NoError(t, err)
			require.NoError(t, s.vault.Client.Sys().MountWithContext(t.Context(), "fuuffy", &api.MountInput{
				Type: stack.Engine, Config: api.MountConfigInput{PluginVersion: programs.PluginVersion},
			}))
			s.write("config", s.credentials())
			assert.True(t, s.TokenAlive(s.accessToken()))
			assert.Equal(t, programs.PluginVersion, s.running())
		})
	}
}
