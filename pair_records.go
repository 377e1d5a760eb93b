// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// pairRecords is what this node remembers about each pair of credentials that it used, since
// the plugin started. Its times are on the monotonic clock, so that setting the wall clock neither
// makes a success fresh nor moves the time at which apps stop using a token.
type pairRecords struct {
	clock func() tokencache.Instant
	mu    sync.Mutex
	pairs map[string]pairRecord // by rotation.Pair.ID
}

type pairRecord struct {
	// Only advice, and what is listed as not revoked, depend on the standing.
	standing rotation.Standing
	// tokenLife is the life of the last token that the pair got.
	tokenLife time.Duration
	// rejections counts how often Fuuffy rejected the pair when readers needed a token.
	rejections int
	// oldTokensUntil is when apps stop using the last token of the pair before this one, zero if
	// the node doesn't know.
	oldTokensUntil time.Time
}

// kept tells whether the record has more than anyone learns again with a request.
func (p pairRecord) kept() bool { return p.rejections > 0 || !p.oldTokensUntil.IsZero() }

// onMonotonic and onWall move a time between the two clocks. Zero stays zero.
func onMonotonic(now tokencache.Instant, t time.Time) time.Time {
	return moved(t, time.Unix(0, 0).Add(now.Mono).Sub(now.Wall))
}

func onWall(now tokencache.Instant, t time.Time) time.Time {
	return moved(t, now.Wall.Sub(time.Unix(0, 0).Add(now.Mono)))
}

func moved(t time.Time, by time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(by)
}

// maxPairRecords bounds the memory. A mount has at most three pairs at a time.
const maxPairRecords = 16

// of returns a pair's record with its times on the wall clock.
func (r *pairRecords) of(pairID string) pairRecord {
	now := r.clock()
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pairs[pairID]
	p.standing.Succeeded, p.standing.Failed = onWall(now, p.standing.Succeeded), onWall(now, p.standing.Failed)
	p.oldTokensUntil = onWall(now, p.oldTokensUntil)
	return p
}

func (r *pairRecords) edit(pairID string, edit func(*pairRecord)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	record, known := r.pairs[pairID]
	if !known && len(r.pairs) >= maxPairRecords {
		maps.DeleteFunc(r.pairs, func(_ string, p pairRecord) bool { return !p.kept() })
	}
	if r.pairs == nil || !known && len(r.pairs) >= maxPairRecords {
		r.pairs = map[string]pairRecord{}
	}
	edit(&record)
	r.pairs[pairID] = record
}

// note remembers what the outcome of a token request says about a pair.
func (r *pairRecords) note(pairID string, err error) {
	now := r.clock()
	if answer, ok := answerOf(err); ok {
		r.edit(pairID, func(p *pairRecord) { p.standing = p.standing.After(answer, onMonotonic(now, now.Wall)) })
	}
}

// answerOf is what the outcome of a token request says about the pair. It is false if the
// request wasn't sent, or never reached an end.
func answerOf(err error) (answer rotation.Answer, ok bool) {
	if err == nil {
		return rotation.Accepted, true
	}
	failure, ok := errors.AsType[*upstream.Error](err)
	switch {
	case !ok || failure.OverBudget():
		return rotation.NoAnswer, false
	case failure.ProvesRevoked():
		return rotation.Revoked, true
	case failure.RejectsCredentials():
		return rotation.Rejected, true
	}
	return rotation.NoAnswer, true
}

// noteLife remembers how long the tokens of a pair live.
func (r *pairRecords) noteLife(pairID string, life time.Duration) {
	r.edit(pairID, func(p *pairRecord) { p.tokenLife = life })
}

func (r *pairRecords) countRejection(pairID string) {
	r.edit(pairID, func(p *pairRecord) { p.rejections++ })
}

// noteOldTokens remembers that apps use a token of the pair before this one until then, on the
// wall clock, but for no longer than such a token is served: what is later is the mistake of a
// clock that has been set since.
func (r *pairRecords) noteOldTokens(pairID string, until time.Time, servedFor time.Duration) {
	now := r.clock()
	if latest := now.Wall.Add(servedFor); until.After(latest) {
		until = latest
	}
	until = onMonotonic(now, until)
	r.edit(pairID, func(p *pairRecord) {
		if until.After(p.oldTokensUntil) {
			p.oldTokensUntil = until
		}
	})
}
