// SPDX-License-Identifier: MPL-2.0

package history

import (
	"encoding/json"
	"slices"
	"time"
)

// Config is what everyone may see of a configuration and its rotation. A client has one secret
// in a history.
type Config struct {
	Reminder                  int
	Current, Staged, Previous string
	Compromised               bool
	RotatedAt                 string
}

// The states of a rotation, as rotate-root names them.
const (
	Idle     = "idle"
	Staged   = "staged"
	Promoted = "promoted"
)

// State is the state of the rotation.
func (c Config) State() string {
	switch {
	case c.Previous != "":
		return Promoted
	case c.Staged != "":
		return Staged
	}
	return Idle
}

// allows tells whether a token of a client may be served.
func (c Config) allows(client string) bool {
	return client == c.Current || client == c.Previous && !c.Compromised
}

// shows tells whether a caller may be told this.
func (c Config) shows(s *Seen) bool {
	return c.Current == s.Current &&
		(s.Reminder == 0 || c.Reminder == s.Reminder) &&
		(s.RotatedAt == "" || c.RotatedAt == "" || c.RotatedAt == s.RotatedAt) &&
		(s.State == "" || c.State() == s.State && c.Staged == s.Staged && c.Previous == s.Previous && c.Compromised == s.Compromised)
}

// apply is what an operation makes of the configuration, and whether the engine may
// answer it with success. It leaves alone what is not possible.
func (c Config) apply(o *Call) (next Config, possible bool) {
	next = c
	switch state := c.State(); o.Op {
	case OpWriteConfig:
		next.Reminder = o.Set
		switch {
		case o.Client == "", o.Client == c.Current:
			return next, c.Current != ""
		case state != Idle:
			return c, false
		}
		next.Current = o.Client
	case OpStage:
		switch {
		case o.Client == c.Staged, state == Promoted && o.Client == c.Current:
			return c, o.Unchanged
		case state == Staged:
			return c, false
		}
		// If the rotation is promoted, the engine completes it first.
		next.Staged, next.Previous, next.Compromised = o.Client, "", false
	case OpCompromised:
		if o.Client == c.Current {
			next.Compromised = true
			return next, state == Promoted && o.Unchanged == c.Compromised
		}
		next.Previous, next.Current, next.Staged, next.Compromised = c.Current, o.Client, "", true
	case OpPromote:
		switch state {
		case Idle:
			return c, false
		case Promoted:
			return c, o.Unchanged
		}
		next.Previous, next.Current, next.Staged, next.Compromised = c.Current, c.Staged, "", false
	case OpRollback:
		if state != Promoted || c.Compromised {
			return c, state == Idle && o.Unchanged
		}
		next.Current, next.Previous = c.Previous, ""
	case OpComplete:
		if state != Promoted {
			return c, state == Idle && o.Unchanged
		}
		next.Previous, next.Compromised = "", false
	case OpDiscard:
		if state != Staged {
			return c, state == Idle && o.Unchanged
		}
		next.Staged = ""
	}
	return next, !o.Unchanged
}

// Entry is a configuration as the engine stores it, but for the secrets.
type Entry struct {
	WriteID string `json:"write_id"`
	Credentials
	Settings
}

// Settings are the part of an entry that steps of the rotation leave alone.
type Settings struct {
	Reminder     time.Duration `json:"rotation_reminder"`
	StaleIfError bool          `json:"stale_if_error"`
	Buffer       time.Duration `json:"token_expiry_buffer"`

	RequestTimeout time.Duration `json:"request_timeout"`
	RefreshWindow  time.Duration `json:"token_refresh_window"`
	Period         time.Duration `json:"rotation_period"`
	MaxReadTTL     time.Duration `json:"max_read_ttl"`
	Endpoint       struct {
		Environment string `json:"environment"`
		BaseURL     string `json:"base_url"`
		CACert      string `json:"ca_cert"`
	} `json:"endpoint"`
}

// Credentials are the part of an entry that writes of settings leave alone.
type Credentials struct {
	Current  Pair `json:"current"`
	Rotation `json:"rotation"`
}

// Rotation is the state of a rotation.
type Rotation struct {
	Position
	Unrevoked []Unrevoked     `json:"unrevoked"`
	Steps     json.RawMessage `json:"history,omitempty"`
	Serials   int             `json:"serials"`
}

// Position is where a rotation stands. A pair that there isn't is its zero value.
type Position struct {
	Staged      Pair      `json:"staged"`
	StagedAt    time.Time `json:"staged_at"`
	Previous    Pair      `json:"previous"`
	PromotedAt  time.Time `json:"promoted_at"`
	TokensUntil time.Time `json:"tokens_until"`
	Compromised bool      `json:"compromised"`
}

// Pair is one pair of credentials.
type Pair struct {
	ID     string    `json:"id"`
	Client string    `json:"client_id"`
	SetAt  time.Time `json:"set_at"`
	Serial int       `json:"serial"`
}

// Unrevoked is an entry about a pair that is no longer used but may still work.
type Unrevoked struct {
	ID     string    `json:"pair_id"`
	Client string    `json:"client_id"`
	Why    string    `json:"why"`
	Since  time.Time `json:"since"`
}

// compromised is why a pair is listed that may be in the wrong hands.
const compromised = "compromised"

// Shown is what everyone may see of an entry, nothing of none.
func (e *Entry) Shown() Config {
	if e == nil {
		return Config{}
	}
	return Config{int(e.Reminder.Seconds()), e.Current.Client, e.Staged.Client, e.Previous.Client, e.Compromised, e.Current.SetAt.UTC().Format(time.RFC3339)}
}

// held are the clients whose secrets the mount holds.
func (e *Entry) held() []string {
	return slices.DeleteFunc([]string{e.Current.Client, e.Staged.Client, e.Previous.Client}, func(client string) bool { return client == "" })
}

// lists tells whether a client is listed as unrevoked.
func (e *Entry) lists(client string) bool {
	return slices.ContainsFunc(e.Unrevoked, func(u Unrevoked) bool { return u.Client == client })
}

func (e *Entry) listsCompromised(client string) bool {
	return slices.ContainsFunc(e.Unrevoked, func(u Unrevoked) bool { return u.Client == client && u.Why == compromised })
}
