// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// durationField is a setting that is a time span: whole seconds outside, a
// Duration inside.
type durationField struct {
	name        string
	standard    time.Duration
	least, most time.Duration
	in          func(*storedConfig) *time.Duration
	description string
}

var durationFields = []durationField{
	{
		"request_timeout", 10 * time.Second, time.Second, 30 * time.Second,
		func(c *storedConfig) *time.Duration { return &c.RequestTimeout },
		"How long to wait for one attempt of a token request.",
	},
	{
		"token_expiry_buffer", 5 * time.Minute, 30 * time.Second, 30 * time.Minute,
		func(c *storedConfig) *time.Duration { return &c.TokenExpiryBuffer },
		"A token with less time left than this is not served. It is half of the token's life at most.",
	},
	{
		"token_refresh_window", 5 * time.Minute, 30 * time.Second, 30 * time.Minute,
		func(c *storedConfig) *time.Duration { return &c.TokenRefreshWindow },
		"How long before the buffer a replacement is fetched in the background.",
	},
	{
		"rotation_period", 90 * 24 * time.Hour, time.Hour, 3 * 365 * 24 * time.Hour,
		func(c *storedConfig) *time.Duration { return &c.RotationPeriod },
		"After how long the credentials are due for rotation. Fuuffy asks for 90 days.",
	},
	{
		"rotation_reminder", 14 * 24 * time.Hour, 0, 365 * 24 * time.Hour,
		func(c *storedConfig) *time.Duration { return &c.RotationReminder },
		"How early to say that a rotation is due.",
	},
}

// configFields are the fields that a write takes.
var configFields = func() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"client_id": {
			Type: framework.TypeString, Description: "The client ID from the Fuuffy dashboard.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client ID"},
		},
		"client_secret": {
			Type: framework.TypeString, Description: "The client secret from the Fuuffy dashboard. It is never shown again.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client secret", Sensitive: true},
		},
		"environment": {
			Type: framework.TypeString, Default: defaultEnvironment, AllowedValues: []any{"production", "testing"},
			Description: "The Fuuffy environment that the credentials belong to: production, which is the default, or testing.",
		},
		"base_url": {
			Type: framework.TypeString, Description: "The API's address, if it is not the environment's own: a private gateway, or a sandbox. https only. Empty: the environment's.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Base URL"},
		},
		"ca_cert": {
			Type: framework.TypeString, Description: "A PEM bundle of the certificate authorities to trust instead of the system's. Empty: the system's.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "textarea"},
		},
		"stale_if_error": {
			Type: framework.TypeBool, Default: false,
			Description: "Serve a token inside its buffer, with a warning, if Fuuffy gives no new one. By default false.",
		},
		"verify_connection": {
			Type: framework.TypeBool, Default: true,
			Description: "Try new credentials with a token request before they are saved. By default true.",
		},
	}
	for _, f := range durationFields {
		fields[f.name] = f.schema()
	}
	return fields
}()

func (f *durationField) schema() *framework.FieldSchema {
	bounds := fmt.Sprintf(" From %s to %s; by default %s.", shortDuration(f.least), shortDuration(f.most), shortDuration(f.standard))
	return &framework.FieldSchema{Type: framework.TypeDurationSecond, Default: shortDuration(f.standard), Description: f.description + bounds}
}

// configResponseFields are the fields that a read shows: no secret, nothing that
// is only an instruction. Durations are whole seconds.
func configResponseFields() map[string]*framework.FieldSchema {
	fields := maps.Clone(configFields)
	delete(fields, "client_secret")
	delete(fields, "verify_connection")
	for _, f := range durationFields {
		fields[f.name] = &framework.FieldSchema{Type: framework.TypeInt64, Description: f.description + " In seconds."}
	}
	for name, field := range fields {
		fields[name] = required(field)
		fields[name].Default = nil
	}
	return fields
}

// required is a copy of a field that must not be left out.
func required(field *framework.FieldSchema) *framework.FieldSchema {
	copied := *field
	copied.Required = true
	return &copied
}

// configChange is a configuration that a write asks for.
type configChange struct {
	config storedConfig
	// credentials is set when they, or where they are sent, are not what they were.
	credentials bool
	warnings    []string
}

