// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// build builds the test programs with all mutants in them, and returns the mutants that
// can't be built in this way. race adds the race detector.
func build(dir string, folders []string, mutants []*mutant, race bool) (programs map[string]*program, together, rest []*mutant, err error) {
	together = mutants
	for {
		overlay, err := writeOverlay(dir, together)
		if err != nil {
			return nil, nil, nil, err
		}
		programs, problems, err := compile(dir, folders, overlay, race)
		if err != nil || len(problems) == 0 {
			return programs, together, rest, err
		}
		var good []*mutant
		for _, m := range together {
			if m.blamed(problems) {
				rest = append(rest, m)
			} else {
				good = append(good, m)
			}
		}
		if len(good) == len(together) {
			return nil, nil, nil, fmt.Errorf("build the tests: %s", problems)
		}
		together = good
	}
}

// buildAlone builds the test programs with one mutant, which needs no switch. Some mutants
// compile only in this way: without a switch, the 1 for the 0 of "age > 0" is a time.Duration.
// It returns no programs if the mutant doesn't compile.
func buildAlone(dir string, folders []string, m *mutant, race bool) (map[string]*program, error) {
	replace := map[string]string{}
	if err := put(dir, m.file, slices.Concat(m.source[:m.begin], []byte(m.to), m.source[m.end:]), replace); err != nil {
		return nil, err
	}
	overlay, err := saveOverlay(dir, replace)
	if err != nil {
		return nil, err
	}
	programs, problems, err := compile(dir, folders, overlay, race)
	switch {
	case err != nil || len(problems) == 0:
		return programs, err
	case complaint.Match(problems):
		return nil, nil
	}
	return nil, fmt.Errorf("build the tests with %s: %s", m, problems)
}

// compile builds the test programs with the files of an overlay, and returns what the
// compiler says if it can't.
func compile(dir string, folders []string, overlay string, race bool) (programs map[string]*program, problems []byte, err error) {
	programs = map[string]*program{}
	for _, folder := range folders {
		p := &program{folder, filepath.Join(dir, "test-"+flat(folder))}
		programs[folder] = p
		output, err := exec.Command("go", "test", "-c", "-vet=off", fmt.Sprintf("-race=%t", race), "-gcflags=-e", "-overlay", overlay, "-o", p.file, "./"+folder).CombinedOutput()
		if _, failed := errors.AsType[*exec.ExitError](err); failed {
			problems = append(problems, output...)
		} else if err != nil {
			return nil, nil, err
		}
	}
	return programs, problems, nil
}

// complaint is where the compiler found something wrong.
var complaint = regexp.MustCompile(`(?m)^(\S+\.go):(\d+):`)

// blamed tells whether the compiler complains about a line of the mutant.
func (m *mutant) blamed(problems []byte) bool {
	for _, found := range complaint.FindAllSubmatch(problems, -1) {
		line, _ := strconv.Atoi(string(found[2]))
		if filepath.Base(string(found[1])) == flat(m.file) && m.first <= line && line <= m.last {
			return true
		}
	}
	return false
}

// helper is added to each package. MUTANT names the active mutant.
const helper = `package %s

import mutantos "os"

var mutantInForce = mutantos.Getenv("MUTANT")

func mutantOn(number string) bool { return mutantInForce == number }

func mutantEither[T any](number string, mutated, original T) T {
	if mutantOn(number) {
		return mutated
	}
	return original
}
`

// writeOverlay writes the files with the mutants in them, and the overlay that makes Go use
// them.
func writeOverlay(dir string, mutants []*mutant) (string, error) {
	replace := map[string]string{}
	byFile := map[string][]*mutant{}
	for i, m := range mutants {
		m.number = strconv.Quote(strconv.Itoa(i))
		byFile[m.file] = append(byFile[m.file], m)
	}
	for file, changes := range byFile {
		text := weave(changes)
		name, _, _ := bytes.Cut(text[bytes.Index(text, []byte("\npackage "))+len("\npackage "):], []byte("\n"))
		if err := put(dir, file, text, replace); err != nil {
			return "", err
		}
		if err := put(dir, filepath.Join(filepath.Dir(file), "zz_mutants.go"), fmt.Appendf(nil, helper, name), replace); err != nil {
			return "", err
		}
	}
	return saveOverlay(dir, replace)
}

// put writes what replaces a file.
func put(dir, file string, content []byte, replace map[string]string) error {
	original, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	changed := filepath.Join(dir, flat(file))
	replace[original] = changed
	return os.WriteFile(changed, content, 0o600)
}

func saveOverlay(dir string, replace map[string]string) (string, error) {
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, text, 0o600)
}

// flat is the name of a file among those of all directories.
func flat(file string) string { return strings.ReplaceAll(file, "/", "-") }

// weave inserts the mutants of one file into its source.
func weave(changes []*mutant) []byte {
	slices.SortFunc(changes, func(a, b *mutant) int { return cmp.Compare(a.begin, b.begin) })
	source, done := changes[0].source, 0
	var text bytes.Buffer
	line := func() int { return 1 + bytes.Count(text.Bytes(), []byte("\n")) }
	for _, m := range changes {
		text.Write(source[done:m.begin])
		m.first = line()
		text.WriteString(m.guarded())
		m.last = line()
		done = m.end
	}
	text.Write(source[done:])
	return text.Bytes()
}
