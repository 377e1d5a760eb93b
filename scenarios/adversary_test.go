// SPDX-License-Identifier: MPL-2.0

package scenarios

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

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// The attacks in this file succeeded once. Each comment says what went wrong.

// An emergency over a staged secret of the same client: the staged one is listed as discarded at
// the very time at which the current one took effect, and is called "the new secret". The new secret
// is the current one.
func TestAdversaryEmergencyOverStagedSecretOfTheSameClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		createSecret(m, "second")
		createSecret(m, "third")
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "second")
		time.Sleep(time.Hour)
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "third", "compromised", true)
		assert.NotContains(t, strings.Join(mounttest.ToldBy(t, m.Do(logical.ReadOperation, "status", nil), nil), "\n"), "the new secret of client shop-1 may still work")
		m.Write("rotate-root/complete", "force", true)
		m.Write("rotate-root/check")
		t.Log(nextStep(m))
		t.Log(unrevoked(m))
		assert.NotContains(t, toldToRevoke(nextStep(m)), "the new secret of client shop-1", "the newest secret of shop-1 is the current one")
	})
}

// The leak of the promoted secret, with the first one made current again: "the old secret" is the
// one in use.
func TestAdversaryEmergencyBackToTheFirstSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		createSecret(m, "second")
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "second")
		m.Promote()
		time.Sleep(time.Hour)
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "compromised", true)
		t.Log(nextStep(m))
		assert.NotContains(t, toldToRevoke(nextStep(m)), "the old secret of client shop-1", "the older secret of shop-1 is the current one; the newer one leaked")
	})
}

// The same through config: written, and written back.
func TestAdversaryConfigBackToTheFirstSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		createSecret(m, "second")
		m.Write("config", "client_id", mounttest.ClientID, "client_secret", "second")
		time.Sleep(time.Hour)
		m.Write("config", "client_id", mounttest.ClientID, "client_secret", mounttest.Secret)
		t.Log(unrevoked(m))
		t.Log(nextStep(m))
		assert.NotContains(t, toldToRevoke(nextStep(m)), "the old secret of client shop-1", "the older secret of shop-1 is the current one")
	})
}

// A check proved that the new client is revoked and the old one works. After a restart the next
// step is to revoke the old one, the only one that works: the stored token counts as a success.
func TestAdversaryRestartForgetsTheFailureAfterTheSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Promoted)
		past(m, "revoke_old_after")
		m.Read()
		time.Sleep(time.Minute)
		m.LoseToken()
		m.Read() // A token of shop-2, after revoke_old_after.
		assertRevokeOld(m)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		time.Sleep(time.Minute)
		checked := m.Write("rotate-root/check").Data
		require.Contains(t, checked["current"], "revoked: ")
		require.Equal(t, "works", checked["previous"])
		require.Contains(t, nextStep(m), "Don't revoke client shop-1")
		m.Restart()
		t.Log(nextStep(m))
		assert.NotContains(t, toldToRevoke(nextStep(m)), "client shop-1", "it is the only client that works")
	})
}

// A check proved that the current client is revoked; health is ok, in the same answer that says to
// roll back.
func TestAdversaryHealthAfterACheckThatProvedTheCurrentRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Promoted)
		m.Read()
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		time.Sleep(time.Minute)
		require.Contains(t, m.Write("rotate-root/check").Data["current"], "revoked: ")
		status := m.Do(logical.ReadOperation, "status", nil)
		t.Log(status.Data["next_step"], status.Data["upstream_state"], status.Warnings)
		assert.NotEqual(t, "ok", status.Data["health"])
	})
}

// complete before revoke_old_after: the refusal says to revoke now, and the next step not to.
func TestAdversaryEarlyCompleteSaysToRevokeNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Promoted)
		require.Contains(t, nextStep(m), "Don't revoke it before")
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/complete", nil)
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
		resp, err := m.Handle(t.Context(), logical.DeleteOperation, "config", nil)
		if err != nil || resp.IsError() {
			return // Refused: fine.
		}
		if resp != nil {
			assert.Contains(t, strings.Join(resp.Warnings, " "), "shop-1")
		}
		m.Refused(logical.CreateOperation, "config", firstPair)
	})
}

