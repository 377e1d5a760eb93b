// SPDX-License-Identifier: MPL-2.0

// Package robustness disturbs a real cluster at random, and records what every client saw, for
// internal/history to judge. Jepsen and the robustness tests of etcd do the same.
package robustness

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
)

// recorder writes the history.
type recorder struct {
	mu sync.Mutex
	h  history.History
	// seq is that of the last moment.
	seq int
	// names are those of the tokens in the history.
	names map[string]string
	// served is the token that someone got last.
	served string
	killed map[string][]history.Moment
}

func newRecorder(seed uint64, of *history.Cluster) *recorder {
	of.Began = time.Now()
	return &recorder{names: map[string]string{}, killed: map[string][]history.Moment{}, h: history.History{Seed: seed, Cluster: of}}
}

func (r *recorder) nowLocked() history.Moment {
	r.seq++
	return history.Moment{Seq: r.seq, At: time.Since(r.h.Began)}
}

// nameLocked is a token's name in the history.
func (r *recorder) nameLocked(token string) string {
	if token == "" {
		return ""
	}
	name, ok := r.names[token]
	if !ok {
		name = fmt.Sprintf("T%d", len(r.names)+1)
		r.names[token] = name
	}
	return name
}

// begin records that a call is on its way.
func (r *recorder) begin(c *history.Call, reported string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.ID = len(r.h.Calls) + 1
	c.Reported = r.nameLocked(reported)
	c.Span, c.Outcome = history.Open(r.nowLocked()), history.Unknown
	r.h.Calls = append(r.h.Calls, c)
}

// end records what became of a call.
func (r *recorder) end(c *history.Call, a *answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.End = r.nowLocked()
	c.Outcome, c.Status, c.Error = a.outcome, a.status, a.problem
	if !c.OK() {
		for token, name := range r.names {
			c.Error = strings.ReplaceAll(c.Error, token, name)
		}
		return
	}
	c.Heed(a.warnings)
	switch c.Op {
	case history.OpRead, history.OpReport:
		r.served = a.text("access_token")
		c.Token = r.nameLocked(r.served)
	case history.OpReadConfig:
		c.Seen = &history.Seen{Reminder: a.number("rotation_reminder"), Current: a.text("client_id")}
	case history.OpWriteConfig, history.OpDeleteToken:
	default:
		c.Seen = &history.Seen{
			State: a.text("state"), Current: a.text("client_id"), Staged: a.text("staged_client_id"), Previous: a.text("previous_client_id"),
			Compromised: a.data["compromised"] == true, Steps: strings.Split(a.text("history"), "\n"),
		}
	}
}

// request records that a token request arrived at Fuuffy.
func (r *recorder) request(client string) *history.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := &history.Request{Span: history.Open(r.nowLocked()), Client: client}
	r.h.Requests = append(r.h.Requests, asked)
	return asked
}

// answer records what Fuuffy answered.
func (r *recorder) answer(asked *history.Request, outcome, token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked.End, asked.Outcome, asked.Token = r.nowLocked(), outcome, r.nameLocked(token)
	if token != "" {
		asked.Life, asked.Expires = r.h.Life, asked.End.At+r.h.Life
	}
}

// fault records a disturbance of a node, empty for none, and returns what ends it.
func (r *recorder) fault(kind, node string) (over func(error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &history.Fault{Kind: kind, Node: node, Span: history.Open(r.nowLocked())}
	r.h.Faults = append(r.h.Faults, f)
	return func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		f.End = r.nowLocked()
		if err != nil {
			f.Error = err.Error()
		}
	}
}

// latest is what someone last saw of the rotation, nil for nothing yet.
func (r *recorder) latest() *history.Seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range slices.Backward(r.h.Calls) {
		if c.Seen != nil && c.Seen.State != "" {
			return c.Seen
		}
	}
	return nil
}

// lastServed is the token that someone got last, empty for none yet.
func (r *recorder) lastServed() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.served
}

// mark notes a moment of the history.
func (r *recorder) mark(m *history.Moment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*m = r.nowLocked()
}

// ended notes when a node was killed, or ended by itself.
func (r *recorder) ended(node string, when time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.killed[node] = append(r.killed[node], history.Moment{At: when.Sub(r.h.Began)})
}

// finish completes the history with what the logs of the nodes say.
func (r *recorder) finish(logs map[string]string) (*history.History, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.End = r.nowLocked()
	for node, file := range logs {
		if err := readLog(r.h.Cluster, node, file, r.killed[node]); err != nil {
			return nil, err
		}
	}
	return &r.h, nil
}
