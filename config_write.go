// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// configChange is the configuration that a write would make.
type configChange struct {
	config storedConfig
	// moved is set when the endpoint changes, renewed when the credentials do.
	moved, renewed bool
	warnings       []string
}

// text reads a text field into target if the write names it.
func (c *configChange) text(d *framework.FieldData, field string, target *string) (given bool, err error) {
	if _, given = d.GetOk(field); !given {
		return false, nil
	}
	value, warning, err := textField(d, field)
	if err != nil {
		return true, err
	}
	if warning != "" {
		c.warn(warning)
	}
	*target = value
	return true, nil
}

func (c *configChange) warn(text string) { c.warnings = append(c.warnings, text) }

// configWrite is a write of the config.
type configWrite struct {
	data *framework.FieldData
	// id is the engine's name for the credentials if they change.
	id string
	// failing is set when the last token request failed.
	failing bool
}

// propose is the change that applies the fields of the write.
func (w configWrite) propose(stored *storedConfig, f rotation.Facts) (transition, error) {
	d, c := w.data, &configChange{}
	if _, ok := d.GetOk("force"); ok {
		return transition{}, userError("force is for deleting the configuration. Nothing was changed. Leave it out.")
	}
	if stored != nil {
		c.config = *stored
	} else {
		c.config.Endpoint.Environment = defaultEnvironment
		c.config.Rotation = f.Leaks
		c.config.Upgrade()
	}
	for _, apply := range []func(*storedConfig, *framework.FieldData) error{
		c.applyCredentials, c.applyEndpoint, c.applySettings,
	} {
		if err := apply(stored, d); err != nil {
			return transition{}, err
		}
	}
	t := transition{renewed: c.moved || c.renewed}
	if err := c.renew(&t, stored, w.id, f); err != nil {
		return transition{}, err
	}
	if err := c.applyCreated(d, f.Now); err != nil {
		return transition{}, err
	}
	verify := d.Get("verify_connection").(bool)
	// A write with the secret is meant to fix a failure, so test it even if nothing changed.
	_, secret := d.GetOk("client_secret")
	proves := verify && (t.renewed || w.failing && secret)
	if t.renewed || proves {
		c.config.Untested = !proves
	}
	t.config, t.Next = c.config, c.config.Pairs
	t.Unchanged = stored != nil && reflect.DeepEqual(t.config, *stored)
	switch {
	case proves:
		t.MustWork, t.Unchanged = &t.config.Current, false
	case !verify && t.renewed:
		c.warn("The credentials were saved without a test (verify_connection=false).")
	}
	t.warnings = c.warnings
	return t, nil
}

// renew takes new credentials in, or sends the same ones to another endpoint.
func (c *configChange) renew(t *transition, stored *storedConfig, id string, f rotation.Facts) error {
	var step rotation.Step
	switch written := c.config.Current; {
	case c.renewed:
		written = rotation.Pair{ID: id, ClientID: written.ClientID, ClientSecret: written.ClientSecret, SetAt: f.Now}
		step = rotation.Replace(written)
	case c.moved:
		step = rotation.Move(id)
	default:
		return nil
	}
	before := c.config.Pairs
	before.Current = rotation.Pair{}
	if stored != nil {
		before = stored.Pairs
		t.tokensDead = deadByConfig
	}
	taken, err := step(before, f)
	t.Transition, c.config.Pairs = taken, taken.Next
	return err
}

// farthestEast is how much earlier than in UTC a day begins in the easternmost time zone.
const farthestEast = 14 * time.Hour

