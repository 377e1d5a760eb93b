// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// announced are operations of which others must hear, with the beginnings of their events.
var announced = map[string]struct {
	prepare   func(*mounttest.Mount)
	operation logical.Operation
	path      string
	data      map[string]any
	write     string // the storage operation, and the key, after which it counts
	events    []string
}{
	"emergency": {
		func(*mounttest.Mount) {}, logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true), "put config",
		[]string{"fuuffy/token-drop ", "fuuffy/rotate-root-"},
	},
	"other pair": {
		func(*mounttest.Mount) {}, logical.UpdateOperation, "config", mounttest.NewPair(), "put config", []string{"fuuffy/token-drop "},
	},
	"other pair, not tested": {
		func(*mounttest.Mount) {}, logical.UpdateOperation, "config", mounttest.NewPair("verify_connection", false), "put config", []string{"fuuffy/token-drop "},
	},
	"token delete": {func(*mounttest.Mount) {}, logical.DeleteOperation, "token", nil, "delete token", []string{"fuuffy/token-drop "}},
	"stage":        {func(*mounttest.Mount) {}, logical.UpdateOperation, "rotate-root", mounttest.NewPair(), "put config", []string{"fuuffy/rotate-root-stage "}},
	"promote": {
		func(m *mounttest.Mount) { m.Stage() }, logical.UpdateOperation, "rotate-root/promote", nil, "put config", []string{"fuuffy/rotate-root-promote "},
	},
	"discard": {
		func(m *mounttest.Mount) { m.Stage() }, logical.DeleteOperation, "rotate-root", nil, "put config", []string{"fuuffy/rotate-root-discard "},
	},
	"rollback": {
		func(m *mounttest.Mount) { m.Stage(); m.Promote() }, logical.UpdateOperation, "rotate-root/rollback", nil, "put config", []string{"fuuffy/rotate-root-rollback "},
	},
	"complete": {
		func(m *mounttest.Mount) { m.Stage(); m.Promote() }, logical.UpdateOperation, "rotate-root/complete", mounttest.Pairs("force", true), "put config",
		[]string{"fuuffy/rotate-root-complete "},
	},
	"check that replaces a suspect token": {
		func(m *mounttest.Mount) { makeSuspect(m) }, logical.UpdateOperation, "rotate-root/check", nil, "put token", []string{"fuuffy/token-issue "},
	},
}

// settle gives an engine the time and the occasions that it may need to send an event.
func settle(m *mounttest.Mount) {
	m.T.Helper()
	synctest.Wait()
	for range 2 {
		_, _ = m.Handle(m.T.Context(), logical.ReadOperation, "token", nil)
		m.Tick()
		synctest.Wait()
		time.Sleep(time.Minute)
	}
}

// countEvents counts the events that begin so.
func countEvents(events []string, prefix string) (n int) {
	for _, event := range events {
		if strings.HasPrefix(event, prefix) {
			n++
		}
	}
	return n
}

// The client of an operation hangs up right after its effect. Others hear of it nevertheless, once.
func TestEventsAfterTheClientHungUp(t *testing.T) {
	for name, tt := range announced {
		for _, before := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, before storage has answered %t", name, before), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
					m.Read()
					tt.prepare(m)
					synctest.Wait()
					m.Events.Take()
					ctx, hangUp := context.WithCancel(t.Context())
					storage := m.UseFaultyStorage()
					operation, key, _ := strings.Cut(tt.write, " ")
					storage.Set(operation, key, func(apply func() error) error {
						err := apply()
						hangUp()
						if before {
							time.Sleep(time.Second)
						}
						return err
					})
					_, _ = m.Handle(ctx, tt.operation, tt.path, tt.data)
					require.Error(t, ctx.Err(), "it came to that")
					storage.Mend()
					settle(m)
					sent := m.Events.Take()
					for _, prefix := range tt.events {
						assert.Equal(t, 1, countEvents(sent, prefix), "%q in %q", prefix, sent)
					}
				})
			})
		}
	}
}

