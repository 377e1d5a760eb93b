// SPDX-License-Identifier: MPL-2.0

package scenarios

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
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// A refused step doesn't touch a token request that readers wait for.
func TestRefusedStepDisturbsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		release := m.Sandbox.Hold()
		read := make(chan string)
		go func() { read <- m.ReadToken() }()
		synctest.Wait()
		for _, step := range []string{"promote", "complete", "rollback"} {
			m.Refused(logical.UpdateOperation, "rotate-root/"+step, nil)
		}
		m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("client_id", mounttest.NewClientID))
		release()
		assert.True(t, m.Sandbox.TokenAlive(<-read))
		assert.Equal(t, 1, m.Requests())
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
		"stage": {"rotate-root", mounttest.NewPair()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, rotation.Idle)
				release := m.Sandbox.Hold()
				answer := make(chan string)
				go func() {
					_, text := m.Refused(logical.UpdateOperation, step.path, step.data)
					answer <- text
				}()
				synctest.Wait()
				m.Do(logical.DeleteOperation, "config", nil)
				release()
				text := <-answer
				assert.True(t, strings.Contains(text, "no Fuuffy credentials yet") || strings.Contains(text, "someone else changed the configuration"), text)
				assert.Equal(t, "not configured", m.Status()["health"])
			})
		})
	}
}

// deletingSender deletes the config when a step's event arrives.
type deletingSender struct{ m *mounttest.Mount }

// SendEvent is part of logical.EventSender.
func (s deletingSender) SendEvent(_ context.Context, kind logical.EventType, _ *logical.EventData) error {
	if strings.HasPrefix(string(kind), "fuuffy/rotate-root") {
		s.m.Do(logical.DeleteOperation, "config", mounttest.Pairs("force", true))
	}
	return nil
}

// A step can succeed on a mount whose config is deleted before the step's answer is made.
func TestAnswerOvertakenByADelete(t *testing.T) {
	m := mounttest.New(t)
	m.StartWith(func(conf *logical.BackendConfig) { conf.EventsSender = deletingSender{m} })
	m.Configure()
	m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
	_, text := m.Refused(logical.UpdateOperation, "rotate-root", mounttest.NewPair())
	assert.Contains(t, text, "no Fuuffy credentials yet")
}

// Operators mistype secrets at the same time. What the engine remembers of them displaces nothing
// that it knows of the mount's own clients.
func TestRejectedPairsDisplaceNoProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.Write("rotate-root/check")
		const remembered, known = 16, 2 // pairs
		for left := remembered - known; left > 0; left -= 8 {
			time.Sleep(time.Minute) // The budget is whole again.
			release := m.Sandbox.Hold()
			var operators sync.WaitGroup
			for range min(left, 8) {
				operators.Go(func() {
					_, text := m.Refused(logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", "shop-3", "client_secret", "wrong", "compromised", true))
					assert.Contains(t, text, "Fuuffy rejected client shop-3")
					m.Rotation()
				})
			}
			synctest.Wait()
			release()
			operators.Wait()
		}
		m.LoseToken()
		m.Read()
		assert.Contains(t, m.Rotation()["next_step"], "Fuuffy no longer accepts client shop-1, so finish")
	})
}

// However many wrong pairs someone types, the engine remembers what readers met: how often
// Fuuffy rejected the current credentials, and until when apps use a token of the old ones.
func TestMistypedPairsDisplaceNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.RotateTo(rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.Do(logical.DeleteOperation, "token", nil)
		m.Read()
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		time.Sleep(51 * time.Minute)
		m.Read()
		synctest.Wait()
		before := m.Rotation()
		require.NotNil(t, before["revoke_old_after"])
		require.EqualValues(t, 1, before["auth_failures"])

		for range 32 {
			_, text := m.Refused(logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", "shop-3", "client_secret", "wrong", "compromised", true))
			assert.Contains(t, text, "Fuuffy rejected client shop-3")
			time.Sleep(6 * time.Second) // The engine limits its requests.
		}
		assert.Equal(t, before, m.Rotation())
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
		"check":                 {state: rotation.Idle, path: "rotate-root/check", slow: mounttest.ClientID},
		"check of the fallback": {state: rotation.Promoted, path: "rotate-root/check", slow: mounttest.ClientID, newDead: true},
		"promote":               {state: rotation.Staged, path: "rotate-root/promote", slow: mounttest.NewClientID},
		"complete":              {state: rotation.Promoted, path: "rotate-root/complete", slow: mounttest.ClientID},
		"rollback":              {state: rotation.Promoted, path: "rotate-root/rollback", slow: mounttest.ClientID},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, tt.state)
				token := m.ReadToken()
				if tt.newDead {
					m.Sandbox.RevokeClient(mounttest.NewClientID)
				}
				before := m.Rotation()
				m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultHang, ClientID: tt.slow})
				m.Log.Reset()
				m.Events.Take()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := m.Handle(ctx, logical.UpdateOperation, tt.path, nil)
				require.ErrorIs(t, err, context.DeadlineExceeded)

				for _, field := range []string{"state", "client_id", "history", "fallback_active"} {
					assert.Equal(t, before[field], m.Rotation()[field], field)
				}
				assert.Equal(t, "ok", m.Status()["upstream_state"])
				assert.True(t, m.ReadToken() == token)
				assert.Zero(t, m.Log.Count("[WARN]")+m.Log.Count("[ERROR]"), m.Log.String())
				assert.Empty(t, m.Events.Take())
			})
		})
	}
}

// The caller of a check can give up when the engine has learned about the current client, but
// not about the staged one. That is no failure of Fuuffy.
func TestCallerGivesUpLateInACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Staged)
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultHang, ClientID: mounttest.NewClientID})
		for range 20 { // Whether the answer is an error is chance.
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			resp, err := m.Handle(ctx, logical.UpdateOperation, "rotate-root/check", nil)
			cancel()
			if err == nil {
				assert.Equal(t, "works", resp.Data["current"])
				assert.Contains(t, resp.Data["staged"], "unknown:")
			} else {
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			}
			assert.Equal(t, "ok", m.Status()["health"])
			time.Sleep(mounttest.CheckInterval)
		}
	})
}
