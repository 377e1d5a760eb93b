// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
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
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

const (
	newClientID = "shop-2"
	newSecret   = "also-planted+secret"
)

// newRotatingMount returns an engine in one of the states of a rotation, whose new
// credentials exist at Fuuffy.
func newRotatingMount(t *testing.T, state string) *mount {
	t.Helper()
	m := newMount(t)
	m.configure()
	m.sandbox.CreateClient(newClientID, newSecret)
	m.rotateTo(state)
	return m
}

// rotateTo takes the steps from idle to a state, of which "compromised" is one.
func (m *mount) rotateTo(state string) {
	m.t.Helper()
	switch state {
	case rotation.Staged:
		m.stage()
	case rotation.Promoted:
		m.stage()
		m.promote()
	case "compromised":
		m.do(logical.UpdateOperation, "rotate-root", newPair("compromised", true))
	}
}

func newPair(more ...any) map[string]any {
	data := pairs("client_id", newClientID, "client_secret", newSecret)
	for field, value := range pairs(more...) {
		data[field] = value
	}
	return data
}

func (m *mount) stage() *logical.Response {
	m.t.Helper()
	return m.do(logical.UpdateOperation, "rotate-root", newPair())
}

func (m *mount) promote() *logical.Response {
	m.t.Helper()
	return m.do(logical.UpdateOperation, "rotate-root/promote", nil)
}

func (m *mount) rotation() map[string]any {
	m.t.Helper()
	return m.do(logical.ReadOperation, "rotate-root", nil).Data
}

// servedClientID returns the client whose token is served, as the engine knows it.
func (m *mount) servedClientID() string {
	m.t.Helper()
	return m.sandbox.ClientOf(m.readToken())
}

// Every step in every state: where it leads, or why it is refused.
func TestRotationSteps(t *testing.T) {
	type action struct {
		operation logical.Operation
		path      string
		data      map[string]any
	}
	current := pairs("client_id", testClientID, "client_secret", testSecret)
	third := pairs("client_id", "shop-3", "client_secret", "third-secret")
	actions := map[string]action{
		"stage":              {logical.UpdateOperation, "rotate-root", newPair()},
		"stage current":      {logical.UpdateOperation, "rotate-root", current},
		"stage third":        {logical.UpdateOperation, "rotate-root", third},
		"compromised":        {logical.UpdateOperation, "rotate-root", newPair("compromised", true)},
		"third, compromised": {logical.UpdateOperation, "rotate-root", pairs("client_id", "shop-3", "client_secret", "third-secret", "compromised", true)},
		"first, compromised": {logical.UpdateOperation, "rotate-root", pairs("client_id", testClientID, "client_secret", testSecret, "compromised", true)},
		"promote":            {logical.UpdateOperation, "rotate-root/promote", nil},
		"complete":           {logical.UpdateOperation, "rotate-root/complete", nil},
		"force":              {logical.UpdateOperation, "rotate-root/complete", pairs("force", true)},
		"rollback":           {logical.UpdateOperation, "rotate-root/rollback", nil},
		"discard":            {logical.DeleteOperation, "rotate-root", nil},
		"config secret":      {logical.UpdateOperation, "config", third},
		"config endpoint":    {logical.UpdateOperation, "config", pairs("environment", "testing", "client_secret", testSecret)},
		"config policy":      {logical.UpdateOperation, "config", pairs("stale_if_error", true)},
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
				m := newRotatingMount(t, before)
				m.sandbox.CreateClient("shop-3", "third-secret")
				if want == "client_secret" {
					// The current pair is the new one by now.
					a.data = pairs("environment", "testing", "client_secret", newSecret)
					want = "A rotation is in progress"
				}
				was := m.rotation()
				if states[want] {
					m.do(a.operation, a.path, a.data)
					assert.Equal(t, want, m.rotation()["state"])
				} else {
					status, text := m.refused(a.operation, a.path, a.data)
					assert.Equal(t, http.StatusBadRequest, status)
					assert.Contains(t, text, want)
					assert.Equal(t, was, m.rotation(), "nothing changed")
				}
				assert.True(t, m.sandbox.TokenAlive(m.readToken()))
			})
		}
	}
}

func TestRotationWorkflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Idle)
		old := m.readToken()
		status := m.rotation()
		assert.Equal(t, "idle", status["state"])
		assert.EqualValues(t, 90, status["days_left"])
		assert.Equal(t, "No action needed until 2000-03-17.", status["next_step"], "two weeks before the credentials are due")

		time.Sleep(time.Hour / 4)
		status = m.stage().Data
		assert.Equal(t, "staged", status["state"])
		assert.Equal(t, newClientID, status["staged_client_id"])
		assert.Equal(t, testClientID, status["client_id"])
		assert.Contains(t, status["next_step"], "vault write -f fuuffy/rotate-root/promote")
		assert.Equal(t, old, m.readToken(), "staging disturbs nobody")

		requests := m.requests()
		status = m.promote().Data
		promoted := m.readToken()
		assert.NotEqual(t, old, promoted, "from the next read on")
		assert.Equal(t, newClientID, m.servedClientID())
		assert.Equal(t, requests+1, m.requests(), "the token of the test is the one served")
		assert.Equal(t, "promoted", status["state"])
		assert.Equal(t, testClientID, status["previous_client_id"])
		assert.Equal(t, time.Now().Add(55*time.Minute).UTC().Format(time.RFC3339), status["revoke_old_after"])
		assert.Contains(t, status["next_step"], "Wait until "+status["revoke_old_after"].(string))

		code, text := m.refused(logical.UpdateOperation, "rotate-root/complete", nil)
		assert.Equal(t, http.StatusBadRequest, code)
		assert.Contains(t, text, "Not completed: Fuuffy still accepts client shop-1. Apps may hold tokens of it until 2000-01-01T01:10:00Z. After that, revoke it in the Fuuffy dashboard, then: vault write -f fuuffy/rotate-root/complete\n")

		time.Sleep(time.Hour)
		assert.Contains(t, m.rotation()["next_step"], "Check that client shop-2 still works: vault write -f fuuffy/rotate-root/check\n")
		assert.Contains(t, m.write("rotate-root/check").Data["next_step"], "Now: revoke client shop-1 in the Fuuffy dashboard. Then: vault write -f fuuffy/rotate-root/complete\n")
		m.sandbox.RevokeClient(testClientID)
		status = m.do(logical.UpdateOperation, "rotate-root/complete", nil).Data
		assert.Equal(t, "idle", status["state"])
		assert.Nil(t, status["previous_client_id"])
		assert.EqualValues(t, 90, status["days_left"])

		assert.Equal(t, strings.Join([]string{
			"2000-01-01T00:00:00Z configured shop-1",
			"2000-01-01T00:15:00Z staged shop-2",
			"2000-01-01T00:15:00Z promoted shop-2 (replaced shop-1)",
			"2000-01-01T01:15:00Z completed shop-2 (revoked: shop-1)",
		}, "\n"), status["history"])
		m.restart()
		assert.Equal(t, newClientID, m.servedClientID())
		entry, err := m.storage.Storage.Get(t.Context(), configKey)
		require.NoError(t, err)
		assert.NotContains(t, string(entry.Value), `"`+testSecret[:14], "the old secret is erased")
		assert.Contains(t, string(entry.Value), `"`+newSecret, "which would be found like this")
	})
}

func TestStageRefusesWhatFuuffyRefuses(t *testing.T) {
	m := newRotatingMount(t, rotation.Idle)
	old := m.readToken()
	for _, compromised := range []bool{false, true} {
		status, text := m.refused(logical.UpdateOperation, "rotate-root", pairs("client_id", newClientID, "client_secret", "wrong", "compromised", compromised))
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, text, "Nothing was changed: Fuuffy issued no token to client shop-2.")
		assert.Contains(t, text, "invalid_client")
		assert.Contains(t, text, "Usual causes: a mistyped", "the mount's own clients are well")
		assert.Equal(t, "idle", m.rotation()["state"])
		assert.Equal(t, old, m.readToken())
	}
}

func TestStageInput(t *testing.T) {
	m := newRotatingMount(t, rotation.Idle)
	for name, tt := range map[string]struct {
		data map[string]any
		text string
	}{
		"nothing":       {nil, "    vault write fuuffy/rotate-root client_id=<client_id> client_secret=-\n"},
		"no secret":     {pairs("client_id", newClientID), "both needed"},
		"no client":     {pairs("client_secret", newSecret), "both needed"},
		"unknown field": {newPair("compromized", true), "unknown field compromized"},
		"white space":   {pairs("client_id", "shop 2", "client_secret", newSecret), "client_id has white space"},
		"map":           {pairs("client_id", newClientID, "client_secret", pairs("a", newSecret)), "client_secret must be a string"},
	} {
		t.Run(name, func(t *testing.T) {
			requests := m.requests()
			status, text := m.refused(logical.UpdateOperation, "rotate-root", tt.data)
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, text, tt.text)
			assert.NotContains(t, text, newSecret)
			assert.Equal(t, requests, m.requests())
		})
	}
	for _, path := range []string{"promote", "rollback", "complete"} {
		_, text := m.refused(logical.UpdateOperation, "rotate-root/"+path, pairs("forse", true))
		assert.Contains(t, text, "unknown field forse")
	}
	resp := m.do(logical.UpdateOperation, "rotate-root", pairs("client_id", newClientID+" ", "client_secret", newSecret+"\n"))
	require.Len(t, resp.Warnings, 1, "one newline at the end is nobody's mistake")
	assert.Contains(t, resp.Warnings[0], "client_id")
}

