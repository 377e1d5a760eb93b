// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// Storage can delete the config and still answer with an error. The engine must not go
// on with the credentials that it has in memory.
func TestConfigDeleteWithUnknownOutcome(t *testing.T) {
	for name, readBefore := range map[string]bool{"token in memory": true, "no token yet": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				storage := m.UseFaultyStorage()
				if readBefore {
					m.Read()
				}
				storage.Set("delete", "config", mounttest.FailsAfterwards)
				m.Refused(logical.DeleteOperation, "config", nil)
				storage.Set("delete", "config", nil)
				require.Empty(t, storage.Stored(t, "config"), "storage did delete it")

				requests := m.Requests()
				for range 3 {
					status, text := refusedToken(m)
					assert.Equal(t, http.StatusBadRequest, status)
					assert.Contains(t, text, "vault write fuuffy/config", "the way out")
					_, err := m.Handle(t.Context(), logical.UpdateOperation, "token", nil)
					assert.NoError(t, err)
					m.Tick()
					time.Sleep(time.Hour)
				}
				assert.Equal(t, requests, m.Requests(), "token requests with deleted credentials")
				resp, err := m.Backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "config", Storage: m.Storage})
				require.NoError(t, err)
				assert.Nil(t, resp)
			})
		})
	}
}

// A config delete that storage refused leaves a mount that works.
func TestConfigDeleteThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		storage := m.UseFaultyStorage()
		m.Read()
		storage.Set("delete", "config", mounttest.Fails)
		m.Refused(logical.DeleteOperation, "config", nil)
		assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
		assert.Equal(t, mounttest.ClientID, m.ReadConfig()["client_id"])
	})
}

// While a change waits for Fuuffy's proof, others delete the config and create another.
// The change was made from what is gone: it is refused and changes nothing.
func TestChangeOvertakenByDeleteAndCreate(t *testing.T) {
	for name, tt := range map[string]struct {
		path string
		data map[string]any
	}{
		"config write": {"config", mounttest.NewPair()},
		"stage":        {"rotate-root", mounttest.NewPair()},
		"compromised":  {"rotate-root", mounttest.NewPair("compromised", true)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				m.Sandbox.CreateClient("shop-recreated", "recreated-secret")
				release := m.Sandbox.Hold()
				type outcome struct {
					resp *logical.Response
					err  error
				}
				written := make(chan outcome, 1)
				go func() {
					resp, err := m.Handle(t.Context(), logical.UpdateOperation, tt.path, tt.data)
					written <- outcome{resp, err}
				}()
				synctest.Wait()
				require.Equal(t, 1, m.Sandbox.Stats().Held, "the change waits for its proof")

				m.Do(logical.DeleteOperation, "config", nil)
				m.Configure("client_id", "shop-recreated", "client_secret", "recreated-secret", "verify_connection", false)
				release()
				o := <-written
				if assert.True(t, o.err != nil || o.resp.IsError(), "the overtaken change is refused") {
					status, _ := mounttest.Refusal(t, o.resp, o.err)
					assert.Equal(t, http.StatusBadRequest, status)
				}
				for range 2 {
					assert.Equal(t, "shop-recreated", m.ReadConfig()["client_id"])
					rotation := m.Do(logical.ReadOperation, "rotate-root", nil).Data
					assert.Equal(t, "idle", rotation["state"])
					token := m.ReadToken()
					m.Sandbox.RevokeClient(mounttest.NewClientID)
					assert.True(t, m.Sandbox.TokenAlive(token), "a token of the current credentials")
					m.Restart()
				}
			})
		})
	}
}

// deleteByForce deletes a configuration that lists compromised credentials.
func deleteByForce(m *mounttest.Mount) {
	m.T.Helper()
	m.Do(logical.DeleteOperation, "config", mounttest.Pairs("force", true))
	require.Equal(m.T, "not configured", m.Status()["health"])
}

var firstPairUntested = mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "verify_connection", false)

// A leak is not forgotten with the configuration: the pair is refused until it is marked.
func TestLeakOutlivesTheConfiguration(t *testing.T) {
	for name, prepare := range map[string]func(*mounttest.Mount){
		"during the emergency": func(*mounttest.Mount) {},
		"after it":             func(m *mounttest.Mount) { forceComplete(m) },
		"deleted twice":        func(m *mounttest.Mount) { deleteByForce(m); m.Do(logical.DeleteOperation, "config", nil) },
		"written and deleted": func(m *mounttest.Mount) {
			deleteByForce(m)
			m.Write("config", "client_id", mounttest.ThirdID, "client_secret", mounttest.ThirdSecret)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _ := mounttest.NewPairsMount(t, mounttest.StateCompromised)
				prepare(m)
				deleteByForce(m)
				m.Restart()
				for _, write := range []map[string]any{firstPair, firstPairUntested} {
					code, text := m.Refused(logical.CreateOperation, "config", write)
					assert.Equal(t, http.StatusBadRequest, code)
					assert.Contains(t, text, "client shop-1 is compromised")
				}
				status := m.Status()
				assert.Contains(t, status["unrevoked"], "shop-1 (compromised)")
				assertRevokeFirst(t, "client shop-1", status["next_step"].(string))

				m.Do(logical.CreateOperation, "config", third)
				assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
				assertRevokeFirst(t, "client shop-1", nextStep(m))
				m.Refused(logical.UpdateOperation, "config", firstPairUntested)
				m.Refused(logical.UpdateOperation, "rotate-root", firstPair)
				left, err := m.Storage.Storage.List(t.Context(), "")
				require.NoError(t, err)
				assert.NotContains(t, left, mounttest.LeaksKey, "the config has it")
			})
		})
	}
}

