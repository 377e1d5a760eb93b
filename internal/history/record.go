// SPDX-License-Identifier: MPL-2.0

// Package history judges what happened while clients and operators used the engine. A recorder
// writes down each call, each token request at Fuuffy, and what else it sees; the rules are pure
// functions of that record.
//
// There are two recorders. The simulation in virtual time sees into the nodes. The test of a real
// cluster sees only what clients see, but much that can't be simulated happens there. Most rules
// hold for both. Undecided names those that a record can't decide.
package history

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Moment is a point of a history, in the time since it began.
type Moment struct {
	// Seq orders what a recorder saw, because virtual time alone ties. A moment that was worked
	// out, or read from a log, has none.
	Seq int `json:",omitempty"`
	At  time.Duration
}

// Never is after every moment, and beginning before.
var (
	Never     = Moment{math.MaxInt, math.MaxInt64}
	beginning = Moment{-1, -1}
)

func (m Moment) before(o Moment) bool {
	if m.Seq == 0 || o.Seq == 0 {
		return m.At < o.At
	}
	return m.Seq < o.Seq
}

// minus is a moment so much earlier.
func (m Moment) minus(d time.Duration) Moment { return Moment{At: m.At - d} }

// earlier is the earlier of two moments, and later the later one.
func earlier(a, b Moment) Moment {
	if b.before(a) {
		return b
	}
	return a
}

func later(a, b Moment) Moment {
	if a.before(b) {
		return b
	}
	return a
}

// Span is from one moment to another.
type Span struct{ Begin, End Moment }

// Open is a span that has not ended.
func Open(begin Moment) Span { return Span{begin, Never} }

func (s Span) overlaps(o Span) bool { return s.Begin.before(o.End) && o.Begin.before(s.End) }

// Place is one process of a node.
type Place struct {
	Node    string `json:",omitempty"`
	Process int    `json:",omitempty"`
}

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

// The outcomes of a call.
const (
	OK      = "ok"
	Refused = "refused" // The engine said that it changed nothing.
	Failed  = "failed"  // It ended with another error, or by its own deadline.
	Unknown = "unknown" // No one answered. It may have happened, now or later, or not.
	Unsent  = "unsent"  // It never left the client.
)

// Refusals are the statuses with which the engine says that it changed nothing. Vault has none of
// them for requests such as these.
var Refusals = []int{http.StatusBadRequest, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout}

// Call is one request to the engine, as its client saw it.
type Call struct {
	ID         int
	Worker, Op string
	Span
	// Asked is the node that got the request. It may have forwarded it.
	Asked string `json:",omitempty"`
	// Place is the process whose answer it is, if the recorder sees into the nodes.
	Place
	// Entered is when that process got the call, and Waited how long its start kept the call from it.
	Entered Moment        `json:",omitzero"`
	Waited  time.Duration `json:",omitempty"`
	// Limit is the caller's own deadline, 0 for none.
	Limit time.Duration `json:",omitempty"`

	// Tokens have names in a history, T1 and so on.
	MinTTL   time.Duration `json:",omitempty"` // the life that the token must have left
	Reported string        `json:",omitempty"` // the token that was reported
	Client   string        `json:",omitempty"` // the client that was written, or marked
	Unproved bool          `json:",omitempty"` // verify_connection=false or force=true
	Set      int           `json:",omitempty"` // the rotation_reminder that was written, which no other call writes

	Outcome  string
	Status   int    `json:",omitempty"`
	Error    string `json:",omitempty"`
	Panicked string `json:",omitempty"` // the stack
	Token    string `json:",omitempty"` // the token that was served
	// What the warnings said of the token.
	TooYoung, Stale, Suspect bool `json:",omitempty"`
	// Unchanged is set if the engine said that there was nothing to do.
	Unchanged bool  `json:",omitempty"`
	Seen      *Seen `json:",omitempty"`

	// from is the earliest moment that the call may tell of. The judge works it out.
	from Moment
}

// Seen is what a call was told of the configuration, and of the rotation if State is set.
type Seen struct {
	Reminder                           int    `json:",omitempty"`
	Current                            string `json:",omitempty"`
	State, Staged, Previous, RotatedAt string `json:",omitempty"`
	Compromised                        bool   `json:",omitempty"`
	// Steps are the lines of rotate-root's history.
	Steps []string `json:",omitempty"`
}

// OK tells whether the call succeeded.
func (c *Call) OK() bool { return c.Outcome == OK }

// Heed notes what the warnings of an answer say.
func (c *Call) Heed(warnings []string) {
	for _, says := range []struct {
		what *bool
		text string
	}{
		{&c.TooYoung, "moments old"}, {&c.Stale, "stale_if_error"}, {&c.Suspect, "An app reported"},
		{&c.Unchanged, "Nothing was changed."}, {&c.Unchanged, "only tested them again"},
	} {
		*says.what = *says.what || slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, says.text) })
	}
}

