// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"slices"
	"strings"
	"testing"
)

// Lacks tells whether the server under test lacks the feature that a test is about. The proof
// is the server's error when the test used the feature: it must contain one of the answers.
// Lacks logs a line that scripts/compat.sh shows, so that no gap stays hidden.
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
