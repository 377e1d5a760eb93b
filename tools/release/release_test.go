// SPDX-License-Identifier: MPL-2.0

package main_test

import (
	"archive/zip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReleaseIsReproducible(t *testing.T) {
	again, err := made.clone(t.TempDir())
	require.NoError(t, err)

	// Nor does it matter how the other machine is set up.
	require.NoError(t, again.make("TZ=Asia/Tokyo", "GOAMD64=v3", "GOARM64=v9.0", "CGO_ENABLED=1", "GOFLAGS=-buildvcs=true -tags=other"))

	assert.Equal(t, made.sums(t), again.sums(t))
}

func TestReleaseChecksums(t *testing.T) {
	sums := made.sums(t)
	delete(sums, "SHA256SUMS")
	assert.Equal(t, sums, checksums(t, made.files(t)["SHA256SUMS"]))
}

func TestReleaseArchives(t *testing.T) {
	listed := checksums(t, made.files(t)["BINARY_SHA256SUMS"])
	assert.Len(t, listed, len(made.artifacts()))
	for _, a := range made.artifacts() {
		archive := made.unpack(t, a)
		assert.Len(t, archive, 4, a.name)
		assert.Equal(t, listed[a.name+"/"+a.binary], sum(archive[a.binary]), a.name)
		for _, name := range []string{"LICENSE", "README.md"} {
			content, err := os.ReadFile(filepath.Join(made.checkout, name))
			require.NoError(t, err)
			assert.Equal(t, string(content), archive[name], a.name)
		}
		assert.Contains(t, archive["THIRD_PARTY_LICENSES"], "==== Go "+runtime.Version()+": LICENSE\n", a.name)
		assert.NotEmpty(t, modules(t, archive[a.binary]), a.name)
		for _, module := range modules(t, archive[a.binary]) {
			assert.Contains(t, archive["THIRD_PARTY_LICENSES"], "==== "+strings.Replace(module, "@", " ", 1)+": ", a.name)
		}
	}
}

func TestReleaseBillOfMaterials(t *testing.T) {
	type component struct{ Type, Name, Version, PURL string }
	for _, a := range made.artifacts() {
		binary := made.unpack(t, a)[a.binary]
		var bom struct {
			BOMFormat, SpecVersion string
			Metadata               struct {
				Component struct {
					component
					Hashes []struct{ Alg, Content string }
				}
			}
			Components []component
		}
		require.NoError(t, json.Unmarshal([]byte(made.files(t)[a.name+".cdx.json"]), &bom), a.name)
		assert.Equal(t, "CycloneDX 1.6", bom.BOMFormat+" "+bom.SpecVersion)
		application := bom.Metadata.Component
		assert.Equal(t, a.program+" "+version, application.Name+" "+application.Version)
		assert.Equal(t, "pkg:golang/github.com/fuuffy/vault-plugin-secrets-fuuffy@"+version+"#cmd/"+a.program, application.PURL)
		require.Len(t, application.Hashes, 1)
		assert.Equal(t, "SHA-256 "+sum(binary), application.Hashes[0].Alg+" "+application.Hashes[0].Content)

		var listed []string
		for _, c := range bom.Components {
			assert.Equal(t, "library", c.Type)
			assert.Equal(t, "pkg:golang/"+c.Name+"@"+strings.ReplaceAll(c.Version, "+", "%2B"), c.PURL)
			listed = append(listed, c.Name+"@"+c.Version)
		}
		assert.ElementsMatch(t, modules(t, binary), listed[1:], a.name)
		assert.Equal(t, "stdlib@"+strings.TrimPrefix(runtime.Version(), "go"), listed[0], a.name)
	}
}

