// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// tokenFormat is the version of the stored entry.
const tokenFormat = 1

// client requests, loads, and saves access tokens with one configuration. It is immutable, and
// the tokencache.Source of that configuration: the cache doesn't publish a token from another
// client.
type client struct {
	*storedConfig
	*host
	storage  logical.Storage
	upstream *upstream.Client
}

func (h *host) newClient(stored *storedConfig, storage logical.Storage) (*client, error) {
	transport, err := h.newTransport(stored.Endpoint.CACert)
	if err != nil {
		return nil, err
	}
	return &client{storedConfig: stored, host: h, storage: storage, upstream: upstream.New(upstream.Config{
		BaseURL:   stored.Endpoint.address(),
		Timeout:   stored.RequestTimeout,
		Transport: transport,
		UserAgent: pluginName + "/" + version,
		Now:       h.now,
		Random:    h.random,
		RateLimit: h.rateLimit,
		Budget:    h.budget,
	})}, nil
}

// load makes the client of what is stored.
func (b *backend) load(storage logical.Storage) tokencache.Loader {
	return func(ctx context.Context) (tokencache.Source, error) {
		stored, err := loadConfigured(ctx, storage)
		if err != nil {
			return nil, err
		}
		return b.newClient(stored, storage)
	}
}

// inForce returns the client of the current configuration.
func (b *backend) inForce(ctx context.Context, storage logical.Storage) (*client, error) {
	source, err := b.cache.Source(ctx, b.load(storage))
	if err != nil {
		return nil, err
	}
	return source.(*client), nil
}

// Policy is part of tokencache.Source.
func (c *client) Policy() tokencache.Policy { return c.policy() }

func (c *storedConfig) policy() tokencache.Policy {
	return tokencache.Policy{Buffer: c.TokenExpiryBuffer, Window: c.TokenRefreshWindow, StaleIfError: c.StaleIfError, MaxReadTTL: c.MaxReadTTL}
}

// heldFor is how long after its issue readers may still get a token with this life.
func (c *storedConfig) heldFor(life time.Duration) time.Duration {
	if c.StaleIfError {
		return life
	}
	return c.policy().ServedFor(life)
}

// Judge is part of tokencache.Source.
func (c *client) Judge(t tokencache.Token) tokencache.Verdict {
	fallback := c.Fallback()
	switch {
	case t.CredentialsID == c.Current.ID:
		return tokencache.KeepToken
	case fallback == nil || t.CredentialsID != fallback.ID:
		return tokencache.DropToken
	case t.FallbackFor == c.Current.ID:
		return tokencache.KeepToken // Fuuffy rejects the new credentials: there is no better one.
	}
	return tokencache.ReplaceToken
}

// SameUpstream is part of tokencache.Source.
func (c *client) SameUpstream(other tokencache.Source) bool {
	o := other.(*client)
	return c.Current.ID == o.Current.ID && c.Endpoint == o.Endpoint
}

// Describe is part of tokencache.Source: what every reader gets, except the ttl.
func (c *client) Describe(t *tokencache.Cached) (description map[string]any, warning string) {
	if t.FallbackFor == c.Current.ID {
		warning = fmt.Sprintf("Fuuffy rejects the new credentials of client %s, so this token belongs to the previous ones: tell whoever rotates the credentials", c.Current.ClientID)
	}
	return map[string]any{
		"access_token":        t.Value,
		"token_type":          "Bearer",
		"expires_at":          timestamp(t.ExpiresAt),
		"last_vault_rotation": timestamp(t.IssuedAt),
		"rotation_period":     int64(t.ServedFor / time.Second),
		"environment":         c.Endpoint.Environment,
	}, warning
}

// Request is part of tokencache.Source. If Fuuffy rejects the current credentials in the
// middle of a rotation, it tries the previous ones.
func (c *client) Request(ctx context.Context, cached *tokencache.Cached) (_ tokencache.Token, announce func(), _ error) {
	if !c.mayRequestTokens() {
		return tokencache.Token{}, func() {}, tokencache.ErrForward
	}
	a := c.requestToken(ctx, &c.Current)
	rejection, ok := errors.AsType[*upstream.Error](a.err)
	if !ok || !rejection.RejectsCredentials() {
		return a.token, func() { c.announceLife(a) }, a.err
	}
	c.pairs.countRejection(c.Current.ID)
	if fallback := c.Fallback(); fallback != nil {
		a = c.requestToken(ctx, fallback)
		a.token, a.err = c.fallBack(a, rejection)
	}
	return a.token, func() {
		c.announceLife(a)
		if a.err == nil {
			c.announceFallback(ctx, cached, rejection)
		}
	}, a.err
}