func TestRotationBeforeConfig(t *testing.T) {
	m := newMount(t)
	for _, operation := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation, logical.DeleteOperation} {
		_, text := m.refused(operation, "rotate-root", newPair())
		assert.Contains(t, text, "no Fuuffy credentials yet")
	}
	for _, step := range []string{"promote", "rollback", "complete", "check", "revoked"} {
		var data map[string]any
		if step == "revoked" {
			data = pairs("client_id", testClientID)
		}
		_, text := m.refused(logical.UpdateOperation, "rotate-root/"+step, data)
		assert.Contains(t, text, "no Fuuffy credentials yet", step)
	}
}

// Compromised: test, swap, drop the token and never use the old credentials again.
func TestCompromised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Idle)
		leaked := m.readToken()
		resp := m.do(logical.UpdateOperation, "rotate-root", newPair("compromised", true))
		assert.Equal(t, true, resp.Data["compromised"])
		assert.Equal(t, resp.Data["promoted_at"], resp.Data["revoke_old_after"], "now")
		assert.Contains(t, resp.Data["next_step"], "Now: revoke client shop-1")
		assert.NotEqual(t, leaked, m.readToken())

		m.sandbox.RevokeClient(newClientID)
		m.do(logical.DeleteOperation, "token", nil)
		m.refused(logical.ReadOperation, "token", nil)
		_, text := m.refused(logical.UpdateOperation, "rotate-root/rollback", nil)
		assert.Contains(t, text, "You can't roll back to client shop-1, because it is compromised.")

		m.sandbox.CreateClient(newClientID, newSecret)
		_, text = m.refused(logical.UpdateOperation, "rotate-root/complete", nil)
		assert.Contains(t, text, "Fuuffy still accepts client shop-1", "completing proves that the leaked pair is revoked")
	})
}

// The news that the old credentials leaked can come in the middle of a rotation.
func TestCompromisedWhilePromoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		time.Sleep(time.Minute)
		m.sandbox.RevokeClient(newClientID)
		m.do(logical.DeleteOperation, "token", nil)
		require.Equal(t, testClientID, m.servedClientID(), "the fallback")

		m.sandbox.CreateClient(newClientID, newSecret)
		m.do(logical.UpdateOperation, "rotate-root", newPair("compromised", true))
		assert.Equal(t, newClientID, m.servedClientID(), "the token of the old ones is dropped at once")
		status := m.rotation()
		assert.Equal(t, true, status["compromised"])
		assert.Equal(t, "2000-01-01T00:01:00Z shop-1 (compromised)", status["unrevoked"])
		assert.True(t, strings.HasSuffix(status["history"].(string), "2000-01-01T00:01:00Z staged shop-2 (shop-1 is compromised)"), "%v", status["history"])
	})
}

// When both clients of a rotation are revoked, new credentials get the mount going again. The
// way out records no leak, because there is none.
func TestBothClientsRevoked(t *testing.T) {
	for _, state := range []string{rotation.Promoted, stateCompromised} {
		t.Run(state, func(t *testing.T) {
			m := newRotatingMount(t, state)
			m.sandbox.RevokeClient(testClientID)
			m.sandbox.RevokeClient(newClientID)
			m.do(logical.DeleteOperation, "token", nil)
			m.refused(logical.ReadOperation, "token", nil)
			next := m.rotation()["next_step"]
			assert.Contains(t, next, "create new credentials in the Fuuffy dashboard, then: vault write fuuffy/rotate-root client_id=<client_id> client_secret=-")
			assert.NotContains(t, next, "compromised=true")

			m.sandbox.CreateClient("shop-3", "third-secret")
			staged := m.write("rotate-root", "client_id", "shop-3", "client_secret", "third-secret")
			assert.Contains(t, staged.Warnings, "Fuuffy no longer accepts client shop-1, so the engine completed its rotation first.")
			assert.Equal(t, "staged", staged.Data["state"])
			assert.Equal(t, newClientID, staged.Data["client_id"])
			assert.Contains(t, staged.Data["history"], "completed shop-2 (revoked: shop-1)")
			assert.Contains(t, staged.Data["next_step"], "Promote client shop-3, which is staged: vault write -f fuuffy/rotate-root/promote")

			status := m.promote().Data
			assert.Equal(t, "shop-3", m.servedClientID())
			assert.Equal(t, newClientID, status["previous_client_id"])
			assert.Equal(t, false, status["compromised"])
			assert.Equal(t, "idle", m.write("rotate-root/complete").Data["state"])
			assert.NotContains(t, m.rotation(), "unrevoked", "both are proved to be revoked")
		})
	}
}

