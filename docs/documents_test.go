// SPDX-License-Identifier: MPL-2.0

// Package docs has the tests of the documents: links lead somewhere, and
// what they say of the product's files and settings is so.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is the repository.
const root = ".."

// document is what the tests want to know of a Markdown file.
type document struct {
	// path is that in the repository, with slashes.
	path    string
	anchors []string
	// links are the targets of links and pictures, as they are written.
	links []string
}

// readDocuments reads all Markdown files of the repository, by their path.
func readDocuments(t *testing.T) map[string]*document {
	t.Helper()
	documents := map[string]*document{}
	require.NoError(t, filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "bin"):
			return filepath.SkipDir
		case path.Ext(file) == ".md":
			d := readDocument(t, filepath.ToSlash(strings.TrimPrefix(file, root+string(filepath.Separator))))
			documents[d.path] = d
		}
		return nil
	}))
	require.Contains(t, documents, "README.md")
	return documents
}

var (
	codeBlock    = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	codeSpan     = regexp.MustCompile("`+[^`\n]*\n?[^`\n]*`+")
	heading      = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	link         = regexp.MustCompile(`\]\(([^)\s]+)|(?m:^\[[^\]]+\]: +(\S+))`)
	mayBeCode    = regexp.MustCompile(`(?m)^ {4}.*$`)
	address      = regexp.MustCompile(`\bhttps?://[^\s<>()]*`)
	notInAnchors = regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
)

func readDocument(t *testing.T, name string) *document {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	d := &document{path: name}
	text := codeBlock.ReplaceAllString(string(source), "")
	for _, title := range heading.FindAllStringSubmatch(text, -1) {
		d.anchors = append(d.anchors, d.anchor(link.ReplaceAllString(title[1], "")))
	}
	text = codeSpan.ReplaceAllString(text, "")
	for _, target := range link.FindAllStringSubmatch(text, -1) {
		d.links = append(d.links, target[1]+target[2])
	}
	text = mayBeCode.ReplaceAllString(link.ReplaceAllString(text, ""), "")
	d.links = append(d.links, address.FindAllString(text, -1)...)
	return d
}

// anchor is the one that GitHub gives to the document's next heading.
func (d *document) anchor(heading string) string {
	plain := strings.ReplaceAll(notInAnchors.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
	anchor := plain
	for i := 1; slices.Contains(d.anchors, anchor); i++ {
		anchor = fmt.Sprintf("%s-%d", plain, i)
	}
	return anchor
}

// target is the path in the repository that a link leads to.
func (d *document) target(link string) string {
	file, _, _ := strings.Cut(link, "#")
	if file == "" {
		return d.path
	}
	return path.Join(path.Dir(d.path), file)
}
