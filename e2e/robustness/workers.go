// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
)

const (
	mount  = "fuuffy"
	secret = "right-secret"
)

// worker is a client who does one thing after the other.
type worker struct {
	name    string
	world   *world
	random  *rand.Rand
	clients []*client
}

// trade is a kind of worker: how many there are, how long each pauses between two
// operations at most, and what it does.
type trade struct {
	name   string
	number int
	pause  time.Duration
	work   func(*worker, context.Context)
}

var trades = []trade{
	{"reader", 5, 200 * time.Millisecond, (*worker).read},
	{"job", 2, 600 * time.Millisecond, (*worker).readForAJob},
	{"app", 3, 500 * time.Millisecond, (*worker).use},
	{"liar", 1, 3 * time.Second, (*worker).lie},
	{"deleter", 1, 4 * time.Second, (*worker).deleteToken},
	{"writer", 2, 1500 * time.Millisecond, (*worker).write},
	{"operator", 2, 2 * time.Second, (*worker).operate},
	{"observer", 2, 400 * time.Millisecond, (*worker).observe},
}

// stream is a random source for one use, which depends on nothing but the seed.
func stream(seed uint64, use string) *rand.Rand {
	sum := seed * 0x9E3779B97F4A7C15
	for _, c := range use {
		sum = (sum ^ uint64(c)) * 0x100000001B3
	}
	return rand.New(rand.NewPCG(seed, sum))
}

func chance(r *rand.Rand, p float64) bool { return r.Float64() < p }

// between is a random time.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)+1))
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// work starts the workers of some trades. They end with ctx.
func (w *world) work(ctx context.Context, all *sync.WaitGroup, trades []trade) {
	for _, t := range trades {
		for i := range t.number {
			k := w.worker(fmt.Sprintf("%s %d", t.name, i+1))
			all.Go(func() {
				for ctx.Err() == nil {
					t.work(k, ctx)
					pause(ctx, between(k.random, t.pause/10, t.pause))
				}
			})
		}
	}
}

func (w *world) worker(name string) *worker {
	k := &worker{name: name, world: w, random: stream(w.seed, name)}
	for _, node := range w.cluster.Nodes {
		k.clients = append(k.clients, newClient(node.Address, node.Client.Token()))
	}
	return k
}

// do sends a request to a node chosen at random and records it. An operation that was
// begun is waited for, even if the worker is about to go.
func (k *worker) do(c *history.Call, method, path string, data map[string]any, reported string) *answer {
	return k.send(k.random.IntN(len(k.clients)), c, method, path, data, reported)
}

// send sends a request to a node.
func (k *worker) send(node int, c *history.Call, method, path string, data map[string]any, reported string) *answer {
	c.Worker, c.Asked = k.name, nodeName(node)
	k.world.record.begin(c, reported)
	a := k.clients[node].send(context.Background(), method, mount+"/"+path, data)
	k.world.record.end(c, a)
	return a
}

func (k *worker) read(context.Context) {
	k.do(&history.Call{Op: history.OpRead}, http.MethodGet, "token", nil, "")
}

// readForAJob reads a token that lives for longer than just any, for up to half of its life.
func (k *worker) readForAJob(context.Context) {
	seconds := 1 + k.random.IntN(int(k.world.life.Seconds())/2)
	k.do(&history.Call{Op: history.OpRead, MinTTL: time.Duration(seconds) * time.Second},
		http.MethodGet, fmt.Sprintf("token?min_ttl=%d", seconds), nil, "")
}

// use is an app: it reads a token, and reports it if Fuuffy refuses it.
func (k *worker) use(context.Context) {
	a := k.do(&history.Call{Op: history.OpRead}, http.MethodGet, "token", nil, "")
	if token := a.text("access_token"); token != "" && !k.world.fuuffy.TokenAlive(token) {
		k.report(token)
	}
}

// lie reports a token that Fuuffy never refused, or that never was.
func (k *worker) lie(context.Context) {
	if chance(k.random, 0.4) {
		k.report(fmt.Sprintf("sk-invented-%d", k.random.Uint32()))
		return
	}
	if token := k.do(&history.Call{Op: history.OpRead}, http.MethodGet, "token", nil, "").text("access_token"); token != "" {
		k.report(token)
	}
}

