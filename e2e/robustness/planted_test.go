// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const second = time.Second

// line is a line of rotate-root's history.
func line(at int, what string) string { return fmt.Sprintf("2026-11-25T00:00:%02dZ %s", at, what) }

// goodHistory breaks no rule: the engine is configured, its token is read, deleted and
// reported, a setting is written, the credentials are rotated, and then compromised.
func goodHistory() *history {
	h := &history{
		Began: time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC), Life: tokenLife, Nodes: 1,
		Terms: []term{{0, 0, never}}, Healed: 52 * second, Quiet: 55 * second, Outage: 70 * second, Over: 76 * second, End: 80 * second,
	}
	op := func(kind string, begin, end int, o operation) {
		o.ID, o.Worker, o.Kind, o.Begin, o.End, o.Outcome = len(h.Operations)+1, "worker", kind, time.Duration(begin)*second, time.Duration(end)*second, ended
		h.Operations = append(h.Operations, &o)
	}
	asked := func(client, token string, begin, end int) {
		r := &request{Begin: time.Duration(begin)*second + second/2, End: time.Duration(end) * second, Client: client, Token: token, Status: 401}
		if token != "" {
			r.Status, r.Expires = 200, r.End+h.Life
		}
		h.Requests = append(h.Requests, r)
	}
	steps := []string{
		line(2, "configured C1"), line(31, "staged C2"), line(34, "promoted C2 (replaced C1)"), line(39, "completed C2 (revoked: C1)"),
		line(46, "staged C3"), line(46, "promoted C3 (replaced C2, which is compromised)"),
	}
	see := func(current, staged, previous string, compromised bool, n int) *seen {
		return &seen{Current: current, Staged: staged, Previous: previous, Compromised: compromised, Steps: slices.Clone(steps[:n])}
	}
	op(opCredentials, 1, 3, operation{Client: "C1", Set: 1001})
	asked("C1", "T1", 1, 2)
	op(opRead, 4, 5, operation{Token: "T1"})
	op(opReadSteps, 5, 6, operation{Seen: see("C1", "", "", false, 1)})
	op(opDelete, 7, 8, operation{})
	op(opRead, 9, 11, operation{Token: "T2"})
	asked("C1", "T2", 9, 10)
	op(opReport, 20, 22, operation{Reported: "T2", Token: "T3"})
	asked("C1", "T3", 20, 21)
	op(opRead, 23, 24, operation{Token: "T3", MinTTL: 20 * second})
	op(opSettings, 25, 26, operation{Set: 1002})
	op(opReadConfig, 27, 28, operation{Seen: &seen{Current: "C1", Reminder: 1002}})
	op(opStage, 30, 32, operation{Client: "C2", Seen: see("C1", "C2", "", false, 2)})
	asked("C2", "T4", 30, 31)
	op(opPromote, 33, 35, operation{Seen: see("C2", "", "C1", false, 3)})
	asked("C2", "T5", 33, 34)
	op(opRead, 36, 37, operation{Token: "T5"})
	op(opComplete, 38, 40, operation{Seen: see("C2", "", "", false, 4)})
	asked("C2", "T6", 38, 39)
	asked("C1", "", 38, 39)
	op(opEmergency, 45, 47, operation{Client: "C3", Seen: see("C3", "", "C2", true, 6)})
	asked("C3", "T7", 45, 46)
	op(opRead, 48, 49, operation{Token: "T7"})
	op(opReadSteps, 50, 51, operation{Seen: see("C3", "", "C2", true, 6)})
	op(opRead, 53, 54, operation{Token: "T7"})
	op(opRead, 56, 57, operation{Token: "T7"})
	op(opDelete, 70, 71, operation{})
	asked("C3", "", 71, 72)
	asked("C3", "T8", 76, 77)
	op(opRead, 76, 78, operation{Token: "T8"})
	return h
}

// first returns the first operation of a kind.
func (h *history) first(kind string) *operation {
	return h.Operations[slices.IndexFunc(h.Operations, func(o *operation) bool { return o.Kind == kind })]
}

// again adds a read that gets a token.
func (h *history) again(token string, begin int) *operation {
	o := &operation{ID: len(h.Operations) + 1, Worker: "again", Kind: opRead, Token: token, Outcome: ended,
		Begin: time.Duration(begin) * second, End: time.Duration(begin)*second + second/2}
	h.Operations = append(h.Operations, o)
	return o
}

