// SPDX-License-Identifier: MPL-2.0

package robustness

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
	took moment
	// verb is what was done, client to which client.
	verb, client string
	// cause is the operation that it is due to, nil if there is none.
	cause *operation
	// earliest and latest bound when it took effect.
	earliest, latest moment
	// after is where the rotation stands once it was taken.
	after config
}

const (
	ruleStep  = "no step of a rotation is lost or taken twice"
	ruleGap   = "the record of the steps has no gap"
	maxLines  = 10
	stampSize = len("2006-01-02T15:04:05Z")
)

// verbs are the steps as the engine names them.
var verbs = []string{"configured", "replaced", "staged", "promoted", "completed", "rolled back", "discarded"}

func (h *history) parseStep(line string) *step {
	s := &step{line: line, latest: never}
	if len(line) < stampSize+1 {
		return s
	}
	if taken, err := time.Parse(time.RFC3339, line[:stampSize]); err == nil {
		s.took = taken.Sub(h.Began)
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
func (h *history) collectSteps() (steps []*step, violations []violation) {
	index := map[string]int{}
	shown := h.showSteps()
	// Who began later saw no less, so this meets each line first where it is new.
	slices.SortFunc(shown, func(a, b *operation) int { return cmp.Compare(a.End, b.End) })
	for _, o := range shown {
		lines := o.Seen.Steps
		first, known := index[lines[0]]
		switch {
		case !known && len(steps) > 0 && len(lines) == maxLines:
			violations = append(violations, broken(ruleGap, o.Begin, o.End, "operation %d sees only newer ones", o.ID))
			continue
		case !known && len(steps) > 0:
			violations = append(violations, broken(ruleStep, o.Begin, o.End, "operation %d sees a history that does not begin with %q", o.ID, steps[0].line))
			continue
		}
		for i, line := range lines {
			if first+i < len(steps) {
				if s := steps[first+i]; s.line != line {
					violations = append(violations, broken(ruleStep, o.Begin, o.End, "operation %d sees %q where another saw %q", o.ID, line, s.line))
					break
				}
				steps[first+i].latest = min(steps[first+i].latest, o.End)
				continue
			}
			s := h.parseStep(line)
			s.latest = o.End
			index[line] = len(steps)
			steps = append(steps, s)
		}
	}
	return steps, violations
}

// showSteps are the operations that were told the history.
func (h *history) showSteps() (shown []*operation) {
	for _, o := range h.Operations {
		if o.ok() && o.Seen != nil && len(o.Seen.Steps) > 0 {
			shown = append(shown, o)
		}
	}
	return shown
}

// causes are the kinds of operations that lead to a step, the likeliest first.
var causes = map[string][]string{
	"configured": {opCredentials}, "replaced": {opCredentials},
	"staged": {opStage, opEmergency}, "promoted": {opEmergency, opPromote},
	"completed": {opComplete, opStage}, "rolled back": {opRollback}, "discarded": {opDiscard},
}

// explain finds the operation that each step is due to. One that was answered took its
// step once.
func (h *history) explain(steps []*step) (violations []violation) {
	type deed struct {
		o    *operation
		verb string
	}
	done, used := map[deed]bool{}, map[*operation]bool{}
	for i, s := range steps {
		// Staging while a rotation is promoted completes that rotation first.
		next := ""
		if i+1 < len(steps) && s.verb == "completed" && steps[i+1].verb == "staged" {
			next = steps[i+1].client
		}
		for _, kind := range causes[s.verb] {
			for _, o := range h.Operations {
				if o.Kind == kind && !done[deed{o, s.verb}] && s.dueTo(o, next) && (s.cause == nil || s.likelier(o, s.cause)) {
					s.cause = o
				}
			}
			if s.cause != nil {
				break
			}
		}
		if s.cause == nil {
			violations = append(violations, broken(ruleStep, s.took, s.latest, "no one took the step %q, or it was taken twice", s.line))
			continue
		}
		done[deed{s.cause, s.verb}], used[s.cause] = true, true
	}
	for _, o := range h.Operations {
		if o.ok() && o.steps() && !o.Unchanged && !used[o] {
			violations = append(violations, broken(ruleStep, o.Begin, o.End, "operation %d, %s, was answered, but is not in the history", o.ID, o.Kind))
		}
	}
	return violations
}

// dueTo tells whether an operation may be what took a step: it names the client, or the
// one of the next step, or none, and was under way, to the second.
func (s *step) dueTo(o *operation, next string) bool {
	named := o.Client == "" || o.Client == s.client && s.verb != "completed" || o.Client == next
	return named && !o.Unchanged && (o.ok() || o.Outcome == unknown) &&
		s.took+time.Second > o.Begin && s.took <= o.until() && o.Begin < s.latest
}

// likelier tells which of two operations a step is rather due to. The one that must have
// ended first comes first. Of those of unknown outcome, it is the last that had certainly
// begun, so that as few as possible stay open for long: porcupine's work doubles with each.
// If none certainly had, it is the first.
func (s *step) likelier(o, than *operation) bool {
	switch begun := o.Begin <= s.took; {
	case o.until() != than.until():
		return o.until() < than.until()
	case begun != (than.Begin <= s.took):
		return begun
	case begun:
		return o.Begin > than.Begin
	default:
		return o.Begin < than.Begin
	}
}

// date bounds when each step took effect: after the steps before it, and before those
// after it.
func (h *history) date(steps []*step) {
	earliest := moment(0)
	for _, s := range steps {
		earliest = max(earliest, s.took)
		if s.cause != nil {
			earliest = max(earliest, s.cause.Begin)
			s.latest = min(s.latest, s.cause.until())
		}
		s.earliest = earliest
	}
	latest := never
	for _, s := range slices.Backward(steps) {
		latest = min(latest, s.latest)
		s.latest = latest
	}
}

// judgeSteps holds that each step that was answered is in the history once, that none
// is there which no one took, and that who looks later sees it.
func judgeSteps(h *history) []violation {
	violations := slices.Clone(h.stepViolations)
	position := map[*operation]int{}
	for i, s := range h.steps {
		if s.cause != nil {
			position[s.cause] = i
		}
	}
	index := map[string]int{}
	for i, s := range h.steps {
		index[s.line] = i
	}
	for _, o := range h.showSteps() {
		last, known := index[o.Seen.Steps[len(o.Seen.Steps)-1]]
		if !known {
			continue // Said above.
		}
		from := h.asOf(o)
		for cause, i := range position {
			if i > last && cause.ok() && cause.End < from {
				violations = append(violations, broken(ruleStep, cause.Begin, o.End, "operation %d, %s, was answered, but operation %d sees nothing of it", cause.ID, cause.Kind, o.ID))
			}
		}
	}
	return violations
}
