// SPDX-License-Identifier: MPL-2.0

package fuuffy_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// Every step in every state: where it leads, or why it is refused.
func TestRotationSteps(t *testing.T) {
	type action struct {
		operation logical.Operation
		path      string
		data      map[string]any
	}
	current := mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret)
	third := mounttest.Pairs("client_id", "shop-3", "client_secret", "third-secret")
	actions := map[string]action{
		"stage":              {logical.UpdateOperation, "rotate-root", mounttest.NewPair()},
		"stage current":      {logical.UpdateOperation, "rotate-root", current},
		"stage third":        {logical.UpdateOperation, "rotate-root", third},
		"compromised":        {logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true)},
		"third, compromised": {logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", "shop-3", "client_secret", "third-secret", "compromised", true)},
		"first, compromised": {logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "compromised", true)},
		"promote":            {logical.UpdateOperation, "rotate-root/promote", nil},
		"complete":           {logical.UpdateOperation, "rotate-root/complete", nil},
		"force":              {logical.UpdateOperation, "rotate-root/complete", mounttest.Pairs("force", true)},
		"rollback":           {logical.UpdateOperation, "rotate-root/rollback", nil},
		"discard":            {logical.DeleteOperation, "rotate-root", nil},
		"config secret":      {logical.UpdateOperation, "config", third},
		"config endpoint":    {logical.UpdateOperation, "config", mounttest.Pairs("environment", "testing", "client_secret", mounttest.Secret)},
		"config policy":      {logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true)},
	}
	// The state after the action, or else part of the refusal.
	table := map[string]map[string]string{
		"stage":              {"idle": "staged", "staged": "staged", "promoted": "promoted", "compromised": "promoted"},
		"stage current":      {"idle": "already the current ones", "staged": "already the current ones", "promoted": "client shop-2 replaced client shop-1", "compromised": "client shop-1 is compromised"},
		"stage third":        {"idle": "staged", "staged": "client shop-2 is already staged", "promoted": "client shop-1 isn't proved to be revoked", "compromised": "client shop-1 isn't proved to be revoked"},
		"compromised":        {"idle": "promoted", "staged": "promoted", "promoted": "promoted", "compromised": "promoted"},
		"third, compromised": {"idle": "promoted", "staged": "promoted", "promoted": "promoted", "compromised": "promoted"},
		"first, compromised": {"idle": "already the current ones", "staged": "already the current ones", "promoted": "promoted", "compromised": "client shop-1 is compromised"},
		"promote":            {"idle": "Nothing is staged", "staged": "promoted", "promoted": "promoted", "compromised": "promoted"},
		"complete":           {"idle": "nothing to complete", "staged": "staged but not promoted", "promoted": "Fuuffy still accepts client shop-1", "compromised": "Fuuffy still accepts client shop-1"},
		"force":              {"idle": "nothing to complete", "staged": "staged but not promoted", "promoted": "idle", "compromised": "idle"},
		"rollback":           {"idle": "nothing to roll back", "staged": "staged but not promoted", "promoted": "idle", "compromised": "roll back to client shop-1, because it is compromised"},
		"discard":            {"idle": "idle", "staged": "idle", "promoted": "client shop-2, because it is already current", "compromised": "already current"},
		"config secret":      {"idle": "idle", "staged": "A rotation is in progress (staged)", "promoted": "A rotation is in progress (promoted)", "compromised": "A rotation is in progress (promoted)"},
		"config endpoint":    {"idle": "idle", "staged": "A rotation is in progress", "promoted": "client_secret", "compromised": "client_secret"},
		"config policy":      {"idle": "idle", "staged": "staged", "promoted": "promoted", "compromised": "promoted"},
	}
	states := map[string]bool{rotation.Idle: true, rotation.Staged: true, rotation.Promoted: true}
	for name, a := range actions {
		for _, before := range []string{rotation.Idle, rotation.Staged, rotation.Promoted, "compromised"} {
			t.Run(name+" when "+before, func(t *testing.T) {
				want, ok := table[name][before]
				require.True(t, ok)
				m := mounttest.NewRotating(t, before)
				m.Sandbox.CreateClient("shop-3", "third-secret")
				if want == "client_secret" {
					// The current pair is the new one by now.
					a.data = mounttest.Pairs("environment", "testing", "client_secret", mounttest.NewSecret)
					want = "A rotation is in progress"
				}
				was := m.Rotation()
				if states[want] {
					m.Do(a.operation, a.path, a.data)
					assert.Equal(t, want, m.Rotation()["state"])
				} else {
					status, text := m.Refused(a.operation, a.path, a.data)
					assert.Equal(t, http.StatusBadRequest, status)
					assert.Contains(t, text, want)
					assert.Equal(t, was, m.Rotation(), "nothing changed")
				}
				assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
			})
		}
	}
}

func TestRotationWorkflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Idle)
		old := m.ReadToken()
		status := m.Rotation()
		assert.Equal(t, "idle", status["state"])
		assert.EqualValues(t, 90, status["days_left"])
		assert.Equal(t, "No action needed until 2000-03-17.", status["next_step"], "two weeks before the credentials are due")

		time.Sleep(time.Hour / 4)
		status = m.Stage().Data
		assert.Equal(t, "staged", status["state"])
		assert.Equal(t, mounttest.NewClientID, status["staged_client_id"])
		assert.Equal(t, mounttest.ClientID, status["client_id"])
		assert.Contains(t, status["next_step"], "vault write -f fuuffy/rotate-root/promote")
		assert.Equal(t, old, m.ReadToken(), "staging disturbs nobody")

		requests := m.Requests()
		status = m.Promote().Data
		promoted := m.ReadToken()
		assert.NotEqual(t, old, promoted, "from the next read on")
		assert.Equal(t, mounttest.NewClientID, m.ServedClientID())
		assert.Equal(t, requests+1, m.Requests(), "the token of the test is the one served")
		assert.Equal(t, "promoted", status["state"])
		assert.Equal(t, mounttest.ClientID, status["previous_client_id"])
		assert.Equal(t, time.Now().Add(55*time.Minute).UTC().Format(time.RFC3339), status["revoke_old_after"])
		assert.Contains(t, status["next_step"], "Wait until "+status["revoke_old_after"].(string))

		code, text := m.Refused(logical.UpdateOperation, "rotate-root/complete", nil)
		assert.Equal(t, http.StatusBadRequest, code)
		assert.Contains(t, text, "Not completed: Fuuffy still accepts client shop-1. Apps may hold tokens of it until 2000-01-01T01:10:00Z. After that, revoke it in the Fuuffy dashboard, then: vault write -f fuuffy/rotate-root/complete\n")

		time.Sleep(time.Hour)
		assert.Contains(t, m.Rotation()["next_step"], "Check that client shop-2 still works: vault write -f fuuffy/rotate-root/check\n")
		assert.Contains(t, m.Write("rotate-root/check").Data["next_step"], "Now: revoke client shop-1 in the Fuuffy dashboard. Then: vault write -f fuuffy/rotate-root/complete\n")
		m.Sandbox.RevokeClient(mounttest.ClientID)
		status = m.Do(logical.UpdateOperation, "rotate-root/complete", nil).Data
		assert.Equal(t, "idle", status["state"])
		assert.Nil(t, status["previous_client_id"])
		assert.EqualValues(t, 90, status["days_left"])

		assert.Equal(t, strings.Join([]string{
			"2000-01-01T00:00:00Z configured shop-1",
			"2000-01-01T00:15:00Z staged shop-2",
			"2000-01-01T00:15:00Z promoted shop-2 (replaced shop-1)",
			"2000-01-01T01:15:00Z completed shop-2 (revoked: shop-1)",
		}, "\n"), status["history"])
		m.Restart()
		assert.Equal(t, mounttest.NewClientID, m.ServedClientID())
		entry, err := m.Storage.Storage.Get(t.Context(), mounttest.ConfigKey)
		require.NoError(t, err)
		assert.NotContains(t, string(entry.Value), `"`+mounttest.Secret[:14], "the old secret is erased")
		assert.Contains(t, string(entry.Value), `"`+mounttest.NewSecret, "which would be found like this")
	})
}

func TestStageRefusesWhatFuuffyRefuses(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Idle)
	old := m.ReadToken()
	for _, compromised := range []bool{false, true} {
		status, text := m.Refused(logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", mounttest.NewClientID, "client_secret", "wrong", "compromised", compromised))
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, text, "Nothing was changed: Fuuffy issued no token to client shop-2.")
		assert.Contains(t, text, "invalid_client")
		assert.Contains(t, text, "Usual causes: a mistyped", "the mount's own clients are well")
		assert.Equal(t, "idle", m.Rotation()["state"])
		assert.Equal(t, old, m.ReadToken())
	}
}