// rewrite edits the steps that everyone saw.
func (h *history) rewrite(edit func([]string) []string) {
	for _, o := range h.showSteps() {
		o.Seen.Steps = edit(o.Seen.Steps)
	}
}

// lookedLast is the last look at the rotation.
func (h *history) lookedLast() *operation {
	shown := h.showSteps()
	return shown[len(shown)-1]
}

// without leaves a line out of what was seen.
func without(i int) func([]string) []string {
	return func(lines []string) []string {
		if len(lines) <= i {
			return lines
		}
		return slices.Delete(lines, i, i+1)
	}
}

// TestJudge plants one violation after the other in a good history.
func TestJudge(t *testing.T) {
	assert.Empty(t, judge(goodHistory()), "the good history")
	for name, tt := range map[string]struct {
		rule  func(*history) []violation
		plant func(*history)
	}{
		"an answered step is not in the history": {judgeSteps, func(h *history) { h.rewrite(without(3)) }},
		"a step is taken twice": {judgeSteps, func(h *history) {
			h.rewrite(func(lines []string) []string {
				if len(lines) < 4 {
					return lines
				}
				return slices.Insert(lines, 4, line(40, "completed C2 (revoked: C1)"))
			})
		}},
		"a step that nobody took":               {judgeSteps, func(h *history) { h.first(opPromote).Outcome = refused; h.first(opPromote).Seen = nil }},
		"a step before its operation":           {judgeSteps, func(h *history) { h.first(opPromote).Begin = 36 * second; h.first(opPromote).End = 37 * second }},
		"who looks later misses a step":         {judgeSteps, func(h *history) { s := h.lookedLast().Seen; s.Steps = s.Steps[:4] }},
		"two see different steps":               {judgeSteps, func(h *history) { h.lookedLast().Seen.Steps[2] = line(34, "promoted C9 (replaced C1)") }},
		"the history begins anew":               {judgeSteps, func(h *history) { h.lookedLast().Seen.Steps = []string{line(49, "configured C3")} }},
		"the record has a gap":                  {judgeSteps, plantGap},
		"a setting is lost":                     {judgeLinear, func(h *history) { h.first(opReadConfig).Seen.Reminder = 1001 }},
		"a setting is seen before":              {judgeLinear, func(h *history) { h.first(opSettings).Begin, h.first(opSettings).End = 29*second, 30*second }},
		"a refused setting is seen":             {judgeLinear, func(h *history) { h.first(opSettings).Outcome = refused }},
		"an unsent setting is seen":             {judgeLinear, func(h *history) { h.first(opSettings).Outcome = unsent }},
		"the rotation of the past is shown":     {judgeLinear, func(h *history) { *h.lookedLast().Seen = *h.first(opComplete).Seen }},
		"an unstaged client is promoted":        {judgeLinear, func(h *history) { h.first(opStage).Outcome = refused; h.first(opStage).Seen = nil }},
		"a rollback after an emergency":         {judgeLinear, func(h *history) { h.first(opComplete).Kind = opRollback }},
		"a step twice at once":                  {judgeLinear, func(h *history) { o := *h.first(opComplete); h.Operations = append(h.Operations, &o) }},
		"a compromised client comes back":       {judgeLinear, func(h *history) { h.lookedLast().Seen.Current = "C2" }},
		"a token that nobody granted":           {judgeGranted, func(h *history) { h.Requests[0].Token = "T9" }},
		"a token that is granted later":         {judgeGranted, func(h *history) { h.Requests[0].Begin = 6 * second }},
		"a token of others":                     {judgeGranted, func(h *history) { h.Requests[1].Client = "C2" }},
		"a token of a staged client":            {judgeGranted, func(h *history) { h.Operations[len(h.Operations)-1].Token = "T4" }},
		"a compromised token":                   {judgeGranted, func(h *history) { h.again("T5", 48) }},
		"a token of a completed rotation":       {judgeGranted, func(h *history) { h.again("T3", 41) }},
		"an expired token":                      {judgeGranted, func(h *history) { h.Requests[0].Expires = 3 * second }},
		"a token too old for a job":             {judgeGranted, func(h *history) { h.again("T7", 100).MinTTL = 30 * second }},
		"a deleted token":                       {judgeDeleted, func(h *history) { h.again("T1", 10) }},
		"a request outlives the delete":         {judgeDeleted, func(h *history) { h.Requests[1].Begin = 6 * second }},
		"a deleted token in another term":       {judgeDeleted, func(h *history) { h.again("T1", 40); h.Terms = []term{{0, 0, 30 * second}, {1, 31 * second, never}} }},
		"a standby does not hear of the delete": {judgeDeleted, func(h *history) { h.again("T1", 20); h.StandbysRead = true }},
		"a reported token":                      {judgeReported, func(h *history) { h.again("T2", 24) }},
		"too many tokens": {judgeRequests, func(h *history) {
			for i := range h.mostGrants() {
				h.Requests = append(h.Requests, &request{Begin: 12 * second, End: 13 * second, Client: "C1", Token: fmt.Sprint("T", 100+i)})
			}
		}},
		"the last outage goes on for long": {judgeServed, func(h *history) { h.Over -= 2 * servedWithin }},
		"a Fuuffy that fails is not left alone": {judgeRequests, func(h *history) {
			for i := range 20 {
				at := 12*second + time.Duration(i)*second/10
				h.Requests = append(h.Requests, &request{Begin: at, End: at + second/20, Client: "C1", Status: 503})
			}
		}},
		"requests in quiet times": {judgeRequests, func(h *history) {
			for range 3 {
				h.Requests = append(h.Requests, &request{Begin: 56 * second, End: 57 * second, Client: "C3", Token: "T99"})
			}
		}},
		"a node serves nobody":       {judgeServed, func(h *history) { h.Nodes = 2 }},
		"a node serves late":         {judgeServed, func(h *history) { h.Healed -= 2 * servedWithin; h.Operations = h.Operations[len(h.Operations)-5:] }},
		"a read fails in quiet time": {judgeServed, func(h *history) { h.again("", 58).Outcome = refused }},
	} {
		t.Run(name, func(t *testing.T) {
			h := goodHistory()
			tt.plant(h)
			h.prepare()
			found := tt.rule(h)
			if assert.NotEmpty(t, found) {
				assert.NotEmpty(t, h.around(found[0]), "the records near it")
			}
		})
	}
}

