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

// build builds the test programs with all mutants in them, and leaves out those that
// don't compile. race adds the race detector.
func build(dir string, folders []string, mutants []*mutant, race bool) (map[string]*program, []*mutant, error) {
	for {
		overlay, err := writeOverlay(dir, mutants)
		if err != nil {
			return nil, nil, err
		}
		programs := map[string]*program{}
		var problems []byte
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
		if len(problems) == 0 {
			return programs, mutants, nil
		}
		left := slices.DeleteFunc(slices.Clone(mutants), func(m *mutant) bool { return m.blamed(problems) })
		if len(left) == len(mutants) {
			return nil, nil, fmt.Errorf("build the tests: %s", problems)
		}
		mutants = left
	}
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
	put := func(file string, content []byte) error {
		original, err := filepath.Abs(file)
		if err != nil {
			return err
		}
		changed := filepath.Join(dir, flat(file))
		replace[original] = changed
		return os.WriteFile(changed, content, 0o600)
	}
	byFile := map[string][]*mutant{}
	for i, m := range mutants {
		m.number = strconv.Quote(strconv.Itoa(i))
		byFile[m.file] = append(byFile[m.file], m)
	}
	for file, changes := range byFile {
		text := weave(changes)
		name, _, _ := bytes.Cut(text[bytes.Index(text, []byte("\npackage "))+len("\npackage "):], []byte("\n"))
		if err := put(file, text); err != nil {
			return "", err
		}
		if err := put(filepath.Join(filepath.Dir(file), "zz_mutants.go"), fmt.Appendf(nil, helper, name)); err != nil {
			return "", err
		}
	}
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
