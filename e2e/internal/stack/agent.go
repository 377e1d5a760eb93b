// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"fmt"
	"os"
)

// Agent is a running `vault agent`.
type Agent struct {
	// LogFile has all that the Agent ever wrote, and the app that it runs.
	LogFile string

	process *process
}

// StartAgent starts a Vault Agent and returns at once: without a Vault to talk to
// it would go on trying.
func (s *Stack) StartAgent(binary, config, logFile string) (*Agent, error) {
	p, err := s.start(logFile, binary, "agent", "-config="+config)
	if err != nil {
		return nil, fmt.Errorf("start Vault Agent: %w", err)
	}
	return &Agent{LogFile: logFile, process: p}, nil
}

// Running tells whether it has not ended of itself.
func (a *Agent) Running() bool { return a.process.running() }

// AwaitLog waits until the Agent has logged text.
func (a *Agent) AwaitLog(ctx context.Context, text string) error {
	return a.process.awaitLog(ctx, 0, text)
}

// Log returns what the Agent wrote so far.
func (a *Agent) Log() (string, error) {
	log, err := os.ReadFile(a.LogFile)
	return string(log), err
}

// LogTail returns the last lines of the log.
func (a *Agent) LogTail() string { return logTail(a.LogFile, 25) }
