// SPDX-License-Identifier: MPL-2.0

package history

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// TestJudge plants one violation after the other in a good history.
func TestJudge(t *testing.T) {
	assert.Empty(t, Judge(goodHistory()), "the good history")
	for name, tt := range map[string]struct {
		rule  func(*History) []Violation
		plant func(*History)
	}{
		"a deleted token is read":                       {judgeDeleted, func(h *History) { h.again("T1", 30) }},
		"a deleted token after a restart":               {judgeDeleted, func(h *History) { h.againLater("T1", 30) }},
		"a deleted token on another node":               {judgeDeleted, plantOnOtherNode},
		"a flight outlives the delete":                  {judgeDeleted, func(h *History) { h.Asked[1].Span = during(10, 18) }},
		"a save comes after the delete":                 {judgeDeleted, func(h *History) { h.Asked[1].Begin, h.Calls[3].Token = when(10), "" }},
		"the delete leaves the token":                   {judgeDeleted, func(h *History) { h.Stored[2].Applied = Never }},
		"a replaced token is read":                      {judgeReported, func(h *History) { h.again("T2", 69) }},
		"a replaced token after a restart":              {judgeReported, func(h *History) { h.againLater("T2", 120) }},
		"a replaced token whose successor is not saved": {judgeReported, plantFailedSave},
		"a report gets its token":                       {judgeReported, func(h *History) { h.Calls[4].Token = "T2" }},
		"a compromised token is read":                   {judgeCompromised, func(h *History) { h.again("T3", 91) }},
		"a token that nobody granted":                   {judgeGranted, func(h *History) { h.Asked[0].Token = "T9" }},
		"a token that is granted later":                 {judgeGranted, func(h *History) { h.Asked[0].Begin = when(11) }},
		"a token of others is read":                     {judgeGranted, func(h *History) { h.Asked[1].Client = "C2" }},
		"an expired token is read":                      {judgeGranted, func(h *History) { h.Asked[0].Expires = 10 * time.Second }},
		"a token that is too old for a job":             {judgeGranted, func(h *History) { h.Calls[1].MinTTL = time.Hour }},
		"a token without a config":                      {judgeGranted, func(h *History) { h.Stored[0].Config = nil }},
		"a write is not seen":                           {judgeWrites, func(h *History) { h.Calls[11].Reminder = 1001 }},
		"a config vanishes":                             {judgeWrites, func(h *History) { h.Calls[11].Reminder = 0 }},
		"a refused write is seen":                       {judgeWrites, func(h *History) { h.Calls[10].Outcome = Refused }},
		"a write is seen before it began":               {judgeWrites, func(h *History) { h.Calls[6].Reminder = 1002 }},
		"a write stores nothing":                        {judgeEntries, func(h *History) { h.Stored[8].Applied = Never }},
		"a refused write stores":                        {judgeEntries, func(h *History) { h.Calls[10].Outcome = Refused }},
		"a write_id is used twice":                      {judgeEntries, func(h *History) { h.Stored[8].Config.WriteID = "W1" }},
		"a setting takes back the credentials":          {judgeEntries, func(h *History) { h.Stored[8].Config.Current = h.Stored[0].Config.Current }},
		"a setting takes back the rotation":             {judgeEntries, func(h *History) { h.Stored[8].Config.Position = Position{} }},
		"credentials take back the rotation":            {judgeEntries, func(h *History) { h.Calls[10].Pair, h.Stored[8].Config.Position = "C2", Position{} }},
		"a step takes back a setting":                   {judgeEntries, func(h *History) { h.Stored[5].Config.Reminder = 0 }},
		"a setting brings back a config":                {judgeEntries, func(h *History) { h.Stored[5].Config = nil }},
		"a flight writes the config":                    {judgeEntries, func(h *History) { h.Stored[8].Call = 0 }},
		"last_rotated moves":                            {judgeEntries, func(h *History) { h.Stored[8].Config.Current.SetAt = time.Time{} }},
		"an overtaken write is stored":                  {judgeEntries, func(h *History) { h.Stored[7].Applied = when(70) }},
		"the rotation of the past is told":              {judgeRotationReads, func(h *History) { h.Calls[7].Span = during(102, 103) }},
		"another last_rotated is told":                  {judgeRotationReads, func(h *History) { h.Calls[7].Rotation.LastRotated = "never" }},
		"new credentials were not tried":                {judgeProofs, func(h *History) { h.Asked[3].Outcome = "rejected" }},
		"a flight is the proof":                         {judgeProofs, func(h *History) { h.Asked[3].Call = 0 }},
		"complete without a rejection":                  {judgeProofs, func(h *History) { h.Calls[10].Op = OpComplete; h.Asked[3].Call = 11 }},
		"stage without a rejection":                     {judgeProofs, func(h *History) { plantStage(h, "C3"); h.Asked[3].Client, h.Asked[3].Call = "C3", 11 }},
		"a pair vanishes":                               {judgeGivenUp, func(h *History) { h.Stored[8].Config.Current = Pair{ID: "3", Client: "C3"} }},
		"a pair was rejected long ago":                  {judgeGivenUp, plantAcceptedAgain},
		"a pair was rejected elsewhere": {judgeGivenUp, func(h *History) {
			plantRejected(h, "C1", 86)
			h.Asked[4].Process = 2
			h.Stored[8].Config.Unrevoked = nil
		}},
		"a leak is not listed": {judgeGivenUp, func(h *History) { h.Stored[5].Config.Unrevoked = nil }},
		"a leak is forgotten":  {judgeGivenUp, func(h *History) { h.Stored[8].Config.Unrevoked = nil }},
		"a leak becomes harmless": {judgeGivenUp, func(h *History) {
			h.Stored[8].Config.Unrevoked = []Unrevoked{{Client: "C1", Why: "forced"}}
		}},
		"another client is marked":           {judgeGivenUp, func(h *History) { plantMark(h); h.Calls[10].Pair = "C2" }},
		"a compromised pair is current":      {judgeGivenUp, func(h *History) { h.Stored[8].Config.Current = h.Stored[0].Config.Current }},
		"a compromised pair is staged":       {judgeGivenUp, func(h *History) { plantStage(h, "C1") }},
		"a compromised pair is the fallback": {judgeGivenUp, func(h *History) { h.Stored[8].Config.Compromised = false }},
		"two flights at once":                {judgeRequests, func(h *History) { h.Asked[2].Beside = 1 }},
		"a 429 is ignored":                   {judgeHoldOff, func(h *History) { h.refusedRequest("limited", 10*time.Second) }},
		"a rejection is ignored":             {judgeHoldOff, func(h *History) { h.refusedRequest("rejected", 0) }},
		"a call outlives its deadline":       {judgeTime, func(h *History) { h.Calls[4].Limit = 2 * time.Second }},
		"a call takes minutes":               {judgeTime, func(h *History) { h.Calls[1].End.At += 2 * time.Minute }},
		"a call never ends":                  {judgeTime, func(h *History) { h.Calls[5].End = Never }},
		"a token is served before its save":  {judgeSaved, func(h *History) { h.Calls[3].End = when(20) }},
		"a token is never saved":             {judgeSaved, func(h *History) { h.Stored[3].Token = "" }},
		"a save takes long":                  {judgeSaved, func(h *History) { h.Stored[3].End.At += 10 * time.Second }},
		"a cleaned process goes on storing":  {judgeCleaned, func(h *History) { h.Stored[8].End = when(120) }},
		"a cleaned process goes on asking":   {judgeCleaned, func(h *History) { h.Asked[3].End = when(120) }},
		"a call panics":                      {judgePanics, func(h *History) { h.Calls[1].Panicked = "here" }},
		"a cleanup takes long":               {judgeCleaned, func(h *History) { h.Cleaned[0].End = when(118) }},
		"a replaced token on another node": {judgeReported, func(h *History) {
			h.Told = append(h.Told, &Invalidation{during(66, 67), Place{SecondNode, 1}, TokenKey, when(64)})
			h.again("T2", 70)
			h.Calls[12].Answered = SecondNode
		}},
		"a suspect token without a warning":        {judgeSuspect, func(h *History) { plantInVain(h); h.Calls[5].Suspect = false }},
		"a suspect token after a restart":          {judgeSuspect, func(h *History) { plantInVain(h); h.againLater("T2", 75) }},
		"a suspect token whose mark is not stored": {judgeSuspect, func(h *History) { plantInVain(h); h.Stored[4].Token = ""; h.againLater("T2", 77) }},
		"a suspect token on another node":          {judgeSuspect, plantSuspectElsewhere},
		"a hung write holds up a read":             {judgeTime, plantHungWrite},
		"a start waits for nothing":                {judgeStarts, func(h *History) { h.Started[0].Span = during(30, 50) }},
		"a reader fails, and the token is there":   {judgeServed, func(h *History) { h.again("", 76); h.Calls[12].Outcome = "error" }},
		"a reader waits, and the token is there":   {judgeServed, func(h *History) { h.again("T3", 76); h.Calls[12].End = when(79) }},
		"a new active node forgets the token":      {judgeServed, func(h *History) { h.failsAfterElection(76) }},
		"a new active node forgets stale_if_error": {judgeStale, func(h *History) { plantStale(h); h.failsAfterElection(76) }},
		"a reader waits for a stale token":         {judgeStale, func(h *History) { plantStale(h); h.again("T3", 73); h.Calls[12].End = when(77) }},
		"the credentials of the past after a load": {judgeGranted, func(h *History) { plantLoad(h, 92, true); plantLoad(h, 93, false); h.Calls[12].Span = during(97, 98) }},
		"an expired token of the node's own clock": {judgeGranted, func(h *History) { plantDeadElsewhere(h); h.Calls[12].Answered = FirstNode }},
		"a compromised token on another node":      {judgeCompromised, plantCompromisedElsewhere},
		"the credentials of the past elsewhere":    {judgeGranted, plantCompromisedElsewhere},
	} {
		t.Run(name, func(t *testing.T) {
			h := goodHistory()
			tt.plant(h)
			broken := tt.rule(h)
			if assert.NotEmpty(t, broken) {
				assert.NotEmpty(t, h.Around(broken[0]), "the records around it")
			}
		})
	}
}

