// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// finishing are the steps that forget the previous credentials, which must be revoked by then.
var finishing = map[string]struct {
	path  string
	data  map[string]any
	state string // after the step
}{
	"complete":       {"rotate-root/complete", nil, rotation.Idle},
	"stage the next": {"rotate-root", mounttest.Pairs("client_id", "shop-third", "client_secret", "third-secret"), rotation.Staged},
}

func newPromotedMountBehindGateway(t *testing.T) (*mounttest.Mount, *gateway) {
	t.Helper()
	m, g := newMountBehindGateway(t)
	m.Configure()
	m.RotateTo(rotation.Promoted)
	m.Sandbox.CreateClient("shop-third", "third-secret")
	return m, g
}

// The engine keeps the old credentials until Fuuffy itself says that it no longer accepts them.
func TestForeignAnswerIsNoProof(t *testing.T) {
	for step, finish := range finishing {
		for name, answer := range mounttest.ProvesNothing {
			t.Run(step+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, g := newPromotedMountBehindGateway(t)
					g.answer(mounttest.ClientID, answer)
					resp, err := m.Handle(t.Context(), logical.UpdateOperation, finish.path, finish.data)
					if assert.True(t, err != nil || resp.IsError(), "the step is refused") {
						_, text := mounttest.Refusal(t, resp, err)
						assert.Contains(t, text, "the engine couldn't verify that client "+mounttest.ClientID+" is revoked. Only a rejection from Fuuffy counts as proof.")
					}
					rotation := m.Rotation()
					assert.Equal(t, "promoted", rotation["state"])
					assert.Equal(t, mounttest.ClientID, rotation["previous_client_id"])
					assert.Equal(t, mounttest.NewClientID, rotation["client_id"])
					assert.Equal(t, false, rotation["compromised"])
					assert.NotContains(t, rotation, "staged_client_id")

					// The old credentials are still there to go back to.
					g.pass(mounttest.ClientID)
					m.Do(logical.UpdateOperation, "rotate-root/rollback", nil)
					assert.Equal(t, mounttest.ClientID, m.Rotation()["client_id"])
				})
			})
		}
	}
}

func TestFuuffysRejectionIsProof(t *testing.T) {
	for step, finish := range finishing {
		for name, answer := range mounttest.ProvesDeath {
			t.Run(step+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, g := newPromotedMountBehindGateway(t)
					g.answer(mounttest.ClientID, answer)
					m.Do(logical.UpdateOperation, finish.path, finish.data)
					rotation := m.Rotation()
					assert.Equal(t, finish.state, rotation["state"])
					assert.NotContains(t, rotation, "previous_client_id")
					assert.NotContains(t, rotation, "unrevoked")
					assert.Contains(t, rotation["history"], "completed "+mounttest.NewClientID+" (revoked: "+mounttest.ClientID+")")
				})
			})
		}
	}
}

// In an emergency nothing waits for proof: the client before the leaked one is given up and
// listed, whatever is known about it.
func TestEmergencyNeedsNoProof(t *testing.T) {
	for name, answer := range mounttest.ProvesNothing {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, g := newPromotedMountBehindGateway(t)
				g.answer(mounttest.ClientID, answer)
				requests := g.count()
				resp := m.Write("rotate-root", "client_id", "shop-third", "client_secret", "third-secret", "compromised", true)
				assert.Equal(t, requests+1, g.count(), "the new credentials are tested, and no others")
				assert.Contains(t, resp.Warnings, "The engine no longer keeps client "+mounttest.ClientID+". Unless it is revoked, it may still work: see unrevoked.")
				rotation := m.Rotation()
				assert.Equal(t, "promoted", rotation["state"])
				assert.Equal(t, "shop-third", rotation["client_id"])
				assert.Equal(t, mounttest.NewClientID, rotation["previous_client_id"])
				assert.Equal(t, true, rotation["compromised"])
				assert.Equal(t, "2000-01-01T00:00:00Z "+mounttest.ClientID+" (replaced)\n2000-01-01T00:00:00Z "+mounttest.NewClientID+" (compromised)", rotation["unrevoked"])
				assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
			})
		})
	}
}