func (k *worker) report(token string) {
	k.do(&history.Call{Op: history.OpReport}, http.MethodPost, "token", map[string]any{"rejected_token": token}, token)
}

func (k *worker) deleteToken(context.Context) {
	k.do(&history.Call{Op: history.OpDeleteToken}, http.MethodDelete, "token", nil, "")
}

// write writes a setting, or sometimes other credentials.
func (k *worker) write(context.Context) {
	set := k.world.newReminder()
	c, data := &history.Call{Op: history.OpWriteConfig, Set: set}, map[string]any{"rotation_reminder": set}
	if chance(k.random, 0.1) {
		verify := chance(k.random, 0.8)
		c.Client, c.Unproved = k.world.newClient(), !verify
		data["client_id"], data["client_secret"], data["verify_connection"] = c.Client, secret, verify
	}
	k.do(c, http.MethodPost, "config", data, "")
}

// observe looks where the configuration and the rotation stand.
func (k *worker) observe(context.Context) {
	if chance(k.random, 0.4) {
		k.do(&history.Call{Op: history.OpReadConfig}, http.MethodGet, "config", nil, "")
		return
	}
	k.do(&history.Call{Op: history.OpReadRotation}, http.MethodGet, "rotate-root", nil, "")
}

// operate takes the step of the rotation that makes sense as things were last seen, and
// sometimes one that makes none.
func (k *worker) operate(context.Context) {
	last := k.world.record.latest()
	if last == nil {
		k.observe(context.Background())
		return
	}
	dead := !k.world.fuuffy.works(last.Current)
	switch {
	case dead || chance(k.random, 0.06):
		k.cryEmergency()
	case chance(k.random, 0.1):
		[]func(){k.stage, k.promote, k.rollback, k.discard, func() { k.complete(last.Previous) }}[k.random.IntN(5)]()
	case last.Staged != "":
		if chance(k.random, 0.75) {
			k.promote()
		} else {
			k.discard()
		}
	case last.Previous != "":
		switch {
		case !last.Compromised && chance(k.random, 0.4):
			k.rollback()
		case chance(k.random, 0.2):
			k.stageOver(last.Previous)
		default:
			k.complete(last.Previous)
		}
	default:
		k.stage()
	}
}

func (k *worker) stage() { k.pair(history.OpStage, k.world.newClient(), false) }

// stageOver stages the next credentials before the last rotation is completed. The engine
// completes that one first if Fuuffy proves that its previous client is revoked.
func (k *worker) stageOver(previous string) {
	if chance(k.random, 0.8) {
		k.world.fuuffy.RevokeClient(previous)
	}
	k.stage()
}

// cryEmergency replaces credentials that are revoked or compromised, in any state.
func (k *worker) cryEmergency() { k.pair(history.OpCompromised, k.world.newClient(), true) }

func (k *worker) pair(op, client string, compromised bool) *answer {
	data := map[string]any{"client_id": client, "client_secret": secret, "compromised": compromised}
	return k.do(&history.Call{Op: op, Client: client}, http.MethodPost, "rotate-root", data, "")
}

func (k *worker) promote() {
	k.do(&history.Call{Op: history.OpPromote}, http.MethodPost, "rotate-root/promote", nil, "")
}

func (k *worker) rollback() {
	k.do(&history.Call{Op: history.OpRollback}, http.MethodPost, "rotate-root/rollback", nil, "")
}

func (k *worker) discard() {
	k.do(&history.Call{Op: history.OpDiscard}, http.MethodDelete, "rotate-root", nil, "")
}

// complete mostly revokes the old client first, as the workflow wants it.
func (k *worker) complete(previous string) {
	if chance(k.random, 0.8) {
		k.world.fuuffy.RevokeClient(previous)
	}
	force := chance(k.random, 0.3)
	data := map[string]any{"force": force}
	k.do(&history.Call{Op: history.OpComplete, Unproved: force}, http.MethodPost, "rotate-root/complete", data, "")
}

// counters give out what must not come twice.
type counters struct {
	reminders, clientNumbers atomic.Int64
}

func (w *world) newReminder() int { return int(w.reminders.Add(1)) }

// newClient creates a client at Fuuffy, as in its dashboard.
func (w *world) newClient() string {
	id := fmt.Sprintf("C%d", w.clientNumbers.Add(1))
	w.fuuffy.CreateClient(id, secret)
	return id
}
