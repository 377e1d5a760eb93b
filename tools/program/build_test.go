// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBuild(t *testing.T) {
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			release := m.hold()
			r := m.start(name, "GOFLAGS=-trimpath")
			require.Eventually(t, func() bool { return strings.Contains(read(t, r.stderr), "still building, ") },
				time.Minute, 50*time.Millisecond, "no sign of life")
			release()
			status, out, messages := r.end()

			require.Zero(t, status, messages)
			assert.Contains(t, messages, "the download failed: https://127.0.0.1:1/")
			assert.Contains(t, messages, program.pinned+" from source instead. This takes ")
			assert.Equal(t, fmt.Sprintf(program.fake, program.pinned), read(t, strings.TrimSuffix(out, "\n")))
			assert.ElementsMatch(t, []string{"build.log", name}, m.left())
			call := read(t, filepath.Join(m.bin, "calls"))
			assert.Contains(t, call, " build -mod=readonly ")
			assert.NotContains(t, call, "trimpath")
		})
	}
}

// What was compiled but does not run is as good as nothing.
func TestFailedBuild(t *testing.T) {
	for file, expected := range map[string][]string{
		"fail":        {"exit status 1", "\n    no space left on device\n", "build.log", "run this again", "VAULT_BIN"},
		"built-vault": {"doesn't run"},
	} {
		t.Run(file, func(t *testing.T) {
			m := newMachine(t)
			m.write(file, "#!/bin/sh\nexit 1\n")
			status, out, messages := m.start("vault").end()

			assert.Equal(t, 1, status)
			assert.Empty(t, out)
			for _, message := range expected {
				assert.Contains(t, messages, message)
			}
			assert.Equal(t, []string{"build.log"}, m.left())
		})
	}
}

func TestInterruptedBuild(t *testing.T) {
	m := newMachine(t)
	m.hold()
	r := m.start("vault")
	m.awaitBuilds(1)
	require.NoError(t, r.command.Process.Signal(syscall.SIGTERM))

	status, out, messages := r.end()
	assert.Equal(t, 130, status)
	assert.Empty(t, out)
	assert.Contains(t, messages, "interrupted")
	assert.Equal(t, []string{"build.log"}, m.left())
	assert.FileExists(t, filepath.Join(m.bin, "interrupted"), "Go removes its temporary files")
	assert.Eventually(t, func() bool {
		return errors.Is(syscall.Kill(-r.command.Process.Pid, 0), syscall.ESRCH)
	}, time.Minute, 50*time.Millisecond, "the compiler still runs")
}
