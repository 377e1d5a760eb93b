// SPDX-License-Identifier: MPL-2.0

package mounttest

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// A pair is rejected if the last answer to it was a 400, 401, or 403. It is revoked only if
// Fuuffy proved it: by a 401, or by its own envelope that says invalid_client.
var (
	FirewallPage       = ProvesNothing["a firewall's 403 page"]
	aboutSomethingElse = ProvesNothing["400 about a parameter"]

	RejectedNotRevoked = map[string]GatewayAnswer{
		"a firewall's 403 page": FirewallPage, "a 400 about something else": aboutSomethingElse,
		"no permission": ProvesNothing["403, no permission"],
	}
)

const (
	ThirdID     = "shop-3"
	ThirdSecret = "third-secret"
)

// NewPairsMount is NewRotating with something between Vault and Fuuffy, and a third client.
func NewPairsMount(t *testing.T, state string) (*Mount, Answers) {
	t.Helper()
	m, between := New(t), Answers{}
	m.Between(between)
	m.Configure()
	m.Sandbox.CreateClient(ThirdID, ThirdSecret)
	m.RotateTo(state)
	return m, between
}

const (
	NewClientID = "shop-2"
	NewSecret   = "also-planted+secret"
)

// NewRotating returns an engine in one of the states of a rotation, whose new
// credentials exist at Fuuffy.
func NewRotating(t *testing.T, state string) *Mount {
	t.Helper()
	m := New(t)
	m.Configure()
	m.RotateTo(state)
	return m
}

// RotateTo creates the new client at Fuuffy, and takes the steps from idle to a state, of which
// StateCompromised is one.
func (m *Mount) RotateTo(state string) {
	m.T.Helper()
	m.Sandbox.CreateClient(NewClientID, NewSecret)
	switch state {
	case rotation.Staged:
		m.Stage()
	case rotation.Promoted:
		m.Stage()
		m.Promote()
	case StateCompromised:
		m.Do(logical.UpdateOperation, "rotate-root", NewPair("compromised", true))
	}
}

// NewPair is what a write of the new client's credentials sends, and more.
func NewPair(more ...any) map[string]any {
	data := Pairs("client_id", NewClientID, "client_secret", NewSecret)
	for field, value := range Pairs(more...) {
		data[field] = value
	}
	return data
}

func (m *Mount) Stage() *logical.Response {
	m.T.Helper()
	return m.Do(logical.UpdateOperation, "rotate-root", NewPair())
}

func (m *Mount) Promote() *logical.Response {
	m.T.Helper()
	return m.Do(logical.UpdateOperation, "rotate-root/promote", nil)
}

func (m *Mount) Rotation() map[string]any {
	m.T.Helper()
	return m.Do(logical.ReadOperation, "rotate-root", nil).Data
}

// ServedClientID returns the client that Fuuffy issued the served token to.
func (m *Mount) ServedClientID() string {
	m.T.Helper()
	return m.Sandbox.ClientOf(m.ReadToken())
}

// StateCompromised is the state after an emergency, which the engine calls promoted.
const StateCompromised = "compromised"