func TestStageInput(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Idle)
	for name, tt := range map[string]struct {
		data map[string]any
		text string
	}{
		"nothing":       {nil, "    vault write fuuffy/rotate-root client_id=<client_id> client_secret=-\n"},
		"no secret":     {mounttest.Pairs("client_id", mounttest.NewClientID), "both needed"},
		"no client":     {mounttest.Pairs("client_secret", mounttest.NewSecret), "both needed"},
		"unknown field": {mounttest.NewPair("compromized", true), "unknown field compromized"},
		"white space":   {mounttest.Pairs("client_id", "shop 2", "client_secret", mounttest.NewSecret), "client_id has white space"},
		"map":           {mounttest.Pairs("client_id", mounttest.NewClientID, "client_secret", mounttest.Pairs("a", mounttest.NewSecret)), "client_secret must be a string"},
	} {
		t.Run(name, func(t *testing.T) {
			requests := m.Requests()
			status, text := m.Refused(logical.UpdateOperation, "rotate-root", tt.data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, text, tt.text)
			assert.NotContains(t, text, mounttest.NewSecret)
			assert.Equal(t, requests, m.Requests())
		})
	}
	for _, path := range []string{"promote", "rollback", "complete"} {
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/"+path, mounttest.Pairs("forse", true))
		assert.Contains(t, text, "unknown field forse")
	}
	resp := m.Do(logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", mounttest.NewClientID+" ", "client_secret", mounttest.NewSecret+"\n"))
	require.Len(t, resp.Warnings, 1, "one newline at the end is nobody's mistake")
	assert.Contains(t, resp.Warnings[0], "client_id")
}

func TestRotationBeforeConfig(t *testing.T) {
	m := mounttest.New(t)
	for _, operation := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation, logical.DeleteOperation} {
		_, text := m.Refused(operation, "rotate-root", mounttest.NewPair())
		assert.Contains(t, text, "no Fuuffy credentials yet")
	}
	for _, step := range []string{"promote", "rollback", "complete", "check", "revoked"} {
		var data map[string]any
		if step == "revoked" {
			data = mounttest.Pairs("client_id", mounttest.ClientID)
		}
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/"+step, data)
		assert.Contains(t, text, "no Fuuffy credentials yet", step)
	}
}

// Compromised: test, swap, drop the token and never use the old credentials again.
func TestCompromised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Idle)
		leaked := m.ReadToken()
		resp := m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true))
		assert.Equal(t, true, resp.Data["compromised"])
		assert.Equal(t, resp.Data["promoted_at"], resp.Data["revoke_old_after"], "now")
		assert.Contains(t, resp.Data["next_step"], "Now: revoke client shop-1")
		assert.NotEqual(t, leaked, m.ReadToken())

		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.Do(logical.DeleteOperation, "token", nil)
		m.Refused(logical.ReadOperation, "token", nil)
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/rollback", nil)
		assert.Contains(t, text, "You can't roll back to client shop-1, because it is compromised.")

		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		_, text = m.Refused(logical.UpdateOperation, "rotate-root/complete", nil)
		assert.Contains(t, text, "Fuuffy still accepts client shop-1", "completing proves that the leaked pair is revoked")
	})
}

// The news that the old credentials leaked can come in the middle of a rotation.
func TestCompromisedWhilePromoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		time.Sleep(time.Minute)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.Do(logical.DeleteOperation, "token", nil)
		require.Equal(t, mounttest.ClientID, m.ServedClientID(), "the fallback")

		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true))
		assert.Equal(t, mounttest.NewClientID, m.ServedClientID(), "the token of the old ones is dropped at once")
		status := m.Rotation()
		assert.Equal(t, true, status["compromised"])
		assert.Equal(t, "2000-01-01T00:01:00Z shop-1 (compromised)", status["unrevoked"])
		assert.True(t, strings.HasSuffix(status["history"].(string), "2000-01-01T00:01:00Z staged shop-2 (shop-1 is compromised)"), "%v", status["history"])
	})
}

