// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// The attacks in this file succeeded once. Each comment says what went wrong.

// An emergency over a staged secret of the same client: the staged one is listed as discarded at
// the very time at which the current one took effect, and is called "the new secret". The new secret
// is the current one.
func TestAdversaryEmergencyOverStagedSecretOfTheSameClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		m.createSecret("second")
		m.createSecret("third")
		m.write("rotate-root", "client_id", testClientID, "client_secret", "second")
		time.Sleep(time.Hour)
		m.write("rotate-root", "client_id", testClientID, "client_secret", "third", "compromised", true)
		assert.NotContains(t, strings.Join(toldBy(t, m.do(logical.ReadOperation, "status", nil), nil), "\n"), "the new secret of client shop-1 may still work")
		m.write("rotate-root/complete", "force", true)
		m.write("rotate-root/check")
		t.Log(m.nextStep())
		t.Log(m.unrevoked())
		assert.NotContains(t, toldToRevoke(m.nextStep()), "the new secret of client shop-1", "the newest secret of shop-1 is the current one")
	})
}

// The leak of the promoted secret, with the first one made current again: "the old secret" is the
// one in use.
func TestAdversaryEmergencyBackToTheFirstSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		m.createSecret("second")
		m.write("rotate-root", "client_id", testClientID, "client_secret", "second")
		m.promote()
		time.Sleep(time.Hour)
		m.write("rotate-root", "client_id", testClientID, "client_secret", testSecret, "compromised", true)
		t.Log(m.nextStep())
		assert.NotContains(t, toldToRevoke(m.nextStep()), "the old secret of client shop-1", "the older secret of shop-1 is the current one; the newer one leaked")
	})
}

// The same through config: written, and written back.
func TestAdversaryConfigBackToTheFirstSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		m.createSecret("second")
		m.write("config", "client_id", testClientID, "client_secret", "second")
		time.Sleep(time.Hour)
		m.write("config", "client_id", testClientID, "client_secret", testSecret)
		t.Log(m.unrevoked())
		t.Log(m.nextStep())
		assert.NotContains(t, toldToRevoke(m.nextStep()), "the old secret of client shop-1", "the older secret of shop-1 is the current one")
	})
}

// A check proved that the new client is revoked and the old one works. After a restart the next
// step is to revoke the old one, the only one that works: the stored token counts as a success.
func TestAdversaryRestartForgetsTheFailureAfterTheSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Promoted)
		m.past("revoke_old_after")
		m.read()
		time.Sleep(time.Minute)
		m.loseToken()
		m.read() // A token of shop-2, after revoke_old_after.
		m.assertRevokeOld()
		m.sandbox.RevokeClient(newClientID)
		time.Sleep(time.Minute)
		checked := m.write("rotate-root/check").Data
		require.Contains(t, checked["current"], "revoked: ")
		require.Equal(t, "works", checked["previous"])
		require.Contains(t, m.nextStep(), "Don't revoke client shop-1")
		m.restart()
		t.Log(m.nextStep())
		assert.NotContains(t, toldToRevoke(m.nextStep()), "client shop-1", "it is the only client that works")
	})
}

// A check proved that the current client is revoked; health is ok, in the same answer that says to
// roll back.
func TestAdversaryHealthAfterACheckThatProvedTheCurrentRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Promoted)
		m.read()
		m.sandbox.RevokeClient(newClientID)
		time.Sleep(time.Minute)
		require.Contains(t, m.write("rotate-root/check").Data["current"], "revoked: ")
		status := m.do(logical.ReadOperation, "status", nil)
		t.Log(status.Data["next_step"], status.Data["upstream_state"], status.Warnings)
		assert.NotEqual(t, "ok", status.Data["health"])
	})
}

// complete before revoke_old_after: the refusal says to revoke now, and the next step not to.
func TestAdversaryEarlyCompleteSaysToRevokeNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Promoted)
		require.Contains(t, m.nextStep(), "Don't revoke it before")
		_, text := m.refused(logical.UpdateOperation, "rotate-root/complete", nil)
		t.Log(text)
		if told := toldToRevoke(text); len(told) > 0 || strings.Contains(text, "Revoke it in the Fuuffy dashboard") {
			assert.Contains(t, text, "Wait until", "it says to revoke what the next step says not to revoke")
		}
	})
}

// A compromised pair comes back after the configuration was deleted, without a force and without a
// word to the operator.
func TestAdversaryCompromisedPairComesBackAfterDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newLeakedMount(t)
		resp, err := m.handle(t.Context(), logical.DeleteOperation, "config", nil)
		if err != nil || resp.IsError() {
			return // Refused: fine.
		}
		if resp != nil {
			assert.Contains(t, strings.Join(resp.Warnings, " "), "shop-1")
		}
		m.refused(logical.CreateOperation, "config", firstPair)
	})
}

