// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// build builds the program from source into a directory. It overrides GOFLAGS, because other
// flags would make Go compile everything again. An empty GOFLAGS would let "go env -w" apply.
func (p *program) build(ctx context.Context, into, logFile string) error {
	p.say("building %s %s from source instead. This takes %s on two cores, once per user", p.product, p.version, p.source.duration)
	log, err := os.Create(logFile)
	if err != nil {
		return cannotWrite(err)
	}
	defer log.Close()
	built := filepath.Join(into, p.name)
	command := exec.CommandContext(ctx, "go", "build", "-mod=readonly", p.source.flag, "-o", built, p.source.command)
	command.Dir = p.source.module
	command.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOWORK=off")
	command.Stdout, command.Stderr = log, log
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) } // Go then removes its temporary files.
	command.WaitDelay = 10 * time.Second

	stop := keepSaying(func(elapsed time.Duration) { p.say("still building, %v so far", elapsed) })
	err = command.Run()
	stop()
	if err == nil && p.versionOf(ctx, built) == "" {
		err = fmt.Errorf("%s doesn't run", p.name)
	}
	if err != nil {
		return fmt.Errorf("the build failed: %w. The end of %s:\n%s\n"+
			"Fix the cause (usually the network, a full disk, or an old Go), and run this again. Go keeps what it has compiled.%s",
			err, logFile, lastLines(logFile, 20), p.alternative())
	}
	return nil
}

// alternative says how to avoid a download and a build.
func (p *program) alternative() string {
	if p.variable == "" {
		return ""
	}
	return fmt.Sprintf(" Or install %s %s or newer in PATH, or name it in %s.", p.name, p.oldest, p.variable)
}

// lastLines returns the last n lines of a file, indented.
func lastLines(file string, n int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "    " + err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-n):], "\n    ")
}
