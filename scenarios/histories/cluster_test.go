// SPDX-License-Identifier: MPL-2.0

package histories

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	fuuffy "github.com/fuuffy/vault-plugin-secrets-fuuffy"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// Nodes: the active node and the standby of the primary cluster, which swap roles, and the active
// node of a performance secondary.
const (
	firstNode     = "A"
	secondNode    = "B"
	secondaryNode = "C"
)

// node is one Vault server.
type node struct {
	name    string
	storage logical.Storage
	// changing is held by who stops or starts the node.
	changing chan struct{}

	// world.mu guards what follows.
	standby bool
	// ahead is how much its wall clock is fast.
	ahead time.Duration
	// running is the process, nil while the node is down.
	running *process
	// up is closed when the node runs again.
	up chan struct{}
	// starts counts its processes.
	starts int
}

// process is one run of the plugin.
type process struct {
	node    string
	number  int
	b       logical.Backend
	storage *slowStorage
	// random decides what happens to what the engine does on its own. Guarded by world.mu.
	random *rand.Rand
	// calls has a place for each call under way.
	calls chan struct{}
}

func (p *process) place() history.Place { return history.Place{Node: p.node, Process: p.number} }

// maxCalls is how many calls a process serves at once.
const maxCalls = 64

// addNodes makes the cluster of a history: an active node, mostly with a standby that serves
// reads from the same storage, and in some histories the active node of a performance secondary,
// which has the primary's config and a token of its own.
func (w *world) addNodes(random *rand.Rand) {
	w.nodes = []*node{{name: firstNode, storage: w.shared}}
	kind := random.IntN(6)
	if kind >= 2 {
		w.nodes = append(w.nodes, &node{name: secondNode, storage: w.shared, standby: true})
	}
	if kind == 1 || kind >= 4 {
		w.nodes = append(w.nodes, &node{name: secondaryNode, storage: mounttest.LocalToken{Storage: w.shared, Local: &logical.InmemStorage{}}})
	}
	skewed := chance(random, 0.4)
	for _, n := range w.nodes {
		n.changing, n.up = make(chan struct{}, 1), make(chan struct{})
		if skewed {
			n.ahead = upTo(random, 2*history.MaxAhead) - history.MaxAhead
			w.h.Clocks = append(w.h.Clocks, &history.Clock{Node: n.name, Ahead: n.ahead})
		}
	}
}

// setClockRight corrects the wall clock of a node. Its monotonic clock goes on as it was.
func (w *world) setClockRight(n *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n.ahead != 0 {
		n.ahead = 0
		w.h.Clocks = append(w.h.Clocks, &history.Clock{At: w.nowLocked(), Node: n.name})
	}
}

// active is the active node of the primary cluster.
func (w *world) active() *node {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.nodes[0].standby {
		return w.nodes[1]
	}
	return w.nodes[0]
}

// hasStandby tells whether the cluster can elect another active node.
func (w *world) hasStandby() bool { return len(w.nodes) > 1 && w.nodes[1].name == secondNode }

func (w *world) nodeNamed(name string) *node {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *node) bool { return n.name == name })]
}

// runningNumberLocked is which process of a node runs, 0 for none.
func (w *world) runningNumberLocked(name string) int {
	if p := w.nodeNamed(name).running; p != nil {
		return p.number
	}
	return 0
}

func (w *world) runningOn(n *node) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return n.running
}

// enter waits for the process of a node, while that is down.
func (w *world) enter(n *node) *process {
	for {
		w.mu.Lock()
		p, up := n.running, n.up
		w.mu.Unlock()
		if p == nil {
			<-up
			continue
		}
		p.calls <- struct{}{}
		if w.runningOn(n) == p {
			return p
		}
		<-p.calls
	}
}

// roleOf is what Vault tells the plugin of a node, and the keys that its storage takes from it.
func roleOf(name string, standby bool) (state consts.ReplicationState, readOnly func(key string) bool) {
	switch {
	case name == secondaryNode:
		return consts.ReplicationPerformanceSecondary, func(key string) bool { return key == history.ConfigKey }
	case standby:
		return consts.ReplicationPerformanceStandby, func(string) bool { return true }
	}
	return 0, nil
}

