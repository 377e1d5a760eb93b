// SPDX-License-Identifier: MPL-2.0

package advice

import (
	"fmt"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// The walk visits the states of a mount together with those of Fuuffy. This file has what a
// state is, and what each operation makes of it. Only rotation's steps and advice's texts are
// the code under test: the rest is a model of the engine around them, as change.go, client.go,
// and path_check.go have it.

// credentials are the pairs of the walk. The first two are secrets of one client.
var credentials = [...]rotation.Pair{
	{ClientID: "shop-1", ClientSecret: "secret1"},
	{ClientID: "shop-1", ClientSecret: "secret2"},
	{ClientID: "shop-2", ClientSecret: "secret1"},
	{ClientID: "shop-3", ClientSecret: "secret1"},
}

const pairCount = len(credentials)

// reserve is the pair that an operator creates when advice says so. The walk itself uses some of
// the others.
const reserve = pairNo(pairCount) - 1

// pairNo is the index of a pair, or none.
type pairNo int8

const none pairNo = -1

func (p pairNo) String() string {
	if p == none {
		return "none"
	}
	return credentials[p].ClientID + "/" + credentials[p].ClientSecret
}

// sameClient tells whether two pairs are secrets of one client.
func sameClient(a, b pairNo) bool {
	return a != none && b != none && credentials[a].ClientID == credentials[b].ClientID
}

// verdict is what Fuuffy says to a pair.
type verdict int8

const (
	works verdict = iota
	// page is a rejection without proof, such as a firewall's 403.
	page
	revoked
)

func (v verdict) String() string { return [...]string{"works", "gets a 403 page", "is revoked"}[v] }

// knowledge is a rotation.Standing, reduced to what matters. How old a success is counts in
// ticks.
type knowledge int8

const (
	unknown knowledge = iota
	workedLongAgo
	workedBefore
	workedNow
	failed
	knownRejected
	knownRevoked
)

func (k knowledge) String() string {
	return [...]string{"unknown", "worked over an hour ago", "worked half an hour ago", "works", "failed since", "rejected", "revoked"}[k]
}

// A tick is the step of the clock. After one tick, apps still hold tokens of the previous pair;
// after two, none do, and a success is older than an hour. A success of one tick ago is
// from the last hour, but older than the end of those tokens.
const (
	tick      = 31 * time.Minute
	tokenLife = 55 * time.Minute
	longAgo   = 2
)

// listing is what unrevoked says about a pair.
type listing int8

const (
	notListed listing = iota
	listed
	listedCompromised
)

// failureKind is why readers get no newer token.
type failureKind int8

const (
	noFailure failureKind = iota
	failurePage
	failureDenied
	failureDown
)

var failures = [...]*upstream.Error{
	failurePage:   {Failure: upstream.Rejected, Status: 403, Message: "Forbidden"},
	failureDenied: {Failure: upstream.Rejected, Status: 401, Code: "invalid_client", Message: "The client is not valid"},
	failureDown:   {Failure: upstream.Unavailable, Status: 503, Message: "Service Unavailable"},
}

// tokenKind is whose token is cached. A fallback's belongs to the previous pair.
type tokenKind int8

const (
	noToken tokenKind = iota
	ownToken
	fallbackToken
)

// state is one state of the mount and of Fuuffy. It is comparable, and the same for two
// histories that nothing can tell apart any longer.
type state struct {
	current, staged, previous pairNo
	compromised               bool
	// oldTokens is the age, in ticks, of the last token of the previous pair.
	oldTokens int8
	list      [pairCount]listing
	// newer is the later of the two secrets of one client, if the mount knows both.
	newer pairNo
	// last is the last step: complete or rollback can be repeated.
	last lastStep
	// knows is what the node knows about each pair of the mount.
	knows [pairCount]knowledge

	token    tokenKind
	tokenAge int8
	failure  failureKind
	tested   bool

	fuuffy [pairCount]verdict
	down   bool
}

type lastStep int8

const (
	otherStep lastStep = iota
	completed
	rolledBack
)

var lastRecords = [...]string{otherStep: "configured", completed: "completed", rolledBack: "rolled back"}

// start is a mount that was just configured.
func start() state {
	s := state{current: 0, staged: none, previous: none, newer: none, token: ownToken, tested: true}
	s.knows[0] = workedNow
	return s
}

func (s state) String() string {
	text := fmt.Sprintf("current %s", s.current)
	if s.staged != none {
		text += fmt.Sprintf(", staged %s", s.staged)
	}
	if s.previous != none {
		text += fmt.Sprintf(", previous %s (compromised %t, its tokens %d ticks old)", s.previous, s.compromised, s.oldTokens)
	}
	for p := range pairNo(pairCount) {
		if s.list[p] != notListed {
			text += fmt.Sprintf(", listed %s (compromised %t)", p, s.list[p] == listedCompromised)
		}
		if s.inMount(p) {
			text += fmt.Sprintf("; %s %s, the node: %s", p, s.fuuffy[p], s.knows[p])
		}
	}
	return text + fmt.Sprintf("; Fuuffy down %t; token %d, failure %d, tested %t", s.down, s.token, s.failure, s.tested)
}

// held tells whether the mount holds the secret of a pair.
func (s *state) held(p pairNo) bool {
	return p != none && (p == s.current || p == s.staged || p == s.previous)
}

func (s *state) inMount(p pairNo) bool { return s.held(p) || s.list[p] != notListed }

// fallback is the pair that the engine tries if Fuuffy rejects the current one.
func (s *state) fallback() pairNo {
	if s.compromised {
		return none
	}
	return s.previous
}

// The IDs of pairs: one while the mount knows the pair, another for when it comes in anew.
var (
	knownIDs = [pairCount]string{"0", "1", "2", "3"}
	newIDs   = [pairCount]string{"n0", "n1", "n2", "n3"}
)

// standings are what the node knows, by the index of the ID.
type standings [2 * pairCount]rotation.Standing

func indexOf(id string) int {
	switch len(id) {
	case 1:
		return int(id[0] - '0')
	case 2:
		return pairCount + int(id[1]-'0')
	}
	return -1
}

func (s *standings) of(id string) rotation.Standing {
	if i := indexOf(id); i >= 0 {
		return s[i]
	}
	return rotation.Standing{}
}

func (s *standings) note(id string, answer rotation.Answer) {
	if i := indexOf(id); i >= 0 {
		s[i] = s[i].After(answer, now)
	}
}

// now is the time in each state: what lies behind it has an age.
var now = time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)

