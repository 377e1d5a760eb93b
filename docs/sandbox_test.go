// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// sandboxPage reads docs/sandbox.md, and makes a folder with what its commands need.
func sandboxPage(t *testing.T) (page, dir string, env []string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "docs/sandbox.md"))
	require.NoError(t, err)
	dir = t.TempDir()
	for name, folder := range map[string]string{"fuuffy-sandbox": "cmd/fuuffy-sandbox", "your-app": "examples/app"} {
		build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, name), "github.com/fuuffy/vault-plugin-secrets-fuuffy/"+folder)
		output, err := build.CombinedOutput()
		require.NoError(t, err, "%s", output)
	}
	env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "VAULT_") || strings.HasPrefix(variable, "FUUFFY_")
	})
	return string(content), dir, append(env, "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// has tells whether a program is on this machine, and names it if it is not.
func has(t *testing.T, program string) bool {
	t.Helper()
	_, err := exec.LookPath(program)
	if err != nil {
		t.Logf("What needs %s is not run: it is not on this machine.", program)
	}
	return err == nil
}

var (
	fenced = regexp.MustCompile("(?s)\n```.*?\n```\n")
	// expecting is a command, and in a comment a part of what it prints.
	expecting = regexp.MustCompile(`(?m)^([^ #\n](?:.*\\\n)*.*?) {2,}# (.+)$`)
)

// TestSandboxPage types what docs/sandbox.md shows, in one shell.
func TestSandboxPage(t *testing.T) {
	page, dir, env := sandboxPage(t)
	if !has(t, "curl") {
		return
	}
	var script strings.Builder
	for line := range strings.Lines(fenced.ReplaceAllString(page, "\n")) {
		code, ok := strings.CutPrefix(line, "    ")
		if !ok || strings.HasPrefix(code, "docker ") {
			continue
		}
		script.WriteString(code)
	}
	expected := 0
	commands := expecting.ReplaceAllStringFunc(script.String(), func(command string) string {
		expected++
		part := expecting.FindStringSubmatch(command)
		return fmt.Sprintf("printed=$(%s\n)\ncase $printed in *'%s'*) ;; *) echo 'want %[2]s, got '\"$printed\" >&2; exit 1 ;; esac", part[1], part[2])
	})
	require.Equal(t, 19, expected, "commands that show what they print")

	shell := exec.CommandContext(t.Context(), "sh", "-eu")
	shell.Dir, shell.Env = dir, env
	shell.Stdin = strings.NewReader("trap 'kill $!' EXIT\n" + commands)
	output, err := shell.CombinedOutput()
	require.NoError(t, err, "%s", output)
	assert.Contains(t, string(output), "FF-100231", "the orders that the app prints")
}

// TestSandboxGoTest runs the Go test of docs/sandbox.md with the apps in Go and in shell, without
// a Vault program: the page says that apps need none.
func TestSandboxGoTest(t *testing.T) {
	page, dir, env := sandboxPage(t)
	_, code, found := strings.Cut(page, "\n```go\n")
	require.True(t, found)
	code, _, _ = strings.Cut(code, "\n```\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "shop_test.go"), []byte(code+"\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module shop\n\ngo 1.25\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "vault"), []byte("#!/bin/sh\necho 'there is no Vault here' >&2\nexit 1\n"), 0o700))
	passes := func() {
		t.Helper()
		test := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-v", ".")
		test.Dir, test.Env = dir, env
		output, err := test.CombinedOutput()
		require.NoError(t, err, "%s", output)
		assert.Contains(t, string(output), "--- PASS: TestRetriesAfterA401")
	}
	passes()
	if has(t, "curl") {
		shell, err := filepath.Abs(filepath.Join(root, "examples/app/orders.sh"))
		require.NoError(t, err)
		require.NoError(t, os.Remove(filepath.Join(dir, "your-app")))
		require.NoError(t, os.Symlink(shell, filepath.Join(dir, "your-app")))
		passes()
	}
}

// TestSandboxCompose runs the two services of examples/sandbox as processes.
func TestSandboxCompose(t *testing.T) {
	_, dir, env := sandboxPage(t)
	content, err := os.ReadFile(filepath.Join(root, "examples/sandbox/compose.yaml"))
	require.NoError(t, err)
	var file struct {
		Services map[string]struct {
			Command, Volumes []string
			User             string
		}
		Volumes map[string]any
	}
	require.NoError(t, yaml.Unmarshal(content, &file))
	sandbox, app := file.Services["fuuffy"], file.Services["orders"]
	require.Contains(t, file.Volumes, "sandbox")
	require.Equal(t, "sandbox:/sandbox", sandbox.Volumes[0])
	require.Equal(t, sandbox.Volumes[0], app.Volumes[0])
	require.Equal(t, sandbox.User, app.User, "the token is readable by its owner only")

	here := strings.NewReplacer(
		"/sandbox", filepath.Join(dir, "sandbox"), "/app/", root+"/examples/app/",
		"-name=fuuffy", "-name=localhost", "=:8443", "=127.0.0.1:0", "=:8080", "=127.0.0.1:0",
	)
	arguments := func(command []string) (replaced []string) {
		for _, argument := range command {
			replaced = append(replaced, here.Replace(argument))
		}
		return replaced
	}
	server := exec.CommandContext(t.Context(), filepath.Join(dir, "fuuffy-sandbox"), arguments(sandbox.Command)...)
	server.Env = env
	require.NoError(t, server.Start())
	t.Cleanup(func() { _ = server.Wait() }) // Its context has ended by then.
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, "sandbox", "addresses.env"))
		return err == nil
	}, time.Minute, 50*time.Millisecond, "the sandbox is not ready")
	if !has(t, "python3") {
		return
	}
	command := arguments(app.Command)
	client := exec.CommandContext(t.Context(), command[0], command[1:]...)
	client.Env = env
	output, err := client.CombinedOutput()
	require.NoError(t, err, "%s", output)
	assert.Contains(t, string(output), "FF-100231")
}
