// SPDX-License-Identifier: MPL-2.0

package history

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// look is what an operation saw, once it had done what it does. The engine looks where
// things stand after a step, when someone else may have changed them again.
type look struct{ *Call }

var model = porcupine.Model{
	Init: func() any { return Config{} },
	Step: func(state, input, _ any) (bool, any) {
		c := state.(Config)
		switch o := input.(type) {
		case look:
			return c.shows(o.Seen), c
		case *Call:
			next, possible := c.apply(o)
			return possible || o.Outcome == Unknown, next
		}
		panic("what is this?")
	},
	DescribeOperation: func(input, _ any) string {
		if l, ok := input.(look); ok {
			return fmt.Sprintf("sees %+v", *l.Seen)
		}
		o := input.(*Call)
		return fmt.Sprintf("%s %s (%s)", o.Op, o.Client, o.Outcome)
	},
	DescribeState: func(state any) string { return fmt.Sprintf("%+v", state) },
}

// ruleLinear is porcupine's.
const ruleLinear = "config and rotation are linearizable"

// checkTime is how long porcupine may search. It takes less than a second for 40 minutes.
const checkTime = 2 * time.Minute

// judgeLinear has porcupine look for an order in which everything that was answered
// makes sense.
func judgeLinear(h *History) []Violation {
	switch operations := h.linear(); porcupine.CheckOperationsTimeout(model, operations, checkTime) {
	case porcupine.Illegal:
		// What a drawing needs grows with the square of the operations.
		_, info := porcupine.CheckOperationsVerbose(model, operations, checkTime)
		h.drawing = func(file string) error { return porcupine.VisualizePath(model, info, file) }
		from, to := h.firstUnordered(info)
		return []Violation{violated(ruleLinear, []Moment{from, to}, "there is no order of them")}
	case porcupine.Unknown:
		return []Violation{violated(ruleLinear, []Moment{beginning, h.End}, "no order of them was found in %s", checkTime)}
	}
	return nil
}

// firstUnordered is when the operations begin that the longest order found leaves out.
func (h *History) firstUnordered(info porcupine.LinearizationInfo) (from, to Moment) {
	operations, longest := h.linear(), 0
	for _, partition := range info.PartialLinearizations() {
		for _, order := range partition {
			if len(order) <= longest {
				continue
			}
			longest = len(order)
			from, to = Never, beginning
			for i, o := range operations {
				if ended := time.Duration(o.Return); !slices.Contains(order, i) && ended != Never.At && ended < from.At {
					from, to = Moment{At: time.Duration(o.Call)}, Moment{At: ended}
				}
			}
		}
	}
	return from, to
}

// linear is the part of the history that porcupine judges. An operation of unknown
// outcome is left out if it left no trace: no one saw what only it could have written,
// and no step is due to it. Otherwise it had happened when someone first saw its trace.
func (h *History) linear() (operations []porcupine.Operation) {
	workers := map[string]int{}
	add := func(o *Call, input any, begin, end Moment) {
		id, ok := workers[o.Worker]
		if !ok {
			id = len(workers)
			workers[o.Worker] = id
		}
		operations = append(operations, porcupine.Operation{ClientId: id, Input: input, Call: int64(begin.At), Return: int64(end.At)})
	}
	// traced is when someone had seen what only this operation can have done.
	traced := map[*Call]Moment{}
	trace := func(o *Call, by Moment) {
		if before, ok := traced[o]; !ok || by.before(before) {
			traced[o] = by
		}
	}
	for _, s := range h.steps {
		if s.cause != nil {
			trace(s.cause, s.latest)
		}
	}
	wrote := map[int]*Call{}
	for _, o := range h.Calls {
		if o.Set != 0 {
			wrote[o.Set] = o
		}
	}
	for _, o := range h.Calls {
		if o.OK() && o.Seen != nil && wrote[o.Seen.Reminder] != nil {
			trace(wrote[o.Seen.Reminder], o.End)
		}
	}
	for _, o := range h.Calls {
		by, left := traced[o]
		switch {
		case o.Outcome == Unknown && left:
			add(o, o, o.Begin, later(by, o.Begin))
		case !o.OK():
		case o.looks():
			if o.from == o.Begin { // judgeLooks has the others.
				add(o, look{o}, o.Begin, o.End)
			}
		case o.Op == OpWriteConfig, o.steps():
			add(o, o, o.Begin, o.End)
			if o.Seen != nil {
				add(o, look{o}, o.Begin, o.End)
			}
		}
	}
	return operations
}
