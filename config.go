// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

// configFormat is the version of the stored entry.
const configFormat = 1

// baseURLs are Fuuffy's own addresses, by environment.
var baseURLs = map[string]string{
	"production": "https://api-gateway.fuuffy.com/v1",
	"testing":    "https://testing-api-gateway.fuuffy.com/v1",
}

const defaultEnvironment = "production"

// endpoint is where the engine sends the client secret.
type endpoint struct {
	Environment string `json:"environment"`
	BaseURL     string `json:"base_url,omitempty"`
	CACert      string `json:"ca_cert,omitempty"`
}

// address is the current base URL.
func (e endpoint) address() string {
	if e.BaseURL != "" {
		return e.BaseURL
	}
	return baseURLs[e.Environment]
}

// storedConfig is the one storage entry for everything that an operator decides: settings,
// credentials, and the state of their rotation. Every change is one write, so that a crash
// leaves either the old or the new.
type storedConfig struct {
	Format int `json:"format"`
	// WriteID names the write that made this entry. It never repeats, so the engine can reject
	// a change that was prepared for another entry.
	WriteID string `json:"write_id"`
	rotation.Pairs
	Endpoint endpoint `json:"endpoint"`
	// Untested is set from a write that brought credentials or an endpoint without a test,
	// until Fuuffy issued a token for another write or step.
	Untested bool `json:"untested,omitempty"`

	RequestTimeout     time.Duration `json:"request_timeout"`
	TokenExpiryBuffer  time.Duration `json:"token_expiry_buffer"`
	TokenRefreshWindow time.Duration `json:"token_refresh_window"`
	StaleIfError       bool          `json:"stale_if_error"`
	RotationPeriod     time.Duration `json:"rotation_period"`
	RotationReminder   time.Duration `json:"rotation_reminder"`
	MaxReadTTL         time.Duration `json:"max_read_ttl,omitempty"`
}

var (
	errNotConfigured = tokencache.ErrNoSource
	errDamaged       = errors.New("decode config: the stored entry is damaged")
	errNewer         = errors.New("use the newer plugin version")
)

// loadConfig returns nil if the engine is not configured.
func loadConfig(ctx context.Context, storage logical.Storage) (*storedConfig, error) {
	entry, err := storage.Get(ctx, configKey)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	if entry == nil {
		return nil, nil
	}
	if format := formatOf(entry); format > configFormat {
		return nil, newerFormat(format)
	}
	var c storedConfig
	// Leave out the decoder's own words: they could quote the entry.
	if err := entry.DecodeJSON(&c); err != nil || c.Current.ClientID == "" {
		return nil, errDamaged
	}
	// Older versions stored the bundle as it was written.
	if certificates, err := readCACert(c.Endpoint.CACert); err == nil {
		c.Endpoint.CACert = certificates
	}
	c.Upgrade()
	return &c, nil
}

func newerFormat(format int) error {
	return fmt.Errorf("decode config: this plugin is older than the stored configuration (format %d; it supports %d): %w", format, configFormat, errNewer)
}

// formatOf reads the format of an entry before anything else: a newer version may have
// changed the type of any other field. It is 0 for what can't be read.
func formatOf(entry *logical.StorageEntry) int {
	var known struct {
		Format int `json:"format"`
	}
	_ = entry.DecodeJSON(&known)
	return known.Format
}

// loadConfigured is loadConfig where not being configured is an error.
func loadConfigured(ctx context.Context, storage logical.Storage) (*storedConfig, error) {
	c, err := loadConfig(ctx, storage)
	if err == nil && c == nil {
		err = errNotConfigured
	}
	return c, err
}

// reload returns what is stored now, or a userError if a change was based on something else
// (nil if there was nothing).
func reload(ctx context.Context, storage logical.Storage, based *storedConfig) (*storedConfig, error) {
	stored, err := loadConfig(ctx, storage)
	if err != nil {
		return nil, err
	}
	if (stored == nil) != (based == nil) || stored != nil && stored.WriteID != based.WriteID {
		return nil, userError("someone else changed the configuration at the same time. Nothing was saved. Read it, and repeat this command if it is still right.")
	}
	return stored, nil
}

// saveConfig writes the entry with a new WriteID.
func saveConfig(ctx context.Context, storage logical.Storage, c *storedConfig) error {
	c.Format = configFormat
	c.WriteID = rand.Text()
	entry, err := logical.StorageEntryJSON(configKey, c)
	if err != nil {
		return fmt.Errorf("encode config: %w", err)
	}
	if err := storage.Put(ctx, entry); err != nil {
		return fmt.Errorf("save config: %w", err)
	}
	return nil
}

// storedLeaks is the entry for the compromised pairs of a deleted configuration. The engine uses
// it only while nothing is configured, and the first write of the config takes it in. An entry
// beside a config is what a crash left: the next delete replaces it.
type storedLeaks struct {
	Format int `json:"format"`
	rotation.State
}

// loadLeaks returns the zero State if there are none.
func loadLeaks(ctx context.Context, storage logical.Storage) (rotation.State, error) {
	entry, err := storage.Get(ctx, leaksKey)
	if err != nil {
		return rotation.State{}, fmt.Errorf("read the compromised credentials: %w", err)
	}
	if entry == nil {
		return rotation.State{}, nil
	}
	if format := formatOf(entry); format > configFormat {
		return rotation.State{}, newerFormat(format)
	}
	var leaks storedLeaks
	if err := entry.DecodeJSON(&leaks); err != nil || leaks.Key == "" {
		return rotation.State{}, errDamaged
	}
	return leaks.State, nil
}

// saveLeaks stores the compromised pairs of a rotation, or removes the entry if there are none.
func saveLeaks(ctx context.Context, storage logical.Storage, r *rotation.State) error {
	leaks := r.Leaks()
	if len(leaks.Unrevoked) == 0 {
		return eraseLeaks(ctx, storage)
	}
	entry, err := logical.StorageEntryJSON(leaksKey, storedLeaks{Format: configFormat, State: leaks})
	if err != nil {
		return fmt.Errorf("encode the compromised credentials: %w", err)
	}
	if err := storage.Put(ctx, entry); err != nil {
		return fmt.Errorf("save the compromised credentials: %w", err)
	}
	return nil
}

func eraseLeaks(ctx context.Context, storage logical.Storage) error {
	if err := storage.Delete(ctx, leaksKey); err != nil {
		return fmt.Errorf("delete the stored compromised credentials: %w", err)
	}
	return nil
}
