// SPDX-License-Identifier: MPL-2.0

package history

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// planted is a violation, and the rule that must notice it.
type planted struct {
	rule  func(*History) []Violation
	plant func(*History)
}

// TestJudgeInside plants one violation after the other in a good history of a simulation.
func TestJudgeInside(t *testing.T) {
	testJudge(t, goodInside, map[string]planted{
		"a deleted token is read":                       {judgeDeleted, func(h *History) { h.again("T1", 30) }},
		"a deleted token after a restart":               {judgeDeleted, func(h *History) { h.againLater("T1", 30) }},
		"a deleted token on another node":               {judgeDeleted, plantOnOtherNode},
		"a flight outlives the delete":                  {judgeDeleted, func(h *History) { h.Requests[1].Span = during(10, 18) }},
		"a save comes after the delete":                 {judgeDeleted, func(h *History) { h.Requests[1].Begin, h.Calls[3].Token = when(10), "" }},
		"the delete leaves the token":                   {judgeDeleted, func(h *History) { h.Stored[2].Applied = Never }},
		"a replaced token is read":                      {judgeReported, func(h *History) { h.again("T2", 69) }},
		"a replaced token after a restart":              {judgeReported, func(h *History) { h.againLater("T2", 120) }},
		"a replaced token whose successor is not saved": {judgeReported, plantFailedSave},
		"a report gets its token":                       {judgeReported, func(h *History) { h.Calls[4].Token = "T2" }},
		"a compromised token is read":                   {judgeCompromised, func(h *History) { h.again("T3", 91) }},
		"a token that nobody granted":                   {judgeGranted, func(h *History) { h.Requests[0].Token = "T9" }},
		"a token that is granted later":                 {judgeGranted, func(h *History) { h.Requests[0].Begin = when(11) }},
		"a token of others is read":                     {judgeGranted, func(h *History) { h.Requests[1].Client = "C2" }},
		"an expired token is read":                      {judgeGranted, func(h *History) { h.Requests[0].Expires = 10 * time.Second }},
		"a token that is too old for a job":             {judgeGranted, func(h *History) { h.Calls[1].MinTTL = time.Hour }},
		"a token without a config":                      {judgeGranted, func(h *History) { h.Stored[0].Config = nil }},
		"a write is not seen":                           {judgeWrites, func(h *History) { h.Calls[11].Seen.Reminder = 1001 }},
		"a config vanishes":                             {judgeWrites, func(h *History) { h.Calls[11].Seen.Reminder = 0 }},
		"a refused write is seen":                       {judgeWrites, func(h *History) { h.Calls[10].Outcome = Refused }},
		"a write is seen before it began":               {judgeWrites, func(h *History) { h.Calls[6].Seen.Reminder = 1002 }},
		"a write stores nothing":                        {judgeEntries, func(h *History) { h.Stored[8].Applied = Never }},
		"a refused write stores":                        {judgeEntries, func(h *History) { h.Calls[10].Outcome = Refused }},
		"a write_id is used twice":                      {judgeEntries, func(h *History) { h.Stored[8].Config.WriteID = "W1" }},
		"a setting takes back the credentials":          {judgeEntries, func(h *History) { h.Stored[8].Config.Current = h.Stored[0].Config.Current }},
		"a setting takes back the rotation":             {judgeEntries, func(h *History) { h.Stored[8].Config.Position = Position{} }},
		"credentials take back the rotation":            {judgeEntries, func(h *History) { h.Calls[10].Client, h.Stored[8].Config.Position = "C2", Position{} }},
		"a step takes back a setting":                   {judgeEntries, func(h *History) { h.Stored[5].Config.Reminder = 0 }},
		"a step stores another step":                    {judgeEntries, func(h *History) { h.Stored[5].Config.Previous = Pair{} }},
		"a setting brings back a config":                {judgeEntries, func(h *History) { h.Stored[5].Config = nil }},
		"a flight writes the config":                    {judgeEntries, func(h *History) { h.Stored[8].Call = 0 }},
		"last_rotated moves":                            {judgeEntries, func(h *History) { h.Calls[10].Client = "C2"; h.Stored[8].Config.Current.SetAt = time.Time{} }},
		"an overtaken write is stored":                  {judgeEntries, func(h *History) { h.Stored[7].Applied = when(70) }},
		"the rotation of the past is told":              {judgeLooks, func(h *History) { h.Calls[7].Span = during(102, 103) }},
		"another last_rotated is told":                  {judgeLooks, func(h *History) { h.Calls[7].Seen.RotatedAt = "never" }},
		"new credentials were not tried":                {judgeProofs, func(h *History) { h.Requests[3].Outcome = Rejected }},
		"a flight is the proof":                         {judgeProofs, func(h *History) { h.Requests[3].Call = 0 }},
		"complete without a rejection":                  {judgeProofs, func(h *History) { h.Calls[10].Op = OpComplete; h.granted("C2", 11) }},
		"stage without a rejection":                     {judgeProofs, func(h *History) { plantStage(h, "C3"); h.granted("C3", 11) }},
		"a pair vanishes":                               {judgeGivenUp, func(h *History) { h.Stored[8].Config.Current = Pair{ID: "3", Client: "C3"} }},
		"a pair was rejected long ago":                  {judgeGivenUp, plantAcceptedAgain},
		"a pair was rejected elsewhere": {judgeGivenUp, func(h *History) {
			plantRejected(h, "C1", 86)
			h.Requests[4].Process = 2
			h.Stored[8].Config.Unrevoked = nil
		}},
		"a leak is not listed": {judgeGivenUp, func(h *History) { h.Stored[5].Config.Unrevoked = nil }},
		"a leak is forgotten":  {judgeGivenUp, func(h *History) { h.Stored[8].Config.Unrevoked = nil }},
		"a leak becomes harmless": {judgeGivenUp, func(h *History) {
			h.Stored[8].Config.Unrevoked = []Unrevoked{{Client: "C1", Why: "forced"}}
		}},
		"another client is marked":           {judgeGivenUp, func(h *History) { plantMark(h); h.Calls[10].Client = "C2" }},
		"a compromised pair is current":      {judgeGivenUp, plantCompromisedCurrent},
		"a compromised pair is staged":       {judgeGivenUp, func(h *History) { plantStage(h, "C1") }},
		"a compromised pair is the fallback": {judgeGivenUp, func(h *History) { h.Stored[8].Config.Compromised = false }},
		"two flights at once":                {judgeFlights, func(h *History) { h.Requests[2].Beside = 1 }},
		"a 429 is ignored":                   {judgeHoldOff, func(h *History) { h.refusedRequest("limited", 10*time.Second) }},
		"a rejection is ignored":             {judgeHoldOff, func(h *History) { h.refusedRequest("rejected", 0) }},
		"a call outlives its deadline":       {judgeTime, func(h *History) { h.Calls[4].Limit = 2 * time.Second }},
		"a call takes minutes":               {judgeTime, func(h *History) { h.Calls[1].End.At += 2 * time.Minute }},
		"a call never ends":                  {judgeTime, func(h *History) { h.Calls[5].End = Never }},
		"a token is served before its save":  {judgeSaved, func(h *History) { h.Calls[3].End = when(20) }},
		"a token is never saved":             {judgeSaved, func(h *History) { h.Stored[3].Token = "" }},
		"a save takes long":                  {judgeSaved, func(h *History) { h.Stored[3].End.At += 10 * time.Second }},
		"a cleaned process goes on storing":  {judgeCleaned, func(h *History) { h.Stored[8].End = when(120) }},
		"a cleaned process goes on asking":   {judgeCleaned, func(h *History) { h.Requests[3].End = when(120) }},
		"a call panics":                      {judgePanics, func(h *History) { h.Calls[1].Panicked = "here" }},
		"a cleanup takes long":               {judgeCleaned, func(h *History) { h.Cleaned[0].End = when(118) }},
		"a replaced token on another node": {judgeReported, func(h *History) {
			h.Told = append(h.Told, &Invalidation{during(66, 67), Place{secondNode, 1}, TokenKey, when(64)})
			h.again("T2", 70)
			h.Calls[12].Node = secondNode
		}},
		"a suspect token without a warning":         {judgeSuspect, func(h *History) { plantInVain(h); h.Calls[5].Suspect = false }},
		"a suspect token after a restart":           {judgeSuspect, func(h *History) { plantInVain(h); h.againLater("T2", 75) }},
		"a suspect token whose mark is not stored":  {judgeSuspect, func(h *History) { plantInVain(h); h.Stored[4].Token = ""; h.againLater("T2", 77) }},
		"a suspect token on another node":           {judgeSuspect, plantSuspectElsewhere},
		"a hung write holds up a read":              {judgeTime, plantHungWrite},
		"a start waits for nothing":                 {judgeStarts, func(h *History) { h.Started[0].Span = during(30, 50) }},
		"a reader fails, and the token is there":    {judgeServed, func(h *History) { h.again("", 76); h.Calls[12].Outcome = Failed }},
		"a reader waits, and the token is there":    {judgeServed, func(h *History) { h.again("T3", 76); h.Calls[12].End = when(79) }},
		"a new active node forgets the token":       {judgeServed, func(h *History) { h.failsAfterElection(76) }},
		"a new active node forgets stale_if_error":  {judgeStale, func(h *History) { plantStale(h); h.failsAfterElection(76) }},
		"a reader waits for a stale token":          {judgeStale, func(h *History) { plantStale(h); h.again("T3", 73); h.Calls[12].End = when(77) }},
		"the credentials of the past after a load":  {judgeGranted, func(h *History) { plantLoad(h, 92, true); plantLoad(h, 93, false); h.Calls[12].Span = during(97, 98) }},
		"an expired token of the node's own clock":  {judgeGranted, func(h *History) { plantDeadElsewhere(h); h.Calls[12].Node = firstNode }},
		"a quiet read fails":                        {judgeQuiet, func(h *History) { plantQuiet(h); h.Calls[12].Outcome = Failed }},
		"a quiet read is dear":                      {judgeQuiet, func(h *History) { plantQuiet(h); h.refusedRequest("503", 0); h.Requests[1].Span = during(133, 134) }},
		"a quiet read costs nothing after a delete": {judgeQuiet, func(h *History) { plantQuiet(h); h.Requests[5].Outcome = Lost }},
		"a quiet report replaces nothing":           {judgeQuiet, func(h *History) { plantQuiet(h); h.Calls[15].Token, h.Calls[16].Token = "T6", "T6" }},
		"a quiet node forgets the token":            {judgeQuiet, func(h *History) { plantQuiet(h); h.Calls[16].Token = "T6" }},
		"a quiet node has calls left out":           {judgeQuiet, func(h *History) { plantQuiet(h); h.Calls = h.Calls[:16] }},
		"a compromised token on another node":       {judgeCompromised, plantCompromisedElsewhere},
		"the credentials of the past elsewhere":     {judgeGranted, plantCompromisedElsewhere},
	})
}

