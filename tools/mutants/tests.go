// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// program is the test program of one package.
type program struct{ folder, file string }

// run runs the program with a mutant, and tells whether a test failed or hung.
func (p *program) run(number string, limit time.Duration, args ...string) (noticed bool, output []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	command := exec.CommandContext(ctx, p.file, append([]string{"-test.failfast", "-test.timeout", limit.String()}, args...)...)
	command.Dir = p.folder
	command.Env = append(os.Environ(), "MUTANT="+number)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = 10 * time.Second
	output, err := command.CombinedOutput()
	return err != nil, output
}

// test is one test of the engine.
type test struct {
	folder, name string
	takes        time.Duration
	// ran tells of each block of code whether the test runs it.
	ran map[block]bool
}

// block is code that runs from its beginning to its end, as Go's coverage divides a file.
type block struct {
	file       string
	begin, end position
}

// position counts lines and columns from 1.
type position struct{ line, column int }

func (p position) before(o position) bool {
	return p.line < o.line || p.line == o.line && p.column < o.column
}

// profile runs each test alone, to learn how long it takes and what it runs.
func profile(dir string) ([]*test, error) {
	fmt.Println("running each test alone, to learn what it reaches: a minute or two")
	engine := []string{".", "internal/tokencache", "internal/upstream", "internal/rotation", "internal/advice"}
	var tests []*test
	for _, folder := range append(engine, "scenarios", "scenarios/histories") {
		p := &program{folder, filepath.Join(dir, "cover-"+flat(folder))}
		output, err := exec.Command("go", "test", "-c", "-vet=off", "-cover", "-coverpkg", "./"+strings.Join(engine, ",./"), "-o", p.file, "./"+folder).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("build the tests: %w\n%s", err, output)
		}
		if _, err := os.Stat(p.file); err != nil {
			continue // The package has no tests of its own.
		}
		if output, err = exec.Command(p.file, "-test.list", ".").Output(); err != nil {
			return nil, fmt.Errorf("list the tests: %w", err)
		}
		for _, name := range strings.Fields(string(output)) {
			if !strings.HasPrefix(name, "Benchmark") {
				tests = append(tests, &test{folder: folder, name: name})
			}
		}
	}
	var group errgroup.Group
	group.SetLimit(4) // Many only wait.
	for _, t := range tests {
		group.Go(func() (err error) {
			p := &program{t.folder, filepath.Join(dir, "cover-"+flat(t.folder))}
			cover, begin := filepath.Join(dir, flat(t.folder)+t.name), time.Now()
			if failed, output := p.run("none", longest, "-test.run", only(t.name), "-test.coverprofile", cover); failed {
				return fmt.Errorf("%s fails without a mutant:\n%s", t.name, output)
			}
			t.takes = time.Since(begin)
			t.ran, err = readCoverage(cover)
			return err
		})
	}
	return tests, group.Wait()
}

// longest is what a test may take: one that takes longer hangs.
const longest = 4 * time.Minute

// readCoverage reads what go test -coverprofile writes.
func readCoverage(file string) (map[block]bool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	ran := map[block]bool{}
	_, lines, _ := strings.Cut(string(text), "\n") // The first is the mode.
	for line := range strings.Lines(lines) {
		name, rest, _ := strings.Cut(line, ":")
		var b block
		var statements, count int
		if _, err := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d", &b.begin.line, &b.begin.column, &b.end.line, &b.end.column, &statements, &count); err != nil {
			return nil, fmt.Errorf("read coverage: %q: %w", line, err)
		}
		b.file = strings.TrimPrefix(name, module)
		ran[b] = ran[b] || count > 0
	}
	return ran, nil
}

// module is the path of this module, as it is in what Go's coverage writes.
const module = "github.com/fuuffy/vault-plugin-secrets-fuuffy/"

// reaching returns the tests that run what the mutant changes, the quickest first.
func (m *mutant) reaching(tests []*test) []*test {
	changed, found := m.block(tests)
	reaching := slices.DeleteFunc(slices.Clone(tests), func(t *test) bool { return found && !t.ran[changed] })
	slices.SortFunc(reaching, func(a, b *test) int { return cmp.Compare(a.takes, b.takes) })
	return reaching
}

// block returns the smallest block with the mutant in it. The expressions of a case are in
// none.
func (m *mutant) block(tests []*test) (smallest block, found bool) {
	for _, t := range tests {
		for b := range t.ran {
			in := b.file == m.file && !m.at.before(b.begin) && m.at.before(b.end)
			if in && (!found || smallest.begin.before(b.begin)) {
				smallest, found = b, true
			}
		}
	}
	return smallest, found
}

// noticedBy runs the tests that reach a mutant until one fails, and returns its package. It is
// empty if none fails.
func (m *mutant) noticedBy(programs map[string]*program, tests []*test, number string) string {
	for _, round := range rounds(m.reaching(tests)) {
		for folder, p := range programs {
			var names []string
			takes := time.Duration(0)
			for _, t := range round {
				if t.folder == folder {
					names = append(names, t.name)
					takes += t.takes
				}
			}
			if len(names) == 0 {
				continue
			}
			if noticed, _ := p.run(number, min(longest, 20*time.Second+10*takes), "-test.run", only(names...)); noticed {
				return folder
			}
		}
	}
	return ""
}

// rounds divides tests so that those of the first round take about a second, and those of each
// later one about four times as long as the round before.
func rounds(tests []*test) (divided [][]*test) {
	for most := time.Second; len(tests) > 0; most *= 4 {
		count, takes := 1, tests[0].takes
		for count < len(tests) && takes+tests[count].takes <= most {
			takes += tests[count].takes
			count++
		}
		divided, tests = append(divided, tests[:count]), tests[count:]
	}
	return divided
}

// only is the value of -test.run for some tests.
func only(names ...string) string { return "^(" + strings.Join(names, "|") + ")$" }
