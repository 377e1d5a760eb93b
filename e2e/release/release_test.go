// SPDX-License-Identifier: MPL-2.0

package release

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// What docs/verify.md tells users to type, as far as it needs nothing that is published.
func TestDocumentedCommands(t *testing.T) {
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

	var typed []string
	for _, section := range []string{"Verify a release", "Register it"} {
		for line := range strings.Lines(documented(t, section)) {
			switch line = forRelease(strings.TrimSpace(line)); {
			case strings.HasPrefix(line, "gh "), strings.HasPrefix(line, "cosign "): // The release workflow types these.
			case strings.HasPrefix(line, "unzip "): // It is not on every machine.
				require.Equal(t, "unzip -d "+name+" "+name+".zip", line)
				unpack(t, plugin, pluginDir)
			default:
				typed = append(typed, line)
			}
		}
	}
	require.Len(t, typed, 4)

	bin := t.TempDir()
	require.NoError(t, os.Symlink(v.Binary, filepath.Join(bin, "vault")))
	printed, err := run(dir, append(v.Environment(), "PATH="+bin+":"+os.Getenv("PATH")), "sh", "-euc", strings.Join(typed, "\n"))
	require.NoError(t, err)
	assert.Contains(t, printed, name+".zip: OK")
	assert.Contains(t, printed, name+"/"+plugin+": OK")
	assert.Contains(t, printed, "Success! Registered plugin: fuuffy")
	vault(t, v, "secrets", "enable", stack.Engine)
}

// What users do: look the checksum up, register, see the version, and read a token. It
// comes from the sandbox of the same release.
func TestReleasedProgramsInVault(t *testing.T) {
	sums, err := os.ReadFile(filepath.Join(folder, "BINARY_SHA256SUMS"))
	require.NoError(t, err)
	listed := regexp.MustCompile(`(?m)^(\w+)  ` + archive(plugin) + "/" + plugin + "$").FindSubmatch(sums)
	require.NotNil(t, listed)
	checksum := string(listed[1])

	s, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	pluginDir := t.TempDir()
	unpack(t, plugin, pluginDir)
	v, err := s.StartVault(t.Context(), programs.Vault, pluginDir)
	require.NoError(t, err)
	sandboxDir := t.TempDir()
	unpack(t, sandbox, sandboxDir)
	fuuffy, err := s.StartSandbox(t.Context(), filepath.Join(sandboxDir, sandbox))
	require.NoError(t, err)

	vault(t, v, "plugin", "register", "-command="+plugin, "-sha256="+checksum, "-version="+*version, "secret", stack.Engine)
	vault(t, v, "secrets", "enable", stack.Engine)
	mounts, err := v.Client.Sys().ListMountsWithContext(t.Context())
	require.NoError(t, err)
	assert.Equal(t, *version, mounts["fuuffy/"].RunningVersion)
	assert.Equal(t, checksum, mounts["fuuffy/"].RunningSha256)

	vault(t, v, "write", "fuuffy/config", "base_url="+fuuffy.BaseURL, "ca_cert=@"+filepath.Join(s.Dir, "ca.pem"),
		"client_id=@"+filepath.Join(s.Dir, "client_id"), "client_secret=@"+filepath.Join(s.Dir, "client_secret"))
	token := vault(t, v, "read", "-field=access_token", "fuuffy/token")
	caCert, err := os.ReadFile(filepath.Join(s.Dir, "ca.pem"))
	require.NoError(t, err)
	status, _, err := stack.Orders(t.Context(), fuuffy.BaseURL, string(caCert), token)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, status)
}

// documented returns the commands of a section of docs/verify.md.
func documented(t *testing.T, section string) string {
	t.Helper()
	commands, err := run("../..", nil, "sh", "scripts/commands.sh", "docs/verify.md", section)
	require.NoError(t, err)
	return commands
}

// forRelease makes a command for v0.1.0 on Linux one for the release under test.
func forRelease(command string) string {
	return strings.NewReplacer("0.1.0", strings.TrimPrefix(*version, "v"), "linux_amd64", runtime.GOOS+"_"+runtime.GOARCH).Replace(command)
}
