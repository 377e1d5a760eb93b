// SPDX-License-Identifier: MPL-2.0

package histories

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

var (
	historySeed  = flag.Uint64("history-seed", 0, "run the one history of this seed (0: those from -history-first on)")
	historySeeds = flag.Int("history-seeds", 500, "how many histories to run")
	historyFails = flag.Int("history-failures", 3, "how many histories that break a rule to print before it stops")
	historyFirst = flag.Uint64("history-first", 1, "the seed of the first history")
	historyCheck = flag.String("check", "", "a history that was kept: TestHistories judges it again and runs nothing")
)

// historyTime is how much real time one history may take. It takes milliseconds,
// unless a goroutine holds a lock while it waits, which stops virtual time.
const historyTime = 30 * time.Second

// TestHistories runs several clients, operators and Vault itself against an engine whose
// storage and upstream take their time and fail, and judges what everybody saw. A seed
// decides everything but the order of what happens in the same nanosecond.
func TestHistories(t *testing.T) {
	if *historyCheck != "" {
		h, err := history.Read(*historyCheck)
		require.NoError(t, err)
		judgeHistory(t, h, *historyCheck)
		t.Log(h.Undecided())
		return
	}
	first, n := *historyFirst, *historySeeds
	if *historySeed != 0 {
		first, n = *historySeed, 1
	}
	total := tally{}
	failed := 0
	for seed := first; seed < first+uint64(n) && failed < *historyFails; seed++ {
		hung := time.AfterFunc(historyTime, func() { reportHang(seed) })
		if !t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { total.add(runHistory(t, seed)) })
		}) {
			failed++
		}
		hung.Stop()
	}
	t.Logf("histories: %d seeds; %s; %s", n, total, (&history.History{Inside: &history.Inside{}}).Undecided())
	if n >= 300 {
		for _, op := range []string{history.OpRead, history.OpReport, history.OpDeleteToken, history.OpWriteConfig, history.OpDeleteConfig, history.OpStage, history.OpCompromised, history.OpPromote, history.OpComplete, history.OpDiscard, history.OpMark, history.OpCheck, history.OpRestart, history.OpElect} {
			if total[op] == 0 && !t.Failed() {
				t.Errorf("no %s succeeded: the histories test too little", op)
			}
		}
	}
}

// reportHang ends the process: a bubble whose time stands still can't be left.
func reportHang(seed uint64) {
	fmt.Fprintf(os.Stderr, "the history of -history-seed %d hangs: a goroutine waits while it holds a lock, or for a lock\n", seed)
	_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
	os.Exit(1)
}

// tally counts the calls that succeeded.
type tally map[string]int

func (t tally) add(h *history.History) {
	for _, c := range h.Calls {
		t["calls"]++
		if c.OK() {
			t[c.Op]++
		}
	}
	t["token requests"] += len(h.Requests)
}

func (t tally) String() string {
	return fmt.Sprintf("%d calls, %d reads and %d deletes of the token, %d token requests", t["calls"], t[history.OpRead], t[history.OpDeleteToken], t["token requests"])
}