// A release that no one can make again is refused.
func TestReleaseRefused(t *testing.T) {
	r, err := made.clone(t.TempDir())
	require.NoError(t, err)

	stray := filepath.Join(r.checkout, "stray.go")
	require.NoError(t, os.WriteFile(stray, nil, 0o644))
	assert.ErrorContains(t, r.make(), "?? stray.go")
	require.NoError(t, os.Remove(stray))

	for _, arguments := range [][]string{{"--delete", version}, {"v1.2"}} {
		_, err := run(r.checkout, nil, "git", append([]string{"tag"}, arguments...)...)
		require.NoError(t, err)
	}
	assert.ErrorContains(t, r.make(), "the tag v1.2 is not a version that Vault accepts")
	for _, arguments := range [][]string{{"--delete", "v1.2"}, {"v1.2.3-rc1"}, {"v1.2.3"}} {
		_, err = run(r.checkout, nil, "git", append([]string{"tag"}, arguments...)...)
		require.NoError(t, err)
	}
	assert.ErrorContains(t, r.make(), "has several versions: v1.2.3, v1.2.3-rc1. Choose one: make release VERSION=v1.2.3")
	_, err = run(r.checkout, nil, r.program, "build", "-version=v1.2.4", "-out="+r.dir)
	assert.ErrorContains(t, err, "has no tag v1.2.4, but v1.2.3, v1.2.3-rc1")
	_, err = run(r.checkout, nil, r.program, "build", "-version=v1.2.3-rc1", "-platforms=no/where", "-out="+r.dir)
	assert.ErrorContains(t, err, "vault-plugin-secrets-fuuffy for no/where: ", "it begins to build")
	require.NoError(t, os.RemoveAll(r.dir))
	_, err = run(r.checkout, nil, "git", "tag", "--delete", "v1.2.3", "v1.2.3-rc1")
	require.NoError(t, err)
	assert.ErrorContains(t, r.make(), "the commit that is checked out has no version")

	require.NoError(t, os.RemoveAll(filepath.Join(r.checkout, ".git")))
	assert.ErrorContains(t, r.make("GIT_CEILING_DIRECTORIES="+filepath.Dir(r.checkout)), "a release is made in a git checkout")
	assert.NoDirExists(t, r.dir)
}

// artifact is a program for one platform.
type artifact struct{ program, name, binary string }

func artifactFor(program, platform string) artifact {
	a := artifact{
		program: program,
		name:    program + "_" + strings.TrimPrefix(version, "v") + "_" + strings.ReplaceAll(platform, "/", "_"),
		binary:  program,
	}
	if strings.HasPrefix(platform, "windows/") {
		a.binary += ".exe"
	}
	return a
}

func (r *release) artifacts() (all []artifact) {
	for platform := range strings.SplitSeq(*platforms, ",") {
		all = append(all, artifactFor(plugin, platform), artifactFor(sandbox, platform))
	}
	return all
}

// files returns the content of all files of the release.
func (r *release) files(t *testing.T) map[string]string {
	t.Helper()
	return contents(t, os.DirFS(r.dir))
}

// sums returns their checksums.
func (r *release) sums(t *testing.T) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for name, content := range r.files(t) {
		sums[name] = sum(content)
	}
	return sums
}

func (r *release) unpack(t *testing.T, a artifact) map[string]string {
	t.Helper()
	return contents(t, r.unpacked(t, a))
}

// unpacked is the archive as a folder.
func (r *release) unpacked(t *testing.T, a artifact) fs.FS {
	t.Helper()
	archive, err := zip.OpenReader(filepath.Join(r.dir, a.name+".zip"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, archive.Close()) })
	info, err := fs.Stat(archive, a.binary)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o755), info.Mode())
	return archive
}

func contents(t *testing.T, folder fs.FS) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := fs.ReadDir(folder, ".")
	require.NoError(t, err)
	for _, entry := range entries {
		content, err := fs.ReadFile(folder, entry.Name())
		require.NoError(t, err)
		all[entry.Name()] = string(content)
	}
	return all
}

// modules lists what Go says is in a binary.
func modules(t *testing.T, binary string) (all []string) {
	t.Helper()
	info, err := buildinfo.Read(strings.NewReader(binary))
	require.NoError(t, err)
	for _, dep := range info.Deps {
		all = append(all, dep.Path+"@"+dep.Version)
	}
	return all
}

// checksums returns them by name.
func checksums(t *testing.T, text string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(text) {
		checksum, name, found := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		require.True(t, found, line)
		all[name] = checksum
	}
	return all
}

func sum(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }
