// SPDX-License-Identifier: MPL-2.0

package rotation

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func refusalOf(t *testing.T, err error) *Refusal {
	t.Helper()
	refusal, ok := errors.AsType[*Refusal](err)
	require.True(t, ok, "no refusal: %v", err)
	return refusal
}

// knows is what a node knows, by the ID of the pair.
type knows map[string]Standing

func (k knows) facts() Facts {
	return Facts{Now: noon, Standing: func(id string) Standing { return k[id] }, OldTokensUntil: noon.Add(50 * time.Minute)}
}

// taken takes steps that must be possible, one after the other, and returns what the last makes.
func taken(t *testing.T, p Pairs, f Facts, steps ...Step) Transition {
	t.Helper()
	var last Transition
	for _, step := range steps {
		kept, err := json.Marshal(p)
		require.NoError(t, err)
		last, err = step(p, f)
		require.NoError(t, err)
		left, err := json.Marshal(p)
		require.NoError(t, err)
		require.JSONEq(t, string(kept), string(left), "a step changed what it was given")
		p = last.Next
	}
	return last
}

func idle() Pairs {
	p := Pairs{Current: *newPair("shop-1", "secret1")}
	p.Upgrade()
	return p
}

var (
	second = *newPair("shop-2", "secret1")
	third  = *newPair("shop-3", "secret1")
)

// describe is the pairs of a mount in one line.
func describe(p Pairs) string {
	text := p.Rotation.Name() + " " + p.Current.ID
	if p.Rotation.Staged != nil {
		text += " staged " + p.Rotation.Staged.ID
	}
	if p.Rotation.Previous != nil {
		text += " previous " + p.Rotation.Previous.ID
	}
	if p.Rotation.Compromised {
		text += " compromised"
	}
	for _, u := range p.Rotation.Unrevoked {
		text += fmt.Sprintf(" [%s %s]", u.PairID, u.Why)
	}
	return text
}

