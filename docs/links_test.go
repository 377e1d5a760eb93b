// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Links within the repository lead to a file and a heading that are there; of others
// only the form is looked at.
func TestLinks(t *testing.T) {
	documents := readDocuments(t)
	for _, d := range documents {
		for _, link := range d.links {
			u, err := url.Parse(link)
			if !assert.NoError(t, err, d.path) {
				continue
			}
			if u.Scheme != "" || u.Host != "" {
				assert.Truef(t, u.Scheme == "https" && u.Host != "", "%s: %s is not an https address", d.path, link)
				continue
			}
			target := d.target(link)
			_, err = os.Stat(filepath.Join(root, target))
			assert.NoErrorf(t, err, "%s: %s leads nowhere", d.path, link)
			if u.Fragment != "" {
				there := documents[target] != nil && slices.Contains(documents[target].anchors, u.Fragment)
				assert.Truef(t, there, "%s: %s leads to no heading", d.path, link)
			}
		}
	}
}

// Whoever starts at the README finds each document. Templates are found by GitHub.
func TestNoOrphans(t *testing.T) {
	documents := readDocuments(t)
	found := []string{"README.md"}
	for i := 0; i < len(found); i++ {
		d := documents[found[i]]
		for _, link := range d.links {
			if target := d.target(link); documents[target] != nil && !slices.Contains(found, target) {
				found = append(found, target)
			}
		}
	}
	index := documents["docs/README.md"]
	require.NotNil(t, index)
	for name := range documents {
		if !strings.HasPrefix(name, ".github/") {
			assert.Truef(t, slices.Contains(found, name), "no links lead from the README to %s", name)
		}
		if path.Dir(name) == "docs" && name != index.path {
			assert.Truef(t, slices.Contains(index.links, path.Base(name)), "%s is not in docs/README.md", name)
		}
	}
}

// Each example is linked from a document.
func TestExamplesAreLinked(t *testing.T) {
	var linked []string
	for _, d := range readDocuments(t) {
		for _, link := range d.links {
			linked = append(linked, d.target(link))
		}
	}
	require.NoError(t, fs.WalkDir(os.DirFS(root), "examples", func(file string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			assert.Truef(t, slices.Contains(linked, file), "no document has a link to %s", file)
		}
		return err
	}))
}