// start runs the plugin on a node. Requests may come before it is initialized.
func (w *world) start(n *node) error {
	w.mu.Lock()
	n.starts++
	number, standby := n.starts, n.standby
	w.mu.Unlock()
	p := &process{node: n.name, number: number, random: w.stream("process "+n.name, number), calls: make(chan struct{}, maxCalls)}
	system := logical.TestSystemView()
	p.storage = &slowStorage{Storage: n.storage, fate: w.storageFate(p), begin: w.observeStorage(n, p)}
	system.ReplicationStateVal, p.storage.readOnly = roleOf(n.name, standby)
	b, err := fuuffy.New(fuuffy.Dependencies{
		Clock: func() (time.Time, time.Duration) { return w.slowClock(n, p) },
		Random: func() float64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return p.random.Float64()
		},
		Transport: func(string) (http.RoundTripper, error) { return w.transport(n, p), nil },
	})(context.Background(), &logical.BackendConfig{
		StorageView: p.storage, System: system, EventsSender: slowEvents{}, Logger: slowLogger{hclog.NewNullLogger()},
	})
	if err != nil {
		return err
	}
	p.b = b
	w.mu.Lock()
	n.running = p
	close(n.up)
	s := &history.Start{Span: history.Open(w.nowLocked()), Place: p.place(), Standby: standby}
	w.h.Started = append(w.h.Started, s)
	w.mu.Unlock()
	// Vault has no limit for a start: this one ends a history with a start that hangs.
	ctx, cancel := context.WithTimeout(context.Background(), history.CallTime)
	defer cancel()
	ctx = context.WithValue(ctx, callerKey{}, &caller{random: w.stream("initialize "+n.name, number)})
	err = p.b.Initialize(ctx, &logical.InitializationRequest{Storage: p.storage})
	w.mu.Lock()
	defer w.mu.Unlock()
	s.End = w.nowLocked()
	return err
}

// stop ends the process of a node. One that is killed has no effect any more; otherwise Vault waits
// for the calls under way.
func (w *world) stop(n *node, kill bool) {
	w.mu.Lock()
	p := n.running
	n.running, n.up = nil, make(chan struct{})
	if kill {
		p.storage.dead.Store(true)
		w.behindLocked(func() { p.b.Cleanup(context.Background()) })
	}
	w.mu.Unlock()
	if kill {
		return
	}
	for range maxCalls {
		p.calls <- struct{}{}
	}
	begin := w.now()
	p.b.Cleanup(context.Background())
	w.mu.Lock()
	w.h.Cleaned = append(w.h.Cleaned, &history.Cleanup{Span: history.Span{Begin: begin, End: w.nowLocked()}, Place: p.place()})
	w.mu.Unlock()
	p.storage.dead.Store(true)
	for range maxCalls {
		<-p.calls
	}
}

// restart ends the process of a node and starts another.
func (w *world) restart(n *node, kill bool) error {
	n.changing <- struct{}{}
	defer func() { <-n.changing }()
	w.stop(n, kill)
	return w.start(n)
}

// elect makes the standby the active node. The old one steps down, or dies and comes back after a
// while. Vault cleans the plugin of both up and starts it anew in its new role.
func (w *world) elect(dies bool, down time.Duration) error {
	for _, n := range w.nodes[:2] {
		n.changing <- struct{}{}
		defer func() { <-n.changing }()
	}
	old := w.active()
	next := w.nodes[0]
	if next == old {
		next = w.nodes[1]
	}
	w.stop(old, dies)
	w.stop(next, false)
	w.mu.Lock()
	old.standby, next.standby = true, false
	w.mu.Unlock()
	if err := w.start(next); err != nil {
		return err
	}
	if dies {
		time.Sleep(down)
	}
	return w.start(old)
}

// slowClock returns the time, and sometimes keeps the goroutine that asked for a while:
// much can happen between two statements.
func (w *world) slowClock(n *node, p *process) (wall time.Time, monotonic time.Duration) {
	wall, monotonic = mounttest.SystemClock()
	w.mu.Lock()
	wall = wall.Add(n.ahead)
	wait := max(0, upTo(p.random, 10*history.ClockTime)-9*history.ClockTime)
	w.mu.Unlock()
	time.Sleep(wait)
	return wall, monotonic
}
