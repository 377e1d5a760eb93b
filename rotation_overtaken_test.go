// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// A refused step doesn't touch a token request that readers wait for.
func TestRefusedStepDisturbsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		release := m.sandbox.Hold()
		read := make(chan string)
		go func() { read <- m.readToken() }()
		synctest.Wait()
		for _, step := range []string{"promote", "complete", "rollback"} {
			m.refused(logical.UpdateOperation, "rotate-root/"+step, nil)
		}
		m.refused(logical.UpdateOperation, "config", pairs("client_id", newClientID))
		release()
		assert.True(t, m.sandbox.TokenAlive(<-read))
		assert.Equal(t, 1, m.requests())
	})
}

// A configuration can be deleted while a check or a step is on its way. Its answer then says
// so.
func TestStepOvertakenByADelete(t *testing.T) {
	for name, step := range map[string]struct {
		path string
		data map[string]any
	}{
		"check": {"rotate-root/check", nil},
		"stage": {"rotate-root", newPair()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, rotation.Idle)
				release := m.sandbox.Hold()
				answer := make(chan string)
				go func() {
					_, text := m.refused(logical.UpdateOperation, step.path, step.data)
					answer <- text
				}()
				synctest.Wait()
				m.do(logical.DeleteOperation, "config", nil)
				release()
				text := <-answer
				assert.True(t, strings.Contains(text, "no Fuuffy credentials yet") || strings.Contains(text, "someone else changed the configuration"), text)
				assert.Equal(t, "not configured", m.status()["health"])
			})
		})
	}
}

// deletingSender deletes the config when a step's event arrives.
type deletingSender struct{ m *mount }

// SendEvent is part of logical.EventSender.
func (s deletingSender) SendEvent(_ context.Context, kind logical.EventType, _ *logical.EventData) error {
	if strings.HasPrefix(string(kind), "fuuffy/rotate-root") {
		s.m.do(logical.DeleteOperation, "config", pairs("force", true))
	}
	return nil
}

// A step can succeed on a mount whose config is deleted before the step's answer is made.
func TestAnswerOvertakenByADelete(t *testing.T) {
	m := newMount(t)
	m.startWith(func(conf *logical.BackendConfig) { conf.EventsSender = deletingSender{m} })
	m.configure()
	m.sandbox.CreateClient(newClientID, newSecret)
	_, text := m.refused(logical.UpdateOperation, "rotate-root", newPair())
	assert.Contains(t, text, "no Fuuffy credentials yet")
}

// Operators who mistype secrets at the same time, for as long as they like: what the engine
// remembers of them stays small, and it doesn't forget what it knows of the mount's own
// clients for the first of them.
func TestRejectedPairsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.sandbox.RevokeClient(testClientID)
		m.write("rotate-root/check")
		const known = 2
		mistype := func(times int) {
			for left := times; left > 0; left -= 8 {
				time.Sleep(time.Minute) // The budget is whole again.
				release := m.sandbox.Hold()
				var operators sync.WaitGroup
				for range min(left, 8) {
					operators.Go(func() {
						_, text := m.refused(logical.UpdateOperation, "rotate-root", pairs("client_id", "shop-3", "client_secret", "wrong", "compromised", true))
						assert.Contains(t, text, "Fuuffy rejected client shop-3")
						m.rotation()
					})
				}
				synctest.Wait()
				release()
				operators.Wait()
			}
		}
		const remembered = 16 // pairs
		mistype(remembered - known)
		m.loseToken()
		m.read()
		assert.Contains(t, m.rotation()["next_step"], "Fuuffy no longer accepts client shop-1, so finish")
		mistype(100)
	})
}

// However many wrong pairs someone types, the engine remembers what readers met: how often
// Fuuffy rejected the current credentials, and until when apps use a token of the old ones.
func TestMistypedPairsDisplaceNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.promoteSuccessor()
		m.sandbox.RevokeClient(successorID)
		m.do(logical.DeleteOperation, "token", nil)
		m.read()
		m.sandbox.CreateClient(successorID, successorSecret)
		time.Sleep(51 * time.Minute)
		m.read()
		synctest.Wait()
		before := m.readRotation()
		require.NotNil(t, before["revoke_old_after"])
		require.EqualValues(t, 1, before["auth_failures"])

		for range 32 {
			_, text := m.refused(logical.UpdateOperation, "rotate-root", pairs("client_id", "shop-3", "client_secret", "wrong", "compromised", true))
			assert.Contains(t, text, "Fuuffy rejected client shop-3")
			time.Sleep(6 * time.Second) // The engine limits its requests.
		}
		assert.Equal(t, before, m.readRotation())
	})
}

// Whoever gives up while Fuuffy takes its time has changed nothing, and no one has learned
// anything about Fuuffy.
func TestCallerGivesUpWhileFuuffyIsSlow(t *testing.T) {
	for name, tt := range map[string]struct {
		state, path string
		slow        string // the client whose requests Fuuffy takes its time for
		newDead     bool
	}{
		"check":                 {state: rotation.Idle, path: "rotate-root/check", slow: testClientID},
		"check of the fallback": {state: rotation.Promoted, path: "rotate-root/check", slow: testClientID, newDead: true},
		"promote":               {state: rotation.Staged, path: "rotate-root/promote", slow: newClientID},
		"complete":              {state: rotation.Promoted, path: "rotate-root/complete", slow: testClientID},
		"rollback":              {state: rotation.Promoted, path: "rotate-root/rollback", slow: testClientID},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, tt.state)
				token := m.readToken()
				if tt.newDead {
					m.sandbox.RevokeClient(newClientID)
				}
				before := m.rotation()
				m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultHang, ClientID: tt.slow})
				m.log.reset()
				m.events.take()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := m.handle(ctx, logical.UpdateOperation, tt.path, nil)
				require.ErrorIs(t, err, context.DeadlineExceeded)

				for _, field := range []string{"state", "client_id", "history", "fallback_active"} {
					assert.Equal(t, before[field], m.rotation()[field], field)
				}
				assert.Equal(t, "ok", m.status()["upstream_state"])
				assert.True(t, m.readToken() == token)
				assert.Zero(t, m.log.count("[WARN]")+m.log.count("[ERROR]"), m.log.String())
				assert.Empty(t, m.events.take())
			})
		})
	}
}

// The caller of a check can give up when the engine has learned about the current client, but
// not about the staged one. That is no failure of Fuuffy.
func TestCallerGivesUpLateInACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Staged)
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultHang, ClientID: newClientID})
		for range 20 { // Whether the answer is an error is chance.
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			resp, err := m.handle(ctx, logical.UpdateOperation, "rotate-root/check", nil)
			cancel()
			if err == nil {
				assert.Equal(t, "works", resp.Data["current"])
				assert.Contains(t, resp.Data["staged"], "unknown:")
			} else {
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			}
			assert.Equal(t, "ok", m.status()["health"])
			time.Sleep(checkInterval)
		}
	})
}
