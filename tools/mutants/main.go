// SPDX-License-Identifier: MPL-2.0

// Command mutants changes the engine in one place at a time and runs the tests. A change
// that no test notices is a test that is missing, unless the change changes nothing.
// The checkout stays as it is: Go builds the changed file from an overlay.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// targets are the files to change: the two packages at the heart, and the rotation.
var targets = []string{
	"internal/tokencache/*.go", "internal/upstream/*.go",
	"rotation.go", "rotation_steps.go", "path_rotate.go", "change.go", "client.go",
}

// equivalents names the mutants that change nothing, and why.
//
//go:embed equivalents.txt
var equivalents string

// slow are the tests of the engine that take seconds. They run last.
const slow = "^(TestHistories|TestChaos|TestFleet|TestDay|TestRotationCrashMatrix|TestReadersDuringARotation|TestFaultMatrix)$"

func main() {
	number := flag.Int("n", 20, "how many mutants to try (0: all)")
	seed := flag.Uint64("seed", 0, "which ones (0: others each time)")
	limit := flag.Duration("timeout", 5*time.Minute, "how long the tests may take: a mutant that hangs is noticed")
	only := flag.String("only", "", "try only mutants of files with this in their names")
	list := flag.Bool("list", false, "list the mutants and try none")
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(rand.Uint32())
	}
	if err := run(*number, *seed, *limit, *only, *list); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(number int, seed uint64, limit time.Duration, only string, list bool) error {
	mutants, err := allMutants(only)
	if err != nil {
		return err
	}
	known, err := readEquivalents(equivalents, mutants)
	if err != nil && only == "" {
		return err
	}
	if list {
		for _, m := range mutants {
			fmt.Printf("%s:%d: %s\n", m.file, m.line, m.name())
		}
		return nil
	}
	random := rand.New(rand.NewPCG(seed, 0))
	random.Shuffle(len(mutants), func(i, j int) { mutants[i], mutants[j] = mutants[j], mutants[i] })
	if number == 0 {
		number = len(mutants)
	}
	fmt.Printf("%d mutants, of which %d are known to change nothing; trying %d, -seed %d\n", len(mutants), len(known), number, seed)
	var noticed, survived int
	for _, m := range mutants {
		if noticed+survived == number {
			break
		}
		if known[m.name()] {
			continue
		}
		switch outcome, err := try(m, limit); {
		case err != nil:
			return err
		case outcome == lives:
			survived++
			fmt.Printf("NOT NOTICED  %s:%d: %s\n", m.file, m.line, m.name())
		case outcome == dead:
			noticed++
			fmt.Printf("noticed      %s:%d: %s\n", m.file, m.line, m.name())
		}
	}
	fmt.Printf("noticed: %d of %d\n", noticed, noticed+survived)
	if survived > 0 {
		return errors.New("test what these change, or say in tools/mutants/equivalents.txt why they change nothing")
	}
	return nil
}

// allMutants returns the mutants of all targets.
func allMutants(only string) (mutants []mutant, err error) {
	for _, pattern := range targets {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			return nil, fmt.Errorf("%s: no such file: run this in the root of the repository", pattern)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") || !strings.Contains(file, only) {
				continue
			}
			source, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			found, err := mutate(file, source)
			if err != nil {
				return nil, err
			}
			mutants = append(mutants, found...)
		}
	}
	return mutants, nil
}

// readEquivalents returns the names in the list. Each line has a name, and a reason
// after " // ". A name that no mutant has is an error: the code has changed.
func readEquivalents(text string, mutants []mutant) (map[string]bool, error) {
	names, known := map[string]bool{}, map[string]bool{}
	for _, m := range mutants {
		names[m.name()] = true
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, _ := strings.Cut(line, " // ")
		if reason == "" {
			return nil, fmt.Errorf("equivalents.txt: %q has no reason", name)
		}
		if !names[name] {
			return nil, fmt.Errorf("equivalents.txt: there is no mutant %q any more", name)
		}
		known[name] = true
	}
	return known, nil
}

type outcome int

const (
	// lives: the tests pass.
	lives outcome = iota
	// dead: a test fails.
	dead
	// stillborn: it does not compile.
	stillborn
)

// try runs the tests with a mutant, the quick ones first.
func try(m mutant, limit time.Duration) (outcome, error) {
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	changed := filepath.Join(dir, filepath.Base(m.file))
	if err := os.WriteFile(changed, m.source, 0o600); err != nil {
		return 0, err
	}
	file, err := filepath.Abs(m.file)
	if err != nil {
		return 0, err
	}
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
	if err != nil {
		return 0, err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		return 0, err
	}
	for _, part := range [][]string{
		{"./" + filepath.Dir(m.file), "-skip", slow},
		{".", "-skip", slow},
		{".", "-run", slow},
		{"./internal/..."},
	} {
		if o, err := test(overlay, limit, part); err != nil || o != lives {
			return o, err
		}
	}
	return lives, nil
}

func test(overlay string, limit time.Duration, part []string) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	command := exec.CommandContext(ctx, "go", append([]string{"test", "-vet=off", "-failfast", "-overlay", overlay}, part...)...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = 10 * time.Second
	output, err := command.CombinedOutput()
	_, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return lives, nil
	case strings.Contains(string(output), "[build failed]"), strings.Contains(string(output), "[setup failed]"):
		return stillborn, nil
	case failed, ctx.Err() != nil:
		return dead, nil
	}
	return 0, err
}