func (c *configChange) warn(text string) { c.warnings = append(c.warnings, text) }

// response is empty if there is nothing to warn of.
func (c *configChange) response() *logical.Response {
	if len(c.warnings) == 0 {
		return nil
	}
	return &logical.Response{Warnings: c.warnings}
}

// proposeChange applies the fields of a write to what is stored, nil for nothing.
// Its errors are a userError each.
func proposeChange(stored *storedConfig, d *framework.FieldData, now time.Time) (*configChange, error) {
	change := &configChange{}
	if stored != nil {
		change.config = *stored
	} else {
		change.config.Endpoint.Environment = defaultEnvironment
		for _, f := range durationFields {
			*f.in(&change.config) = f.standard
		}
	}
	for _, apply := range []func(*storedConfig, *framework.FieldData) error{
		change.applyCredentials, change.applyEndpoint, change.applyDurations,
	} {
		if err := apply(stored, d); err != nil {
			return nil, err
		}
	}
	if stale, ok := d.GetOk("stale_if_error"); ok {
		change.config.StaleIfError = stale.(bool)
	}
	if change.credentials {
		if state := change.config.Rotation.state(); state != stateIdle {
			return nil, userError("a rotation is under way (" + state + "): credentials and endpoint can't change until it is completed, rolled back or discarded; see rotate-root")
		}
		current := newCredentials(change.config.Current.ClientID, change.config.Current.ClientSecret, now)
		change.config.Current = current
		// A change of credentials here counts as a rotation.
		record := rotationRecord{Step: "replaced", At: now.UTC(), ClientID: current.ClientID, Detail: "through config"}
		if stored == nil {
			record.Step, record.Detail = "configured", ""
		}
		change.config.Rotation.note(record)
	}
	return change, nil
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
		c.credentials = true
		return nil
	}
	if idGiven && !secretGiven && current.ClientID != stored.Current.ClientID {
		return userError("client_id changes without its client_secret: write both, they belong together")
	}
	c.credentials = current.ClientID != stored.Current.ClientID || current.ClientSecret != stored.Current.ClientSecret
	return nil
}

func (c *configChange) applyEndpoint(stored *storedConfig, d *framework.FieldData) error {
	e := &c.config.Endpoint
	if _, err := c.text(d, "environment", &e.Environment); err != nil {
		return err
	}
	e.Environment = cmp.Or(e.Environment, defaultEnvironment)
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
	if bundle, ok := d.GetOk("ca_cert"); ok {
		e.CACert = strings.TrimSpace(bundle.(string))
		if err := checkCACert(e.CACert); err != nil {
			return err
		}
	}
	if stored == nil || *e == stored.Endpoint {
		return nil
	}
	// Whoever may write the config but does not know the secret must not be able to
	// have it sent to a host of theirs.
	if _, ok := d.GetOk("client_secret"); !ok {
		return userError("client_secret must come along when environment, base_url or ca_cert change: they decide where it is sent")
	}
	c.credentials = true
	return nil
}

func (c *configChange) applyDurations(_ *storedConfig, d *framework.FieldData) error {
	for _, f := range durationFields {
		value, ok := d.GetOk(f.name)
		if !ok {
			continue
		}
		seconds := value.(int)
		if seconds < int(f.least/time.Second) || seconds > int(f.most/time.Second) {
			return userError(fmt.Sprintf("%s must be between %s and %s", f.name, shortDuration(f.least), shortDuration(f.most)))
		}
		*f.in(&c.config) = time.Duration(seconds) * time.Second
	}
	if c.config.RotationReminder >= c.config.RotationPeriod {
		return userError(fmt.Sprintf("rotation_reminder (%s) must be shorter than rotation_period (%s)",
			shortDuration(c.config.RotationReminder), shortDuration(c.config.RotationPeriod)))
	}
	if _, ok := d.GetOk("token_expiry_buffer"); ok && c.config.TokenExpiryBuffer < 5*time.Minute {
		c.warn("token_expiry_buffer is below the five minutes that Fuuffy recommends: a token may expire while a request is under way")
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