// complete after the budget is spent, repeated when the error says: each try spends the one request
// that came back, and the proof never gets one.
func TestAdversaryCompleteNeverGetsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Promoted)
		past(m, "revoke_old_after")
		m.Sandbox.RevokeClient(mounttest.ClientID)
		for range 12 {
			_, _ = m.Handle(t.Context(), logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", "typo", "client_secret", "typo"))
		}
		in := regexp.MustCompile(`Try again in (\d+)s`)
		for try := range 20 {
			resp, err := m.Handle(t.Context(), logical.UpdateOperation, "rotate-root/complete", nil)
			if err == nil && !resp.IsError() {
				t.Log("completed at try", try)
				return
			}
			_, text := mounttest.Refusal(t, resp, err)
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
		m, _ := mounttest.NewPairsMount(t, rotation.Idle)
		for range 12 {
			_, _ = m.Handle(t.Context(), logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", "typo", "client_secret", "typo"))
		}
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/check", nil)
		match := regexp.MustCompile(`Try again in (\d+)s`).FindStringSubmatch(text)
		require.NotNil(t, match, text)
		seconds, _ := strconv.Atoi(match[1])
		time.Sleep(time.Duration(seconds) * time.Second)
		resp, err := m.Handle(t.Context(), logical.UpdateOperation, "rotate-root/check", nil)
		if err != nil || resp.IsError() {
			_, again := mounttest.Refusal(t, resp, err)
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
			createSecret(m, secret)
		}
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "second")
		m.Do(logical.DeleteOperation, "rotate-root", nil) // second: discarded
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "third", "compromised", true)
		require.Len(t, unrevoked(m), 2)
		next := nextStep(m)
		t.Log(next)
		m.Write("rotate-root/complete", "force", true)
		next = nextStep(m)
		t.Log(next)
		for _, c := range m.Commands(next) {
			if c.String() == "write rotate-root/revoked" {
				_, err := enter(m, c)
				require.NoError(t, err)
				break
			}
		}
		assert.Len(t, unrevoked(m), 1, "the discarded secret may still work, and no one was told to revoke it")
	})
}

// A revocation that was undone (or a lockout that ended): forced on the strength of an old 401, the compromised
// pair leaves without a warning and without an entry, and comes back.
func TestAdversaryForceOnAStaleProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, mounttest.StateCompromised)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.Write("rotate-root/check")
		m.Sandbox.CreateClient(mounttest.ClientID, mounttest.Secret)
		time.Sleep(30 * 24 * time.Hour)
		resp := m.Write("rotate-root/complete", "force", true)
		t.Log(resp.Warnings)
		assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)", "it works, and force asked no one")
		m.Refused(logical.UpdateOperation, "rotate-root", firstPair)
	})
}

// Rolled back because the new client got a 401 (not active yet): it works a minute later, and nothing lists it.
func TestAdversaryRollbackOnAStaleProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, between := mounttest.NewPairsMount(t, rotation.Promoted)
		between[mounttest.NewClientID] = mounttest.ProvesDeath["401"]
		m.LoseToken()
		m.Read()
		delete(between, mounttest.NewClientID)
		time.Sleep(24 * time.Hour)
		m.Write("rotate-root/rollback")
		assert.Contains(t, linesOf(m, mounttest.NewClientID), "(rolled back)")
	})
}

// An emergency over a pair that is proved revoked lists nothing. When the pair is accepted again,
// the next step says that the operator marked it, and to finish: refused.
func TestAdversaryEmergencyOnAStaleProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Idle)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.Write("rotate-root/check")
		m.Sandbox.CreateClient(mounttest.ClientID, mounttest.Secret)
		time.Sleep(time.Hour)
		m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true))
		checked := m.Write("rotate-root/check").Data
		require.Equal(t, "works", checked["previous"])
		t.Log(nextStep(m))
		assert.NotContains(t, nextStep(m), "You marked", "no one marked it")
		assertRevokeFirst(t, "client shop-1", nextStep(m))
		m.Refused(logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "compromised", true))
	})
}

// An entry of an older version: the leaked secret of the client in use comes back.
func TestAdversaryOldEntryOfTheSameClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		createSecret(m, "second")
		m.Write("config", "client_id", mounttest.ClientID, "client_secret", "second")
		oldEntry(m, mounttest.ClientID, "compromised")
		require.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
		m.Refused(logical.UpdateOperation, "rotate-root", firstPair)
		m.Refused(logical.UpdateOperation, "config", firstPair)
	})
}

