// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// tokenRequest gets a token for the cache, with one configuration. It serves one
// flight.
type tokenRequest struct {
	b       *backend
	storage logical.Storage
	live    *liveConfig
	// found is set when the token was in storage, where it need not be saved again.
	found bool
}

func (b *backend) newTokenRequest(storage logical.Storage, live *liveConfig) *tokenRequest {
	return &tokenRequest{b: b, storage: storage, live: live}
}

// fetch is part of tokenSource. It looks into storage first where a token may be
// that is not held: after a start, and on a standby, whose active node puts it there.
func (r *tokenRequest) fetch(ctx context.Context) (accessToken, error) {
	mayAsk := r.b.mayAskFuuffy()
	if !mayAsk || r.b.cache.held.Load() == nil {
		if t, ok := r.b.storedToken(ctx, r.storage, r.live); ok {
			r.found = true
			return t, nil
		}
	}
	if !mayAsk {
		return accessToken{}, errForward
	}
	return r.b.ask(ctx, r.live)
}

// save is part of tokenSource.
func (r *tokenRequest) save(ctx context.Context, t accessToken) error {
	if r.found {
		return nil
	}
	return saveToken(ctx, r.storage, t)
}

// report is part of tokenSource.
func (r *tokenRequest) report(ctx context.Context, err error) {
	if upstream, ok := errors.AsType[*upstreamError](err); ok {
		r.b.notify(ctx, "token-issue-fail", tokenKey, "client_id", r.live.Current.ClientID, "failure", string(upstream.failure))
	} else if err == nil && !r.found {
		r.b.notify(ctx, "token-issue", tokenKey, "client_id", r.live.Current.ClientID)
	}
}

// ask requests a token with the credentials in force. If those are rejected in the
// middle of a rotation, the old ones are asked.
func (b *backend) ask(ctx context.Context, live *liveConfig) (accessToken, error) {
	t, err := b.prove(ctx, live, &live.Current)
	if err == nil {
		return *t, nil
	}
	if !rejectsCredentials(err) {
		return accessToken{}, err
	}
	b.authFailures.count(live.Current.ID)
	fallback := live.Rotation.fallback()
	if fallback == nil {
		return accessToken{}, err
	}
	t, fallbackErr := b.prove(ctx, live, fallback)
	if fallbackErr != nil {
		b.Logger().Warn("Fuuffy rejects the new credentials, and gives no token for the old ones either", "client_id", fallback.ClientID, "error", fallbackErr)
		return accessToken{}, err
	}
	b.Logger().Warn("Fuuffy rejects the new credentials; serving a token of the old ones",
		"new_client_id", live.Current.ClientID, "old_client_id", fallback.ClientID, "error", err)
	b.notify(ctx, "rotate-root-fallback", rotatePath, "client_id", fallback.ClientID)
	return *t, nil
}

// prove requests a token with a pair of credentials at the endpoint of a
// configuration. Neither needs to be in force, and the token cache is not touched.
func (b *backend) prove(ctx context.Context, live *liveConfig, pair *credentials) (*accessToken, error) {
	began := b.cache.clock()
	granted, err := live.client.requestToken(ctx, pair.ClientID, pair.ClientSecret)
	b.metrics.requested(err, b.cache.clock().mono-began.mono)
	if err != nil {
		return nil, err
	}
	if granted.assumedExpiry {
		b.Logger().Info("Fuuffy did not say how long the access token lives; taking the documented time", "life", defaultTokenLife)
	}
	issued := began.wall.UTC()
	return &accessToken{
		Value:         granted.accessToken,
		IssuedAt:      issued,
		ExpiresAt:     issued.Add(granted.expiresIn),
		CredentialsID: pair.ID,
		Environment:   live.Endpoint.Environment,
	}, nil
}

// rejectsCredentials tells whether Fuuffy refused the credentials themselves: not
// every rejection is about them, a redirect or a 404 is not.
func rejectsCredentials(err error) bool {
	upstream, ok := errors.AsType[*upstreamError](err)
	if !ok || upstream.failure != rejected {
		return false
	}
	switch upstream.status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return true
	}
	return false
}

// authFailures counts rejections of the credentials in force.
type authFailures struct {
	mu            sync.Mutex
	credentialsID string
	failures      int
}

func (a *authFailures) count(credentialsID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.credentialsID != credentialsID {
		a.credentialsID, a.failures = credentialsID, 0
	}
	a.failures++
}

func (a *authFailures) of(credentialsID string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.credentialsID != credentialsID {
		return 0
	}
	return a.failures
}

// storedToken returns the token in storage if it would be served. One that can't
// be read is no reason not to ask for another.
func (b *backend) storedToken(ctx context.Context, storage logical.Storage, live *liveConfig) (accessToken, bool) {
	t, ok, err := loadToken(ctx, storage)
	if err != nil {
		b.Logger().Warn("could not use the stored access token", "error", err)
		return accessToken{}, false
	}
	return t, ok && live.judge(t) != dropToken && b.cache.usable(t)
}
