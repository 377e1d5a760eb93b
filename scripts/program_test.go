// SPDX-License-Identifier: MPL-2.0

// Package scripts has the tests of the folder scripts. Go and what it builds are fakes
// in them, so they take seconds and need neither.
package scripts

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

const (
	fakeVault      = "#!/bin/sh\necho 'Vault v%s (0123abc), built 2024-01-01T00:00:00Z'\n"
	fakeOpenBao    = "#!/bin/sh\necho 'OpenBao v%s (0123abc), built 2026-01-01T00:00:00Z'\n"
	fakePrometheus = "#!/bin/sh\necho 'prometheus, version %s (branch: HEAD, revision: 0123abc)'\n"
	fakePromtool   = "#!/bin/sh\necho 'promtool, version %s (branch: HEAD, revision: 0123abc)'\n"
)

// programs are what the script finds or builds.
var programs = map[string]struct {
	fake, variable, built string
	good, bad             []string
}{
	"vault": {fakeVault, "VAULT_BIN", "1.21.2",
		[]string{"1.18.0", "1.21.2+ent", "1.19.0-beta1", "2.0.0"}, []string{"1.17.6", "0.11.6"}},
	"prometheus": {fakePrometheus, "PROMETHEUS_BIN", "3.5.0",
		[]string{"2.42.0+ds", "3.0.0-rc.1"}, []string{"2.41.1", "1.99.0"}},
	"promtool": {fakePromtool, "PROMTOOL_BIN", "3.5.0",
		[]string{"2.42.0+ds", "3.0.0-rc.1"}, []string{"2.41.1", "1.99.0"}},
}

// fakeGo tells of each call, writes half a program, waits as long as there is a file hold,
// and then either fails, if there is a file fail, or writes a fake of the program. As go
// test, it fails in Vault 1.19.
const fakeGo = `#!/bin/sh
cd "$(dirname "$0")"
echo "$GOFLAGS $*" >>calls
if [ "$1" = test ]; then echo "ok tests in $VAULT_BIN"; echo "    some_test.go:1: lacks: wings"; case $VAULT_BIN in */vault-1.19.*) exit 1 ;; *) exit 0; esac; fi
while [ "$1" != -o ]; do shift; done
echo '#!/bin/sh' >"$2"
chmod +x "$2"
while [ -e hold ]; do sleep 0.1; done
if [ -e fail ]; then echo 'no space left on device'; exit 1; fi
name=$(basename "$2")
cat "built-${name%.new.*}" >"$2"
`

// machine has a folder that comes first in PATH, and one for the cache.
type machine struct {
	t          *testing.T
	bin, cache string
}

