// SPDX-License-Identifier: MPL-2.0

// Package robustness disturbs a real cluster at random, records what every client saw,
// and judges the record afterwards. Jepsen and the robustness tests of etcd do the same.
package robustness

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// moment is the time since the history began, on the monotonic clock.
type moment = time.Duration

// never is after every moment.
const never = moment(math.MaxInt64)

// The kinds of operations.
const (
	opRead        = "read token"
	opReport      = "report token"
	opDelete      = "delete token"
	opSettings    = "write settings"
	opCredentials = "write credentials"
	opReadConfig  = "read config"
	opReadSteps   = "read rotate-root"
	opStage       = "stage"
	opEmergency   = "emergency"
	opPromote     = "promote"
	opRollback    = "rollback"
	opComplete    = "complete"
	opDiscard     = "discard"
)

// The outcomes of an operation.
const (
	// ended is success.
	ended = "ok"
	// refused changed nothing: the engine said so.
	refused = "refused"
	// unsent never left the client.
	unsent = "unsent"
	// unknown may have happened, now or later, or not.
	unknown = "unknown"
)

// operation is one request to Vault as its client saw it.
type operation struct {
	ID     int    `json:"id"`
	Worker string `json:"worker"`
	Kind   string `json:"kind"`
	// Node was asked. It may have forwarded the request.
	Node    int    `json:"node"`
	Begin   moment `json:"begin"`
	End     moment `json:"end"`
	Outcome string `json:"outcome"`
	Status  int    `json:"status,omitempty"`
	Error   string `json:"error,omitempty"`

	// Tokens have names here, T1 and so on.
	Token    string        `json:"token,omitempty"`
	Reported string        `json:"reported,omitempty"`
	MinTTL   time.Duration `json:"min_ttl,omitempty"`
	// Client is the one that was written.
	Client string `json:"client,omitempty"`
	// Set is the rotation_reminder that was written, in seconds, which no other
	// operation writes.
	Set int64 `json:"set,omitempty"`
	// Unchanged is set if the engine said that there was nothing to do.
	Unchanged bool  `json:"unchanged,omitempty"`
	Seen      *seen `json:"seen,omitempty"`
}

// seen is what an operation was told of the configuration.
type seen struct {
	Reminder    int64  `json:"reminder,omitempty"`
	Current     string `json:"current"`
	Staged      string `json:"staged,omitempty"`
	Previous    string `json:"previous,omitempty"`
	Compromised bool   `json:"compromised,omitempty"`
	// Steps are the lines of rotate-root's history.
	Steps []string `json:"steps,omitempty"`
}

func (o *operation) ok() bool { return o.Outcome == ended }

func (o *operation) reads() bool {
	return o.Kind == opRead || o.Kind == opReadConfig || o.Kind == opReadSteps
}

// steps tells whether the operation may change the rotation or the credentials.
func (o *operation) steps() bool {
	switch o.Kind {
	case opCredentials, opStage, opEmergency, opPromote, opRollback, opComplete, opDiscard:
		return true
	}
	return false
}

// until is the last moment at which the operation may have had its effect.
func (o *operation) until() moment {
	if o.Outcome == unknown {
		return never
	}
	return o.End
}

// request is one token request at Fuuffy.
type request struct {
	Begin  moment `json:"begin"`
	End    moment `json:"end"`
	Client string `json:"client"`
	// Token was issued, and Expires is when it dies at the latest.
	Token   string `json:"token,omitempty"`
	Expires moment `json:"expires,omitempty"`
	Status  int    `json:"status,omitempty"`
}

// disturbance is one fault that was brought about.
type disturbance struct {
	Kind  string `json:"kind"`
	Node  int    `json:"node"` // -1: none
	Begin moment `json:"begin"`
	End   moment `json:"end"`
	Error string `json:"error,omitempty"`
}

// term is a time in which a node took itself for the active one.
type term struct {
	Node  int    `json:"node"`
	Begin moment `json:"begin"`
	End   moment `json:"end"`
}

