// SPDX-License-Identifier: MPL-2.0

package release

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// What docs/verify.md tells users to type, as far as it needs nothing that is published. Then
// they see the version, and read a token. It comes from the sandbox of the same release.
func TestReleasedProgramsInVault(t *testing.T) {
	name := archive(plugin)
	s, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(folder)))
	// What the commands unpack is the plugin directory.
	pluginDir := filepath.Join(dir, name)
	require.NoError(t, os.Mkdir(pluginDir, 0o755))
	v, err := s.StartVault(t.Context(), programs.Vault, pluginDir)
	require.NoError(t, err)
	sandboxDir := t.TempDir()
	unpack(t, sandbox, sandboxDir)
	fuuffy, err := s.StartSandbox(t.Context(), filepath.Join(sandboxDir, sandbox))
	require.NoError(t, err)

	number := strings.TrimPrefix(*version, "v")
	here := strings.NewReplacer("version=0.1.0", "version="+number, "${version}", number, "linux_amd64", runtime.GOOS+"_"+runtime.GOARCH)
	var typed []string
	for _, section := range []string{"Verify a release", "Register it"} {
		commands, err := exec.Command("sh", "../../scripts/commands.sh", "../../docs/verify.md", section).Output()
		require.NoError(t, err)
		for line := range strings.Lines(string(commands)) {
			switch line = here.Replace(strings.TrimSpace(line)); {
			case strings.HasPrefix(line, "gh "), strings.HasPrefix(line, "cosign "): // The release tool types these.
			case strings.HasPrefix(line, "unzip "): // It is not on every machine.
				require.Equal(t, "unzip -d "+name+" "+name+".zip", line)
				unpack(t, plugin, pluginDir)
			default:
				typed = append(typed, line)
			}
		}
	}
	require.Len(t, typed, 5)
	printed, err := v.Shell(t.Context(), dir, strings.Join(typed, "\n"), "")
	require.NoError(t, err)
	assert.Contains(t, printed, name+".zip: OK")
	assert.Contains(t, printed, name+"/"+plugin+": OK")
	assert.Contains(t, printed, "Success! Registered plugin: fuuffy")

	_, err = v.Shell(t.Context(), s.Dir, "vault secrets enable fuuffy\n"+
		"vault write fuuffy/config base_url="+fuuffy.BaseURL+" ca_cert=@ca.pem client_id=@client_id client_secret=@client_secret", "")
	require.NoError(t, err)
	mounts, err := v.Client.Sys().ListMountsWithContext(t.Context())
	require.NoError(t, err)
	assert.Equal(t, *version, mounts["fuuffy/"].RunningVersion)
	checksum, err := stack.SHA256(filepath.Join(pluginDir, plugin))
	require.NoError(t, err)
	assert.Equal(t, checksum, mounts["fuuffy/"].RunningSha256)

	token, err := v.Shell(t.Context(), s.Dir, "vault read -field=access_token fuuffy/token", "")
	require.NoError(t, err)
	caCert, err := os.ReadFile(filepath.Join(s.Dir, "ca.pem"))
	require.NoError(t, err)
	status, _, err := stack.Orders(t.Context(), fuuffy.BaseURL, string(caCert), token)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, status)
}