// TestJudgeCluster does the same with the history of a real cluster.
func TestJudgeCluster(t *testing.T) {
	testJudge(t, goodCluster, map[string]planted{
		"an answered step is not in the history": {judgeSteps, func(h *History) { h.rewrite(without(3)) }},
		"a step is taken twice": {judgeSteps, func(h *History) {
			h.rewrite(func(lines []string) []string {
				if len(lines) < 4 {
					return lines
				}
				return slices.Insert(lines, 4, stepLine(40, "completed C2 (revoked: C1)"))
			})
		}},
		"a step that nobody took": {judgeSteps, func(h *History) { h.first(OpPromote).Outcome = Refused; h.first(OpPromote).Seen = nil }},
		"a step that only a setting was near": {judgeSteps, func(h *History) {
			h.Calls[0].Outcome = Refused
			h.Calls = append(h.Calls, &Call{ID: 99, Op: OpWriteConfig, Set: 1000, Span: between(1, 3), Outcome: OK})
		}},
		"a step before its operation":       {judgeSteps, func(h *History) { h.first(OpPromote).Begin = at(36); h.first(OpPromote).End = at(37) }},
		"who looks later misses a step":     {judgeSteps, func(h *History) { s := h.lookedLast().Seen; s.Steps = s.Steps[:4] }},
		"two see different steps":           {judgeSteps, func(h *History) { h.lookedLast().Seen.Steps[2] = stepLine(34, "promoted C9 (replaced C1)") }},
		"the history begins anew":           {judgeSteps, func(h *History) { h.lookedLast().Seen.Steps = []string{stepLine(49, "configured C3")} }},
		"the record has a gap":              {judgeSteps, plantGap},
		"a setting is lost":                 {judgeLinear, func(h *History) { h.first(OpReadConfig).Seen.Reminder = 1001 }},
		"a setting is seen before":          {judgeLinear, func(h *History) { h.setting().Begin, h.setting().End = at(29), at(30) }},
		"a refused setting is seen":         {judgeLinear, func(h *History) { h.setting().Outcome = Refused }},
		"an unsent setting is seen":         {judgeLinear, func(h *History) { h.setting().Outcome = Unsent }},
		"the rotation of the past is shown": {judgeLinear, func(h *History) { *h.lookedLast().Seen = *h.first(OpComplete).Seen }},
		"an unstaged client is promoted":    {judgeLinear, func(h *History) { h.first(OpStage).Outcome = Refused; h.first(OpStage).Seen = nil }},
		"a rollback after an emergency":     {judgeLinear, func(h *History) { h.first(OpComplete).Op = OpRollback }},
		"a step twice at once":              {judgeLinear, func(h *History) { o := *h.first(OpComplete); h.Calls = append(h.Calls, &o) }},
		"a compromised client comes back":   {judgeLinear, func(h *History) { h.lookedLast().Seen.Current = "C2" }},
		"a token that nobody granted":       {judgeGranted, func(h *History) { h.Requests[0].Token = "T9" }},
		"a token that is granted later":     {judgeGranted, func(h *History) { h.Requests[0].Begin = at(6) }},
		"a reported token nobody granted":   {judgeGranted, func(h *History) { h.Requests[1].Token = "T9"; h.reads("T2", 24) }},
		"a token of others":                 {judgeGranted, func(h *History) { h.Requests[1].Client = "C2" }},
		"a token of a staged client":        {judgeGranted, func(h *History) { h.Calls[len(h.Calls)-1].Token = "T4" }},
		"a compromised token":               {judgeGranted, func(h *History) { h.reads("T5", 48) }},
		"a token of a completed rotation":   {judgeGranted, func(h *History) { h.reads("T3", 41) }},
		"an expired token":                  {judgeGranted, func(h *History) { h.Requests[0].Expires = 3 * time.Second }},
		"a token too old for a job":         {judgeGranted, func(h *History) { h.reads("T7", 100).MinTTL = 30 * time.Second }},
		"a deleted token":                   {judgeDeleted, func(h *History) { h.reads("T1", 10) }},
		"a request outlives the delete":     {judgeDeleted, func(h *History) { h.Requests[1].Begin = at(6) }},
		"a deleted token in another term": {judgeDeleted, func(h *History) {
			h.reads("T1", 40)
			h.Terms = []*Term{{Span{beginning, at(30)}, firstNode}, {Open(at(31)), secondNode}}
		}},
		"a compromised token, of all":           {judgeCompromised, func(h *History) { h.reads("T5", 48) }},
		"a standby does not hear of the delete": {judgeDeleted, func(h *History) { h.reads("T1", 20); h.StandbysRead = true }},
		"a reported token":                      {judgeReported, func(h *History) { h.reads("T2", 24) }},
		"too many tokens": {judgeRequests, func(h *History) {
			for i := range h.mostGrants() {
				h.Requests = append(h.Requests, &Request{Span: between(12, 13), Client: "C1", Token: fmt.Sprint("T", 100+i)})
			}
		}},
		"the last outage goes on for long": {judgeServedAgain, func(h *History) { h.Over = h.Over.minus(2 * h.ServedWithin()) }},
		"a Fuuffy that fails is not left alone": {judgeRequests, func(h *History) {
			for i := range 20 {
				begin := at(12).minus(-time.Duration(i) * time.Second / 10)
				h.Requests = append(h.Requests, &Request{Span: Span{begin, begin.minus(-time.Second / 20)}, Client: "C1", Outcome: "503"})
			}
		}},
		"requests in quiet times": {judgeRequests, func(h *History) {
			for range 3 {
				h.Requests = append(h.Requests, &Request{Span: between(56, 57), Client: "C3", Token: "T99"})
			}
		}},
		"a node serves nobody":       {judgeServedAgain, func(h *History) { h.Nodes = append(h.Nodes, secondNode) }},
		"a node serves late":         {judgeServedAgain, func(h *History) { h.Healed = h.Healed.minus(2 * h.ServedWithin()); h.Calls = h.Calls[len(h.Calls)-5:] }},
		"a read fails in quiet time": {judgeServedAgain, func(h *History) { h.reads("", 58).Outcome = Refused }},
	})
}