// Only what leaked stays away, and only until an operator marks it: the command works while
// nothing is configured too.
func TestMarkedWhileNothingIsConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		createSecret(m, "second")
		createSecret(m, "third")
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "second", "compromised", true)
		forceComplete(m)
		deleteByForce(m)

		m.Write("config", "client_id", mounttest.ClientID, "client_secret", "third")
		assert.Contains(t, nextStep(m), "the old secret of client shop-1")
		deleteByForce(m)
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/revoked", mounttest.Pairs("client_id", "shop-9"))
		assert.Contains(t, text, "No client of this ID")

		_, text = m.Refused(logical.CreateOperation, "config", firstPair)
		commands := m.Commands(text)
		require.Len(t, commands, 1)
		_, err := enter(m, commands[0])
		require.NoError(t, err)
		assert.NotContains(t, m.Status(), "unrevoked")
		_, text = m.Refused(logical.UpdateOperation, "rotate-root/revoked", mounttest.Pairs("client_id", mounttest.ClientID))
		assert.Contains(t, text, "no Fuuffy credentials", "there is nothing left to mark")
		m.Do(logical.CreateOperation, "config", firstPair)
		assert.Empty(t, unrevoked(m))
	})
}

// Other pairs that may still work don't outlive the configuration.
func TestOnlyALeakOutlivesTheConfiguration(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Promoted)
	forceComplete(m)
	require.NotEmpty(t, unrevoked(m))
	m.Do(logical.DeleteOperation, "config", nil)
	m.Configure()
	assert.Empty(t, unrevoked(m))
}

// A delete and the write after it, interrupted everywhere: the engine works, and the leak is never
// forgotten.
func TestLeakOutlivesACrash(t *testing.T) {
	remove := func(m *mounttest.Mount) (*logical.Response, error) {
		return m.Handle(m.T.Context(), logical.DeleteOperation, "config", mounttest.Pairs("force", true))
	}
	create := func(m *mounttest.Mount) (*logical.Response, error) {
		return m.Handle(m.T.Context(), logical.CreateOperation, "config", third)
	}
	for name, s := range map[string]crashStep{
		"delete": {take: remove},
		"create": {prepare: func(m *mounttest.Mount) { deleteByForce(m) }, take: create},
	} {
		newLeaked := func(t *testing.T) *mounttest.Mount {
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
							m.Restart()
						}
						_, text := m.Refused(logical.UpdateOperation, "config", firstPairUntested)
						assert.Contains(t, text, "client shop-1 is compromised")
						resp, err := s.take(m)
						assert.NoError(t, err)
						assert.False(t, resp.IsError(), "the repetition works: %v", resp)
						_, text = m.Refused(logical.UpdateOperation, "config", firstPairUntested)
						assert.Contains(t, text, "client shop-1 is compromised")
						m.Write("config", "client_id", mounttest.ThirdID, "client_secret", mounttest.ThirdSecret)
						assert.Len(t, unrevoked(m), 1, "merged twice, it is still one entry")
						assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))

						// What the crash left beside the config doesn't undo a mark.
						m.Write("rotate-root/revoked", "client_id", mounttest.ClientID)
						m.Do(logical.DeleteOperation, "config", nil)
						m.Do(logical.CreateOperation, "config", firstPair)
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
		storage := m.UseFaultyStorage()
		storage.Set("get", "config", mounttest.Fails)
		m.Refused(logical.DeleteOperation, "config", mounttest.Pairs("force", true))
		storage.Set("get", "config", nil)
		assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
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
			m := mounttest.New(t)
			m.Put(mounttest.LeaksKey, tt.entry)
			for path, data := range map[string]map[string]any{"config": firstPair, "rotate-root/revoked": mounttest.Pairs("client_id", mounttest.ClientID)} {
				_, text := m.Refused(logical.UpdateOperation, path, data)
				assert.Contains(t, text, tt.says)
				assert.NotContains(t, text, "planted")
			}
			_, text := m.Refused(logical.ReadOperation, "status", nil)
			assert.Contains(t, text, tt.says)
			m.Do(logical.DeleteOperation, "config", nil)
			if tt.deleted {
				m.Configure()
				return
			}
			m.Refused(logical.UpdateOperation, "config", firstPair)
		})
	}
}
