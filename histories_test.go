// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
)

var (
	historySeed  = flag.Uint64("history-seed", 0, "run the one history of this seed (0: those from -history-first on)")
	historySeeds = flag.Int("history-seeds", 500, "how many histories to run")
	historyFails = flag.Int("history-failures", 3, "how many histories that break a rule to print before it stops")
	historyFirst = flag.Uint64("history-first", 1, "the seed of the first history")
)

// historyTime is how much real time one history may take. It takes milliseconds,
// unless a goroutine holds a lock while it waits, which stops virtual time.
const historyTime = 30 * time.Second

// TestHistories runs several clients, operators and Vault itself against an engine whose
// storage and upstream take their time and fail, and judges what everybody saw. A seed
// decides everything but the order of what happens in the same nanosecond.
func TestHistories(t *testing.T) {
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
	t.Logf("histories: %d seeds; %s", n, total)
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
	t["token requests"] += len(h.Asked)
}

func (t tally) String() string {
	return fmt.Sprintf("%d calls, %d reads and %d deletes of the token, %d token requests", t["calls"], t[history.OpRead], t[history.OpDeleteToken], t["token requests"])
}

// newWorld starts the nodes of a history.
func newWorld(seed uint64) (*world, error) {
	w := &world{seed: seed, began: time.Now(), shared: &logical.InmemStorage{}, inFlight: map[*history.Request]context.Context{}, names: map[string]string{}, values: map[string]string{}, reminder: 1000}
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
	violations := w.settle(operator)
	w.close()

	w.mu.Lock()
	defer w.mu.Unlock()
	violations = append(violations, history.Judge(&w.h)...)
	if len(violations) > 0 {
		v := violations[0]
		t.Errorf("-history-seed %d breaks %s. The first: %s\n%s", seed, rulesOf(violations), v.Text, w.h.Around(v))
	}
	return &w.h
}

// rulesOf lists the rules of violations, and how often each is broken.
func rulesOf(violations []history.Violation) string {
	broken := map[string]int{}
	var rules []string
	for _, v := range violations {
		if broken[v.Rule]++; broken[v.Rule] == 1 {
			rules = append(rules, v.Rule)
		}
	}
	for i, rule := range rules {
		rules[i] = fmt.Sprintf("%q (%d)", rule, broken[rule])
	}
	return strings.Join(rules, ", ")
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

// settle lets the faults end and everything come to rest. Then the engine must work.
func (w *world) settle(operator *worker) (violations []history.Violation) {
	w.mu.Lock()
	w.calm, w.life = true, time.Hour
	w.mu.Unlock()
	w.sandbox.SetTokenLifetime(w.life)
	time.Sleep(10 * time.Minute) // Longer than any hold-off.
	w.catchUp()
	for _, n := range w.nodes {
		violations = append(violations, w.settled(operator, n)...)
	}
	return violations
}

// settled holds a quiet node to rule 9: reads work, and a token that somebody was given
// costs one request, whatever comes after it.
func (w *world) settled(operator *worker, n *node) []history.Violation {
	if !w.works() {
		return nil
	}
	const rule = "a quiet engine works"
	read := func() (*history.Call, int) {
		before := w.asked()
		c := operator.call(n, &history.Call{Op: history.OpRead}, request{logical.ReadOperation, tokenKey, nil})
		time.Sleep(15 * time.Second) // A refresh may be under way.
		return c, w.asked() - before
	}
	first, cost := read()
	if !first.OK() || cost > 1 {
		return []history.Violation{history.Violated(rule, []history.Moment{first.Begin, first.End}, "a read ends with %s at %d token requests", first.Outcome, cost)}
	}
	// The token may be one that could not be saved.
	operator.call(n, &history.Call{Op: history.OpDeleteToken}, request{logical.DeleteOperation, tokenKey, nil})
	w.catchUp()
	second, cost := read()
	if !second.OK() || cost != 1 {
		return []history.Violation{history.Violated(rule, []history.Moment{second.Begin, second.End}, "a read after a delete ends with %s at %d token requests", second.Outcome, cost)}
	}
	time.Sleep(time.Minute)
	before := w.asked()
	replaced := operator.call(n, &history.Call{Op: history.OpReport, Reported: second.Token}, request{logical.UpdateOperation, tokenKey, pairs("rejected_token", w.values[second.Token])})
	w.catchUp()
	if !replaced.OK() || replaced.Token == second.Token || w.asked() != before+1 {
		return []history.Violation{history.Violated(rule, []history.Moment{replaced.Begin, replaced.End}, "a report of %s ends with %s and %s", second.Token, replaced.Outcome, replaced.Token)}
	}
	var err error
	if w.hasStandby() && n.name != history.SecondaryNode {
		err = w.elect(true, time.Second)
	} else {
		err = w.restart(n, true)
	}
	if err != nil {
		return []history.Violation{history.Violated(rule, []history.Moment{second.End}, "the plugin does not start")}
	}
	third, cost := read()
	if third.Token != replaced.Token || cost != 0 {
		return []history.Violation{history.Violated(rule, []history.Moment{second.Begin, third.End}, "a read after a restart ends with %s of %s in place of %s, at %d token requests", third.Outcome, third.Token, replaced.Token, cost)}
	}
	return nil
}

// works tells whether Fuuffy knows the current credentials.
func (w *world) works() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.config != nil && slices.ContainsFunc(w.sandbox.Clients(), func(known fuuffytest.Client) bool {
		return known.ID == w.config.Current.ClientID && !known.Revoked
	})
}

// asked counts the token requests so far that reached Fuuffy.
func (w *world) asked() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.h.Asked {
		if a.Outcome != outcomeNothing {
			n++
		}
	}
	return n
}
