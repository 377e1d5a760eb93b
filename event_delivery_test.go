// SPDX-License-Identifier: MPL-2.0

package fuuffy

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
)

// announced are operations of which others must hear, with the beginnings of their events.
var announced = map[string]struct {
	prepare   func(*mount)
	operation logical.Operation
	path      string
	data      map[string]any
	write     string // the storage operation, and the key, after which it counts
	events    []string
}{
	"emergency": {
		func(*mount) {}, logical.UpdateOperation, "rotate-root", newPair("compromised", true), "put config",
		[]string{"fuuffy/token-drop ", "fuuffy/rotate-root-"},
	},
	"other pair": {
		func(*mount) {}, logical.UpdateOperation, "config", newPair(), "put config", []string{"fuuffy/token-drop "},
	},
	"other pair, not tested": {
		func(*mount) {}, logical.UpdateOperation, "config", newPair("verify_connection", false), "put config", []string{"fuuffy/token-drop "},
	},
	"token delete": {func(*mount) {}, logical.DeleteOperation, "token", nil, "delete token", []string{"fuuffy/token-drop "}},
	"stage":        {func(*mount) {}, logical.UpdateOperation, "rotate-root", newPair(), "put config", []string{"fuuffy/rotate-root-stage "}},
	"promote": {
		func(m *mount) { m.stage() }, logical.UpdateOperation, "rotate-root/promote", nil, "put config", []string{"fuuffy/rotate-root-promote "},
	},
	"discard": {
		func(m *mount) { m.stage() }, logical.DeleteOperation, "rotate-root", nil, "put config", []string{"fuuffy/rotate-root-discard "},
	},
	"rollback": {
		func(m *mount) { m.stage(); m.promote() }, logical.UpdateOperation, "rotate-root/rollback", nil, "put config", []string{"fuuffy/rotate-root-rollback "},
	},
	"complete": {
		func(m *mount) { m.stage(); m.promote() }, logical.UpdateOperation, "rotate-root/complete", pairs("force", true), "put config",
		[]string{"fuuffy/rotate-root-complete "},
	},
	"check that replaces a suspect token": {
		func(m *mount) { m.makeSuspect() }, logical.UpdateOperation, "rotate-root/check", nil, "put token", []string{"fuuffy/token-issue "},
	},
}

// settle gives an engine the time and the occasions that it may need to send an event.
func (m *mount) settle() {
	m.t.Helper()
	synctest.Wait()
	for range 2 {
		_, _ = m.handle(m.t.Context(), logical.ReadOperation, "token", nil)
		m.tick()
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
					m := newConfiguredMount(t)
					m.sandbox.CreateClient(newClientID, newSecret)
					m.read()
					tt.prepare(m)
					synctest.Wait()
					m.events.take()
					ctx, hangUp := context.WithCancel(t.Context())
					storage := m.useFaultyStorage()
					operation, key, _ := strings.Cut(tt.write, " ")
					storage.set(operation, key, func(apply func() error) error {
						err := apply()
						hangUp()
						if before {
							time.Sleep(time.Second)
						}
						return err
					})
					_, _ = m.handle(ctx, tt.operation, tt.path, tt.data)
					require.Error(t, ctx.Err(), "it came to that")
					storage.mend()
					m.settle()
					sent := m.events.take()
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
		for fault, spoil := range map[string]func(*faultyStorage){
			"fails": func(s *faultyStorage) { s.set("put", configKey, failsAfterwards) },
			"hangs": func(s *faultyStorage) { s.hang("put", configKey, 1, true) },
			"fails, then gets fail": func(s *faultyStorage) {
				s.set("put", configKey, failsAfterwards)
				s.set("get", configKey, failingAfter(2, fails))
			},
		} {
			for then, occasion := range map[string]func(*mount){
				"a read":       func(m *mount) { _, _ = m.handle(m.t.Context(), logical.ReadOperation, "token", nil) },
				"PeriodicFunc": (*mount).tick,
				"a repetition and a read": func(m *mount) {
					_, _ = m.handle(m.t.Context(), tt.operation, tt.path, tt.data)
					_, _ = m.handle(m.t.Context(), logical.ReadOperation, "token", nil)
				},
				"minutes": func(m *mount) { m.settle() },
			} {
				t.Run(fmt.Sprintf("%s, %s, then %s", name, fault, then), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := newConfiguredMount(t)
						m.sandbox.CreateClient(newClientID, newSecret)
						m.read()
						synctest.Wait()
						m.events.take()
						storage := m.useFaultyStorage()
						spoil(storage)
						resp, _, err := m.timed(tt.operation, tt.path, tt.data)
						require.True(t, err != nil || resp.IsError())
						storage.mend()
						occasion(m)
						synctest.Wait()
						updates := newOperator(t).updates(t, m.events.take())
						assert.Len(t, updates, 1, "apps hold a dead token")

						_, _ = m.handle(t.Context(), tt.operation, tt.path, tt.data)
						m.settle()
						assert.Empty(t, newOperator(t).updates(t, m.events.take()), "they hear of it once")
						assert.Equal(t, newClientID, m.servedClientID())
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
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				token := m.readToken()
				synctest.Wait()
				m.events.take()
				storage := m.useFaultyStorage()
				storage.set("put", configKey, fails)
				_, err := m.handle(t.Context(), tt.operation, tt.path, tt.data)
				require.Error(t, err)
				storage.mend()
				m.settle()
				assert.Empty(t, m.events.take())
				assert.True(t, m.readToken() == token)

				m.do(tt.operation, tt.path, tt.data)
				m.settle()
				assert.Len(t, newOperator(t).updates(t, m.events.take()), 1, "the repetition has an effect")
			})
		})
	}
}

