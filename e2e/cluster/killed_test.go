// SPDX-License-Identifier: MPL-2.0

package cluster

import (
	"errors"
	"flag"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

var killing = flag.Duration("killing", 10*time.Second, "for how long TestPluginKilled kills the plugin every second")

// death is when a read is under way in a plugin that is killed.
var death = excuse{"the plugin's death", func(err error) bool {
	answer, ok := errors.AsType[*api.ResponseError](err)
	return ok && answer.StatusCode == http.StatusInternalServerError && says(answer, "rpc error: code = Unavailable")
}}

// The plugin's process dies every second: Vault starts it anew, and apps go on with the
// same token.
func TestPluginKilled(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	m := newMount(t, v, "killed", fuuffytest.Config{}, nil)
	r := startReaders(m, []*stack.Vault{v}, 25*time.Millisecond, death)

	kills := 0
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for begun := time.Now(); time.Since(begun) < *killing; <-second.C {
		require.NoError(t, v.KillPlugin(t.Context()))
		kills++
		r.everyone()
	}

	r.finish("plugins killed", kills)
	assert.Positive(t, kills)
	assert.Len(t, r.reads, 1)
	assert.Equal(t, 1, m.requests())
}
