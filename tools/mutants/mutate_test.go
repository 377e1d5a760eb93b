// SPDX-License-Identifier: MPL-2.0

package main

import (
	"os"
	"testing"

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
}

func TestWeave(t *testing.T) {
	mutants, err := mutate("example.go", []byte(example))
	require.NoError(t, err)
	together, rest := disjoint(mutants, len(mutants))
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