// attempt is the outcome of a token request.
type attempt struct {
	token tokencache.Token
	err   error
	// assumedLife is set if Fuuffy didn't say how long the token lives.
	assumedLife bool
}

// announceLife logs the life that the engine assumed.
func (c *client) announceLife(a attempt) {
	if a.assumedLife {
		c.log().Info("Fuuffy didn't say how long the access token lives; assuming the documented time", "life", upstream.DefaultTokenLife)
	}
}

// fallBack returns the token that the previous credentials got because Fuuffy rejects
// the current ones.
func (c *client) fallBack(previous attempt, rejection *upstream.Error) (tokencache.Token, error) {
	t := previous.token
	if failure, ok := errors.AsType[*upstream.Error](previous.err); ok {
		return t, bothFailed(rejection, advice.Name(c.Rotation.Previous, c.Held()), failure)
	}
	if previous.err != nil {
		return t, previous.err
	}
	t.FallbackFor = c.Current.ID
	servedFor := c.heldFor(t.Life())
	c.pairs.noteOldTokens(c.Current.ID, c.now().Add(servedFor), servedFor)
	return t, nil
}

// announceFallback tells people that apps get tokens of the previous credentials from now on.
// cached is the token that they got until now, nil for none.
func (c *client) announceFallback(ctx context.Context, cached *tokencache.Cached, rejection error) {
	if cached != nil && cached.FallbackFor == c.Current.ID {
		return
	}
	c.log().Warn("Fuuffy rejects the new credentials; falling back to the old ones",
		"new_client_id", c.Current.ClientID, "old_client_id", c.Rotation.Previous.ClientID, "error", rejection)
	c.notify(ctx, "rotate-root-fallback", rotatePath, "client_id", c.Rotation.Previous.ClientID)
}

// bothFailed is a rejection that also says how the fallback failed. It asks for the longer
// wait of the two.
func bothFailed(rejection *upstream.Error, previous string, failure *upstream.Error) error {
	both := *rejection
	both.Message = fmt.Sprintf("%s; %s gets no token either: %s", rejection.Message, previous, strings.TrimPrefix(failure.Code+": "+failure.Message, ": "))
	both.RetryAfter = max(both.RetryAfter, tokencache.AskedWait(failure))
	return &both
}

// requestToken requests a token with a pair of credentials for readers. It waits for its turn
// if the mount sends many requests.
func (c *client) requestToken(ctx context.Context, pair *rotation.Pair) attempt {
	return c.request(ctx, pair, c.upstream.RequestToken)
}

// tryToken requests a token with a pair of credentials for an operator. If the mount sends too
// many requests, it fails immediately.
func (c *client) tryToken(ctx context.Context, pair *rotation.Pair) (tokencache.Token, error) {
	a := c.request(ctx, pair, c.upstream.TryToken)
	c.announceLife(a)
	return a.token, a.err
}

// request requests a token with a pair of credentials, which need not be the current one.
func (c *client) request(ctx context.Context, pair *rotation.Pair, send func(ctx context.Context, clientID, clientSecret string) (upstream.Grant, error)) attempt {
	began := c.clock()
	granted, err := send(ctx, pair.ClientID, pair.ClientSecret)
	c.metrics.requested(err, c.clock().Mono-began.Mono)
	c.pairs.note(pair.ID, err)
	if err != nil {
		return attempt{err: err}
	}
	c.pairs.noteLife(pair.ID, granted.ExpiresIn)
	issued := began.Wall.UTC()
	return attempt{assumedLife: granted.AssumedExpiry, token: tokencache.Token{
		Value:         granted.AccessToken,
		IssuedAt:      issued,
		IssuedMono:    began.Mono,
		ExpiresAt:     issued.Add(granted.ExpiresIn),
		CredentialsID: pair.ID,
	}}
}

