// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/hashicorp/vault/sdk/logical"
)

var schemaReference = regexp.MustCompile(`"\$ref":("[^"]*")`)

// keepReferences keeps the schemas of the OpenAPI document in a help response tied to
// their operations. Of a plugin's document Vault reads a reference as ref where it is
// $ref, and so would lose it (hashicorp/vault#30714): it is given under both names.
func keepReferences(resp *logical.Response) error {
	document, err := json.Marshal(resp.Data["openapi"])
	if err != nil {
		return fmt.Errorf("encode the OpenAPI document: %w", err)
	}
	var both map[string]any
	if err := json.Unmarshal(schemaReference.ReplaceAll(document, []byte(`$0,"ref":$1`)), &both); err != nil {
		return fmt.Errorf("decode the OpenAPI document: %w", err)
	}
	resp.Data["openapi"] = both
	return nil
}
