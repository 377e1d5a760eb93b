// SPDX-License-Identifier: MPL-2.0

package history

import (
	"fmt"
	"slices"
	"time"
)

// stepLine is a line of rotate-root's history.
func stepLine(at int, what string) string { return fmt.Sprintf("2026-11-25T00:00:%02dZ %s", at, what) }

// at is a moment that no recorder saw, between a span of such, in seconds.
func at(second int) Moment { return Moment{At: time.Duration(second) * time.Second} }

func between(begin, end int) Span { return Span{at(begin), at(end)} }

// goodCluster breaks no rule: the engine is configured, its token is read, deleted and
// reported, a setting is written, the credentials are rotated, and then compromised.
func goodCluster() *History {
	h := &History{Cluster: &Cluster{
		Began: time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC), Nodes: []string{firstNode},
		Life: 70 * time.Second, Buffer: 30 * time.Second, RequestTimeout: 2 * time.Second, LongestStop: 8 * time.Second,
		Terms: []*Term{{Open(beginning), firstNode}}, Healed: at(52), Quiet: at(55), Outage: at(70), Over: at(76), End: at(80),
	}}
	op := func(kind string, begin, end int, o Call) {
		o.ID, o.Worker, o.Asked, o.Op, o.Span, o.Outcome = len(h.Calls)+1, "worker", firstNode, kind, between(begin, end), OK
		h.Calls = append(h.Calls, &o)
	}
	asked := func(client, token string, begin, end int) {
		r := &Request{Span: between(begin, end), Client: client, Token: token, Outcome: Rejected}
		r.Begin.At += time.Second / 2
		if token != "" {
			r.Outcome, r.Expires = Granted, r.End.At+h.Life
		}
		h.Requests = append(h.Requests, r)
	}
	steps := []string{
		stepLine(2, "configured C1"), stepLine(31, "staged C2"), stepLine(34, "promoted C2 (replaced C1)"), stepLine(39, "completed C2 (revoked: C1)"),
		stepLine(46, "staged C3"), stepLine(46, "promoted C3 (replaced C2, which is compromised)"),
	}
	see := func(current, staged, previous string, compromised bool, n int) *Seen {
		now := Config{Current: current, Staged: staged, Previous: previous, Compromised: compromised}
		return &Seen{Current: current, State: now.State(), Staged: staged, Previous: previous, Compromised: compromised, Steps: slices.Clone(steps[:n])}
	}
	op(OpWriteConfig, 1, 3, Call{Client: "C1", Set: 1001})
	asked("C1", "T1", 1, 2)
	op(OpRead, 4, 5, Call{Token: "T1"})
	op(OpReadRotation, 5, 6, Call{Seen: see("C1", "", "", false, 1)})
	op(OpDeleteToken, 7, 8, Call{})
	op(OpRead, 9, 11, Call{Token: "T2"})
	asked("C1", "T2", 9, 10)
	op(OpReport, 20, 22, Call{Reported: "T2", Token: "T3"})
	asked("C1", "T3", 20, 21)
	op(OpRead, 23, 24, Call{Token: "T3", MinTTL: 20 * time.Second})
	op(OpWriteConfig, 25, 26, Call{Set: 1002})
	op(OpReadConfig, 27, 28, Call{Seen: &Seen{Current: "C1", Reminder: 1002}})
	op(OpStage, 30, 32, Call{Client: "C2", Seen: see("C1", "C2", "", false, 2)})
	asked("C2", "T4", 30, 31)
	op(OpPromote, 33, 35, Call{Seen: see("C2", "", "C1", false, 3)})
	asked("C2", "T5", 33, 34)
	op(OpRead, 36, 37, Call{Token: "T5"})
	op(OpComplete, 38, 40, Call{Seen: see("C2", "", "", false, 4)})
	asked("C2", "T6", 38, 39)
	asked("C1", "", 38, 39)
	op(OpCompromised, 45, 47, Call{Client: "C3", Seen: see("C3", "", "C2", true, 6)})
	asked("C3", "T7", 45, 46)
	op(OpRead, 48, 49, Call{Token: "T7"})
	op(OpReadRotation, 50, 51, Call{Seen: see("C3", "", "C2", true, 6)})
	op(OpRead, 53, 54, Call{Token: "T7"})
	op(OpRead, 56, 57, Call{Token: "T7"})
	op(OpDeleteToken, 70, 71, Call{})
	asked("C3", "", 71, 72)
	asked("C3", "T8", 76, 77)
	op(OpRead, 76, 78, Call{Token: "T8"})
	return h
}

// first returns the first call of an operation.
func (h *History) first(op string) *Call {
	return h.Calls[slices.IndexFunc(h.Calls, func(c *Call) bool { return c.Op == op })]
}

// setting returns the call that wrote a setting.
func (h *History) setting() *Call {
	return h.Calls[slices.IndexFunc(h.Calls, func(c *Call) bool { return c.Set == 1002 })]
}

// reads adds a read that gets a token.
func (h *History) reads(token string, begin int) *Call {
	c := &Call{ID: len(h.Calls) + 1, Worker: "again", Asked: firstNode, Op: OpRead, Token: token, Outcome: OK, Span: between(begin, begin)}
	c.End.At += time.Second / 2
	h.Calls = append(h.Calls, c)
	return c
}

// rewrite edits the steps that everyone saw.
func (h *History) rewrite(edit func([]string) []string) {
	for _, o := range h.showSteps() {
		o.Seen.Steps = edit(o.Seen.Steps)
	}
}

// lookedLast is the last look at the rotation.
func (h *History) lookedLast() *Call {
	shown := h.showSteps()
	return shown[len(shown)-1]
}

// without leaves a line out of what was seen.
func without(i int) func([]string) []string {
	return func(lines []string) []string {
		if len(lines) <= i {
			return lines
		}
		return slices.Delete(lines, i, i+1)
	}
}

// plantGap has the last observer see ten steps that no one else saw.
func plantGap(h *History) {
	var lines []string
	for i := range maxLines {
		lines = append(lines, stepLine(47, fmt.Sprintf("staged C%d", 10+i)))
	}
	h.lookedLast().Seen.Steps = lines
}
