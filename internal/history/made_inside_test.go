// SPDX-License-Identifier: MPL-2.0

package history

import "time"

const firstNode, secondNode = "A", "B"

// when is a moment of a history made by hand: one second for each number.
func when(seq int) Moment { return Moment{seq, time.Duration(seq) * time.Second} }

func during(begin, end int) Span { return Span{when(begin), when(end)} }

// goodInside breaks no rule: an engine is configured, its token is read, deleted,
// reported, the credentials are compromised, a setting is written, and it is cleaned up.
func goodInside() *History {
	of := func(id int, op string, s Span, c Call) *Call {
		c.ID, c.Op, c.Span, c.Entered, c.Place, c.Outcome = id, op, s, s.Begin, Place{firstNode, 1}, OK
		return &c
	}
	put := func(call int, key string, s Span, applied int, what Stored) *Stored {
		what.Call, what.Key, what.Span, what.Applied, what.Place, what.Operation = call, key, s, when(applied), Place{firstNode, 1}, "put"
		return &what
	}
	granted := func(call int, client, token string, s Span) *Request {
		return &Request{Span: s, Place: Place{firstNode, 1}, Call: call, Client: client, Outcome: Granted, Token: token, Expires: time.Hour, Life: time.Hour}
	}
	began := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	first := Entry{WriteID: "W1", Credentials: Credentials{Current: Pair{ID: "1", Client: "C1", SetAt: began}}, Settings: Settings{Reminder: 1001 * time.Second}}
	second := first
	second.WriteID, second.Current = "W2", Pair{ID: "2", Client: "C2", SetAt: began.Add(time.Hour)}
	second.Position, second.Unrevoked = Position{Previous: first.Current, Compromised: true}, []Unrevoked{{Client: "C1", Why: compromised}}
	third := second
	third.WriteID, third.Reminder = "W3", 1002*time.Second

	erased := put(3, TokenKey, during(12, 14), 13, Stored{})
	erased.Operation = "delete"
	read := put(11, ConfigKey, during(95, 96), 96, Stored{})
	read.Operation = "get"
	return &History{
		Calls: []*Call{
			of(1, OpWriteConfig, during(1, 9), Call{Client: "C1", Set: 1001}),
			of(2, OpRead, during(10, 11), Call{Token: "T1"}),
			of(3, OpDeleteToken, during(12, 15), Call{}),
			of(4, OpRead, during(16, 22), Call{Token: "T2"}),
			of(5, OpReport, during(60, 68), Call{Reported: "T2", Token: "T3"}),
			of(6, OpRead, during(70, 71), Call{Token: "T3"}),
			of(7, OpReadConfig, during(72, 73), Call{Seen: &Seen{Reminder: 1001, Current: "C1"}}),
			of(8, OpReadRotation, during(74, 75), Call{Seen: &Seen{Current: "C1", State: Idle, RotatedAt: "2026-11-24T00:00:00Z"}}),
			of(9, OpCompromised, during(80, 90), Call{Client: "C2"}),
			of(10, OpRead, during(92, 93), Call{Token: "T4"}),
			of(11, OpWriteConfig, during(95, 99), Call{Set: 1002}),
			of(12, OpReadConfig, during(100, 101), Call{Seen: &Seen{Reminder: 1002, Current: "C2"}}),
		},
		Requests: []*Request{
			granted(1, "C1", "T1", during(2, 3)),
			granted(0, "C1", "T2", during(17, 18)),
			granted(0, "C1", "T3", during(61, 62)),
			granted(9, "C2", "T4", during(81, 82)),
		},
		Inside: &Inside{
			Calm: Never,
			Stored: []*Stored{
				put(1, ConfigKey, during(4, 6), 5, Stored{Config: &first}),
				put(1, TokenKey, during(6, 8), 7, Stored{Token: "T1", PairID: "1"}),
				erased,
				put(0, TokenKey, during(19, 21), 20, Stored{Token: "T2", PairID: "1"}),
				put(0, TokenKey, during(63, 65), 64, Stored{Token: "T3", PairID: "1"}),
				put(9, ConfigKey, during(83, 85), 84, Stored{Config: &second}),
				put(9, TokenKey, during(86, 88), 87, Stored{Token: "T4", PairID: "2"}),
				read,
				put(11, ConfigKey, during(97, 99), 98, Stored{Config: &third}),
			},
			Cleaned: []*Cleanup{{during(110, 112), Place{firstNode, 1}}},
			Started: []*Start{{during(0, 1), Place{firstNode, 1}, false}, {during(0, 1), Place{secondNode, 1}, true}},
		},
	}
}

