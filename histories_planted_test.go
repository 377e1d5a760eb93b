// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// TestJudge plants one violation after the other in a good history.
func TestJudge(t *testing.T) {
	assert.Empty(t, judge(goodHistory()), "the good history")
	for name, tt := range map[string]struct {
		rule  func(*history) []violation
		plant func(*history)
	}{
		"a deleted token is read":                       {judgeDeleted, func(h *history) { h.again("T1", 30) }},
		"a deleted token after a restart":               {judgeDeleted, func(h *history) { h.againLater("T1", 30) }},
		"a deleted token on another node":               {judgeDeleted, plantOnOtherNode},
		"a flight outlives the delete":                  {judgeDeleted, func(h *history) { h.asked[1].span = during(10, 18) }},
		"a save comes after the delete":                 {judgeDeleted, func(h *history) { h.asked[1].begin, h.calls[3].token = when(10), "" }},
		"the delete leaves the token":                   {judgeDeleted, func(h *history) { h.stored[2].applied = never }},
		"a replaced token is read":                      {judgeReported, func(h *history) { h.again("T2", 69) }},
		"a replaced token after a restart":              {judgeReported, func(h *history) { h.againLater("T2", 120) }},
		"a replaced token whose successor is not saved": {judgeReported, plantFailedSave},
		"a report gets its token":                       {judgeReported, func(h *history) { h.calls[4].token = "T2" }},
		"a compromised token is read":                   {judgeCompromised, func(h *history) { h.again("T3", 91) }},
		"a token that nobody granted":                   {judgeGranted, func(h *history) { h.asked[0].token = "T9" }},
		"a token that is granted later":                 {judgeGranted, func(h *history) { h.asked[0].begin = when(11) }},
		"a token of others is read":                     {judgeGranted, func(h *history) { h.asked[1].client = "C2" }},
		"an expired token is read":                      {judgeGranted, func(h *history) { h.asked[0].expires = 10 * time.Second }},
		"a token that is too old for a job":             {judgeGranted, func(h *history) { h.calls[1].minTTL = time.Hour }},
		"a token without a config":                      {judgeGranted, func(h *history) { h.stored[0].config = nil }},
		"a write is not seen":                           {judgeWrites, func(h *history) { h.calls[11].reminder = 1001 }},
		"a config vanishes":                             {judgeWrites, func(h *history) { h.calls[11].reminder = 0 }},
		"a refused write is seen":                       {judgeWrites, func(h *history) { h.calls[10].outcome = endedRefused }},
		"a write is seen before it began":               {judgeWrites, func(h *history) { h.calls[6].reminder = 1002 }},
		"a write stores nothing":                        {judgeEntries, func(h *history) { h.stored[8].applied = never }},
		"a refused write stores":                        {judgeEntries, func(h *history) { h.calls[10].outcome = endedRefused }},
		"a write_id is used twice":                      {judgeEntries, func(h *history) { h.stored[8].config.WriteID = "W1" }},
		"a setting takes back the credentials":          {judgeEntries, func(h *history) { h.stored[8].config.Current = h.stored[0].config.Current }},
		"a setting takes back the rotation":             {judgeEntries, func(h *history) { h.stored[8].config.position = position{} }},
		"credentials take back the rotation":            {judgeEntries, func(h *history) { h.calls[10].pair, h.stored[8].config.position = "C2", position{} }},
		"a step takes back a setting":                   {judgeEntries, func(h *history) { h.stored[5].config.Reminder = 0 }},
		"a setting brings back a config":                {judgeEntries, func(h *history) { h.stored[5].config = nil }},
		"a flight writes the config":                    {judgeEntries, func(h *history) { h.stored[8].call = 0 }},
		"last_rotated moves":                            {judgeEntries, func(h *history) { h.stored[8].config.Current.SetAt = time.Time{} }},
		"an overtaken write is stored":                  {judgeEntries, func(h *history) { h.stored[7].applied = when(70) }},
		"the rotation of the past is told":              {judgeRotationReads, func(h *history) { h.calls[7].span = during(102, 103) }},
		"another last_rotated is told":                  {judgeRotationReads, func(h *history) { h.calls[7].rotation.lastRotated = "never" }},
		"new credentials were not tried":                {judgeProofs, func(h *history) { h.asked[3].outcome = "rejected" }},
		"a flight is the proof":                         {judgeProofs, func(h *history) { h.asked[3].call = 0 }},
		"complete without a rejection":                  {judgeProofs, func(h *history) { h.calls[10].op = opComplete; h.asked[3].call = 11 }},
		"stage without a rejection":                     {judgeProofs, func(h *history) { plantStage(h, "C3"); h.asked[3].client, h.asked[3].call = "C3", 11 }},
		"a pair vanishes":                               {judgeGivenUp, func(h *history) { h.stored[8].config.Current = pairOfEntry{ID: "3", Client: "C3"} }},
		"a pair was rejected long ago":                  {judgeGivenUp, plantAcceptedAgain},
		"a pair was rejected elsewhere": {judgeGivenUp, func(h *history) {
			plantRejected(h, "C1", 86)
			h.asked[4].process = 2
			h.stored[8].config.Unrevoked = nil
		}},
		"a leak is not listed": {judgeGivenUp, func(h *history) { h.stored[5].config.Unrevoked = nil }},
		"a leak is forgotten":  {judgeGivenUp, func(h *history) { h.stored[8].config.Unrevoked = nil }},
		"a leak becomes harmless": {judgeGivenUp, func(h *history) {
			h.stored[8].config.Unrevoked = []unrevoked{{Client: "C1", Why: "forced"}}
		}},
		"another client is marked":           {judgeGivenUp, func(h *history) { plantMark(h); h.calls[10].pair = "C2" }},
		"a compromised pair is current":      {judgeGivenUp, func(h *history) { h.stored[8].config.Current = h.stored[0].config.Current }},
		"a compromised pair is staged":       {judgeGivenUp, func(h *history) { plantStage(h, "C1") }},
		"a compromised pair is the fallback": {judgeGivenUp, func(h *history) { h.stored[8].config.Compromised = false }},
		"two flights at once":                {judgeRequests, func(h *history) { h.asked[2].beside = 1 }},
		"a 429 is ignored":                   {judgeHoldOff, func(h *history) { h.refusedRequest("limited", 10*time.Second) }},
		"a rejection is ignored":             {judgeHoldOff, func(h *history) { h.refusedRequest("rejected", 0) }},
		"a call outlives its deadline":       {judgeTime, func(h *history) { h.calls[4].limit = 2 * time.Second }},
		"a call takes minutes":               {judgeTime, func(h *history) { h.calls[1].end.at += 2 * time.Minute }},
		"a call never ends":                  {judgeTime, func(h *history) { h.calls[5].end = never }},
		"a token is served before its save":  {judgeSaved, func(h *history) { h.calls[3].end = when(20) }},
		"a token is never saved":             {judgeSaved, func(h *history) { h.stored[3].token = "" }},
		"a save takes long":                  {judgeSaved, func(h *history) { h.stored[3].end.at += 10 * time.Second }},
		"a cleaned process goes on storing":  {judgeCleaned, func(h *history) { h.stored[8].end = when(120) }},
		"a cleaned process goes on asking":   {judgeCleaned, func(h *history) { h.asked[3].end = when(120) }},
		"a call panics":                      {judgePanics, func(h *history) { h.calls[1].panicked = "here" }},
		"a cleanup takes long":               {judgeCleaned, func(h *history) { h.cleaned[0].end = when(118) }},
		"a replaced token on another node": {judgeReported, func(h *history) {
			h.told = append(h.told, &invalidation{during(66, 67), place{secondNode, 1}, tokenKey, when(64)})
			h.again("T2", 70)
			h.calls[12].answered = secondNode
		}},
		"a suspect token without a warning":        {judgeSuspect, func(h *history) { plantInVain(h); h.calls[5].suspect = false }},
		"a suspect token after a restart":          {judgeSuspect, func(h *history) { plantInVain(h); h.againLater("T2", 75) }},
		"a suspect token whose mark is not stored": {judgeSuspect, func(h *history) { plantInVain(h); h.stored[4].token = ""; h.againLater("T2", 77) }},
		"a suspect token on another node":          {judgeSuspect, plantSuspectElsewhere},
		"a hung write holds up a read":             {judgeTime, plantHungWrite},
		"a start waits for nothing":                {judgeStarts, func(h *history) { h.started[0].span = during(30, 50) }},
		"a reader fails, and the token is there":   {judgeServed, func(h *history) { h.again("", 76); h.calls[12].outcome = "error" }},
		"a reader waits, and the token is there":   {judgeServed, func(h *history) { h.again("T3", 76); h.calls[12].end = when(79) }},
		"a new active node forgets the token":      {judgeServed, func(h *history) { h.failsAfterElection(76) }},
		"a new active node forgets stale_if_error": {judgeStale, func(h *history) { plantStale(h); h.failsAfterElection(76) }},
		"a reader waits for a stale token":         {judgeStale, func(h *history) { plantStale(h); h.again("T3", 73); h.calls[12].end = when(77) }},
		"the credentials of the past after a load": {judgeGranted, func(h *history) { plantLoad(h, 92, true); plantLoad(h, 93, false); h.calls[12].span = during(97, 98) }},
		"an expired token of the node's own clock": {judgeGranted, func(h *history) { plantDeadElsewhere(h); h.calls[12].answered = firstNode }},
		"a compromised token on another node":      {judgeCompromised, plantCompromisedElsewhere},
		"the credentials of the past elsewhere":    {judgeGranted, plantCompromisedElsewhere},
	} {
		t.Run(name, func(t *testing.T) {
			h := goodHistory()
			tt.plant(h)
			broken := tt.rule(h)
			if assert.NotEmpty(t, broken) {
				assert.NotEmpty(t, h.around(broken[0]), "the records around it")
			}
		})
	}
}

