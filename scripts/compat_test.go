// SPDX-License-Identifier: MPL-2.0

package scripts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What fails in one Vault keeps none of the others from being tried. A server that someone
// names is the only one.
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
	write("scripts/compat.sh", read(t, "compat.sh"))
	write("scripts/program.sh", "#!/bin/sh\ncase $1 in vault) test -x \"$VAULT_BIN\" && echo \"$VAULT_BIN\" ;; *) echo \"$PWD/tools/$1/vault\" ;; esac\n")
	// A test fails in Vault 1.19.
	write("bin/go", `#!/bin/sh
echo "$*" >>"`+checkout+`/calls"
echo "    some_test.go:1: lacks: wings"
echo "    other_test.go:2: lacks: a tail"
echo "    other_test.go:3: lacks: wings"
case $VAULT_BIN in */vault-1.19/*) echo "--- FAIL: TestFlight (0.10s)"; exit 1 ;; esac
echo "ok tests in $VAULT_BIN"
`)
	date := regexp.MustCompile(`20\d\d-\d\d-\d\d`)
	compat := func(named string) (status int, out, rows string) {
		command := exec.CommandContext(t.Context(), "sh", filepath.Join(checkout, "scripts", "compat.sh"), "./...")
		command.Env = []string{"PATH=" + filepath.Join(checkout, "bin") + ":" + os.Getenv("PATH"), "VAULT_BIN=" + named}
		var stdout, stderr bytes.Buffer
		command.Stdout, command.Stderr = &stdout, &stderr
		_ = command.Run()
		assert.Empty(t, stderr.String())
		_, rows, _ = strings.Cut(stdout.String(), "\n\n")
		return command.ProcessState.ExitCode(), stdout.String(), date.ReplaceAllString(rows, "today")
	}

	status, out, rows := compat("")
	assert.Equal(t, 1, status)
	assert.Regexp(t, `(?s)\nok tests in \S+/vault-1\.18/.*\nok tests in \S+/vault-1\.21/`, out)
	assert.Equal(t, "| Vault 1.18.1 | today | all of `make test-e2e` | a tail, wings |\n"+
		"| Vault 1.19.1 | today | FAILED: TestFlight | a tail, wings |\n"+
		"| Vault 1.21.1 | today | all of `make test-e2e` | a tail, wings |\n", rows)

	status, _, rows = compat(write("vault-2", "#!/bin/sh\necho 'Vault v2.0.4+ent, built 2026-01-01T00:00:00Z'\n"))
	assert.Equal(t, 0, status)
	assert.Equal(t, "| Vault 2.0.4+ent | today | all of `make test-e2e` | a tail, wings |\n", rows)
	assert.Contains(t, read(t, filepath.Join(checkout, "calls")), "test ./...\n")

	status, out, _ = compat(filepath.Join(checkout, "nowhere"))
	assert.Equal(t, 1, status)
	assert.Empty(t, out, "it stops before anything is run")
}
