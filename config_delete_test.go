// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// Storage can delete the config and still answer with an error. The engine must not go
// on with the credentials that it has in memory.
func TestConfigDeleteWithUnknownOutcome(t *testing.T) {
	for name, readBefore := range map[string]bool{"token in memory": true, "no token yet": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				storage := m.useFaultyStorage()
				if readBefore {
					m.read()
				}
				storage.set("delete", "config", failsAfterwards)
				m.refused(logical.DeleteOperation, "config", nil)
				storage.set("delete", "config", nil)
				require.Empty(t, storage.stored(t, "config"), "storage did delete it")

				requests := m.requests()
				for range 3 {
					status, text := m.refusedToken()
					assert.Equal(t, http.StatusBadRequest, status)
					assert.Contains(t, text, "vault write fuuffy/config", "the way out")
					_, err := m.handle(t.Context(), logical.UpdateOperation, "token", nil)
					assert.NoError(t, err)
					m.tick()
					time.Sleep(time.Hour)
				}
				assert.Equal(t, requests, m.requests(), "token requests with deleted credentials")
				resp, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "config", Storage: m.storage})
				require.NoError(t, err)
				assert.Nil(t, resp)
			})
		})
	}
}

// A config delete that storage refused leaves a mount that works.
func TestConfigDeleteThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		storage := m.useFaultyStorage()
		m.read()
		storage.set("delete", "config", fails)
		m.refused(logical.DeleteOperation, "config", nil)
		assert.True(t, m.sandbox.TokenAlive(m.readToken()))
		assert.Equal(t, testClientID, m.readConfig()["client_id"])
	})
}

// While a change waits for Fuuffy's proof, others delete the config and create another.
// The change was made from what is gone: it is refused and changes nothing.
func TestChangeOvertakenByDeleteAndCreate(t *testing.T) {
	for name, tt := range map[string]struct {
		path string
		data map[string]any
	}{
		"config write": {"config", pairs("client_id", successorID, "client_secret", successorSecret)},
		"stage":        {"rotate-root", pairs("client_id", successorID, "client_secret", successorSecret)},
		"compromised":  {"rotate-root", pairs("client_id", successorID, "client_secret", successorSecret, "compromised", true)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(successorID, successorSecret)
				m.sandbox.CreateClient("shop-recreated", "recreated-secret")
				release := m.sandbox.Hold()
				type outcome struct {
					resp *logical.Response
					err  error
				}
				written := make(chan outcome, 1)
				go func() {
					resp, err := m.handle(t.Context(), logical.UpdateOperation, tt.path, tt.data)
					written <- outcome{resp, err}
				}()
				synctest.Wait()
				require.Equal(t, 1, m.sandbox.Stats().Held, "the change waits for its proof")

				m.do(logical.DeleteOperation, "config", nil)
				m.configure("client_id", "shop-recreated", "client_secret", "recreated-secret", "verify_connection", false)
				release()
				o := <-written
				if assert.True(t, o.err != nil || o.resp.IsError(), "the overtaken change is refused") {
					status, _ := refusal(t, o.resp, o.err)
					assert.Equal(t, http.StatusBadRequest, status)
				}
				for range 2 {
					assert.Equal(t, "shop-recreated", m.readConfig()["client_id"])
					rotation := m.do(logical.ReadOperation, "rotate-root", nil).Data
					assert.Equal(t, "idle", rotation["state"])
					token := m.readToken()
					m.sandbox.RevokeClient(successorID)
					assert.True(t, m.sandbox.TokenAlive(token), "a token of the current credentials")
					m.restart()
				}
			})
		})
	}
}

// deleteByForce deletes a configuration that lists compromised credentials.
func (m *mount) deleteByForce() {
	m.t.Helper()
	m.do(logical.DeleteOperation, "config", pairs("force", true))
	require.Equal(m.t, "not configured", m.status()["health"])
}

var firstPairUntested = pairs("client_id", testClientID, "client_secret", testSecret, "verify_connection", false)

// A leak is not forgotten with the configuration: the pair is refused until it is marked.
func TestLeakOutlivesTheConfiguration(t *testing.T) {
	for name, prepare := range map[string]func(*mount){
		"during the emergency": func(*mount) {},
		"after it":             func(m *mount) { m.forceComplete() },
		"deleted twice":        func(m *mount) { m.deleteByForce(); m.do(logical.DeleteOperation, "config", nil) },
		"written and deleted": func(m *mount) {
			m.deleteByForce()
			m.write("config", "client_id", thirdID, "client_secret", thirdSecret)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _ := newPairsMount(t, stateCompromised)
				prepare(m)
				m.deleteByForce()
				m.restart()
				for _, write := range []map[string]any{firstPair, firstPairUntested} {
					code, text := m.refused(logical.CreateOperation, "config", write)
					assert.Equal(t, http.StatusBadRequest, code)
					assert.Contains(t, text, "client shop-1 is compromised")
				}
				status := m.status()
				assert.Contains(t, status["unrevoked"], "shop-1 (compromised)")
				assertRevokeFirst(t, "client shop-1", status["next_step"].(string))

				m.do(logical.CreateOperation, "config", third)
				assert.Contains(t, m.linesOf(testClientID), "(compromised)")
				assertRevokeFirst(t, "client shop-1", m.nextStep())
				m.refused(logical.UpdateOperation, "config", firstPairUntested)
				m.refused(logical.UpdateOperation, "rotate-root", firstPair)
				left, err := m.storage.Storage.List(t.Context(), "")
				require.NoError(t, err)
				assert.NotContains(t, left, leaksKey, "the config has it")
			})
		})
	}
}

