// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// faultKind is a way to disturb something. It returns once the disturbance is over.
type faultKind struct {
	name   string
	weight int
	// least and most bound how long it lasts.
	least, most time.Duration
	hits        target
	disturb     func(ctx context.Context, w *world, node int, f fault) error
}

// target is what a fault hits.
type target int

const (
	activeNode target = iota
	anyNode
	fuuffyItself
)

// fault is one of the schedule.
type fault struct {
	kind faultKind
	// after is how long after the one before.
	after, lasts time.Duration
	// node is the one to hit, unless the kind picks the active one.
	node int
	// size is a number in [0, 1) for what else is to be decided.
	size float64
}

// fullDisk is the fault that not every machine allows.
const fullDisk = "full disk"

// longestStop is how long a node is stopped at most.
const longestStop = 8 * time.Second

// nodeFaults come one after the other, so that two of three nodes are well.
var nodeFaults = []faultKind{
	{"SIGKILL of the active node", 3, time.Second / 2, 6 * time.Second, activeNode, kill},
	{"SIGKILL of a node", 1, time.Second / 2, 6 * time.Second, anyNode, kill},
	{"SIGSTOP of the active node", 3, time.Second, longestStop, activeNode, stop},
	{"SIGSTOP of a node", 1, time.Second, longestStop, anyNode, stop},
	{"SIGKILL of the plugin", 4, 0, time.Second, activeNode, killPlugin},
	{"step-down", 3, 0, time.Second, activeNode, stepDown},
	{"seal", 2, time.Second / 2, 4 * time.Second, activeNode, seal},
	{"reload of the plugin", 2, 0, time.Second, activeNode, reload},
	{"the active node cut off", 3, 2 * time.Second, 10 * time.Second, activeNode, cutOff},
	{"a node cut off", 1, 2 * time.Second, 10 * time.Second, anyNode, cutOff},
	{"slow messages of a node", 2, 2 * time.Second, 8 * time.Second, anyNode, slowDown},
	{fullDisk + " of the active node", 2, time.Second, 6 * time.Second, activeNode, fillDisk},
	{fullDisk + " of a node", 1, time.Second, 6 * time.Second, anyNode, fillDisk},
}

// fuuffyFaults come at the same time, one after the other.
var fuuffyFaults = []faultKind{
	{"slow", 2, time.Second, 6 * time.Second, fuuffyItself, answerWith(func(f fault) fuuffytest.Fault {
		return fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 100*time.Millisecond + time.Duration(f.size*float64(3*time.Second))}
	})},
	{"silent", 2, time.Second, 6 * time.Second, fuuffyItself, answerWith(func(fault) fuuffytest.Fault { return fuuffytest.Fault{Kind: fuuffytest.FaultHang} })},
	{"503", 2, time.Second, 6 * time.Second, fuuffyItself, answerWith(func(fault) fuuffytest.Fault {
		return fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 503}
	})},
	{"429", 2, time.Second, 4 * time.Second, fuuffyItself, answerWith(func(f fault) fuuffytest.Fault {
		return fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 429, Header: map[string]string{"Retry-After": strconv.Itoa(1 + int(f.size*4))}}
	})},
	{"cut answers", 2, time.Second, 6 * time.Second, fuuffyItself, answerWith(func(fault) fuuffytest.Fault { return fuuffytest.Fault{Kind: fuuffytest.FaultCut} })},
	{"refused connections", 1, time.Second, 6 * time.Second, fuuffyItself, answerWith(func(fault) fuuffytest.Fault { return fuuffytest.Fault{Kind: fuuffytest.FaultRefuse} })},
	{"garbage", 1, time.Second, 4 * time.Second, fuuffyItself, answerWith(func(fault) fuuffytest.Fault { return fuuffytest.Fault{Kind: fuuffytest.FaultGarbage} })},
	{"101", 2, time.Second, 6 * time.Second, fuuffyItself, switchProtocols},
	{"a token revoked", 4, 0, time.Second, fuuffyItself, revokeToken},
	{"the client revoked", 1, 0, time.Second, fuuffyItself, revokeClient},
}

// schedule decides, from a random source alone, what goes wrong when.
func schedule(random *rand.Rand, kinds []faultKind, length, least, most time.Duration) (faults []fault) {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for at := time.Duration(0); ; {
		f := fault{after: between(random, least, most), node: random.IntN(nodes), size: random.Float64()}
		pick := random.IntN(total)
		i := slices.IndexFunc(kinds, func(k faultKind) bool { pick -= k.weight; return pick < 0 })
		f.kind = kinds[i]
		f.lasts = between(random, f.kind.least, f.kind.most)
		if at += f.after + f.lasts; at > length {
			return faults
		}
		faults = append(faults, f)
	}
}

// rage injects the faults of a schedule until ctx ends, and then ends the last one.
func (w *world) rage(ctx context.Context, faults []fault) {
	for _, f := range faults {
		pause(ctx, f.after)
		if ctx.Err() != nil {
			return
		}
		if strings.HasPrefix(f.kind.name, fullDisk) && !w.ownDisks {
			continue
		}
		node := f.node
		switch f.kind.hits {
		case activeNode:
			if node = w.active(ctx); node < 0 {
				continue // There is none to hit at the moment.
			}
		case fuuffyItself:
			node = -1
		}
		over := w.record.fault(f.kind.name, nodeName(node))
		over(f.kind.disturb(ctx, w, node, f))
	}
}

