// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"fmt"
	"os"
)

// Agent is a running `vault agent`.
type Agent struct {
	// LogFile has everything that the Agent wrote, and the app that it runs.
	LogFile string

	process *process
}

// StartAgent starts a Vault Agent and returns immediately: without a Vault, the Agent would
// retry forever.
func (s *Stack) StartAgent(binary, config, logFile string) (*Agent, error) {
	p, err := s.start(logFile, binary, "agent", "-config="+config)
	if err != nil {
		return nil, fmt.Errorf("start Vault Agent: %w", err)
	}
	return &Agent{LogFile: logFile, process: p}, nil
}

// Running tells whether the Agent is still running.
func (a *Agent) Running() bool { return a.process.running() }

// AwaitLog waits until the Agent has logged text.
func (a *Agent) AwaitLog(ctx context.Context, text string) error {
	return a.process.awaitLog(ctx, 0, text)
}

// Log returns what the Agent has written so far.
func (a *Agent) Log() (string, error) {
	log, err := os.ReadFile(a.LogFile)
	return string(log), err
}

// LogTail returns the last lines of the log.
func (a *Agent) LogTail() string { return logTail(a.LogFile, 25) }