func ticksAgo(age int8) time.Time { return now.Add(-time.Duration(age) * tick) }

func age(t time.Time) int8 { return int8(min(longAgo, now.Sub(t)/tick)) }

const walkKey = "key"

// fingerprints are those of the pairs. The walk must not depend on how they are made, so it
// reads them from a list.
var fingerprints = func() (found [pairCount]string) {
	for p, pair := range credentials {
		staged := pair
		t, err := rotation.Discard(rotation.Pairs{Current: rotation.Pair{ID: "x", ClientID: "x"}, Rotation: rotation.State{Staged: &staged, Key: walkKey}}, rotation.Facts{Now: now})
		if err != nil {
			panic(err)
		}
		found[p] = t.Next.Rotation.Unrevoked[0].Fingerprint
	}
	return found
}()

// serial is when the mount saw a pair first, among the others.
func (s *state) serial(p pairNo) int {
	if p <= 1 && p == s.newer {
		return pairCount + 1
	}
	return int(p) + 1
}

func (s *state) pair(p pairNo) *rotation.Pair {
	if p == none {
		return nil
	}
	pair := credentials[p]
	pair.ID, pair.SetAt, pair.Serial = knownIDs[p], now.Add(-4*time.Hour), s.serial(p)
	return &pair
}

// pairs is the rotation's part of the state.
func (s *state) pairs() rotation.Pairs {
	r := rotation.State{
		Staged: s.pair(s.staged), Previous: s.pair(s.previous), Compromised: s.compromised,
		History: []rotation.Record{{Step: lastRecords[s.last], At: now}}, Key: walkKey, Serials: pairCount + 1,
	}
	if s.previous != none {
		r.PromotedAt = ticksAgo(s.oldTokens)
	}
	for p, l := range s.list {
		if l != notListed {
			why := "replaced"
			if l == listedCompromised {
				why = rotation.WhyCompromised
			}
			r.Unrevoked = append(r.Unrevoked, rotation.Unrevoked{
				ClientID: credentials[p].ClientID, PairID: knownIDs[p], Fingerprint: fingerprints[p], Serial: s.serial(pairNo(p)), Why: why, Since: now,
			})
		}
	}
	return rotation.Pairs{Current: *s.pair(s.current), Rotation: r}
}

// standings is what the node knows, as rotation.Standing. A success before a failure is as
// recent as can be, so that whoever overlooks the failure is caught.
func (s *state) standings() (found standings) {
	for p, k := range s.knows {
		var standing rotation.Standing
		switch k {
		case unknown:
		case workedLongAgo, workedBefore, workedNow:
			standing.Succeeded = ticksAgo(int8(workedNow - k))
		default:
			standing = rotation.Standing{Succeeded: now, Failed: now, Rejected: k >= knownRejected, Revoked: k == knownRevoked}
		}
		found[p] = standing
	}
	return found
}

func knowledgeOf(s rotation.Standing) knowledge {
	switch {
	case s.Revoked:
		return knownRevoked
	case s.Rejected:
		return knownRejected
	case !s.Failed.IsZero():
		return failed
	case s.Succeeded.IsZero():
		return unknown
	}
	return workedNow - knowledge(age(s.Succeeded))
}