// When both clients of a rotation are revoked, new credentials get the mount going again. The
// way out records no leak, because there is none.
func TestBothClientsRevoked(t *testing.T) {
	for _, state := range []string{rotation.Promoted, mounttest.StateCompromised} {
		t.Run(state, func(t *testing.T) {
			m := mounttest.NewRotating(t, state)
			m.Sandbox.RevokeClient(mounttest.ClientID)
			m.Sandbox.RevokeClient(mounttest.NewClientID)
			m.Do(logical.DeleteOperation, "token", nil)
			m.Refused(logical.ReadOperation, "token", nil)
			next := m.Rotation()["next_step"]
			assert.Contains(t, next, "create new credentials in the Fuuffy dashboard, then: vault write fuuffy/rotate-root client_id=<client_id> client_secret=-")
			assert.NotContains(t, next, "compromised=true")

			m.Sandbox.CreateClient("shop-3", "third-secret")
			staged := m.Write("rotate-root", "client_id", "shop-3", "client_secret", "third-secret")
			assert.Contains(t, staged.Warnings, "Fuuffy no longer accepts client shop-1, so the engine completed its rotation first.")
			assert.Equal(t, "staged", staged.Data["state"])
			assert.Equal(t, mounttest.NewClientID, staged.Data["client_id"])
			assert.Contains(t, staged.Data["history"], "completed shop-2 (revoked: shop-1)")
			assert.Contains(t, staged.Data["next_step"], "Promote client shop-3, which is staged: vault write -f fuuffy/rotate-root/promote")

			status := m.Promote().Data
			assert.Equal(t, "shop-3", m.ServedClientID())
			assert.Equal(t, mounttest.NewClientID, status["previous_client_id"])
			assert.Equal(t, false, status["compromised"])
			assert.Equal(t, "idle", m.Write("rotate-root/complete").Data["state"])
			assert.NotContains(t, m.Rotation(), "unrevoked", "both are proved to be revoked")
		})
	}
}

// An emergency in the middle of a rotation is taken immediately. The current pair of that moment
// is the one that leaked. The engine gives the pair before it up, and lists it unless it is
// proved to be revoked.
func TestEmergencyWhilePromoted(t *testing.T) {
	third := mounttest.Pairs("client_id", "shop-3", "client_secret", "third-secret", "compromised", true)
	for name, tt := range map[string]struct {
		state     string
		happen    func(*mounttest.Mount)
		unrevoked []string
	}{
		"promoted":                    {rotation.Promoted, func(*mounttest.Mount) {}, []string{"shop-1 (replaced)", "shop-2 (compromised)"}},
		"compromised":                 {mounttest.StateCompromised, func(*mounttest.Mount) {}, []string{"shop-1 (compromised)", "shop-2 (compromised)"}},
		"promoted, first revoked":     {rotation.Promoted, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID); m.Write("rotate-root/check") }, []string{"shop-2 (compromised)"}},
		"compromised, first revoked":  {mounttest.StateCompromised, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID); m.Write("rotate-root/check") }, []string{"shop-1 (compromised)", "shop-2 (compromised)"}},
		"promoted, current rejected":  {rotation.Promoted, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.NewClientID) }, []string{"shop-1 (replaced)", "shop-2 (compromised)"}},
		"promoted, Fuuffy was down":   {rotation.Promoted, func(m *mounttest.Mount) { during(m, mounttest.FaultUnavailable) }, []string{"shop-1 (replaced)", "shop-2 (compromised)"}},
		"compromised, current revoke": {mounttest.StateCompromised, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.NewClientID) }, []string{"shop-1 (compromised)", "shop-2 (compromised)"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, tt.state)
				leaked := m.ReadToken()
				m.Sandbox.CreateClient("shop-3", "third-secret")
				tt.happen(m)
				status := m.Do(logical.UpdateOperation, "rotate-root", third).Data
				assert.Equal(t, "shop-3", status["client_id"])
				assert.Equal(t, mounttest.NewClientID, status["previous_client_id"])
				assert.Equal(t, true, status["compromised"])
				assert.NotEqual(t, leaked, m.ReadToken())
				assert.Equal(t, "shop-3", m.ServedClientID())

				var listed []string
				for line := range strings.Lines(status["unrevoked"].(string)) {
					_, entry, _ := strings.Cut(strings.TrimSpace(line), " ")
					listed = append(listed, entry)
				}
				assert.ElementsMatch(t, tt.unrevoked, listed)

				m.Sandbox.RevokeClient(mounttest.NewClientID)
				m.Sandbox.RevokeClient(mounttest.ClientID)
				time.Sleep(time.Minute)
				assert.Equal(t, "idle", m.Write("rotate-root/complete").Data["state"])
				left, _ := m.Rotation()["unrevoked"].(string)
				assert.NotContains(t, left, mounttest.NewClientID, "it is proved to be revoked")
				for _, entry := range tt.unrevoked[:len(tt.unrevoked)-1] {
					assert.Contains(t, left, entry, "only a proof or an operator takes it off")
				}
			})
		})
	}
}

