// SPDX-License-Identifier: MPL-2.0

package fuuffy

import "time"

// when is a moment of a history made by hand: one second for each number.
func when(seq int) moment { return moment{seq, time.Duration(seq) * time.Second} }

func during(begin, end int) span { return span{when(begin), when(end)} }

// goodHistory breaks no rule: an engine is configured, its token is read, deleted,
// reported, the credentials are compromised, a setting is written, and it is cleaned up.
func goodHistory() *history {
	of := func(id int, op string, s span, c call) *call {
		c.id, c.op, c.span, c.entered, c.answered, c.process, c.outcome = id, op, s, s.begin, firstNode, 1, endedWell
		return &c
	}
	put := func(call int, key string, s span, applied int, what storageRecord) *storageRecord {
		what.call, what.key, what.span, what.applied, what.place, what.operation = call, key, s, when(applied), place{firstNode, 1}, "put"
		return &what
	}
	granted := func(call int, client, token string, s span) *requestRecord {
		return &requestRecord{span: s, place: place{firstNode, 1}, call: call, client: client, outcome: "granted", token: token, expires: time.Hour, life: time.Hour}
	}
	began := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	first := entry{WriteID: "W1", credentials: credentials{Current: pairOfEntry{ID: "1", Client: "C1", SetAt: began}}, settingValues: settingValues{Reminder: 1001}}
	second := first
	second.WriteID, second.Current = "W2", pairOfEntry{ID: "2", Client: "C2", SetAt: began.Add(time.Hour)}
	second.position, second.Unrevoked = position{Previous: &first.Current, Compromised: true}, []unrevoked{{Client: "C1", Why: whyCompromised}}
	third := second
	third.WriteID, third.Reminder = "W3", 1002

	erased := put(3, tokenKey, during(12, 14), 13, storageRecord{})
	erased.operation = "delete"
	read := put(11, configKey, during(95, 96), 96, storageRecord{})
	read.operation = "get"
	return &history{
		calls: []*call{
			of(1, opWriteConfig, during(1, 9), call{pair: "C1", set: 1001}),
			of(2, opRead, during(10, 11), call{token: "T1"}),
			of(3, opDeleteToken, during(12, 15), call{}),
			of(4, opRead, during(16, 22), call{token: "T2"}),
			of(5, opReport, during(60, 68), call{reported: "T2", token: "T3"}),
			of(6, opRead, during(70, 71), call{token: "T3"}),
			of(7, opReadConfig, during(72, 73), call{reminder: 1001}),
			of(8, opReadRotation, during(74, 75), call{rotation: rotationSeen{"C1", stateIdle, "2026-11-24T00:00:00Z"}}),
			of(9, opCompromised, during(80, 90), call{pair: "C2"}),
			of(10, opRead, during(92, 93), call{token: "T4"}),
			of(11, opWriteConfig, during(95, 99), call{set: 1002}),
			of(12, opReadConfig, during(100, 101), call{reminder: 1002}),
		},
		stored: []*storageRecord{
			put(1, configKey, during(4, 6), 5, storageRecord{config: &first}),
			put(1, tokenKey, during(6, 8), 7, storageRecord{token: "T1", pairID: "1"}),
			erased,
			put(0, tokenKey, during(19, 21), 20, storageRecord{token: "T2", pairID: "1"}),
			put(0, tokenKey, during(63, 65), 64, storageRecord{token: "T3", pairID: "1"}),
			put(9, configKey, during(83, 85), 84, storageRecord{config: &second}),
			put(9, tokenKey, during(86, 88), 87, storageRecord{token: "T4", pairID: "2"}),
			read,
			put(11, configKey, during(97, 99), 98, storageRecord{config: &third}),
		},
		asked: []*requestRecord{
			granted(1, "C1", "T1", during(2, 3)),
			granted(0, "C1", "T2", during(17, 18)),
			granted(0, "C1", "T3", during(61, 62)),
			granted(9, "C2", "T4", during(81, 82)),
		},
		cleaned: []*cleanup{{during(110, 112), place{firstNode, 1}}},
		started: []*startRecord{{during(0, 1), place{firstNode, 1}, false}, {during(0, 1), place{secondNode, 1}, true}},
	}
}

// again adds a read that gets a token.
func (h *history) again(token string, begin int) {
	h.calls = append(h.calls, &call{id: len(h.calls) + 1, op: opRead, span: during(begin, begin+1), entered: when(begin), answered: firstNode, process: 1, outcome: endedWell, token: token})
}

// againLater adds a read that gets a token after a restart.
func (h *history) againLater(token string, begin int) {
	h.started = append(h.started, &startRecord{during(begin-2, begin-1), place{firstNode, 2}, false})
	h.again(token, begin)
	h.calls[12].process = 2
}

// refusedRequest makes the flight before another end badly, so many seconds before it.
func (h *history) refusedRequest(outcome string, retryAfter time.Duration) {
	h.asked[1].outcome, h.asked[1].token, h.asked[1].retryAfter = outcome, "", retryAfter
	h.asked[1].span = during(57, 58)
}