// TestJudgeAllows shows the judge what looks bad and is not.
func TestJudgeAllows(t *testing.T) {
	for name, plant := range map[string]func(*History){
		"a read beside the delete":         func(h *History) { h.again("T1", 14) },
		"a standby that does not know":     func(h *History) { plantOnOtherNode(h); h.Told[0].End = when(40) },
		"a report of a young token":        func(h *History) { h.Calls[4].Token, h.Calls[4].TooYoung = "T2", true },
		"a save and a removal that failed": plantFailedRemoval,
		"a hold-off that somebody lifted": func(h *History) {
			h.refusedRequest("rejected", 0)
			h.Calls[3].Outcome, h.Calls[3].Token = "error", ""
			h.Calls[2].End, h.Stored[2].End = when(59), when(59)
		},
		"a leak that is marked": plantMark,
		"a leak that is proved": func(h *History) {
			plantMark(h)
			plantRejected(h, "C1", 95)
			h.Calls[10].Op, h.Asked[4].Call = OpComplete, 11
			h.Asked = append(h.Asked, &Request{Span: during(95, 96), Place: Place{FirstNode, 1}, Call: 11, Client: "C2", Outcome: "granted", Token: "T5", Expires: time.Hour})
			h.Stored[8].Config.Previous = nil
		},
		"a pair that is listed": func(h *History) {
			h.Calls[10].Pair, h.Calls[10].Unproved = "C3", true
			h.Stored[8].Config.Current = Pair{ID: "3", Client: "C3"}
			h.Stored[8].Config.Unrevoked = append([]Unrevoked{{Client: "C2", Why: "replaced"}}, h.Stored[8].Config.Unrevoked...)
		},
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
			h.Asked = append(h.Asked, &Request{Span: during(72, 73), Place: Place{FirstNode, 1}, Client: "C1", Outcome: "granted", Token: "T2", Expires: time.Hour})
		},
		"a standby that cannot load":    func(h *History) { plantLoad(h, 92, true) },
		"a node whose clock is behind":  plantDeadElsewhere,
		"a write that hangs for itself": func(h *History) { plantHungWrite(h); h.Calls[11].End, h.Cleaned = when(102), nil },
		"a call that waits for its own reads": func(h *History) {
			h.Calls[11].End.At = 180 * time.Second
			h.Stored = append(h.Stored, &Stored{Span: h.Calls[11].Span, Place: Place{FirstNode, 1}, Call: 12, Operation: "get", Key: ConfigKey, Applied: Never, Failed: true})
		},
		"a token that Fuuffy issued again": func(h *History) {
			h.again("T1", 30)
			h.Asked = append(h.Asked, &Request{Span: during(28, 29), Place: Place{FirstNode, 1}, Client: "C1", Outcome: "granted", Token: "T1", Expires: time.Hour})
		},
		"a call that waits for a restart": func(h *History) { h.Calls[1].End.At, h.Calls[1].Waited = 3*time.Minute, 3*time.Minute },
	} {
		t.Run(name, func(t *testing.T) {
			h := goodHistory()
			plant(h)
			for _, v := range Judge(h) {
				t.Errorf("%s: %s", v.Rule, v.Text)
			}
		})
	}
}