// A config write replaces a pair without proof that it is revoked, so it is listed, unless it is.
func TestReplacedByAConfigWrite(t *testing.T) {
	for name, tt := range map[string]struct {
		happen func(*mounttest.Mount)
		data   map[string]any
		want   string
	}{
		"another client":          {func(*mounttest.Mount) {}, mounttest.NewPair(), "shop-1 (replaced)"},
		"untested":                {func(*mounttest.Mount) {}, mounttest.NewPair("verify_connection", false), "shop-1 (replaced)"},
		"another secret":          {func(m *mounttest.Mount) { m.Sandbox.CreateClient(mounttest.ClientID, mounttest.NewSecret) }, mounttest.Pairs("client_secret", mounttest.NewSecret), "shop-1 (replaced)"},
		"the same elsewhere":      {func(*mounttest.Mount) {}, mounttest.Pairs("client_secret", mounttest.Secret, "environment", "testing"), ""},
		"the same":                {func(*mounttest.Mount) {}, mounttest.Pairs("client_secret", mounttest.Secret), ""},
		"a setting":               {func(*mounttest.Mount) {}, mounttest.Pairs("stale_if_error", true), ""},
		"another, proved revoked": {func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID); m.Write("rotate-root/check") }, mounttest.NewPair(), ""},
		"another, rejected by 403": {func(m *mounttest.Mount) {
			m.Sandbox.SetFault(mounttest.StatusFault(403, "<html>"))
			m.Write("rotate-root/check")
			m.Sandbox.ClearFault()
		}, mounttest.NewPair(), "shop-1 (replaced)"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.NewRotating(t, rotation.Idle)
			tt.happen(m)
			m.Do(logical.UpdateOperation, "config", tt.data)
			unrevoked, _ := m.Rotation()["unrevoked"].(string)
			assert.Equal(t, tt.want != "", unrevoked != "")
			assert.True(t, strings.HasSuffix(unrevoked, tt.want), unrevoked)
			m.Restart()
			listed, _ := m.Rotation()["unrevoked"].(string)
			assert.Equal(t, unrevoked, listed, "it is stored")
		})
	}
}

// during has Fuuffy fail for a moment, in which a check runs.
func during(m *mounttest.Mount, fault fuuffytest.Fault) {
	m.T.Helper()
	m.Sandbox.SetFault(fault)
	m.Write("rotate-root/check")
	m.Sandbox.ClearFault()
	time.Sleep(mounttest.CheckInterval)
}

// An emergency drops what was staged, unless that is what becomes current.
func TestEmergencyWhileStaged(t *testing.T) {
	for name, tt := range map[string]struct {
		id, secret string
		discards   bool
	}{
		"the staged client": {mounttest.NewClientID, mounttest.NewSecret, false},
		"another client":    {"shop-3", "third-secret", true},
	} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.NewRotating(t, rotation.Staged)
			m.Sandbox.CreateClient("shop-3", "third-secret")
			resp := m.Write("rotate-root", "client_id", tt.id, "client_secret", tt.secret, "compromised", true)
			assert.Equal(t, tt.id, resp.Data["client_id"])
			assert.NotContains(t, resp.Data, "staged_client_id")
			assert.Equal(t, tt.discards, slices.Contains(resp.Warnings, "The engine no longer keeps client shop-2. Unless it is revoked, it may still work: see unrevoked."), "%v", resp.Warnings)
			assert.Equal(t, tt.discards, strings.Contains(resp.Data["unrevoked"].(string), "shop-2 (discarded)"))
		})
	}
}

// The 90 days begin when credentials take effect, not when they are staged.
func TestAgeBeginsWithPromotion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Staged)
		time.Sleep(10 * 24 * time.Hour)
		status := m.Promote().Data
		assert.Equal(t, mounttest.Timestamp(time.Now()), status["last_rotated"])
		assert.Equal(t, status["promoted_at"], status["last_rotated"])
		assert.EqualValues(t, 90, status["days_left"])
	})
}

// An outage says nothing about the client that was tried during it.
func TestPromoteDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Staged)
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.Refused(logical.UpdateOperation, "rotate-root/promote", nil)
		m.Sandbox.ClearFault()
		assert.Contains(t, m.Rotation()["next_step"], "Promote client shop-2")
	})
}

// What the engine knows of a client is what Fuuffy said last.
func TestStagedClientWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Staged)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		assert.Contains(t, m.Write("rotate-root/check").Data["next_step"], "Fuuffy rejects client shop-2, which is staged. Discard it: vault delete fuuffy/rotate-root")
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		time.Sleep(mounttest.CheckInterval)
		assert.Contains(t, m.Write("rotate-root/check").Data["next_step"], "Promote client shop-2")
	})
}