// The change of an emergency, or of a config write, took effect, but storage said that it failed.
// Apps hear that their tokens are dead as soon as the engine knows, and not twice if the operator
// repeats the command.
func TestEventOfAWriteThatTookEffectButFailed(t *testing.T) {
	for _, name := range []string{"emergency", "other pair", "other pair, not tested"} {
		tt := announced[name]
		for fault, spoil := range map[string]func(*mounttest.FaultyStorage){
			"fails": func(s *mounttest.FaultyStorage) { s.Set("put", mounttest.ConfigKey, mounttest.FailsAfterwards) },
			"hangs": func(s *mounttest.FaultyStorage) { s.Hang("put", mounttest.ConfigKey, 1, true) },
			"fails, then gets fail": func(s *mounttest.FaultyStorage) {
				s.Set("put", mounttest.ConfigKey, mounttest.FailsAfterwards)
				s.Set("get", mounttest.ConfigKey, failingAfter(2, mounttest.Fails))
			},
		} {
			for then, occasion := range map[string]func(*mounttest.Mount){
				"a read":       func(m *mounttest.Mount) { _, _ = m.Handle(m.T.Context(), logical.ReadOperation, "token", nil) },
				"PeriodicFunc": (*mounttest.Mount).Tick,
				"a repetition and a read": func(m *mounttest.Mount) {
					_, _ = m.Handle(m.T.Context(), tt.operation, tt.path, tt.data)
					_, _ = m.Handle(m.T.Context(), logical.ReadOperation, "token", nil)
				},
				"minutes": func(m *mounttest.Mount) { settle(m) },
			} {
				t.Run(fmt.Sprintf("%s, %s, then %s", name, fault, then), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := mounttest.NewConfigured(t)
						m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
						m.Read()
						synctest.Wait()
						m.Events.Take()
						storage := m.UseFaultyStorage()
						spoil(storage)
						resp, _, err := m.Timed(tt.operation, tt.path, tt.data)
						require.True(t, err != nil || resp.IsError())
						storage.Mend()
						occasion(m)
						synctest.Wait()
						updates := mounttest.NewOperator(t).Updates(t, m.Events.Take())
						assert.Len(t, updates, 1, "apps hold a dead token")

						_, _ = m.Handle(t.Context(), tt.operation, tt.path, tt.data)
						settle(m)
						assert.Empty(t, mounttest.NewOperator(t).Updates(t, m.Events.Take()), "they hear of it once")
						assert.Equal(t, mounttest.NewClientID, m.ServedClientID())
					})
				})
			}
		}
	}
}

// A write that failed and had no effect drops no token.
func TestNoEventOfAWriteThatHadNoEffect(t *testing.T) {
	for _, name := range []string{"emergency", "other pair", "other pair, not tested"} {
		tt := announced[name]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				token := m.ReadToken()
				synctest.Wait()
				m.Events.Take()
				storage := m.UseFaultyStorage()
				storage.Set("put", mounttest.ConfigKey, mounttest.Fails)
				_, err := m.Handle(t.Context(), tt.operation, tt.path, tt.data)
				require.Error(t, err)
				storage.Mend()
				settle(m)
				assert.Empty(t, m.Events.Take())
				assert.True(t, m.ReadToken() == token)

				m.Do(tt.operation, tt.path, tt.data)
				settle(m)
				assert.Len(t, mounttest.NewOperator(t).Updates(t, m.Events.Take()), 1, "the repetition has an effect")
			})
		})
	}
}

