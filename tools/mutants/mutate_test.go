// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const example = `package example

func f(a, b int) (bool, error) {
	mu.Lock()
	defer mu.Unlock()
	if a < b && ok {
		return true, nil
	}
	err := g(max(a, b-1))
	return false, err
}
`

func TestMutate(t *testing.T) {
	mutants, err := mutate("example.go", []byte(example))
	require.NoError(t, err)
	var names []string
	for _, m := range mutants {
		names = append(names, m.name()[len("example.go f: "):])
	}
	assert.Equal(t, []string{
		"mu.Lock() → nothing",
		"defer mu.Unlock() → mu.Unlock()",
		"mu.Lock() defer mu.Unlock() → nothing",
		"return false, err → return false, nil",
		"a < b && ok → a < b",
		"a < b && ok → ok",
		"a < b → a <= b",
		"return true, nil → nothing",
		"true → false",
		"max(a, b-1) → min(a, b-1)",
		"b-1 → b + 1",
		"1 → 2",
		"false → true",
	}, names)
	assert.True(t, mutants[2].locks())
	assert.False(t, mutants[3].locks())
	assert.False(t, lockOrUnlock.MatchString("now = c.Clock()"))
}

func TestRounds(t *testing.T) {
	var tests []*test
	for _, seconds := range []float64{0.3, 0.4, 0.5, 3, 90, 100} {
		tests = append(tests, &test{takes: time.Duration(seconds * float64(time.Second))})
	}
	var lengths []int
	for _, round := range rounds(tests) {
		lengths = append(lengths, len(round))
	}
	assert.Equal(t, []int{2, 2, 1, 1}, lengths)
}

const coverage = `mode: set
github.com/fuuffy/vault-plugin-secrets-fuuffy/example.go:3.33,9.16 3 1
github.com/fuuffy/vault-plugin-secrets-fuuffy/example.go:6.17,8.3 1 %d
`

// A test reaches a mutant if it runs the smallest block around it.
func TestReaching(t *testing.T) {
	mutants, err := mutate("example.go", []byte(example))
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "coverage")
	var tests []*test
	for count, takes := range []time.Duration{2, 1} {
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, coverage, count), 0o600))
		ran, err := readCoverage(file)
		require.NoError(t, err)
		tests = append(tests, &test{takes: takes, ran: ran})
	}
	for _, m := range mutants {
		switch m.from() {
		case "return true, nil":
			assert.Equal(t, tests[1:], m.reaching(tests))
		case "return false, err":
			assert.Equal(t, []*test{tests[1], tests[0]}, m.reaching(tests), "its block is unknown")
		case "a < b":
			assert.Equal(t, []*test{tests[1], tests[0]}, m.reaching(tests), "the quicker one first")
		}
	}
}

func TestWeave(t *testing.T) {
	mutants, err := mutate("example.go", []byte(example))
	require.NoError(t, err)
	together, rest := disjoint(mutants)
	assert.NotEmpty(t, rest, "some overlap")
	for _, m := range together {
		m.number = `"7"`
	}
	text := string(weave(together))
	assert.Contains(t, text, `if !mutantOn("7") { mu.Lock() }`)
	assert.Contains(t, text, `if mutantOn("7") { mu.Unlock() } else { defer mu.Unlock() }`)
	assert.Contains(t, text, `(mutantOn("7") && (a < b) || !mutantOn("7") && (a < b && ok))`)
}

func TestEquivalents(t *testing.T) {
	mutants, err := mutate("example.go", []byte(example))
	require.NoError(t, err)
	known, err := readEquivalents("# A comment.\n\nexample.go f: 1 → 2 // because\n", mutants)
	require.NoError(t, err)
	assert.Equal(t, map[string]bool{"example.go f: 1 → 2": true}, known)
	_, err = readEquivalents("example.go f: 1 → 2\n", mutants)
	assert.ErrorContains(t, err, "has no reason")
	_, err = readEquivalents("example.go f: 2 → 3 // because\n", mutants)
	assert.ErrorContains(t, err, "no mutant")
}

// Each name in the list is still one of a mutant.
func TestEquivalentsAreUpToDate(t *testing.T) {
	t.Chdir("../..")
	mutants, err := allMutants()
	require.NoError(t, err)
	text, err := os.ReadFile("tools/mutants/equivalents.txt")
	require.NoError(t, err)
	_, err = readEquivalents(string(text), mutants)
	require.NoError(t, err)
}

// All shares together have each mutant once.
func TestShare(t *testing.T) {
	all, err := mutate("example.go", []byte(example))
	require.NoError(t, err)
	var together []*mutant
	for _, shard := range []string{"1/7", "2/7", "3/7", "4/7", "5/7", "6/7", "7/7"} {
		some, err := share(all, shard)
		require.NoError(t, err)
		assert.NotEmpty(t, some, shard)
		together = append(together, some...)
	}
	assert.ElementsMatch(t, all, together)
	for _, shard := range []string{"", "3", "0/7", "8/7", "x/7", "-1/7"} {
		_, err := share(all, shard)
		assert.ErrorContains(t, err, "write it like 3/7", shard)
	}
}

// tryExample tries all mutants of a file.
func tryExample(t *testing.T, code, tests string) (survivors []string, tried int, err error) {
	t.Helper()
	t.Chdir(t.TempDir())
	for file, text := range map[string]string{
		"go.mod": "module example\n\ngo 1.24\n", "a.go": code, "a_test.go": "package example\n\nimport \"testing\"\n\n" + tests,
	} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	rest, err := mutate("a.go", []byte(code))
	for err == nil && len(rest) > 0 {
		var together, survived []*mutant
		var compiled int
		together, rest = disjoint(rest)
		survived, compiled, err = tryAll(t.TempDir(), []*test{{folder: ".", name: "TestExample"}}, together, false)
		for _, m := range survived {
			survivors = append(survivors, m.name())
		}
		tried += compiled
	}
	return survivors, tried, err
}

// Each mutant is tried that compiles, whatever else is on its line, and whatever type a switch
// would give it.
func TestMutantsAreTriedIfTheyCompile(t *testing.T) {
	survivors, tried, err := tryExample(t, `// An example.
package example

import "time"

func f(d time.Duration, a, b string) (bool, string) { return d > 0, a + b }
`, `func TestExample(t *testing.T) {
	if late, _ := f(0, "a", "b"); late {
		t.Error("wrong")
	}
}
`)
	require.NoError(t, err)
	assert.Equal(t, 2, tried, "all but a - b")
	assert.Equal(t, []string{"a.go f: 0 → 1"}, survivors)
}

// An expression of a mutant is evaluated even if another is active. If that breaks a test, the
// test says nothing about any mutant.
func TestMutantsThatBreakTheTests(t *testing.T) {
	_, _, err := tryExample(t, `// An example.
package example

func product(a, b int) int { return a * b }

func unused(a int) bool { return a < 1 }
`, `func TestExample(t *testing.T) {
	if product(1, 0) != 0 {
		t.Error("wrong")
	}
}
`)
	assert.ErrorContains(t, err, "fail without a mutant")
}
