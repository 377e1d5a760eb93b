// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"syscall"
)

// PID is the number of the server's process.
func (v *Vault) PID() int { return v.process.pid() }

// Pause stops the server and the plugin with SIGSTOP: they hold their connections and
// their locks, and do nothing.
func (v *Vault) Pause() error { return syscall.Kill(-v.PID(), syscall.SIGSTOP) }

// Resume lets the server and the plugin go on after Pause.
func (v *Vault) Resume() error { return syscall.Kill(-v.PID(), syscall.SIGCONT) }

// UnsealNode unseals a node of a cluster, after it was sealed, and waits until it follows.
func (c *Cluster) UnsealNode(ctx context.Context, node *Vault) error { return node.unsealNode(ctx) }