// While promoted, the old credentials step in if the new ones are rejected, and
// only then.
func TestFallback(t *testing.T) {
	for name, tt := range map[string]struct {
		state    string
		break_   func(*mounttest.Mount)
		want     string // the client whose token is served; none if empty
		requests int
	}{
		"new ones revoked": {rotation.Promoted, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.NewClientID) }, mounttest.ClientID, 2},
		"both revoked": {rotation.Promoted, func(m *mounttest.Mount) {
			m.Sandbox.RevokeClient(mounttest.NewClientID)
			m.Sandbox.RevokeClient(mounttest.ClientID)
		}, "", 2},
		"old ones revoked":        {rotation.Promoted, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID) }, mounttest.NewClientID, 1},
		"unavailable":             {rotation.Promoted, func(m *mounttest.Mount) { m.Sandbox.SetFault(mounttest.FaultUnavailable) }, "", 3},
		"redirect":                {rotation.Promoted, func(m *mounttest.Mount) { m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultRedirect}) }, "", 1},
		"compromised":             {"compromised", func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.NewClientID) }, "", 1},
		"staged":                  {rotation.Staged, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID) }, "", 1},
		"old revoked, not staged": {rotation.Idle, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID) }, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, tt.state)
				time.Sleep(time.Minute)
				tt.break_(m)
				m.Do(logical.DeleteOperation, "token", nil)
				before := m.Requests()
				if tt.want == "" {
					_, text := m.Refused(logical.ReadOperation, "token", nil)
					assert.Equal(t, tt.requests == 2, strings.Contains(text, "client shop-1 gets no token either"), text)
					assert.Equal(t, before+tt.requests, m.Requests())
					assert.Equal(t, false, m.Rotation()["fallback_active"])
					return
				}
				assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
				assert.Equal(t, tt.want, m.ServedClientID())
				assert.Equal(t, before+tt.requests, m.Requests())
				assert.Equal(t, tt.want == mounttest.ClientID, m.Rotation()["fallback_active"])
			})
		})
	}
}

func TestFallbackIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		time.Sleep(time.Minute)
		m.Do(logical.DeleteOperation, "token", nil)
		token := m.ReadToken()
		resp := m.Do(logical.ReadOperation, "rotate-root", nil)
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "Fuuffy rejects client shop-2, and apps get tokens of client shop-1. Don't revoke client shop-1 now")
		assert.EqualValues(t, 1, resp.Data["auth_failures"])
		require.Len(t, m.Read().Warnings, 1)
		assert.Contains(t, m.Read().Warnings[0], "this token belongs to the previous ones")
		assert.Contains(t, resp.Data["next_step"], "vault write -f fuuffy/rotate-root/rollback")
		synctest.Wait()
		assert.Equal(t, 1, m.Log.Count("falling back to the old ones"))

		m.Restart()
		assert.Equal(t, token, m.ReadToken(), "a token of the fallback survives a restart")
		requests := m.Requests()
		for range 40 {
			time.Sleep(time.Minute)
			m.Read()
			synctest.Wait()
		}
		assert.Equal(t, requests, m.Requests(), "there is no better token, so nobody requests one before its window")

		// Rolling back keeps it, since it belongs to the current credentials then.
		m.Do(logical.UpdateOperation, "rotate-root/rollback", nil)
		assert.Equal(t, mounttest.ClientID, m.ServedClientID())
		assert.Equal(t, false, m.Rotation()["fallback_active"])
		assert.Empty(t, m.Read().Warnings)
	})
}

func TestRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/rollback", nil)
		assert.Contains(t, text, "Can't roll back. Fuuffy rejected client shop-1: invalid_client", "what does not work does not become current")
		assert.Equal(t, mounttest.NewClientID, m.ServedClientID())

		m.Sandbox.CreateClient(mounttest.ClientID, mounttest.Secret)
		abandoned := m.ReadToken()
		status := m.Do(logical.UpdateOperation, "rotate-root/rollback", nil).Data
		assert.Equal(t, mounttest.ClientID, status["client_id"])
		assert.NotEqual(t, abandoned, m.ReadToken())
		assert.Equal(t, mounttest.ClientID, m.ServedClientID())
	})
}

