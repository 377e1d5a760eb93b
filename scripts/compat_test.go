// SPDX-License-Identifier: MPL-2.0

package scripts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What fails in one Vault keeps none of the others from being tried. The server that
// someone names comes last.
func TestCompat(t *testing.T) {
	t.Parallel()
	checkout := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(checkout, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
		require.NoError(t, os.WriteFile(file, []byte(content), 0o700))
		return file
	}
	write("e2e/go.mod", "")
	for _, vault := range []string{"1.18", "1.19", "1.21"} {
		write("tools/vault-"+vault+"/vault", "#!/bin/sh\necho 'Vault v"+vault+".1 (0123abc)'\n")
	}
	given := write("bao", "#!/bin/sh\necho 'OpenBao v2.5.5 (0123abc)'\n")
	write("scripts/compat.sh", read(t, "compat.sh"))
	write("scripts/program.sh", "#!/bin/sh\ncase $1 in vault) test -x \"$VAULT_BIN\" && echo \"$VAULT_BIN\" ;; *) echo \"$PWD/tools/$1/vault\" ;; esac\n")
	// The tests fail in Vault 1.19.
	write("bin/go", "#!/bin/sh\necho \"ok tests in $VAULT_BIN\"\necho '    some_test.go:1: lacks: wings'\n"+
		"case $VAULT_BIN in */vault-1.19/*) exit 1 ;; esac\n")
	compat := func(named string) string {
		command := exec.CommandContext(t.Context(), "sh", filepath.Join(checkout, "scripts", "compat.sh"))
		command.Env = []string{"PATH=" + filepath.Join(checkout, "bin") + ":" + os.Getenv("PATH"), "VAULT_BIN=" + named}
		var stdout, stderr bytes.Buffer
		command.Stdout, command.Stderr = &stdout, &stderr
		_ = command.Run()
		assert.Equal(t, 1, command.ProcessState.ExitCode(), stderr.String())
		return stdout.String()
	}

	for _, test := range []struct {
		named  string
		passed int
	}{
		{"", 2},
		{given, 3},
	} {
		out := compat(test.named)
		before, table, found := strings.Cut(out, "\n\n")
		require.True(t, found, out)
		for _, vault := range []string{"/vault-1.18/", "/vault-1.19/", "/vault-1.21/"} {
			assert.Contains(t, before, vault)
		}
		assert.Equal(t, 1, strings.Count(table, "FAILED"), table)
		assert.Equal(t, test.passed, strings.Count(table, "passed"), table)
		assert.Equal(t, test.passed+1, strings.Count(table, "    lacks: wings\n"), table)
		if test.named != "" {
			assert.Contains(t, before, "==> OpenBao v2.5.5\nok tests in "+given)
		}
	}

	out := compat(filepath.Join(checkout, "nowhere"))
	assert.Empty(t, out, "it stops before anything is built or run")
}
