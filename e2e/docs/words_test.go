// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	term = regexp.MustCompile(`[\p{L}\p{N}_'’]+`)
	// What has digits, underscores or more capital letters in it is a name.
	word = regexp.MustCompile(`^\p{L}\p{Ll}+('\p{Ll}+)?$`)
)

// testdata/words.txt has the words of the documents, each looked up in a dictionary of
// British English once. A word that is not in it is misspelled or new.
func TestWords(t *testing.T) {
	content, err := os.ReadFile("testdata/words.txt")
	require.NoError(t, err)
	known := strings.Fields(string(content))
	assert.True(t, slices.IsSorted(known), "testdata/words.txt is not sorted")

	for name, d := range readDocuments(t) {
		for _, found := range term.FindAllString(d.prose, -1) {
			found = strings.TrimSuffix(strings.Trim(strings.ReplaceAll(found, "’", "'"), "'"), "'s")
			if word.MatchString(found) {
				_, ok := slices.BinarySearch(known, strings.ToLower(found))
				assert.Truef(t, ok, "%s: %q is misspelled, or new: look it up and add it to testdata/words.txt", name, found)
			}
		}
	}
}
