// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
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
	call   int
	random *rand.Rand
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
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		use(c.random, false, c.guarded)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	use(p.random, true, true)
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

// storageFate decides what happens to the storage operations of a process.
func (w *world) storageFate(p *process) func(context.Context, string, string) storageFate {
	return func(ctx context.Context, operation, key string) (f storageFate) {
		w.draw(ctx, p, func(r *rand.Rand, own, guarded bool) {
			f.before, f.after = delay(r), delay(r)
			kinds := []string{failsBefore, failsAfter}
			// The engine promises to survive a panic over the token in a flight.
			if own && key == tokenKey {
				kinds = append(kinds, panicsBefore, panicsAfter)
			}
			if fails := kinds[r.IntN(len(kinds))]; chance(r, w.storageFaults) {
				f.fails = fails
			}
			if w.calm {
				f = storageFate{before: 10 * time.Millisecond, after: 10 * time.Millisecond}
			}
		})
		return f
	}
}

// delay is mostly short, and now and then longer than the engine is willing to wait.
func delay(r *rand.Rand) time.Duration {
	switch n := r.IntN(100); {
	case n < 15:
		return 0
	case n < 60:
		return upTo(r, 50*time.Millisecond)
	case n < 94:
		return upTo(r, 400*time.Millisecond)
	case n < 99:
		return upTo(r, 3*time.Second)
	}
	return upTo(r, 20*time.Second)
}

// storageObservation notes a put, a delete, or that a call reads the config.
type storageObservation struct {
	w      *world
	record *storageRecord
}