// applyCreated sets the date of credentials that are older than their first write here. A date
// that the pair has already is no change: whoever repeats a write must not have it refused, or the
// 90 days moved, only because time went by.
func (c *configChange) applyCreated(d *framework.FieldData, now time.Time) error {
	var text string
	if given, err := c.text(d, "credentials_created", &text); err != nil || !given {
		return err
	}
	created, err := time.Parse(time.DateOnly, text)
	if err != nil {
		if created, err = time.Parse(time.RFC3339, text); err != nil {
			return userError("credentials_created must be a date like 2026-09-23, or a time like 2026-09-23T08:00:00Z")
		}
	}
	current := &c.config.Current
	had := []time.Time{current.SetAt, current.SetAt.Truncate(time.Second), current.CreatedAhead} // Users see whole seconds.
	if !created.IsZero() && slices.ContainsFunc(had, created.Equal) {
		return nil
	}
	if created.After(now.Add(farthestEast)) || created.Before(now.AddDate(-1, 0, 0)) {
		return userError("credentials_created must be within the last year, and not after today")
	}
	current.SetAt, current.CreatedAhead = created.UTC(), time.Time{}
	if created.After(now) {
		current.SetAt, current.CreatedAhead = now, created.UTC()
	}
	return nil
}

func (c *configChange) applyCredentials(stored *storedConfig, d *framework.FieldData) error {
	current := &c.config.Current
	idGiven, err := c.text(d, "client_id", &current.ClientID)
	if err != nil {
		return err
	}
	secretGiven, err := c.text(d, "client_secret", &current.ClientSecret)
	if err != nil {
		return err
	}
	switch {
	case current.ClientID == "":
		return userError("client_id is missing: copy it from the Fuuffy dashboard")
	case current.ClientSecret == "":
		return userError("client_secret is missing: copy it from the Fuuffy dashboard, and pass it as client_secret=- on standard input or client_secret=@file")
	}
	if stored == nil {
		c.renewed = true
		return nil
	}
	if idGiven && !secretGiven && current.ClientID != stored.Current.ClientID {
		return userError("client_id can't change without its client_secret: write both")
	}
	c.renewed = !current.Same(&stored.Current)
	return nil
}

func (c *configChange) applyEndpoint(stored *storedConfig, d *framework.FieldData) error {
	e := &c.config.Endpoint
	if _, err := c.text(d, "environment", &e.Environment); err != nil {
		return err
	}
	if _, ok := baseURLs[e.Environment]; !ok {
		return userError("environment must be one of " + strings.Join(slices.Sorted(maps.Keys(baseURLs)), ", "))
	}
	if given, err := c.text(d, "base_url", &e.BaseURL); err != nil {
		return err
	} else if given {
		e.BaseURL = strings.TrimRight(e.BaseURL, "/")
		if err := checkBaseURL(e.BaseURL); err != nil {
			return err
		}
	}
	e.BaseURL = lowerCaseHost(e.BaseURL)
	if bundle, ok := d.GetOk("ca_cert"); ok {
		var err error
		if e.CACert, err = readCACert(bundle.(string)); err != nil {
			return err
		}
	}
	if stored == nil {
		return nil
	}
	// Older versions stored the address as it was written.
	before := stored.Endpoint
	before.BaseURL = lowerCaseHost(before.BaseURL)
	if *e == before {
		return nil
	}
	// Someone who may write the config but doesn't know the secret must not be able to send
	// it to their own host.
	if _, ok := d.GetOk("client_secret"); !ok {
		return userError("Add client_secret=-. environment, base_url, and ca_cert decide where the engine sends it. Nothing was saved.")
	}
	c.moved = true
	return nil
}

func (c *configChange) applySettings(stored *storedConfig, d *framework.FieldData) error {
	for _, f := range settings {
		if _, given := d.GetOk(f.name); !given && stored != nil {
			continue
		}
		if err := f.set(&c.config, d.Get(f.name)); err != nil {
			return err
		}
	}
	if c.config.RotationReminder >= c.config.RotationPeriod {
		return userError(fmt.Sprintf("rotation_reminder (%s) must be shorter than rotation_period (%s)",
			shortDuration(c.config.RotationReminder), shortDuration(c.config.RotationPeriod)))
	}
	if _, ok := d.GetOk("token_expiry_buffer"); ok && c.config.TokenExpiryBuffer < 5*time.Minute {
		c.warn("token_expiry_buffer is below the five minutes that Fuuffy recommends: a token may expire while a request is in progress")
	}
	return nil
}