// Report is part of tokencache.Source.
func (c *client) Report(ctx context.Context, o tokencache.Outcome) {
	if o.Early {
		c.metrics.early.Inc()
	}
	failure, failed := errors.AsType[*upstream.Error](o.Err)
	switch {
	case o.Dropped && c.mayRequestTokens():
		why := deadByConfig
		if c.Rotation.Compromised {
			why = deadByLeak
		}
		c.notifyDropped(ctx, why, c.Current.ClientID)
	case o.Dropped:
	case failed:
		c.notifyToken(ctx, tokenEvent{kind: "issue-fail", operation: "issue"}, "client_id", c.Current.ClientID, "failure", string(failure.Failure))
	case o.Err != nil:
	case o.Replaced:
		c.notifyToken(ctx, tokenEvent{kind: "issue", operation: "replace", modified: true}, "client_id", c.Current.ClientID)
	default:
		c.notifyToken(ctx, tokenEvent{kind: "issue", operation: "issue"}, "client_id", c.Current.ClientID)
	}
}

// storedToken is the entry for the access token.
type storedToken struct {
	Format int `json:"format"`
	tokencache.Token
	Environment string `json:"environment"`
	// FallbackUntil is when apps stop using the last token of the pair before the current one.
	FallbackUntil time.Time `json:"fallback_until,omitzero"`
}

// Stored is part of tokencache.Source. A token that this version can't read doesn't count.
func (c *client) Stored(ctx context.Context) (tokencache.Token, bool, error) {
	t, err := loadToken(ctx, c.storage)
	c.recallOldTokens(&t)
	life := t.Life()
	valid := t.Format == tokenFormat && upstream.TokenProblem(t.Value) == "" && life > 0 && life <= upstream.MaxTokenLife
	return t.Token, valid, err
}

// loadToken returns the zero value for no entry, and for one that this version can't read.
func loadToken(ctx context.Context, storage logical.Storage) (t storedToken, err error) {
	entry, err := storage.Get(ctx, tokenKey)
	if err != nil {
		return t, fmt.Errorf("read the stored token: %w", err)
	}
	if entry == nil || formatOf(entry) > tokenFormat {
		return t, nil
	}
	if err := entry.DecodeJSON(&t); err != nil {
		return storedToken{}, fmt.Errorf("decode the stored token: the entry is damaged")
	}
	return t, nil
}

// recallOldTokens remembers after a restart until when apps use a token of the previous pair.
func (c *client) recallOldTokens(t *storedToken) {
	if c.Rotation.Name() != rotation.Promoted {
		return
	}
	servedFor := c.heldFor(cmp.Or(t.Life(), upstream.DefaultTokenLife))
	switch {
	case t.Format != 0:
		c.pairs.noteOldTokens(c.Current.ID, t.FallbackUntil, servedFor)
	case c.pairs.of(c.Current.ID).oldTokensUntil.IsZero():
		// The entry is lost or can't be read, so no one knows: apps may have just got one.
		c.pairs.noteOldTokens(c.Current.ID, c.now().Add(servedFor), servedFor)
	}
}

// Save is part of tokencache.Source. It also stores until when apps use a fallback's token.
func (c *client) Save(ctx context.Context, t tokencache.Token) error {
	entry, err := logical.StorageEntryJSON(tokenKey, storedToken{
		Format: tokenFormat, Token: t, Environment: c.Endpoint.Environment, FallbackUntil: c.pairs.of(c.Current.ID).oldTokensUntil,
	})
	if err != nil {
		return fmt.Errorf("encode the token: %w", err)
	}
	return c.storage.Put(ctx, entry)
}

// Erase is part of tokencache.Source. A standby leaves that to the active node. What the entry
// says of the tokens that apps hold stays.
func (c *client) Erase(ctx context.Context) error {
	if !c.mayRequestTokens() {
		return nil
	}
	if err := eraseToken(ctx, c.storage); err != nil || c.Rotation.Name() != rotation.Promoted {
		return err
	}
	// If this fails, recallOldTokens assumes the worst.
	_ = c.Save(ctx, tokencache.Token{})
	return nil
}

func eraseToken(ctx context.Context, storage logical.Storage) error {
	if err := storage.Delete(ctx, tokenKey); err != nil {
		return fmt.Errorf("delete the stored token: %w", err)
	}
	return nil
}

// timestamp is nil for no time.
func timestamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}
