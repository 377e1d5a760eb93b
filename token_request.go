// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"

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

// ask requests a token from Fuuffy with the credentials of a configuration, which
// need not be in force.
func (b *backend) ask(ctx context.Context, live *liveConfig) (accessToken, error) {
	issued := b.cache.wallClock().UTC()
	granted, err := live.client.requestToken(ctx, live.Current.ClientID, live.Current.ClientSecret)
	if err != nil {
		return accessToken{}, err
	}
	if granted.assumedExpiry {
		b.Logger().Info("Fuuffy did not say how long the access token lives; taking the documented time", "life", defaultTokenLife)
	}
	return accessToken{
		Value:         granted.accessToken,
		IssuedAt:      issued,
		ExpiresAt:     issued.Add(granted.expiresIn),
		CredentialsID: live.Current.ID,
		Environment:   live.Endpoint.Environment,
	}, nil
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