func testJudge(t *testing.T, good func() *History, violations map[string]planted) {
	assert.Empty(t, Judge(good()), "the good history")
	for name, p := range violations {
		t.Run(name, func(t *testing.T) {
			h := good()
			p.plant(h)
			Judge(h) // Every rule copes with it.
			broken := p.rule(h)
			if assert.NotEmpty(t, broken) {
				assert.NotEmpty(t, h.around(broken[0]), "the records around it")
			}
		})
	}
}

// TestJudgeAllowsInside shows the judge what looks bad in a simulation and is not.
func TestJudgeAllowsInside(t *testing.T) {
	testJudgeAllows(t, goodInside, map[string]func(*History){
		"a read beside the delete":         func(h *History) { h.again("T1", 14) },
		"a standby that does not know":     func(h *History) { plantOnOtherNode(h); h.Told[0].End = when(40) },
		"a report of a young token":        func(h *History) { h.Calls[4].Token, h.Calls[4].TooYoung = "T2", true },
		"a save and a removal that failed": plantFailedRemoval,
		"a hold-off that somebody lifted": func(h *History) {
			h.refusedRequest("rejected", 0)
			h.Calls[3].Outcome, h.Calls[3].Token = Failed, ""
			h.Calls[2].End, h.Stored[2].End = when(59), when(59)
		},
		"a leak that is marked": plantMark,
		"a leak that is proved": func(h *History) {
			plantMark(h)
			plantRejected(h, "C1", 95)
			h.Calls[10].Op, h.Requests[4].Call = OpComplete, 11
			h.granted("C2", 11)
			h.Stored[8].Config.Position = Position{}
		},
		"a pair that is listed": func(h *History) {
			h.Calls[10].Op, h.Calls[10].Client, h.Calls[10].Set, h.Calls[11].Seen = OpCompromised, "C3", 0, &Seen{Reminder: 1001, Current: "C3"}
			h.granted("C3", 11)
			e := h.Stored[8].Config
			e.Reminder, e.Previous, e.Current = 1001*time.Second, e.Current, Pair{ID: "3", Client: "C3"}
			e.Unrevoked = append([]Unrevoked{{Client: "C2", Why: compromised}}, e.Unrevoked...)
		},
		"a quiet node":                   plantQuiet,
		"a suspect token with a warning": plantInVain,
		"a mark that could not be stored": func(h *History) {
			plantInVain(h)
			h.Stored[4].Applied, h.Stored[4].Failed = Never, true
			h.againLater("T2", 78)
		},
		"a mark, and a crash before it could be stored": func(h *History) {
			plantInVain(h)
			h.Stored[4].Token = ""
			h.againLater("T2", 71)
		},
		"a mark that had to wait for its turn": func(h *History) {
			plantInVain(h)
			h.Stored[4].Token, h.Stored[4].Operation = "", "get"
			h.Stored[4].Span, h.Calls[4].End = during(60, 65), when(68)
			h.againLater("T2", 78)
		},
		"a removal that had to wait for its turn": func(h *History) {
			plantFailedSave(h)
			h.Stored[4].Span = during(62, 67)
		},
		"a token that had to wait for its turn": func(h *History) {
			h.Stored[3].Operation, h.Stored[3].Token = "get", ""
			h.Stored[3].Span, h.Calls[3].End = during(17, 22), when(23)
		},
		"a replaced token that Fuuffy issued again": func(h *History) {
			h.again("T2", 75)
			h.Requests = append(h.Requests, &Request{Span: during(72, 73), Place: Place{firstNode, 1}, Client: "C1", Outcome: Granted, Token: "T2", Expires: time.Hour})
		},
		"a standby that cannot load":    func(h *History) { plantLoad(h, 92, true) },
		"a node whose clock is behind":  plantDeadElsewhere,
		"a write that hangs for itself": func(h *History) { plantHungWrite(h); h.Calls[11].End, h.Cleaned = when(102), nil },
		"a call that waits for its own reads": func(h *History) {
			h.Calls[11].End.At = 180 * time.Second
			h.Stored = append(h.Stored, &Stored{Span: h.Calls[11].Span, Place: Place{firstNode, 1}, Call: 12, Operation: "get", Key: ConfigKey, Applied: Never, Failed: true})
		},
		"a token that Fuuffy issued again": func(h *History) {
			h.again("T1", 30)
			h.Requests = append(h.Requests, &Request{Span: during(28, 29), Place: Place{firstNode, 1}, Client: "C1", Outcome: Granted, Token: "T1", Expires: time.Hour})
		},
		"a call that waits for a restart": func(h *History) { h.Calls[1].End.At, h.Calls[1].Waited = 3*time.Minute, 3*time.Minute },
	})
}

