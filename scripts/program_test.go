// SPDX-License-Identifier: MPL-2.0

// Package scripts has the tests of the folder scripts.
package scripts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The script builds the program of tools/program and runs it where the caller is.
func TestProgram(t *testing.T) {
	t.Parallel()
	checkout, caller := t.TempDir(), t.TempDir()
	for _, directory := range []string{"scripts", "tools"} {
		require.NoError(t, os.CopyFS(filepath.Join(checkout, directory), os.DirFS(filepath.Join("..", directory))))
	}
	mod, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(checkout, "go.mod"), mod, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(caller, "vault"), []byte("#!/bin/sh\necho Vault v1.21.2\n"), 0o700))

	for given, status := range map[string]int{"./vault": 0, "./nowhere": 1} {
		command := exec.CommandContext(t.Context(), filepath.Join(checkout, "scripts", "program.sh"), "vault")
		command.Dir = caller
		command.Env = append(os.Environ(), "VAULT_BIN="+given)
		var out, messages bytes.Buffer
		command.Stdout, command.Stderr = &out, &messages
		_ = command.Run()
		assert.Equal(t, status, command.ProcessState.ExitCode(), messages.String())
		if status == 0 {
			assert.Equal(t, filepath.Join(caller, "vault")+"\n", out.String())
		} else {
			assert.Empty(t, out.String())
			assert.Contains(t, messages.String(), "VAULT_BIN=./nowhere is not an executable file")
		}
	}
}
