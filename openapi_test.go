// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/stretchr/testify/assert"
)

// Every path and field explains itself. What Vault makes of them is tested in e2e.
func TestPathsExplainThemselves(t *testing.T) {
	m := newMount(t)
	for _, path := range m.framework().Paths {
		assert.NotEmpty(t, path.HelpSynopsis, path.Pattern)
		assert.Greater(t, len(path.HelpDescription), 100, path.Pattern)
		schemas := []map[string]*framework.FieldSchema{path.Fields}
		for _, handler := range path.Operations {
			for _, responses := range handler.Properties().Responses {
				schemas = append(schemas, responses[0].Fields)
			}
		}
		for _, schema := range schemas {
			for name, field := range schema {
				assert.NotEmpty(t, field.Description, "%s: %s", path.Pattern, name)
			}
		}
	}
}

// The documents mark as required what a write can't do without.
func TestRequiredFields(t *testing.T) {
	found := map[string][]string{}
	for _, path := range newMount(t).framework().Paths {
		for _, name := range slices.Sorted(maps.Keys(path.Fields)) {
			if path.Fields[name].Required {
				found[path.Pattern] = append(found[path.Pattern], name)
			}
		}
	}
	assert.Equal(t, map[string][]string{
		"rotate-root":         {"client_id", "client_secret"},
		"rotate-root/revoked": {"client_id"},
	}, found)
}

func TestSpecialPaths(t *testing.T) {
	special := newMount(t).framework().PathsSpecial
	assert.Empty(t, special.Unauthenticated)
	assert.Equal(t, []string{configKey, tokenKey, leaksKey}, special.SealWrapStorage)
	assert.Equal(t, []string{tokenKey}, special.LocalStorage)
}