// again adds a read that gets a token.
func (h *History) again(token string, begin int) {
	h.Calls = append(h.Calls, &Call{ID: len(h.Calls) + 1, Op: OpRead, Span: during(begin, begin+1), Entered: when(begin), Place: Place{firstNode, 1}, Outcome: OK, Token: token})
}

// againLater adds a read that gets a token after a restart.
func (h *History) againLater(token string, begin int) {
	h.Started = append(h.Started, &Start{during(begin-2, begin-1), Place{firstNode, 2}, false})
	h.again(token, begin)
	h.Calls[12].Process = 2
}

// refusedRequest makes the flight before another end badly, so many seconds before it.
func (h *History) refusedRequest(outcome string, retryAfter time.Duration) {
	h.Requests[1].Outcome, h.Requests[1].Token, h.Requests[1].RetryAfter = outcome, "", retryAfter
	h.Requests[1].Span = during(57, 58)
}

// plantOnOtherNode has a standby serve a token after it learned of the delete.
func plantOnOtherNode(h *History) {
	h.Told = append(h.Told, &Invalidation{during(15, 16), Place{secondNode, 1}, TokenKey, when(13)})
	h.again("T1", 30)
	h.Calls[12].Node = secondNode
}

// plantCompromisedElsewhere has another node serve a token of compromised credentials
// after it learned of them.
func plantCompromisedElsewhere(h *History) {
	h.Told = append(h.Told, &Invalidation{during(91, 92), Place{secondNode, 1}, ConfigKey, when(84)})
	h.again("T3", 94)
	h.Calls[12].Node = secondNode
}

// plantInVain has the report fail because Fuuffy grants no other token.
func plantInVain(h *History) {
	h.Requests[2].Outcome, h.Requests[2].Token = "503", ""
	h.Stored[4].Token, h.Stored[4].Suspect = "T2", true
	h.Calls[4].Outcome, h.Calls[4].Token = Failed, ""
	h.Calls[4].Status = 502
	h.Calls[5].Token, h.Calls[5].Suspect = "T2", true
}

// plantSuspectElsewhere has a standby serve a suspect token after it learned of that.
func plantSuspectElsewhere(h *History) {
	plantInVain(h)
	h.Told = append(h.Told, &Invalidation{during(66, 67), Place{secondNode, 1}, TokenKey, when(64)})
	h.again("T2", 75)
	h.Calls[12].Node = secondNode
}

// plantHungWrite has the last write hang, and the read after it wait for that.
func plantHungWrite(h *History) {
	h.Stored[8].End, h.Calls[10].End, h.Calls[11].End = when(180), when(181), when(182)
}

// plantStale makes the token stale from the 72nd second on, for ten seconds.
func plantStale(h *History) {
	for _, i := range []int{0, 5, 8} {
		h.Stored[i].Config.StaleIfError, h.Stored[i].Config.Buffer = true, 10*time.Second
	}
	h.Requests[2].Life = 20 * time.Second
	h.Calls[5].Stale = true
}

// failsAfterElection has a read fail on the standby, which has become the active node.
func (h *History) failsAfterElection(begin int) {
	h.Started = append(h.Started, &Start{during(begin-2, begin-1), Place{secondNode, 2}, false})
	h.again("", begin)
	h.Calls[12].Node, h.Calls[12].Process, h.Calls[12].Outcome, h.Calls[12].Status = secondNode, 2, Failed, 502
}

// plantLoad has a standby that learned of new credentials load them, and serve a token of the old
// ones after that.
func plantLoad(h *History, begin int, failed bool) {
	if len(h.Told) == 0 {
		plantCompromisedElsewhere(h)
	}
	h.Stored = append(h.Stored, &Stored{Span: during(begin, begin+1), Place: Place{secondNode, 1}, Operation: "get", Key: ConfigKey, Applied: when(begin), Failed: failed})
}

// plantDeadElsewhere has a node whose clock is behind serve a token that has expired.
func plantDeadElsewhere(h *History) {
	h.Clocks = []*Clock{{beginning, firstNode, time.Minute}, {beginning, secondNode, -time.Minute}}
	h.Requests[2].Expires, h.Requests[2].Life = 72*time.Second, 11*time.Second
	h.again("T3", 76)
	h.Calls[12].Node = secondNode
}

