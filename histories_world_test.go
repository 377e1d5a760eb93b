// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

// world is what one history happens in: the nodes, their storage, Fuuffy, and who
// records it all.
type world struct {
	seed    uint64
	began   time.Time
	sandbox *fuuffytest.Sandbox
	shared  *logical.InmemStorage
	nodes   []*node
	life    time.Duration

	// How often things fail, from 0 to 1. They are calm once the history is over.
	storageFaults, fuuffyFaults float64
	calm                        bool
	// tastes multiply the weights of works.
	tastes []int

	// mu guards what follows. Nobody waits while holding it.
	mu       sync.Mutex
	seq      int
	h        history
	inFlight map[*requestRecord]context.Context
	names    map[string]string // the tokens' names in the records
	values   map[string]string // and the other way around
	served   []string          // the tokens that were served, the last one last
	clients  []pair
	reminder int
	config   *storedConfig // what is stored
	behind   int           // what happens in the background
}

// pair is credentials that exist at Fuuffy, or existed.
type pair struct{ id, secret string }

// node is one Vault server.
type node struct {
	name    string
	system  *logical.StaticSystemView
	storage logical.Storage
	// readOnly picks the keys that are another node's to write.
	readOnly func(key string) bool
	// hears picks the keys whose changes on the active node reach this one as an Invalidate.
	hears func(key string) bool
	// running is the process. Guarded by world.mu.
	running *process
	// restarting is held by who restarts the node.
	restarting chan struct{}
}

// process is one run of the plugin.
type process struct {
	number  int
	b       *backend
	storage *slowStorage
	// random decides what happens to what the engine does on its own. Guarded by world.mu.
	random *rand.Rand
	// calls has a place for each call under way.
	calls chan struct{}
}

// maxCalls is how many calls a process serves at once.
const maxCalls = 64

// caller marks the context of a call, so that what it causes is told from what the
// engine does on its own.
type caller struct {
	// clients are the random sources of its requests to Fuuffy, by client.
	clients map[string]*rand.Rand
	call    int
	random  *rand.Rand
	// guarded is set where the engine survives a panic.
	guarded bool
}

type callerKey struct{}

func (w *world) now() moment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nowLocked()
}

func (w *world) nowLocked() moment {
	w.seq++
	return moment{w.seq, time.Since(w.began)}
}

// stream returns a random source of its own for each use, so that the order in which
// goroutines run does not change what they draw.
func (w *world) stream(use string, n int) *rand.Rand {
	sum := w.seed*0x9E3779B97F4A7C15 + uint64(n)
	for _, c := range use {
		sum = (sum ^ uint64(c)) * 0x100000001B3
	}
	return rand.New(rand.NewPCG(w.seed, sum))
}

// draw uses the random source of whoever a context belongs to.
func (w *world) draw(ctx context.Context, p *process, use func(r *rand.Rand, own, guarded bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		use(c.random, false, c.guarded)
		return
	}
	use(p.random, true, true)
}

// drawFor is draw for a request to Fuuffy with a client's credentials. One call may send requests
// with several clients side by side, so that each client has a random source of its own.
func (w *world) drawFor(ctx context.Context, client string, p *process, use func(r *rand.Rand, own, guarded bool)) {
	c, ok := ctx.Value(callerKey{}).(*caller)
	if !ok {
		w.draw(ctx, p, use)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.clients == nil {
		c.clients = map[string]*rand.Rand{}
	}
	if c.clients[client] == nil {
		c.clients[client] = w.stream("requests of "+client, c.call)
	}
	use(c.clients[client], false, c.guarded)
}

func chance(r *rand.Rand, p float64) bool { return r.Float64() < p }

func upTo(r *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(most)))
}

