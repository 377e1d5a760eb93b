// SPDX-License-Identifier: MPL-2.0

package release

import (
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

func TestImage(t *testing.T) {
	i := buildImage(t, "certificates\n")

	files := map[string]string{}
	require.NoError(t, fs.WalkDir(os.DirFS(i.root), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(i.root, path))
		files[path] = sum(string(content))
		return err
	}))
	license, err := os.ReadFile(filepath.Join(made.checkout, "LICENSE"))
	require.NoError(t, err)
	a := artifactFor("linux/" + runtime.GOARCH)
	assert.Equal(t, map[string]string{
		"LICENSE":                           sum(string(license)),
		"etc/ssl/certs/ca-certificates.crt": sum("certificates\n"),
		"bin/" + plugin:                     checksums(t, made.files(t)["BINARY_SHA256SUMS"])[a.name+"/"+a.binary],
	}, files, "it has the binary of the release, and little else")

	assert.Regexp(t, `^[1-9]\d*:[1-9]\d*$`, i.user, "neither user nor group is root; numbers, for there is no /etc/passwd")
	assert.Equal(t, []string{"/bin/" + plugin}, i.entrypoint)

	binary, err := elf.Open(filepath.Join(i.root, i.entrypoint[0]))
	require.NoError(t, err)
	defer binary.Close()
	for _, segment := range binary.Progs {
		assert.NotEqual(t, elf.PT_INTERP, segment.Type, "it needs a dynamic linker")
		assert.NotEqual(t, elf.PT_DYNAMIC, segment.Type, "it needs libraries")
	}
}

// Vault runs the image as it would with Docker: its own Docker client talks to an engine
// that changes the root rather than makes a container. The only certificate that the
// image trusts is the sandbox's.
func TestContainerPlugin(t *testing.T) {
	sandbox := fuuffytest.NewServer(t, fuuffytest.Config{})
	sandbox.CreateClient("shop", "right-secret")
	i := buildImage(t, sandbox.CACert())
	if !mayChangeRoot(t, i) {
		t.Log("This system lets only root change a process's root, so the image was built and not run.")
		return
	}

	const name = "fuuffy/" + plugin
	engine, address := startDocker(t, i, name+":"+strings.TrimPrefix(version, "v"))
	t.Setenv("DOCKER_HOST", address)
	v := startVaultOfAGroup(t)

	register := []string{"plugin", "register", "-oci_image=" + name, "-sha256=" + engine.id, "-version=" + version}
	vault(t, v, append(register, "secret", plugin)...)
	vault(t, v, "plugin", "runtime", "register", "-type=container", "-oci_runtime=runc", "runc")
	vault(t, v, append(register, "-runtime=runc", "secret", plugin)...)
	vault(t, v, "secrets", "enable", "-path=fuuffy", plugin)
	vault(t, v, "write", "fuuffy/config", "client_id=shop", "client_secret=right-secret", "base_url="+sandbox.BaseURL())
	token, err := v.Client.Logical().ReadWithContext(t.Context(), "fuuffy/token")
	require.NoError(t, err)
	assert.NotEmpty(t, token.Data["access_token"])
	assert.Contains(t, sandbox.Stats().LastUserAgent, strings.TrimPrefix(version, "v"))

	runtimes := map[string]bool{}
	for _, c := range engine.all() {
		runtimes[c.HostConfig.Runtime] = true
		assert.Empty(t, c.Entrypoint, "else the image's own was not tried")
		assert.Empty(t, c.HostConfig.CapAdd, "the process that stood for a container had no capabilities")
	}
	assert.Equal(t, map[string]bool{"runsc": true, "runc": true}, runtimes)
}

// mayChangeRoot runs the plugin in the image's root. Without Vault it does nothing but
// say what it is.
func mayChangeRoot(t *testing.T, i *image) bool {
	t.Helper()
	command, err := i.command(i.root, i.entrypoint, nil)
	require.NoError(t, err)
	command.Env = []string{}
	output, err := command.CombinedOutput()
	if os.Geteuid() != 0 && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSPC)) {
		return false // There are no user namespaces, or none left.
	}
	assert.Contains(t, string(output), "This binary is a plugin")
	return true
}

// startVaultOfAGroup starts a Vault whose group is not root. It lends the group to its
// containers, and the image's user may write to no folder of root's.
func startVaultOfAGroup(t *testing.T) *stack.Vault {
	t.Helper()
	if group := os.Getegid(); group == 0 {
		require.NoError(t, syscall.Setgid(1))
		defer func() { require.NoError(t, syscall.Setgid(group)) }()
	}
	s, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	v, err := s.StartVault(t.Context(), programs.Vault, t.TempDir())
	require.NoError(t, err)
	return v
}