// The engine keeps the old credentials if it can't verify that they are revoked.
func TestCompleteThatCannotTell(t *testing.T) {
	for name, tt := range map[string]struct {
		fault  fuuffytest.Fault
		status int
	}{
		"unavailable":  {mounttest.FaultUnavailable, http.StatusBadGateway},
		"rate limited": {mounttest.FaultRateLimited, http.StatusTooManyRequests},
		"malformed":    {mounttest.FaultMalformed, http.StatusBadGateway},
		"not found":    {fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusNotFound}, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, rotation.Promoted)
				m.Sandbox.RevokeClient(mounttest.ClientID)
				// The first request proves that the new ones work; the fault hits the second.
				m.Transport = func(string) (http.RoundTripper, error) {
					var requests atomic.Int32
					return mounttest.RoundTripFunc(func(r *http.Request) (*http.Response, error) {
						if requests.Add(1) == 2 {
							m.Sandbox.SetFault(tt.fault)
						}
						return m.Sandbox.RoundTripper().RoundTrip(r)
					}), nil
				}
				status, text := m.Refused(logical.UpdateOperation, "rotate-root/complete", nil)
				assert.Equal(t, tt.status, status)
				assert.Contains(t, text, "Not completed: the engine couldn't verify that client shop-1 is revoked. Only a rejection from Fuuffy counts as proof.")
				m.Sandbox.ClearFault()
				assert.Equal(t, "promoted", m.Rotation()["state"])
			})
		})
	}
}

func TestCompleteNeedsWorkingCredentials(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Promoted)
	m.Sandbox.RevokeClient(mounttest.ClientID)
	m.Sandbox.RevokeClient(mounttest.NewClientID)
	for _, force := range []bool{false, true} {
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/complete", mounttest.Pairs("force", force))
		assert.Contains(t, text, "Nothing was changed: Fuuffy issued no token to client shop-2. Fuuffy rejected client shop-2: invalid_client")
	}
}

// A client can get a new secret and keep its ID.
func TestRotationOfTheSecretAlone(t *testing.T) {
	m := mounttest.New(t)
	m.Configure()
	old := m.ReadToken()
	m.Sandbox.CreateClient(mounttest.ClientID, mounttest.NewSecret) // Fuuffy no longer accepts the old secret.
	m.Do(logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.NewSecret))
	status := m.Promote().Data
	assert.Contains(t, status["next_step"], "because apps may hold tokens of the old secret of client shop-1. Don't revoke it before.")
	assert.NotEqual(t, old, m.ReadToken())
	assert.Equal(t, "idle", m.Do(logical.UpdateOperation, "rotate-root/complete", nil).Data["state"])
	assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
}

// A step's line in the log says which mount, and which clients.
func TestStepsAreLogged(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Staged)
	m.Promote()
	assert.Equal(t, 1, m.Log.Count("mount=fuuffy/ step=stage state=staged client_id=shop-1 staged_client_id=shop-2"))
	assert.Equal(t, 1, m.Log.Count("mount=fuuffy/ step=promote state=promoted client_id=shop-2 previous_client_id=shop-1 history=\"promoted shop-2 (replaced shop-1)\""))
	m.Write("rotate-root/rollback")
	m.Write("rotate-root/revoked", "client_id", mounttest.NewClientID)
	assert.Equal(t, 1, m.Log.Count("step=rollback state=idle client_id=shop-1 history=\"rolled back shop-1 (replaced shop-2)\""))
	assert.Equal(t, 1, m.Log.Count("step=revoked state=idle client_id=shop-1 history=\"marked revoked shop-2 (in the Fuuffy dashboard)\""))
	assert.Equal(t, 1, m.Log.Count("configuration written: mount=fuuffy/ client_id=shop-1"))
	m.Do(logical.DeleteOperation, "config", nil)
	assert.Equal(t, 1, m.Log.Count("configuration deleted: mount=fuuffy/"))
}

func TestEmergencyIsLogged(t *testing.T) {
	m := mounttest.NewRotating(t, mounttest.StateCompromised)
	assert.Equal(t, 1, m.Log.Count("client_id=shop-2 previous_client_id=shop-1 history=\"promoted shop-2 (replaced shop-1, which is compromised)\""))
	m.Sandbox.RevokeClient(mounttest.ClientID)
	m.Write("rotate-root/complete")
	assert.Equal(t, 1, m.Log.Count("step=complete state=idle client_id=shop-2 history=\"completed shop-2 (revoked: shop-1)\""))
}

func TestForceIsWarnedOf(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Promoted)
	resp := m.Do(logical.UpdateOperation, "rotate-root/complete", mounttest.Pairs("force", true))
	require.Len(t, resp.Warnings, 3, "it is forced, early, and the client is listed")
	assert.Contains(t, resp.Warnings[0], "The engine forgot client shop-1 without proof that it is revoked.")
}

