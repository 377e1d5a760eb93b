// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
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
				other := m.twin(0)
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
		known bool // when that began, and when Fuuffy last issued a token
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

// What Fuuffy said of the credentials that another node has replaced is not said of the new ones,
// which need not wait either.
func TestOutcomeBelongsToTheCredentialsElsewhere(t *testing.T) {
	for fault, f := range map[string]fuuffytest.Fault{"rejected": faultRejected, "rate limited": faultRateLimited, "unavailable": faultUnavailable, "malformed": faultMalformed} {
		for name, change := range map[string]func(*mount){
			"other pair": func(m *mount) { m.write("config", "client_id", newClientID, "client_secret", newSecret) },
			"other pair, not tested": func(m *mount) {
				m.write("config", "client_id", newClientID, "client_secret", newSecret, "verify_connection", false)
			},
			"promote":   func(m *mount) { m.stage(); m.promote() },
			"emergency": func(m *mount) { m.do(logical.UpdateOperation, "rotate-root", newPair("compromised", true)) },
			"other endpoint": func(m *mount) {
				m.write("config", "client_secret", testSecret, "base_url", "https://gateway.example.com/v1", "verify_connection", false)
			},
		} {
			t.Run(fault+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					m.sandbox.CreateClient(newClientID, newSecret)
					secondary, _ := m.secondary()
					m.sandbox.SetFault(f)
					for range 3 { // The hold-off grows.
						secondary.refusedToken()
						time.Sleep(10 * time.Minute)
					}
					secondary.refusedToken()
					m.sandbox.ClearFault()
					require.Equal(t, strings.ReplaceAll(fault, " ", "_"), secondary.status()["upstream_state"])

					change(m)
					synctest.Wait()
					for _, path := range []string{"status", "metrics"} {
						_, _, _ = secondary.timed(logical.ReadOperation, path, nil)
					}
					status := secondary.status()
					assert.Contains(t, []any{"untested", "ok"}, status["upstream_state"])
					for _, field := range []string{"upstream_message", "upstream_next_try"} {
						assert.Nil(t, status[field], field)
					}
					assert.EqualValues(t, 0, status["upstream_failures"])
					assert.Zero(t, secondary.metric("fuuffy_hold_off_seconds"))
					assert.Contains(t, []any{"untested", m.status()["health"]}, status["health"])
					assert.NotContains(t, status["next_step"], "rejects")

					began := time.Now()
					assert.True(t, m.sandbox.TokenAlive(secondary.readToken()))
					assert.Equal(t, began, time.Now(), "no hold-off")
					assert.Equal(t, "ok", secondary.status()["upstream_state"])
				})
			})
		}
	}
}

// A failure of the former credentials whose response comes after the change isn't one of the new
// ones.
func TestLateFailureOfFormerCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.CreateClient(newClientID, newSecret)
		secondary, _ := m.secondary()
		m.sandbox.RevokeClient(testClientID)
		release := m.sandbox.Hold()
		read := make(chan string, 1)
		go func() { read <- secondary.readToken() }()
		synctest.Wait()
		m.write("config", "client_id", newClientID, "client_secret", newSecret, "verify_connection", false)
		release()
		assert.True(t, m.sandbox.TokenAlive(<-read))
		assert.Equal(t, "ok", secondary.status()["upstream_state"])
	})
}

// After another node has deleted the config, this one serves no token, keeps none in memory or in
// its storage, and never gets it back from there.
func TestConfigDeletedElsewhere(t *testing.T) {
	for load, spoil := range map[string]func(*faultyStorage) func() int{
		"found":            func(*faultyStorage) func() int { return func() int { return 1 } },
		"one call hangs":   configFaults["one call hangs"],
		"one call fails":   configFaults["one call fails"],
		"every call fails": configFaults["every call fails"],
		"token delete fails once": func(s *faultyStorage) func() int {
			return s.count("delete", tokenKey, failingOnce(1))
		},
		"token delete hangs once": func(s *faultyStorage) func() int { return s.hang("delete", tokenKey, 1, false).count },
	} {
		for comeback, restore := range map[string]func(m *mount, secondary *mount, config string){
			"nothing follows": func(_, _ *mount, _ string) {},
			"restart":         func(_, secondary *mount, _ string) { secondary.restart() },
			"the config is restored": func(m, secondary *mount, config string) {
				m.put(configKey, config)
				secondary.b.InvalidateKey(m.t.Context(), configKey)
			},
			"the config is restored, and a restart": func(m, secondary *mount, config string) {
				m.put(configKey, config)
				secondary.restart()
			},
		} {
			t.Run(load+", "+comeback, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					secondary, local := m.secondary()
					token := secondary.readToken()
					config := localEntry(t, m.storage.Storage, configKey)
					storage := secondary.useFaultyStorage()
					met := spoil(storage)
					m.do(logical.DeleteOperation, configKey, nil)
					synctest.Wait()
					for range 2 { // A load that fails leaves the old one current.
						_, took, _ := secondary.timed(logical.ReadOperation, tokenKey, nil)
						assert.LessOrEqual(t, took, oneHang)
						synctest.Wait()
						time.Sleep(time.Minute)
					}
					assert.NotZero(t, met())
					storage.mend()
					for range 2 {
						_, _, _ = secondary.timed(logical.ReadOperation, tokenKey, nil)
						secondary.tick()
						synctest.Wait()
					}
					secondary.refusedToken()
					assert.Equal(t, "not configured", secondary.status()["health"])
					assert.Zero(t, secondary.metric("fuuffy_token_expiry_timestamp_seconds"), "in memory")
					assert.Empty(t, len(localEntry(t, local, tokenKey)), "in storage")

					restore(m, secondary, config)
					resp, err := secondary.handle(t.Context(), logical.ReadOperation, tokenKey, nil)
					if err == nil && !resp.IsError() {
						assert.False(t, resp.Data["access_token"] == token, "it is back")
					}
				})
			})
		}
	}
}

// A standby forgets it too, but leaves storage to the active node.
func TestConfigDeletedElsewhereOnAStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.read()
		standby := m.follower()
		standby.read()
		standby.useFaultyStorage().set("delete", tokenKey, func(func() error) error {
			t.Error("a standby writes")
			return logical.ErrReadOnly
		})
		m.do(logical.DeleteOperation, configKey, nil)
		for range 3 {
			standby.refusedToken()
			standby.tick()
			synctest.Wait()
		}
		assert.Zero(t, standby.metric("fuuffy_token_expiry_timestamp_seconds"), "in memory")
		assert.Zero(t, standby.log.count("[WARN]"))
	})
}
