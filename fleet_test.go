// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

// fleet is a number of Vault Agents. Each reads the token and comes back after
// ttl + 1 s, for a virtual day. They are not goroutines but numbers in an agenda: of
// an Agent between two reads, only the moment of the next one matters.
type fleet struct {
	m *mount
	// readers are the Agents by the min_ttl that they read with.
	readers []readers
	// reads has the reads of each second.
	reads []int
	// waited counts the reads that took any time at all.
	waited int
	// leastLife is what a token had left when its Agent came back.
	leastLife time.Duration
}

// readers are Agents that read alike.
type readers struct {
	agents int
	minTTL time.Duration
	// agenda has how many of them read in each moment of the day.
	agenda []int
}

const (
	fleetDay = 24 * time.Hour
	// fleetStep is how exactly the agenda knows the time.
	fleetStep = 50 * time.Millisecond
	// fleetStart is the time that a fleet takes to start. It is a peak of its own, which
	// the engine can't flatten.
	fleetStart = 10 * time.Minute
)

func newFleet(t *testing.T, readers []readers, random *rand.Rand) *fleet {
	m := newConfiguredMount(t)
	m.read() // The first one waits, for there is no token yet.
	// From now on a read that waits for Fuuffy is known by the time it takes.
	m.sandbox.SetFault(slowAnswer)
	f := &fleet{
		m:         m,
		readers:   readers,
		reads:     make([]int, fleetDay/time.Second),
		leastLife: time.Hour,
	}
	for i := range readers {
		readers[i].agenda = make([]int, fleetDay/fleetStep)
		for range readers[i].agents {
			readers[i].agenda[random.IntN(int(fleetStart/fleetStep))]++
		}
	}
	return f
}

// run lets the day pass.
func (f *fleet) run(t *testing.T) {
	start := time.Now()
	for moment := range int(fleetDay / fleetStep) {
		at := time.Duration(moment) * fleetStep
		if at%time.Minute == 0 {
			time.Sleep(at - time.Since(start))
			f.m.tick()
		}
		for i := range f.readers {
			some := &f.readers[i]
			if some.agenda[moment] > 0 {
				time.Sleep(at - time.Since(start))
			}
			for range some.agenda[moment] {
				asked := time.Now()
				r := f.read(t, some.minTTL)
				now := time.Now()
				f.reads[at/time.Second]++
				if now.After(asked) {
					f.waited++
				}
				back := r.TTL + time.Second
				f.leastLife = min(f.leastLife, r.Token.ExpiresAt.Sub(now.Add(back)))
				if next := moment + int((back+now.Sub(asked))/fleetStep); next < len(some.agenda) {
					some.agenda[next]++
				}
			}
		}
	}
}

// read does what the path does, without the answer around it.
func (f *fleet) read(t *testing.T, minTTL time.Duration) tokencache.Reading {
	if r, ok := f.m.b.cache.Warm(minTTL); ok {
		return r
	}
	r, err := f.m.b.cache.Read(t.Context(), f.m.b.load(f.m.storage), minTTL)
	require.NoError(t, err)
	return r
}

// peak returns the most reads in a second once the fleet has settled.
func (f *fleet) peak() int {
	peak := 0
	for _, reads := range f.reads[time.Hour/time.Second:] {
		peak = max(peak, reads)
	}
	return peak
}

func (f *fleet) total() int {
	total := 0
	for _, reads := range f.reads {
		total += reads
	}
	return total
}

// TestFleet prints the table of docs/apps.md: fleets of Vault Agents for 24 virtual
// hours, with the ttl as the engine spreads it and with a plain one, the same for
// all: the time until the token is certainly replaced; and one of which some run jobs
// that need a token for 25 minutes.
func TestFleet(t *testing.T) {
	rows := []struct {
		name   string
		agents int
		// jobs are those of the agents that need 25 minutes.
		jobs int
		// mostReads is the peak that is still well.
		mostReads    int
		mostRequests int
	}{
		// A fleet comes back over 225 s, and chance adds to that.
		{"spread", 1_000, 0, 25, 30},
		{"spread", 10_000, 0, 90, 30},
		{"spread", 100_000, 0, 650, 30},
		{"plain", 100_000, 0, 100_000, 30},
		{"jobs", 1_000, 50, 25, 58},
	}
	documented := documentedFleets(t)
	table := "\n| agents | ttl | reads in 24 h | peak reads a second | reads that waited for Fuuffy | token requests | least life left |\n|---|---|---|---|---|---|---|\n"
	for _, row := range rows {
		t.Run(fmt.Sprintf("%d agents, %s ttl", row.agents, row.name), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(1, uint64(row.agents))) // So that the figures are the same each time.
				f := newFleet(t, []readers{{agents: row.agents - row.jobs}, {agents: row.jobs, minTTL: 25 * time.Minute}}, random)
				f.m.b.random = random.Float64
				if row.name == "plain" {
					f.m.b.random = func() float64 { return 0 }
				}
				f.run(t)

				table += fmt.Sprintf("| %d | %s | %d | %d | %d | %d | %s |\n",
					row.agents, row.name, f.total(), f.peak(), f.waited, f.m.requests(), f.leastLife.Truncate(time.Second))
				assert.LessOrEqual(t, f.peak(), row.mostReads, "reads in a second")
				said := documented[fmt.Sprint(row.agents, row.name)]
				assert.Equal(t, said.reads, f.total(), "reads in docs/apps.md")
				assert.Equal(t, said.peak, f.peak(), "peak in docs/apps.md")
				assert.Equal(t, said.requests, f.m.requests(), "token requests in docs/apps.md")
				assert.LessOrEqual(t, f.m.requests(), row.mostRequests, "token requests")
				if row.jobs == 0 {
					assert.Zero(t, f.waited, "reads that waited")
				}
				assert.GreaterOrEqual(t, f.leastLife, 5*time.Minute)
				assert.GreaterOrEqual(t, f.total(), 24*row.agents, "the Agents came back")
			})
		})
	}
	t.Log(table)
}

// documentedFleet is a row of the table in docs/apps.md.
type documentedFleet struct{ reads, peak, requests int }

func documentedFleets(t *testing.T) map[string]documentedFleet {
	t.Helper()
	page, err := os.ReadFile("docs/apps.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(page), "<!-- fleet -->")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "<!-- /fleet -->")
	fleets := map[string]documentedFleet{}
	for line := range strings.Lines(table) {
		var agents, waited int
		var ttl string
		var f documentedFleet
		if n, _ := fmt.Sscanf(line, "| %d | %s | %d | %d | %d | %d |", &agents, &ttl, &f.reads, &f.peak, &waited, &f.requests); n == 6 {
			fleets[fmt.Sprint(agents, ttl)] = f
		}
	}
	return fleets
}
