// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Lines of Vault's log, and one of the engine's. A standby of OpenBao that becomes active
// ends its life as a standby first, with the same line as an active node its own.
const (
	becameActive = "acquired lock, enabling active operation"
	torndown     = "pre-seal teardown complete"
	unsavedToken = "could not save the access token"
)

var (
	leavesActive = []string{"stepping down from active operation", "leadership lost, stopping active operation", "marked as sealed"}
	// failsToBecomeActive is for a node that won the election and couldn't start, for
	// example because its disk is full.
	failsToBecomeActive = []string{"error performing key upgrades", "cluster setup failed", "leader advertisement setup failed", "post-unseal setup failed"}
)

// logTime is how Vault writes the time of a log line.
const logTime = "2006-01-02T15:04:05.000Z0700"

// readLog learns from the log of a node when it took itself for the active one, and
// when it could not save a token.
func (h *history) readLog(node int, file string, killed []moment) error {
	log, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer log.Close()
	end := func(m moment) {
		if n := len(h.Terms); n > 0 && h.Terms[n-1].Node == node && h.Terms[n-1].End == never {
			h.Terms[n-1].End = m
		}
	}
	saysOneOf := func(line string, texts []string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) })
	}
	leaves := false
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		stamp, _, _ := strings.Cut(line, " ")
		written, err := time.Parse(logTime, stamp)
		if err != nil {
			continue
		}
		m := written.Sub(h.Began)
		for len(killed) > 0 && killed[0] < m {
			end(killed[0])
			killed = killed[1:]
		}
		switch {
		case strings.Contains(line, becameActive):
			end(m)
			h.Terms, leaves = append(h.Terms, term{node, m, never}), false
		case leaves && strings.Contains(line, torndown), saysOneOf(line, failsToBecomeActive):
			end(m)
		case saysOneOf(line, leavesActive):
			leaves = true
		case strings.Contains(line, unsavedToken):
			h.Unsaved = append(h.Unsaved, m)
		}
	}
	for _, m := range killed {
		end(m)
	}
	return lines.Err()
}

// logDelay is how much later than it happened something may be in the log.
const logDelay = 50 * time.Millisecond

// splits are the times in which a node took itself for the active one although another
// had taken over. It may serve what was true before.
func (h *history) splits() (splits [][2]moment) {
	for _, old := range h.Terms {
		for _, later := range h.Terms {
			if later.Node != old.Node && old.Begin < later.Begin && later.Begin < old.End {
				splits = append(splits, [2]moment{later.Begin - logDelay, old.End})
			}
		}
	}
	return splits
}

// standbyLag is how long a standby that no one disturbs may take to learn of a change, and
// to catch up after a fault. It takes a tenth of a second, but this machine may be busy.
const standbyLag = 5 * time.Second

// asOf is the earliest moment that a read may tell of. It is its begin, unless a node may
// have answered that was deposed and did not know, or a standby.
func (h *history) asOf(o *operation) moment {
	from := o.Begin
	for _, split := range h.splitTimes {
		if split[0] < o.End && o.Begin < split[1] {
			from = min(from, split[0])
		}
	}
	if !h.StandbysRead || !o.reads() {
		return from
	}
	from -= standbyLag
	for _, f := range slices.Backward(h.Faults) {
		if f.Node >= 0 && f.Begin < o.End && from < f.End {
			from = min(from, f.Begin-standbyLag)
		}
	}
	return from
}

// ended notes when a node was killed, or ended by itself.
func (r *recorder) ended(node int, when time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.killed == nil {
		r.killed = map[int][]moment{}
	}
	r.killed[node] = append(r.killed[node], when.Sub(r.h.Began))
}

// finish completes the history with what the logs say.
func (r *recorder) finish(logs []string) (*history, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.End = r.now()
	for node, file := range logs {
		if err := r.h.readLog(node, file, r.killed[node]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(r.h.Terms, func(a, b term) int { return int(a.Begin - b.Begin) })
	slices.Sort(r.h.Unsaved)
	return &r.h, nil
}
