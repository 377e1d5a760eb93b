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

// setting is a field of config that is neither a credential nor part of the endpoint. To add
// one, add an entry to settings and a field to storedConfig.
type setting struct {
	name string
	// written describes the field in a write, shown in a read.
	written, shown *framework.FieldSchema
	// set takes the value of a write, or the default.
	set func(c *storedConfig, value any) error
	// get returns nil for what a read leaves out.
	get func(*storedConfig) any
}

var settings = []setting{
	duration("request_timeout", 10*time.Second, time.Second, 30*time.Second,
		func(c *storedConfig) *time.Duration { return &c.RequestTimeout },
		"How long to wait for one attempt of a token request."),
	duration("token_expiry_buffer", 5*time.Minute, 30*time.Second, 30*time.Minute,
		func(c *storedConfig) *time.Duration { return &c.TokenExpiryBuffer },
		"The engine doesn't serve a token that has less time left than this. At most half of the token's life."),
	duration("token_refresh_window", 5*time.Minute, 30*time.Second, 30*time.Minute,
		func(c *storedConfig) *time.Duration { return &c.TokenRefreshWindow },
		"How long before the buffer the engine requests the next token in the background."),
	duration("rotation_period", 90*24*time.Hour, time.Hour, 3*365*24*time.Hour,
		func(c *storedConfig) *time.Duration { return &c.RotationPeriod },
		"When credentials are due for rotation, counted from when they took effect. Fuuffy recommends 90 days."),
	duration("rotation_reminder", 14*24*time.Hour, 0, 365*24*time.Hour,
		func(c *storedConfig) *time.Duration { return &c.RotationReminder },
		"How long before a rotation is due the reminders start."),
	boolean("stale_if_error", false,
		func(c *storedConfig) *bool { return &c.StaleIfError },
		"Serve a token inside its buffer, with a warning, if Fuuffy issues no new one."),
	optionalDuration("max_read_ttl", 10*time.Second, 24*time.Hour,
		func(c *storedConfig) *time.Duration { return &c.MaxReadTTL },
		"The longest ttl that a read of token returns. For readers that can't report a 401: they come back that often, and get the token that replaced a dead one."),
}

// duration is a time span: whole seconds for users, a Duration in the code.
func duration(name string, standard, least, most time.Duration, in func(*storedConfig) *time.Duration, description string) setting {
	bounds := fmt.Sprintf(" From %s to %s; by default %s.", shortDuration(least), shortDuration(most), shortDuration(standard))
	return setting{
		name:    name,
		written: &framework.FieldSchema{Type: framework.TypeDurationSecond, Default: shortDuration(standard), Description: description + bounds},
		shown:   &framework.FieldSchema{Type: framework.TypeInt64, Required: true, Description: description + " In seconds."},
		set: func(c *storedConfig, value any) error {
			d := time.Duration(value.(int)) * time.Second
			if d < least || d > most {
				return userError(fmt.Sprintf("%s must be between %s and %s", name, shortDuration(least), shortDuration(most)))
			}
			*in(c) = d
			return nil
		},
		get: func(c *storedConfig) any { return int64(*in(c) / time.Second) },
	}
}

// optionalDuration is a time span that isn't set by default.
func optionalDuration(name string, least, most time.Duration, in func(*storedConfig) *time.Duration, description string) setting {
	bounds := fmt.Sprintf("From %s to %s", shortDuration(least), shortDuration(most))
	return setting{
		name:    name,
		written: &framework.FieldSchema{Type: framework.TypeDurationSecond, Description: fmt.Sprintf("%s %s; by default there is no limit. 0 removes it.", description, bounds)},
		shown:   &framework.FieldSchema{Type: framework.TypeInt64, Description: description + " In seconds. Left out if there is no limit."},
		set: func(c *storedConfig, value any) error {
			d := time.Duration(value.(int)) * time.Second
			if d != 0 && (d < least || d > most) {
				return userError(fmt.Sprintf("%s must be between %s and %s. To remove the limit, write 0.", name, shortDuration(least), shortDuration(most)))
			}
			*in(c) = d
			return nil
		},
		get: func(c *storedConfig) any {
			if *in(c) == 0 {
				return nil
			}
			return int64(*in(c) / time.Second)
		},
	}
}

func boolean(name string, standard bool, in func(*storedConfig) *bool, description string) setting {
	return setting{
		name:    name,
		written: &framework.FieldSchema{Type: framework.TypeBool, Default: standard, Description: fmt.Sprintf("%s By default %t.", description, standard)},
		shown:   &framework.FieldSchema{Type: framework.TypeBool, Required: true, Description: description},
		set: func(c *storedConfig, value any) error {
			*in(c) = value.(bool)
			return nil
		},
		get: func(c *storedConfig) any { return *in(c) },
	}
}

// configFields are the fields that a write takes.
var configFields = func() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"client_id": {
			Type: framework.TypeString, Description: "The client ID from the Fuuffy dashboard.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client ID"},
		},
		"client_secret": {
			Type: framework.TypeString, Description: "The client secret from the Fuuffy dashboard. The engine never shows it again.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client secret", Sensitive: true},
		},
		"environment": {
			Type: framework.TypeString, Default: defaultEnvironment, AllowedValues: []any{"production", "testing"},
			Description: "The Fuuffy environment that the credentials belong to: production, which is the default, or testing.",
		},
		"base_url": {
			Type: framework.TypeString, Description: "The API's address, if you use a private gateway or a sandbox. https only. If empty, the environment's address.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Base URL"},
		},
		"ca_cert": {
			Type: framework.TypeString, Description: "A PEM bundle of the certificate authorities to trust instead of the system's. If empty, the system's.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "textarea"},
		},
		"credentials_created": {
			Type: framework.TypeString, Description: "When you created the credentials, if that was before this write: a date like 2026-09-23. The rotation_period starts then.",
		},
		"force": {
			Type: framework.TypeBool, Default: false,
			Description: "Only for deletes: delete the configuration even though a rotation is in progress, or compromised credentials are listed.",
		},
		"verify_connection": {
			Type: framework.TypeBool, Default: true,
			Description: "Test new credentials with a token request before saving them. By default true.",
		},
	}
	for _, f := range settings {
		fields[f.name] = f.written
	}
	return fields
}()

// configResponseFields are the fields that a read shows: no secret, and nothing that only
// instructs a write.
func configResponseFields() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{}
	for _, name := range []string{"client_id", "environment", "base_url", "ca_cert"} {
		fields[name] = required(configFields[name])
		fields[name].Default = nil
	}
	for _, f := range settings {
		fields[f.name] = f.shown
	}
	return fields
}

// required is a copy of a field that users must not leave out.
func required(field *framework.FieldSchema) *framework.FieldSchema {
	copied := *field
	copied.Required = true
	return &copied
}

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
	// Somebody who may write the config but doesn't know the secret must not be able to send
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

// shortDuration writes 5m0s as 5m.
func shortDuration(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}