// TestSteps takes each step in each state.
func TestSteps(t *testing.T) {
	states := map[string][]Step{
		Idle:          nil,
		Staged:        {Stage(second)},
		Promoted:      {Stage(second), Promote},
		"compromised": {Emergency(second)},
		"marked":      {Emergency(second), MarkRevoked("shop-1")},
		"forced":      {Emergency(second), Complete(true)},
	}
	refused := func(r Reason) string { return fmt.Sprintf("refused %d", r) }
	for _, c := range []struct {
		state string
		name  string
		step  Step
		after string
	}{
		{Idle, "stage", Stage(second), "staged shop-1/secret1 staged shop-2/secret1"},
		{Idle, "stage the current pair", Stage(*newPair("shop-1", "secret1")), refused(AlreadyCurrent)},
		{Idle, "stage another secret", Stage(*newPair("shop-1", "secret2")), "staged shop-1/secret1 staged shop-1/secret2"},
		{Idle, "emergency", Emergency(second), "promoted shop-2/secret1 previous shop-1/secret1 compromised [shop-1/secret1 compromised]"},
		{Idle, "emergency with the current pair", Emergency(*newPair("shop-1", "secret1")), refused(AlreadyCurrent)},
		{Idle, "promote", Promote, refused(NothingToPromote)},
		{Idle, "rollback", Rollback, refused(NothingToRollBack)},
		{Idle, "complete", Complete(false), refused(NothingToComplete)},
		{Idle, "force", Complete(true), refused(NothingToComplete)},
		{Idle, "discard", Discard, "unchanged"},
		{Idle, "mark", MarkRevoked("shop-1"), "unchanged"},
		{Idle, "replace", Replace(second), "idle shop-2/secret1 [shop-1/secret1 replaced]"},
		{Idle, "move", Move("moved"), "idle moved"},

		{Staged, "stage again", Stage(second), "unchanged"},
		{Staged, "stage a third", Stage(third), refused(AlreadyStaged)},
		{Staged, "emergency with what is staged", Emergency(second), "promoted shop-2/secret1 previous shop-1/secret1 compromised [shop-1/secret1 compromised]"},
		{Staged, "emergency with a third", Emergency(third), "promoted shop-3/secret1 previous shop-1/secret1 compromised [shop-2/secret1 discarded] [shop-1/secret1 compromised]"},
		{Staged, "promote", Promote, "promoted shop-2/secret1 previous shop-1/secret1"},
		{Staged, "rollback", Rollback, refused(NotPromoted)},
		{Staged, "complete", Complete(false), refused(NotPromoted)},
		{Staged, "discard", Discard, "idle shop-1/secret1 [shop-2/secret1 discarded]"},
		{Staged, "replace", Replace(third), refused(RotationInProgress)},
		{Staged, "move", Move("moved"), refused(RotationInProgress)},

		{Promoted, "stage again", Stage(second), "unchanged"},
		{Promoted, "stage the previous pair", Stage(*newPair("shop-1", "secret1")), refused(InProgress)},
		{Promoted, "stage a third", Stage(third), "staged shop-2/secret1 staged shop-3/secret1"},
		{Promoted, "the previous pair leaked", Emergency(second), "promoted shop-2/secret1 previous shop-1/secret1 compromised [shop-1/secret1 compromised]"},
		{Promoted, "the current pair leaked", Emergency(third), "promoted shop-3/secret1 previous shop-2/secret1 compromised [shop-1/secret1 replaced] [shop-2/secret1 compromised]"},
		{Promoted, "back to the previous pair in an emergency", Emergency(*newPair("shop-1", "secret1")), "promoted shop-1/secret1 previous shop-2/secret1 compromised [shop-2/secret1 compromised]"},
		{Promoted, "promote", Promote, "unchanged"},
		{Promoted, "rollback", Rollback, "idle shop-1/secret1 [shop-2/secret1 rolled back]"},
		{Promoted, "complete", Complete(false), "idle shop-2/secret1"},
		{Promoted, "force", Complete(true), "idle shop-2/secret1 [shop-1/secret1 forced]"},
		{Promoted, "discard", Discard, refused(NotStaged)},
		{Promoted, "replace", Replace(third), refused(RotationInProgress)},

		{"compromised", "emergency again", Emergency(second), "unchanged"},
		{"compromised", "back to the leak", Emergency(*newPair("shop-1", "secret1")), refused(IsCompromised)},
		{"compromised", "another secret of its client", Emergency(*newPair("shop-1", "secret2")), "promoted shop-1/secret2 previous shop-2/secret1 compromised [shop-1/secret1 compromised] [shop-2/secret1 compromised]"},
		{"compromised", "rollback", Rollback, refused(NoWayBack)},
		{"compromised", "complete", Complete(false), "idle shop-2/secret1"},
		{"compromised", "force", Complete(true), "idle shop-2/secret1 [shop-1/secret1 compromised]"},
		{"compromised", "mark", MarkRevoked("shop-1"), "promoted shop-2/secret1 previous shop-1/secret1 compromised"},

		// The mark may have come too early.
		{"marked", "force", Complete(true), "idle shop-2/secret1 [shop-1/secret1 compromised]"},
		{"marked", "a third pair in an emergency", Emergency(third), "promoted shop-3/secret1 previous shop-2/secret1 compromised [shop-1/secret1 compromised] [shop-2/secret1 compromised]"},
		{"marked", "rollback", Rollback, refused(NoWayBack)},

		{"forced", "stage the leak", Stage(*newPair("shop-1", "secret1")), refused(IsCompromised)},
		{"forced", "stage another secret of its client", Stage(*newPair("shop-1", "secret2")), "staged shop-2/secret1 staged shop-1/secret2 [shop-1/secret1 compromised]"},
		{"forced", "configure the leak", Replace(*newPair("shop-1", "secret1")), refused(IsCompromised)},
		{"forced", "complete again", Complete(false), "unchanged"},
		{"forced", "mark", MarkRevoked("shop-1"), "idle shop-2/secret1"},
	} {
		t.Run(c.state+", "+c.name, func(t *testing.T) {
			facts := knows{}.facts()
			p := idle()
			if steps := states[c.state]; steps != nil {
				p = taken(t, p, facts, steps...).Next
			}
			kept := describe(p)
			transition, err := c.step(p, facts)
			got := describe(transition.Next)
			switch {
			case err != nil:
				got = refused(refusalOf(t, err).Reason)
				assert.Equal(t, kept, describe(p))
			case transition.Unchanged:
				got = "unchanged"
				assert.Equal(t, kept, describe(transition.Next))
			}
			assert.Equal(t, c.after, got)
		})
	}
}

