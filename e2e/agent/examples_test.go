// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// example returns the text of an example with the mount's path in place of
// fuuffy/. Together with exampleFor this is all that tests change in examples.
func (m *mount) example(name string) string {
	m.t.Helper()
	return strings.NewReplacer(
		`"fuuffy/`, `"`+m.path+`/`,
		`"sys/mounts/fuuffy"`, `"sys/mounts/`+m.path+`"`,
	).Replace(readExample(m.t, name))
}

// exampleFor also puts the addresses and folders of this test in place of those in
// the example. What is named in pairs goes before that.
func (h *host) exampleFor(name string, replaced ...string) string {
	h.t.Helper()
	all := append(replaced,
		"https://vault.example.com:8200", vault.Address,
		"/etc/fuuffy-agent", h.etc,
		"/run/fuuffy", h.run,
		`"fuuffy/`, `"`+h.path+`/`,
	)
	return strings.NewReplacer(all...).Replace(readExample(h.t, name))
}

func readExample(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", name))
	require.NoError(t, err)
	return string(text)
}
