// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Another node writes new credentials while this one is at work with the old ones. This node
// then serves a token of the new ones.
func TestInvalidationOfWhatIsUnderWay(t *testing.T) {
	for name, begin := range map[string]func(m *mount, storage *faultyStorage){
		"a request": func(m *mount, _ *faultyStorage) { m.sandbox.SetFault(slowAnswer) },
		"a load": func(m *mount, storage *faultyStorage) {
			m.b.InvalidateKey(m.t.Context(), configKey)
			storage.set("get", configKey, func(apply func() error) error {
				storage.set("get", configKey, nil)
				err := apply()
				time.Sleep(2 * time.Second)
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(successorID, successorSecret)
				other := &mount{t: t, storage: m.storage, sandbox: m.sandbox, system: m.system, log: m.log, events: m.events}
				other.start()
				begin(m, m.useFaultyStorage())
				served := make(chan string, 1)
				go func() { served <- m.readToken() }()
				synctest.Wait()

				other.write("config", "client_id", successorID, "client_secret", successorSecret, "verify_connection", false)
				m.b.InvalidateKey(t.Context(), configKey)
				m.sandbox.RevokeClient(testClientID)
				token := <-served
				assert.True(t, m.sandbox.TokenAlive(token))
				assert.Equal(t, successorID, m.servedClientID())
			})
		})
	}
}

// What Fuuffy said of some credentials is not said of others.
func TestOutcomeBelongsToTheCredentials(t *testing.T) {
	for name, tt := range map[string]struct {
		act   func(*mount)
		state string
		known bool // when that began, and when Fuuffy last granted a token
	}{
		"others are staged": {func(m *mount) { m.stage() }, "rejected", true},
		"others are current, not tested": {func(m *mount) {
			m.configure("client_id", newClientID, "client_secret", newSecret, "verify_connection", false)
		}, "untested", false},
		"others are current": {func(m *mount) { m.configure("client_id", newClientID, "client_secret", newSecret) }, "ok", true},
		"a setting":          {func(m *mount) { m.write("config", "stale_if_error", true) }, "rejected", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				m.read()
				granted := time.Now()
				m.do(logical.DeleteOperation, "token", nil)
				m.sandbox.RevokeClient(testClientID)
				time.Sleep(time.Minute)
				m.refusedToken()
				rejected := time.Now()
				time.Sleep(time.Minute)

				tt.act(m)
				status := m.status()
				require.Equal(t, tt.state, status["upstream_state"])
				want := map[string]any{"upstream_since": nil, "last_success": nil}
				switch {
				case tt.state == "rejected":
					want = map[string]any{"upstream_since": timestamp(rejected), "last_success": timestamp(granted)}
				case tt.known:
					want = map[string]any{"upstream_since": timestamp(time.Now()), "last_success": timestamp(time.Now())}
				}
				for field, value := range want {
					assert.Equal(t, value, status[field], field)
				}
			})
		})
	}
}

// A check of credentials that are no longer current when its answer comes says nothing about
// those that are.
func TestCheckOvertakenByAChange(t *testing.T) {
	for name, works := range map[string]bool{"the old ones work": true, "the old ones fail": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				release := m.sandbox.Hold()
				checked := make(chan struct{})
				go func() {
					defer close(checked)
					m.write("rotate-root/check")
				}()
				synctest.Wait()
				m.configure("client_id", newClientID, "client_secret", newSecret, "verify_connection", false)
				if !works {
					m.sandbox.RevokeClient(testClientID)
				}
				release()
				<-checked
				status := m.status()
				assert.Equal(t, "untested", status["upstream_state"])
				assert.Equal(t, "untested", status["health"])
				assert.Nil(t, status["upstream_since"])
				assert.Nil(t, status["last_success"])
				assert.Equal(t, "none", status["token_state"])
			})
		})
	}
}
