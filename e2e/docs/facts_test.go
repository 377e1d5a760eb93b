// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	parameter = regexp.MustCompile(`(?m)^    (\w+) \(.*\)\n\n(.+)$`)
	bounds    = regexp.MustCompile(`From (\w+) to (\w+); by default (\w+)\.`)
)

// The table in docs/configuration.md has each field of config, with its bounds and its default.
func TestConfigurationTable(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "configuration.md"))
	require.NoError(t, err)
	help, err := os.ReadFile(filepath.Join("..", "testdata", "help", "fuuffy-config.txt"))
	require.NoError(t, err)
	parameters := parameter.FindAllStringSubmatch(string(help), -1)
	require.NotEmpty(t, parameters)
	for _, p := range parameters {
		row := regexp.MustCompile("(?m)^\\|.*`" + p[1] + "`.*\\|$").FindString(string(page))
		require.NotEmpty(t, row, "%s is not in the table", p[1])
		if b := bounds.FindStringSubmatch(p[2]); b != nil {
			assert.Contains(t, row, "| `"+b[3]+"` |")
			assert.Contains(t, row, "`"+b[1]+"` to `"+b[2]+"`")
		}
	}
}

// CONTRIBUTING.md says of each Go file in the root why it is there. A test that is
// named after the file which it tests goes without saying.
func TestLayout(t *testing.T) {
	d := readDocument(t, "CONTRIBUTING.md")
	files, err := filepath.Glob(filepath.Join(root, "*.go"))
	require.NoError(t, err)
	for _, file := range files {
		tested := strings.TrimSuffix(file, "_test.go") + ".go"
		if tested != file+".go" && slices.Contains(files, tested) {
			continue
		}
		assert.Truef(t, slices.Contains(d.code, filepath.Base(file)), "%s is not in CONTRIBUTING.md", filepath.Base(file))
	}
}