// What another node did to the tokens that this one's apps hold.
var elsewhere = map[string]struct {
	prepare, act func(primary *mount)
	drops        bool
}{
	"emergency": {func(*mount) {}, func(m *mount) { m.do(logical.UpdateOperation, "rotate-root", newPair("compromised", true)) }, true},
	"emergency while staged": {
		func(m *mount) { m.stage() }, func(m *mount) { m.do(logical.UpdateOperation, "rotate-root", newPair("compromised", true)) }, true,
	},
	"emergency while promoted": {
		func(m *mount) { m.sandbox.CreateClient("shop-3", newSecret); m.stage(); m.promote() },
		func(m *mount) {
			m.do(logical.UpdateOperation, "rotate-root", pairs("client_id", "shop-3", "client_secret", newSecret, "compromised", true))
		}, true,
	},
	"other pair":             {func(*mount) {}, func(m *mount) { m.do(logical.UpdateOperation, "config", newPair()) }, true},
	"other pair, not tested": {func(*mount) {}, func(m *mount) { m.do(logical.UpdateOperation, "config", newPair("verify_connection", false)) }, true},
	// The tokens of deleted credentials live on.
	"config delete": {func(*mount) {}, func(m *mount) { m.do(logical.DeleteOperation, "config", nil) }, false},
	"config delete and create": {
		func(*mount) {}, func(m *mount) { m.do(logical.DeleteOperation, "config", nil); m.configure() }, true,
	},
	"promote": {func(m *mount) { m.stage() }, func(m *mount) { m.promote() }, false},
	"stage":   {func(*mount) {}, func(m *mount) { m.stage() }, false},
	"setting": {func(*mount) {}, func(m *mount) { m.write("config", "stale_if_error", true) }, false},
}

