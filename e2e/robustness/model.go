// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// config is the configuration and where the rotation stands: what the model keeps.
type config struct {
	Reminder                  int64
	Current, Staged, Previous string
	Compromised               bool
}

// state is as rotate-root names it.
func (c config) state() string {
	switch {
	case c.Previous != "":
		return "promoted"
	case c.Staged != "":
		return "staged"
	}
	return "idle"
}

// allows tells whether a token of a client may be served.
func (c config) allows(client string) bool {
	return client == c.Current || client == c.Previous && !c.Compromised
}

// apply is what an operation makes of the configuration, and whether the engine may
// answer it with success. It leaves alone what is not possible.
func (c config) apply(o *operation) (next config, possible bool) {
	next = c
	switch state := c.state(); o.Kind {
	case opSettings:
		next.Reminder = o.Set
		return next, c.Current != ""
	case opCredentials:
		next.Reminder, next.Current = o.Set, o.Client
		if state != "idle" {
			return c, false
		}
	case opStage:
		switch {
		case o.Client == c.Staged, state == "promoted" && o.Client == c.Current:
			return c, o.Unchanged
		case state == "staged":
			return c, false
		}
		// If the rotation is promoted, the engine completes it first.
		next.Staged, next.Previous, next.Compromised = o.Client, "", false
	case opEmergency:
		if o.Client == c.Current {
			next.Compromised = true
			return next, state == "promoted" && o.Unchanged == c.Compromised
		}
		next.Previous, next.Current, next.Staged, next.Compromised = c.Current, o.Client, "", true
	case opPromote:
		switch state {
		case "idle":
			return c, false
		case "promoted":
			return c, o.Unchanged
		}
		next.Previous, next.Current, next.Staged, next.Compromised = c.Current, c.Staged, "", false
	case opRollback:
		if state != "promoted" || c.Compromised {
			return c, state == "idle" && o.Unchanged
		}
		next.Current, next.Previous = c.Previous, ""
	case opComplete:
		if state != "promoted" {
			return c, state == "idle" && o.Unchanged
		}
		next.Previous, next.Compromised = "", false
	case opDiscard:
		if state != "staged" {
			return c, state == "idle" && o.Unchanged
		}
		next.Staged = ""
	}
	return next, !o.Unchanged
}

// shows tells whether someone may see this of the configuration.
func (c config) shows(s *seen) bool {
	if c.Current != s.Current || s.Reminder != 0 && s.Reminder != c.Reminder {
		return false
	}
	return s.Steps == nil || c.Staged == s.Staged && c.Previous == s.Previous && c.Compromised == s.Compromised
}

// look is what an operation saw, once it had done what it does. The engine looks where
// things stand after a step, when someone else may have changed them again.
type look struct{ *operation }

var model = porcupine.Model{
	Init: func() any { return config{} },
	Step: func(state, input, _ any) (bool, any) {
		c := state.(config)
		switch o := input.(type) {
		case look:
			return c.shows(o.Seen), c
		case *operation:
			next, possible := c.apply(o)
			return possible || o.Outcome == unknown, next
		}
		panic("what is this?")
	},
	DescribeOperation: func(input, _ any) string {
		if l, ok := input.(look); ok {
			return fmt.Sprintf("sees %+v", *l.Seen)
		}
		o := input.(*operation)
		return fmt.Sprintf("%s %s (%s)", o.Kind, o.Client, o.Outcome)
	},
	DescribeState: func(state any) string { return fmt.Sprintf("%+v", state) },
}

// ruleLinear is porcupine's.
const ruleLinear = "config and rotation are linearizable"

// checkTime is how long porcupine may search. It takes less than a second for 40 minutes.
const checkTime = 2 * time.Minute

// judgeLinear has porcupine look for an order in which everything that was answered
// makes sense.
func judgeLinear(h *history) []violation {
	switch operations := h.linear(); porcupine.CheckOperationsTimeout(model, operations, checkTime) {
	case porcupine.Illegal:
		// What a drawing needs grows with the square of the operations.
		_, info := porcupine.CheckOperationsVerbose(model, operations, checkTime)
		h.drawing = func(file string) error { return porcupine.VisualizePath(model, info, file) }
		from, to := h.firstUnordered(info)
		return []violation{broken(ruleLinear, from, to, "there is no order of them")}
	case porcupine.Unknown:
		return []violation{broken(ruleLinear, 0, h.End, "no order of them was found in %s", checkTime)}
	}
	return nil
}