// recovery is how long the end of a disturbance may take.
const recovery = 2 * time.Minute

func kill(ctx context.Context, w *world, node int, f fault) error {
	w.cluster.Nodes[node].Kill()
	w.record.ended(nodeName(node), time.Now())
	pause(ctx, f.lasts)
	return w.restart(node)
}

// restart starts a node on its data.
func (w *world) restart(node int) error {
	ctx, cancel := context.WithTimeout(context.Background(), recovery)
	defer cancel()
	return w.cluster.Restart(ctx, w.cluster.Nodes[node])
}

func stop(ctx context.Context, w *world, node int, f fault) error {
	v := w.cluster.Nodes[node]
	if err := v.Pause(); err != nil {
		return err
	}
	pause(ctx, f.lasts)
	return v.Resume()
}

func killPlugin(ctx context.Context, w *world, node int, _ fault) error {
	return w.cluster.Nodes[node].KillPlugin(ctx)
}

func stepDown(ctx context.Context, w *world, node int, _ fault) error {
	return w.cluster.Nodes[node].Client.Sys().StepDownWithContext(ctx)
}

func seal(ctx context.Context, w *world, node int, f fault) error {
	v := w.cluster.Nodes[node]
	if err := v.Client.Sys().SealWithContext(ctx); err != nil {
		return err // Another node became active a moment ago.
	}
	pause(ctx, f.lasts)
	unsealing, cancel := context.WithTimeout(context.Background(), recovery)
	defer cancel()
	return w.cluster.UnsealNode(unsealing, v)
}

func reload(ctx context.Context, w *world, node int, _ fault) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := w.cluster.Nodes[node].Client.Sys().ReloadPluginWithContext(ctx, &api.ReloadPluginInput{Mounts: []string{mount + "/"}})
	return err
}

func cutOff(ctx context.Context, w *world, node int, f fault) error {
	w.network.cutOff(w.cluster.Nodes[node].ClusterAddress)
	pause(ctx, f.lasts)
	w.network.heal()
	return nil
}

func slowDown(ctx context.Context, w *world, node int, f fault) error {
	w.network.slowDown(w.cluster.Nodes[node].ClusterAddress, 10*time.Millisecond+time.Duration(f.size*float64(300*time.Millisecond)))
	pause(ctx, f.lasts)
	w.network.heal()
	return nil
}

// fillDisk leaves a node no space for what it stores. Vault panics if it can't store what the
// cluster agreed on, maybe only when there is space again. Once the node has caught up, it can't
// do that any more.
func fillDisk(ctx context.Context, w *world, node int, f fault) error {
	v := w.cluster.Nodes[node]
	if err := v.FillDisk(); err != nil {
		return err
	}
	pause(ctx, f.lasts)
	if err := v.FreeDisk(); err != nil {
		return err
	}
	recovering, cancel := context.WithTimeout(context.Background(), recovery)
	defer cancel()
	err := w.cluster.CatchUp(recovering, v)
	when, ended := v.Ended()
	if !ended {
		return err
	}
	w.record.ended(nodeName(node), when)
	v.Kill() // The plugin outlives a Vault that panics.
	return w.restart(node)
}

func answerWith(what func(fault) fuuffytest.Fault) func(context.Context, *world, int, fault) error {
	return func(ctx context.Context, w *world, _ int, f fault) error {
		w.fuuffy.SetFault(what(f))
		pause(ctx, f.lasts)
		w.fuuffy.ClearFault()
		return nil
	}
}

func switchProtocols(ctx context.Context, w *world, _ int, f fault) error {
	w.fuuffy.switches.Store(true)
	pause(ctx, f.lasts)
	w.fuuffy.switches.Store(false)
	return nil
}

// revokeToken kills the token that apps were served last.
func revokeToken(_ context.Context, w *world, _ int, _ fault) error {
	token := w.record.lastServed()
	if token == "" || !w.fuuffy.RevokeToken(token) {
		return errors.New("there is none")
	}
	return nil
}

func revokeClient(_ context.Context, w *world, _ int, _ fault) error {
	last := w.record.latest()
	if last == nil || !w.fuuffy.RevokeClient(last.Current) {
		return errors.New("there is none")
	}
	return nil
}

// nodeName is a node's name in the history, empty for none.
func nodeName(node int) string {
	if node < 0 {
		return ""
	}
	return fmt.Sprint("node ", node)
}

// active returns the node that is active, -1 if none is.
func (w *world) active(ctx context.Context) int {
	for i, node := range w.cluster.Nodes {
		if isActive(ctx, node) {
			return i
		}
	}
	return -1
}

func isActive(ctx context.Context, node *stack.Vault) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answer, err := node.Client.Sys().LeaderWithContext(ctx)
	return err == nil && answer.IsSelf
}

// String is the fault as it is announced.
func (f fault) String() string {
	return fmt.Sprintf("after %.1fs: %s for %.1fs", f.after.Seconds(), f.kind.name, f.lasts.Seconds())
}
