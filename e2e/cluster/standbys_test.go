// SPDX-License-Identifier: MPL-2.0

package cluster

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// nodes is a mount as apps and operators see it through each node of a cluster. Some
// servers' standbys serve reads, as those of OpenBao and Vault Enterprise do. Others
// forward all requests to the active node.
type nodes struct {
	failovers
	*mount
	leader   *stack.Vault
	standbys []*stack.Vault
	// serving is whether the standbys serve reads.
	serving bool
}

// followed is how soon each node acts on what was written through one of them.
const followed = time.Second

// TestStandbys works through standbys: it can't be told from work through the active node.
func TestStandbys(t *testing.T) {
	t.Parallel()
	n := &nodes{failovers: newFailovers(t)}
	n.lookWhoIsActive(t)
	// The refresh window of this token opens 42 seconds from now.
	n.mount = n.newMount(t, "standbys", fuuffytest.Config{TokenLifetime: 112 * time.Second})
	for _, step := range []struct {
		name string
		test func()
	}{
		{"one token", n.testOneToken},
		{"reports", n.testReports},
		{"rotation", n.testRotation},
		{"emergency", n.testEmergency},
		{"leader killed", n.testLeaderKilled},
	} {
		require.True(t, t.Run(step.name, func(t *testing.T) {
			n.t = t
			step.test()
		}), "what follows builds on it")
	}
}

// lookWhoIsActive is for the beginning, and when a busy machine may have cost the active
// node its lead.
func (n *nodes) lookWhoIsActive(t *testing.T) {
	t.Helper()
	n.leader = n.active(t)
	n.standbys = slices.DeleteFunc(slices.Clone(n.Nodes), func(node *stack.Vault) bool { return node == n.leader })
}

// testOneToken also finds out who serves it.
func (n *nodes) testOneToken() {
	held := n.tokenOf(n.leader)
	n.everywhere("the token", func(token string) bool { return token == held })
	assert.Equal(n.t, 1, n.requests())

	n.serving = n.serves(n.standbys[0])
	assert.Equal(n.t, n.serving, n.serves(n.standbys[1]))
	for _, node := range n.standbys {
		running, err := node.RunsPlugin()
		require.NoError(n.t, err)
		assert.Equal(n.t, n.serving, running, "a standby runs the plugin only to serve reads")
	}
	if !n.serving {
		n.t.Log("lacks: standbys that serve reads")
	}
}

// testReports reports one dead token from many apps, through all nodes.
func (n *nodes) testReports() {
	held := n.tokenOf(n.leader)
	// A token younger than a tenth of its life is not replaced.
	young := time.After(112 * time.Second / 10)
	require.True(n.t, n.RevokeToken(held))
	select {
	case <-young:
	case <-n.t.Context().Done():
		n.t.FailNow()
	}
	requests := n.requests()
	var apps sync.WaitGroup
	for i := range 90 {
		node := n.Nodes[i%len(n.Nodes)]
		apps.Go(func() {
			var answer *api.Secret
			var refused error
			assert.NoError(n.t, stack.Eventually(n.t.Context(), "an active node", func() (err error) {
				answer, err = n.through(node).write("token", map[string]any{"rejected_token": held})
				if err != nil && !election.covers(err) {
					refused, err = err, nil
				}
				return err
			}))
			if assert.NoError(n.t, refused) && assert.NotNil(n.t, answer) {
				assert.NotEqual(n.t, held, answer.Data["access_token"])
			}
		})
	}
	apps.Wait()
	n.everywhere("the token that replaced a reported one", func(token string) bool { return token != held && n.TokenAlive(token) })
	assert.Equal(n.t, requests+1, n.requests())
}

