// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
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
		"The longest ttl that a read of token returns. For readers that can't report a 401: they read again that often, and get the token that replaced a dead one."),
}

// duration is a time span: whole seconds for users, a Duration in the code.
func duration(name string, def, min, max time.Duration, in func(*storedConfig) *time.Duration, description string) setting {
	bounds := fmt.Sprintf(" From %s to %s; by default %s.", shortDuration(min), shortDuration(max), shortDuration(def))
	return setting{
		name:    name,
		written: &framework.FieldSchema{Type: framework.TypeDurationSecond, Default: shortDuration(def), Description: description + bounds},
		shown:   &framework.FieldSchema{Type: framework.TypeInt64, Required: true, Description: description + " In seconds."},
		set: func(c *storedConfig, value any) error {
			d := time.Duration(value.(int)) * time.Second
			if d < min || d > max {
				return userError(fmt.Sprintf("%s must be between %s and %s", name, shortDuration(min), shortDuration(max)))
			}
			*in(c) = d
			return nil
		},
		get: func(c *storedConfig) any { return int64(*in(c) / time.Second) },
	}
}

// optionalDuration is a time span that isn't set by default.
func optionalDuration(name string, min, max time.Duration, in func(*storedConfig) *time.Duration, description string) setting {
	bounds := fmt.Sprintf("From %s to %s", shortDuration(min), shortDuration(max))
	return setting{
		name:    name,
		written: &framework.FieldSchema{Type: framework.TypeDurationSecond, Description: fmt.Sprintf("%s %s; by default there is no limit. 0 removes it.", description, bounds)},
		shown:   &framework.FieldSchema{Type: framework.TypeInt64, Description: description + " In seconds. Left out if there is no limit."},
		set: func(c *storedConfig, value any) error {
			d := time.Duration(value.(int)) * time.Second
			if d != 0 && (d < min || d > max) {
				return userError(fmt.Sprintf("%s must be between %s and %s. To remove the limit, write 0.", name, shortDuration(min), shortDuration(max)))
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

func boolean(name string, def bool, in func(*storedConfig) *bool, description string) setting {
	return setting{
		name:    name,
		written: &framework.FieldSchema{Type: framework.TypeBool, Default: def, Description: fmt.Sprintf("%s By default %t.", description, def)},
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
			Type: framework.TypeString, Description: "The date you created the credentials, if earlier than today, like 2026-09-23. The rotation_period starts then.",
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
