// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// PID is the number of the server's process.
func (v *Vault) PID() int { return v.process.pid() }

// Pause stops the server and the plugin with SIGSTOP. They keep their connections and locks,
// and do nothing.
func (v *Vault) Pause() error { return syscall.Kill(-v.PID(), syscall.SIGSTOP) }

// Resume continues the server and the plugin after Pause.
func (v *Vault) Resume() error { return syscall.Kill(-v.PID(), syscall.SIGCONT) }

// UnsealNode unseals a sealed node of a cluster, and waits until it follows.
func (c *Cluster) UnsealNode(ctx context.Context, node *Vault) error { return node.unsealNode(ctx) }

// Ended tells whether the server's process has ended, and when.
func (v *Vault) Ended() (at time.Time, ended bool) {
	if v.process.running() {
		return time.Time{}, false
	}
	return v.process.endedAt, true
}

// CatchUp waits until a node has stored everything that the cluster had agreed on, or has ended.
func (c *Cluster) CatchUp(ctx context.Context, node *Vault) error {
	return Eventually(ctx, "the node to catch up", func() error {
		if !node.process.running() {
			return errEnded
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		active, err := c.Active(ctx)
		if err != nil {
			return err
		}
		agreed, err := active.Client.Sys().LeaderWithContext(ctx)
		if err != nil {
			return err
		}
		stored, err := node.Client.Sys().LeaderWithContext(ctx)
		if err == nil && stored.RaftAppliedIndex < agreed.RaftCommittedIndex {
			err = fmt.Errorf("it has %d of %d", stored.RaftAppliedIndex, agreed.RaftCommittedIndex)
		}
		return err
	})
}