// testRotation takes the steps through standbys only.
func (n *nodes) testRotation() {
	held := n.tokenOf(n.leader)
	n.through(n.standbys[0]).step("rotate-root", map[string]any{"client_id": newClientID, "client_secret": secret}, "staged")
	assert.Equal(n.t, held, n.tokenOf(n.standbys[1]), "a stage changes nothing for apps")
	n.through(n.standbys[1]).step("rotate-root/promote", nil, "promoted")
	n.everywhere("a token of the promoted credentials", func(token string) bool { return token != held && n.TokenAlive(token) })
	for _, node := range n.Nodes {
		assert.Equal(n.t, "promoted", n.through(node).rotation()["state"])
	}
	n.RevokeClient(clientID)
	n.through(n.standbys[0]).step("rotate-root/complete", nil, "idle")
	for _, node := range n.Nodes {
		assert.Equal(n.t, newClientID, n.through(node).rotation()["client_id"])
	}
}

// testEmergency drops a compromised token: no node may go on serving it.
func (n *nodes) testEmergency() {
	held := n.tokenOf(n.leader)
	const emergencyClientID = "emergency-shop"
	n.CreateClient(emergencyClientID, secret)
	n.through(n.standbys[1]).step("rotate-root", map[string]any{"client_id": emergencyClientID, "client_secret": secret, "compromised": true}, "promoted")
	n.RevokeClient(newClientID)
	n.everywhere("a token that is not compromised", func(token string) bool { return token != held && n.TokenAlive(token) })
	n.through(n.standbys[0]).step("rotate-root/complete", nil, "idle")
}

// testLeaderKilled has apps read through the nodes that are left.
func (n *nodes) testLeaderKilled() {
	n.lookWhoIsActive(n.t)
	m := n.newMount(n.t, "orphaned", fuuffytest.Config{})
	allowed := election
	if n.serving {
		allowed = none
	}
	r := startReaders(m, n.standbys, 100*time.Millisecond, allowed)
	held := m.token()

	n.leader.Kill()
	n.Nodes = n.standbys
	m.client = n.active(n.t).Client
	r.everyone()
	m.step("rotate-root", map[string]any{"client_id": newClientID, "client_secret": secret}, "staged")
	r.everyone()

	r.finish("leaders killed", 1)
	assert.Positive(n.t, r.reads[held])
	assert.Len(n.t, r.reads, 1)
	assert.Equal(n.t, 2, m.requests(), "the configuration and the staged pair")
}

// none is the excuse of readers whose nodes serve the token themselves.
var none = excuse{"nothing", func(error) bool { return false }}

// through is the mount as an operator sees it who talks to one node.
func (n *nodes) through(node *stack.Vault) *mount {
	m := *n.mount
	m.client = node.Client
	return &m
}

func (n *nodes) tokenOf(node *stack.Vault) string { return n.through(node).token() }

// everywhere waits until each node answers reads as it should. Meanwhile none may fail.
// The time that a busy machine takes to elect an active node does not count.
func (n *nodes) everywhere(what string, good func(token string) bool) {
	n.t.Helper()
	begun := time.Now()
	for i, node := range n.Nodes {
		require.NoError(n.t, stack.Eventually(n.t.Context(), what, func() error {
			token, err := readToken(n.t.Context(), node.Client, n.path)
			if err != nil && election.covers(err) {
				begun = time.Now()
				return err
			}
			require.NoError(n.t, err)
			if !good(token) {
				return fmt.Errorf("node %d serves another", i+1)
			}
			return nil
		}))
	}
	took := time.Since(begun)
	n.t.Logf("%s: on all nodes after %s", what, took.Round(time.Millisecond))
	assert.Less(n.t, took, followed, what)
}

// serves asks a standby for the token and forbids it to forward the request. One that
// can't serve it sends the reader to the active node.
func (n *nodes) serves(node *stack.Vault) bool {
	n.t.Helper()
	request, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, node.Address+"/v1/"+n.path+"/token", nil)
	require.NoError(n.t, err)
	request.Header.Set("X-Vault-Token", node.Client.Token())
	request.Header.Set("X-Vault-No-Request-Forwarding", "true")
	answer, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(n.t, err)
	answer.Body.Close()
	require.Contains(n.t, []int{http.StatusOK, http.StatusTemporaryRedirect}, answer.StatusCode)
	return answer.StatusCode == http.StatusOK
}
