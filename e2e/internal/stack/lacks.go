// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"slices"
	"strings"
	"testing"
)

// Lacks tells whether the server under test lacks what a test is about. The proof is the
// error with which the server refused that very thing: one of the answers must be in it.
// It is logged in a line that scripts/compat.sh shows, so that nothing is left out in
// silence.
func Lacks(t testing.TB, what string, refusal error, answers ...string) bool {
	t.Helper()
	if refusal == nil {
		return false
	}
	text := strings.Join(strings.Fields(refusal.Error()), " ")
	if !slices.ContainsFunc(answers, func(answer string) bool { return strings.Contains(text, answer) }) {
		t.Fatalf("the server refuses %s for another reason: %s", what, text)
	}
	t.Logf("lacks: %s", what)
	return true
}
