// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// Another node writes new credentials while this one is at work with the old ones. This node
// then serves a token of the new ones.
func TestInvalidationOfWhatIsUnderWay(t *testing.T) {
	for name, begin := range map[string]func(m *mounttest.Mount, storage *mounttest.FaultyStorage){
		"a request": func(m *mounttest.Mount, _ *mounttest.FaultyStorage) { m.Sandbox.SetFault(mounttest.SlowAnswer) },
		"a load": func(m *mounttest.Mount, storage *mounttest.FaultyStorage) {
			m.Backend.InvalidateKey(m.T.Context(), mounttest.ConfigKey)
			storage.Set("get", mounttest.ConfigKey, func(apply func() error) error {
				storage.Set("get", mounttest.ConfigKey, nil)
				err := apply()
				time.Sleep(2 * time.Second)
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				other := m.Twin(0)
				begin(m, m.UseFaultyStorage())
				served := make(chan string, 1)
				go func() { served <- m.ReadToken() }()
				synctest.Wait()

				other.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "verify_connection", false)
				m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
				m.Sandbox.RevokeClient(mounttest.ClientID)
				token := <-served
				assert.True(t, m.Sandbox.TokenAlive(token))
				assert.Equal(t, mounttest.NewClientID, m.ServedClientID())
			})
		})
	}
}

// What Fuuffy said of some credentials is not said of others.
func TestOutcomeBelongsToTheCredentials(t *testing.T) {
	for name, tt := range map[string]struct {
		act   func(*mounttest.Mount)
		state string
		known bool // when that began, and when Fuuffy last issued a token
	}{
		"others are staged": {func(m *mounttest.Mount) { m.Stage() }, "rejected", true},
		"others are current, not tested": {func(m *mounttest.Mount) {
			m.Configure("client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "verify_connection", false)
		}, "untested", false},
		"others are current": {func(m *mounttest.Mount) {
			m.Configure("client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret)
		}, "ok", true},
		"a setting": {func(m *mounttest.Mount) { m.Write("config", "stale_if_error", true) }, "rejected", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				m.Read()
				granted := time.Now()
				m.Do(logical.DeleteOperation, "token", nil)
				m.Sandbox.RevokeClient(mounttest.ClientID)
				time.Sleep(time.Minute)
				refusedToken(m)
				rejected := time.Now()
				time.Sleep(time.Minute)

				tt.act(m)
				status := m.Status()
				require.Equal(t, tt.state, status["upstream_state"])
				want := map[string]any{"upstream_since": nil, "last_success": nil}
				switch {
				case tt.state == "rejected":
					want = map[string]any{"upstream_since": mounttest.Timestamp(rejected), "last_success": mounttest.Timestamp(granted)}
				case tt.known:
					want = map[string]any{"upstream_since": mounttest.Timestamp(time.Now()), "last_success": mounttest.Timestamp(time.Now())}
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
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				release := m.Sandbox.Hold()
				checked := make(chan struct{})
				go func() {
					defer close(checked)
					m.Write("rotate-root/check")
				}()
				synctest.Wait()
				m.Configure("client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "verify_connection", false)
				if !works {
					m.Sandbox.RevokeClient(mounttest.ClientID)
				}
				release()
				<-checked
				status := m.Status()
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
	for fault, f := range map[string]fuuffytest.Fault{"rejected": mounttest.FaultRejected, "rate limited": mounttest.FaultRateLimited, "unavailable": mounttest.FaultUnavailable, "malformed": mounttest.FaultMalformed} {
		for name, change := range map[string]func(*mounttest.Mount){
			"other pair": func(m *mounttest.Mount) {
				m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret)
			},
			"other pair, not tested": func(m *mounttest.Mount) {
				m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "verify_connection", false)
			},
			"promote": func(m *mounttest.Mount) { m.Stage(); m.Promote() },
			"emergency": func(m *mounttest.Mount) {
				m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true))
			},
			"other endpoint": func(m *mounttest.Mount) {
				m.Write("config", "client_secret", mounttest.Secret, "base_url", "https://gateway.example.com/v1", "verify_connection", false)
			},
		} {
			t.Run(fault+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
					secondary, _ := m.Secondary()
					m.Sandbox.SetFault(f)
					for range 3 { // The hold-off grows.
						refusedToken(secondary)
						time.Sleep(10 * time.Minute)
					}
					refusedToken(secondary)
					m.Sandbox.ClearFault()
					require.Equal(t, strings.ReplaceAll(fault, " ", "_"), secondary.Status()["upstream_state"])

					change(m)
					synctest.Wait()
					for _, path := range []string{"status", "metrics"} {
						_, _, _ = secondary.Timed(logical.ReadOperation, path, nil)
					}
					status := secondary.Status()
					assert.Contains(t, []any{"untested", "ok"}, status["upstream_state"])
					for _, field := range []string{"upstream_message", "upstream_next_try"} {
						assert.Nil(t, status[field], field)
					}
					assert.EqualValues(t, 0, status["upstream_failures"])
					assert.Zero(t, secondary.Metric("fuuffy_hold_off_seconds"))
					assert.Contains(t, []any{"untested", m.Status()["health"]}, status["health"])
					assert.NotContains(t, status["next_step"], "rejects")

					began := time.Now()
					assert.True(t, m.Sandbox.TokenAlive(secondary.ReadToken()))
					assert.Equal(t, began, time.Now(), "no hold-off")
					assert.Equal(t, "ok", secondary.Status()["upstream_state"])
				})
			})
		}
	}
}

