// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	configKey = "config"
	tokenKey  = "token"

	// configFormat and tokenFormat are the versions of the stored entries. A newer
	// one is refused: what it means is not known here.
	configFormat = 1
	tokenFormat  = 1
)

// baseURLs are Fuuffy's own addresses, by environment.
var baseURLs = map[string]string{
	"production": "https://api-gateway.fuuffy.com/v1",
	"testing":    "https://testing-api-gateway.fuuffy.com/v1",
}

const defaultEnvironment = "production"

// credentials are one pair as the Fuuffy dashboard gives it out.
type credentials struct {
	// ID is this engine's own name for the pair together with the endpoint it is
	// sent to. Tokens carry it, so that one of another pair is recognised.
	ID           string    `json:"id"`
	ClientID     string    `json:"client_id"`
	ClientSecret string    `json:"client_secret"`
	SetAt        time.Time `json:"set_at"`
}

func newCredentials(clientID, clientSecret string, now time.Time) credentials {
	return credentials{ID: rand.Text(), ClientID: clientID, ClientSecret: clientSecret, SetAt: now.UTC()}
}

func (c *credentials) same(other *credentials) bool {
	return c.ClientID == other.ClientID && c.ClientSecret == other.ClientSecret
}

// endpoint is where the client secret is sent to.
type endpoint struct {
	Environment string `json:"environment"`
	BaseURL     string `json:"base_url,omitempty"`
	CACert      string `json:"ca_cert,omitempty"`
}

// address is the base URL in force.
func (e endpoint) address() string {
	if e.BaseURL != "" {
		return e.BaseURL
	}
	return baseURLs[e.Environment]
}

// storedConfig is the one storage entry for all that an operator decides:
// settings, credentials and, with them, the state of their rotation. Each change
// of it is one write, so that a crash leaves either the old or the new.
type storedConfig struct {
	Format int `json:"format"`
	// Revision counts the writes: a change that was prepared on another one is refused.
	Revision int         `json:"revision"`
	Current  credentials `json:"current"`
	Endpoint endpoint    `json:"endpoint"`
	Rotation rotation    `json:"rotation"`

	RequestTimeout     time.Duration `json:"request_timeout"`
	TokenExpiryBuffer  time.Duration `json:"token_expiry_buffer"`
	TokenRefreshWindow time.Duration `json:"token_refresh_window"`
	StaleIfError       bool          `json:"stale_if_error"`
	RotationPeriod     time.Duration `json:"rotation_period"`
	RotationReminder   time.Duration `json:"rotation_reminder"`
}

func (c *storedConfig) policy() policy {
	return policy{buffer: c.TokenExpiryBuffer, window: c.TokenRefreshWindow, staleIfError: c.StaleIfError}
}

// judge says what becomes of a token under this configuration.
func (c *storedConfig) judge(t accessToken) verdict {
	if t.CredentialsID == c.Current.ID {
		return keepToken
	}
	fallback := c.Rotation.fallback()
	switch {
	case fallback == nil || t.CredentialsID != fallback.ID:
		return dropToken
	// Since the promotion the old credentials are only asked when the new ones were
	// rejected: there is no better token to be had.
	case t.IssuedAt.After(c.Rotation.PromotedAt):
		return keepToken
	}
	return replaceToken
}

// loadConfig returns nil if the engine is not configured.
func loadConfig(ctx context.Context, storage logical.Storage) (*storedConfig, error) {
	entry, err := storage.Get(ctx, configKey)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	if entry == nil {
		return nil, nil
	}
	var c storedConfig
	if err := entry.DecodeJSON(&c); err != nil {
		// The decoder's own words could quote the entry.
		return nil, fmt.Errorf("decode config: the stored entry is damaged; delete the config and write it anew")
	}
	if c.Format > configFormat {
		return nil, fmt.Errorf("decode config: it was written by a newer version of this plugin (format %d, this one reads up to %d); go back to that version", c.Format, configFormat)
	}
	return &c, nil
}

// loadConfigured is loadConfig where not being configured is an error.
func loadConfigured(ctx context.Context, storage logical.Storage) (*storedConfig, error) {
	c, err := loadConfig(ctx, storage)
	if err == nil && c == nil {
		err = errNotConfigured
	}
	return c, err
}

// reload returns what is stored now, or a userError if that is not what a change
// was based on (nil for nothing).
func reload(ctx context.Context, storage logical.Storage, based *storedConfig) (*storedConfig, error) {
	stored, err := loadConfig(ctx, storage)
	if err != nil {
		return nil, err
	}
	if (stored == nil) != (based == nil) || stored != nil && stored.Revision != based.Revision {
		return nil, userError("the configuration was changed by somebody else meanwhile, and nothing was saved: read it, and repeat this if it is still right")
	}
	return stored, nil
}

// saveConfig writes the entry and counts it.
func saveConfig(ctx context.Context, storage logical.Storage, c *storedConfig) error {
	c.Format = configFormat
	c.Revision++
	entry, err := logical.StorageEntryJSON(configKey, c)
	if err != nil {
		return fmt.Errorf("encode config: %w", err)
	}
	if err := storage.Put(ctx, entry); err != nil {
		return fmt.Errorf("save config: %w", err)
	}
	return nil
}

// storedToken is the entry for the access token.
type storedToken struct {
	Format int `json:"format"`
	accessToken
}

// loadToken returns false if there is none that this version can read.
func loadToken(ctx context.Context, storage logical.Storage) (accessToken, bool, error) {
	entry, err := storage.Get(ctx, tokenKey)
	if err != nil {
		return accessToken{}, false, fmt.Errorf("read the stored token: %w", err)
	}
	if entry == nil {
		return accessToken{}, false, nil
	}
	var t storedToken
	if err := entry.DecodeJSON(&t); err != nil {
		return accessToken{}, false, fmt.Errorf("decode the stored token: the entry is damaged")
	}
	valid := t.Format == tokenFormat && tokenProblem(t.Value) == "" && t.life() > 0 && t.life() <= maxTokenLife
	return t.accessToken, valid, nil
}

func saveToken(ctx context.Context, storage logical.Storage, t accessToken) error {
	entry, err := logical.StorageEntryJSON(tokenKey, storedToken{Format: tokenFormat, accessToken: t})
	if err != nil {
		return fmt.Errorf("encode the token: %w", err)
	}
	return storage.Put(ctx, entry)
}