func (s *state) oldTokensUntil() time.Time {
	if s.previous == none {
		return time.Time{}
	}
	return ticksAgo(s.oldTokens).Add(tokenLife)
}

// facts are what a step needs. A token of a pair is a success too, as in the engine.
func (s *state) facts(known *standings) rotation.Facts {
	return rotation.Facts{Now: now, OldTokensUntil: s.oldTokensUntil(), Standing: s.standing(known)}
}

func (s *state) standing(known *standings) func(string) rotation.Standing {
	owner := s.current
	if s.token == fallbackToken {
		owner = s.previous
	}
	return func(id string) rotation.Standing {
		standing := known.of(id)
		if standing == (rotation.Standing{}) && s.token != noToken && id == knownIDs[owner] {
			standing.Succeeded = ticksAgo(s.tokenAge)
		}
		return standing
	}
}

// mount is the state as package advice sees it.
func (s *state) mount() *Mount {
	known := s.standings()
	m := &Mount{
		Pairs: s.pairs(), Now: now, Standing: s.standing(&known), FallbackActive: s.token == fallbackToken, OldTokensUntil: s.oldTokensUntil(),
		RotationPeriod: 90 * 24 * time.Hour, RotationReminder: 14 * 24 * time.Hour,
		Failure: failures[s.failure], Tested: s.tested || s.failure != noFailure,
	}
	if s.failure != noFailure {
		m.RetryAt = now.Add(time.Minute)
	}
	if s.token != noToken {
		issued := ticksAgo(s.tokenAge)
		m.Token = &Token{Served: true, ServedUntil: issued.Add(tokenLife), ExpiresAt: issued.Add(time.Hour)}
	}
	return m
}

// take reads the state of the rotation back. It fails if no state of the walk is like that.
func (s *state) take(pairs *rotation.Pairs, known *standings) error {
	r := &pairs.Rotation
	var used [pairCount]string // The IDs, by pair.
	find := func(pair *rotation.Pair) pairNo {
		if pair == nil {
			return none
		}
		for p := range credentials {
			if pair.Same(&credentials[p]) {
				used[p] = pair.ID
				return pairNo(p)
			}
		}
		panic("a pair from nowhere: " + pair.ClientID)
	}
	before := *s
	s.current, s.staged, s.previous, s.compromised = find(&pairs.Current), find(r.Staged), find(r.Previous), r.Compromised
	s.list, s.last = [pairCount]listing{}, otherStep
	serials := [pairCount]int{}
	for _, pair := range pairs.Held() {
		serials[find(pair)] = pair.Serial
	}
	for _, u := range r.Unrevoked {
		p := none
		for i, fingerprint := range fingerprints {
			if u.Fingerprint == fingerprint {
				p = pairNo(i)
			}
		}
		switch {
		case p == none:
			return fmt.Errorf("the entry of client %s has the fingerprint of no pair", u.ClientID)
		case s.list[p] != notListed:
			return fmt.Errorf("%s is listed twice", p)
		case used[p] != "" && used[p] != u.PairID:
			return fmt.Errorf("%s is listed as another pair than the one in use", p)
		}
		used[p], serials[p], s.list[p] = u.PairID, u.Serial, listed
		if u.Why == rotation.WhyCompromised {
			s.list[p] = listedCompromised
		}
	}
	for _, record := range r.History {
		switch record.Step {
		case "marked revoked":
		case lastRecords[completed]:
			s.last = completed
		case lastRecords[rolledBack]:
			s.last = rolledBack
		default:
			s.last = otherStep
		}
	}
	s.knows = [pairCount]knowledge{}
	for p, id := range used {
		if id != "" {
			s.knows[p] = knowledgeOf(known.of(id))
		}
	}
	switch {
	case s.previous == none:
		s.oldTokens = 0
	case s.compromised:
		s.oldTokens = 0 // Nothing waits for the tokens of a compromised pair.
	case s.previous != before.previous || s.current != before.current:
		s.oldTokens = age(r.PromotedAt)
	}
	s.newer = none
	if s.inMount(0) && s.inMount(1) {
		s.newer = 0
		if serials[1] > serials[0] {
			s.newer = 1
		}
	}
	return nil
}

// forgetStrangers makes two states the same that differ only in pairs whose secret the mount
// doesn't hold. Whoever writes such a pair has one that works: if not, nothing changes.
func (s *state) forgetStrangers() {
	for p := range pairNo(pairCount) {
		if s.held(p) {
			continue
		}
		s.fuuffy[p] = works
		if s.knows[p] != knownRevoked || s.list[p] == notListed {
			s.knows[p] = unknown
		}
	}
}