// An entry of an older version leaves without proof when another secret of its client is staged.
func TestAdversaryOldEntryLeavesWithoutProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		createSecret(m, "second")
		m.Do(logical.UpdateOperation, "config", mounttest.NewPair())
		oldEntry(m, mounttest.ClientID, "forced")
		require.Contains(t, linesOf(m, mounttest.ClientID), "(forced)")
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "second")
		assert.Contains(t, linesOf(m, mounttest.ClientID), "(forced)", "the first secret may still work")
	})
}

// oldEntry makes the list what an older version stored.
func oldEntry(m *mounttest.Mount, clientID, why string) {
	m.T.Helper()
	entry, err := m.Storage.Storage.Get(m.T.Context(), mounttest.ConfigKey)
	require.NoError(m.T, err)
	text := regexp.MustCompile(`"unrevoked":\[[^\]]*\]`).ReplaceAllString(string(entry.Value),
		fmt.Sprintf(`"unrevoked":[{"client_id":%q,"why":%q,"since":"2026-01-01T00:00:00Z"}]`, clientID, why))
	text = regexp.MustCompile(`,"fingerprint_key":"[^"]*"`).ReplaceAllString(text, "")
	m.Put(mounttest.ConfigKey, text)
	m.Restart()
	separateSecrets(m)
}

// Emergency over an emergency whose leaked client was marked too early: it is listed, but not as
// compromised, and comes back.
func TestAdversaryEmergencyAfterAMarkThatCameTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, mounttest.StateCompromised)
		m.Write("rotate-root/revoked", "client_id", mounttest.ClientID)
		time.Sleep(time.Second)
		m.Refused(logical.UpdateOperation, "rotate-root/complete", nil) // It still works.
		t.Log(nextStep(m))
		assert.NotContains(t, nextStep(m), "so finish", "complete was refused just now, because Fuuffy accepts shop-1")
		m.Do(logical.UpdateOperation, "rotate-root", thirdLeaked)
		assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
	})
}

// Tokens live a day. After the promotion the cached token is deleted: revoke_old_after jumps back to an hour.
func TestAdversaryRevokeOldAfterWithoutAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Idle)
		m.Sandbox.SetTokenLifetime(24 * time.Hour)
		m.LoseToken()
		m.Read()
		m.Stage()
		m.Promote()
		before := m.Rotation()["revoke_old_after"]
		m.LoseToken()
		assert.Equal(t, before, m.Rotation()["revoke_old_after"])
	})
}

// Two notions: a pair that is proved revoked is called not proved.
func TestAdversaryProvedPairIsCalledUnproved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, between := mounttest.NewPairsMount(t, rotation.Promoted)
		between[mounttest.NewClientID] = mounttest.ProvesDeath["401"]
		between[mounttest.ClientID] = mounttest.FirewallPage
		checked := m.Write("rotate-root/check").Data
		require.Contains(t, checked["current"], "revoked: ")
		t.Log(nextStep(m))
		assert.NotContains(t, nextStep(m), "but that doesn't prove that they are revoked", "check just proved one of them")
	})
}

// Health is degraded with something to do (restart the plugin), and the next step is that no action is needed.
func TestAdversaryNoActionNeededWhileDegraded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Storage.Failing(mounttest.FailAll("put", mounttest.TokenKey))
		m.Read()
		status := m.Do(logical.ReadOperation, "status", nil)
		require.Equal(t, "degraded", status.Data["health"])
		assert.NotContains(t, status.Data["next_step"], "No action needed", "%s", status.Warnings)
	})
}

// A caller that hung up before anything was sent uses up the checks' slot.
func TestAdversaryCancelledCheckUsesUpItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Idle)
		before := m.Requests()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := m.Handle(ctx, logical.UpdateOperation, "rotate-root/check", nil)
		require.Error(t, err)
		require.Equal(t, before, m.Requests())
		resp, err := m.Handle(t.Context(), logical.UpdateOperation, "rotate-root/check", nil)
		if err != nil || resp.IsError() {
			_, text := mounttest.Refusal(t, resp, err)
			assert.Fail(t, "nothing was sent", text)
		}
	})
}