func newMachine(t *testing.T) *machine {
	t.Parallel()
	m := &machine{t: t, bin: t.TempDir(), cache: t.TempDir()}
	m.write("go", fakeGo)
	for name, program := range programs {
		m.write("built-"+name, fmt.Sprintf(program.fake, program.built))
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

// run is one run of the script.
type run struct {
	t              *testing.T
	command        *exec.Cmd
	stdout, stderr string // the files that have them
}

// start starts the script for Vault, in a process group of its own.
func (m *machine) start(variables ...string) *run {
	m.t.Helper()
	return m.startFor("vault", variables...)
}

func (m *machine) startFor(program string, variables ...string) *run {
	m.t.Helper()
	return m.startScript([]string{"program.sh", program}, variables...)
}

func (m *machine) startScript(script []string, variables ...string) *run {
	m.t.Helper()
	out, err := os.CreateTemp(m.t.TempDir(), "stdout")
	require.NoError(m.t, err)
	defer out.Close()
	messages, err := os.CreateTemp(m.t.TempDir(), "stderr")
	require.NoError(m.t, err)
	defer messages.Close()

	r := &run{t: m.t, command: exec.CommandContext(m.t.Context(), "sh", script...), stdout: out.Name(), stderr: messages.Name()}
	r.command.Env = append([]string{"PATH=" + m.bin + ":" + os.Getenv("PATH"), "XDG_CACHE_HOME=" + m.cache}, variables...)
	r.command.Stdout, r.command.Stderr = out, messages
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

// left returns what is in the cache, apart from folders.
func (m *machine) left() []string {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.cache, "vault-plugin-secrets-fuuffy", "*", "*"))
	require.NoError(m.t, err)
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}

func TestInPath(t *testing.T) {
	for name, program := range programs {
		for _, version := range program.good {
			t.Run(name+" "+version, func(t *testing.T) {
				m := newMachine(t)
				found := m.write(name, fmt.Sprintf(program.fake, version))
				status, out, messages := m.startFor(name).end()
				require.Zero(t, status, messages)
				assert.Equal(t, found+"\n", out)
				assert.Empty(t, messages)
				assert.Zero(t, m.builds())
			})
		}
		for _, version := range program.bad {
			t.Run(name+" "+version, func(t *testing.T) {
				m := newMachine(t)
				found := m.write(name, fmt.Sprintf(program.fake, version))
				status, out, messages := m.startFor(name).end()
				require.Zero(t, status, messages)
				assert.NotEqual(t, found+"\n", out)
				assert.Contains(t, messages, version)
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
			status, out, messages := m.startFor(name, program.variable+"="+given).end()
			require.Zero(t, status, messages)
			assert.Equal(t, given+"\n", out)

			for what, bad := range map[string]string{
				"too old":       filepath.Join(m.bin, name),
				"another thing": m.write("other", "#!/bin/sh\necho 'Consul v1.21.0'\n"),
				"not there":     filepath.Join(m.bin, "nowhere"),
				"no program":    m.bin,
			} {
				status, out, messages := m.startFor(name, program.variable+"="+bad).end()
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
	status, out, messages := m.start("VAULT_BIN=" + given).end()
	require.Zero(t, status, messages)
	assert.Equal(t, given+"\n", out)

	given = m.write("old-bao", fmt.Sprintf(fakeOpenBao, "2.4.4"))
	status, out, messages = m.start("VAULT_BIN=" + given).end()
	assert.Equal(t, 1, status)
	assert.Empty(t, out)
	assert.Contains(t, messages, "is 2.4.4; OpenBao 2.5 or newer is needed")

	status, _, _ = m.startFor("promtool", "PROMTOOL_BIN="+given).end()
	assert.Equal(t, 1, status)

	m.write("vault", fmt.Sprintf(fakeOpenBao, "2.5.5"))
	status, out, messages = m.start().end()
	require.Zero(t, status, messages)
	assert.Contains(t, out, "/vault-1.21.2-", "in PATH, only a Vault is taken for one")
}

func TestBuild(t *testing.T) {
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.write("date", "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho >>dates\necho $(($(wc -l <dates) * 40))\n")
			status, out, messages := m.startFor(name, "GOFLAGS=-trimpath").end()

			require.Zero(t, status, messages)
			assert.Contains(t, messages, "still building, 1m20s so far")
			assert.Contains(t, messages, "building "+name+" "+program.built+" from source")
			assert.Contains(t, messages, "minutes the first time")
			assert.Equal(t, fmt.Sprintf(program.fake, program.built), read(t, strings.TrimSuffix(out, "\n")))
			assert.ElementsMatch(t, []string{"build.log", name}, m.left())
			call := read(t, filepath.Join(m.bin, "calls"))
			assert.Contains(t, call, " build -mod=readonly ")
			assert.NotContains(t, call, "trimpath")

			status, again, messages := m.startFor(name).end()
			require.Zero(t, status, messages)
			assert.Equal(t, out, again)
			assert.Equal(t, 1, m.builds())
		})
	}
}

// A Vault of one line is built, whatever there is.
func TestPinnedVault(t *testing.T) {
	m := newMachine(t)
	vault := m.write("vault", fmt.Sprintf(fakeVault, "1.19.9"))
	status, out, messages := m.startFor("vault-1.19", "VAULT_BIN="+vault).end()
	require.Zero(t, status, messages)
	assert.Contains(t, messages, "building vault 1.19.5 from source")
	assert.NotContains(t, messages, "PATH")
	assert.Contains(t, out, "/vault-1.19.5-")
	assert.Equal(t, 1, m.builds())
}

func TestUnknownProgram(t *testing.T) {
	m := newMachine(t)
	for _, name := range []string{"", "vault-1.2", "grafana"} {
		status, out, messages := m.startFor(name).end()
		assert.Equal(t, 1, status, name)
		assert.Empty(t, out, name)
		assert.Contains(t, messages, "name one of vault, prometheus, promtool, vault-1.", name)
	}
}

// Two that run at once both build, and end with the same whole program.
func TestTwoAtOnce(t *testing.T) {
	m := newMachine(t)
	release := m.hold()
	first := m.start()
	second := m.start()
	m.awaitBuilds(2)
	release()

	status, out, messages := first.end()
	require.Zero(t, status, messages)
	status, sameOut, messages := second.end()
	require.Zero(t, status, messages)
	assert.Equal(t, out, sameOut)
	assert.ElementsMatch(t, []string{"build.log", "vault"}, m.left())
}

// What a killed run leaves is never used. It goes when it is too old to be of a run at the same time.
func TestKilledBuild(t *testing.T) {
	m := newMachine(t)
	release := m.hold()
	first := m.start()
	m.awaitBuilds(1)
	require.Eventually(t, func() bool { return len(m.left()) == 2 }, time.Minute, 50*time.Millisecond, "half a program")
	require.NoError(t, syscall.Kill(-first.command.Process.Pid, syscall.SIGKILL))
	_, _, _ = first.end()
	release()

	status, out, messages := m.start().end()
	require.Zero(t, status, messages)
	vault := strings.TrimSuffix(out, "\n")
	assert.Equal(t, fmt.Sprintf(fakeVault, programs["vault"].built), read(t, vault))
	halves, err := filepath.Glob(vault + ".new.*")
	require.NoError(t, err)
	require.Len(t, halves, 1)

	old := time.Now().AddDate(0, 0, -3)
	require.NoError(t, os.Chtimes(halves[0], old, old))
	require.NoError(t, os.Remove(vault))
	status, _, messages = m.start().end()
	require.Zero(t, status, messages)
	assert.ElementsMatch(t, []string{"build.log", "vault"}, m.left())
}

func TestInterrupted(t *testing.T) {
	m := newMachine(t)
	m.hold()
	r := m.start()
	m.awaitBuilds(1)
	require.NoError(t, r.command.Process.Signal(syscall.SIGTERM))

	status, out, _ := r.end()
	assert.Equal(t, 143, status)
	assert.Empty(t, out)
	assert.Equal(t, []string{"build.log"}, m.left())
	assert.Eventually(t, func() bool {
		return errors.Is(syscall.Kill(-r.command.Process.Pid, 0), syscall.ESRCH)
	}, time.Minute, 50*time.Millisecond, "the compiler still runs")
}

// What was compiled but does not run is as good as nothing.
func TestFailedBuild(t *testing.T) {
	for file, expected := range map[string][]string{
		"fail":        {"ended with status 1", "no space left on device", "build.log", "run this again", "VAULT_BIN"},
		"built-vault": {"does not run"},
	} {
		t.Run(file, func(t *testing.T) {
			m := newMachine(t)
			m.write(file, "#!/bin/sh\nexit 1\n")
			status, out, messages := m.start().end()

			assert.Equal(t, 1, status)
			assert.Empty(t, out)
			for _, message := range expected {
				assert.Contains(t, messages, message)
			}
			assert.Equal(t, []string{"build.log"}, m.left())
		})
	}
}

// What fails in one Vault keeps none of the others from being tried. The server that
// someone names comes last.
func TestCompat(t *testing.T) {
	m := newMachine(t)
	given := m.write("bao", fmt.Sprintf(fakeOpenBao, "2.5.5"))
	for _, test := range []struct {
		variables []string
		passed    int
	}{
		{nil, 2},
		{[]string{"VAULT_BIN=" + given}, 3},
	} {
		status, out, messages := m.startScript([]string{"compat.sh"}, test.variables...).end()

		assert.Equal(t, 1, status, messages)
		before, table, found := strings.Cut(out, "\n\n")
		require.True(t, found, out)
		for _, vault := range []string{"/vault-1.18.1-", "/vault-1.19.5-", "/vault-1.21.2-"} {
			assert.Contains(t, before, vault)
		}
		assert.Equal(t, 1, strings.Count(table, "FAILED"), table)
		assert.Equal(t, test.passed, strings.Count(table, "passed"), table)
		assert.Equal(t, test.passed+1, strings.Count(table, "    lacks: wings\n"), table)
		if test.variables != nil {
			assert.Contains(t, before, "==> OpenBao v2.5.5\nok tests in "+given)
		}
	}

	status, _, messages := m.startScript([]string{"compat.sh"}, "VAULT_BIN="+m.write("other", "#!/bin/sh\n")).end()
	assert.Equal(t, 1, status)
	assert.Contains(t, messages, "is not vault", "before anything is built or run")
}
