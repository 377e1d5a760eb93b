// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
)

const (
	nodes = 3
	// tokenLife and expiryBuffer are short, so that a minute sees several generations of
	// tokens, and leave readers who want a long life something to ask for.
	tokenLife    = 70 * time.Second
	expiryBuffer = 30 * time.Second
	// requestTimeout is what is configured for one attempt at Fuuffy.
	requestTimeout = 2 * time.Second
)

// world is what a history happens in.
type world struct {
	seed    uint64
	life    time.Duration
	cluster *stack.Cluster
	network *network
	fuuffy  *fuuffy
	record  *recorder
	// ownDisks is set if each node has a disk that can be filled.
	ownDisks bool
	counters
}

// newWorld starts a cluster and configures the engine.
func newWorld(ctx context.Context, s *stack.Stack, p stack.Programs, seed uint64, length time.Duration) (*world, error) {
	w := &world{seed: seed, life: tokenLife, network: newNetwork(), ownDisks: s.OwnDisks}
	w.record = newRecorder(seed, &history.Cluster{
		For: length, Life: tokenLife, Buffer: expiryBuffer, RequestTimeout: requestTimeout, LongestStop: longestStop,
	})
	w.reminders.Store(1000)
	w.network.owner = w.ownerOf
	s.Advertise = w.network.advertise
	cluster, err := s.StartCluster(ctx, p.Vault, filepath.Dir(p.Plugin), nodes)
	if err != nil {
		return nil, err
	}
	w.cluster = cluster
	for node := range cluster.Nodes {
		w.record.h.Nodes = append(w.record.h.Nodes, nodeName(node))
	}
	version, err := exec.Command(p.Vault, "version").Output()
	if err != nil {
		return nil, fmt.Errorf("ask Vault for its version: %w", err)
	}
	w.record.h.Server, _, _ = strings.Cut(strings.TrimSpace(string(version)), ",")
	w.record.h.StandbysRead = strings.HasPrefix(w.record.h.Server, "OpenBao")

	first := cluster.Nodes[0]
	if err := first.RegisterPlugin(ctx, p.Plugin, p.PluginVersion); err != nil {
		return nil, err
	}
	if err := first.Client.Sys().MountWithContext(ctx, mount, &api.MountInput{Type: stack.Engine}); err != nil {
		return nil, fmt.Errorf("mount the engine: %w", err)
	}
	w.fuuffy = newFuuffy(w.record, w.life)
	return w, w.configure()
}

// ownerOf returns the cluster address of the node that has a port, empty for none.
func (w *world) ownerOf(port int) string {
	owners := map[int]string{}
	var pids []int
	for _, node := range w.cluster.Nodes {
		owners[node.PID()] = node.ClusterAddress
		pids = append(pids, node.PID())
	}
	pid, err := processOfPort(port, pids)
	if err != nil {
		return ""
	}
	return owners[pid]
}

func (w *world) configure() error {
	set := w.newReminder()
	c := &history.Call{Op: history.OpWriteConfig, Client: w.newClient(), Set: set}
	a := w.worker("setup").send(0, c, http.MethodPost, "config", map[string]any{
		"client_id": c.Client, "client_secret": secret, "rotation_reminder": set,
		"base_url": w.fuuffy.baseURL(), "ca_cert": w.fuuffy.caCert(), "request_timeout": requestTimeout.String(),
		"token_expiry_buffer": expiryBuffer.String(), "token_refresh_window": expiryBuffer.String(),
	}, "")
	if a.outcome != history.OK {
		return fmt.Errorf("configure the engine: %s", a.problem)
	}
	return nil
}

// run lets everyone work and everything fail, then ends the faults, and returns the
// history once everyone was served again.
func (w *world) run(ctx context.Context, length time.Duration) (*history.History, error) {
	nodeSchedule := schedule(stream(w.seed, "nodes"), nodeFaults, length, time.Second, 6*time.Second)
	fuuffySchedule := schedule(stream(w.seed, "fuuffy"), fuuffyFaults, length, time.Second, 7*time.Second)

	working, stop := context.WithCancel(ctx)
	defer stop()
	raging, calm := context.WithTimeout(ctx, length)
	defer calm()
	var workers, faults sync.WaitGroup
	w.work(working, &workers, trades)
	faults.Go(func() { w.rage(raging, nodeSchedule) })
	faults.Go(func() { w.rage(raging, fuuffySchedule) })
	faults.Wait()
	pause(raging, length) // The schedule may be over before its time.
	stop()
	workers.Wait()

	if err := w.settle(ctx); err != nil {
		return nil, err
	}
	logs := map[string]string{}
	for i, node := range w.cluster.Nodes {
		logs[nodeName(i)] = node.LogFile
	}
	return w.record.finish(logs)
}

const (
	// quietTime is how long everything is watched after the faults, and longer than
	// anything may still be under way.
	quietTime = 10 * time.Second
	// outageTime is how long Fuuffy fails for the last time: longer than the waits that an
	// engine would leave out, beside the pauses within one flight.
	outageTime = 15 * time.Second
)

// settle sees to it that the current credentials work, and then only reads. In the end
// Fuuffy fails once more, with no one there to end the engine's wait.
func (w *world) settle(ctx context.Context) error {
	if _, err := w.cluster.Active(ctx); err != nil {
		return err
	}
	k := w.worker("last operator")
	if err := w.replaceDeadCredentials(ctx, k); err != nil {
		return err
	}
	w.record.mark(&w.record.h.Healed)
	w.awaitService(ctx, k)
	w.record.mark(&w.record.h.Quiet)
	w.watch(ctx, quietTime)

	w.record.mark(&w.record.h.Outage)
	w.fuuffy.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusServiceUnavailable})
	k.deleteToken(ctx)
	w.watch(ctx, outageTime)
	w.fuuffy.ClearFault()
	w.record.mark(&w.record.h.Over)
	w.awaitService(ctx, k)
	return nil
}

// replaceDeadCredentials cries emergency if Fuuffy no longer knows the current ones.
func (w *world) replaceDeadCredentials(ctx context.Context, k *worker) error {
	return stack.Eventually(ctx, "credentials that work", func() error {
		a := k.do(&history.Call{Op: history.OpReadRotation}, http.MethodGet, "rotate-root", nil, "")
		if a.outcome != history.OK {
			return errors.New(a.problem)
		}
		if !w.fuuffy.works(a.text("client_id")) {
			k.cryEmergency()
			return errors.New("the current credentials are revoked")
		}
		return nil
	})
}

// awaitService waits until each node serves a token, but not for ever: the judge says
// whether that took too long.
func (w *world) awaitService(ctx context.Context, k *worker) {
	ctx, cancel := context.WithTimeout(ctx, 2*w.record.h.ServedWithin())
	defer cancel()
	for node := range w.cluster.Nodes {
		for ctx.Err() == nil && k.send(node, &history.Call{Op: history.OpRead}, http.MethodGet, "token", nil, "").outcome != history.OK {
			pause(ctx, 200*time.Millisecond)
		}
	}
}

// watch has readers read for a while, and no one else do anything.
func (w *world) watch(ctx context.Context, length time.Duration) {
	ctx, over := context.WithTimeout(ctx, length)
	defer over()
	var readers sync.WaitGroup
	w.work(ctx, &readers, []trade{trades[0], {"late observer", 1, 400 * time.Millisecond, (*worker).observe}})
	readers.Wait()
}

func (w *world) close() {
	w.network.close()
	if w.fuuffy != nil {
		w.fuuffy.close()
	}
}