// result is how the call ended.
func (c *Call) result() string {
	if c.Status != 0 && !c.OK() {
		return fmt.Sprintf("%s (%d)", c.Outcome, c.Status)
	}
	return c.Outcome
}

// changes tells whether the call may change what is stored or what the engine remembers.
func (c *Call) changes() bool {
	return !slices.Contains([]string{OpRead, OpReport, OpReadConfig, OpReadRotation, OpStatus, OpPeriodic}, c.Op)
}

// reads tells whether a standby may answer the call.
func (c *Call) reads() bool {
	return c.Op == OpRead || c.looks()
}

func (c *Call) looks() bool { return c.Op == OpReadConfig || c.Op == OpReadRotation }

func (c *Call) writesConfig() bool { return c.Op == OpWriteConfig || c.Op == OpDeleteConfig }

// steps tells whether the call may change the rotation or the credentials.
func (c *Call) steps() bool {
	return c.Op == OpWriteConfig && c.Client != "" ||
		slices.Contains([]string{OpStage, OpCompromised, OpPromote, OpRollback, OpComplete, OpDiscard}, c.Op)
}

// The outcomes of a token request. Faults have others.
const (
	Granted  = "granted"
	Rejected = "rejected"
	Limited  = "limited"
	Lost     = "nothing" // It ended on its way.
)

// Request is one token request at Fuuffy.
type Request struct {
	Span
	// Place sent it, for Call or on its own (0), if the recorder sees into the nodes.
	Place
	Call int `json:",omitempty"`
	// Beside counts the requests of flights of this process that were under way.
	Beside     int `json:",omitempty"`
	Client     string
	Outcome    string
	RetryAfter time.Duration `json:",omitempty"`
	Token      string        `json:",omitempty"`
	// Expires is when the token expires, at the latest, and Life how long it lives.
	Expires, Life time.Duration `json:",omitempty"`
}

// History is all that happened.
type History struct {
	Seed     uint64
	Calls    []*Call
	Requests []*Request
	*Inside
	*Cluster

	index
}

// Inside is what only a recorder knows that sees into the nodes.
type Inside struct {
	// Secondary is the node that has a token of its own.
	Secondary string
	Stored    []*Stored
	Told      []*Invalidation
	Cleaned   []*Cleanup
	Started   []*Start
	Clocks    []*Clock
	// Calm is when the faults had ended, and everything had come to rest. From then on one
	// operator checks one node after the other.
	Calm Moment
}

// Stored is one storage operation.
type Stored struct {
	Span
	Place
	Call      int `json:",omitempty"` // 0 for what the engine did on its own
	Operation string
	Key       string
	Applied   Moment // Never if it had no effect
	Failed    bool   `json:",omitempty"` // it ended with an error
	Token     string `json:",omitempty"`
	PairID    string `json:",omitempty"` // of the credentials that got the token
	Suspect   bool   `json:",omitempty"` // the token is stored as suspect
	Config    *Entry `json:",omitempty"`
}

// The keys of the entries that the engine stores.
const (
	ConfigKey = "config"
	TokenKey  = "token"
)

func (s *Stored) took() bool { return s.Applied != Never && s.Operation != "get" }

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

// What a simulation keeps to.
const (
	// CallTime is how long Vault lets a request run (max_request_duration).
	CallTime = 90 * time.Second
	// QuietTime is how long everything is left alone after a read of a quiet node: a refresh
	// may be under way.
	QuietTime = 15 * time.Second
	// ClockTime is the most that looking at the clock takes.
	ClockTime = 50 * time.Millisecond
	// MaxAhead is how wrong a wall clock is at most, so that two of them differ by up to two minutes.
	MaxAhead = time.Minute
)

// Cluster is what is known of the run of a real cluster.
type Cluster struct {
	Server string
	Began  time.Time
	For    time.Duration
	Nodes  []string
	// StandbysRead is set where standbys serve reads (OpenBao), as soon as they learn of
	// what others wrote.
	StandbysRead bool
	// Life is that of each token. Buffer and RequestTimeout are configured.
	Life, Buffer, RequestTimeout time.Duration
	// LongestStop is how long a node may have been stopped at most.
	LongestStop time.Duration

	Faults []*Fault
	Terms  []*Term
	// Unsaved are the moments at which a node logged that it could not save a token.
	Unsaved []Moment
	// Healed is when all faults had ended and the current credentials worked, and
	// Quiet when everyone was served again and no one changed anything any more.
	Healed, Quiet Moment
	// Outage is when Fuuffy began to fail for the last time, with no one but readers, and
	// Over when that was over.
	Outage, Over Moment
	End          Moment
}

// Fault is one disturbance that was brought about.
type Fault struct {
	Span
	Kind  string
	Node  string `json:",omitempty"` // empty: none
	Error string `json:",omitempty"`
}

// Term is a time in which a node took itself for the active one.
type Term struct {
	Span
	Node string
}
