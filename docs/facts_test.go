// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	parameter = regexp.MustCompile(`(?m)^    (\w+) \(.*\)\n\n(.+)$`)
	bounds    = regexp.MustCompile(`From (\w+) to (\w+); by default (?:there is no limit|(\w+))\.`)
)

// The table in docs/configuration.md has each field of config, with its bounds and its default.
func TestConfigurationTable(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "configuration.md"))
	require.NoError(t, err)
	help, err := os.ReadFile(filepath.Join(root, "e2e", "testdata", "help", "fuuffy-config.txt"))
	require.NoError(t, err)
	parameters := parameter.FindAllStringSubmatch(string(help), -1)
	require.NotEmpty(t, parameters)
	for _, p := range parameters {
		row := regexp.MustCompile("(?m)^\\|.*`" + p[1] + "`.*\\|$").FindString(string(page))
		require.NotEmpty(t, row, "%s is not in the table", p[1])
		if b := bounds.FindStringSubmatch(p[2]); b != nil {
			if b[3] != "" {
				assert.Contains(t, row, "| `"+b[3]+"` |")
			}
			assert.Contains(t, row, "`"+b[1]+"` to `"+b[2]+"`")
		}
	}
}

// The page about the engine's files has each of them.
func TestLayout(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(root, "*.go"))
	require.NoError(t, err)
	for _, file := range files {
		if name := filepath.Base(file); !strings.HasSuffix(name, "_test.go") {
			assert.Contains(t, string(page), strings.TrimSuffix(name, ".go"))
		}
	}
}

// The pages name tests that exist.
func TestPagesNameTests(t *testing.T) {
	source := testSource(t, root)
	for _, name := range []string{"docs/architecture.md", "docs/faq.md", "docs/evidence.md", "SECURITY.md"} {
		page, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		named := regexp.MustCompile(`\b((?:Test|Fuzz)[A-Z]\w+)`).FindAllStringSubmatch(string(page), -1)
		require.NotEmpty(t, named, name)
		for _, test := range named {
			assert.Contains(t, source, "\nfunc "+test[1]+"(", "%s names a test that does not exist", name)
		}
	}
}

// What the README says that servers lack, the end-to-end tests find and say in the same words.
func TestServersLack(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	rows := regexp.MustCompile(`(?m)^\| (?:Vault|OpenBao) \d[^|]*\|[^|]+\|[^|]+\| ([^|]+) \|$`).FindAllStringSubmatch(string(page), -1)
	require.NotEmpty(t, rows)
	said := regexp.MustCompile(`Lacks\(t, "([^"]+)"|"lacks: ([^"]+)"`).FindAllStringSubmatch(testSource(t, filepath.Join(root, "e2e")), -1)
	var features []string
	for _, s := range said {
		features = append(features, s[1]+s[2])
	}
	for _, row := range rows {
		assert.Subset(t, features, strings.Split(row[1], ", "), row[0])
	}
}

// testSource is all test files of a folder.
func testSource(t *testing.T, folder string) string {
	t.Helper()
	var source strings.Builder
	require.NoError(t, filepath.WalkDir(folder, func(file string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		content, err := os.ReadFile(file)
		source.Write(content)
		return err
	}))
	return source.String()
}

var testFunction = regexp.MustCompile(`(?m)^func (Test|Fuzz)\w*\(`)

// Each test file of the engine is named after the source that it tests. Files without tests have
// helpers and benchmarks.
func TestTestFilesAreNamedAfterTheirSources(t *testing.T) {
	files, err := filepath.Glob("../*_test.go")
	require.NoError(t, err)
	inside, err := filepath.Glob("../internal/*/*_test.go")
	require.NoError(t, err)
	named := 0
	for _, file := range append(files, inside...) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if testFunction.Match(text) {
			named++
			assert.FileExists(t, strings.TrimSuffix(file, "_test.go")+".go", "%s is named after no source", file)
		}
	}
	assert.Greater(t, named, 40)
	root, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	assert.LessOrEqual(t, len(root), 38, "Go files in the root")
}

// The page about the scenarios has each of their files, by name or by its beginning.
func TestScenariosAreExplained(t *testing.T) {
	text, err := os.ReadFile("../scenarios/README.md")
	require.NoError(t, err)
	files, err := filepath.Glob("../scenarios/*_test.go")
	require.NoError(t, err)
	assert.Greater(t, len(files), 40)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), "_test.go")
		group, _, _ := strings.Cut(name, "_")
		assert.True(t, strings.Contains(string(text), "`"+name+"`") || strings.Contains(string(text), "`"+group+"_*`") ||
			strings.Contains(string(text), "`"+name+"_test.go`"), "scenarios/README.md doesn't have %s", name)
	}
}