// An emergency in the middle of a rotation is taken immediately. The current pair of that moment
// is the one that leaked. The engine gives the pair before it up, and lists it unless it is
// proved to be revoked.
func TestEmergencyWhilePromoted(t *testing.T) {
	third := pairs("client_id", "shop-3", "client_secret", "third-secret", "compromised", true)
	for name, tt := range map[string]struct {
		state     string
		happen    func(*mount)
		unrevoked []string
	}{
		"promoted":                    {rotation.Promoted, func(*mount) {}, []string{"shop-1 (replaced)", "shop-2 (compromised)"}},
		"compromised":                 {stateCompromised, func(*mount) {}, []string{"shop-1 (compromised)", "shop-2 (compromised)"}},
		"promoted, first revoked":     {rotation.Promoted, func(m *mount) { m.sandbox.RevokeClient(testClientID); m.write("rotate-root/check") }, []string{"shop-2 (compromised)"}},
		"compromised, first revoked":  {stateCompromised, func(m *mount) { m.sandbox.RevokeClient(testClientID); m.write("rotate-root/check") }, []string{"shop-1 (compromised)", "shop-2 (compromised)"}},
		"promoted, current rejected":  {rotation.Promoted, func(m *mount) { m.sandbox.RevokeClient(newClientID) }, []string{"shop-1 (replaced)", "shop-2 (compromised)"}},
		"promoted, Fuuffy was down":   {rotation.Promoted, func(m *mount) { m.during(faultUnavailable) }, []string{"shop-1 (replaced)", "shop-2 (compromised)"}},
		"compromised, current revoke": {stateCompromised, func(m *mount) { m.sandbox.RevokeClient(newClientID) }, []string{"shop-1 (compromised)", "shop-2 (compromised)"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, tt.state)
				leaked := m.readToken()
				m.sandbox.CreateClient("shop-3", "third-secret")
				tt.happen(m)
				status := m.do(logical.UpdateOperation, "rotate-root", third).Data
				assert.Equal(t, "shop-3", status["client_id"])
				assert.Equal(t, newClientID, status["previous_client_id"])
				assert.Equal(t, true, status["compromised"])
				assert.NotEqual(t, leaked, m.readToken())
				assert.Equal(t, "shop-3", m.servedClientID())

				var listed []string
				for line := range strings.Lines(status["unrevoked"].(string)) {
					_, entry, _ := strings.Cut(strings.TrimSpace(line), " ")
					listed = append(listed, entry)
				}
				assert.ElementsMatch(t, tt.unrevoked, listed)

				m.sandbox.RevokeClient(newClientID)
				m.sandbox.RevokeClient(testClientID)
				time.Sleep(time.Minute)
				assert.Equal(t, "idle", m.write("rotate-root/complete").Data["state"])
				left, _ := m.rotation()["unrevoked"].(string)
				assert.NotContains(t, left, newClientID, "it is proved to be revoked")
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
		happen func(*mount)
		data   map[string]any
		want   string
	}{
		"another client":          {func(*mount) {}, pairs("client_id", newClientID, "client_secret", newSecret), "shop-1 (replaced)"},
		"untested":                {func(*mount) {}, pairs("client_id", newClientID, "client_secret", newSecret, "verify_connection", false), "shop-1 (replaced)"},
		"another secret":          {func(m *mount) { m.sandbox.CreateClient(testClientID, newSecret) }, pairs("client_secret", newSecret), "shop-1 (replaced)"},
		"the same elsewhere":      {func(*mount) {}, pairs("client_secret", testSecret, "environment", "testing"), ""},
		"the same":                {func(*mount) {}, pairs("client_secret", testSecret), ""},
		"a setting":               {func(*mount) {}, pairs("stale_if_error", true), ""},
		"another, proved revoked": {func(m *mount) { m.sandbox.RevokeClient(testClientID); m.write("rotate-root/check") }, pairs("client_id", newClientID, "client_secret", newSecret), ""},
		"another, rejected by 403": {func(m *mount) {
			m.sandbox.SetFault(status(403, "<html>"))
			m.write("rotate-root/check")
			m.sandbox.ClearFault()
		}, pairs("client_id", newClientID, "client_secret", newSecret), "shop-1 (replaced)"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newRotatingMount(t, rotation.Idle)
			tt.happen(m)
			m.do(logical.UpdateOperation, "config", tt.data)
			unrevoked, _ := m.rotation()["unrevoked"].(string)
			assert.Equal(t, tt.want != "", unrevoked != "")
			assert.True(t, strings.HasSuffix(unrevoked, tt.want), unrevoked)
			m.restart()
			listed, _ := m.rotation()["unrevoked"].(string)
			assert.Equal(t, unrevoked, listed, "it is stored")
		})
	}
}

