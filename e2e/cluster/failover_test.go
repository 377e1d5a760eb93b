// SPDX-License-Identifier: MPL-2.0

package cluster

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// failovers is a cluster whose active node dies again and again.
type failovers struct{ *stack.Cluster }

func newFailovers(t *testing.T) failovers {
	t.Helper()
	c, err := newStack(t).StartCluster(t.Context(), programs.Vault, filepath.Dir(programs.Plugin), 3)
	require.NoError(t, err)
	require.NoError(t, c.Nodes[0].RegisterPlugin(t.Context(), programs.Plugin, programs.PluginVersion))
	return failovers{c}
}

// newMount returns a mount that all nodes know. A standby that serves reads hears of a new
// one moments later, and has nothing at its path until then.
func (f failovers) newMount(t *testing.T, path string, sandbox fuuffytest.Config) *mount {
	t.Helper()
	m := newMount(t, f.active(t), path, sandbox, nil)
	for _, node := range f.Nodes {
		require.NoError(t, stack.Eventually(t.Context(), "a node to know the mount", func() error {
			_, err := readToken(t.Context(), node.Client, path)
			return err
		}))
	}
	return m
}

func (f failovers) active(t *testing.T) *stack.Vault {
	t.Helper()
	node, err := f.Active(t.Context())
	require.NoError(t, err)
	return node
}

// failOver kills the active node and returns it when there is another, which m then
// talks to.
func (f failovers) failOver(m *mount) (killed *stack.Vault) {
	m.t.Helper()
	killed = f.active(m.t)
	killed.Kill()
	m.client = f.active(m.t).Client
	return killed
}

// revive gives the cluster its third node back, so that it survives the next
// failover, and waits until apps read through it as well. If its standbys serve reads, the
// node begins with the token that it knew when it died.
func (f failovers) revive(node *stack.Vault, r *readers) {
	r.t.Helper()
	require.NoError(r.t, f.Restart(r.t.Context(), node))
	require.NoError(r.t, stack.Eventually(r.t.Context(), "the node to catch up", func() error {
		token, err := readToken(r.t.Context(), node.Client, r.path)
		if err == nil && token != r.token() {
			err = errors.New("it serves another token than the active node")
		}
		return err
	}))
	r.everyone()
}

// The active node dies while apps read, in the middle of each step of a rotation, and
// while the token is being refreshed. Apps never notice more than Vault's election.
func TestFailover(t *testing.T) {
	t.Parallel()
	f := newFailovers(t)

	t.Run("during reads", func(t *testing.T) { f.duringReads(f.newMount(t, "read", fuuffytest.Config{})) })
	// The refresh window of this token opens 42 seconds from now, for 14 seconds. The
	// rotation goes on meanwhile.
	refreshed := f.newMount(t, "refreshed", fuuffytest.Config{TokenLifetime: 112 * time.Second})
	t.Run("during a rotation", func(t *testing.T) { f.duringRotation(f.newMount(t, "rotated", fuuffytest.Config{})) })
	t.Run("during a refresh", func(t *testing.T) {
		refreshed.t = t
		f.duringRefresh(refreshed)
	})
}

func (f failovers) duringReads(m *mount) {
	held := m.token()
	r := startReaders(m, f.Nodes, 100*time.Millisecond, election)

	killed := f.failOver(m)
	r.everyone()
	f.revive(killed, r)

	r.finish("failovers", 1)
	assert.Len(m.t, r.reads, 1)
	assert.Positive(m.t, r.reads[held])
	assert.Equal(m.t, 1, m.requests())
}

// The request for the next token is lost with the node. Until it was repeated, all are
// served the token that is in storage.
func (f failovers) duringRefresh(m *mount) {
	r := startReaders(m, f.Nodes, 100*time.Millisecond, election)
	release := m.Hold()
	defer release()
	m.awaitHeld()
	requests, tokens := m.requests(), r.tokens()

	killed := f.failOver(m)
	require.NoError(m.t, stack.Eventually(m.t.Context(), "the refresh to be repeated", func() error {
		if m.requests() == requests {
			return errors.New("Fuuffy was not asked again")
		}
		return nil
	}))
	r.everyone()
	require.Equal(m.t, tokens, r.tokens())
	release()
	require.NoError(m.t, stack.Eventually(m.t.Context(), "the new token", func() error {
		if r.tokens() == tokens {
			return errors.New("nobody got it")
		}
		return nil
	}))
	f.revive(killed, r)

	r.finish("failovers", 1)
	assert.Len(m.t, r.reads, tokens+1)
	assert.Equal(m.t, requests+1, m.requests(), "all readers share the repeated request")
}

// interruptedStep is a step of a rotation that leads from one state to another.
type interruptedStep struct {
	path          string
	data          map[string]any
	before, after string
}

func (f failovers) duringRotation(m *mount) {
	const emergencyClientID = "emergency-shop"
	m.CreateClient(emergencyClientID, secret)
	r := startReaders(m, f.Nodes, 100*time.Millisecond, election)
	pair := map[string]any{"client_id": newClientID, "client_secret": secret}
	emergency := map[string]any{"client_id": emergencyClientID, "client_secret": secret, "compromised": true}

	f.interrupt(r, interruptedStep{"rotate-root", pair, "idle", "staged"})
	f.interrupt(r, interruptedStep{"rotate-root/promote", nil, "staged", "promoted"})
	f.interrupt(r, interruptedStep{"rotate-root/rollback", nil, "promoted", "idle"})
	m.step("rotate-root", pair, "staged")
	m.step("rotate-root/promote", nil, "promoted")
	r.everyoneGets(m.token())
	m.RevokeClient(clientID)
	f.interrupt(r, interruptedStep{"rotate-root/complete", nil, "promoted", "idle"})
	f.interrupt(r, interruptedStep{"rotate-root", emergency, "idle", "promoted"})
	r.everyoneGets(m.token())
	m.RevokeClient(newClientID)
	m.step("rotate-root/complete", nil, "idle")
	r.everyone()

	r.finish("failovers", 5)
	assert.Equal(m.t, emergencyClientID, m.rotation()["client_id"])
	// The config, each of five steps twice, three more steps, and another request for
	// each proof that a client is dead.
	assert.Equal(m.t, 1+2*5+3+2, m.requests(), "apps cost no token request")
}

// interrupt kills the node that takes a step. Each step asks Fuuffy before it changes
// anything, and that is when the node dies. The operator, whose command fails, looks
// where the rotation stands and repeats it.
func (f failovers) interrupt(r *readers, s interruptedStep) {
	m := r.mount
	m.t.Helper()
	m.client = f.active(m.t).Client
	release := m.Hold()
	defer release()
	outcome, operator := make(chan error, 1), *m
	waiting, answered := context.WithTimeout(m.t.Context(), time.Minute)
	go func() {
		defer answered()
		_, err := operator.write(s.path, s.data)
		outcome <- err
	}()
	if err := m.WaitHeld(waiting, 1); err != nil {
		release()
		require.NoError(m.t, errors.Join(err, <-outcome), "%s did not get as far as Fuuffy", s.path)
	}
	requests := m.requests()
	killed := f.failOver(m)
	require.Error(m.t, <-outcome)
	release()

	r.everyone()
	require.Equal(m.t, requests, m.requests(), "a failover costs no token request")
	require.Equal(m.t, s.before, m.rotation()["state"])
	m.step(s.path, s.data, s.after)
	r.everyone()
	f.revive(killed, r)
}