func (w *world) observeStorage(n *node, p *process) func(context.Context, string, *logical.StorageEntry) storageObserver {
	return func(ctx context.Context, operation string, entry *logical.StorageEntry) storageObserver {
		s := &storageRecord{node: n.name, process: p.number, operation: operation, key: entry.Key, applied: never}
		if c, ok := ctx.Value(callerKey{}).(*caller); ok {
			s.call = c.call
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		s.begin = w.nowLocked()
		s.end = never
		if operation == "put" && entry.Key == tokenKey {
			var t storedToken
			_ = json.Unmarshal(entry.Value, &t) // Damaged entries have no name, and break rules.
			s.token = w.names[t.Value]
		}
		if operation == "put" && entry.Key == configKey {
			s.config = &storedConfig{}
			_ = json.Unmarshal(entry.Value, s.config)
		}
		if operation != "get" || entry.Key == configKey && s.call != 0 {
			w.h.stored = append(w.h.stored, s)
		}
		return storageObservation{w, s}
	}
}

func (o storageObservation) effect(act func() error) error {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	if err := act(); err != nil {
		return err
	}
	o.record.applied = o.w.nowLocked()
	if o.record.operation == "get" {
		return nil
	}
	if o.record.key == configKey {
		o.w.config = o.record.config
	}
	if o.record.node == activeNode {
		o.w.tellLocked(o.record)
	}
	return nil
}

func (o storageObservation) end(err error) {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	o.record.end = o.w.nowLocked()
	o.record.failed = err != nil
}

// tellLocked sends the Invalidate of a change to the nodes that hear of it.
func (w *world) tellLocked(s *storageRecord) {
	for _, n := range w.nodes {
		if !n.hears(s.key) {
			continue
		}
		wait := delay(w.stream("tell "+n.name, s.applied.seq))
		w.behindLocked(func() {
			time.Sleep(wait)
			begin := w.now()
			w.runningOn(n).b.InvalidateKey(context.Background(), s.key)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.h.told = append(w.h.told, &invalidation{span{begin, w.nowLocked()}, n.name, s.key, s.applied})
		})
	}
}

// transport connects a process to Fuuffy.
func (w *world) transport(n *node, p *process) http.RoundTripper {
	next := w.sandbox.RoundTripper()
	return roundTripFunc(func(r *http.Request) (*http.Response, error) {
		if err := r.Context().Err(); err != nil {
			return nil, err // As net/http does: nothing is sent.
		}
		a := w.arrive(r, n, p)
		defer w.leave(a)
		var before, after time.Duration
		var fault string
		w.draw(r.Context(), p, func(random *rand.Rand, own, _ bool) {
			before, after = upTo(random, 900*time.Millisecond), upTo(random, 900*time.Millisecond)
			kinds := []string{"503", "limited", "rejected", "garbage", "hang", "lost"}
			if own {
				kinds = append(kinds, "panic") // The engine promises to survive one in a flight.
			}
			kind := kinds[random.IntN(len(kinds))]
			a.retryAfter = time.Duration(1+random.IntN(20)) * time.Second
			if chance(random, w.fuuffyFaults) && !w.calm {
				fault = kind
			}
		})
		if err := pause(r.Context(), before); err != nil {
			return nil, err
		}
		resp, err := w.answer(next, r, a, fault)
		if err != nil {
			return nil, err
		}
		if err := pause(r.Context(), after); err != nil {
			return nil, err
		}
		return resp, nil
	})
}

// arrive notes a token request, and how many of flights are under way beside it.
func (w *world) arrive(r *http.Request, n *node, p *process) *requestRecord {
	a := &requestRecord{node: n.name, process: p.number}
	if c, ok := r.Context().Value(callerKey{}).(*caller); ok {
		a.call = c.call
	}
	body, _ := r.GetBody()
	text, _ := io.ReadAll(body)
	form, _ := url.ParseQuery(string(text))
	a.client = form.Get("client_id")
	w.mu.Lock()
	defer w.mu.Unlock()
	a.begin, a.end, a.outcome = w.nowLocked(), never, "nothing"
	for b, ctx := range w.inFlight {
		if a.call == 0 && b.call == 0 && b.node == a.node && b.process == a.process && ctx.Err() == nil {
			a.beside++
		}
	}
	w.inFlight[a] = r.Context()
	w.h.asked = append(w.h.asked, a)
	return a
}

func (w *world) leave(a *requestRecord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a.end = w.nowLocked()
	delete(w.inFlight, a)
}

// answer is the sandbox's, unless there is a fault.
func (w *world) answer(next http.RoundTripper, r *http.Request, a *requestRecord, fault string) (*http.Response, error) {
	invalid := `{"error": {"code": "invalid_client", "message": "Client authentication failed"}}`
	outcome := func(is string) { w.mu.Lock(); a.outcome = is; w.mu.Unlock() }
	outcome(fault)
	switch fault {
	case "503":
		return made(r, http.StatusServiceUnavailable, "", nil), nil
	case "limited":
		return made(r, http.StatusTooManyRequests, "", map[string]string{"Retry-After": strconv.Itoa(int(a.retryAfter / time.Second))}), nil
	case "rejected":
		return made(r, http.StatusUnauthorized, invalid, nil), nil
	case "garbage":
		return made(r, http.StatusOK, "<html>", nil), nil
	case "hang":
		<-r.Context().Done()
		return nil, r.Context().Err()
	case "panic":
		panic("the transport panics")
	}
	resp, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		outcome("rejected")
		return made(r, resp.StatusCode, string(body), nil), nil
	}
	w.grant(a, body)
	if fault == "lost" {
		return nil, errors.New("connection lost")
	}
	return made(r, resp.StatusCode, string(body), nil), nil
}

// grant names the token that Fuuffy granted.
func (w *world) grant(a *requestRecord, body []byte) {
	var granted struct {
		Data struct {
			AccessToken string `json:"access_token"`
		} `json:"data"`
	}
	_ = json.Unmarshal(body, &granted)
	w.mu.Lock()
	defer w.mu.Unlock()
	name := fmt.Sprintf("T%d", len(w.names)+1)
	w.names[granted.Data.AccessToken], w.values[name] = name, granted.Data.AccessToken
	a.token, a.expires = name, time.Since(w.began)+w.life
	if a.outcome == "" {
		a.outcome = "granted"
	}
}

func made(r *http.Request, status int, body string, header map[string]string) *http.Response {
	resp := &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: int64(len(body)),
		Body: io.NopCloser(bytes.NewReader([]byte(body))),
	}
	for name, value := range header {
		resp.Header.Set(name, value)
	}
	return resp
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