// during has Fuuffy fail for a moment, in which a check runs.
func (m *mount) during(fault fuuffytest.Fault) {
	m.t.Helper()
	m.sandbox.SetFault(fault)
	m.write("rotate-root/check")
	m.sandbox.ClearFault()
	time.Sleep(checkInterval)
}

// An emergency drops what was staged, unless that is what becomes current.
func TestEmergencyWhileStaged(t *testing.T) {
	for name, tt := range map[string]struct {
		id, secret string
		discards   bool
	}{
		"the staged client": {newClientID, newSecret, false},
		"another client":    {"shop-3", "third-secret", true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newRotatingMount(t, rotation.Staged)
			m.sandbox.CreateClient("shop-3", "third-secret")
			resp := m.write("rotate-root", "client_id", tt.id, "client_secret", tt.secret, "compromised", true)
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
		m := newRotatingMount(t, rotation.Staged)
		time.Sleep(10 * 24 * time.Hour)
		status := m.promote().Data
		assert.Equal(t, timestamp(time.Now()), status["last_rotated"])
		assert.Equal(t, status["promoted_at"], status["last_rotated"])
		assert.EqualValues(t, 90, status["days_left"])
	})
}

// An outage says nothing about the client that was tried during it.
func TestPromoteDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Staged)
		m.sandbox.SetFault(faultUnavailable)
		m.refused(logical.UpdateOperation, "rotate-root/promote", nil)
		m.sandbox.ClearFault()
		assert.Contains(t, m.rotation()["next_step"], "Promote client shop-2")
	})
}

// What the engine knows of a client is what Fuuffy said last.
func TestStagedClientWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Staged)
		m.sandbox.RevokeClient(newClientID)
		assert.Contains(t, m.write("rotate-root/check").Data["next_step"], "Fuuffy rejects client shop-2, which is staged. Discard it: vault delete fuuffy/rotate-root")
		m.sandbox.CreateClient(newClientID, newSecret)
		time.Sleep(checkInterval)
		assert.Contains(t, m.write("rotate-root/check").Data["next_step"], "Promote client shop-2")
	})
}

// While promoted, the old credentials step in if the new ones are rejected, and
// only then.
func TestFallback(t *testing.T) {
	for name, tt := range map[string]struct {
		state    string
		break_   func(*mount)
		want     string // the client whose token is served; none if empty
		requests int
	}{
		"new ones revoked":        {rotation.Promoted, func(m *mount) { m.sandbox.RevokeClient(newClientID) }, testClientID, 2},
		"both revoked":            {rotation.Promoted, func(m *mount) { m.sandbox.RevokeClient(newClientID); m.sandbox.RevokeClient(testClientID) }, "", 2},
		"old ones revoked":        {rotation.Promoted, func(m *mount) { m.sandbox.RevokeClient(testClientID) }, newClientID, 1},
		"unavailable":             {rotation.Promoted, func(m *mount) { m.sandbox.SetFault(faultUnavailable) }, "", 3},
		"redirect":                {rotation.Promoted, func(m *mount) { m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultRedirect}) }, "", 1},
		"compromised":             {"compromised", func(m *mount) { m.sandbox.RevokeClient(newClientID) }, "", 1},
		"staged":                  {rotation.Staged, func(m *mount) { m.sandbox.RevokeClient(testClientID) }, "", 1},
		"old revoked, not staged": {rotation.Idle, func(m *mount) { m.sandbox.RevokeClient(testClientID) }, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, tt.state)
				time.Sleep(time.Minute)
				tt.break_(m)
				m.do(logical.DeleteOperation, "token", nil)
				before := m.requests()
				if tt.want == "" {
					_, text := m.refused(logical.ReadOperation, "token", nil)
					assert.Equal(t, tt.requests == 2, strings.Contains(text, "client shop-1 gets no token either"), text)
					assert.Equal(t, before+tt.requests, m.requests())
					assert.Equal(t, false, m.rotation()["fallback_active"])
					return
				}
				assert.True(t, m.sandbox.TokenAlive(m.readToken()))
				assert.Equal(t, tt.want, m.servedClientID())
				assert.Equal(t, before+tt.requests, m.requests())
				assert.Equal(t, tt.want == testClientID, m.rotation()["fallback_active"])
			})
		})
	}
}

func TestFallbackIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.sandbox.RevokeClient(newClientID)
		time.Sleep(time.Minute)
		m.do(logical.DeleteOperation, "token", nil)
		token := m.readToken()
		resp := m.do(logical.ReadOperation, "rotate-root", nil)
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "Fuuffy rejects client shop-2, and apps get tokens of client shop-1. Don't revoke client shop-1 now")
		assert.EqualValues(t, 1, resp.Data["auth_failures"])
		require.Len(t, m.read().Warnings, 1)
		assert.Contains(t, m.read().Warnings[0], "this token belongs to the previous ones")
		assert.Contains(t, resp.Data["next_step"], "vault write -f fuuffy/rotate-root/rollback")
		synctest.Wait()
		assert.Equal(t, 1, m.log.count("falling back to the old ones"))

		m.restart()
		assert.Equal(t, token, m.readToken(), "a token of the fallback survives a restart")
		requests := m.requests()
		for range 40 {
			time.Sleep(time.Minute)
			m.read()
			synctest.Wait()
		}
		assert.Equal(t, requests, m.requests(), "there is no better token, so nobody requests one before its window")

		// Rolling back keeps it, since it belongs to the current credentials then.
		m.do(logical.UpdateOperation, "rotate-root/rollback", nil)
		assert.Equal(t, testClientID, m.servedClientID())
		assert.Equal(t, false, m.rotation()["fallback_active"])
		assert.Empty(t, m.read().Warnings)
	})
}

func TestRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.sandbox.RevokeClient(testClientID)
		_, text := m.refused(logical.UpdateOperation, "rotate-root/rollback", nil)
		assert.Contains(t, text, "Can't roll back. Fuuffy rejected client shop-1: invalid_client", "what does not work does not become current")
		assert.Equal(t, newClientID, m.servedClientID())

		m.sandbox.CreateClient(testClientID, testSecret)
		abandoned := m.readToken()
		status := m.do(logical.UpdateOperation, "rotate-root/rollback", nil).Data
		assert.Equal(t, testClientID, status["client_id"])
		assert.NotEqual(t, abandoned, m.readToken())
		assert.Equal(t, testClientID, m.servedClientID())
	})
}

// The engine keeps the old credentials if it can't verify that they are revoked.
func TestCompleteThatCannotTell(t *testing.T) {
	for name, tt := range map[string]struct {
		fault  fuuffytest.Fault
		status int
	}{
		"unavailable":  {faultUnavailable, http.StatusBadGateway},
		"rate limited": {faultRateLimited, http.StatusTooManyRequests},
		"malformed":    {faultMalformed, http.StatusBadGateway},
		"not found":    {fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusNotFound}, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, rotation.Promoted)
				m.sandbox.RevokeClient(testClientID)
				// The first request proves that the new ones work; the fault hits the second.
				m.transport = func(string) (http.RoundTripper, error) {
					var requests atomic.Int32
					return roundTripFunc(func(r *http.Request) (*http.Response, error) {
						if requests.Add(1) == 2 {
							m.sandbox.SetFault(tt.fault)
						}
						return m.sandbox.RoundTripper().RoundTrip(r)
					}), nil
				}
				status, text := m.refused(logical.UpdateOperation, "rotate-root/complete", nil)
				assert.Equal(t, tt.status, status)
				assert.Contains(t, text, "Not completed: the engine couldn't verify that client shop-1 is revoked. Only a rejection from Fuuffy counts as proof.")
				m.sandbox.ClearFault()
				assert.Equal(t, "promoted", m.rotation()["state"])
			})
		})
	}
}

