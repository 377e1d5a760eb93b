// SPDX-License-Identifier: MPL-2.0

// Package stack runs the real programs that the end-to-end tests and the demo need: a Vault
// server with the plugin, and the Fuuffy sandbox.
package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Stack is a temporary directory and the processes that work in it.
type Stack struct {
	// Dir is the directory. Close removes it.
	Dir string
	// Advertise, if set, returns the address that a node announces to the cluster instead of
	// the one it listens on.
	Advertise func(clusterAddress string) (string, error)
	// OwnDisks gives each server a small disk for its data. It takes OwnMounts.
	OwnDisks bool

	processes []*process
	// vaults counts the servers, to number their names.
	vaults int
}

// New makes an empty stack.
func New() (*Stack, error) {
	dir, err := os.MkdirTemp("", "fuuffy-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the stack: %w", err)
	}
	// Vault rejects a plugin directory behind a symbolic link, and the temporary directory of
	// macOS is behind one.
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("resolve the directory of the stack: %w", err)
	}
	return &Stack{Dir: dir}, nil
}

// Close ends all processes, the latest first, and removes the directory.
func (s *Stack) Close() {
	for i := len(s.processes) - 1; i >= 0; i-- {
		s.processes[i].stop()
	}
	if s.OwnDisks {
		s.unmountDisks()
	}
	os.RemoveAll(s.Dir)
}

// start runs a program in the stack's directory and appends its output to logFile.
func (s *Stack) start(logFile, program string, args ...string) (*process, error) {
	p, err := startProcess(s.Dir, logFile, program, args...)
	if err != nil {
		return nil, err
	}
	s.processes = append(s.processes, p)
	return p, nil
}

// ClearEnvironment unsets the variables that would make this process, or one that it starts,
// talk to a Vault or a Fuuffy outside the stack.
func ClearEnvironment() {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "VAULT_") || strings.HasPrefix(name, "BAO_") || strings.HasPrefix(name, "FUUFFY_") {
			os.Unsetenv(name)
		}
	}
}

// patience is how long Eventually waits: far longer than anything should take, so that only
// something that never happens fails.
const patience = time.Minute

// Eventually calls check until it returns nil. If it never does, the error says what it waited
// for and what check returned last.
func Eventually(ctx context.Context, awaited string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if errors.Is(err, errEnded) {
			return fmt.Errorf("wait for %s: %w", awaited, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", awaited, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}
