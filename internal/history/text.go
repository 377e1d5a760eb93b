// SPDX-License-Identifier: MPL-2.0

package history

import (
	"cmp"
	"fmt"
	"maps"
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

// fields joins the names and values of those that are not empty.
func fields(namesAndValues ...string) (text string) {
	for i := 0; i < len(namesAndValues); i += 2 {
		if name, value := namesAndValues[i], namesAndValues[i+1]; value != "" {
			text += strings.TrimRight(" "+name, " ") + " " + value
		}
	}
	return text
}

// nonzero is a value as text, empty for zero.
func nonzero[T comparable](value T) string {
	if value == *new(T) {
		return ""
	}
	return fmt.Sprint(value)
}

// result is how a call ended.
func (c *Call) result() string {
	if c.Status != 0 && !c.OK() {
		return fmt.Sprintf("%s (%d)", c.Outcome, c.Status)
	}
	return c.Outcome
}

func (c *Call) String() string {
	text := fmt.Sprintf("%s: call %d, %s at %s: %s", c.Span, c.ID, c.Worker, c.Asked, c.Op)
	if c.Process != 0 {
		text += ", answered by " + c.Place.String()
	}
	text += fields("of", c.Reported, "with", c.Client, "reminder", nonzero(c.Set), "min_ttl", nonzero(c.MinTTL), "limit", nonzero(c.Limit),
		"→", c.result(), "", c.Token)
	for _, is := range []struct {
		so   bool
		text string
	}{{c.TooYoung, "too young"}, {c.Stale, "stale"}, {c.Suspect, "suspect"}, {c.Unchanged, "unchanged"}} {
		if is.so {
			text += " (" + is.text + ")"
		}
	}
	if c.Seen != nil {
		text += ", sees" + c.Seen.String()
	}
	return text + fields("error", strings.Join(strings.Fields(c.Error), " "))
}

func (s *Seen) String() string {
	text := fields("", s.State, "current", s.Current, "staged", s.Staged, "previous", s.Previous, "rotated at", s.RotatedAt, "reminder", nonzero(s.Reminder))
	if s.Compromised {
		text += " compromised"
	}
	return text
}

func (s *Stored) String() string {
	text := fmt.Sprintf("%s: storage of %s, call %d: %s %s, applied %s", s.Span, s.Place, s.Call, s.Operation, s.Key, s.Applied)
	if s.Failed {
		text += ", failed"
	}
	if s.Config != nil {
		text += fmt.Sprintf(", %s with %s", s.Config.Shown().State(), s.Config.Current.Client)
	}
	if s.Suspect {
		text += ", suspect"
	}
	return text + fields("", s.Token)
}

func (r *Request) String() string {
	return fmt.Sprintf("%s: Fuuffy", r.Span) + fields("from", r.Place.String(), "for call", nonzero(r.Call), "of", r.Client, "→", r.Outcome, "", r.Token)
}

func (t *Invalidation) String() string {
	return fmt.Sprintf("%s: invalidate %s on %s", t.Span, t.Key, t.Place)
}

func (d *Cleanup) String() string { return fmt.Sprintf("%s: clean up %s", d.Span, d.Place) }

func (s *Start) String() string {
	role := "active"
	if s.Standby {
		role = "standby"
	}
	return fmt.Sprintf("%s: start %s, %s", s.Span, s.Place, role)
}

func (c *Clock) String() string {
	return fmt.Sprintf("%s: the wall clock of %s is fast by %s", c.At, c.Node, c.Ahead)
}

func (f *Fault) String() string {
	return fmt.Sprintf("%s: fault: %s", f.Span, f.Kind) + fields("of", f.Node, "error", f.Error)
}

func (t *Term) String() string { return fmt.Sprintf("%s: %s is active", t.Span, t.Node) }

// line is one record.
type line struct {
	Span
	text string
	// dull is set for reads that went well, of which there are many.
	dull bool
}

// lines are all records, in their order.
func (h *History) lines() (lines []line) {
	add := func(s Span, text fmt.Stringer) { lines = append(lines, line{s, text.String(), false}) }
	for _, c := range h.Calls {
		lines = append(lines, line{c.Span, c.String(), c.Op == OpRead && c.OK() || c.Outcome == Unsent})
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
	var text strings.Builder
	for i, l := range h.near(v) {
		if i == maxAround {
			fmt.Fprintf(&text, "  … and more\n")
			break
		}
		text.WriteString("  " + l.text + "\n")
	}
	return text.String()
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
	text := strings.Join(rules, ", ") + "\n"
	for _, v := range violations[:min(len(violations), maxShown)] {
		text += fmt.Sprintf("at %v: %s: %s\n%s", v.At, v.Rule, v.Text, h.around(v))
	}
	return text
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