// TestJudgeAllows shows the judge what looks bad and is not.
func TestJudgeAllows(t *testing.T) {
	for name, plant := range map[string]func(*history){
		"a read beside the delete":         func(h *history) { h.again("T1", 14) },
		"a standby that does not know":     func(h *history) { plantOnOtherNode(h); h.told[0].end = when(40) },
		"a report of a young token":        func(h *history) { h.calls[4].token, h.calls[4].tooYoung = "T2", true },
		"a save and a removal that failed": plantFailedRemoval,
		"a hold-off that somebody lifted": func(h *history) {
			h.refusedRequest("rejected", 0)
			h.calls[3].outcome, h.calls[3].token = "error", ""
			h.calls[2].end, h.stored[2].end = when(59), when(59)
		},
		"a leak that is marked": plantMark,
		"a leak that is proved": func(h *history) {
			plantMark(h)
			plantRejected(h, "C1", 95)
			h.calls[10].op, h.asked[4].call = opComplete, 11
			h.asked = append(h.asked, &requestRecord{span: during(95, 96), place: place{firstNode, 1}, call: 11, client: "C2", outcome: "granted", token: "T5", expires: time.Hour})
			h.stored[8].config.Previous = nil
		},
		"a pair that is listed": func(h *history) {
			h.calls[10].pair, h.calls[10].unproved = "C3", true
			h.stored[8].config.Current = pairOfEntry{ID: "3", Client: "C3"}
			h.stored[8].config.Unrevoked = append([]unrevoked{{Client: "C2", Why: "replaced"}}, h.stored[8].config.Unrevoked...)
		},
		"a suspect token with a warning": plantInVain,
		"a mark that could not be stored": func(h *history) {
			plantInVain(h)
			h.stored[4].applied, h.stored[4].failed = never, true
			h.againLater("T2", 78)
		},
		"a mark, and a crash before it could be stored": func(h *history) {
			plantInVain(h)
			h.stored[4].token = ""
			h.againLater("T2", 71)
		},
		"a mark that had to wait for its turn": func(h *history) {
			plantInVain(h)
			h.stored[4].token, h.stored[4].operation = "", "get"
			h.stored[4].span, h.calls[4].end = during(60, 65), when(68)
			h.againLater("T2", 78)
		},
		"a removal that had to wait for its turn": func(h *history) {
			plantFailedSave(h)
			h.stored[4].span = during(62, 67)
		},
		"a token that had to wait for its turn": func(h *history) {
			h.stored[3].operation, h.stored[3].token = "get", ""
			h.stored[3].span, h.calls[3].end = during(17, 22), when(23)
		},
		"a replaced token that Fuuffy issued again": func(h *history) {
			h.again("T2", 75)
			h.asked = append(h.asked, &requestRecord{span: during(72, 73), place: place{firstNode, 1}, client: "C1", outcome: "granted", token: "T2", expires: time.Hour})
		},
		"a standby that cannot load":    func(h *history) { plantLoad(h, 92, true) },
		"a node whose clock is behind":  plantDeadElsewhere,
		"a write that hangs for itself": func(h *history) { plantHungWrite(h); h.calls[11].end, h.cleaned = when(102), nil },
		"a call that waits for its own reads": func(h *history) {
			h.calls[11].end.at = 180 * time.Second
			h.stored = append(h.stored, &storageRecord{span: h.calls[11].span, place: place{firstNode, 1}, call: 12, operation: "get", key: configKey, applied: never, failed: true})
		},
		"a token that Fuuffy issued again": func(h *history) {
			h.again("T1", 30)
			h.asked = append(h.asked, &requestRecord{span: during(28, 29), place: place{firstNode, 1}, client: "C1", outcome: "granted", token: "T1", expires: time.Hour})
		},
		"a call that waits for a restart": func(h *history) { h.calls[1].end.at, h.calls[1].waited = 3*time.Minute, 3*time.Minute },
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
