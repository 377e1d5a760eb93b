// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInPath(t *testing.T) {
	for name, program := range programs {
		for _, version := range program.good {
			t.Run(name+" "+version, func(t *testing.T) {
				m := newMachine(t)
				want := m.write(name, fmt.Sprintf(program.fake, version))
				path, messages := m.finds(name)
				assert.Equal(t, want, path)
				assert.Empty(t, messages)
			})
		}
		for _, version := range program.bad {
			t.Run(name+" "+version, func(t *testing.T) {
				m := newMachine(t)
				old := m.write(name, fmt.Sprintf(program.fake, version))
				path, messages := m.finds(name)
				assert.NotEqual(t, old, path)
				assert.Contains(t, messages, old+" is "+version+"; ")
				assert.Equal(t, 1, m.builds())
			})
		}
	}
}

func TestGiven(t *testing.T) {
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			given := m.write("given", fmt.Sprintf(program.fake, program.good[0]))
			path, messages := m.finds(name, program.variable+"="+given)
			assert.Equal(t, given, path)
			assert.Empty(t, messages)

			for what, bad := range map[string]string{
				"too old":       filepath.Join(m.bin, name),
				"another thing": m.write("other", "#!/bin/sh\necho 'Consul v1.21.0'\n"),
				"not there":     filepath.Join(m.bin, "nowhere"),
				"no program":    m.bin,
			} {
				status, out, messages := m.start(name, program.variable+"="+bad).end()
				assert.Equal(t, 1, status, what)
				assert.Empty(t, out, what)
				assert.Contains(t, messages, program.variable+"="+bad, what)
			}
			assert.Zero(t, m.builds())
		})
	}
}

// Where Vault is needed, OpenBao does too if someone names it.
func TestGivenOpenBao(t *testing.T) {
	m := newMachine(t)
	given := m.write("bao", fmt.Sprintf(fakeOpenBao, "2.5.5"))
	path, _ := m.finds("vault", "VAULT_BIN="+given)
	assert.Equal(t, given, path)
	status, _, _ := m.start("promtool", "PROMTOOL_BIN="+given).end()
	assert.Equal(t, 1, status)

	given = m.write("old-bao", fmt.Sprintf(fakeOpenBao, "2.4.4"))
	status, out, messages := m.start("vault", "VAULT_BIN="+given).end()
	assert.Equal(t, 1, status)
	assert.Empty(t, out)
	assert.Contains(t, messages, "is 2.4.4; OpenBao 2.5 or newer is needed")

	m.write("vault", fmt.Sprintf(fakeOpenBao, "2.5.5"))
	path, _ = m.finds("vault")
	assert.Contains(t, path, "/vault-1.21.2/", "in PATH, only a Vault is taken for one")
}

// A program that hangs, or prints without end, is as good as none.
func TestProgramThatHangs(t *testing.T) {
	for name, script := range map[string]string{
		"hangs":  "#!/bin/sh\nsleep 600\n",
		"prints": "#!/bin/sh\nwhile echo 'Vault v'; do :; done\n",
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.write("vault", script)
			path, messages := m.finds("vault", impatient+"=1")
			assert.Contains(t, path, "/vault-1.21.2/")
			assert.Contains(t, messages, "is not Vault; 1.18 or newer is needed")
		})
	}

	t.Run("interrupted", func(t *testing.T) {
		m := newMachine(t)
		m.write("vault", "#!/bin/sh\ntouch \"$0-runs\"\nsleep 600\n")
		r := m.start("vault")
		require.Eventually(t, func() bool { return len(m.glob("vault-runs")) == 1 }, time.Minute, 50*time.Millisecond)
		require.NoError(t, r.command.Process.Signal(syscall.SIGTERM))
		status, _, messages := r.end()
		assert.Equal(t, 130, status)
		assert.Contains(t, messages, "interrupted")
	})
}

// make enters another directory before it runs the program.
func TestRelativeCache(t *testing.T) {
	m := newMachine(t)
	m.cache = filepath.Join(m.bin, "a cache")
	path, messages := m.finds("vault", "XDG_CACHE_HOME=a cache")
	assert.Equal(t, filepath.Join(m.cache, "vault-plugin-secrets-fuuffy", "vault-1.21.2", "vault"), path)
	assert.FileExists(t, path, messages)
}

// Only the pinned Vault will do, whatever there is.
func TestPinnedVault(t *testing.T) {
	m := newMachine(t)
	vault := m.write("vault", fmt.Sprintf(fakeVault, "1.19.9"))
	path, messages := m.finds("vault-1.19", "VAULT_BIN="+vault)
	assert.Contains(t, messages, "building Vault 1.19.5 from source")
	assert.NotContains(t, messages, "PATH")
	assert.Contains(t, path, "/vault-1.19.5/")
	assert.Equal(t, 1, m.builds())
}

// What is in the cache is used without any request or build, if it runs.
func TestCached(t *testing.T) {
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			path, _ := m.finds(name)
			require.Equal(t, 1, m.builds())

			m.write(name, "#!/bin/sh\nexit 1\n")
			again, messages := m.finds(name)
			assert.Equal(t, path, again)
			assert.NotContains(t, messages, "download")
			assert.Equal(t, 1, m.builds())

			require.NoError(t, os.WriteFile(path, nil, 0o700))
			again, _ = m.finds(name)
			assert.Equal(t, path, again)
			assert.Equal(t, fmt.Sprintf(program.fake, program.pinned), read(t, path))
			assert.Equal(t, 2, m.builds())
		})
	}
}

func TestCacheThatCannotBeWritten(t *testing.T) {
	m := newMachine(t)
	status, out, messages := m.start("vault", "XDG_CACHE_HOME="+m.write("file", "")).end()
	assert.Equal(t, 1, status)
	assert.Empty(t, out)
	assert.Contains(t, messages, "Set XDG_CACHE_HOME to a directory that you may write to")
}

// Two that run at once both build, and end with the same whole program.
func TestTwoAtOnce(t *testing.T) {
	m := newMachine(t)
	release := m.hold()
	first := m.start("vault")
	second := m.start("vault")
	m.awaitBuilds(2)
	release()

	status, out, messages := first.end()
	require.Zero(t, status, messages)
	status, sameOut, messages := second.end()
	require.Zero(t, status, messages)
	assert.Equal(t, out, sameOut)
	assert.ElementsMatch(t, []string{"build.log", "vault"}, m.left())
}

// What a killed run leaves is never used. It goes when it is too old to be of a run at the
// same time.
func TestKilled(t *testing.T) {
	m := newMachine(t)
	release := m.hold()
	first := m.start("vault")
	m.awaitBuilds(1)
	require.Eventually(t, func() bool {
		halves, _ := filepath.Glob(filepath.Join(m.cache, "*", "*", "new-*", "vault"))
		return len(halves) == 1
	}, time.Minute, 50*time.Millisecond, "half a program")
	require.NoError(t, syscall.Kill(-first.command.Process.Pid, syscall.SIGKILL))
	_, _, _ = first.end()
	release()

	path, _ := m.finds("vault")
	assert.Equal(t, fmt.Sprintf(fakeVault, programs["vault"].pinned), read(t, path))
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "new-*"))
	require.NoError(t, err)
	require.Len(t, left, 1)

	old := time.Now().AddDate(0, 0, -3)
	require.NoError(t, os.Chtimes(left[0], old, old))
	m.finds("vault")
	assert.ElementsMatch(t, []string{"build.log", "vault"}, m.left())
}
