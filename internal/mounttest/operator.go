// SPDX-License-Identifier: MPL-2.0

package mounttest

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// Operator follows events as the Vault Secrets Operator does for a VaultDynamicSecret with
// syncConfig.instantUpdates. See getEventPath in vault/event_types.go, routeEvent in
// vault/event_subscription.go, and buildVaultEventKey in
// controllers/vaultdynamicsecret_controller.go of
// https://github.com/hashicorp/vault-secrets-operator.
type Operator struct {
	mount, path  string
	subscription *regexp.Regexp
	policy       string
}

// NewOperator takes what an operator is told from the examples.
func NewOperator(t *testing.T) Operator {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root(t), "examples", name))
		require.NoError(t, err)
		return string(text)
	}
	_, secret, found := strings.Cut(read("kubernetes/vault-secrets-operator.yaml"), "\nkind: VaultDynamicSecret\n")
	require.True(t, found)
	field := func(name string) string {
		value := regexp.MustCompile(`(?m)^  ` + name + `: (\S+)$`).FindStringSubmatch(secret)
		require.NotNil(t, value, name)
		return value[1]
	}
	return Operator{
		mount: field("mount"),
		path:  field("path"),
		// The type of the mount is the engine's name in the catalog.
		subscription: regexp.MustCompile(`^fuuffy.*$`),
		policy:       read("policies/instant-updates.hcl"),
	}
}

// Updates returns the operations of the events that make it read the token again.
func (o Operator) Updates(t *testing.T, events []string) (operations []string) {
	t.Helper()
	for _, event := range events {
		kind, rest, _ := strings.Cut(event, " ")
		require.Regexp(t, o.subscription, kind)
		metadata := map[string]string{}
		for _, pair := range strings.Fields(rest) {
			key, value, _ := strings.Cut(pair, "=")
			metadata[key] = value
		}
		modified, err := strconv.ParseBool(metadata["modified"])
		if err != nil || !modified {
			continue
		}
		segments := strings.Split(o.path, "/")
		if o.mount+"/"+metadata["name"] != o.mount+"/"+segments[len(segments)-1] {
			continue
		}
		// Vault puts the mount before these paths, and hands the event only to those who
		// may subscribe to the first.
		require.Contains(t, o.policy, `path "`+path.Join(o.mount, metadata[logical.EventMetadataPath])+`" {
  capabilities          = ["subscribe"]
  subscribe_event_types = ["fuuffy*"]`)
		require.Equal(t, path.Join(o.mount, o.path), path.Join(o.mount, metadata[logical.EventMetadataDataPath]))
		operations = append(operations, metadata[logical.EventMetadataOperation])
	}
	return operations
}