// newWorld starts the nodes of a history.
func newWorld(seed uint64) (*world, error) {
	w := &world{
		seed: seed, began: time.Now(), shared: &logical.InmemStorage{}, reminder: 1000,
		h:        history.History{Seed: seed, Inside: &history.Inside{Secondary: secondaryNode}},
		inFlight: map[*history.Request]context.Context{}, names: map[string]string{}, values: map[string]string{},
	}
	random := w.stream("world", 0)
	w.life = []time.Duration{time.Hour, 10 * time.Minute, 2 * time.Minute}[random.IntN(3)]
	if chance(random, 0.6) {
		w.storageFaults, w.fuuffyFaults = random.Float64()*0.15, random.Float64()*0.4
	}
	if chance(random, 0.3) {
		w.saveFaults = random.Float64() * 0.6
	}
	if chance(random, 0.3) {
		w.storageHangs = random.Float64() * 0.03
	}
	w.staleIfError = []float64{0.1, 0.9}[random.IntN(2)]
	w.buffer = []time.Duration{0, 0, 30 * time.Second}[random.IntN(3)]
	w.unattended = chance(random, 0.4)
	for _, some := range works {
		taste := []int{1, 1, 1, 5}[random.IntN(4)]
		if w.unattended && some.operators {
			taste = 0
		}
		w.tastes = append(w.tastes, taste)
	}
	w.makeWeather(random)
	w.sandbox = fuuffytest.New(fuuffytest.Config{PerMinute: -1, PerHour: -1, TokenLifetime: w.life})
	w.addNodes(random)
	for _, n := range w.nodes {
		if err := w.start(n); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// runHistory runs and judges the history of one seed.
func runHistory(t *testing.T, seed uint64) *history.History {
	w, err := newWorld(seed)
	if err != nil {
		t.Fatalf("-history-seed %d: %s", seed, err)
	}
	random := w.stream("rounds", 0)
	operator := &worker{w: w, name: "operator", random: w.stream("operator", 0)}
	operator.writeCredentials(w.nodes[0])

	// In each round everybody acts at about the same time. In between, tokens age.
	var workers sync.WaitGroup
	began := time.Now()
	for i := range 4 + random.IntN(3) {
		k := &worker{w: w, name: fmt.Sprintf("worker %d", i+1), random: w.stream("worker", i)}
		workers.Go(func() { k.follow(began, w.rounds) })
	}
	for i, round := range w.rounds {
		for _, name := range []string{"one", "two", "three"} {
			k := &worker{w: w, name: fmt.Sprintf("%s of round %d", name, i+1), random: w.stream("collide "+name, i)}
			workers.Go(func() { k.collide(began.Add(round)) })
		}
	}
	for _, n := range w.nodes {
		right := began.Add(upTo(random, w.rounds[len(w.rounds)-1]+time.Second))
		workers.Go(func() {
			time.Sleep(time.Until(right))
			w.setClockRight(n)
		})
	}
	workers.Wait()
	w.catchUp()
	if err := w.settle(operator); err != nil {
		t.Fatalf("-history-seed %d: %s", seed, err)
	}
	w.close()

	w.mu.Lock()
	defer w.mu.Unlock()
	judgeHistory(t, &w.h, filepath.Join("..", "..", "bin", fmt.Sprintf("history-%d.json", seed)))
	return &w.h
}

// judgeHistory judges a history, and keeps one that breaks a rule.
func judgeHistory(t *testing.T, h *history.History, file string) {
	violations := history.Judge(h)
	if len(violations) == 0 {
		return
	}
	t.Errorf("-history-seed %d breaks %s", h.Seed, h.Report(violations))
	if *historyCheck == "" {
		written, err := h.Keep(file)
		require.NoError(t, err)
		t.Logf("kept in %s. To judge it again: go test ./scenarios/histories -run TestHistories -check %s", strings.Join(written, " and "), file)
	}
}

// follow acts in each round. The first workers only read.
func (k *worker) follow(began time.Time, rounds []time.Duration) {
	reader := strings.HasSuffix(k.name, "1") || strings.HasSuffix(k.name, "2")
	for _, round := range rounds {
		time.Sleep(time.Until(began.Add(round)) + upTo(k.random, 400*time.Millisecond))
		actions := 1 + k.random.IntN(3)
		if reader {
			actions *= 3
		}
		for range actions {
			n := k.w.nodes[k.random.IntN(len(k.w.nodes))]
			if reader {
				k.read(n)
			} else {
				k.act(n)
			}
			time.Sleep(upTo(k.random, 400*time.Millisecond))
		}
	}
}

// collide changes something while others do too: each two changes meet in some history.
func (k *worker) collide(at time.Time) {
	changes := []func(*worker, *node){
		(*worker).report, (*worker).deleteToken, (*worker).writeSettings, (*worker).writeCredentials,
		(*worker).deleteConfig, (*worker).rotate, (*worker).compromise, (*worker).markRevoked, (*worker).check, (*worker).restart, (*worker).elect,
	}
	if k.w.unattended {
		changes = []func(*worker, *node){(*worker).report, (*worker).restart, (*worker).elect}
	}
	time.Sleep(time.Until(at) + 100*time.Millisecond + upTo(k.random, 300*time.Millisecond))
	changes[k.random.IntN(len(changes))](k, k.w.nodes[k.random.IntN(len(k.w.nodes))])
}

// settle lets the faults end and everything come to rest. Then the operator checks each node.
func (w *world) settle(operator *worker) error {
	w.mu.Lock()
	w.calm, w.life = true, time.Hour
	w.mu.Unlock()
	w.sandbox.SetTokenLifetime(w.life)
	time.Sleep(10 * time.Minute) // Longer than any hold-off.
	w.catchUp()
	w.mu.Lock()
	w.h.Calm = w.nowLocked()
	w.mu.Unlock()
	for _, n := range w.nodes {
		if err := w.settled(operator, n); err != nil {
			return err
		}
	}
	return nil
}

// settled makes the calls of a quiet node that history.Judge knows of.
func (w *world) settled(operator *worker, n *node) error {
	if !w.works() {
		return nil
	}
	read := func() *history.Call {
		c := operator.call(n, &history.Call{Op: history.OpRead}, request{logical.ReadOperation, callToken, nil})
		time.Sleep(history.QuietTime)
		return c
	}
	read()
	// The token may be one that could not be saved.
	operator.call(n, &history.Call{Op: history.OpDeleteToken}, request{logical.DeleteOperation, callToken, nil})
	w.catchUp()
	held := read().Token
	time.Sleep(time.Minute)
	operator.call(n, &history.Call{Op: history.OpReport, Reported: held}, request{logical.UpdateOperation, callToken, mounttest.Pairs("rejected_token", w.values[held])})
	w.catchUp()
	restart := func() error { return w.restart(n, true) }
	if w.hasStandby() && n.name != secondaryNode {
		restart = func() error { return w.elect(true, time.Second) }
	}
	if err := restart(); err != nil {
		return fmt.Errorf("start the plugin: %w", err)
	}
	read()
	return nil
}

// works tells whether Fuuffy knows the current credentials.
func (w *world) works() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.config != nil && slices.ContainsFunc(w.sandbox.Clients(), func(known fuuffytest.Client) bool {
		return known.ID == w.config.Current.Client && !known.Revoked
	})
}
