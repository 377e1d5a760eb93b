// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure("verify_connection", false)
		m.sandbox.CreateClient(newClientID, newSecret)
		m.read()
		synctest.Wait()
		const issued = " data_path=token modified=false name=token operation=issue path=token"
		assert.Equal(t, []string{"fuuffy/token-issue client_id=shop-1" + issued}, m.events.take())

		m.stage()
		m.promote()
		assert.Equal(t, []string{
			"fuuffy/rotate-root-stage client_id=shop-1 path=rotate-root state=staged",
			"fuuffy/rotate-root-promote client_id=shop-2 path=rotate-root state=promoted",
		}, m.events.take())

		m.sandbox.RevokeClient(newClientID)
		m.do(logical.DeleteOperation, "token", nil)
		m.read()
		synctest.Wait()
		assert.Equal(t, []string{
			"fuuffy/token-drop data_path=token modified=true name=token operation=delete path=token",
			"fuuffy/rotate-root-fallback client_id=shop-1 path=rotate-root",
			"fuuffy/token-issue client_id=shop-2" + issued,
		}, m.events.take())

		m.do(logical.UpdateOperation, "rotate-root/rollback", nil)
		m.sandbox.SetFault(faultRejected)
		m.do(logical.DeleteOperation, "token", nil)
		m.refused(logical.ReadOperation, "token", nil)
		synctest.Wait()
		assert.Equal(t, []string{
			"fuuffy/rotate-root-rollback client_id=shop-1 path=rotate-root state=idle",
			"fuuffy/token-drop data_path=token modified=true name=token operation=delete path=token",
			"fuuffy/token-issue-fail client_id=shop-1 data_path=token failure=rejected modified=false name=token operation=issue path=token",
		}, m.events.take())

		time.Sleep(80 * 24 * time.Hour)
		m.events.take()
		m.tick()
		assert.Equal(t, []string{"fuuffy/rotate-root-due client_id=shop-1 due=2000-03-31T00:00:00Z path=rotate-root"}, m.events.take())
	})
}

// operator follows events as the Vault Secrets Operator does for a VaultDynamicSecret with
// syncConfig.instantUpdates. See getEventPath in vault/event_types.go, routeEvent in
// vault/event_subscription.go, and buildVaultEventKey in
// controllers/vaultdynamicsecret_controller.go of
// https://github.com/hashicorp/vault-secrets-operator.
type operator struct {
	mount, path  string
	subscription *regexp.Regexp
	policy       string
}

// newOperator takes what an operator is told from the examples.
func newOperator(t *testing.T) operator {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile("examples/" + name)
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
	return operator{
		mount: field("mount"),
		path:  field("path"),
		// The type of the mount is the engine's name in the catalog.
		subscription: regexp.MustCompile(`^fuuffy.*$`),
		policy:       read("policies/instant-updates.hcl"),
	}
}

// updates returns the operations of the events that make it read the token again.
func (o operator) updates(t *testing.T, events []string) (operations []string) {
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

// A fleet that reads at each event must not do so at a routine refresh, and must when
// the token that it holds is dead.
func TestInstantUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.sandbox.CreateClient(newClientID, newSecret)
		operator := newOperator(t)
		updates := func() []string {
			synctest.Wait()
			return operator.updates(t, m.events.take())
		}
		m.configure()
		m.configure("request_timeout", 20)
		held := m.readToken()
		assert.Empty(t, updates(), "nobody held a token before")

		time.Sleep(51 * time.Minute)
		m.readToken()
		synctest.Wait()
		require.NotEqual(t, held, m.readToken())
		assert.Empty(t, updates(), "a routine refresh")

		m.do(logical.UpdateOperation, "token", map[string]any{"rejected_token": held})
		assert.Empty(t, updates(), "a report of a token that was replaced before")
		m.write("rotate-root/check")
		assert.Empty(t, updates(), "a check that found all well")
		time.Sleep(time.Minute)
		m.do(logical.UpdateOperation, "token", map[string]any{"rejected_token": m.readToken()})
		assert.Equal(t, []string{"replace"}, updates())
		time.Sleep(time.Minute)
		m.sandbox.SetFault(faultUnavailable)
		m.refused(logical.UpdateOperation, "token", map[string]any{"rejected_token": m.readToken()})
		m.sandbox.ClearFault()
		assert.Empty(t, updates(), "a report, and Fuuffy gave no other token")
		time.Sleep(time.Minute)
		m.readToken()
		assert.Equal(t, []string{"replace"}, updates(), "the read that gets another for the reported token")

		m.do(logical.DeleteOperation, "token", nil)
		assert.Equal(t, []string{"delete"}, updates())
		m.readToken()
		assert.Empty(t, updates(), "the read that follows")

		m.stage()
		m.promote()
		m.readToken()
		m.do(logical.UpdateOperation, "rotate-root/rollback", nil)
		assert.Empty(t, updates(), "a rotation by the calendar")

		m.do(logical.UpdateOperation, "rotate-root", map[string]any{"client_id": newClientID, "client_secret": newSecret, "compromised": true})
		assert.Equal(t, []string{"compromised"}, updates())

		m.sandbox.RevokeClient(testClientID)
		m.do(logical.UpdateOperation, "rotate-root/complete", nil)
		assert.Empty(t, updates())
		m.sandbox.CreateClient("shop-3", newSecret)
		m.do(logical.UpdateOperation, "config", map[string]any{"client_id": "shop-3", "client_secret": newSecret})
		assert.Equal(t, []string{"configured"}, updates())
		m.write("config", "stale_if_error", true)
		assert.Empty(t, updates(), "a setting")
	})
}

// A token that an app reported in vain may be replaced by one that was requested for
// another purpose. Apps must hear of that too.
func TestInstantUpdateForSuspectToken(t *testing.T) {
	for name, replace := range map[string]func(*mount){
		"by a check":     func(m *mount) { m.do(logical.UpdateOperation, "rotate-root/check", nil) },
		"by a promotion": func(m *mount) { m.promote() },
		"by a config write": func(m *mount) {
			m.do(logical.UpdateOperation, "config", map[string]any{"client_secret": testSecret})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				m.configure()
				m.stage()
				held := m.readToken()
				time.Sleep(time.Minute)
				m.sandbox.SetFault(faultUnavailable)
				m.refused(logical.UpdateOperation, "token", map[string]any{"rejected_token": held})
				m.sandbox.ClearFault()
				synctest.Wait()
				m.events.take()

				replace(m)
				synctest.Wait()
				assert.Equal(t, []string{"replace"}, newOperator(t).updates(t, m.events.take()))
				assert.NotEqual(t, held, m.readToken())
			})
		})
	}
}