// plantGap has the last observer see ten steps that no one else saw.
func plantGap(h *history) {
	var lines []string
	for i := range maxLines {
		lines = append(lines, line(47, fmt.Sprintf("staged C%d", 10+i)))
	}
	h.lookedLast().Seen.Steps = lines
}

// TestJudgeAllows shows the judge what looks bad and is not.
func TestJudgeAllows(t *testing.T) {
	for name, plant := range map[string]func(*history){
		"a read beside the delete": func(h *history) { h.again("T1", 7) },
		"a read of a node that was deposed and does not know": func(h *history) {
			h.again("T1", 9)
			h.Terms = []term{{0, 0, 12 * second}, {1, 6 * second, never}}
		},
		"a standby that has not heard of the delete": func(h *history) { h.again("T1", 10); h.StandbysRead = true },
		"a standby that has not heard of a step": func(h *history) {
			s := *h.first(opComplete).Seen
			h.lookedLast().Seen, h.StandbysRead = &s, true
		},
		"a standby that was cut off from the delete": func(h *history) {
			h.again("T1", 24)
			h.StandbysRead = true
			h.Faults = []*disturbance{{Kind: "cut off", Node: 1, Begin: 7 * second, End: 20 * second}}
		},
		"a token that could not be saved": func(h *history) { h.again("T2", 24); h.Unsaved = []moment{21 * second} },
		"a step of unknown outcome that was taken": func(h *history) {
			o := h.first(opPromote)
			o.Outcome, o.End, o.Seen = unknown, 60*second, nil
		},
		"a step of unknown outcome that was not": func(h *history) {
			h.Operations = append(h.Operations, &operation{ID: 99, Kind: opRollback, Begin: 35 * second, End: 36 * second, Outcome: unknown})
		},
		"a setting of unknown outcome that is seen": func(h *history) {
			o := h.first(opSettings)
			o.Outcome, o.End = unknown, never
		},
		"a token of the previous client during a rotation": func(h *history) { h.again("T3", 36) },
		"a proof that outlives the delete": func(h *history) {
			h.Requests[1].Begin, h.Requests[1].End = 6*second, 7*second
			h.Operations = append(h.Operations, &operation{ID: 99, Kind: opStage, Client: "C9", Begin: 6 * second, End: 9 * second, Outcome: refused})
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := goodHistory()
			plant(h)
			for _, v := range judge(h) {
				t.Errorf("%s: %s", v.rule, v.text)
			}
		})
	}
}

