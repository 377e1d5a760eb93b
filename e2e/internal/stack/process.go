// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// stopGrace is how long a process has to end after SIGTERM.
const stopGrace = 20 * time.Second

// process is a program in its own process group. So Ctrl-C reaches it only through us, in the
// order in which we end things, and we can also end what it started (Vault starts the plugin).
type process struct {
	command *exec.Cmd
	logFile string
	// leash ends the group if this process dies first.
	leash *exec.Cmd
	held  io.WriteCloser
	// ended is closed when the program has ended, at endedAt.
	ended   chan struct{}
	endedAt time.Time
	killed  bool
}

func startProcess(dir, logFile, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()

	command := exec.Command(program, args...)
	command.Dir = dir
	// A killed plugin leaves its socket behind. Keep it inside the directory.
	command.Env = append(os.Environ(), "TMPDIR="+dir)
	command.Stdout = log
	command.Stderr = log
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	p := &process{command: command, logFile: logFile, ended: make(chan struct{})}
	go func() {
		// Callers only need to know that it ended. Its log says how.
		_ = command.Wait()
		p.endedAt = time.Now()
		close(p.ended)
	}()
	if err := p.tie(dir); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

// tie starts a shell that reads a line from a pipe. We write the line when we have ended the
// process. If the pipe closes without it, this program died (SIGKILL, or a test timeout), so
// the shell ends the group and removes the directory, and what disks are mounted there.
func (p *process) tie(dir string) error {
	const script = `read -r _ || { kill -s KILL -- "-$1"; umount -l "$2"/*/data 2>/dev/null; rm -rf -- "$2"; }`
	p.leash = exec.Command("sh", "-c", script, "leash", fmt.Sprint(p.pid()), dir)
	p.leash.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	held, err := p.leash.StdinPipe()
	if err != nil {
		return fmt.Errorf("tie process: %w", err)
	}
	p.held = held
	if err := p.leash.Start(); err != nil {
		return fmt.Errorf("tie process: %w", err)
	}
	return nil
}

func (p *process) pid() int { return p.command.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop sends SIGTERM, waits, and kills what is left of the group.
func (p *process) stop() {
	if p.running() {
		// An error means that it just ended.
		_ = p.command.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(stopGrace):
		}
	}
	p.kill()
}

// kill ends the whole group with SIGKILL. Calling it again does nothing.
func (p *process) kill() {
	if p.killed {
		return
	}
	p.killed = true
	// An error means that the group is empty.
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	<-p.ended
	if p.held != nil {
		_, _ = io.WriteString(p.held, "\n")
		_ = p.leash.Wait()
	}
}

// awaitLog waits until the program's log contains text after its first skip bytes.
func (p *process) awaitLog(ctx context.Context, skip int64, text string) error {
	return Eventually(ctx, fmt.Sprintf("%q in %s", text, p.logFile), func() error {
		running := p.running()
		log, err := os.ReadFile(p.logFile)
		switch {
		case err != nil:
			return fmt.Errorf("read log: %w", err)
		case bytes.Contains(log[skip:], []byte(text)):
			return nil
		case !running:
			return errEnded
		default:
			return errors.New("not there yet")
		}
	})
}

// errEnded says that a program ended, so there is no point in waiting for it.
var errEnded = errors.New("the program has ended")

// logTail returns the last lines of a log, for error messages.
func logTail(logFile string, lines int) string {
	log, err := os.ReadFile(logFile)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(log), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
