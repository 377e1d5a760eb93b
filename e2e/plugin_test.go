// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

func TestPluginVersion(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	name, version := stack.Engine, programs.PluginVersion

	list := command(t, shared, "plugin", "list", "secret")
	assert.Regexp(t, `(?m)^`+regexp.QuoteMeta(name)+`\s+`+regexp.QuoteMeta(version)+`$`, list)

	mounts, err := shared.Client.Sys().ListMountsWithContext(t.Context())
	require.NoError(t, err)
	assert.Equal(t, version, mounts[m.path+"/"].RunningVersion)

	// Fuuffy's support can tell from its logs which version asked.
	m.configure(nil)
	assert.Contains(t, m.Stats().LastUserAgent, strings.TrimPrefix(version, "v"))
}
