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
	checkout, caller := filepath.Join(t.TempDir(), "a checkout"), t.TempDir()
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

	// With CDPATH, cd prints where it goes.
	command := exec.CommandContext(t.Context(), "scripts/program.sh", "vault")
	command.Dir = checkout
	command.Env = append(os.Environ(), "CDPATH=.", "VAULT_BIN="+filepath.Join(caller, "vault"))
	out, err := command.Output()
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(caller, "vault")+"\n", string(out))
	made, err := os.ReadDir(filepath.Join(checkout, "bin"))
	require.NoError(t, err)
	assert.Len(t, made, 1, "only the program")
}

// Go renames what it linked in GOTMPDIR. Across file systems it copies instead, and a second run
// could start half a program.
func TestProgramIsReplacedInOneStep(t *testing.T) {
	t.Parallel()
	checkout, bin := t.TempDir(), t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(checkout, "scripts"), os.DirFS(".")))
	run := func(path string) (string, error) {
		command := exec.CommandContext(t.Context(), "/bin/sh", filepath.Join(checkout, "scripts", "program.sh"), "vault")
		command.Env = []string{"PATH=" + path}
		output, err := command.CombinedOutput()
		return string(output), err
	}
	const fakeGo = "#!/bin/sh\n[ -d \"$GOTMPDIR\" ] && printf '#!/bin/sh\\necho %s\\n' \"$GOTMPDIR\" >\"$3/bin/program\" && chmod +x \"$3/bin/program\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "go"), []byte(fakeGo), 0o700))
	output, err := run(bin + ":" + os.Getenv("PATH"))
	require.NoError(t, err, output)
	assert.Equal(t, filepath.Join(checkout, "bin")+"\n", output)

	tools := t.TempDir() // All that the script needs but Go.
	for _, tool := range []string{"dirname", "mkdir"} {
		found, err := exec.LookPath(tool)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(found, filepath.Join(tools, tool)))
	}
	output, err = run(tools)
	require.Error(t, err)
	assert.Contains(t, output, "program.sh: there is no Go in PATH")
}
