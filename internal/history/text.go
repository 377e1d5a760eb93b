// SPDX-License-Identifier: MPL-2.0

package history

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

func (m Moment) String() string {
	switch {
	case m == Never:
		return "never"
	case m.Seq == 0:
		return fmt.Sprintf("%.3fs", m.At.Seconds())
	}
	return fmt.Sprintf("%.3fs#%d", m.At.Seconds(), m.Seq)
}

func (s Span) String() string { return s.Begin.String() + " – " + s.End.String() }

func (p Place) String() string {
	if p.Process == 0 {
		return p.Node
	}
	return fmt.Sprintf("%s.%d", p.Node, p.Process)
}

// text names the fields of a record that are set, in one line.
func text(record any) string {
	v := reflect.Indirect(reflect.ValueOf(record))
	when, rest := "", ""
	for i := range v.NumField() {
		value, field := v.Field(i), v.Type().Field(i)
		if !field.IsExported() || value.IsZero() || value.Kind() == reflect.Slice {
			continue
		}
		switch value := value.Interface().(type) {
		case Span:
			when = value.String() + "  "
		case bool:
			rest += " " + field.Name
		case *Seen:
			rest += " {" + text(value) + "}"
		case *Entry:
			rest += " {" + text(value.Shown()) + "}"
		default:
			rest += fmt.Sprintf(" %s %.200s", field.Name, strings.Join(strings.Fields(fmt.Sprint(value)), " "))
		}
	}
	return when + v.Type().Name() + rest
}

// line is one record.
type line struct {
	Span
	text string
	// dull is set for reads that went well, of which there are many.
	dull bool
}

// lines are all records, in their order.
func (h *History) lines() (lines []line) {
	add := func(s Span, record any) { lines = append(lines, line{s, text(record), false}) }
	for _, c := range h.Calls {
		lines = append(lines, line{c.Span, text(c), c.Op == OpRead && c.OK() || c.Outcome == Unsent})
	}
	for _, r := range h.Requests {
		add(r.Span, r)
	}
	if h.Inside != nil {
		for _, s := range h.Stored {
			add(s.Span, s)
		}
		for _, t := range h.Told {
			add(t.Span, t)
		}
		for _, d := range h.Cleaned {
			add(d.Span, d)
		}
		for _, s := range h.Started {
			add(s.Span, s)
		}
		for _, c := range h.Clocks {
			add(Open(c.At), c)
		}
	}
	if h.Cluster != nil {
		for _, f := range h.Faults {
			add(f.Span, f)
		}
		for _, t := range h.Terms {
			add(t.Span, t)
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int {
		return cmp.Or(cmp.Compare(a.Begin.At, b.Begin.At), cmp.Compare(a.Begin.Seq, b.Begin.Seq))
	})
	return lines
}

// near returns the records near the moments of a violation. Reads that went well are among them only
// if they were under way then.
func (h *History) near(v Violation) []line {
	const near = 2 * time.Second
	touches := func(s Span, m Moment, margin time.Duration) bool {
		return s.Begin.At-margin <= m.At && (s.End == Never || m.At-margin <= s.End.At)
	}
	return slices.DeleteFunc(h.lines(), func(l line) bool {
		margin := near
		if l.dull {
			margin = 0
		}
		return !slices.ContainsFunc(v.At, func(m Moment) bool { return touches(l.Span, m, margin) })
	})
}

// maxAround is how many records a failure shows.
const maxAround = 80

// around returns what happened near a violation, one record per line.
func (h *History) around(v Violation) string {
	var lines strings.Builder
	for i, l := range h.near(v) {
		if i == maxAround {
			lines.WriteString("  … and more\n")
			break
		}
		lines.WriteString("  " + l.text + "\n")
	}
	return lines.String()
}

// maxShown is how many violations a report shows with what happened near them.
const maxShown = 3

// Report lists the rules that were broken, and shows the first violations.
func (h *History) Report(violations []Violation) string {
	count := map[string]int{}
	var rules []string
	for _, v := range violations {
		if count[v.Rule]++; count[v.Rule] == 1 {
			rules = append(rules, v.Rule)
		}
	}
	for i, rule := range rules {
		rules[i] = fmt.Sprintf("%q (%d)", rule, count[rule])
	}
	report := strings.Join(rules, ", ") + "\n"
	for _, v := range violations[:min(len(violations), maxShown)] {
		report += fmt.Sprintf("at %v: %s: %s\n%s", v.At, v.Rule, v.Text, h.around(v))
	}
	return report
}

// Figures is what happened in a real cluster, in one line.
func (h *History) Figures() string {
	calls, faults := map[string]int{}, map[string]int{}
	for _, c := range h.Calls {
		calls[c.Outcome]++
	}
	for _, f := range h.Faults {
		faults[f.Kind]++
	}
	split := time.Duration(0)
	for _, s := range h.splits {
		split += s.End.At - s.Begin.At
	}
	var list []string
	for _, kind := range slices.Sorted(maps.Keys(faults)) {
		list = append(list, fmt.Sprintf("%d × %s", faults[kind], kind))
	}
	return fmt.Sprintf("%s, seed %d, %s of faults: %d calls (%d ok, %d refused, %d of unknown outcome, %d not sent), %d steps, "+
		"%d token requests (%d grants of at most %d), served again after %s, %d terms, %.1fs with a node that was deposed and did not know, %d tokens not saved; %s",
		h.Server, h.Seed, h.For, len(h.Calls), calls[OK], calls[Refused], calls[Unknown], calls[Unsent], len(h.steps),
		len(h.Requests), len(h.grants), h.mostGrants(), (h.Quiet.At - h.Healed.At).Round(10*time.Millisecond), len(h.Terms), split.Seconds(), len(h.Unsaved), strings.Join(list, ", "))
}
