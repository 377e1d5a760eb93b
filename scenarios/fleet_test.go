// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// fleet is a number of Vault Agents. Each reads the token and comes back after
// ttl + 1 s, for up to a virtual day. They are not goroutines but numbers in an agenda: of
// an Agent between two reads, only the moment of the next one matters.
type fleet struct {
	m *mounttest.Mount
	// began is the start of the day, and moment the next step of the agenda.
	began  time.Time
	moment int
	// readers are the Agents by the min_ttl that they read with.
	readers []readers
	// reads has the reads of each second.
	reads []int
	// waited counts the reads that took any time at all.
	waited int
	// leastLife is what a token had left when its Agent came back.
	leastLife time.Duration
	// expires is the time that the last read answered as expiresAt.
	expires   time.Time
	expiresAt string
	// onRead checks what each read returns, if it is set.
	onRead func(token string)
}

// readers are Agents that read alike.
type readers struct {
	agents int
	// data is what they read with.
	data map[string]any
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

func newFleet(t *testing.T, readers []readers, random *rand.Rand, settings ...any) *fleet {
	m := mounttest.NewConfigured(t, settings...)
	m.Random = func() float64 { return 0 }
	m.Read() // The first one waits, for there is no token yet.
	// From now on a read that waits for Fuuffy is known by the time it takes. No answer arrives in
	// the same moment as a read, so that the figures are the same each time.
	m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 2*time.Second + fleetStep/2})
	f := &fleet{
		m:         m,
		began:     time.Now(),
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

// useRandom makes the engine's random numbers the same each time. A refresh takes some beside reads.
func (f *fleet) useRandom(random *rand.Rand) {
	var mu sync.Mutex
	f.m.Random = func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return random.Float64()
	}
}

// run lets the day pass until a time of the day.
func (f *fleet) run(t *testing.T, until time.Duration) {
	for ; f.moment < int(until/fleetStep); f.moment++ {
		at := time.Duration(f.moment) * fleetStep
		if at%time.Minute == 0 {
			time.Sleep(at - time.Since(f.began))
			f.m.Tick()
			synctest.Wait()
		}
		for i := range f.readers {
			some := &f.readers[i]
			if some.agenda[f.moment] > 0 {
				time.Sleep(at - time.Since(f.began))
			}
			for range some.agenda[f.moment] {
				asked := time.Now()
				resp := f.read(t, some.data)
				if f.onRead != nil {
					f.onRead(resp["access_token"].(string))
				}
				now := time.Now()
				f.reads[at/time.Second]++
				if now.After(asked) {
					f.waited++
				}
				back := time.Duration(resp["ttl"].(int64)+1) * time.Second
				f.leastLife = min(f.leastLife, f.lifeAt(t, resp["expires_at"].(string), now.Add(back)))
				if next := f.moment + int((back+now.Sub(asked))/fleetStep); next < len(some.agenda) {
					some.agenda[next]++
				}
			}
		}
	}
}

// read reads the token. If it began a refresh, that takes its random numbers before the next read
// does.
func (f *fleet) read(t *testing.T, data map[string]any) map[string]any {
	before := f.m.System.Asked.Load()
	resp, err := f.m.Backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "token", Data: data, Storage: f.m.Storage})
	if err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	if f.m.System.Asked.Load() > before {
		synctest.Wait()
	}
	return resp.Data
}