func TestCompleteNeedsWorkingCredentials(t *testing.T) {
	m := newRotatingMount(t, rotation.Promoted)
	m.sandbox.RevokeClient(testClientID)
	m.sandbox.RevokeClient(newClientID)
	for _, force := range []bool{false, true} {
		_, text := m.refused(logical.UpdateOperation, "rotate-root/complete", pairs("force", force))
		assert.Contains(t, text, "Nothing was changed: Fuuffy issued no token to client shop-2. Fuuffy rejected client shop-2: invalid_client")
	}
}

// A client can get a new secret and keep its ID.
func TestRotationOfTheSecretAlone(t *testing.T) {
	m := newMount(t)
	m.configure()
	old := m.readToken()
	m.sandbox.CreateClient(testClientID, newSecret) // Fuuffy no longer accepts the old secret.
	m.do(logical.UpdateOperation, "rotate-root", pairs("client_id", testClientID, "client_secret", newSecret))
	status := m.promote().Data
	assert.Contains(t, status["next_step"], "because apps may hold tokens of the old secret of client shop-1. Don't revoke it before.")
	assert.NotEqual(t, old, m.readToken())
	assert.Equal(t, "idle", m.do(logical.UpdateOperation, "rotate-root/complete", nil).Data["state"])
	assert.True(t, m.sandbox.TokenAlive(m.readToken()))
}

// A step's line in the log says which mount, and which clients.
func TestStepsAreLogged(t *testing.T) {
	m := newRotatingMount(t, rotation.Staged)
	m.promote()
	assert.Equal(t, 1, m.log.count("mount=fuuffy/ step=stage state=staged client_id=shop-1 staged_client_id=shop-2"))
	assert.Equal(t, 1, m.log.count("mount=fuuffy/ step=promote state=promoted client_id=shop-2 previous_client_id=shop-1 history=\"promoted shop-2 (replaced shop-1)\""))
	m.write("rotate-root/rollback")
	m.write("rotate-root/revoked", "client_id", newClientID)
	assert.Equal(t, 1, m.log.count("step=rollback state=idle client_id=shop-1 history=\"rolled back shop-1 (replaced shop-2)\""))
	assert.Equal(t, 1, m.log.count("step=revoked state=idle client_id=shop-1 history=\"marked revoked shop-2 (in the Fuuffy dashboard)\""))
	assert.Equal(t, 1, m.log.count("configuration written: mount=fuuffy/ client_id=shop-1"))
	m.do(logical.DeleteOperation, "config", nil)
	assert.Equal(t, 1, m.log.count("configuration deleted: mount=fuuffy/"))
}

func TestEmergencyIsLogged(t *testing.T) {
	m := newRotatingMount(t, stateCompromised)
	assert.Equal(t, 1, m.log.count("client_id=shop-2 previous_client_id=shop-1 history=\"promoted shop-2 (replaced shop-1, which is compromised)\""))
	m.sandbox.RevokeClient(testClientID)
	m.write("rotate-root/complete")
	assert.Equal(t, 1, m.log.count("step=complete state=idle client_id=shop-2 history=\"completed shop-2 (revoked: shop-1)\""))
}

func TestForceIsWarnedOf(t *testing.T) {
	m := newRotatingMount(t, rotation.Promoted)
	resp := m.do(logical.UpdateOperation, "rotate-root/complete", pairs("force", true))
	require.Len(t, resp.Warnings, 3, "it is forced, early, and the client is listed")
	assert.Contains(t, resp.Warnings[0], "The engine forgot client shop-1 without proof that it is revoked.")
}

func TestRotationReminders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure()
		assert.Empty(t, m.do(logical.ReadOperation, "config", nil).Warnings)

		time.Sleep(80 * 24 * time.Hour)
		resp := m.do(logical.ReadOperation, "config", nil)
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "due for rotation on 2000-03-31")
		status := m.rotation()
		assert.EqualValues(t, 10, status["days_left"])
		assert.Equal(t, false, status["overdue"])
		assert.Contains(t, status["next_step"], "Rotate now")

		time.Sleep(10*24*time.Hour + time.Hour)
		status = m.rotation()
		assert.EqualValues(t, 0, status["days_left"])
		assert.Equal(t, true, status["overdue"])
		for range 3 * 24 * 60 {
			time.Sleep(time.Minute)
			m.tick()
		}
		assert.Equal(t, 3, m.log.count("overdue for rotation"), "once a day")
	})
}