// Vault tells the active node of a secondary that the primary has changed the config. If that drops
// the token which the secondary's apps hold, they hear of it there.
func TestEventOfADropOnASecondary(t *testing.T) {
	for name, tt := range elsewhere {
		for occasion, act := range map[string]func(*mount){
			"a read":       func(m *mount) { _, _ = m.handle(m.t.Context(), logical.ReadOperation, "token", nil) },
			"PeriodicFunc": (*mount).tick,
		} {
			t.Run(name+", then "+occasion, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					m.sandbox.CreateClient(newClientID, newSecret)
					tt.prepare(m)
					secondary, _ := m.secondary()
					secondary.read()
					synctest.Wait()
					secondary.events.take()

					tt.act(m)
					synctest.Wait()
					act(secondary)
					synctest.Wait()
					sent := secondary.events.take()
					updates := newOperator(t).updates(t, sent)
					if !tt.drops {
						assert.Empty(t, updates)
						return
					}
					assert.Len(t, updates, 1, "%q", sent)
					assert.True(t, slices.ContainsFunc(sent, func(event string) bool {
						return strings.HasPrefix(event, "fuuffy/token-drop ") && strings.Contains(event, " modified=true ")
					}), "%q", sent)
					secondary.settle()
					assert.Empty(t, newOperator(t).updates(t, secondary.events.take()), "once")
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
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				tt.prepare(m)
				secondary, _ := m.secondary()
				tt.act(m)
				secondary.settle()
				assert.Empty(t, newOperator(t).updates(t, secondary.events.take()))
			})
		})
		for _, state := range []consts.ReplicationState{
			consts.ReplicationPerformanceStandby,
			consts.ReplicationPerformanceStandby | consts.ReplicationPerformanceSecondary,
		} {
			t.Run(fmt.Sprintf("%s, standby %d", name, state), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					m.sandbox.CreateClient(newClientID, newSecret)
					m.read()
					tt.prepare(m)
					m.read()
					shared := m.storage.Storage
					standby := m.node(state, readOnlyStorage{Storage: shared})
					m.storage.Storage = toldStorage{Storage: shared, tell: standby.b.InvalidateKey}
					standby.read()
					tt.act(m)
					synctest.Wait()
					for range 3 {
						_, _ = standby.handle(t.Context(), logical.ReadOperation, "token", nil)
						standby.tick()
						synctest.Wait()
						time.Sleep(time.Minute)
					}
					assert.Empty(t, standby.events.take())
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
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				secondary, _ := m.secondary()
				secondary.read()
				synctest.Wait()
				secondary.events.take()
				storage := secondary.useFaultyStorage()
				met := spoil(storage)
				m.do(logical.UpdateOperation, "rotate-root", newPair("compromised", true))
				_, _, _ = secondary.timed(logical.ReadOperation, "token", nil)
				synctest.Wait()
				assert.NotZero(t, met())
				storage.mend()
				time.Sleep(time.Minute)
				secondary.settle()
				assert.Len(t, newOperator(t).updates(t, secondary.events.take()), 1)
				assert.Equal(t, newClientID, secondary.servedClientID())
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
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				m.read()
				synctest.Wait()
				m.events.take()
				storage := m.useFaultyStorage()
				storage.set("put", configKey, failsAfterwards)
				resp, _, err := m.timed(tt.operation, tt.path, tt.data)
				require.True(t, err != nil || resp.IsError())
				storage.mend()
				m.write("config", "request_timeout", 9)
				m.settle()
				assert.Equal(t, newClientID, m.servedClientID())
				assert.Len(t, newOperator(t).updates(t, m.events.take()), 1, "apps hold a dead token")
			})
		})
	}
}

// An app reports a token while a check that will replace it is saving another.
func TestEventOfAReportDuringACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		time.Sleep(56 * time.Minute) // In its buffer.
		m.events.take()
		storage := m.useFaultyStorage()
		storage.set("put", tokenKey, slowly(2*time.Second))
		ended := make(chan struct{})
		go func() {
			m.write("rotate-root/check")
			close(ended)
		}()
		time.Sleep(time.Second)
		resp := m.write("token", "rejected_token", token)
		<-ended
		require.False(t, resp.Data["access_token"] == token)
		m.settle()
		assert.Len(t, newOperator(t).updates(t, m.events.take()), 1, "apps hold a dead token")
	})
}

// After a start that couldn't look for the stored token, an app reports an older one than that.
// All apps have the stored one already.
func TestNoEventOfAnOldReportAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		old := m.readToken()
		time.Sleep(time.Minute)
		token := m.write("token", "rejected_token", old).Data["access_token"].(string)
		storage := m.useFaultyStorage()
		storage.set("get", tokenKey, failingOnce(1))
		m.restart()
		storage.mend()
		m.events.take()
		resp := m.write("token", "rejected_token", old)
		require.True(t, resp.Data["access_token"] == token)
		synctest.Wait()
		assert.Empty(t, newOperator(t).updates(t, m.events.take()), "nothing changed for apps")
	})
}

// After a start that can't read the stored token, an app reports it, and the engine replaces it.
func TestEventOfAReportOfAnUnreadableToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		time.Sleep(time.Minute)
		storage := m.useFaultyStorage()
		storage.set("get", tokenKey, fails)
		m.restart()
		m.events.take()
		resp := m.write("token", "rejected_token", token)
		require.False(t, resp.Data["access_token"] == token)
		synctest.Wait()
		assert.Equal(t, []string{"replace"}, newOperator(t).updates(t, m.events.take()), "apps hold a dead token")
	})
}