// lifeAt is what a token has left at some time.
func (f *fleet) lifeAt(t *testing.T, expiresAt string, at time.Time) time.Duration {
	if f.expiresAt != expiresAt {
		expires, err := time.Parse(time.RFC3339, expiresAt)
		require.NoError(t, err)
		f.expiresAt, f.expires = expiresAt, expires
	}
	return f.expires.Sub(at)
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

// TestFleet prints the table of docs/evidence.md: fleets of Vault Agents for 24 virtual
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
		settings     []any
	}{
		// A fleet comes back over 225 s, and chance adds to that.
		{"spread", 1_000, 0, 25, 30, nil},
		{"spread", 10_000, 0, 90, 30, nil},
		{"spread", 100_000, 0, 650, 30, nil},
		{"plain", 100_000, 0, 100_000, 30, nil},
		{"jobs", 1_000, 50, 25, 58, nil},
		{"max_read_ttl=2m", 10_000, 0, 190, 30, []any{"max_read_ttl", "2m"}},
	}
	documented := documentedFleets(t)
	table := "\n| agents | ttl | reads in 24 h | peak reads a second | reads that waited for Fuuffy | token requests | least life left |\n|---|---|---|---|---|---|---|\n"
	for _, row := range rows {
		t.Run(fmt.Sprintf("%d agents, %s ttl", row.agents, row.name), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(1, uint64(row.agents))) // So that the figures are the same each time.
				f := newFleet(t, []readers{{agents: row.agents - row.jobs}, {agents: row.jobs, data: mounttest.Pairs("min_ttl", "25m")}}, random, row.settings...)
				f.useRandom(random)
				if row.name == "plain" {
					f.m.Random = func() float64 { return 0 }
				}
				f.run(t, fleetDay)

				table += fmt.Sprintf("| %d | %s | %d | %d | %d | %d | %s |\n",
					row.agents, row.name, f.total(), f.peak(), f.waited, f.m.Requests(), f.leastLife.Truncate(time.Second))
				assert.LessOrEqual(t, f.peak(), row.mostReads, "reads in a second")
				said := documented[fmt.Sprint(row.agents, row.name)]
				assert.Equal(t, said.reads, f.total(), "reads in docs/evidence.md")
				assert.Equal(t, said.peak, f.peak(), "peak in docs/evidence.md")
				assert.Equal(t, said.requests, f.m.Requests(), "token requests in docs/evidence.md")
				assert.LessOrEqual(t, f.m.Requests(), row.mostRequests, "token requests")
				if row.jobs == 0 {
					assert.Zero(t, f.waited, "reads that waited")
				}
				assert.Greater(t, f.leastLife, 5*time.Minute-time.Second, "expires_at has whole seconds")
				assert.GreaterOrEqual(t, f.total(), 24*row.agents, "the Agents came back")
			})
		})
	}
	t.Log(table)
}

// TestFleetWithADeadToken prints the second table of docs/evidence.md: 10,000 Agents whose apps
// can't report a 401, without max_read_ttl and with it. Fuuffy stops accepting their token at noon, and another app reports it a
// minute later.
func TestFleetWithADeadToken(t *testing.T) {
	const (
		agents = 10_000
		noon   = 12 * time.Hour
		told   = noon + time.Minute
	)
	page, err := os.ReadFile("../docs/evidence.md")
	require.NoError(t, err)
	table := "\n| max_read_ttl | half of the Agents have a new token after | all have it after |\n|---|---|---|\n"
	for _, row := range []struct {
		limit    string
		settings []any
		// allAfter is when the last Agent is sure to have it, from noon on.
		allAfter time.Duration
	}{
		{"unset", nil, 55 * time.Minute},
		{"2m", []any{"max_read_ttl", "2m"}, time.Minute + 2*time.Minute + time.Second},
	} {
		t.Run(row.limit, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(1, agents))
				f := newFleet(t, []readers{{agents: agents}}, random, row.settings...)
				f.useRandom(random)
				f.run(t, noon)
				dead := f.m.ReadToken()
				require.True(t, f.m.Sandbox.RevokeToken(dead))
				f.run(t, told)
				requests := f.m.Requests()
				require.False(t, f.m.Write("token", "rejected_token", dead).Data["access_token"] == dead)
				assert.Equal(t, requests+1, f.m.Requests(), "token requests for the report")

				// Whoever reads from now on gets the new token.
				var half, all time.Duration
				seen := 0
				for moment, readers := range f.readers[0].agenda[f.moment:] {
					if readers == 0 {
						continue
					}
					seen += readers
					all = told + time.Duration(moment)*fleetStep - noon
					if half == 0 && seen >= agents/2 {
						half = all
					}
				}
				require.Equal(t, agents, seen)
				f.onRead = func(token string) { require.False(t, token == dead) }
				f.run(t, noon+all+fleetStep)

				line := fmt.Sprintf("| %s | %s | %s |\n", row.limit, half.Truncate(time.Second), all.Truncate(time.Second))
				table += line
				assert.True(t, strings.Contains(string(page), line), "docs/evidence.md has no line %s", line)
				assert.LessOrEqual(t, all, row.allAfter)
			})
		})
	}
	t.Log(table)
}

// documentedFleet is a row of the table in docs/evidence.md.
type documentedFleet struct{ reads, peak, requests int }

func documentedFleets(t *testing.T) map[string]documentedFleet {
	t.Helper()
	page, err := os.ReadFile("../docs/evidence.md")
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
