// SPDX-License-Identifier: MPL-2.0

package release

import (
	"os"
	"path"
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
	platform := runtime.GOOS + "/" + runtime.GOARCH
	a := artifactFor(plugin, platform)
	s, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	folder := t.TempDir()
	require.NoError(t, os.CopyFS(folder, os.DirFS(made.dir)))
	// What the commands unpack is the plugin directory.
	pluginDir := filepath.Join(folder, a.name)
	require.NoError(t, os.Mkdir(pluginDir, 0o755))
	v, err := s.StartVault(t.Context(), programs.Vault, pluginDir)
	require.NoError(t, err)

	var typed []string
	for _, section := range []string{"Verify a release", "Register it"} {
		for line := range strings.Lines(documented(t, section)) {
			switch line = forRelease(strings.TrimSpace(line), platform); {
			case strings.HasPrefix(line, "gh "), strings.HasPrefix(line, "cosign "): // The release workflow types these.
			case strings.HasPrefix(line, "unzip "): // It is not on every machine.
				require.Equal(t, "unzip -d "+a.name+" "+a.name+".zip", line)
				require.NoError(t, os.CopyFS(pluginDir, made.unpacked(t, a)))
			default:
				typed = append(typed, line)
			}
		}
	}
	require.Len(t, typed, 4)

	bin := t.TempDir()
	require.NoError(t, os.Symlink(v.Binary, filepath.Join(bin, "vault")))
	printed, err := run(folder, append(v.Environment(), "PATH="+bin+":"+os.Getenv("PATH")), "sh", "-euc", strings.Join(typed, "\n"))
	require.NoError(t, err)
	assert.Contains(t, printed, a.name+".zip: OK")
	assert.Contains(t, printed, a.name+"/"+a.binary+": OK")
	assert.Contains(t, printed, "Success! Registered plugin: fuuffy")
	vault(t, v, "secrets", "enable", stack.Engine)
}

// Nothing here builds the images. A Dockerfile copies what a release has, though, and starts what is in it.
func TestDockerfile(t *testing.T) {
	dockerfile, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	lines := strings.ReplaceAll(string(dockerfile), "\\\n", " ")

	sources := regexp.MustCompile(`(?m)^COPY ([^-].*) \./$`).FindAllStringSubmatch(lines, -1)
	require.Len(t, sources, 1, "one stage copies from the release")
	archives := map[string]bool{}
	for pattern := range strings.FieldsSeq(sources[0][1]) {
		pattern = strings.NewReplacer("${VERSION}", strings.TrimPrefix(*version, "v"), "linux_${TARGETARCH}", runtime.GOOS+"_"+runtime.GOARCH).Replace(pattern)
		found := false
		for name := range made.files(t) {
			if matched, err := path.Match(pattern, name); err == nil && matched {
				found = true
				archives[name] = true
			}
		}
		assert.True(t, found, "%s is not in a release", pattern)
	}
	for program, folder := range map[string]string{plugin: "/plugin", sandbox: "/sandbox"} {
		a := artifactFor(program, runtime.GOOS+"/"+runtime.GOARCH)
		assert.True(t, archives[a.name+".zip"], a.name)
		assert.Contains(t, lines, "unzip -d "+folder+" "+program+"_*.zip")
		assert.Contains(t, lines, "COPY --from=files "+folder+"/ /\n")
		assert.Contains(t, lines, `ENTRYPOINT ["/`+a.binary+`"]`)
	}
	archive := made.unpack(t, artifactFor(plugin, runtime.GOOS+"/"+runtime.GOARCH))
	for _, name := range []string{plugin, "LICENSE", "THIRD_PARTY_LICENSES"} {
		assert.Contains(t, archive, name)
		assert.Regexp(t, `COPY --from=files .*/plugin/`+name+` .*/\n`, lines)
	}

	// The workflow builds each target.
	workflow, err := os.ReadFile("../../.github/workflows/release.yml")
	require.NoError(t, err)
	for _, target := range regexp.MustCompile(`(?m)^FROM .* AS (\w+)$`).FindAllStringSubmatch(lines, -1) {
		if target[1] != "files" {
			assert.Contains(t, string(workflow), "- target: "+target[1]+"\n")
		}
	}
}

// documented returns the commands of a section of docs/verify.md.
func documented(t *testing.T, section string) string {
	t.Helper()
	commands, err := run("../..", nil, "sh", "scripts/commands.sh", "docs/verify.md", section)
	require.NoError(t, err)
	return commands
}

// forRelease makes a command for v0.1.0 on Linux one for the release under test.
func forRelease(command, platform string) string {
	return strings.NewReplacer("0.1.0", strings.TrimPrefix(*version, "v"), "linux_amd64", strings.ReplaceAll(platform, "/", "_")).Replace(command)
}
