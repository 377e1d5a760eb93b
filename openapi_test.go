// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The OpenAPI document is what generated clients and Vault's UI are made of.
func TestOpenAPI(t *testing.T) {
	m := newMount(t)
	m.system.PluginEnvironment = &logical.PluginEnvironment{VaultVersion: "1.21.2"}
	resp, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Storage: m.storage})
	require.NoError(t, err)
	document := resp.Data["openapi"].(*framework.OASDocument)

	ids := map[string]string{}
	for path, item := range document.Paths {
		for method, operation := range map[string]*framework.OASOperation{"get": item.Get, "post": item.Post, "delete": item.Delete} {
			if operation == nil {
				continue
			}
			ids[operation.OperationID] = method + " " + path
			assert.NotEmpty(t, operation.Summary, operation.OperationID)
			require.NotEmpty(t, operation.Responses, operation.OperationID)
		}
	}
	assert.Equal(t, map[string]string{
		"fuuffy-read-configuration":   "get /config",
		"fuuffy-configure":            "post /config",
		"fuuffy-delete-configuration": "delete /config",
		"fuuffy-read-token":           "get /token",
		"fuuffy-replace-token":        "post /token",
		"fuuffy-delete-token":         "delete /token",
		"fuuffy-read-rotation":        "get /rotate-root",
		"fuuffy-stage-rotation":       "post /rotate-root",
		"fuuffy-discard-rotation":     "delete /rotate-root",
		"fuuffy-promote-rotation":     "post /rotate-root/promote",
		"fuuffy-rollback-rotation":    "post /rotate-root/rollback",
		"fuuffy-complete-rotation":    "post /rotate-root/complete",
		"fuuffy-read-status":          "get /status",
		"fuuffy-read-metrics":         "get /metrics",
	}, ids)
}

// What must not be shown is marked, and every path and field explains itself.
func TestPathsExplainThemselves(t *testing.T) {
	sensitive := map[string]bool{"client_secret": true, "rejected_token": true, "access_token": true}
	m := newMount(t)
	for _, path := range m.b.Paths {
		assert.NotEmpty(t, path.HelpSynopsis, path.Pattern)
		assert.Greater(t, len(path.HelpDescription), 100, path.Pattern)
		assert.Equal(t, operationPrefix, path.DisplayAttrs.OperationPrefix, path.Pattern)
		schemas := []map[string]*framework.FieldSchema{path.Fields}
		for operation, handler := range path.Operations {
			responses := handler.Properties().Responses
			assert.NotEmpty(t, responses, "%s %s", operation, path.Pattern)
			for _, status := range slices.Sorted(maps.Keys(responses)) {
				schemas = append(schemas, responses[status][0].Fields)
			}
		}
		for _, schema := range schemas {
			for name, field := range schema {
				assert.NotEmpty(t, field.Description, "%s: %s", path.Pattern, name)
				marked := field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive
				assert.Equal(t, sensitive[name], marked, "%s: %s", path.Pattern, name)
			}
		}
	}
	assert.Empty(t, m.b.PathsSpecial.Unauthenticated)
	assert.Equal(t, []string{configKey, tokenKey}, m.b.PathsSpecial.SealWrapStorage)
	assert.Equal(t, []string{tokenKey}, m.b.PathsSpecial.LocalStorage)
}
