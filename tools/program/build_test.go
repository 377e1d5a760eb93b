// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"path/filepath"
	"strings"
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
			assert.Contains(t, messages, program.pinned+" from source. This takes ")
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