// granted has Fuuffy issue a token to a client, when a call asks for a proof.
func (h *History) granted(client string, call int) {
	h.Requests = append(h.Requests, &Request{Span: during(95, 96), Place: Place{firstNode, 1}, Call: call, Client: client, Outcome: Granted, Token: "T5", Expires: time.Hour})
}

// plantCompromisedCurrent makes the compromised pair current again. The one in its place is listed.
func plantCompromisedCurrent(h *History) {
	e := h.Stored[8].Config
	e.Current, e.Unrevoked = h.Stored[0].Config.Current, append(e.Unrevoked, Unrevoked{Client: "C2", Why: "replaced"})
}

// plantStage makes the last write a stage of a client, which ends the rotation.
func plantStage(h *History, client string) {
	h.Calls[10].Op = OpStage
	h.Stored[8].Config.Position = Position{Staged: Pair{ID: "4", Client: client}}
}

// plantMark makes the last write the mark of the compromised client.
func plantMark(h *History) {
	h.Calls[10].Op, h.Calls[10].Client, h.Calls[10].Set = OpMark, "C1", 0
	h.Calls[11].Seen.Reminder = 1001
	h.Stored[8].Config.Reminder = h.Stored[0].Config.Reminder
	h.Stored[8].Config.Unrevoked = nil
}

// plantRejected has Fuuffy reject a client, when a flight asks.
func plantRejected(h *History, client string, begin int) {
	h.Requests = append(h.Requests, &Request{Span: during(begin, begin+1), Place: Place{firstNode, 1}, Client: client, Outcome: Rejected})
}

// plantAcceptedAgain gives a pair up in silence that Fuuffy accepted after it had rejected it.
func plantAcceptedAgain(h *History) {
	plantRejected(h, "C1", 58)
	h.Stored[8].Config.Unrevoked = nil
}

// plantFailedSave restarts an engine that could not save what it replaced a token with.
func plantFailedSave(h *History) {
	h.Stored[4].Applied, h.Stored[4].Failed = Never, true
	h.Calls[6].Span, h.Calls[7].Span = during(77, 78), during(78, 79)
	h.againLater("T2", 75)
}

// plantFailedRemoval is plantFailedSave where the replaced token could not be removed either.
func plantFailedRemoval(h *History) {
	plantFailedSave(h)
	h.Stored = append(h.Stored, &Stored{Span: during(66, 67), Place: Place{firstNode, 1}, Operation: "delete", Key: TokenKey, Applied: Never, Failed: true})
}

// plantQuiet adds the calls to a quiet node, which is restarted before the last.
func plantQuiet(h *History) {
	h.Calm = when(130)
	second, third := Place{firstNode, 2}, Place{firstNode, 3}
	h.Started = append(h.Started, &Start{during(125, 126), second, false}, &Start{during(249, 250), third, false})
	add := func(op string, at Place, s Span, token string) *Call {
		c := &Call{ID: len(h.Calls) + 1, Op: op, Span: s, Entered: s.Begin, Place: at, Outcome: OK, Token: token}
		h.Calls = append(h.Calls, c)
		return c
	}
	get := func(token string, begin int) {
		h.Requests = append(h.Requests, &Request{Span: during(begin+1, begin+2), Place: second, Client: "C2", Outcome: Granted, Token: token, Expires: 2 * time.Hour, Life: time.Hour})
		h.Stored = append(h.Stored, &Stored{Span: during(begin+2, begin+4), Place: second, Operation: "put", Key: TokenKey, Token: token, PairID: "2", Applied: when(begin + 3)})
	}
	add(OpRead, second, during(131, 136), "T5")
	get("T5", 131)
	d := add(OpDeleteToken, second, during(151, 155), "")
	h.Stored = append(h.Stored, &Stored{Span: during(152, 154), Place: second, Call: d.ID, Operation: "delete", Key: TokenKey, Applied: when(153)})
	add(OpRead, second, during(156, 161), "T6")
	get("T6", 156)
	add(OpReport, second, during(240, 248), "T7").Reported = "T6"
	get("T7", 240)
	add(OpRead, third, during(251, 252), "T7")
}
