// SPDX-License-Identifier: MPL-2.0

package fuuffy_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure("verify_connection", false)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Read()
		synctest.Wait()
		const issued = " data_path=token modified=false name=token operation=issue path=token"
		assert.Equal(t, []string{"fuuffy/token-issue client_id=shop-1" + issued}, m.Events.Take())

		m.Stage()
		m.Promote()
		assert.Equal(t, []string{
			"fuuffy/rotate-root-stage client_id=shop-1 path=rotate-root state=staged",
			"fuuffy/rotate-root-promote client_id=shop-2 path=rotate-root state=promoted",
		}, m.Events.Take())

		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.Do(logical.DeleteOperation, "token", nil)
		m.Read()
		synctest.Wait()
		assert.Equal(t, []string{
			"fuuffy/token-drop data_path=token modified=true name=token operation=delete path=token",
			"fuuffy/rotate-root-fallback client_id=shop-1 path=rotate-root",
			"fuuffy/token-issue client_id=shop-2" + issued,
		}, m.Events.Take())

		m.Do(logical.UpdateOperation, "rotate-root/rollback", nil)
		m.Sandbox.SetFault(mounttest.FaultRejected)
		m.Do(logical.DeleteOperation, "token", nil)
		m.Refused(logical.ReadOperation, "token", nil)
		synctest.Wait()
		assert.Equal(t, []string{
			"fuuffy/rotate-root-rollback client_id=shop-1 path=rotate-root state=idle",
			"fuuffy/token-drop data_path=token modified=true name=token operation=delete path=token",
			"fuuffy/token-issue-fail client_id=shop-1 data_path=token failure=rejected modified=false name=token operation=issue path=token",
		}, m.Events.Take())

		time.Sleep(80 * 24 * time.Hour)
		m.Events.Take()
		m.Tick()
		assert.Equal(t, []string{"fuuffy/rotate-root-due client_id=shop-1 due=2000-03-31T00:00:00Z path=rotate-root"}, m.Events.Take())
	})
}

// A fleet that reads at each event must not do so at a routine refresh, and must when
// the token that it holds is dead.
func TestInstantUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		operator := mounttest.NewOperator(t)
		updates := func() []string {
			synctest.Wait()
			return operator.Updates(t, m.Events.Take())
		}
		m.Configure()
		m.Configure("request_timeout", 20)
		held := m.ReadToken()
		assert.Empty(t, updates(), "nobody held a token before")

		time.Sleep(51 * time.Minute)
		m.ReadToken()
		synctest.Wait()
		require.NotEqual(t, held, m.ReadToken())
		assert.Empty(t, updates(), "a routine refresh")

		m.Do(logical.UpdateOperation, "token", map[string]any{"rejected_token": held})
		assert.Empty(t, updates(), "a report of a token that was replaced before")
		m.Write("rotate-root/check")
		assert.Empty(t, updates(), "a check that found all well")
		time.Sleep(time.Minute)
		m.Do(logical.UpdateOperation, "token", map[string]any{"rejected_token": m.ReadToken()})
		assert.Equal(t, []string{"replace"}, updates())
		time.Sleep(time.Minute)
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.Refused(logical.UpdateOperation, "token", map[string]any{"rejected_token": m.ReadToken()})
		m.Sandbox.ClearFault()
		assert.Empty(t, updates(), "a report, and Fuuffy gave no other token")
		time.Sleep(time.Minute)
		m.ReadToken()
		assert.Equal(t, []string{"replace"}, updates(), "the read that gets another for the reported token")

		m.Do(logical.DeleteOperation, "token", nil)
		assert.Equal(t, []string{"delete"}, updates())
		m.ReadToken()
		assert.Empty(t, updates(), "the read that follows")

		m.Stage()
		m.Promote()
		m.ReadToken()
		m.Do(logical.UpdateOperation, "rotate-root/rollback", nil)
		assert.Empty(t, updates(), "a rotation by the calendar")

		m.Do(logical.UpdateOperation, "rotate-root", map[string]any{"client_id": mounttest.NewClientID, "client_secret": mounttest.NewSecret, "compromised": true})
		assert.Equal(t, []string{"compromised"}, updates())

		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.Do(logical.UpdateOperation, "rotate-root/complete", nil)
		assert.Empty(t, updates())
		m.Sandbox.CreateClient("shop-3", mounttest.NewSecret)
		m.Do(logical.UpdateOperation, "config", map[string]any{"client_id": "shop-3", "client_secret": mounttest.NewSecret})
		assert.Equal(t, []string{"configured"}, updates())
		m.Write("config", "stale_if_error", true)
		assert.Empty(t, updates(), "a setting")
	})
}

// A token that an app reported in vain may be replaced by one that was requested for
// another purpose. Apps must hear of that too.
func TestInstantUpdateForSuspectToken(t *testing.T) {
	for name, replace := range map[string]func(*mounttest.Mount){
		"by a check":     func(m *mounttest.Mount) { m.Do(logical.UpdateOperation, "rotate-root/check", nil) },
		"by a promotion": func(m *mounttest.Mount) { m.Promote() },
		"by a config write": func(m *mounttest.Mount) {
			m.Do(logical.UpdateOperation, "config", map[string]any{"client_secret": mounttest.Secret})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.New(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				m.Configure()
				m.Stage()
				held := m.ReadToken()
				time.Sleep(time.Minute)
				m.Sandbox.SetFault(mounttest.FaultUnavailable)
				m.Refused(logical.UpdateOperation, "token", map[string]any{"rejected_token": held})
				m.Sandbox.ClearFault()
				synctest.Wait()
				m.Events.Take()

				replace(m)
				synctest.Wait()
				assert.Equal(t, []string{"replace"}, mounttest.NewOperator(t).Updates(t, m.Events.Take()))
				assert.NotEqual(t, held, m.ReadToken())
			})
		})
	}
}