// Only what leaked stays away, and only until an operator marks it: the command works while
// nothing is configured too.
func TestMarkedWhileNothingIsConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		m.createSecret("second")
		m.createSecret("third")
		m.write("rotate-root", "client_id", testClientID, "client_secret", "second", "compromised", true)
		m.forceComplete()
		m.deleteByForce()

		m.write("config", "client_id", testClientID, "client_secret", "third")
		assert.Contains(t, m.nextStep(), "the old secret of client shop-1")
		m.deleteByForce()
		_, text := m.refused(logical.UpdateOperation, "rotate-root/revoked", pairs("client_id", "shop-9"))
		assert.Contains(t, text, "No client of this ID")

		_, text = m.refused(logical.CreateOperation, "config", firstPair)
		commands := m.commands(text)
		require.Len(t, commands, 1)
		_, err := m.enter(commands[0])
		require.NoError(t, err)
		assert.NotContains(t, m.status(), "unrevoked")
		_, text = m.refused(logical.UpdateOperation, "rotate-root/revoked", pairs("client_id", testClientID))
		assert.Contains(t, text, "no Fuuffy credentials", "there is nothing left to mark")
		m.do(logical.CreateOperation, "config", firstPair)
		assert.Empty(t, m.unrevoked())
	})
}

// Other pairs that may still work don't outlive the configuration.
func TestOnlyALeakOutlivesTheConfiguration(t *testing.T) {
	m := newRotatingMount(t, rotation.Promoted)
	m.forceComplete()
	require.NotEmpty(t, m.unrevoked())
	m.do(logical.DeleteOperation, "config", nil)
	m.configure()
	assert.Empty(t, m.unrevoked())
}

// A delete and the write after it, interrupted everywhere: the engine works, and the leak is never
// forgotten.
func TestLeakOutlivesACrash(t *testing.T) {
	remove := func(m *mount) (*logical.Response, error) {
		return m.handle(m.t.Context(), logical.DeleteOperation, "config", pairs("force", true))
	}
	create := func(m *mount) (*logical.Response, error) {
		return m.handle(m.t.Context(), logical.CreateOperation, "config", third)
	}
	for name, s := range map[string]crashStep{
		"delete": {take: remove},
		"create": {prepare: func(m *mount) { m.deleteByForce() }, take: create},
	} {
		newLeaked := func(t *testing.T) *mount {
			m, _ := newLeakedMount(t)
			if s.prepare != nil {
				s.prepare(m)
			}
			return m
		}
		operations, ok := s.interrupted(newLeaked(t), 0, "")
		require.True(t, ok, name)
		require.Greater(t, operations, 3)
		for at := 1; at <= operations; at++ {
			for _, how := range []string{failOnce, failAfter, dieBefore, dieAfter} {
				t.Run(fmt.Sprintf("%s, operation %d %s", name, at, how), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := newLeaked(t)
						s.interrupted(m, at, how)
						if how == dieBefore || how == dieAfter {
							m.restart()
						}
						_, text := m.refused(logical.UpdateOperation, "config", firstPairUntested)
						assert.Contains(t, text, "client shop-1 is compromised")
						resp, err := s.take(m)
						assert.NoError(t, err)
						assert.False(t, resp.IsError(), "the repetition works: %v", resp)
						_, text = m.refused(logical.UpdateOperation, "config", firstPairUntested)
						assert.Contains(t, text, "client shop-1 is compromised")
						m.write("config", "client_id", thirdID, "client_secret", thirdSecret)
						assert.Len(t, m.unrevoked(), 1, "merged twice, it is still one entry")
						assert.True(t, m.sandbox.TokenAlive(m.readToken()))

						// What the crash left beside the config doesn't undo a mark.
						m.write("rotate-root/revoked", "client_id", testClientID)
						m.do(logical.DeleteOperation, "config", nil)
						m.do(logical.CreateOperation, "config", firstPair)
					})
				})
			}
		}
	}
}

// A delete that can't read what it deletes would forget a leak.
func TestConfigDeleteThatCannotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newLeakedMount(t)
		storage := m.useFaultyStorage()
		storage.set("get", "config", fails)
		m.refused(logical.DeleteOperation, "config", pairs("force", true))
		storage.set("get", "config", nil)
		assert.Contains(t, m.linesOf(testClientID), "(compromised)")
	})
}

// An entry of leaks that can't be used is named, and only a damaged one can be deleted.
func TestLeaksThatCannotBeRead(t *testing.T) {
	for name, tt := range map[string]struct {
		entry, says string
		deleted     bool
	}{
		"damaged":            {`{"format": 1, "unrevoked": [{"client_id": "planted`, "damaged", true},
		"without a key":      {`{"format": 1, "unrevoked": [{"client_id": "planted"}]}`, "damaged", true},
		"of a newer version": {`{"format": 2, "unrevoked": "planted"}`, "use the newer plugin version", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t)
			m.put(leaksKey, tt.entry)
			for path, data := range map[string]map[string]any{"config": firstPair, "rotate-root/revoked": pairs("client_id", testClientID)} {
				_, text := m.refused(logical.UpdateOperation, path, data)
				assert.Contains(t, text, tt.says)
				assert.NotContains(t, text, "planted")
			}
			_, text := m.refused(logical.ReadOperation, "status", nil)
			assert.Contains(t, text, tt.says)
			m.do(logical.DeleteOperation, "config", nil)
			if tt.deleted {
				m.configure()
				return
			}
			m.refused(logical.UpdateOperation, "config", firstPair)
		})
	}
}
