// SPDX-License-Identifier: MPL-2.0

package history

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// step is one line of rotate-root's history: a step of the rotation that was taken, or
// credentials that were written.
type step struct {
	line string
	// took is when the engine says that it took the step, to the second.
	took Moment
	// verb is what was done, client to which client.
	verb, client string
	// cause is the call that it is due to, nil if there is none.
	cause *Call
	// earliest and latest bound when it took effect.
	earliest, latest Moment
	// after is where the rotation stands once it was taken.
	after Config
}

// after is where the rotation stands after a step, by what the step says.
func (c Config) after(s *step) Config {
	next := c
	switch s.verb {
	case "configured", "replaced":
		next.Current = s.client
	case "staged":
		if s.client == c.Current {
			next.Compromised = true
		} else {
			next.Staged = s.client
		}
	case "promoted":
		next = Config{Previous: c.Current, Current: s.client, Compromised: s.cause != nil && s.cause.Op == OpCompromised}
	case "completed":
		next = Config{Current: c.Current}
	case "rolled back":
		next = Config{Current: s.client}
	case "discarded":
		next = Config{Current: c.Current}
	}
	return next
}

const (
	ruleStep  = "no step of a rotation is lost or taken twice"
	ruleGap   = "the record of the steps has no gap"
	maxLines  = 10
	stampSize = len("2006-01-02T15:04:05Z")
)

// verbs are the steps as the engine names them.
var verbs = []string{"configured", "replaced", "staged", "promoted", "completed", "rolled back", "discarded"}

func (h *History) parseStep(line string) *step {
	s := &step{line: line, latest: Never}
	if len(line) < stampSize+1 {
		return s
	}
	if taken, err := time.Parse(time.RFC3339, line[:stampSize]); err == nil {
		s.took = Moment{At: taken.Sub(h.Began)}
	}
	rest := line[stampSize+1:]
	for _, verb := range verbs {
		if after, ok := strings.CutPrefix(rest, verb+" "); ok {
			s.verb = verb
			s.client, _, _ = strings.Cut(after, " ")
		}
	}
	return s
}

// collectSteps puts together what everyone saw of rotate-root's history, which shows
// the last ten steps.
func (h *History) collectSteps() (steps []*step, violations []Violation) {
	index := map[string]int{}
	shown := h.showSteps()
	// Who began later saw no less, so this meets each line first where it is new.
	slices.SortFunc(shown, func(a, b *Call) int {
		return cmp.Or(cmp.Compare(a.End.At, b.End.At), cmp.Compare(a.End.Seq, b.End.Seq))
	})
	for _, c := range shown {
		lines := c.Seen.Steps
		first, known := index[lines[0]]
		switch {
		case !known && len(steps) > 0 && len(lines) == maxLines:
			violations = append(violations, violated(ruleGap, c.ends(), "call %d sees only newer ones", c.ID))
			continue
		case !known && len(steps) > 0:
			violations = append(violations, violated(ruleStep, c.ends(), "call %d sees a history that does not begin with %q", c.ID, steps[0].line))
			continue
		}
		for i, line := range lines {
			if first+i < len(steps) {
				if s := steps[first+i]; s.line != line {
					violations = append(violations, violated(ruleStep, c.ends(), "call %d sees %q where another saw %q", c.ID, line, s.line))
					break
				}
				steps[first+i].latest = earlier(steps[first+i].latest, c.End)
				continue
			}
			s := h.parseStep(line)
			s.latest = c.End
			index[line] = len(steps)
			steps = append(steps, s)
		}
	}
	return steps, violations
}

// showSteps are the calls that were told the history.
func (h *History) showSteps() (shown []*Call) {
	for _, c := range h.Calls {
		if c.OK() && c.Seen != nil && len(c.Seen.Steps) > 0 {
			shown = append(shown, c)
		}
	}
	return shown
}

// causes are the operations that lead to a step, the likeliest first.
var causes = map[string][]string{
	"configured": {OpWriteConfig}, "replaced": {OpWriteConfig},
	"staged": {OpStage, OpCompromised}, "promoted": {OpCompromised, OpPromote},
	"completed": {OpComplete, OpStage}, "rolled back": {OpRollback}, "discarded": {OpDiscard},
}

