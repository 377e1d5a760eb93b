// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// moment is a point of a history. The virtual time alone ties.
type moment struct {
	seq int
	at  time.Duration
}

// never is after every moment.
var never = moment{seq: math.MaxInt, at: math.MaxInt64}

func (m moment) before(o moment) bool { return m.seq < o.seq }

// span is from one moment to another.
type span struct{ begin, end moment }

func (s span) overlaps(o span) bool { return s.begin.before(o.end) && o.begin.before(s.end) }

// The operations of a history.
const (
	opRead         = "read token"
	opReport       = "report token"
	opDeleteToken  = "delete token"
	opWriteConfig  = "write config"
	opReadConfig   = "read config"
	opDeleteConfig = "delete config"
	opStage        = "stage"
	opCompromised  = "stage compromised"
	opPromote      = "promote"
	opRollback     = "rollback"
	opComplete     = "complete"
	opDiscard      = "discard"
	opMark         = "mark revoked"
	opCheck        = "check"
	opReadRotation = "read rotate-root"
	opStatus       = "status"
	opPeriodic     = "periodic"
	opRestart      = "restart"
	opElect        = "elect"
)

// The outcomes of a call, other than the error of a fault.
const (
	endedWell       = "ok"
	endedRefused    = "refused" // with a status of 400
	endedUnknown    = "crashed" // nobody knows what became of it
	endedByDeadline = "deadline"
)

// Nodes: the active node and the standby of the primary cluster, which swap roles, and the active
// node of a performance secondary.
const (
	firstNode     = "A"
	secondNode    = "B"
	secondaryNode = "C"
)

// place is one process of a node.
type place struct {
	node    string
	process int
}

// call is one request to the engine.
type call struct {
	id     int
	worker string
	op     string
	span
	// answered is the node whose answer it is, and process its process.
	answered string
	process  int
	// limit is the caller's own deadline, 0 for none.
	limit time.Duration
	// entered is when that process got the call, and waited how long its start kept the call from it.
	entered moment
	waited  time.Duration

	minTTL   time.Duration // the life that the token must have left
	reported string        // the token that was reported
	pair     string        // the client that was written, or marked
	unproved bool          // verify_connection=false or force=true
	set      int           // the rotation_reminder that was written, which no other call writes

	outcome  string
	panicked string // the stack
	token    string // the token that was served
	// What the warnings said of the token.
	tooYoung, stale, suspect bool

	reminder int // the rotation_reminder that was read, 0 if not configured
	rotation rotationSeen
}

// rotationSeen is what somebody reads of the rotation.
type rotationSeen struct{ client, state, lastRotated string }

func (c *call) ok() bool { return c.outcome == endedWell }

// at is the process whose answer it is.
func (c *call) at() place { return place{c.answered, c.process} }

// changes tells whether the call may change what is stored or what the engine remembers.
func (c *call) changes() bool {
	return !slices.Contains([]string{opRead, opReport, opReadConfig, opReadRotation, opStatus, opPeriodic}, c.op)
}

func (c *call) writesConfig() bool { return c.op == opWriteConfig || c.op == opDeleteConfig }

// storageRecord is one storage operation.
type storageRecord struct {
	span
	place
	call      int // 0 for what the engine did on its own
	operation string
	key       string
	applied   moment // never if it had no effect
	failed    bool   // it ended with an error
	token     string
	pairID    string // of the credentials that got the token
	suspect   bool   // the token is stored as suspect
	config    *entry
}

func (s *storageRecord) took() bool { return s.applied != never && s.operation != "get" }

// entry is a stored configuration.
type entry struct {
	WriteID string
	credentials
	settingValues
}

// settingValues are the part of an entry that steps of the rotation leave alone.
type settingValues struct {
	Reminder         int
	StaleIfError     bool
	Buffer           time.Duration
	Endpoint, Others string
}

// credentials are the part of an entry that writes of settings leave alone.
type credentials struct {
	Current pairOfEntry
	position
	Unrevoked []unrevoked
	Steps     []string
	Serials   int
}

// position is where a rotation stands.
type position struct {
	Staged, Previous                  *pairOfEntry
	StagedAt, PromotedAt, TokensUntil time.Time
	Compromised                       bool
}

// pairOfEntry is one pair of credentials. In a history, each client has one secret.
type pairOfEntry struct {
	ID, Client string
	SetAt      time.Time
	Serial     int
}

func (p *pairOfEntry) same(o *pairOfEntry) bool { return p != nil && o != nil && p.Client == o.Client }

// unrevoked is an entry about a pair that is no longer used but may still work.
type unrevoked struct {
	ID, Client, Why string
	Since           time.Time
}

// whyCompromised is why a pair is listed that may be in the wrong hands.
const whyCompromised = "compromised"

// The states of a rotation.
const (
	stateIdle     = "idle"
	stateStaged   = "staged"
	statePromoted = "promoted"
)

func (p *position) state() string {
	switch {
	case p.Previous != nil:
		return statePromoted
	case p.Staged != nil:
		return stateStaged
	}
	return stateIdle
}

// held are the pairs whose secrets the mount holds.
func (c *credentials) held() []*pairOfEntry {
	return slices.DeleteFunc([]*pairOfEntry{&c.Current, c.Staged, c.Previous}, func(p *pairOfEntry) bool { return p == nil })
}