// start runs the plugin on a node. Requests may come before it is initialized.
func (w *world) start(n *node, number int) error {
	p := &process{number: number, random: w.stream("process "+n.name, number), calls: make(chan struct{}, maxCalls)}
	p.storage = &slowStorage{Storage: n.storage, readOnly: n.readOnly, fate: w.storageFate(p), begin: w.observeStorage(n, p)}
	raw, err := Factory(context.Background(), &logical.BackendConfig{
		StorageView: p.storage, System: n.system, EventsSender: slowEvents{}, Logger: slowLogger{hclog.NewNullLogger()},
	})
	if err != nil {
		return err
	}
	p.b = raw.(*backend)
	p.b.newTransport = func(string) (http.RoundTripper, error) { return w.transport(n, p), nil }
	p.b.random = func() float64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return p.random.Float64()
	}
	p.b.clock = func() tokencache.Instant { return w.slowClock(p) }
	w.mu.Lock()
	n.running = p
	w.mu.Unlock()
	ctx := context.WithValue(context.Background(), callerKey{}, &caller{random: w.stream("initialize "+n.name, number)})
	return p.b.Initialize(ctx, &logical.InitializationRequest{Storage: p.storage})
}

// clockTime is the most that looking at the clock takes.
const clockTime = 50 * time.Millisecond

// slowClock returns the time, and sometimes keeps the goroutine that asked for a while:
// much can happen between two statements.
func (w *world) slowClock(p *process) tokencache.Instant {
	now := tokencache.SystemClock()
	w.mu.Lock()
	wait := max(0, upTo(p.random, 10*clockTime)-9*clockTime)
	w.mu.Unlock()
	time.Sleep(wait)
	return now
}

func (w *world) runningOn(n *node) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return n.running
}

// restart ends the process of a node and starts another. A process that was killed has
// no effect any more; otherwise Vault waits for the calls under way.
func (w *world) restart(n *node, kill bool) error {
	n.restarting <- struct{}{}
	defer func() { <-n.restarting }()
	p := w.runningOn(n)
	if kill {
		p.storage.dead.Store(true)
		w.mu.Lock()
		w.behindLocked(func() { p.b.Cleanup(context.Background()) })
		w.mu.Unlock()
	} else {
		for range maxCalls {
			p.calls <- struct{}{}
		}
		begin := w.now()
		p.b.Cleanup(context.Background())
		w.mu.Lock()
		w.h.cleaned = append(w.h.cleaned, &cleanup{span{begin, w.nowLocked()}, n.name, p.number})
		w.mu.Unlock()
		p.storage.dead.Store(true)
	}
	err := w.start(n, p.number+1)
	if !kill {
		for range maxCalls {
			<-p.calls
		}
	}
	return err
}

// behindLocked does something in the background.
func (w *world) behindLocked(do func()) {
	w.behind++
	go func() {
		do()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.behind--
	}()
}

// catchUp waits for what happens in the background.
func (w *world) catchUp() {
	for busy := true; busy; {
		time.Sleep(time.Millisecond)
		w.mu.Lock()
		busy = w.behind > 0
		w.mu.Unlock()
	}
}

// stop ends all processes.
func (w *world) stop() {
	w.catchUp()
	for _, n := range w.nodes {
		n.running.b.Cleanup(context.Background())
	}
}

// slowLogger takes time, so that a log line under a lock stops the virtual clock.
type slowLogger struct{ hclog.Logger }

const logTime = time.Millisecond

func (slowLogger) Info(string, ...any)             { time.Sleep(logTime) }
func (slowLogger) Warn(string, ...any)             { time.Sleep(logTime) }
func (slowLogger) Error(string, ...any)            { time.Sleep(logTime) }
func (l slowLogger) Named(string) hclog.Logger     { return l }
func (l slowLogger) With(args ...any) hclog.Logger { return l }

// slowEvents takes time for the same reason.
type slowEvents struct{}

// SendEvent is part of logical.EventSender.
func (slowEvents) SendEvent(context.Context, logical.EventType, *logical.EventData) error {
	time.Sleep(logTime)
	return nil
}

func system(state consts.ReplicationState) *logical.StaticSystemView {
	s := logical.TestSystemView()
	s.ReplicationStateVal = state
	return s
}