// history is all that happened.
type history struct {
	Seed   uint64        `json:"seed"`
	For    time.Duration `json:"for"`
	Server string        `json:"server"`
	Began  time.Time     `json:"began"`
	Life   time.Duration `json:"life"`
	Nodes  int           `json:"nodes"`
	// StandbysRead is set where standbys serve reads (OpenBao), as soon as they learn of
	// what others wrote.
	StandbysRead bool `json:"standbys_read,omitempty"`

	Operations []*operation   `json:"operations"`
	Requests   []*request     `json:"requests"`
	Faults     []*disturbance `json:"faults"`
	Terms      []term         `json:"terms"`
	// Unsaved are the moments at which a node logged that it could not save a token.
	Unsaved []moment `json:"unsaved,omitempty"`
	// Healed is when all faults had ended and the current credentials worked, and
	// Quiet when everyone was served again and no one changed anything any more.
	Healed moment `json:"healed"`
	Quiet  moment `json:"quiet"`
	// Outage is when Fuuffy began to fail for the last time, with no one but readers, and
	// Over when that was over.
	Outage moment `json:"outage"`
	Over   moment `json:"over"`
	End    moment `json:"end"`

	// What prepare works out.
	splitTimes     [][2]moment
	steps          []*step
	stepViolations []violation
	grants         map[string]*request
	// drawing writes porcupine's picture of what it found no order for.
	drawing func(file string) error
}

// save writes the history to a file.
func (h *history) save(file string) error {
	text, err := json.MarshalIndent(h, "", " ")
	if err != nil {
		return fmt.Errorf("encode the history: %w", err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	return nil
}

func readHistory(file string) (*history, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	h := new(history)
	if err := json.Unmarshal(text, h); err != nil {
		return nil, fmt.Errorf("decode the history: %w", err)
	}
	return h, nil
}

// violation is a rule that a history broke, and when.
type violation struct {
	rule, text string
	from, to   moment
}

func broken(rule string, from, to moment, format string, args ...any) violation {
	return violation{rule, fmt.Sprintf(format, args...), from, to}
}

func at(m moment) string {
	if m == never {
		return "never"
	}
	return fmt.Sprintf("%.3fs", m.Seconds())
}

func (o *operation) String() string {
	text := fmt.Sprintf("%s – %s  %s, operation %d on node %d: %s", at(o.Begin), at(o.End), o.Worker, o.ID, o.Node, o.Kind)
	add := func(name, value string) {
		if value != "" {
			text += " " + name + " " + value
		}
	}
	add("of", o.Reported)
	add("with", o.Client)
	if o.Set != 0 {
		add("reminder", fmt.Sprint(o.Set))
	}
	if o.MinTTL != 0 {
		add("for", o.MinTTL.String())
	}
	add("→", o.Outcome)
	add("", o.Token)
	if o.Unchanged {
		text += ", unchanged"
	}
	if s := o.Seen; s != nil {
		add("sees", strings.TrimSpace(fmt.Sprintf("%s staged %s previous %s compromised %t reminder %d", s.Current, s.Staged, s.Previous, s.Compromised, s.Reminder)))
	}
	add("error", o.Error)
	return text
}

// maxAround is how many records a failure shows.
const maxAround = 80

// around returns what happened near a violation, a line each.
func (h *history) around(v violation) string {
	type line struct {
		at   moment
		text string
	}
	var lines []line
	near := func(begin, end moment) bool {
		return begin <= v.to+time.Second && (end == never || end >= v.from-2*time.Second)
	}
	// Of many reads that went well, those that say nothing are left out.
	dull := func(o *operation) bool {
		return o.Outcome == unsent || o.Kind == opRead && o.ok() && (o.End < v.from || o.Begin > v.to || v.to-v.from > 5*time.Second)
	}
	for _, o := range h.Operations {
		if near(o.Begin, o.End) && !dull(o) {
			lines = append(lines, line{o.Begin, o.String()})
		}
	}
	for _, r := range h.Requests {
		if near(r.Begin, r.End) {
			lines = append(lines, line{r.Begin, fmt.Sprintf("%s – %s  Fuuffy gives %s: status %d %s", at(r.Begin), at(r.End), r.Client, r.Status, r.Token)})
		}
	}
	for _, f := range h.Faults {
		if near(f.Begin, f.End) {
			lines = append(lines, line{f.Begin, fmt.Sprintf("%s – %s  fault: %s of node %d %s", at(f.Begin), at(f.End), f.Kind, f.Node, f.Error)})
		}
	}
	for _, t := range h.Terms {
		if near(t.Begin, t.End) {
			lines = append(lines, line{t.Begin, fmt.Sprintf("%s – %s  node %d is active", at(t.Begin), at(t.End), t.Node)})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return int(a.at - b.at) })
	var text strings.Builder
	for i, l := range lines {
		if i == maxAround {
			fmt.Fprintf(&text, "… and %d more\n", len(lines)-i)
			break
		}
		text.WriteString(l.text + "\n")
	}
	return text.String()
}
