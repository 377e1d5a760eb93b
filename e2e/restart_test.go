// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// Whatever happens to Vault or to the plugin's process, the token comes back from
// storage: it is the same one, and Fuuffy is not asked.
func TestTokenSurvives(t *testing.T) {
	t.Parallel()
	v := ownVault(t)
	m := newMount(t, v, fuuffytest.Config{})
	m.configure(nil)
	held := m.token()
	require.Equal(t, 1, m.requests())

	for _, c := range []struct {
		name string
		what func(t *testing.T) error
	}{
		{"seal and unseal", func(t *testing.T) error {
			if err := v.Client.Sys().SealWithContext(t.Context()); err != nil {
				return err
			}
			return v.Unseal(t.Context())
		}},
		{"plugin killed", func(t *testing.T) error {
			if err := v.KillPlugin(t.Context()); err != nil {
				return err
			}
			return stack.Eventually(t.Context(), "Vault to notice", func() error {
				_, err := m.client.Logical().ReadWithContext(t.Context(), m.path+"/token")
				return err
			})
		}},
		{"plugin reloaded", func(t *testing.T) error {
			command(t, v, "plugin", "reload", "-plugin="+stack.Engine)
			return nil
		}},
		{"Vault stopped", func(t *testing.T) error {
			v.Stop()
			return v.Restart(t.Context())
		}},
		{"Vault killed", func(t *testing.T) error {
			v.Kill()
			return v.Restart(t.Context())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, c.what(t))
			assert.Equal(t, held, m.token())
			assert.Equal(t, 1, m.requests())
			assert.Equal(t, 200, m.orders(held))
		})
	}
}
