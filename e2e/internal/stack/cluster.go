// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/api"
)

// Cluster is several Vault servers that share their data through Raft. One is active, and the
// others forward to it.
type Cluster struct {
	Nodes []*Vault
}

// StartCluster starts a cluster whose nodes may run the plugins in pluginDir, and returns when
// all of them have a vote.
func (s *Stack) StartCluster(ctx context.Context, binary, pluginDir string, nodes int) (*Cluster, error) {
	first, err := s.StartVault(ctx, binary, pluginDir)
	if err != nil {
		return nil, err
	}
	// A new node gets its vote once it has been healthy for this long.
	_, err = first.Client.Logical().WriteWithContext(ctx, "sys/storage/raft/autopilot/configuration",
		map[string]any{"server_stabilization_time": "1s"})
	if err != nil {
		return nil, fmt.Errorf("configure autopilot: %w", err)
	}
	c := &Cluster{Nodes: []*Vault{first}}
	for len(c.Nodes) < nodes {
		joined, err := s.startVault(ctx, binary, pluginDir, nil, first.letJoin)
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, joined)
	}
	return c, Eventually(ctx, "all nodes to have a vote", func() error {
		voters, err := first.voters(ctx)
		if err == nil && voters < nodes {
			err = fmt.Errorf("%d of %d have", voters, nodes)
		}
		return err
	})
}

// letJoin makes a new server a node of v's cluster.
func (v *Vault) letJoin(ctx context.Context, joining *Vault) error {
	answer, err := joining.Client.Sys().RaftJoinWithContext(ctx, &api.RaftJoinRequest{LeaderAPIAddr: v.Address})
	if err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	if !answer.Joined {
		return errors.New("join the cluster: refused")
	}
	joining.unsealKey = v.unsealKey
	joining.Client.SetToken(v.Client.Token())
	return joining.unsealNode(ctx)
}

// voters returns how many nodes of v's cluster have a vote.
func (v *Vault) voters(ctx context.Context) (int, error) {
	answer, err := v.Client.Sys().RaftAutopilotStateWithContext(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the state of Raft: %w", err)
	}
	return len(answer.Voters), nil
}

// unsealNode unseals a node of a cluster and waits until it knows who is active.
func (v *Vault) unsealNode(ctx context.Context) error {
	if err := v.unseal(ctx); err != nil {
		return err
	}
	return Eventually(ctx, "the node to know the active one", func() error {
		if !v.process.running() {
			return errEnded
		}
		answer, err := v.Client.Sys().LeaderWithContext(ctx)
		if err == nil && answer.LeaderAddress == "" {
			err = errors.New("it knows none")
		}
		return err
	})
}

// Active waits until a node is active, and returns it.
func (c *Cluster) Active(ctx context.Context) (active *Vault, err error) {
	err = Eventually(ctx, "an active node", func() error {
		for _, node := range c.Nodes {
			answer, err := node.Client.Sys().LeaderWithContext(ctx)
			if err == nil && answer.IsSelf {
				active = node
				return nil
			}
		}
		return errors.New("there is none")
	})
	return active, err
}

// Restart starts a node on the same data, after Kill, and waits until it follows.
func (c *Cluster) Restart(ctx context.Context, node *Vault) error {
	if err := node.start(ctx); err != nil {
		return fmt.Errorf("restart node: %w\nThe end of its log:\n%s", err, node.LogTail())
	}
	return node.unsealNode(ctx)
}
