// SPDX-License-Identifier: MPL-2.0

// Package history is what happened in a simulated or a real cluster while clients and operators
// used the engine: the record, the rules that it is held to, and the judge.
package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// The keys of the entries that the engine stores.
const (
	ConfigKey = "config"
	TokenKey  = "token"
)

// What a recorder keeps to.
const (
	// CallTime is how long Vault lets a request run (max_request_duration).
	CallTime = 90 * time.Second
	// ClockTime is the most that looking at the clock takes.
	ClockTime = 50 * time.Millisecond
	// MaxAhead is how wrong a wall clock is at most, so that two of them differ by up to two minutes.
	MaxAhead = time.Minute
)

// Moment is a point of a history. The virtual time alone ties.
type Moment struct {
	Seq int
	At  time.Duration
}

// Never is after every moment.
var Never = Moment{Seq: math.MaxInt, At: math.MaxInt64}

func (m Moment) before(o Moment) bool { return m.Seq < o.Seq }

// Span is from one moment to another.
type Span struct{ Begin, End Moment }

func (s Span) overlaps(o Span) bool { return s.Begin.before(o.End) && o.Begin.before(s.End) }

// The operations of a history.
const (
	OpRead         = "read token"
	OpReport       = "report token"
	OpDeleteToken  = "delete token"
	OpWriteConfig  = "write config"
	OpReadConfig   = "read config"
	OpDeleteConfig = "delete config"
	OpStage        = "stage"
	OpCompromised  = "stage compromised"
	OpPromote      = "promote"
	OpRollback     = "rollback"
	OpComplete     = "complete"
	OpDiscard      = "discard"
	OpMark         = "mark revoked"
	OpCheck        = "check"
	OpReadRotation = "read rotate-root"
	OpStatus       = "status"
	OpPeriodic     = "periodic"
	OpRestart      = "restart"
	OpElect        = "elect"
)

// The outcomes of a call, other than the error of a fault.
const (
	OK       = "ok"
	Refused  = "refused" // with a status of 400
	Unknown  = "crashed" // nobody knows what became of it
	Deadline = "deadline"
)

// Nodes: the active node and the standby of the primary cluster, which swap roles, and the active
// node of a performance secondary.
const (
	FirstNode     = "A"
	SecondNode    = "B"
	SecondaryNode = "C"
)

// Place is one process of a node.
type Place struct {
	Node    string
	Process int
}

// Call is one request to the engine.
type Call struct {
	ID     int
	Worker string
	Op     string
	Span
	// answered is the node whose answer it is, and process its process.
	Answered string
	Process  int
	// limit is the caller's own deadline, 0 for none.
	Limit time.Duration
	// entered is when that process got the call, and waited how long its start kept the call from it.
	Entered Moment
	Waited  time.Duration

	MinTTL   time.Duration // the life that the token must have left
	Reported string        // the token that was reported
	Pair     string        // the client that was written, or marked
	Unproved bool          // verify_connection=false or force=true
	Set      int           // the rotation_reminder that was written, which no other call writes

	Outcome  string
	Panicked string // the stack
	Token    string // the token that was served
	// What the warnings said of the token.
	TooYoung, Stale, Suspect bool

	Reminder int // the rotation_reminder that was read, 0 if not configured
	Rotation RotationSeen
}

// RotationSeen is what somebody reads of the rotation.
type RotationSeen struct{ Client, State, LastRotated string }

func (c *Call) OK() bool { return c.Outcome == OK }

// at is the process whose answer it is.
func (c *Call) at() Place { return Place{c.Answered, c.Process} }

// changes tells whether the call may change what is stored or what the engine remembers.
func (c *Call) changes() bool {
	return !slices.Contains([]string{OpRead, OpReport, OpReadConfig, OpReadRotation, OpStatus, OpPeriodic}, c.Op)
}

func (c *Call) writesConfig() bool { return c.Op == OpWriteConfig || c.Op == OpDeleteConfig }

// Stored is one storage operation.
type Stored struct {
	Span
	Place
	Call      int // 0 for what the engine did on its own
	Operation string
	Key       string
	Applied   Moment // never if it had no effect
	Failed    bool   // it ended with an error
	Token     string
	PairID    string // of the credentials that got the token
	Suspect   bool   // the token is stored as suspect
	Config    *Entry
}

func (s *Stored) took() bool { return s.Applied != Never && s.Operation != "get" }

// Entry is a stored configuration.
type Entry struct {
	WriteID string
	Credentials
	Settings
}

// Settings are the part of an entry that steps of the rotation leave alone.
type Settings struct {
	Reminder         int
	StaleIfError     bool
	Buffer           time.Duration
	Endpoint, Others string
}

// Credentials are the part of an entry that writes of settings leave alone.
type Credentials struct {
	Current Pair
	Position
	Unrevoked []Unrevoked
	Steps     []string
	Serials   int
}

// Position is where a rotation stands.
type Position struct {
	Staged, Previous                  *Pair
	StagedAt, PromotedAt, TokensUntil time.Time
	Compromised                       bool
}

// Pair is one pair of credentials. In a history, each client has one secret.
type Pair struct {
	ID, Client string
	SetAt      time.Time
	Serial     int
}

func (p *Pair) same(o *Pair) bool { return p != nil && o != nil && p.Client == o.Client }

// Unrevoked is an entry about a pair that is no longer used but may still work.
type Unrevoked struct {
	ID, Client, Why string
	Since           time.Time
}

// WhyCompromised is why a pair is listed that may be in the wrong hands.
const WhyCompromised = "compromised"

// The states of a rotation.
const (
	Idle     = "idle"
	Staged   = "staged"
	Promoted = "promoted"
)

