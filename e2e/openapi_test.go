// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// openAPI is what Vault's OpenAPI document says of a mount. Generated clients and
// Vault's UI are made of it.
type openAPI struct {
	// operations are by method and path in the mount, as in "GET config".
	operations map[string]*framework.OASOperation
	schemas    map[string]*framework.OASSchema
	// patches is whether the document has any PATCH, of whatever mount.
	patches bool
}

func (m *mount) openAPI() *openAPI {
	m.t.Helper()
	answer, err := m.client.Logical().ReadRawWithContext(m.t.Context(), "sys/internal/specs/openapi")
	require.NoError(m.t, err)
	defer answer.Body.Close()
	var document framework.OASDocument
	require.NoError(m.t, json.NewDecoder(answer.Body).Decode(&document))

	spec := &openAPI{operations: map[string]*framework.OASOperation{}, schemas: map[string]*framework.OASSchema{}}
	for path, item := range document.Paths {
		spec.patches = spec.patches || item.Patch != nil
		path, ours := strings.CutPrefix(path, "/"+m.path+"/")
		if !ours {
			continue
		}
		for method, operation := range map[string]*framework.OASOperation{"GET": item.Get, "POST": item.Post, "DELETE": item.Delete, "PATCH": item.Patch} {
			if operation != nil {
				spec.operations[method+" "+path] = operation
			}
		}
	}
	for name, schema := range document.Components.Schemas {
		if strings.HasPrefix(name, "Fuuffy") {
			spec.schemas[name] = schema
		}
	}
	return spec
}

// schema is that of a JSON body, nil for none.
func (o *openAPI) schema(content framework.OASContent) *framework.OASSchema {
	body := content["application/json"]
	if body == nil {
		return nil
	}
	return o.schemas[strings.TrimPrefix(body.Schema.Ref, "#/components/schemas/")]
}

func (o *openAPI) request(operation *framework.OASOperation) *framework.OASSchema {
	if operation.RequestBody == nil {
		return nil
	}
	return o.schema(operation.RequestBody.Content)
}

// What must not be shown is marked, wherever it goes in or out.
func TestOpenAPISensitive(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	var sensitive []string
	for schema, s := range m.openAPI().schemas {
		for field, f := range s.Properties {
			if f.DisplayAttrs != nil && f.DisplayAttrs.Sensitive {
				sensitive = append(sensitive, schema+" "+field)
			}
		}
	}
	assert.ElementsMatch(t, []string{
		"FuuffyConfigureRequest client_secret",
		"FuuffyPatchConfigurationRequest client_secret",
		"FuuffyStageRotationRequest client_secret",
		"FuuffyReplaceTokenRequest rejected_token",
		"FuuffyReplaceTokenResponse access_token",
		"FuuffyReadTokenResponse access_token",
	}, sensitive)
}

// requireConforms holds what was sent or answered to its schema.
func requireConforms(t *testing.T, schema *framework.OASSchema, data map[string]any) {
	t.Helper()
	if len(data) == 0 {
		return
	}
	require.NotNil(t, schema, "there is no schema for this")
	for name, value := range data {
		require.Contains(t, schema.Properties, name)
		require.Contains(t, []string{schema.Properties[name].Type, "null"}, jsonType(value), name)
	}
	require.Subset(t, slices.Collect(maps.Keys(data)), schema.Required)
}

func jsonType(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case json.Number:
		return "integer"
	case []any:
		return "array"
	}
	return "object"
}