func TestHistoryIsBounded(t *testing.T) {
	m := newRotatingMount(t, rotation.Idle)
	for range 8 {
		m.stage()
		m.do(logical.DeleteOperation, "rotate-root", nil)
	}
	history := strings.Split(m.rotation()["history"].(string), "\n")
	require.Len(t, history, 10)
	assert.Contains(t, history[10-1], "discarded shop-2")
}

func TestRotationIsForwarded(t *testing.T) {
	m := newRotatingMount(t, rotation.Promoted)
	before := m.requests()
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary} {
		m.setReplicationState(state)
		for _, path := range []string{"rotate-root", "rotate-root/promote", "rotate-root/rollback", "rotate-root/complete"} {
			_, err := m.handle(t.Context(), logical.UpdateOperation, path, nil)
			assert.True(t, err == logical.ErrReadOnly, "%s: want the bare error, got %v", path, err)
		}
	}
	assert.Equal(t, before, m.requests())
}

// A node that learns of new credentials by Invalidate serves its token while it
// fetches one of the new, unless the old ones are compromised.
func TestInvalidateAfterPromotion(t *testing.T) {
	for name, compromised := range map[string]bool{"routine": false, "compromised": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, rotation.Idle)
				old := m.readToken()
				other := m.twin(0)
				other.do(logical.UpdateOperation, "rotate-root", newPair("compromised", compromised))
				if !compromised {
					other.promote()
				}
				m.b.InvalidateKey(t.Context(), configKey)
				release := m.sandbox.Hold()
				if !compromised {
					require.Equal(t, old, m.readToken(), "nobody waits")
				}
				release()
				m.read()
				synctest.Wait()
				assert.NotEqual(t, old, m.readToken())
				assert.Equal(t, newClientID, m.servedClientID())
			})
		})
	}
}

// Two rotations can pass while a node doesn't look. Its token then belongs to a client that is
// neither the current nor the previous one, and is not served again.
func TestInvalidateAfterTwoRotations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Idle)
		old := m.readToken()
		other := m.twin(0)
		other.rotateTo(rotation.Promoted)
		other.write("rotate-root/complete", "force", true)
		other.promoteSuccessor()
		m.b.InvalidateKey(t.Context(), configKey)
		assert.NotEqual(t, old, m.readToken())
		assert.Equal(t, successorID, m.servedClientID())
	})
}

// Two hundred readers during a rotation with a slow Fuuffy: none fails, none
// waits, and no token of erased credentials is served afterwards.
func TestReadersDuringARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Idle)
		old := m.readToken()
		m.sandbox.SetFault(slowAnswer)
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
					resp, err := m.handle(t.Context(), logical.ReadOperation, "token", nil)
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
		m.stage()
		m.promote()
		time.Sleep(time.Second)
		m.sandbox.RevokeClient(testClientID)
		m.do(logical.UpdateOperation, "rotate-root/complete", nil)
		completed.Store(true)
		time.Sleep(time.Second)
		close(done)
		readers.Wait()
		t.Logf("200 readers during stage, promote and complete: %d reads, %d waited", reads.Load(), waited.Load())
		assert.Zero(t, waited.Load())
		assert.Greater(t, reads.Load(), int64(10_000))
	})
}

// A check that must wait for a slow save gives up with its caller.
func TestCheckGivesUpWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.useFaultyStorage().set("put", tokenKey, slowly(4*time.Second))
		go m.read()
		time.Sleep(time.Second) // The new token is being saved.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.handle(ctx, logical.UpdateOperation, "rotate-root/check", nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(10 * time.Second)
		assert.Equal(t, 2, m.requests(), "the reader's, and that of the check")
	})
}

// The token that a check gets is served and stored if there is no better one, and else
// neither.
func TestTokenOfACheckSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.do(logical.UpdateOperation, "rotate-root/check", nil)
		token := m.readToken()
		assert.Equal(t, 1, m.requests(), "the check's token is served")
		m.restart()
		assert.True(t, m.readToken() == token, "the check's token is stored")

		time.Sleep(checkInterval)
		m.do(logical.UpdateOperation, "rotate-root/check", nil)
		m.restart()
		assert.True(t, m.readToken() == token, "the token of a later check is not")
		assert.Equal(t, 2, m.requests())

		time.Sleep(51 * time.Minute)
		m.sandbox.SetTokenLifetime(2 * time.Minute)
		m.do(logical.UpdateOperation, "rotate-root/check", nil)
		assert.True(t, m.readToken() == token, "nor one that expires earlier")
	})
}