// complete after the budget is spent, repeated when the error says: each try spends the one request
// that came back, and the proof never gets one.
func TestAdversaryCompleteNeverGetsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Promoted)
		m.past("revoke_old_after")
		m.sandbox.RevokeClient(testClientID)
		for range 12 {
			_, _ = m.handle(t.Context(), logical.UpdateOperation, "rotate-root", pairs("client_id", "typo", "client_secret", "typo"))
		}
		in := regexp.MustCompile(`Try again in (\d+)s`)
		for try := range 20 {
			resp, err := m.handle(t.Context(), logical.UpdateOperation, "rotate-root/complete", nil)
			if err == nil && !resp.IsError() {
				t.Log("completed at try", try)
				return
			}
			_, text := refusal(t, resp, err)
			match := in.FindStringSubmatch(text)
			require.NotNil(t, match, text)
			seconds, _ := strconv.Atoi(match[1])
			time.Sleep(time.Duration(seconds) * time.Second)
		}
		assert.Fail(t, "20 tries at the times that the engine named, and none completed")
	})
}

// A check that was over the budget sends nothing for the current pair, but uses up the checks' own slot:
// the time that it names is refused.
func TestAdversaryCheckOverBudgetUsesUpItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Idle)
		for range 12 {
			_, _ = m.handle(t.Context(), logical.UpdateOperation, "rotate-root", pairs("client_id", "typo", "client_secret", "typo"))
		}
		_, text := m.refused(logical.UpdateOperation, "rotate-root/check", nil)
		match := regexp.MustCompile(`Try again in (\d+)s`).FindStringSubmatch(text)
		require.NotNil(t, match, text)
		seconds, _ := strconv.Atoi(match[1])
		time.Sleep(time.Duration(seconds) * time.Second)
		resp, err := m.handle(t.Context(), logical.UpdateOperation, "rotate-root/check", nil)
		if err != nil || resp.IsError() {
			_, again := refusal(t, resp, err)
			assert.Fail(t, "refused again", "%s\n%s", text, again)
		}
	})
}

// Two secrets of one client are listed. Marking the one that the advice names takes the other
// off the list, which no one ever named.
func TestAdversaryMarkTakesAnotherSecretAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		for _, secret := range []string{"second", "third"} {
			m.createSecret(secret)
		}
		m.write("rotate-root", "client_id", testClientID, "client_secret", "second")
		m.do(logical.DeleteOperation, "rotate-root", nil) // second: discarded
		m.write("rotate-root", "client_id", testClientID, "client_secret", "third", "compromised", true)
		require.Len(t, m.unrevoked(), 2)
		next := m.nextStep()
		t.Log(next)
		m.write("rotate-root/complete", "force", true)
		next = m.nextStep()
		t.Log(next)
		for _, c := range m.commands(next) {
			if c.String() == "write rotate-root/revoked" {
				_, err := m.enter(c)
				require.NoError(t, err)
				break
			}
		}
		assert.Len(t, m.unrevoked(), 1, "the discarded secret may still work, and no one was told to revoke it")
	})
}

// A revocation that was undone (or a lockout that ended): forced on the strength of an old 401, the compromised
// pair leaves without a warning and without an entry, and comes back.
func TestAdversaryForceOnAStaleProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, stateCompromised)
		m.sandbox.RevokeClient(testClientID)
		m.write("rotate-root/check")
		m.sandbox.CreateClient(testClientID, testSecret)
		time.Sleep(30 * 24 * time.Hour)
		resp := m.write("rotate-root/complete", "force", true)
		t.Log(resp.Warnings)
		assert.Contains(t, m.linesOf(testClientID), "(compromised)", "it works, and force asked no one")
		m.refused(logical.UpdateOperation, "rotate-root", firstPair)
	})
}

// Rolled back because the new client got a 401 (not active yet): it works a minute later, and nothing lists it.
func TestAdversaryRollbackOnAStaleProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, between := newPairsMount(t, rotation.Promoted)
		between[newClientID] = provesDeath["401"]
		m.loseToken()
		m.read()
		delete(between, newClientID)
		time.Sleep(24 * time.Hour)
		m.write("rotate-root/rollback")
		assert.Contains(t, m.linesOf(newClientID), "(rolled back)")
	})
}

// An emergency over a pair that is proved revoked lists nothing. When the pair is accepted again,
// the next step says that the operator marked it, and to finish: refused.
func TestAdversaryEmergencyOnAStaleProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Idle)
		m.sandbox.RevokeClient(testClientID)
		m.write("rotate-root/check")
		m.sandbox.CreateClient(testClientID, testSecret)
		time.Sleep(time.Hour)
		m.do(logical.UpdateOperation, "rotate-root", newPair("compromised", true))
		checked := m.write("rotate-root/check").Data
		require.Equal(t, "works", checked["previous"])
		t.Log(m.nextStep())
		assert.NotContains(t, m.nextStep(), "You marked", "no one marked it")
		assertRevokeFirst(t, "client shop-1", m.nextStep())
		m.refused(logical.UpdateOperation, "rotate-root", pairs("client_id", testClientID, "client_secret", testSecret, "compromised", true))
	})
}