// What another node did to the tokens that this one's apps hold.
var elsewhere = map[string]struct {
	prepare, act func(primary *mounttest.Mount)
	drops        bool
}{
	"emergency": {func(*mounttest.Mount) {}, func(m *mounttest.Mount) {
		m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true))
	}, true},
	"emergency while staged": {
		func(m *mounttest.Mount) { m.Stage() }, func(m *mounttest.Mount) {
			m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true))
		}, true,
	},
	"emergency while promoted": {
		func(m *mounttest.Mount) {
			m.Sandbox.CreateClient("shop-3", mounttest.NewSecret)
			m.Stage()
			m.Promote()
		},
		func(m *mounttest.Mount) {
			m.Do(logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", "shop-3", "client_secret", mounttest.NewSecret, "compromised", true))
		}, true,
	},
	"other pair": {func(*mounttest.Mount) {}, func(m *mounttest.Mount) { m.Do(logical.UpdateOperation, "config", mounttest.NewPair()) }, true},
	"other pair, not tested": {func(*mounttest.Mount) {}, func(m *mounttest.Mount) {
		m.Do(logical.UpdateOperation, "config", mounttest.NewPair("verify_connection", false))
	}, true},
	// The tokens of deleted credentials live on.
	"config delete": {func(*mounttest.Mount) {}, func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "config", nil) }, false},
	"config delete and create": {
		func(*mounttest.Mount) {}, func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "config", nil); m.Configure() }, true,
	},
	"promote": {func(m *mounttest.Mount) { m.Stage() }, func(m *mounttest.Mount) { m.Promote() }, false},
	"stage":   {func(*mounttest.Mount) {}, func(m *mounttest.Mount) { m.Stage() }, false},
	"setting": {func(*mounttest.Mount) {}, func(m *mounttest.Mount) { m.Write("config", "stale_if_error", true) }, false},
}

// Vault tells the active node of a secondary that the primary has changed the config. If that drops
// the token which the secondary's apps hold, they hear of it there.
func TestEventOfADropOnASecondary(t *testing.T) {
	for name, tt := range elsewhere {
		for occasion, act := range map[string]func(*mounttest.Mount){
			"a read":       func(m *mounttest.Mount) { _, _ = m.Handle(m.T.Context(), logical.ReadOperation, "token", nil) },
			"PeriodicFunc": (*mounttest.Mount).Tick,
		} {
			t.Run(name+", then "+occasion, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
					tt.prepare(m)
					secondary, _ := m.Secondary()
					secondary.Read()
					synctest.Wait()
					secondary.Events.Take()

					tt.act(m)
					synctest.Wait()
					act(secondary)
					synctest.Wait()
					sent := secondary.Events.Take()
					updates := mounttest.NewOperator(t).Updates(t, sent)
					if !tt.drops {
						assert.Empty(t, updates)
						return
					}
					assert.Len(t, updates, 1, "%q", sent)
					assert.True(t, slices.ContainsFunc(sent, func(event string) bool {
						return strings.HasPrefix(event, "fuuffy/token-drop ") && strings.Contains(event, " modified=true ")
					}), "%q", sent)
					settle(secondary)
					assert.Empty(t, mounttest.NewOperator(t).Updates(t, secondary.Events.Take()), "once")
				})
			})
		}
	}
}

// A node whose apps hold no token of it, and a standby, whose active node tells them, send nothing.
func TestNoEventOfADropElsewhere(t *testing.T) {
	for name, tt := range elsewhere {
		t.Run(name+", no token", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				tt.prepare(m)
				secondary, _ := m.Secondary()
				tt.act(m)
				settle(secondary)
				assert.Empty(t, mounttest.NewOperator(t).Updates(t, secondary.Events.Take()))
			})
		})
		for _, state := range []consts.ReplicationState{
			consts.ReplicationPerformanceStandby,
			consts.ReplicationPerformanceStandby | consts.ReplicationPerformanceSecondary,
		} {
			t.Run(fmt.Sprintf("%s, standby %d", name, state), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
					m.Read()
					tt.prepare(m)
					m.Read()
					shared := m.Storage.Storage
					standby := m.Node(state, mounttest.ReadOnlyStorage{Storage: shared})
					m.Storage.Storage = mounttest.ToldStorage{Storage: shared, Tell: standby.Backend.InvalidateKey}
					standby.Read()
					tt.act(m)
					synctest.Wait()
					for range 3 {
						_, _ = standby.Handle(t.Context(), logical.ReadOperation, "token", nil)
						standby.Tick()
						synctest.Wait()
						time.Sleep(time.Minute)
					}
					assert.Empty(t, standby.Events.Take())
				})
			})
		}
	}
}

