// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// There is no Java here: the class is held to what the engine takes and answers.
func TestSpringFields(t *testing.T) {
	t.Parallel()
	class := readExample(t, "spring/FuuffyToken.java")
	assert.Contains(t, class, `PATH = "fuuffy/token"`)
	m := newMount(t, "spring", fuuffytest.Config{}, nil)
	token := m.call("read", "token", nil)
	fields := regexp.MustCompile(`data\.get\("(\w+)"\)`).FindAllStringSubmatch(class, -1)
	require.Len(t, fields, 3)
	for _, field := range fields {
		assert.Contains(t, token, field[1])
	}
	written := regexp.MustCompile(`Map\.of\("(\w+)", rejected\)`).FindStringSubmatch(class)
	require.NotNil(t, written)
	assert.NotEmpty(t, m.call("write", "token", map[string]any{written[1]: token["access_token"]}))
}
