// SPDX-License-Identifier: MPL-2.0

package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// make build builds only versions that Vault can register. Vault's catalog holds semantic
// versions with a v, and refuses a plugin that reports its version in any other way.
func TestBuildVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go"), []byte("#!/bin/sh\necho \"$*\" >>'"+calls+"'\n"), 0o700))
	makefile, err := os.ReadFile("../Makefile")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Makefile"), makefile, 0o600))
	build := func(arguments ...string) (built, messages string, err error) {
		require.NoError(t, os.WriteFile(calls, nil, 0o600))
		command := exec.CommandContext(t.Context(), "make", append([]string{"build"}, arguments...)...)
		command.Dir = dir
		command.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "GIT_CEILING_DIRECTORIES=" + filepath.Dir(dir)}
		output, err := command.CombinedOutput()
		return read(t, calls), string(output), err
	}

	for _, version := range []string{"0.4.0", "vNext", "", "v", "v1", "v1.2", "v1.2.3.4", "v01.2.3", "v1.2.3-", "v1.2.3+", "v1.2.3-a..b", "v1.2.3 ", "V1.2.3", "v1.2.3-a_b", "v1.2.3$$(id)", "v1.2.3';touch$${IFS}made;'", "v1.2.3`touch made`"} {
		built, messages, err := build("VERSION=" + version)
		assert.Error(t, err, version)
		assert.Empty(t, built, version)
		assert.Contains(t, messages, `VERSION="`+strings.ReplaceAll(version, "$$", "$")+`" can't be registered in Vault`)
		assert.NoFileExists(t, filepath.Join(dir, "made"))
		assert.Contains(t, messages, "VERSION=v1.2.3")
	}
	for _, version := range []string{"v0.4.0", "v10.20.30", "v1.2.3-rc1", "v1.2.3-rc.1", "v0.1.0-dev", "v0.1.0-dev+meta", "v0.1.0+meta.1", "v0.1.0-3-gabcdef", "v0.1.0-rc1-3-gabcdef-dirty", "v0.1.0-dirty"} {
		built, messages, err := build("VERSION=" + version)
		assert.NoError(t, err, messages)
		assert.Equal(t, 2, strings.Count(built, ".version="+version+" "), "%s: %s", version, built)
	}
	built, messages, err := build()
	assert.NoError(t, err, messages)
	assert.Contains(t, built, ".version=v0.1.0-dev ", "outside a repository")
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(content)
}
