// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"context"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// view is a configured mount at one moment. Every text about the mount comes from one view.
type view struct {
	*client
	cached tokencache.Snapshot
	mount  advice.Mount
}

// view returns the mount as it is now, and loads the configuration if it must.
func (b *backend) view(ctx context.Context, storage logical.Storage) (*view, error) {
	c, err := b.inForce(ctx, storage)
	if err != nil {
		return nil, err
	}
	cached := b.cache.Snapshot()
	if latest, ok := cached.Source.(*client); ok {
		c = latest
	}
	return b.viewOf(c, cached), nil
}

// viewInMemory is view without a wait for a configuration that can't be loaded. It is nil if there
// is none.
func (b *backend) viewInMemory(ctx context.Context, storage logical.Storage) *view {
	if cached := b.cache.Snapshot(); cached.Source != nil {
		return b.viewOf(cached.Source.(*client), cached)
	}
	v, err := b.view(ctx, storage)
	if err != nil {
		return nil
	}
	return v
}

func (b *backend) viewOf(c *client, cached tokencache.Snapshot) *view {
	m := b.due(c.storedConfig)
	m.FallbackActive = fallbackActive(c.storedConfig, cached.Token)
	m.OldTokensUntil = b.oldTokensUntil(c.storedConfig)
	m.StaleIfError = c.StaleIfError
	m.Failure, m.RetryAt = cached.Failure, m.Now.Add(cached.HeldOffFor)
	m.Tested = !c.Untested || !cached.LastSuccess.IsZero() || cached.Failure != nil
	if t := cached.Token; t != nil {
		m.Token = &advice.Token{
			Served:      cached.State <= tokencache.InWindow || cached.Stale,
			ServedUntil: t.ServedUntil(), ExpiresAt: t.ExpiresAt,
			Suspect: t.Suspect, Unsaved: cached.Unsaved != nil,
		}
		if c.StaleIfError && m.Failure != nil && m.Failure.Failure != upstream.Rejected {
			m.Token.ServedUntil = t.ExpiresAt // Readers will get it in its buffer too.
		}
	}
	return &view{client: c, cached: cached, mount: m}
}

// due is what the stored configuration alone tells: when a rotation is due.
func (b *backend) due(stored *storedConfig) advice.Mount {
	return advice.Mount{
		Pairs: stored.Pairs, Now: b.now(), Standing: b.standing,
		RotationPeriod: stored.RotationPeriod, RotationReminder: stored.RotationReminder,
	}
}

// standing is what this node knows about a pair since the plugin started. A stored token tells
// nothing: a request may have failed after it.
func (b *backend) standing(pairID string) rotation.Standing { return b.pairs.of(pairID).standing }

// facts are what a step of the rotation needs to know. stored is nil if nothing is configured.
func (b *backend) facts(ctx context.Context, storage logical.Storage, stored *storedConfig) (f rotation.Facts, err error) {
	f = rotation.Facts{Now: b.now().UTC(), Standing: b.standing}
	if stored == nil {
		f.Leaks, err = loadLeaks(ctx, storage)
		return f, err
	}
	f.OldTokensUntil = b.oldTokensUntil(stored)
	f.TokensUntil = f.Now.Add(stored.heldFor(b.tokenLife(stored.Current.ID)))
	return f, nil
}

// tokenLife is how long the tokens of a pair live, as far as this node knows.
func (b *backend) tokenLife(pairID string) time.Duration {
	if t := b.cache.Snapshot().Token; t != nil && t.CredentialsID == pairID {
		return t.Life()
	}
	return cmp.Or(b.pairs.of(pairID).tokenLife, upstream.DefaultTokenLife)
}

// oldTokensUntil is when the last app stops using a token of the previous pair: of those from
// before the promotion, and of a fallback.
func (b *backend) oldTokensUntil(stored *storedConfig) time.Time {
	r := &stored.Rotation
	if r.Name() != rotation.Promoted {
		return time.Time{}
	}
	if until := b.pairs.of(stored.Current.ID).oldTokensUntil; !until.IsZero() {
		return until
	}
	servedFor := stored.heldFor(b.tokenLife(r.Previous.ID))
	until := r.TokensUntil
	if until.IsZero() { // An older version promoted it.
		until = r.PromotedAt.Add(servedFor)
	}
	b.pairs.noteOldTokens(stored.Current.ID, until, servedFor)
	return b.pairs.of(stored.Current.ID).oldTokensUntil
}

// fallbackActive tells whether the cached token belongs to the previous pair because Fuuffy
// rejects the current one.
func fallbackActive(stored *storedConfig, t *tokencache.Cached) bool {
	return t != nil && stored.Rotation.Name() == rotation.Promoted && t.FallbackFor == stored.Current.ID
}

// applicable leaves out what does not apply.
func applicable(data map[string]any) map[string]any {
	maps.DeleteFunc(data, func(_ string, value any) bool { return value == nil || value == "" })
	return data
}