// An entry of an older version: the leaked secret of the client in use comes back.
func TestAdversaryOldEntryOfTheSameClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		m.createSecret("second")
		m.write("config", "client_id", testClientID, "client_secret", "second")
		m.oldEntry(testClientID, "compromised")
		require.Contains(t, m.linesOf(testClientID), "(compromised)")
		m.refused(logical.UpdateOperation, "rotate-root", firstPair)
		m.refused(logical.UpdateOperation, "config", firstPair)
	})
}

// An entry of an older version leaves without proof when another secret of its client is staged.
func TestAdversaryOldEntryLeavesWithoutProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		m.createSecret("second")
		m.do(logical.UpdateOperation, "config", newPair())
		m.oldEntry(testClientID, "forced")
		require.Contains(t, m.linesOf(testClientID), "(forced)")
		m.write("rotate-root", "client_id", testClientID, "client_secret", "second")
		assert.Contains(t, m.linesOf(testClientID), "(forced)", "the first secret may still work")
	})
}

// oldEntry makes the list what an older version stored.
func (m *mount) oldEntry(clientID, why string) {
	m.t.Helper()
	entry, err := m.storage.Storage.Get(m.t.Context(), configKey)
	require.NoError(m.t, err)
	text := regexp.MustCompile(`"unrevoked":\[[^\]]*\]`).ReplaceAllString(string(entry.Value),
		fmt.Sprintf(`"unrevoked":[{"client_id":%q,"why":%q,"since":"2026-01-01T00:00:00Z"}]`, clientID, why))
	text = regexp.MustCompile(`,"fingerprint_key":"[^"]*"`).ReplaceAllString(text, "")
	m.put(configKey, text)
	m.restart()
	m.separateSecrets()
}

// Emergency over an emergency whose leaked client was marked too early: it is listed, but not as
// compromised, and comes back.
func TestAdversaryEmergencyAfterAMarkThatCameTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, stateCompromised)
		m.write("rotate-root/revoked", "client_id", testClientID)
		time.Sleep(time.Second)
		m.refused(logical.UpdateOperation, "rotate-root/complete", nil) // It still works.
		t.Log(m.nextStep())
		assert.NotContains(t, m.nextStep(), "so finish", "complete was refused just now, because Fuuffy accepts shop-1")
		m.do(logical.UpdateOperation, "rotate-root", thirdLeaked)
		assert.Contains(t, m.linesOf(testClientID), "(compromised)")
	})
}

// Tokens live a day. After the promotion the cached token is deleted: revoke_old_after jumps back to an hour.
func TestAdversaryRevokeOldAfterWithoutAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Idle)
		m.sandbox.SetTokenLifetime(24 * time.Hour)
		m.loseToken()
		m.read()
		m.stage()
		m.promote()
		before := m.rotation()["revoke_old_after"]
		m.loseToken()
		assert.Equal(t, before, m.rotation()["revoke_old_after"])
	})
}

// Two notions: a pair that is proved revoked is called not proved.
func TestAdversaryProvedPairIsCalledUnproved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, between := newPairsMount(t, rotation.Promoted)
		between[newClientID] = provesDeath["401"]
		between[testClientID] = firewallPage
		checked := m.write("rotate-root/check").Data
		require.Contains(t, checked["current"], "revoked: ")
		t.Log(m.nextStep())
		assert.NotContains(t, m.nextStep(), "but that doesn't prove that they are revoked", "check just proved one of them")
	})
}

// Health is degraded with something to do (restart the plugin), and the next step is that no action is needed.
func TestAdversaryNoActionNeededWhileDegraded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.storage.failing(failAll("put", tokenKey))
		m.read()
		status := m.do(logical.ReadOperation, "status", nil)
		require.Equal(t, "degraded", status.Data["health"])
		assert.NotContains(t, status.Data["next_step"], "No action needed", "%s", status.Warnings)
	})
}

// A caller that hung up before anything was sent uses up the checks' slot.
func TestAdversaryCancelledCheckUsesUpItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Idle)
		before := m.requests()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := m.handle(ctx, logical.UpdateOperation, "rotate-root/check", nil)
		require.Error(t, err)
		require.Equal(t, before, m.requests())
		resp, err := m.handle(t.Context(), logical.UpdateOperation, "rotate-root/check", nil)
		if err != nil || resp.IsError() {
			_, text := refusal(t, resp, err)
			assert.Fail(t, "nothing was sent", text)
		}
	})
}
