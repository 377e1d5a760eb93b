// SPDX-License-Identifier: MPL-2.0

package advice

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// This file has the operator of the walk, who reads texts and does what they say.

// How texts tell people to revoke something. "it" is what the text named before.
var (
	tellsToRevoke = regexp.MustCompile(`(?:^|[.:\n] ?)(?:Now: )?[Rr]evoke (.+?)(?: in the Fuuffy dashboard|, because it is compromised)`)
	itIs          = regexp.MustCompile(`still accepts (.+?)\. `)
	aPair         = regexp.MustCompile(`^(?:the (old|new|other|current) secret of )?client (\S+)$`)
	// harmless are the ways to speak of revoking that ask for nothing now.
	harmless = regexp.MustCompile(`After that, revoke it in the Fuuffy dashboard|Don't revoke|before you revoke|can't revoke it|until you revoke it|can revoke`)
	aRevoke  = regexp.MustCompile(`(?i)\brevoke\b`)
)

// mention is a pair that a text tells an operator to revoke: a secret of a client, or all of them
// if which is empty.
type mention struct{ which, client string }

// reading is what a text tells, or why the judge can't read it.
type reading struct {
	mentions []mention
	problem  string
}

// readings has a reading for each text that was read before. There are few, and many states.
var readings sync.Map

func read(text string) (found reading) {
	if known, ok := readings.Load(text); ok {
		return known.(reading)
	}
	defer func() { readings.Store(text, found) }()
	rest := harmless.ReplaceAllString(text, "")
	for _, m := range tellsToRevoke.FindAllStringSubmatch(rest, -1) {
		what := m[1]
		if it := itIs.FindStringSubmatch(text); what == "it" && it != nil {
			what = it[1]
		}
		name := aPair.FindStringSubmatch(what)
		if name == nil {
			return reading{problem: fmt.Sprintf("the judge can't tell what to revoke: %q", text)}
		}
		found.mentions = append(found.mentions, mention{name[1], name[2]})
	}
	if rest = tellsToRevoke.ReplaceAllString(rest, ""); aRevoke.MatchString(rest) {
		return reading{problem: fmt.Sprintf("the judge can't read %q", rest)}
	}
	return found
}

// toRevoke returns the pairs that a text tells an operator to revoke.
func (s *state) toRevoke(text string) (pairs []pairNo, v *violation) {
	told := read(text)
	if told.problem != "" {
		return nil, breaks(ruleRevokesUsed, "%s", told.problem)
	}
	for _, m := range told.mentions {
		found := s.named(m.which, m.client)
		if found == nil {
			return nil, breaks(ruleRevokesUsed, "it names %v, and there is no such pair: %q", m, text)
		}
		pairs = append(pairs, found...)
	}
	return pairs, nil
}

// named finds pairs of the mount by a name: which is old, new, or empty.
func (s *state) named(which, client string) (pairs []pairNo) {
	for p := range pairNo(pairCount) {
		if s.inMount(p) && credentials[p].ClientID == client {
			pairs = append(pairs, p)
		}
	}
	if which == "" || len(pairs) == 0 {
		return pairs
	}
	switch {
	case len(pairs) == 1 || which == "other" || which == "current":
		return nil // The client has no other secret, or the name isn't clear.
	case which == "new":
		return []pairNo{s.newer}
	}
	return slices.DeleteFunc(pairs, func(p pairNo) bool { return p == s.newer })
}

// followed is a command that an operator ran because a text said so.
type followed struct {
	command Command
	outcome outcome
}

// follow runs each command of a text, after what its line says to do first. Each starts from the
// same state, but one that comes after "Then" continues from the command before.
func (s state) follow(text Text, w *walk) (done []followed) {
	base := s
	for _, line := range text {
		from := base
		pairs, _ := base.toRevoke(line.Text)
		for _, p := range pairs {
			from.fuuffy[p] = revoked
			if base.list[p] == listedCompromised {
				base.fuuffy[p] = revoked // Whatever comes after a leak comes after this.
			}
		}
		if strings.HasPrefix(line.Text, "Then ") && len(done) > 0 {
			if last := done[len(done)-1].outcome; last.accepted {
				from = last.next
			}
		}
		if strings.Contains(line.Text, "When you have fixed it") {
			for p, v := range from.fuuffy {
				if v == page {
					from.fuuffy[p] = works
				}
			}
		}
		if line.Command == nil {
			continue
		}
		if op := w.typed(&from, line.Command); op != nil {
			done = append(done, followed{*line.Command, op.run(from)})
		}
	}
	return done
}

// typed is the operation of a command, nil if there is no pair left to write.
func (w *walk) typed(s *state, c *Command) *operation {
	value := func(name string) string {
		for _, a := range c.args {
			if a.name == name {
				return a.value
			}
		}
		return ""
	}
	kind, pair := opKind(-1), none
	switch c.path {
	case Check.path:
		kind = opCheck
	case Promote.path:
		kind = opPromote
	case Rollback.path:
		kind = opRollback
	case Complete.path:
		if kind = opComplete; value("force") == "true" {
			kind = opForce
		}
	case Mark("").path:
		kind = opMark
		for p := range credentials {
			if credentials[p].ClientID == value("client_id") {
				pair = pairNo(p)
				break
			}
		}
	case Configure.path:
		kind, pair = opConfig, s.fresh()
	case Stage.path:
		switch kind, pair = opStage, s.fresh(); {
		case c.verb == "delete":
			kind, pair = opDiscard, none
		case value("compromised") == "true":
			kind = opEmergency
		}
	default:
		panic("no operation for " + c.path)
	}
	if value("stale_if_error") != "" {
		kind, pair = opSetting, none
	}
	if pair == none && (kind == opConfig || kind == opStage || kind == opEmergency) {
		return nil
	}
	return w.find(kind, pair)
}

// fresh is a pair that an operator may have just created, none if all are known to the mount.
func (s *state) fresh() pairNo {
	for p := pairNo(pairCount) - 1; p >= 0; p-- {
		if !s.inMount(p) {
			return p
		}
	}
	return none
}
