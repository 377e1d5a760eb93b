// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
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
func readLog(c *history.Cluster, node, file string, killed []history.Moment) error {
	log, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer log.Close()
	end := func(m history.Moment) {
		if n := len(c.Terms); n > 0 && c.Terms[n-1].Node == node && c.Terms[n-1].End == history.Never {
			c.Terms[n-1].End = m
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
		m := history.Moment{At: written.Sub(c.Began)}
		for len(killed) > 0 && killed[0].At < m.At {
			end(killed[0])
			killed = killed[1:]
		}
		switch {
		case strings.Contains(line, becameActive):
			end(m)
			c.Terms, leaves = append(c.Terms, &history.Term{Node: node, Span: history.Open(m)}), false
		case leaves && strings.Contains(line, torndown), saysOneOf(line, failsToBecomeActive):
			end(m)
		case saysOneOf(line, leavesActive):
			leaves = true
		case strings.Contains(line, unsavedToken):
			c.Unsaved = append(c.Unsaved, m)
		}
	}
	for _, m := range killed {
		end(m)
	}
	return lines.Err()
}