// firstUnordered is when the operations begin that the longest order found leaves out.
func (h *history) firstUnordered(info porcupine.LinearizationInfo) (from, to moment) {
	operations, longest := h.linear(), 0
	for _, partition := range info.PartialLinearizations() {
		for _, order := range partition {
			if len(order) <= longest {
				continue
			}
			longest = len(order)
			from, to = never, 0
			for i, o := range operations {
				if !slices.Contains(order, i) && moment(o.Return) != never && moment(o.Return) < from {
					from, to = moment(o.Call), moment(o.Return)
				}
			}
		}
	}
	return from, to
}

// linear is the part of the history that porcupine judges. An operation of unknown
// outcome is left out if it left no trace: no one saw what only it could have written,
// and no step is due to it. Otherwise it had happened when someone first saw its trace.
func (h *history) linear() (operations []porcupine.Operation) {
	workers := map[string]int{}
	add := func(o *operation, input any, begin, end moment) {
		id, ok := workers[o.Worker]
		if !ok {
			id = len(workers)
			workers[o.Worker] = id
		}
		operations = append(operations, porcupine.Operation{ClientId: id, Input: input, Call: int64(begin), Return: int64(end)})
	}
	// traced is when someone had seen what only this operation can have done.
	traced := map[*operation]moment{}
	trace := func(o *operation, by moment) {
		if before, ok := traced[o]; !ok || by < before {
			traced[o] = by
		}
	}
	for _, s := range h.steps {
		if s.cause != nil {
			trace(s.cause, s.latest)
		}
	}
	wrote := map[int64]*operation{}
	for _, o := range h.Operations {
		if o.Set != 0 {
			wrote[o.Set] = o
		}
	}
	for _, o := range h.Operations {
		if o.ok() && o.Seen != nil && wrote[o.Seen.Reminder] != nil {
			trace(wrote[o.Seen.Reminder], o.End)
		}
	}
	for _, o := range h.Operations {
		by, left := traced[o]
		switch {
		case o.Outcome == unknown && left:
			add(o, o, o.Begin, max(by, o.Begin))
		case !o.ok():
		case o.Kind == opReadConfig, o.Kind == opReadSteps:
			if h.asOf(o) == o.Begin { // judgeLate has the others.
				add(o, look{o}, o.Begin, o.End)
			}
		case o.Kind == opSettings, o.steps():
			add(o, o, o.Begin, o.End)
			if o.Seen != nil {
				add(o, look{o}, o.Begin, o.End)
			}
		}
	}
	return operations
}

// judgeLate: a read that may tell of the past, because of who may have answered, shows
// what was true at some moment since then.
func judgeLate(h *history) (violations []violation) {
	for _, o := range h.Operations {
		if from := h.asOf(o); o.ok() && (o.Kind == opReadConfig || o.Kind == opReadSteps) && from < o.Begin && !h.wasTrue(o.Seen, from, o.End) {
			violations = append(violations, broken("who reads late reads what was true", from, o.End, "operation %d sees %+v", o.ID, *o.Seen))
		}
	}
	return violations
}

// wasTrue tells whether someone could see this at some moment of a time.
func (h *history) wasTrue(s *seen, from, to moment) bool {
	steps := h.during(from, to, func(c config) bool {
		c.Reminder = s.Reminder // What follows is about that.
		return c.shows(s)
	})
	return steps && (s.Reminder == 0 || slices.ContainsFunc(h.Operations, func(w *operation) bool {
		return w.Set == s.Reminder && w.Begin <= to && !h.overwritten(w, from)
	}))
}

// overwritten tells whether a setting was replaced before a moment.
func (h *history) overwritten(w *operation, before moment) bool {
	return slices.ContainsFunc(h.Operations, func(x *operation) bool {
		return x.Set != 0 && x.ok() && w.until() < x.Begin && x.End < before
	})
}
