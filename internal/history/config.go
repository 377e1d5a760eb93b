// SPDX-License-Identifier: MPL-2.0

package history

import (
	"fmt"
	"reflect"
	"slices"
)

// judgeWrites: what a successful write of the config set is read by who begins
// afterwards, unless another write follows; what was refused is never read.
func judgeWrites(h *History) (broken []Violation) {
	wrote := map[int][]*Call{}
	var writes []*Call
	for _, c := range h.Calls {
		if c.writesConfig() {
			wrote[c.Set], writes = append(wrote[c.Set], c), append(writes, c)
		}
	}
	// overwritten tells whether a write that began after a moment ended before a read.
	overwritten := func(after Moment, r *Call) bool {
		return slices.ContainsFunc(writes, func(w *Call) bool {
			return w.OK() && after.before(w.Begin) && w.End.before(r.from)
		})
	}
	// wroteIt tells whether a read may have seen what a write left.
	wroteIt := func(w, r *Call) bool {
		return w.Outcome != Refused && w.Outcome != Unsent && w.Begin.before(r.End) && !overwritten(h.until(w), r)
	}
	for _, r := range h.Calls {
		if !r.OK() || r.Op != OpReadConfig {
			continue
		}
		unconfigured := r.Seen.Reminder == 0 && !overwritten(beginning, r)
		if !unconfigured && !slices.ContainsFunc(wrote[r.Seen.Reminder], func(w *Call) bool { return wroteIt(w, r) }) {
			broken = append(broken, violated("no write is lost", r.ends(), "call %d reads a rotation_reminder of %d, which is out of date or was never written", r.ID, r.Seen.Reminder))
		}
	}
	return broken
}

// judgeLooks: the configuration, and where the rotation stands, are told as they were at some
// moment of the call. A read that may tell of the past, because of who may have answered, tells
// what was true since then.
func judgeLooks(h *History) (broken []Violation) {
	for _, c := range h.Calls {
		if !c.OK() || !c.looks() {
			continue
		}
		if !h.was(c, func(now Config) bool {
			if h.Inside == nil {
				now.Reminder = c.Seen.Reminder // judgeWrites is about that.
			}
			return now.shows(c.Seen)
		}) {
			broken = append(broken, violated("config and rotation are told as they are", []Moment{c.from, c.End}, "call %d is told %s", c.ID, text(c.Seen)))
		}
	}
	return broken
}

// judgeEntries: each stored config differs from the one before it in what its call is
// about, and in nothing else. A name of a write never repeats, and the date of the
// credentials is theirs.
func judgeEntries(h *History) (broken []Violation) {
	var before *Entry
	seen := map[string]bool{}
	for _, s := range h.configChanges() {
		at := []Moment{s.Begin, s.Applied, s.End}
		if s.Config == nil {
			before = nil
			continue
		}
		if seen[s.Config.WriteID] || s.Config.WriteID == "" {
			broken = append(broken, violated("a write_id is used once", at, "call %d uses one again", s.Call))
		}
		seen[s.Config.WriteID] = true
		if lost := lostIn(s.Config, before, h.call(s.Call)); lost != "" {
			broken = append(broken, violated("no write is lost", at, "call %d stores a config that %s", s.Call, lost))
		}
		if h.overtaken(s) {
			broken = append(broken, violated("an overtaken write is refused", at, "call %d stores what it made of an older config", s.Call))
		}
		if before != nil && before.Current.Client == s.Config.Current.Client && !before.Current.SetAt.Equal(s.Config.Current.SetAt) {
			broken = append(broken, violated("last_rotated moves with the credentials only", at, "call %d moves it", s.Call))
		}
		before = s.Config
	}
	for _, c := range h.Calls {
		if c.Op != OpWriteConfig {
			continue
		}
		takes := len(h.takesOf(c, ConfigKey))
		if c.OK() && takes != 1 || c.Outcome == Refused && takes != 0 {
			broken = append(broken, violated("no write is lost", c.ends(), "call %d ended with %s and changed the config %d times", c.ID, c.Outcome, takes))
		}
	}
	return broken
}

// overtaken tells whether the stored config was another when a call wrote it than when the call read
// what it made it of. It reads the config once more just before it writes.
func (h *History) overtaken(s *Stored) bool {
	based, again := s.Applied, s.Applied
	for _, read := range h.Stored {
		if read.Operation == "get" && read.Call == s.Call && read.Key == ConfigKey && read.Applied.before(s.Applied) {
			based, again = again, read.Applied
		}
	}
	if based == s.Applied {
		based = again
	}
	return h.writeID(based) != h.writeID(s.Applied)
}

// writeID is the stored config's just before a moment, empty for none.
func (h *History) writeID(m Moment) (id string) {
	for _, s := range h.configChanges() {
		if s.Applied.before(m) {
			id = ""
			if s.Config != nil {
				id = s.Config.WriteID
			}
		}
	}
	return id
}

// lostIn says what a stored config lost of the one before it.
func lostIn(config, before *Entry, c *Call) string {
	if c == nil {
		return "no one wrote"
	}
	writes := c.Op == OpWriteConfig
	switch {
	case before == nil && !(writes && c.Client != ""):
		return "had been deleted"
	case before == nil:
		return ""
	case writes && config.Position != before.Position:
		return "is at another step of the rotation"
	case writes && c.Client == "" && !reflect.DeepEqual(config.Credentials, before.Credentials):
		return "has other credentials, which it does not name"
	case !writes && config.Settings != before.Settings:
		return "has other settings, in a step of the rotation"
	}
	is, was := config.Shown(), before.Shown()
	is.RotatedAt, was.RotatedAt = "", ""
	if next, _ := was.apply(c); next != is {
		return fmt.Sprintf("is %+v, and should be %+v", is, next)
	}
	return ""
}