// plantOnOtherNode has a standby serve a token after it learned of the delete.
func plantOnOtherNode(h *history) {
	h.told = append(h.told, &invalidation{during(15, 16), place{secondNode, 1}, tokenKey, when(13)})
	h.again("T1", 30)
	h.calls[12].answered = secondNode
}

// plantCompromisedElsewhere has another node serve a token of compromised credentials
// after it learned of them.
func plantCompromisedElsewhere(h *history) {
	h.told = append(h.told, &invalidation{during(91, 92), place{secondNode, 1}, configKey, when(84)})
	h.again("T3", 94)
	h.calls[12].answered = secondNode
}

// plantInVain has the report fail because Fuuffy grants no other token.
func plantInVain(h *history) {
	h.asked[2].outcome, h.asked[2].token = "503", ""
	h.stored[4].token, h.stored[4].suspect = "T2", true
	h.calls[4].outcome, h.calls[4].token = "HTTP 502", ""
	h.calls[5].token, h.calls[5].suspect = "T2", true
}

// plantSuspectElsewhere has a standby serve a suspect token after it learned of that.
func plantSuspectElsewhere(h *history) {
	plantInVain(h)
	h.told = append(h.told, &invalidation{during(66, 67), place{secondNode, 1}, tokenKey, when(64)})
	h.again("T2", 75)
	h.calls[12].answered = secondNode
}

// plantHungWrite has the last write hang, and the read after it wait for that.
func plantHungWrite(h *history) {
	h.stored[8].end, h.calls[10].end, h.calls[11].end = when(180), when(181), when(182)
}

// plantStale makes the token stale from the 72nd second on, for ten seconds.
func plantStale(h *history) {
	for _, i := range []int{0, 5, 8} {
		h.stored[i].config.StaleIfError, h.stored[i].config.Buffer = true, 10*time.Second
	}
	h.asked[2].life = 20 * time.Second
	h.calls[5].stale = true
}

// failsAfterElection has a read fail on the standby, which has become the active node.
func (h *history) failsAfterElection(begin int) {
	h.started = append(h.started, &startRecord{during(begin-2, begin-1), place{secondNode, 2}, false})
	h.again("", begin)
	h.calls[12].answered, h.calls[12].process, h.calls[12].outcome = secondNode, 2, "HTTP 502"
}

// plantLoad has a standby that learned of new credentials load them, and serve a token of the old
// ones after that.
func plantLoad(h *history, begin int, failed bool) {
	if len(h.told) == 0 {
		plantCompromisedElsewhere(h)
	}
	h.stored = append(h.stored, &storageRecord{span: during(begin, begin+1), place: place{secondNode, 1}, operation: "get", key: configKey, applied: when(begin), failed: failed})
}

// plantDeadElsewhere has a node whose clock is behind serve a token that has expired.
func plantDeadElsewhere(h *history) {
	h.clocks = []*clockSetting{{moment{}, firstNode, time.Minute}, {moment{}, secondNode, -time.Minute}}
	h.asked[2].expires, h.asked[2].life = 72*time.Second, 11*time.Second
	h.again("T3", 76)
	h.calls[12].answered = secondNode
}

// plantStage makes the last write a stage of a client, which ends the rotation.
func plantStage(h *history, client string) {
	h.calls[10].op = opStage
	h.stored[8].config.position = position{Staged: &pairOfEntry{ID: "4", Client: client}}
}

// plantMark makes the last write the mark of the compromised client.
func plantMark(h *history) {
	h.calls[10].op, h.calls[10].pair, h.calls[10].set = opMark, "C1", 0
	h.calls[11].reminder = 1001
	h.stored[8].config.Reminder = h.stored[0].config.Reminder
	h.stored[8].config.Unrevoked = nil
}

// plantRejected has Fuuffy reject a client, when a flight asks.
func plantRejected(h *history, client string, begin int) {
	h.asked = append(h.asked, &requestRecord{span: during(begin, begin+1), place: place{firstNode, 1}, client: client, outcome: "rejected"})
}

// plantAcceptedAgain gives a pair up in silence that Fuuffy accepted after it had rejected it.
func plantAcceptedAgain(h *history) {
	plantRejected(h, "C1", 58)
	h.stored[8].config.Unrevoked = nil
}

// plantFailedSave restarts an engine that could not save what it replaced a token with.
func plantFailedSave(h *history) {
	h.stored[4].applied, h.stored[4].failed = never, true
	h.calls[6].span, h.calls[7].span = during(77, 78), during(78, 79)
	h.againLater("T2", 75)
}

// plantFailedRemoval is plantFailedSave where the replaced token could not be removed either.
func plantFailedRemoval(h *history) {
	plantFailedSave(h)
	h.stored = append(h.stored, &storageRecord{span: during(66, 67), place: place{firstNode, 1}, operation: "delete", key: tokenKey, applied: never, failed: true})
}