func TestRotationReminders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		assert.Empty(t, m.Do(logical.ReadOperation, "config", nil).Warnings)

		time.Sleep(80 * 24 * time.Hour)
		resp := m.Do(logical.ReadOperation, "config", nil)
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "due for rotation on 2000-03-31")
		status := m.Rotation()
		assert.EqualValues(t, 10, status["days_left"])
		assert.Equal(t, false, status["overdue"])
		assert.Contains(t, status["next_step"], "Rotate now")

		time.Sleep(10*24*time.Hour + time.Hour)
		status = m.Rotation()
		assert.EqualValues(t, 0, status["days_left"])
		assert.Equal(t, true, status["overdue"])
		for range 3 * 24 * 60 {
			time.Sleep(time.Minute)
			m.Tick()
		}
		assert.Equal(t, 3, m.Log.Count("overdue for rotation"), "once a day")
	})
}

func TestHistoryIsBounded(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Idle)
	for range 8 {
		m.Stage()
		m.Do(logical.DeleteOperation, "rotate-root", nil)
	}
	history := strings.Split(m.Rotation()["history"].(string), "\n")
	require.Len(t, history, 10)
	assert.Contains(t, history[10-1], "discarded shop-2")
}

func TestRotationIsForwarded(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Promoted)
	before := m.Requests()
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary} {
		m.SetReplicationState(state)
		for _, path := range []string{"rotate-root", "rotate-root/promote", "rotate-root/rollback", "rotate-root/complete"} {
			_, err := m.Handle(t.Context(), logical.UpdateOperation, path, nil)
			assert.True(t, err == logical.ErrReadOnly, "%s: want the bare error, got %v", path, err)
		}
	}
	assert.Equal(t, before, m.Requests())
}

// A node that learns of new credentials by Invalidate serves its token while it
// fetches one of the new, unless the old ones are compromised.
func TestInvalidateAfterPromotion(t *testing.T) {
	for name, compromised := range map[string]bool{"routine": false, "compromised": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, rotation.Idle)
				old := m.ReadToken()
				other := m.Twin(0)
				other.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", compromised))
				if !compromised {
					other.Promote()
				}
				m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
				release := m.Sandbox.Hold()
				if !compromised {
					require.Equal(t, old, m.ReadToken(), "nobody waits")
				}
				release()
				m.Read()
				synctest.Wait()
				assert.NotEqual(t, old, m.ReadToken())
				assert.Equal(t, mounttest.NewClientID, m.ServedClientID())
			})
		})
	}
}

// Two rotations can pass while a node doesn't look. Its token then belongs to a client that is
// neither the current nor the previous one, and is not served again.
func TestInvalidateAfterTwoRotations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Idle)
		old := m.ReadToken()
		other := m.Twin(0)
		other.RotateTo(rotation.Promoted)
		other.Write("rotate-root/complete", "force", true)
		other.Sandbox.CreateClient(mounttest.ThirdID, mounttest.ThirdSecret)
		other.Write("rotate-root", "client_id", mounttest.ThirdID, "client_secret", mounttest.ThirdSecret)
		other.Promote()
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		assert.NotEqual(t, old, m.ReadToken())
		assert.Equal(t, mounttest.ThirdID, m.ServedClientID())
	})
}

// Two hundred readers during a rotation with a slow Fuuffy: none fails, none
// waits, and no token of erased credentials is served afterwards.
func TestReadersDuringARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Idle)
		old := m.ReadToken()
		m.Sandbox.SetFault(mounttest.SlowAnswer)
		var completed atomic.Bool
		var reads, waited atomic.Int64
		done := make(chan struct{})
		var readers sync.WaitGroup
		for range 200 {
			readers.Go(func() {
				for {
					select {
					case <-done:
						return
					case <-time.After(50 * time.Millisecond):
					}
					asked, afterwards := time.Now(), completed.Load()
					resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
					if !assert.NoError(t, err) || !assert.False(t, resp.IsError()) {
						return
					}
					reads.Add(1)
					if time.Since(asked) > 0 {
						waited.Add(1)
					}
					if afterwards {
						assert.NotEqual(t, old, resp.Data["access_token"])
					}
				}
			})
		}
		m.Stage()
		m.Promote()
		time.Sleep(time.Second)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.Do(logical.UpdateOperation, "rotate-root/complete", nil)
		completed.Store(true)
		time.Sleep(time.Second)
		close(done)
		readers.Wait()
		t.Logf("200 readers during stage, promote and complete: %d reads, %d waited", reads.Load(), waited.Load())
		assert.Zero(t, waited.Load())
		assert.Greater(t, reads.Load(), int64(10_000))
	})
}
