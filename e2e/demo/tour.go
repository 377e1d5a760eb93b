// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// tour is what the steps share.
type tour struct {
	options
	out     io.Writer
	stack   *stack.Stack
	vaultd  *stack.Vault
	fuuffy  *stack.Sandbox // nil: Fuuffy's testing environment
	baseURL string
	caCert  string // PEM; empty: the system's certificates
	token   string // what the app holds
	issued  time.Time
}

// mismatch is a check that failed.
type mismatch struct{ expected, saw string }

func (m *mismatch) Error() string {
	return fmt.Sprintf("expected %s, saw %s", m.expected, m.saw)
}

// expect is nil if what was expected holds.
func expect(holds bool, expected, saw string) error {
	if holds {
		return nil
	}
	return &mismatch{expected, saw}
}

// failure says which step failed and how, with the end of Vault's log.
func (t *tour) failure(number int, title string, err error) error {
	saw, expected := err.Error(), "no error"
	if m, ok := errors.AsType[*mismatch](err); ok {
		saw, expected = m.saw, m.expected
	}
	text := fmt.Sprintf("step %d, %q, failed\n  expected: %s\n  saw:      %s", number, title, expected, saw)
	if t.vaultd != nil {
		text += "\nThe end of Vault's log:\n" + t.vaultd.LogTail()
	}
	return errors.New(text)
}

func (t *tour) printf(format string, a ...any) { fmt.Fprintf(t.out, format, a...) }

// say prints what is about to happen; passed what was just proved.
func (t *tour) say(format string, a ...any)    { t.printf(format+"\n", a...) }
func (t *tour) passed(format string, a ...any) { t.printf("OK: "+format+"\n", a...) }

// shell echoes a command as a person would type it, runs it, shows its output and
// checks its exit status.
func (t *tour) shell(ctx context.Context, status int, line string) (string, error) {
	t.printf("\n$ %s\n", line)
	command := exec.CommandContext(ctx, "sh", "-c", line)
	command.Dir = t.stack.Dir
	command.Env = append(os.Environ(), t.environment()...)
	command.WaitDelay = 5 * time.Second
	var output strings.Builder
	command.Stdout = io.MultiWriter(t.out, &output)
	command.Stderr = command.Stdout
	err := command.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return "", fmt.Errorf("run %s: %w", line, err)
	}
	if output.Len() > 0 && !strings.HasSuffix(output.String(), "\n") {
		t.printf("\n")
	}
	got := command.ProcessState.ExitCode()
	return output.String(), expect(got == status,
		fmt.Sprintf("exit status %d of %s", status, line), fmt.Sprintf("%d, with the output above", got))
}

// shows runs a command as shell does, and checks that its output matches a pattern.
func (t *tour) shows(ctx context.Context, status int, line, pattern, expected string) error {
	output, err := t.shell(ctx, status, line)
	if err != nil {
		return err
	}
	return expect(regexp.MustCompile(pattern).MatchString(output), expected, "the output above")
}

// write writes files for the commands.
func (t *tour) write(files map[string]string) error {
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(t.stack.Dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// environment is what the commands need besides the usual.
func (t *tour) environment() []string {
	return append(t.vaultd.Environment(), "FUUFFY_CLIENT_ID="+t.clientID, "FUUFFY_CLIENT_SECRET="+t.clientSecret)
}

// printExports shows what makes another shell the same as the demo's.
func (t *tour) printExports(prompt string) {
	t.printf("\n%[1]scd %[2]s\n%[1]sexport PATH=%[3]s:$PATH\n%[1]sexport VAULT_ADDR=%[4]s\n%[1]sexport VAULT_TOKEN=%[5]s\n",
		prompt, quoted(t.stack.Dir), quoted(filepath.Dir(t.vaultd.Binary)), t.vaultd.Address, t.vaultd.Client.Token())
}

// quoted is a path as a shell takes it. Most need no quotes.
func quoted(path string) string {
	if regexp.MustCompile(`^[\w./:@%+,-]+$`).MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// read reads the token as an app does.
func (t *tour) read(ctx context.Context) error {
	output, err := t.shell(ctx, 0, "vault read fuuffy/token")
	if err != nil {
		return err
	}
	return t.take(output)
}

// readSame reads the token, which must be the one that the app has.
func (t *tour) readSame(ctx context.Context) error {
	held := t.token
	if err := t.read(ctx); err != nil {
		return err
	}
	return expect(t.token == held, "still the token "+short(held), short(t.token))
}

// take keeps the token of an answer, and when it was issued.
func (t *tour) take(output string) error {
	t.token = field(output, "access_token")
	issued, err := time.Parse(time.RFC3339, field(output, "last_vault_rotation"))
	t.issued = issued
	return expect(t.token != "" && err == nil, "access_token and last_vault_rotation in the answer", "the output above")
}

// field returns a value of the table that vault prints, or nothing.
func field(output, name string) string {
	match := regexp.MustCompile(`(?m)^` + name + `\s+(\S+)$`).FindStringSubmatch(output)
	if match == nil {
		return ""
	}
	return match[1]
}

// short is for our own sentences: enough of a token to tell it from another.
func short(token string) string { return token[:min(len(token), 9)] + "…" }

// orders uses the token as an app does, and checks what Fuuffy answers.
func (t *tour) orders(ctx context.Context, status int) error {
	trust := ""
	if t.caCert != "" {
		trust = "--cacert ca.pem "
	}
	t.printf("\n# The same as: curl %s-H \"Authorization: Bearer %s\" %s/orders\n", trust, short(t.token), t.baseURL)
	got, body, err := stack.Orders(ctx, t.baseURL, t.caCert, t.token)
	if err != nil {
		return err
	}
	const shown = 120
	if len(body) > shown {
		body = body[:shown] + "…"
	}
	t.printf("HTTP %d %s\n", got, strings.TrimSpace(body))
	if t.realFuuffy() {
		// What the account may do is not the engine's business.
		return expect(got != 401, "anything but HTTP 401", fmt.Sprintf("HTTP %d", got))
	}
	return expect(got == status, fmt.Sprintf("HTTP %d", status), fmt.Sprintf("HTTP %d", got))
}

// tokenRequests returns how often the sandbox was asked for a token.
func (t *tour) tokenRequests(ctx context.Context) (int, error) {
	stats, err := t.fuuffy.Stats(ctx)
	return stats.TokenRequests, err
}