// Each emergency says that the tokens that apps hold may have leaked, and no other step does.
func TestLeakedTokens(t *testing.T) {
	facts := knows{}.facts()
	for name, c := range map[string]struct {
		before []Step
		step   Step
		leaked bool
	}{
		"emergency":                     {nil, Emergency(second), true},
		"emergency after the promotion": {[]Step{Stage(second), Promote}, Emergency(second), true},
		"emergency while promoted":      {[]Step{Stage(second), Promote}, Emergency(third), true},
		"stage":                         {nil, Stage(second), false},
		"promote":                       {[]Step{Stage(second)}, Promote, false},
		"complete, after an emergency":  {[]Step{Emergency(second)}, Complete(true), false},
		"the same emergency, once more": {[]Step{Emergency(second)}, Emergency(second), false},
	} {
		t.Run(name, func(t *testing.T) {
			p := idle()
			if c.before != nil {
				p = taken(t, p, facts, c.before...).Next
			}
			assert.Equal(t, c.leaked, taken(t, p, facts, c.step).Leaked)
		})
	}
}

// TestWhatMustBeProved names the proofs of each step that asks for one.
func TestWhatMustBeProved(t *testing.T) {
	facts := knows{}.facts()
	promoted := []Step{Stage(second), Promote}
	for name, c := range map[string]struct {
		steps           []Step
		works, isRevoke string
		ifAccepted      Reason
	}{
		"stage":                {[]Step{Stage(second)}, "shop-2/secret1", "", 0},
		"stage again":          {[]Step{Stage(second), Stage(second)}, "shop-2/secret1", "", 0},
		"promote":              {promoted, "shop-2/secret1", "", 0},
		"emergency":            {[]Step{Emergency(second)}, "shop-2/secret1", "", 0},
		"rollback":             {append(promoted, Rollback), "shop-1/secret1", "", 0},
		"complete":             {append(promoted, Complete(false)), "shop-2/secret1", "shop-1/secret1", StillAccepted},
		"force":                {append(promoted, Complete(true)), "shop-2/secret1", "", 0},
		"stage while promoted": {append(promoted, Stage(third)), "shop-3/secret1", "shop-1/secret1", InProgress},
		"discard":              {[]Step{Stage(second), Discard}, "", "", 0},
		"mark":                 {[]Step{Emergency(second), MarkRevoked("shop-1")}, "", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			transition := taken(t, idle(), facts, c.steps...)
			id := func(pair *Pair) string {
				if pair == nil {
					return ""
				}
				return pair.ID
			}
			assert.Equal(t, c.works, id(transition.MustWork))
			assert.Equal(t, c.isRevoke, id(transition.MustBeRevoked))
			if c.ifAccepted != 0 {
				require.NotNil(t, transition.IfAccepted)
				assert.Equal(t, c.ifAccepted, transition.IfAccepted.Reason)
			} else {
				assert.Nil(t, transition.IfAccepted)
			}
		})
	}
}

// TestProofTakesAPairOffTheList gives up pairs that are proved to be revoked.
func TestProofTakesAPairOffTheList(t *testing.T) {
	proof := Standing{Rejected: true, Revoked: true, Failed: noon}
	page := Standing{Rejected: true}
	for name, c := range map[string]struct {
		id    string
		steps []Step
	}{
		"discard":                    {"shop-2/secret1", []Step{Stage(second), Discard}},
		"rollback":                   {"shop-2/secret1", []Step{Stage(second), Promote, Rollback}},
		"force":                      {"shop-1/secret1", []Step{Stage(second), Promote, Complete(true)}},
		"emergency over what staged": {"shop-2/secret1", []Step{Stage(second), Emergency(third)}},
		"replace":                    {"shop-1/secret1", []Step{Replace(second)}},
	} {
		t.Run(name, func(t *testing.T) {
			clientID, _, _ := strings.Cut(c.id, "/")
			list := func(standing Standing) string {
				r := taken(t, idle(), knows{c.id: standing}.facts(), c.steps...).Next.Rotation
				return r.UnrevokedText()
			}
			assert.NotContains(t, list(proof), clientID)
			assert.Contains(t, list(page), clientID, "a rejection is no proof")
			old := proof
			old.Failed = noon.Add(-freshProof - time.Second)
			assert.Contains(t, list(old), clientID, "someone may have accepted it again since")
		})
	}
}

