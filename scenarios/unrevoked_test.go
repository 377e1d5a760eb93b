// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

func TestUnrevokedClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, "compromised")
		assert.Equal(t, "2000-01-01T00:00:00Z shop-1 (compromised)", m.Rotation()["unrevoked"])
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/complete", nil)
		assert.True(t, strings.HasSuffix(text, "vault write fuuffy/rotate-root/complete force=true"), "what works is advised: %s", text)

		forced := m.Write("rotate-root/complete", "force", true)
		assert.Contains(t, forced.Warnings[0], "The engine forgot client shop-1 without proof that it is revoked")
		assert.Equal(t, "2000-01-01T00:00:00Z shop-1 (compromised)", m.Rotation()["unrevoked"], "force is no proof")
		assert.Contains(t, m.Rotation()["history"], "completed shop-2 (forced; not proved to be revoked: shop-1)")
		status := m.Do(logical.ReadOperation, "status", nil)
		assert.Equal(t, "degraded", status.Data["health"], "the leaked secret may still work")
		assert.Contains(t, status.Data["next_step"], "vault write fuuffy/rotate-root/revoked client_id=shop-1")
		assert.Equal(t, 1.0, m.Metric("fuuffy_rotation_unrevoked_clients"))
		leaked := mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret)
		for _, path := range []string{"rotate-root", "config"} {
			_, text = m.Refused(logical.UpdateOperation, path, leaked)
			assert.Contains(t, text, "because client shop-1 is compromised", path)
			assert.Contains(t, text, "vault write fuuffy/rotate-root/revoked client_id=shop-1", path)
		}

		m.Write("rotate-root/revoked", "client_id", mounttest.ClientID)
		assert.Nil(t, m.Rotation()["unrevoked"])
		assert.Equal(t, "ok", m.Status()["health"])
		assert.Equal(t, []string{"No client of this ID is on the list of those that may still work. Nothing was changed."}, m.Write("rotate-root/revoked", "client_id", mounttest.ClientID).Warnings)
		_, text = m.Refused(logical.UpdateOperation, "rotate-root/revoked", nil)
		assert.Contains(t, text, "client_id is missing")
		_, text = m.Refused(logical.UpdateOperation, "rotate-root/revoked", mounttest.Pairs("client_id", "shop 1"))
		assert.Contains(t, text, "client_id has white space")
	})
}

func TestGivenUpClientsAreListed(t *testing.T) {
	for name, tt := range map[string]struct {
		state string
		step  func(*mounttest.Mount)
		want  string
	}{
		"rolled back":              {rotation.Promoted, func(m *mounttest.Mount) { m.Write("rotate-root/rollback") }, "shop-2 (rolled back)"},
		"discarded":                {rotation.Staged, func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "rotate-root", nil) }, "shop-2 (discarded)"},
		"forced":                   {rotation.Promoted, func(m *mounttest.Mount) { m.Write("rotate-root/complete", "force", true) }, "shop-1 (forced)"},
		"proved dead":              {rotation.Promoted, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID); m.Write("rotate-root/complete") }, ""},
		"compromised, proved dead": {"compromised", func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID); m.Write("rotate-root/complete") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.NewRotating(t, tt.state)
			tt.step(m)
			unrevoked, _ := m.Rotation()["unrevoked"].(string)
			if tt.want == "" {
				assert.Empty(t, unrevoked)
				return
			}
			assert.True(t, strings.HasSuffix(unrevoked, tt.want), unrevoked)
			m.Restart()
			assert.Equal(t, unrevoked, m.Status()["unrevoked"])
		})
	}
}

func TestUnrevokedListIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Idle)
		discardClients(m, 20+1)
		assert.NotContains(t, m.Rotation()["unrevoked"], "shop-100")
		assert.Len(t, strings.Split(m.Rotation()["unrevoked"].(string), "\n"), 20)
		assert.Equal(t, 1, m.Log.Count("the list of unrevoked clients is full, so the engine dropped the oldest: revoke it in the Fuuffy dashboard: mount=fuuffy/ client_id=shop-100"))
	})
}
