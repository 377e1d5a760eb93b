// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
					assert.True(t, m.sandbox.TokenAlive(token), "a token of the credentials in force")
					m.restart()
				}
			})
		})
	}
}
