// SPDX-License-Identifier: MPL-2.0

package histories

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
)

// world is what one history happens in: the nodes, their storage, Fuuffy, and who
// records it all.
type world struct {
	seed    uint64
	began   time.Time
	sandbox *fuuffytest.Sandbox
	shared  *logical.InmemStorage
	// nodes are the active node and the standby, if there is one, in the order of their names, and
	// then the secondary.
	nodes []*node
	life  time.Duration
	// rounds are when everybody acts, and weather what Fuuffy does meanwhile.
	rounds  []time.Duration
	weather []weather

	// How often things fail, or storage hangs, from 0 to 1. They are calm once the history is over.
	storageFaults, saveFaults, storageHangs, fuuffyFaults float64
	calm                                                  bool
	// staleIfError is how often a write sets it. buffer is the token_expiry_buffer that writes set,
	// 0 for none.
	staleIfError float64
	buffer       time.Duration
	// unattended is set where no operator does anything: then Fuuffy and storage decide what happens.
	unattended bool
	// tastes multiply the weights of works.
	tastes []int

	// mu guards what follows. Nobody waits while holding it.
	mu       sync.Mutex
	seq      int
	h        history.History
	inFlight map[*history.Request]context.Context
	names    map[string]string // the tokens' names in the records
	values   map[string]string // and the other way around
	served   []string          // the tokens that were served, the last one last
	clients  []pair
	reminder int
	config   *history.Entry // what is stored
	behind   int            // what happens in the background
}

// pair is credentials that exist at Fuuffy, or existed.
type pair struct{ id, secret string }

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

func (w *world) now() history.Moment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nowLocked()
}

func (w *world) nowLocked() history.Moment {
	w.seq++
	return history.Moment{Seq: w.seq, At: time.Since(w.began)}
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
		time.Sleep(10 * time.Millisecond)
		w.mu.Lock()
		busy = w.behind > 0
		w.mu.Unlock()
	}
}

// close ends all processes.
func (w *world) close() {
	w.catchUp()
	for _, n := range w.nodes {
		n.running.b.Cleanup(context.Background())
	}
}

// slowLogger takes time, so that a log line under a lock stops the virtual clock.
type slowLogger struct{ hclog.Logger }

const logTime = time.Millisecond

func (slowLogger) Info(string, ...any) { time.Sleep(logTime) }

func (slowLogger) Warn(string, ...any) { time.Sleep(logTime) }

func (slowLogger) Error(string, ...any) { time.Sleep(logTime) }

func (l slowLogger) Named(string) hclog.Logger { return l }

func (l slowLogger) With(args ...any) hclog.Logger { return l }

// slowEvents takes time for the same reason.
type slowEvents struct{}

// SendEvent is part of logical.EventSender.
func (slowEvents) SendEvent(context.Context, logical.EventType, *logical.EventData) error {
	time.Sleep(logTime)
	return nil
}