// TestJudgeAllowsCluster does the same with the history of a real cluster.
func TestJudgeAllowsCluster(t *testing.T) {
	testJudgeAllows(t, goodCluster, map[string]func(*History){
		"a read beside the delete": func(h *History) { h.reads("T1", 7) },
		"a read of a node that was deposed and does not know": func(h *History) {
			h.reads("T1", 9)
			h.Terms = []*Term{{Span{beginning, at(12)}, firstNode}, {Open(at(6)), secondNode}}
		},
		"a standby that has not heard of the delete": func(h *History) { h.reads("T1", 10); h.StandbysRead = true },
		"a standby that has not heard of a step": func(h *History) {
			s := *h.first(OpComplete).Seen
			h.lookedLast().Seen, h.StandbysRead = &s, true
		},
		"a standby that was cut off from the delete": func(h *History) {
			h.reads("T1", 24)
			h.StandbysRead = true
			h.Faults = []*Fault{{Span: between(7, 20), Kind: "cut off", Node: secondNode}}
		},
		"a token that could not be saved": func(h *History) { h.reads("T2", 24); h.Unsaved = []Moment{at(21)} },
		"a step of unknown outcome that was taken": func(h *History) {
			o := h.first(OpPromote)
			o.Outcome, o.End, o.Seen = Unknown, at(60), nil
		},
		"a step of unknown outcome that was not": func(h *History) {
			h.Calls = append(h.Calls, &Call{ID: 99, Op: OpRollback, Span: between(35, 36), Outcome: Unknown})
		},
		"a setting of unknown outcome that is seen": func(h *History) {
			o := h.setting()
			o.Outcome, o.End = Unknown, Never
		},
		"a token of the previous client during a rotation": func(h *History) { h.reads("T3", 36) },
		"a proof that outlives the delete": func(h *History) {
			h.Requests[1].Begin, h.Requests[1].End = at(6), at(7)
			h.Calls = append(h.Calls, &Call{ID: 99, Op: OpStage, Client: "C9", Span: between(6, 9), Outcome: Refused})
		},
	})
}

func testJudgeAllows(t *testing.T, good func() *History, plants map[string]func(*History)) {
	for name, plant := range plants {
		t.Run(name, func(t *testing.T) {
			h := good()
			plant(h)
			for _, v := range Judge(h) {
				t.Errorf("%s: %s", v.Rule, v.Text)
			}
		})
	}
}

// TestUndecided: a record says which rules it can't decide, and each rule is decided by one.
func TestUndecided(t *testing.T) {
	simulated, clustered := goodInside().Undecided(), goodCluster().Undecided()
	assert.Regexp(t, "^not decided, because the record lacks the run of a real cluster: .*config and rotation are linearizable", simulated)
	assert.Regexp(t, "^not decided, because the record lacks what happens inside the nodes: .*one token request at a time", clustered)
	for _, rule := range rules {
		assert.False(t, strings.Contains(simulated, rule.name) && strings.Contains(clustered, rule.name), rule.name)
	}
}
