// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"syscall"
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