// TestTerms: a node takes itself for the active one until it steps down, can't start, dies,
// or is elected again.
func TestTerms(t *testing.T) {
	file := filepath.Join(t.TempDir(), "server.log")
	var log string
	for _, l := range []struct {
		at   int
		text string
	}{
		{1, "[INFO]  core: acquired lock, enabling active operation"},
		{3, "[WARN]  core: stepping down from active operation to standby"},
		{4, "[INFO]  core: pre-seal teardown complete"},
		{10, "[INFO]  core: acquired lock, enabling active operation"},
		{12, "[ERROR] core: post-unseal setup failed: error=\"no space left on device\""},
		{20, "[INFO]  core: acquired lock, enabling active operation"},
		{25, "[INFO]  core: acquired lock, enabling active operation"},
		{40, "[INFO]  core: acquired lock, enabling active operation"},
	} {
		log += fmt.Sprintf("2026-11-25T00:00:%02d.000Z %s\n", l.at, l.text)
	}
	require.NoError(t, os.WriteFile(file, []byte(log), 0o600))
	h := &history{Began: time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)}
	require.NoError(t, h.readLog(0, file, []moment{30 * second}))
	assert.Equal(t, []term{
		{0, 1 * second, 4 * second}, {0, 10 * second, 12 * second}, {0, 20 * second, 25 * second}, {0, 25 * second, 30 * second}, {0, 40 * second, never},
	}, h.Terms)
}

// TestCauses: of operations of unknown outcome, a step is due to the last that had begun. The
// others may never have happened.
func TestCauses(t *testing.T) {
	h := goodHistory()
	promote := h.first(opPromote)
	promote.Outcome, promote.End, promote.Seen = unknown, 60*second, nil
	for _, begin := range []moment{28 * second, 29 * second} {
		h.Operations = slices.Insert(h.Operations, 0, &operation{ID: 99, Kind: opPromote, Begin: begin, End: 60 * second, Outcome: unknown})
	}
	assert.Empty(t, judge(h))
	assert.Same(t, promote, h.steps[2].cause)
}

// TestCausesThatHadNotBegun: of operations of unknown outcome, a step is due to one that had
// begun when the engine took it, whichever was recorded first.
func TestCausesThatHadNotBegun(t *testing.T) {
	for _, at := range []int{0, len(goodHistory().Operations)} {
		h := goodHistory()
		promote := h.first(opPromote)
		promote.Outcome, promote.End, promote.Seen = unknown, 60*second, nil
		h.Operations = slices.Insert(h.Operations, at, &operation{ID: 99, Kind: opPromote, Begin: 34*second + second/2, End: 60 * second, Outcome: unknown})
		h.Operations = append(h.Operations, &operation{ID: 100, Worker: "looks", Kind: opReadConfig, Begin: 34*second + second/10, End: 34*second + second/4,
			Outcome: ended, Seen: &seen{Current: "C2", Reminder: 1002}})
		assert.Empty(t, judge(h))
		assert.Same(t, promote, h.steps[2].cause)
	}
}

// TestKeptHistory judges a history that was kept as it judged the original, and draws it.
func TestKeptHistory(t *testing.T) {
	h := goodHistory()
	h.first(opReadConfig).Seen.Reminder = 1001
	file := filepath.Join(t.TempDir(), "history.json")
	require.NoError(t, h.save(file))

	kept, err := readHistory(file)
	require.NoError(t, err)
	violations := judge(kept)
	assert.Equal(t, judge(h), violations)
	require.Len(t, violations, 1)
	assert.Equal(t, ruleLinear, violations[0].rule)
	drawing := filepath.Join(t.TempDir(), "drawing.html")
	require.NoError(t, kept.drawing(drawing))
	assert.FileExists(t, drawing)
}

// TestSchedule: the seed decides what goes wrong, and when.
func TestSchedule(t *testing.T) {
	faults := func(seed uint64) string {
		return fmt.Sprint(schedule(stream(seed, "nodes"), nodeFaults, time.Minute, time.Second, 6*time.Second))
	}
	assert.Equal(t, faults(1), faults(1))
	assert.NotEqual(t, faults(1), faults(2))
}
