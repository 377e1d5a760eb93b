// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// pairRecords is what this node remembers about each pair of credentials that it used, since
// the plugin started.
type pairRecords struct {
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
	// fallbackUntil is when apps stop using the last token that the previous pair got because
	// Fuuffy rejected this one.
	fallbackUntil time.Time
}

// metByReaders tells whether a reader met a rejection of the pair. Otherwise someone only tried
// it, or it has always worked.
func (p pairRecord) metByReaders() bool { return p.rejections > 0 || !p.fallbackUntil.IsZero() }

// maxPairRecords bounds the memory. A mount has at most three pairs at a time.
const maxPairRecords = 16

func (r *pairRecords) of(pairID string) pairRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pairs[pairID]
}

func (r *pairRecords) edit(pairID string, edit func(*pairRecord)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	record, known := r.pairs[pairID]
	if !known && len(r.pairs) >= maxPairRecords {
		maps.DeleteFunc(r.pairs, func(_ string, p pairRecord) bool { return !p.metByReaders() })
	}
	if r.pairs == nil || !known && len(r.pairs) >= maxPairRecords {
		r.pairs = map[string]pairRecord{}
	}
	edit(&record)
	r.pairs[pairID] = record
}

// note remembers what the outcome of a token request says about a pair.
func (r *pairRecords) note(pairID string, err error, now time.Time) {
	answer, ok := answerOf(err)
	if ok {
		r.edit(pairID, func(p *pairRecord) { p.standing = p.standing.After(answer, now) })
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

// usedFallback remembers until when apps use a token of the previous pair.
func (r *pairRecords) usedFallback(pairID string, until time.Time) {
	r.edit(pairID, func(p *pairRecord) {
		if until.After(p.fallbackUntil) {
			p.fallbackUntil = until
		}
	})
}
