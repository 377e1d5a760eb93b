// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// snapshot is a configured mount at one moment. What is told of the mount is made of
// one snapshot, so that it can't contradict itself.
type snapshot struct {
	*client
	cached tokencache.Snapshot
	now    time.Time
}

// snapshot returns the state of the mount, and loads the configuration if it must.
func (b *backend) snapshot(ctx context.Context, storage logical.Storage) (*snapshot, error) {
	c, err := b.inForce(ctx, storage)
	if err != nil {
		return nil, err
	}
	s := &snapshot{client: c, cached: b.cache.Snapshot(), now: b.now()}
	if latest, ok := s.cached.Source.(*client); ok {
		s.client = latest
	}
	return s, nil
}

// fallbackActive tells whether the cached token is of the old credentials although
// the new ones are in force, because Fuuffy rejects those.
func (s *snapshot) fallbackActive() bool {
	return s.cached.Token != nil && s.Rotation.state() == statePromoted && s.cached.Token.FallbackFor == s.Current.ID
}

// revokeOldAfter is when the last app has replaced its token of the old credentials.
// Apps use one for a rotation_period of the token at most. What leaked is revoked
// immediately. It is zero while nothing is to be revoked.
func (s *snapshot) revokeOldAfter() time.Time {
	r := &s.Rotation
	switch {
	case r.state() != statePromoted || s.fallbackActive():
		return time.Time{}
	case r.Compromised:
		return r.PromotedAt
	}
	life := upstream.DefaultTokenLife
	_, fallbackUntil := s.b.rejections.of(s.Current.ID)
	if t := s.cached.Token; t != nil {
		life = t.Life()
		fallbackUntil = later(fallbackUntil, t.FallbackUntil)
	}
	return later(r.PromotedAt.Add(s.Policy().ServedFor(life)), fallbackUntil)
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
