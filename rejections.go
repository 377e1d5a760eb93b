// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"errors"
	"sync"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// rejections is what this node remembers of the credentials in force: how often Fuuffy
// rejected them, and what that meant for apps.
type rejections struct {
	mu            sync.Mutex
	credentialsID string
	count         int
	fallbackUntil time.Time
}

// forLocked begins anew with other credentials.
func (r *rejections) forLocked(credentialsID string) {
	if r.credentialsID != credentialsID {
		r.credentialsID, r.count, r.fallbackUntil = credentialsID, 0, time.Time{}
	}
}

func (r *rejections) add(credentialsID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forLocked(credentialsID)
	r.count++
}

// usedFallback notes until when apps use a token of the previous credentials.
func (r *rejections) usedFallback(credentialsID string, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forLocked(credentialsID)
	if until.After(r.fallbackUntil) {
		r.fallbackUntil = until
	}
}

// of returns the number of rejections, and when the last token of the previous
// credentials that came from a fallback is no longer used.
func (r *rejections) of(credentialsID string) (count int, fallbackUntil time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.credentialsID != credentialsID {
		return 0, time.Time{}
	}
	return r.count, r.fallbackUntil
}

// maxRefusals bounds what is remembered. A mount has three pairs of credentials at most.
const maxRefusals = 16

// refusals are the pairs of credentials that Fuuffy refused when this node last used
// them. They decide about advice, and nothing else.
type refusals struct {
	mu  sync.Mutex
	ids map[string]bool
}

// note takes down how a request with a pair ended. Only an answer about the credentials
// says anything of them.
func (r *refusals) note(credentialsID string, err error) {
	failure, failed := errors.AsType[*upstream.Error](err)
	refused := failed && failure.RejectsCredentials()
	if err != nil && !refused {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids == nil || len(r.ids) >= maxRefusals {
		r.ids = map[string]bool{}
	}
	if refused {
		r.ids[credentialsID] = true
	} else {
		delete(r.ids, credentialsID)
	}
}

func (r *refusals) has(credentialsID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[credentialsID]
}