// explain finds the call that each step is due to. One that was answered took its
// step once.
func (h *History) explain(steps []*step) (violations []Violation) {
	type deed struct {
		c    *Call
		verb string
	}
	done, used := map[deed]bool{}, map[*Call]bool{}
	for i, s := range steps {
		// Staging while a rotation is promoted completes that rotation first.
		next := ""
		if i+1 < len(steps) && s.verb == "completed" && steps[i+1].verb == "staged" {
			next = steps[i+1].client
		}
		for _, kind := range causes[s.verb] {
			for _, c := range h.Calls {
				if c.Op == kind && c.steps() && !done[deed{c, s.verb}] && h.due(s, c, next) && (s.cause == nil || h.likelier(s, c, s.cause)) {
					s.cause = c
				}
			}
			if s.cause != nil {
				break
			}
		}
		if s.cause == nil {
			violations = append(violations, violated(ruleStep, []Moment{s.took, s.latest}, "no one took the step %q, or it was taken twice", s.line))
			continue
		}
		done[deed{s.cause, s.verb}], used[s.cause] = true, true
	}
	for _, c := range h.Calls {
		if c.OK() && c.steps() && !c.Unchanged && !used[c] {
			violations = append(violations, violated(ruleStep, c.ends(), "call %d, %s, was answered, but is not in the history", c.ID, c.Op))
		}
	}
	return violations
}

// due tells whether a call may be what took a step: it names the client, or the
// one of the next step, or none, and was under way, to the second.
func (h *History) due(s *step, c *Call, next string) bool {
	named := c.Client == "" || c.Client == s.client && s.verb != "completed" || c.Client == next
	return named && !c.Unchanged && (c.OK() || c.Outcome == Unknown) &&
		c.Begin.At < s.took.At+time.Second && s.took.At <= h.until(c).At && c.Begin.before(s.latest)
}

// likelier tells which of two calls a step is rather due to. The one that must have
// ended first comes first. Of those of unknown outcome, it is the last that had certainly
// begun, so that as few as possible stay open for long: porcupine's work doubles with each.
// If none certainly had, it is the first.
func (h *History) likelier(s *step, c, than *Call) bool {
	switch begun := c.Begin.At <= s.took.At; {
	case h.until(c) != h.until(than):
		return h.until(c).before(h.until(than))
	case begun != (than.Begin.At <= s.took.At):
		return begun
	case begun:
		return than.Begin.before(c.Begin)
	default:
		return c.Begin.before(than.Begin)
	}
}

// date bounds when each step took effect: after the steps before it, and before those
// after it.
func (h *History) date(steps []*step) {
	earliest := beginning
	for _, s := range steps {
		earliest = later(earliest, s.took)
		if s.cause != nil {
			earliest = later(earliest, s.cause.Begin)
			s.latest = earlier(s.latest, h.until(s.cause))
		}
		s.earliest = earliest
	}
	latest := Never
	for _, s := range slices.Backward(steps) {
		latest = earlier(latest, s.latest)
		s.latest = latest
	}
}

// judgeSteps holds that each step that was answered is in the history once, that none
// is there which no one took, and that who looks later sees it.
func judgeSteps(h *History) []Violation {
	violations := slices.Clone(h.stepViolations)
	position := map[*Call]int{}
	for i, s := range h.steps {
		if s.cause != nil {
			position[s.cause] = i
		}
	}
	index := map[string]int{}
	for i, s := range h.steps {
		index[s.line] = i
	}
	for _, c := range h.showSteps() {
		last, known := index[c.Seen.Steps[len(c.Seen.Steps)-1]]
		if !known {
			continue // Said above.
		}
		for cause, i := range position {
			if i > last && cause.OK() && cause.End.before(c.from) {
				violations = append(violations, violated(ruleStep, []Moment{cause.Begin, c.End}, "call %d, %s, was answered, but call %d sees nothing of it", cause.ID, cause.Op, c.ID))
			}
		}
	}
	return violations
}
