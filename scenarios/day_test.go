// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// day is what readers that follow ttl as Vault Agent does saw in a day.
type day struct {
	mu         sync.Mutex
	reads      int
	waited     int           // reads that took longer than none at all
	jobsWaited int           // the same, of those with a demand
	leastLife  time.Duration // of a token at the moment its reader came back
	bySecond   map[int64]int // reads by second
	unanswered int
}

// TestDay runs an engine for 24 virtual hours with a thousand readers that sleep
// ttl + 1 s, as Vault Agent and consul-template do, and Vault's tick each minute; and
// again with 50 of them that need a token for jobs of 25 minutes.
// The floor is 27 requests: tokens are served for 55 minutes. With the jobs a token may
// be replaced twice in its life.
func TestDay(t *testing.T) {
	const readers = 1000
	for _, tt := range []struct {
		name               string
		jobs, mostRequests int
	}{
		{"no jobs", 0, 30},
		{"50 with jobs of 25 minutes", 50, 58},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Read() // The first one waits, for there is no token yet.
				// From now on a reader that waits for Fuuffy is known by the time it takes.
				m.Sandbox.SetFault(mounttest.SlowAnswer)

				d := &day{leastLife: time.Hour, bySecond: map[int64]int{}}
				end := time.Now().Add(24 * time.Hour)
				var wg sync.WaitGroup
				for i := range readers {
					var demand map[string]any
					if i < tt.jobs {
						demand = mounttest.Pairs("min_ttl", "25m")
					}
					wg.Go(func() { d.follow(m, end, demand) })
				}
				for time.Now().Before(end) {
					time.Sleep(time.Minute)
					m.Tick()
				}
				wg.Wait()

				peak := 0
				for _, reads := range d.bySecond {
					peak = max(peak, reads)
				}
				t.Logf("24 h, %d readers, %s: %d token requests, %d reads, at most %d in a second, %d waited for Fuuffy and %d for jobs, least life of a token in use %s",
					readers, tt.name, m.Requests(), d.reads, peak, d.waited, d.jobsWaited, d.leastLife)
				assert.LessOrEqual(t, m.Requests(), tt.mostRequests, "token requests")
				assert.GreaterOrEqual(t, m.Requests(), 27, "token requests: fewer can't cover the day")
				assert.Zero(t, d.waited, "reads that waited, besides those for jobs")
				assert.Zero(t, d.unanswered, "reads without a token")
				// Readers are told expires_at without the fraction of its second.
				assert.Greater(t, d.leastLife, 5*time.Minute-time.Second)
				assert.GreaterOrEqual(t, d.reads, readers*24, "the readers came back")
			})
		})
	}
}

// follow reads with a demand until end, and checks each token when it is about to be replaced.
func (d *day) follow(m *mounttest.Mount, end time.Time, demand map[string]any) {
	time.Sleep(time.Duration(rand.Int64N(int64(time.Minute))))
	for time.Now().Before(end) {
		asked := time.Now()
		resp, err := m.Handle(m.T.Context(), logical.ReadOperation, "token", demand)
		waited := time.Since(asked) > 0
		d.mu.Lock()
		d.reads++
		d.bySecond[asked.Unix()]++
		switch {
		case !waited:
		case demand == nil:
			d.waited++
		default:
			d.jobsWaited++
		}
		if err != nil || resp.IsError() {
			d.unanswered++
			d.mu.Unlock()
			return
		}
		d.mu.Unlock()

		expires, err := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
		assert.NoError(m.T, err)
		time.Sleep(time.Duration(resp.Data["ttl"].(int64)+1) * time.Second)
		d.mu.Lock()
		d.leastLife = min(d.leastLife, time.Until(expires))
		d.mu.Unlock()
	}
}
