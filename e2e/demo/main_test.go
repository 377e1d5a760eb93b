// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

var programs stack.Programs

func TestMain(m *testing.M) {
	var err error
	if programs, err = stack.ProgramsToTest(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func demoOptions() options {
	return options{vault: programs.Vault, plugin: programs.Plugin, sandbox: programs.Sandbox}
}

// screen is where the demo writes while the test reads.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func TestDemo(t *testing.T) {
	t.Parallel()
	var out screen
	require.NoError(t, run(t.Context(), demoOptions(), &out), "%s", &out)

	// In this order, among other things.
	rest := out.String()
	for _, expected := range []string{
		"=== 1. ", "Storage Type            raft", "OK: Vault is unsealed",
		"=== 2. ", "\n$ vault plugin register -command=", "\n$ vault secrets enable fuuffy\n", "OK: " + programs.PluginVersion,
		"=== 3. ", "client_secret=- ", "Success! Data written to: fuuffy/config", "OK: ",
		"=== 4. ", "\n$ vault read fuuffy/config\n", "OK: The secret isn't there.",
		"=== 5. ", "access_token ", "access_token ", "OK: The same token both times. The sandbox counted 1 token request",
		"=== 6. ", "\n$ cat agent.hcl\n", "\n$ vault agent -config=agent.hcl &\n", "\n$ cat token\nsk-", "\nOK: The file has the token.",
		"=== 7. ", "HTTP 200 ", "FF-100231", "OK: ",
		"=== 8. ", "invalid_client", "HTTP 200 ", "OK: ",
		"=== 9. ", "HTTP 401 ", "invalid_token", "rejected_token=-\n", "HTTP 200 ", "OK: ", "with 1 more token request",
		"=== 10. ", "access_token ", "Fuuffy returned 503: ", "health ", "failing", "next_step ", "current ", "works", "health ", "ok", "access_token ", "OK: ",
		"=== 11. ", "Nothing was changed", "staged_client_id ", "idle ──stage──▶ [staged] ──promote──▶ promoted", "state  ", "promoted", "[promoted]", "HTTP 200 ", "OK: ",
		"=== 12. ", "Not completed: Fuuffy still accepts client", "completed", "──complete──▶ [idle]", "HTTP 200 ", "OK: ",
		"=== 13. ", "\n$ vault secrets disable fuuffy\n", "OK: Nothing is left.",
		"Every step did what it said", "\n  make dev ", "\n  bin/fuuffy-sandbox -agent ", "\n  make build VERSION=v0.1.0 ",
	} {
		_, after, found := strings.Cut(rest, expected)
		require.Truef(t, found, "%q is missing, or not in its place, in:\n%s", expected, &out)
		rest = after
	}
	assert.NotRegexp(t, `We wait about (1[4-9]|[2-9]\d|\d{3,}) seconds`, out.String())
}

// A step that does not do what it says ends the demo with what was expected, what
// came instead, and Vault's log. Here the plugin is a program that is none.
func TestFailingStep(t *testing.T) {
	t.Parallel()
	o := demoOptions()
	o.plugin = o.sandbox
	var out screen
	err := run(t.Context(), o, &out)

	require.Error(t, err)
	for _, expected := range []string{"step 2", "Register and enable", "expected: exit status 0", "saw:      2", "The end of Vault's log:\n"} {
		assert.ErrorContains(t, err, expected)
	}
	assert.NotContains(t, out.String(), "=== 3.")
	assertGone(t, &out)
}

// With -stay the engine is ready to be tried until someone ends it.
func TestStay(t *testing.T) {
	t.Parallel()
	o := demoOptions()
	o.stay = true
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var out screen
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, o, &out) }()

	require.NoError(t, stack.Eventually(t.Context(), "the demo to be ready", func() error {
		if !strings.Contains(out.String(), "Press Ctrl-C") {
			return fmt.Errorf("it has written:\n%s", &out)
		}
		return nil
	}))
	assert.Regexp(t, `\n  export VAULT_TOKEN=(hvs|s)\.`, out.String())
	assert.NotContains(t, out.String(), "=== 4.")
	_, folder, _ := strings.Cut(out.String(), "cd ")
	folder, _, _ = strings.Cut(folder, "\n")
	agent, endAgent := context.WithCancel(t.Context())
	command := exec.CommandContext(agent, programs.Vault, "agent", "-config=agent.hcl")
	command.Dir = folder
	require.NoError(t, command.Start())
	assert.NoError(t, stack.Eventually(t.Context(), "the Agent to write the token", func() error {
		_, err := os.Stat(filepath.Join(folder, "token"))
		return err
	}))
	endAgent()
	_ = command.Wait()
	interrupt()
	require.NoError(t, <-ended)
	assertGone(t, &out)
}

// The cache with Vault may have a space in its path.
func TestQuoted(t *testing.T) {
	assert.Equal(t, "/home/me/.cache/vault-1.21.2", quoted("/home/me/.cache/vault-1.21.2"))
	for _, path := range []string{"/home/me/a cache", "/it's/$HOME"} {
		output, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+quoted(path)).Output()
		require.NoError(t, err)
		assert.Equal(t, path, string(output))
	}
}

// An interruption is no failure of the step that it meets.
func TestInterruption(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	var out screen
	assert.ErrorIs(t, run(ctx, demoOptions(), &out), errInterrupted)
}

// assertGone asserts that the demo's folder was removed.
func assertGone(t *testing.T, out *screen) {
	t.Helper()
	_, after, _ := strings.Cut(out.String(), "cd ")
	folder, _, _ := strings.Cut(after, "\n")
	require.NotEmpty(t, folder)
	assert.NoDirExists(t, folder)
}