// entryOf is the entry about a pair, nil if it has none.
func (c *credentials) entryOf(pair *pairOfEntry) *unrevoked {
	if i := slices.IndexFunc(c.Unrevoked, func(u unrevoked) bool { return u.Client == pair.Client }); i >= 0 {
		return &c.Unrevoked[i]
	}
	return nil
}

func (c *credentials) compromised(pair *pairOfEntry) bool {
	listed := c.entryOf(pair)
	return listed != nil && listed.Why == whyCompromised
}

// requestRecord is one token request at Fuuffy.
type requestRecord struct {
	span
	place
	call   int // 0 for a flight
	client string
	// beside counts the requests of flights of this process that were under way.
	beside     int
	outcome    string // "granted", "rejected", "limited", or another fault
	retryAfter time.Duration
	token      string
	expires    time.Duration
	life       time.Duration // of a token that Fuuffy has just made
}

// invalidation is one Invalidate that Vault sent to a process, after a change of another node.
type invalidation struct {
	span
	place
	key   string
	cause moment
}

// cleanup is Vault's end of a process.
type cleanup struct {
	span
	place
}

// startRecord is the start of a process.
type startRecord struct {
	span
	place
	standby bool
}

// clockSetting is how much the wall clock of a node was fast from a moment on.
type clockSetting struct {
	at    moment
	node  string
	ahead time.Duration
}

// history is all that happened.
type history struct {
	calls   []*call
	stored  []*storageRecord
	asked   []*requestRecord
	told    []*invalidation
	cleaned []*cleanup
	started []*startRecord
	clocks  []*clockSetting
}

// violation is a rule that a history broke, and the moments that show it.
type violation struct {
	rule string
	text string
	at   []moment
}

func violated(rule string, at []moment, format string, args ...any) violation {
	return violation{rule, fmt.Sprintf(format, args...), at}
}

func (m moment) String() string {
	if m == never {
		return "never"
	}
	return fmt.Sprintf("%.3fs#%d", m.at.Seconds(), m.seq)
}

func (s span) String() string { return s.begin.String() + " – " + s.end.String() }

func (c *call) String() string {
	text := fmt.Sprintf("%s: call %d, %s on %s.%d: %s", c.span, c.id, c.worker, c.answered, c.process, c.op)
	for _, part := range []struct{ name, value string }{
		{"of", c.reported}, {"with", c.pair}, {"reminder", number(c.set)}, {"limit", number(int(c.limit / time.Millisecond))},
		{"→", c.outcome}, {"token", c.token}, {"reminder", number(c.reminder)}, {"client", c.rotation.client}, {"in", c.rotation.state},
	} {
		if part.value != "" {
			text += " " + part.name + " " + part.value
		}
	}
	for _, part := range []struct {
		is   bool
		name string
	}{{c.tooYoung, " (too young)"}, {c.stale, " (stale)"}, {c.suspect, " (suspect)"}} {
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

func (s *storageRecord) String() string {
	text := fmt.Sprintf("%s: storage of %s.%d, call %d: %s %s, applied %s", s.span, s.node, s.process, s.call, s.operation, s.key, s.applied)
	if s.failed {
		text += ", failed"
	}
	if s.config != nil {
		text += fmt.Sprintf(", %s with %s", s.config.state(), s.config.Current.Client)
	}
	if s.suspect {
		text += ", suspect"
	}
	return text + " " + s.token
}

func (a *requestRecord) String() string {
	return fmt.Sprintf("%s: Fuuffy, from %s.%d, call %d, for %s: %s %s", a.span, a.node, a.process, a.call, a.client, a.outcome, a.token)
}

func (t *invalidation) String() string {
	return fmt.Sprintf("%s: invalidate %s on %s.%d", t.span, t.key, t.node, t.process)
}

func (d *cleanup) String() string {
	return fmt.Sprintf("%s: clean up %s.%d", d.span, d.node, d.process)
}

func (s *startRecord) String() string {
	role := "active"
	if s.standby {
		role = "standby"
	}
	return fmt.Sprintf("%s: start %s.%d, %s", s.span, s.node, s.process, role)
}

func (c *clockSetting) String() string {
	return fmt.Sprintf("%s: the wall clock of %s is fast by %s", c.at, c.node, c.ahead)
}

// around returns the records near the moments of a violation, in their order.
func (h *history) around(v violation) string {
	const near = 2 * time.Second
	type line struct {
		begin moment
		text  string
	}
	var lines []line
	add := func(s span, text fmt.Stringer) {
		for _, m := range v.at {
			if s.begin.at-near <= m.at && (s.end == never || m.at-near <= s.end.at) {
				lines = append(lines, line{s.begin, "  " + text.String()})
				return
			}
		}
	}
	for _, c := range h.calls {
		add(c.span, c)
	}
	for _, s := range h.stored {
		add(s.span, s)
	}
	for _, a := range h.asked {
		add(a.span, a)
	}
	for _, t := range h.told {
		add(t.span, t)
	}
	for _, d := range h.cleaned {
		add(d.span, d)
	}
	for _, s := range h.started {
		add(s.span, s)
	}
	for _, c := range h.clocks {
		lines = append(lines, line{c.at, "  " + c.String()})
	}
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.begin.seq, b.begin.seq) })
	texts := make([]string, len(lines))
	for i, l := range lines {
		texts[i] = l.text
	}
	return strings.Join(texts, "\n")
}