// TestForceWarnsWithoutProof: what a check proved before, force needn't warn of.
func TestForceWarnsWithoutProof(t *testing.T) {
	for _, proved := range []bool{false, true} {
		facts := knows{"shop-1/secret1": Standing{Rejected: true, Revoked: proved, Failed: noon}}.facts()
		warned := slices.ContainsFunc(taken(t, idle(), facts, Stage(second), Promote, Complete(true)).Notes, func(n Note) bool { return n.Notice == Forced })
		assert.Equal(t, !proved, warned)
	}
}

// TestCompromisedPairIsListedWhateverIsProved: the entry is what keeps it from coming back.
func TestCompromisedPairIsListedWhateverIsProved(t *testing.T) {
	proved := knows{"shop-1/secret1": Standing{Rejected: true, Revoked: true, Failed: noon}}.facts()
	for name, steps := range map[string][]Step{"emergency": {Emergency(second)}, "force": {Emergency(second), Complete(true)}} {
		t.Run(name, func(t *testing.T) {
			p := taken(t, idle(), proved, steps...).Next
			assert.Contains(t, p.Rotation.UnrevokedText(), "shop-1 (compromised)")
		})
	}
}

// TestEmergencyReportsAllThatItDrops takes an emergency that lists two pairs on a full list.
func TestEmergencyReportsAllThatItDrops(t *testing.T) {
	p := idle()
	for i := range maxUnrevoked {
		p.Rotation.addUnrevoked(newPair(fmt.Sprintf("old-%d", i), "secret"), whyForced, noon)
	}
	transition := taken(t, p, knows{}.facts(), Stage(second), Emergency(third))
	require.Len(t, transition.Dropped, 2)
	assert.Equal(t, "old-0", transition.Dropped[0].ClientID)
	assert.Equal(t, "old-1", transition.Dropped[1].ClientID)
	assert.Len(t, transition.Next.Rotation.Unrevoked, maxUnrevoked)
}

// TestStillAcceptedNamesTheWait makes sure that a step that was taken too early doesn't make
// anyone revoke the pair whose tokens apps hold.
func TestStillAcceptedNamesTheWait(t *testing.T) {
	facts := knows{}.facts()
	complete := func(steps ...Step) *Refusal {
		return taken(t, idle(), facts, append(steps, Complete(false))...).IfAccepted
	}
	assert.Equal(t, facts.OldTokensUntil, complete(Stage(second), Promote).Until)
	assert.Zero(t, complete(Emergency(second)).Until, "a leak doesn't wait")
	facts.Now = facts.OldTokensUntil
	assert.Zero(t, complete(Stage(second), Promote).Until, "the wait is over")
}

// TestRepeatedSteps repeats the steps that end a rotation, as a pipeline does.
func TestRepeatedSteps(t *testing.T) {
	facts := knows{}.facts()
	complete, rollback := Complete(false), Step(Rollback)
	for name, c := range map[string]struct {
		steps []Step
		again Step
		works bool
	}{
		"complete":                {[]Step{Stage(second), Promote, complete}, complete, true},
		"complete after a mark":   {[]Step{Stage(second), Promote, Complete(true), MarkRevoked("shop-1")}, complete, true},
		"rollback":                {[]Step{Stage(second), Promote, rollback}, rollback, true},
		"complete after rollback": {[]Step{Stage(second), Promote, rollback}, complete, false},
		"rollback after complete": {[]Step{Stage(second), Promote, complete}, rollback, false},
		"complete after discard":  {[]Step{Stage(second), Promote, complete, Stage(third), Discard}, complete, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := taken(t, idle(), facts, c.steps...).Next
			transition, err := c.again(p, facts)
			if !c.works {
				refusalOf(t, err)
				return
			}
			require.NoError(t, err)
			assert.True(t, transition.Unchanged)
			assert.Equal(t, []Note{{Notice: AlreadyDone}}, transition.Notes)
		})
	}
}
