// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// spinWatch ends whoever looks at the clock again and again while it stands still.
type spinWatch struct {
	t     *testing.T
	mu    sync.Mutex
	at    time.Duration
	calls int
	most  int
}

// mostLooks is how often a few readers together may look at the clock at one moment.
const mostLooks = 1000

func (w *spinWatch) watch(m *mounttest.Mount) {
	synctest.Wait()
	clock := m.Clock
	m.Clock = func() (time.Time, time.Duration) {
		wall, now := clock()
		w.mu.Lock()
		defer w.mu.Unlock()
		if now != w.at {
			w.at, w.calls = now, 0
		}
		w.calls++
		w.most = max(w.most, w.calls)
		if w.calls > mostLooks {
			w.t.Errorf("somebody spins")
			runtime.Goexit()
		}
		return wall, now
	}
}

func (w *spinWatch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = 0
}

// Whatever storage and Fuuffy do, a request asks them a bounded number of times, and never spins.
func TestNoReaderSpins(t *testing.T) {
	t.Parallel()
	const seeds, steps = 150, 60
	mostLooksMet, mostCalls, mostRequests := 0, 0, 0
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 7))
				pick := func(n int) bool { return r.IntN(n) == 0 }
				w := &spinWatch{t: t}
				m := mounttest.New(t)
				repeats := pick(2)
				m.Sandbox.SetRepeat(repeats)
				lives := []time.Duration{20 * time.Second, time.Minute, 10 * time.Minute, time.Hour}
				m.Sandbox.SetTokenLifetime(lives[r.IntN(4)])
				w.watch(m)
				m.Configure("verify_connection", false, "stale_if_error", pick(2), "request_timeout", 5)
				storage := m.UseFaultyStorage()
				standby := seed%3 == 0 // Every other request goes there.
				known := []string{"another-token"}
				var other *mounttest.Mount
				if standby {
					other = m.Follower()
					w.watch(other)
				}
				for step := range steps {
					what := ""
					note := func(format string, args ...any) { what += fmt.Sprintf(format, args...) + "; " }
					for _, call := range []string{"get", "put", "delete"} {
						if !pick(4) {
							continue
						}
						switch r.IntN(6) {
						case 0:
							storage.Set(call, mounttest.TokenKey, mounttest.Fails)
							note("%s fails", call)
						case 1:
							storage.Set(call, mounttest.TokenKey, mounttest.Slowly(time.Duration(r.IntN(4000))*time.Millisecond))
							note("%s slow", call)
						case 2:
							storage.Set(call, mounttest.TokenKey, mounttest.FailsAfterwards)
							note("%s failsAfterwards", call)
						case 3:
							storage.Hang(call, mounttest.TokenKey, 1+r.IntN(3), pick(2))
							note("%s hangs", call)
						default:
							storage.Set(call, mounttest.TokenKey, nil)
							storage.Hang(call, mounttest.TokenKey, 0, false)
							note("%s ok", call)
						}
					}
					if pick(3) {
						faults := []fuuffytest.Fault{mounttest.FaultUnavailable, mounttest.FaultMalformed, mounttest.FaultRejected, mounttest.FaultRateLimited, mounttest.FaultHang, {Kind: fuuffytest.FaultDelay, Delay: 2 * time.Second}}
						if n := r.IntN(9); n < len(faults) {
							m.Sandbox.SetFault(faults[n])
							note("fault %d", n)
						} else {
							m.Sandbox.ClearFault()
							note("no fault")
						}
					}
					if pick(6) {
						m.Sandbox.SetTokenLifetime(lives[r.IntN(4)])
					}
					if pick(8) {
						m.Sandbox.SetRepeat(pick(2))
					}
					if pick(12) {
						m.Restart()
						w.watch(m)
						note("restart")
					}
					if pick(10) {
						m.Backend.InvalidateKey(t.Context(), []string{mounttest.ConfigKey, mounttest.TokenKey}[r.IntN(2)])
						if standby {
							other.Backend.InvalidateKey(t.Context(), []string{mounttest.ConfigKey, mounttest.TokenKey}[r.IntN(2)])
						}
						note("invalidate")
					}
					operations, requests := m.Storage.Count(), m.Requests()
					began := time.Now()
					w.reset()
					var all sync.WaitGroup
					n := 1 + r.IntN(3)
					tokens := make([]string, n)
					for i := range n {
						operation, path, data := logical.Operation(logical.ReadOperation), mounttest.TokenKey, mounttest.Pairs()
						switch r.IntN(9) {
						case 0:
							data = mounttest.Pairs("min_ttl", []string{"5s", "25s", "4m", "20m"}[r.IntN(4)])
						case 1, 2, 3:
							operation = logical.UpdateOperation
							data = mounttest.Pairs("rejected_token", known[max(0, len(known)-1-r.IntN(3))])
						case 4:
							operation = logical.UpdateOperation
						case 5:
							if pick(3) {
								operation = logical.DeleteOperation
							}
						case 6:
							if pick(2) {
								operation, path = logical.UpdateOperation, "rotate-root/check"
							}
						case 7:
							if pick(3) {
								operation, path, data = logical.UpdateOperation, "config", mounttest.Pairs("rotation_reminder", fmt.Sprintf("%dh", 1+r.IntN(300)))
							}
						}
						note("%s %s %d", operation, path, len(data))
						wait := time.Duration(r.IntN(3)) * time.Second
						all.Go(func() {
							time.Sleep(wait)
							ctx, cancel := context.WithTimeout(t.Context(), mounttest.Impatience)
							defer cancel()
							node := m
							if standby && i%2 == 1 && operation == logical.ReadOperation {
								node = other
							}
							resp, err := node.Handle(ctx, operation, path, data)
							if err == nil && resp != nil && !resp.IsError() {
								if token, ok := resp.Data["access_token"].(string); ok {
									tokens[i] = token
									if reported, _ := data["rejected_token"].(string); reported == token && len(resp.Warnings) == 0 {
										t.Errorf("step %d: a report is answered with its token, without a warning", step)
									}
								}
							}
						})
					}
					all.Wait()
					took := time.Since(began)
					if !assert.LessOrEqual(t, took, 62*time.Second, "step %d: %s", step, what) ||
						!assert.LessOrEqual(t, m.Storage.Count()-operations, 8*n, "storage calls of step %d in %s: %s", step, took, what) ||
						!assert.LessOrEqual(t, m.Requests()-requests, 12, "requests of step %d in %s: %s", step, took, what) || t.Failed() {
						t.Logf("step %d in %s: %s", step, took, what)
						return
					}
					mostCalls, mostRequests = max(mostCalls, (m.Storage.Count()-operations)/n), max(mostRequests, m.Requests()-requests)
					for _, token := range tokens {
						if token != "" && token != known[len(known)-1] {
							known = append(known, token)
						}
					}
					if pick(4) {
						m.Tick()
					}
					time.Sleep(time.Duration(r.ExpFloat64() * float64(lives[r.IntN(4)]) / 4))
				}
				synctest.Wait()
				mostLooksMet = max(mostLooksMet, w.most)
			})
		})
	}
	t.Logf("at one moment, up to %d looks at the clock; in one step, up to %d storage calls for each request, and %d token requests", mostLooksMet, mostCalls, mostRequests)
}