// A load that fails first doesn't lose the event.
func TestEventOfADropAfterALoadThatFailed(t *testing.T) {
	for fault, spoil := range configFaults {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				secondary, _ := m.Secondary()
				secondary.Read()
				synctest.Wait()
				secondary.Events.Take()
				storage := secondary.UseFaultyStorage()
				met := spoil(storage)
				m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true))
				_, _, _ = secondary.Timed(logical.ReadOperation, "token", nil)
				synctest.Wait()
				assert.NotZero(t, met())
				storage.Mend()
				time.Sleep(time.Minute)
				settle(secondary)
				assert.Len(t, mounttest.NewOperator(t).Updates(t, secondary.Events.Take()), 1)
				assert.Equal(t, mounttest.NewClientID, secondary.ServedClientID())
			})
		})
	}
}

// The change of a config write took effect, but storage said that it failed. The occasion on which
// the engine learns of it is another write of the operator.
func TestEventOfAWriteThatTookEffectBeforeAnother(t *testing.T) {
	for _, name := range []string{"other pair", "other pair, not tested"} {
		tt := announced[name]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				m.Read()
				synctest.Wait()
				m.Events.Take()
				storage := m.UseFaultyStorage()
				storage.Set("put", mounttest.ConfigKey, mounttest.FailsAfterwards)
				resp, _, err := m.Timed(tt.operation, tt.path, tt.data)
				require.True(t, err != nil || resp.IsError())
				storage.Mend()
				m.Write("config", "request_timeout", 9)
				settle(m)
				assert.Equal(t, mounttest.NewClientID, m.ServedClientID())
				assert.Len(t, mounttest.NewOperator(t).Updates(t, m.Events.Take()), 1, "apps hold a dead token")
			})
		})
	}
}

// An app reports a token while a check that will replace it is saving another.
func TestEventOfAReportDuringACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		time.Sleep(56 * time.Minute) // In its buffer.
		m.Events.Take()
		storage := m.UseFaultyStorage()
		storage.Set("put", mounttest.TokenKey, mounttest.Slowly(2*time.Second))
		ended := make(chan struct{})
		go func() {
			m.Write("rotate-root/check")
			close(ended)
		}()
		time.Sleep(time.Second)
		resp := m.Write("token", "rejected_token", token)
		<-ended
		require.False(t, resp.Data["access_token"] == token)
		settle(m)
		assert.Len(t, mounttest.NewOperator(t).Updates(t, m.Events.Take()), 1, "apps hold a dead token")
	})
}

// After a start that couldn't look for the stored token, an app reports an older one than that.
// All apps have the stored one already.
func TestNoEventOfAnOldReportAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		old := m.ReadToken()
		time.Sleep(time.Minute)
		token := m.Write("token", "rejected_token", old).Data["access_token"].(string)
		storage := m.UseFaultyStorage()
		storage.Set("get", mounttest.TokenKey, failingOnce(1))
		m.Restart()
		storage.Mend()
		m.Events.Take()
		resp := m.Write("token", "rejected_token", old)
		require.True(t, resp.Data["access_token"] == token)
		synctest.Wait()
		assert.Empty(t, mounttest.NewOperator(t).Updates(t, m.Events.Take()), "nothing changed for apps")
	})
}

// After a start that can't read the stored token, an app reports it, and the engine replaces it.
func TestEventOfAReportOfAnUnreadableToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		time.Sleep(time.Minute)
		storage := m.UseFaultyStorage()
		storage.Set("get", mounttest.TokenKey, mounttest.Fails)
		m.Restart()
		m.Events.Take()
		resp := m.Write("token", "rejected_token", token)
		require.False(t, resp.Data["access_token"] == token)
		synctest.Wait()
		assert.Equal(t, []string{"replace"}, mounttest.NewOperator(t).Updates(t, m.Events.Take()), "apps hold a dead token")
	})
}