func (p *Position) state() string {
	switch {
	case p.Previous != nil:
		return Promoted
	case p.Staged != nil:
		return Staged
	}
	return Idle
}

// held are the pairs whose secrets the mount holds.
func (c *Credentials) held() []*Pair {
	return slices.DeleteFunc([]*Pair{&c.Current, c.Staged, c.Previous}, func(p *Pair) bool { return p == nil })
}

// entryOf is the entry about a pair, nil if it has none.
func (c *Credentials) entryOf(pair *Pair) *Unrevoked {
	if i := slices.IndexFunc(c.Unrevoked, func(u Unrevoked) bool { return u.Client == pair.Client }); i >= 0 {
		return &c.Unrevoked[i]
	}
	return nil
}

func (c *Credentials) compromised(pair *Pair) bool {
	listed := c.entryOf(pair)
	return listed != nil && listed.Why == WhyCompromised
}

// Request is one token request at Fuuffy.
type Request struct {
	Span
	Place
	Call   int // 0 for a flight
	Client string
	// beside counts the requests of flights of this process that were under way.
	Beside     int
	Outcome    string // "granted", "rejected", "limited", or another fault
	RetryAfter time.Duration
	Token      string
	Expires    time.Duration
	Life       time.Duration // of a token that Fuuffy has just made
}

// Invalidation is one Invalidate that Vault sent to a process, after a change of another node.
type Invalidation struct {
	Span
	Place
	Key   string
	Cause Moment
}

// Cleanup is Vault's end of a process.
type Cleanup struct {
	Span
	Place
}

// Start is the start of a process.
type Start struct {
	Span
	Place
	Standby bool
}

// Clock is how much the wall clock of a node was fast from a moment on.
type Clock struct {
	At    Moment
	Node  string
	Ahead time.Duration
}

// History is all that happened.
type History struct {
	Calls   []*Call
	Stored  []*Stored
	Asked   []*Request
	Told    []*Invalidation
	Cleaned []*Cleanup
	Started []*Start
	Clocks  []*Clock
}

// Violation is a rule that a history broke, and the moments that show it.
type Violation struct {
	Rule string
	Text string
	At   []Moment
}

func Violated(rule string, at []Moment, format string, args ...any) Violation {
	return Violation{rule, fmt.Sprintf(format, args...), at}
}

func (m Moment) String() string {
	if m == Never {
		return "never"
	}
	return fmt.Sprintf("%.3fs#%d", m.At.Seconds(), m.Seq)
}

func (s Span) String() string { return s.Begin.String() + " – " + s.End.String() }

func (c *Call) String() string {
	text := fmt.Sprintf("%s: call %d, %s on %s.%d: %s", c.Span, c.ID, c.Worker, c.Answered, c.Process, c.Op)
	for _, part := range []struct{ name, value string }{
		{"of", c.Reported}, {"with", c.Pair}, {"reminder", number(c.Set)}, {"limit", number(int(c.Limit / time.Millisecond))},
		{"→", c.Outcome}, {"token", c.Token}, {"reminder", number(c.Reminder)}, {"client", c.Rotation.Client}, {"in", c.Rotation.State},
	} {
		if part.value != "" {
			text += " " + part.name + " " + part.value
		}
	}
	for _, part := range []struct {
		is   bool
		name string
	}{{c.TooYoung, " (too young)"}, {c.Stale, " (stale)"}, {c.Suspect, " (suspect)"}} {
		if part.is {
			text += part.name
		}
	}
	return text
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func (s *Stored) String() string {
	text := fmt.Sprintf("%s: storage of %s.%d, call %d: %s %s, applied %s", s.Span, s.Node, s.Process, s.Call, s.Operation, s.Key, s.Applied)
	if s.Failed {
		text += ", failed"
	}
	if s.Config != nil {
		text += fmt.Sprintf(", %s with %s", s.Config.state(), s.Config.Current.Client)
	}
	if s.Suspect {
		text += ", suspect"
	}
	return text + " " + s.Token
}

func (a *Request) String() string {
	return fmt.Sprintf("%s: Fuuffy, from %s.%d, call %d, for %s: %s %s", a.Span, a.Node, a.Process, a.Call, a.Client, a.Outcome, a.Token)
}

func (t *Invalidation) String() string {
	return fmt.Sprintf("%s: invalidate %s on %s.%d", t.Span, t.Key, t.Node, t.Process)
}

func (d *Cleanup) String() string {
	return fmt.Sprintf("%s: clean up %s.%d", d.Span, d.Node, d.Process)
}

func (s *Start) String() string {
	role := "active"
	if s.Standby {
		role = "standby"
	}
	return fmt.Sprintf("%s: start %s.%d, %s", s.Span, s.Node, s.Process, role)
}

func (c *Clock) String() string {
	return fmt.Sprintf("%s: the wall clock of %s is fast by %s", c.At, c.Node, c.Ahead)
}

// Around returns the records near the moments of a violation, in their order.
func (h *History) Around(v Violation) string {
	const near = 2 * time.Second
	type line struct {
		begin Moment
		text  string
	}
	var lines []line
	add := func(s Span, text fmt.Stringer) {
		for _, m := range v.At {
			if s.Begin.At-near <= m.At && (s.End == Never || m.At-near <= s.End.At) {
				lines = append(lines, line{s.Begin, "  " + text.String()})
				return
			}
		}
	}
	for _, c := range h.Calls {
		add(c.Span, c)
	}
	for _, s := range h.Stored {
		add(s.Span, s)
	}
	for _, a := range h.Asked {
		add(a.Span, a)
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
		lines = append(lines, line{c.At, "  " + c.String()})
	}
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.begin.Seq, b.begin.Seq) })
	texts := make([]string, len(lines))
	for i, l := range lines {
		texts[i] = l.text
	}
	return strings.Join(texts, "\n")
}
