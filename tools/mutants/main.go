// SPDX-License-Identifier: MPL-2.0

// Command mutants changes the engine in one place at a time and runs the tests. If no test
// notices a change, a test is missing, unless the change makes no difference.
//
// It builds all changes of a run into the test programs together, and MUTANT selects one. The
// checkout stays untouched: Go takes the changed files from an overlay.
package main

import (
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// targets are the files to change: the core packages, and how the rotation uses them.
var targets = []string{
	"internal/tokencache/*.go", "internal/upstream/*.go", "internal/rotation/*.go", "internal/advice/*.go",
	"path_rotate.go", "path_check.go", "pair_records.go", "view.go", "change.go", "client.go",
}

// equivalents names the mutants that no test can notice, and why.
//
//go:embed equivalents.txt
var equivalents string

func main() {
	number := flag.Int("n", 40, "how many mutants to try (0: all)")
	seed := flag.Uint64("seed", 0, "which ones (0: others each time)")
	shard := flag.String("shard", "1/1", "which share of the mutants to choose from, such as 3/7")
	only := flag.String("only", "", "try only mutants whose names contain this")
	list := flag.Bool("list", false, "list the mutants and try none")
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(rand.Uint32())
	}
	if err := run(*number, *seed, *shard, *only, *list); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(number int, seed uint64, shard, only string, list bool) error {
	all, err := allMutants()
	if err != nil {
		return err
	}
	known, err := readEquivalents(equivalents, all)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(m *mutant) bool { return known[m.name()] || !strings.Contains(m.name(), only) })
	if list {
		for _, m := range all {
			fmt.Println(m)
		}
		return nil
	}
	if exec.Command("go", "build", "-race", "runtime/cgo").Run() != nil {
		fmt.Println("There is no working C compiler, so there is no race detector, and what is locked stays as it is.")
		all = slices.DeleteFunc(all, (*mutant).locks)
	}
	every := len(all)
	if all, err = share(all, shard); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(seed, 0))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if number == 0 {
		number = len(all)
	}
	fmt.Printf("%d mutants, and %d that no test can notice; the share %s has %d; trying %d, -seed %d\n", every, len(known), shard, len(all), min(number, len(all)), seed)

	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tests, err := profile(dir)
	if err != nil {
		return err
	}
	var survivors []*mutant
	tried := 0
	for _, race := range []bool{false, true} {
		rest := slices.DeleteFunc(slices.Clone(all[:min(number, len(all))]), func(m *mutant) bool { return m.locks() != race })
		for len(rest) > 0 {
			var batch []*mutant
			batch, rest = disjoint(rest)
			survived, built, err := tryAll(dir, tests, batch, race)
			if err != nil {
				return err
			}
			tried += built
			survivors = append(survivors, survived...)
		}
	}
	fmt.Printf("noticed: %d of %d; %d others don't compile\n", tried-len(survivors), tried, min(number, len(all))-tried)
	for _, m := range survivors {
		fmt.Println("noticed by no test:", m)
	}
	if len(survivors) > 0 {
		return errors.New("test what the others change, or say in tools/mutants/equivalents.txt why they change nothing")
	}
	return nil
}

// share returns every n-th mutant, beginning with the k-th, for a shard k/n. So all shares
// together have each mutant once.
func share(all []*mutant, shard string) (shared []*mutant, err error) {
	var k, n int
	if _, err := fmt.Sscanf(shard, "%d/%d", &k, &n); err != nil || k < 1 || k > n {
		return nil, fmt.Errorf("-shard %s: write it like 3/7, from 1/7 to 7/7", shard)
	}
	for i := k - 1; i < len(all); i += n {
		shared = append(shared, all[i])
	}
	return shared, nil
}

// disjoint picks mutants that can be built together, because they don't overlap.
func disjoint(all []*mutant) (picked, rest []*mutant) {
	for _, m := range all {
		if !slices.ContainsFunc(picked, m.overlaps) {
			picked = append(picked, m)
		} else {
			rest = append(rest, m)
		}
	}
	return picked, rest
}

// allMutants returns the mutants of all targets.
func allMutants() (mutants []*mutant, err error) {
	for _, pattern := range targets {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			return nil, fmt.Errorf("%s: no such file: run this in the root of the repository", pattern)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
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
func readEquivalents(text string, mutants []*mutant) (map[string]bool, error) {
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

// tryAll runs the tests with each mutant, and returns those that no test noticed, and how many
// compile.
func tryAll(dir string, tests []*test, mutants []*mutant, race bool) (survivors []*mutant, tried int, err error) {
	programs, together, rest, err := build(dir, folders(tests), mutants, race)
	if err != nil {
		return nil, 0, err
	}
	// Tests that fail without a mutant would notice every mutant.
	for _, p := range programs {
		if failed, output := p.run("none", 4*longest); failed {
			return nil, 0, fmt.Errorf("the tests of %s fail without a mutant:\n%s", p.folder, output)
		}
	}
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	var mu sync.Mutex
	try := func(m *mutant, programs map[string]*program, number string) {
		by := m.noticedBy(programs, tests, number)
		mu.Lock()
		defer mu.Unlock()
		tried++
		if by == "" {
			survivors = append(survivors, m)
			by = "NO TEST"
		}
		fmt.Printf("noticed by %-19s %s\n", by, m)
	}
	for i, m := range together {
		group.Go(func() error {
			try(m, programs, strconv.Itoa(i))
			return nil
		})
	}
	for _, m := range rest {
		group.Go(func() error {
			reaching := folders(m.reaching(tests))
			if len(reaching) == 0 {
				reaching = folders(tests)
			}
			alone, err := os.MkdirTemp(dir, "alone-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(alone)
			programs, err := buildAlone(alone, reaching, m, race)
			if programs != nil {
				try(m, programs, "alone")
			}
			return err
		})
	}
	err = group.Wait()
	return survivors, tried, err
}

// folders are those of the packages that have tests.
func folders(tests []*test) (found []string) {
	for _, t := range tests {
		if !slices.Contains(found, t.folder) {
			found = append(found, t.folder)
		}
	}
	return found
}
