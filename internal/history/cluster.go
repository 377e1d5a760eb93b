// SPDX-License-Identifier: MPL-2.0

package history

import (
	"slices"
	"time"
)

// clusterIndex is what rules work out of the run of a real cluster.
type clusterIndex struct {
	// splits are the times in which a node took itself for the active one although another
	// had taken over. It may serve what was true before.
	splits []Span
	steps  []*step
	// stepViolations are what was wrong with the steps.
	stepViolations []Violation
	// proofs tells of the requests that a call may have made, rather than the engine for readers.
	proofs map[*Request]bool
	// drawing writes porcupine's picture of what it found no order for.
	drawing func(file string) error
}

func (h *History) prepareCluster() {
	for _, old := range h.Terms {
		for _, next := range h.Terms {
			if next.Node != old.Node && old.Begin.before(next.Begin) && next.Begin.before(old.End) {
				h.splits = append(h.splits, Span{next.Begin.minus(logDelay), old.End})
			}
		}
	}
	for _, c := range h.Calls {
		c.from = h.asOf(c)
	}
	h.steps, h.stepViolations = h.collectSteps()
	h.stepViolations = append(h.stepViolations, h.explain(h.steps)...)
	h.date(h.steps)
	now := Config{}
	for _, s := range h.steps {
		now = now.after(s)
		s.after = now
	}
	h.known[Place{}] = h.stepPeriods()
	h.proofs = map[*Request]bool{}
	for _, r := range h.Requests {
		h.proofs[r] = r.Token != "" && slices.ContainsFunc(h.Calls, func(c *Call) bool {
			return c.steps() && c.Outcome != Unsent && !r.End.before(c.Begin) && !h.mayWorkUntil(c).before(r.Begin)
		})
	}
}

// logDelay is how much later than it happened something may be in the log.
const logDelay = 50 * time.Millisecond

// standbyLag is how long a standby that no one disturbs may take to learn of a change, and
// to catch up after a fault. It takes a tenth of a second, but the machine may be busy.
const standbyLag = 5 * time.Second

// asOf is the earliest moment that a call may tell of. It is its begin, unless a node may
// have answered that was deposed and did not know, or a standby.
func (h *History) asOf(c *Call) Moment {
	from := c.Begin
	for _, split := range h.splits {
		if split.overlaps(c.Span) {
			from = earlier(from, split.Begin)
		}
	}
	if !h.StandbysRead || !c.reads() {
		return from
	}
	from = from.minus(standbyLag)
	for _, f := range slices.Backward(h.Faults) {
		if f.Node != "" && f.Begin.before(c.End) && from.before(f.End) {
			from = earlier(from, f.Begin.minus(standbyLag))
		}
	}
	return from
}

// until is the last moment at which a call may have had its effect.
func (h *History) until(c *Call) Moment {
	if h.Inside == nil && c.Outcome == Unknown {
		return Never
	}
	return c.End
}

// mayWorkUntil is when a call was certainly over in the engine: a node may be stopped after the
// client gave up, and save a token then.
func (h *History) mayWorkUntil(c *Call) Moment {
	if c.Outcome == Unknown && c.End != Never {
		return Moment{At: c.End.At + h.LongestStop + 5*time.Second}
	}
	return c.End
}

// forReaders tells whether a request was certainly made for readers.
func (h *History) forReaders(r *Request) bool {
	if h.Inside == nil {
		return !h.proofs[r]
	}
	return r.Call == 0
}

// stepPeriods are the times in which the rotation may have stood where each step left it.
func (h *History) stepPeriods() (periods []period) {
	for i, s := range h.steps {
		until, last := Never, true
		if i+1 < len(h.steps) {
			next := h.steps[i+1]
			// One change may be several steps, of which only the last is seen.
			until, last = next.latest, next.cause == nil || next.cause != s.cause
		}
		if last {
			periods = append(periods, period{Span: Span{s.earliest, until}, now: s.after})
		}
	}
	return periods
}

// unsavedBetween tells whether a node could not save a token in a time.
func (h *History) unsavedBetween(from, to Moment) bool {
	return slices.ContainsFunc(h.Unsaved, func(m Moment) bool { return from.At <= m.At && m.At <= to.At+logDelay })
}

// leaked is the client that a call gave up as compromised, and what the call changed in storage.
func (h *History) leaked(c *Call) (client string, changes []*Stored) {
	if h.Inside != nil {
		changes = h.takesOf(c, ConfigKey)
		for _, s := range changes {
			if s.Config != nil {
				client = s.Config.Previous.Client
			}
		}
		return client, changes
	}
	for _, s := range h.steps {
		if s.cause == c && s.after.Compromised {
			client = s.after.Previous
		}
	}
	return client, nil
}
