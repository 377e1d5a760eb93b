// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// recorder writes the history.
type recorder struct {
	mu sync.Mutex
	h  history
	// names are those of the tokens in the history.
	names map[string]string
	// served is the token that someone got last.
	served string
	killed map[int][]moment
}

func newRecorder(seed uint64, length, life time.Duration) *recorder {
	return &recorder{names: map[string]string{}, h: history{Seed: seed, For: length, Life: life, Began: time.Now()}}
}

func (r *recorder) now() moment { return time.Since(r.h.Began) }

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

// begin records that an operation is on its way.
func (r *recorder) begin(o *operation, reported string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o.ID = len(r.h.Operations) + 1
	o.Reported = r.nameLocked(reported)
	o.Begin, o.End, o.Outcome = r.now(), never, unknown
	r.h.Operations = append(r.h.Operations, o)
}

// end records what became of an operation.
func (r *recorder) end(o *operation, a *answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o.End = r.now()
	o.Outcome, o.Status, o.Error = a.outcome, a.status, a.problem
	if a.outcome != ended {
		for token, name := range r.names {
			o.Error = strings.ReplaceAll(o.Error, token, name)
		}
		return
	}
	o.Unchanged = a.unchanged()
	switch o.Kind {
	case opRead, opReport:
		r.served = a.text("access_token")
		o.Token = r.nameLocked(r.served)
	case opReadConfig:
		o.Seen = &seen{Reminder: a.number("rotation_reminder"), Current: a.text("client_id")}
	case opSettings, opCredentials, opDelete:
	default:
		o.Seen = &seen{
			Current: a.text("client_id"), Staged: a.text("staged_client_id"), Previous: a.text("previous_client_id"),
			Compromised: a.data["compromised"] == true, Steps: strings.Split(a.text("history"), "\n"),
		}
	}
}

// request records that a token request arrived at Fuuffy.
func (r *recorder) request(asked *request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Requests = append(r.h.Requests, asked)
}

// answer records what Fuuffy answered.
func (r *recorder) answer(asked *request, status int, token string, life time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked.End, asked.Status, asked.Token = r.now(), status, r.nameLocked(token)
	if token != "" {
		asked.Expires = asked.End + life
	}
}

// fault records a disturbance, and returns what ends it.
func (r *recorder) fault(kind string, node int) (over func(error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := &disturbance{Kind: kind, Node: node, Begin: r.now(), End: never}
	r.h.Faults = append(r.h.Faults, d)
	return func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		d.End = r.now()
		if err != nil {
			d.Error = err.Error()
		}
	}
}

// latest is what someone last saw of the rotation, nil for nothing yet.
func (r *recorder) latest() *seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.h.Operations) - 1; i >= 0; i-- {
		if s := r.h.Operations[i].Seen; s != nil && s.Steps != nil {
			return s
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
func (r *recorder) mark(note func(h *history, now moment)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	note(&r.h, r.now())
}
