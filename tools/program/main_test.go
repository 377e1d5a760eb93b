// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// asProgram makes the test binary be the program.
const asProgram = "TEST_AS_PROGRAM"

// impatient makes it wait only a second for the version of a program.
const impatient = "TEST_IMPATIENT"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "" {
		os.Exit(m.Run())
	}
	signOfLife = 50 * time.Millisecond
	if os.Getenv(impatient) != "" {
		versionTimeout = time.Second
	}
	main()
}

const (
	fakeVault      = "#!/bin/sh\necho 'Vault v%s (0123abc), built 2024-01-01T00:00:00Z'\n"
	fakeOpenBao    = "#!/bin/sh\necho 'OpenBao v%s (0123abc), built 2026-01-01T00:00:00Z'\n"
	fakePrometheus = "#!/bin/sh\necho 'prometheus, version %s (branch: HEAD, revision: 0123abc)'\n"
	fakePromtool   = "#!/bin/sh\necho 'promtool, version %s (branch: HEAD, revision: 0123abc)'\n"
)

// programs are what there is to find, download, or build.
var programs = map[string]struct {
	fake, variable, pinned string
	good, bad              []string
}{
	"vault": {fakeVault, "VAULT_BIN", "1.21.2",
		[]string{"1.18.0", "1.21.2+ent", "1.19.0-beta1", "2.0.0"}, []string{"1.17.6", "0.11.6"}},
	"prometheus": {fakePrometheus, "PROMETHEUS_BIN", "3.5.0",
		[]string{"2.42.0+ds", "3.0.0-rc.1"}, []string{"2.41.1", "1.99.0"}},
	"promtool": {fakePromtool, "PROMTOOL_BIN", "3.5.0",
		[]string{"2.42.0+ds", "3.0.0-rc.1"}, []string{"2.41.1", "1.99.0"}},
}

// fakeGo records each call, writes half a program, waits as long as there is a file hold,
// and then either fails, if there is a file fail, or writes a fake of the program.
const fakeGo = `#!/bin/sh
cd "$(dirname "$0")"
echo "$GOFLAGS $*" >>calls
trap 'touch interrupted; exit 1' INT
while [ "$1" != -o ]; do shift; done
echo '#!/bin/sh' >"$2"
chmod +x "$2"
while [ -e hold ]; do sleep 0.1; done
if [ -e fail ]; then echo 'no space left on device'; exit 1; fi
cat "built-$(basename "$2")" >"$2"
`

// machine has a directory that comes first in PATH, and one for the cache. It has no network
// unless variables name a server.
type machine struct {
	t          *testing.T
	bin, cache string
	variables  []string
}

func newMachine(t *testing.T) *machine {
	t.Parallel()
	m := &machine{t: t, bin: t.TempDir(), cache: t.TempDir(), variables: []string{"PROGRAMS_URL=https://127.0.0.1:1"}}
	m.write("go", fakeGo)
	for name, program := range programs {
		m.write("built-"+name, fmt.Sprintf(program.fake, program.pinned))
		// Whatever this computer has, the first of its name in PATH is too old.
		m.write(name, fmt.Sprintf(program.fake, program.bad[0]))
	}
	return m
}

func (m *machine) write(name, content string) string {
	m.t.Helper()
	file := filepath.Join(m.bin, name)
	require.NoError(m.t, os.WriteFile(file, []byte(content), 0o700))
	return file
}

// run is one run of the program.
type run struct {
	t              *testing.T
	command        *exec.Cmd
	stdout, stderr string // the files that have them
}

// start starts the program in a process group of its own.
func (m *machine) start(name string, variables ...string) *run {
	m.t.Helper()
	self, err := filepath.Abs(os.Args[0])
	require.NoError(m.t, err)
	tools, err := filepath.Abs("..")
	require.NoError(m.t, err)
	out, err := os.CreateTemp(m.t.TempDir(), "stdout")
	require.NoError(m.t, err)
	defer out.Close()
	messages, err := os.CreateTemp(m.t.TempDir(), "stderr")
	require.NoError(m.t, err)
	defer messages.Close()

	r := &run{t: m.t, command: exec.CommandContext(m.t.Context(), self, "-tools", tools, name), stdout: out.Name(), stderr: messages.Name()}
	r.command.Env = append([]string{asProgram + "=1", "PATH=" + m.bin + ":" + os.Getenv("PATH"), "XDG_CACHE_HOME=" + m.cache}, m.variables...)
	r.command.Env = append(r.command.Env, variables...)
	r.command.Stdout, r.command.Stderr = out, messages
	r.command.Dir = m.bin
	r.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(m.t, r.command.Start())
	m.t.Cleanup(func() { _ = syscall.Kill(-r.command.Process.Pid, syscall.SIGKILL) })
	return r
}

// end waits for the end and returns exit status, output and messages.
func (r *run) end() (int, string, string) {
	r.t.Helper()
	if err := r.command.Wait(); err != nil {
		_, exited := errors.AsType[*exec.ExitError](err)
		require.True(r.t, exited, err)
	}
	return r.command.ProcessState.ExitCode(), read(r.t, r.stdout), read(r.t, r.stderr)
}

// finds returns the path that the program prints, and its messages.
func (m *machine) finds(name string, variables ...string) (path, messages string) {
	m.t.Helper()
	status, out, messages := m.start(name, variables...).end()
	require.Zero(m.t, status, messages)
	return strings.TrimSuffix(out, "\n"), messages
}

// glob returns the files of the machine's directory that match a pattern.
func (m *machine) glob(pattern string) []string {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.bin, pattern))
	require.NoError(m.t, err)
	return files
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(content)
}

// builds returns how often the fake go was called.
func (m *machine) builds() int {
	calls, _ := os.ReadFile(filepath.Join(m.bin, "calls"))
	return bytes.Count(calls, []byte("\n"))
}

func (m *machine) awaitBuilds(n int) {
	m.t.Helper()
	require.Eventually(m.t, func() bool { return m.builds() >= n }, time.Minute, 50*time.Millisecond, "the build does not begin")
}

// hold makes builds wait until release.
func (m *machine) hold() (release func()) {
	file := m.write("hold", "")
	return func() { require.NoError(m.t, os.Remove(file)) }
}

// left returns what is in the cache, apart from the directories of programs.
func (m *machine) left() []string {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.cache, "vault-plugin-secrets-fuuffy", "*", "*"))
	require.NoError(m.t, err)
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}

func TestUnknownProgram(t *testing.T) {
	m := newMachine(t)
	for _, name := range []string{"", "vault-1.2", "grafana"} {
		status, out, messages := m.start(name).end()
		assert.Equal(t, 1, status, name)
		assert.Empty(t, out, name)
		assert.Contains(t, messages, "name one of vault, prometheus, promtool, vault-1.", name)
	}
}