// A failure of the former credentials whose response comes after the change isn't one of the new
// ones.
func TestLateFailureOfFormerCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		secondary, _ := m.Secondary()
		m.Sandbox.RevokeClient(mounttest.ClientID)
		release := m.Sandbox.Hold()
		read := make(chan string, 1)
		go func() { read <- secondary.ReadToken() }()
		synctest.Wait()
		m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "verify_connection", false)
		release()
		assert.True(t, m.Sandbox.TokenAlive(<-read))
		assert.Equal(t, "ok", secondary.Status()["upstream_state"])
	})
}

// After another node has deleted the config, this one serves no token, keeps none in memory or in
// its storage, and never gets it back from there.
func TestConfigDeletedElsewhere(t *testing.T) {
	for load, spoil := range map[string]func(*mounttest.FaultyStorage) func() int{
		"found":            func(*mounttest.FaultyStorage) func() int { return func() int { return 1 } },
		"one call hangs":   configFaults["one call hangs"],
		"one call fails":   configFaults["one call fails"],
		"every call fails": configFaults["every call fails"],
		"token delete fails once": func(s *mounttest.FaultyStorage) func() int {
			return s.Count("delete", mounttest.TokenKey, failingOnce(1))
		},
		"token delete hangs once": func(s *mounttest.FaultyStorage) func() int {
			return s.Hang("delete", mounttest.TokenKey, 1, false).Count
		},
	} {
		for comeback, restore := range map[string]func(m *mounttest.Mount, secondary *mounttest.Mount, config string){
			"nothing follows": func(_, _ *mounttest.Mount, _ string) {},
			"restart":         func(_, secondary *mounttest.Mount, _ string) { secondary.Restart() },
			"the config is restored": func(m, secondary *mounttest.Mount, config string) {
				m.Put(mounttest.ConfigKey, config)
				secondary.Backend.InvalidateKey(m.T.Context(), mounttest.ConfigKey)
			},
			"the config is restored, and a restart": func(m, secondary *mounttest.Mount, config string) {
				m.Put(mounttest.ConfigKey, config)
				secondary.Restart()
			},
		} {
			t.Run(load+", "+comeback, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					secondary, local := m.Secondary()
					token := secondary.ReadToken()
					config := mounttest.LocalEntry(t, m.Storage.Storage, mounttest.ConfigKey)
					storage := secondary.UseFaultyStorage()
					met := spoil(storage)
					m.Do(logical.DeleteOperation, mounttest.ConfigKey, nil)
					synctest.Wait()
					for range 2 { // A load that fails leaves the old one current.
						_, took, _ := secondary.Timed(logical.ReadOperation, mounttest.TokenKey, nil)
						assert.LessOrEqual(t, took, oneHang)
						synctest.Wait()
						time.Sleep(time.Minute)
					}
					assert.NotZero(t, met())
					storage.Mend()
					for range 2 {
						_, _, _ = secondary.Timed(logical.ReadOperation, mounttest.TokenKey, nil)
						secondary.Tick()
						synctest.Wait()
					}
					refusedToken(secondary)
					assert.Equal(t, "not configured", secondary.Status()["health"])
					assert.Zero(t, secondary.Metric("fuuffy_token_expiry_timestamp_seconds"), "in memory")
					assert.Empty(t, len(mounttest.LocalEntry(t, local, mounttest.TokenKey)), "in storage")

					restore(m, secondary, config)
					resp, err := secondary.Handle(t.Context(), logical.ReadOperation, mounttest.TokenKey, nil)
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
		m := mounttest.NewConfigured(t)
		m.Read()
		standby := m.Follower()
		standby.Read()
		standby.UseFaultyStorage().Set("delete", mounttest.TokenKey, func(func() error) error {
			t.Error("a standby writes")
			return logical.ErrReadOnly
		})
		m.Do(logical.DeleteOperation, mounttest.ConfigKey, nil)
		for range 3 {
			refusedToken(standby)
			standby.Tick()
			synctest.Wait()
		}
		assert.Zero(t, standby.Metric("fuuffy_token_expiry_timestamp_seconds"), "in memory")
		assert.Zero(t, standby.Log.Count("[WARN]"))
	})
}
