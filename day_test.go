// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
)

// day is what readers that follow ttl as Vault Agent does saw in a day.
type day struct {
	mu         sync.Mutex
	reads      int
	waited     int           // reads that took longer than none at all
	leastLife  time.Duration // of a token at the moment its reader came back
	bySecond   map[int64]int // reads by second
	unanswered int
}

// TestDay runs an engine for 24 virtual hours with a thousand readers that sleep
// ttl + 1 s, as Vault Agent and consul-template do, and Vault's tick each minute.
// The floor is 27 requests: tokens are served for 55 minutes.
func TestDay(t *testing.T) {
	const readers = 1000
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.read() // The first one waits, for there is no token yet.
		// From now on a reader that waits for Fuuffy is known by the time it takes.
		m.sandbox.SetFault(slowAnswer)

		d := &day{leastLife: time.Hour, bySecond: map[int64]int{}}
		end := time.Now().Add(24 * time.Hour)
		var wg sync.WaitGroup
		for range readers {
			wg.Go(func() { d.follow(m, end) })
		}
		for time.Now().Before(end) {
			time.Sleep(time.Minute)
			m.tick()
		}
		wg.Wait()

		peak := 0
		for _, reads := range d.bySecond {
			peak = max(peak, reads)
		}
		t.Logf("24 h, %d readers: %d token requests, %d reads, at most %d in a second, %d waited for Fuuffy, least life of a token in use %s",
			readers, m.requests(), d.reads, peak, d.waited, d.leastLife)
		assert.LessOrEqual(t, m.requests(), 30, "token requests")
		assert.GreaterOrEqual(t, m.requests(), 27, "token requests: fewer can't cover the day")
		assert.Zero(t, d.waited, "reads that waited")
		assert.Zero(t, d.unanswered, "reads without a token")
		assert.GreaterOrEqual(t, d.leastLife, 5*time.Minute)
		assert.GreaterOrEqual(t, d.reads, readers*24, "the readers came back")
	})
}

// follow reads until end, and checks each token when it is about to be replaced.
func (d *day) follow(m *mount, end time.Time) {
	time.Sleep(time.Duration(rand.Int64N(int64(time.Minute))))
	for time.Now().Before(end) {
		asked := time.Now()
		resp, err := m.handle(m.t.Context(), logical.ReadOperation, "token", nil)
		waited := time.Since(asked) > 0
		d.mu.Lock()
		d.reads++
		d.bySecond[asked.Unix()]++
		if waited {
			d.waited++
		}
		if err != nil || resp.IsError() {
			d.unanswered++
			d.mu.Unlock()
			return
		}
		d.mu.Unlock()

		expires, err := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
		assert.NoError(m.t, err)
		time.Sleep(time.Duration(resp.Data["ttl"].(int64)+1) * time.Second)
		d.mu.Lock()
		d.leastLife = min(d.leastLife, time.Until(expires))
		d.mu.Unlock()
	}
}
