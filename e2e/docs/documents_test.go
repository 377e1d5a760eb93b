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
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

// root is the repository.
const root = "../.."

// document is what the tests want to know of a Markdown file.
type document struct {
	// path is that in the repository, with slashes.
	path    string
	anchors []string
	// links are the targets of links and pictures, as they are written.
	links []string
	// prose is the text without code; code is the rest, in backquotes or in blocks.
	prose string
	code  []string
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

var markdown = goldmark.New(goldmark.WithExtensions(extension.GFM))

func readDocument(t *testing.T, name string) *document {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	d := &document{path: name}
	var prose strings.Builder
	require.NoError(t, ast.Walk(markdown.Parser().Parse(text.NewReader(source)), func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			if n.Type() == ast.TypeBlock {
				prose.WriteByte('\n')
			}
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			d.anchors = append(d.anchors, d.anchor(plainText(n, source)))
		case *ast.Link:
			d.links = append(d.links, string(n.Destination))
		case *ast.Image:
			d.links = append(d.links, string(n.Destination))
		case *ast.AutoLink:
			d.links = append(d.links, string(n.URL(source)))
		case *ast.CodeSpan:
			d.code = append(d.code, plainText(n, source))
			return ast.WalkSkipChildren, nil
		case *ast.CodeBlock, *ast.FencedCodeBlock:
			d.code = append(d.code, string(n.Lines().Value(source)))
		case *ast.Text:
			prose.Write(n.Value(source))
			if n.SoftLineBreak() || n.HardLineBreak() {
				prose.WriteByte('\n')
			}
		}
		return ast.WalkContinue, nil
	}))
	d.prose = prose.String()
	return d
}

// plainText is the text in a node, without its markup.
func plainText(node ast.Node, source []byte) string {
	var plain strings.Builder
	_ = ast.Walk(node, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, ok := n.(*ast.Text); ok && entering {
			plain.Write(t.Value(source))
		}
		return ast.WalkContinue, nil
	})
	return plain.String()
}

var notInAnchors = regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)

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
