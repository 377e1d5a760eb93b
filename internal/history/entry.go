// SPDX-License-Identifier: MPL-2.0

package history

import (
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
	idle     = "idle"
	staged   = "staged"
	promoted = "promoted"
)

func (c Config) state() string {
	switch {
	case c.Previous != "":
		return promoted
	case c.Staged != "":
		return staged
	}
	return idle
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
		(s.State == "" || c.state() == s.State && c.Staged == s.Staged && c.Previous == s.Previous && c.Compromised == s.Compromised)
}

// apply is what an operation makes of the configuration, and whether the engine may
// answer it with success. It leaves alone what is not possible.
func (c Config) apply(o *Call) (next Config, possible bool) {
	next = c
	switch state := c.state(); o.Op {
	case OpWriteConfig:
		next.Reminder = o.Set
		switch {
		case o.Client == "", o.Client == c.Current:
			return next, c.Current != ""
		case state != idle:
			return c, false
		}
		next.Current = o.Client
	case OpStage:
		switch {
		case o.Client == c.Staged, state == promoted && o.Client == c.Current:
			return c, o.Unchanged
		case state == staged:
			return c, false
		}
		// If the rotation is promoted, the engine completes it first.
		next.Staged, next.Previous, next.Compromised = o.Client, "", false
	case OpCompromised:
		if o.Client == c.Current {
			next.Compromised = true
			return next, state == promoted && o.Unchanged == c.Compromised
		}
		next.Previous, next.Current, next.Staged, next.Compromised = c.Current, o.Client, "", true
	case OpPromote:
		switch state {
		case idle:
			return c, false
		case promoted:
			return c, o.Unchanged
		}
		next.Previous, next.Current, next.Staged, next.Compromised = c.Current, c.Staged, "", false
	case OpRollback:
		if state != promoted || c.Compromised {
			return c, state == idle && o.Unchanged
		}
		next.Current, next.Previous = c.Previous, ""
	case OpComplete:
		if state != promoted {
			return c, state == idle && o.Unchanged
		}
		next.Previous, next.Compromised = "", false
	case OpDiscard:
		if state != staged {
			return c, state == idle && o.Unchanged
		}
		next.Staged = ""
	}
	return next, !o.Unchanged
}

// Entry is a stored configuration.
type Entry struct {
	WriteID string
	Credentials
	Settings
}

// Settings are the part of an entry that steps of the rotation leave alone.
type Settings struct {
	Reminder         int
	StaleIfError     bool
	Buffer           time.Duration
	Endpoint, Others string
}

// Credentials are the part of an entry that writes of settings leave alone.
type Credentials struct {
	Current Pair
	Position
	Unrevoked []Unrevoked
	Steps     []string
	Serials   int
}

// Position is where a rotation stands. A pair that there isn't is its zero value.
type Position struct {
	Staged, Previous                  Pair
	StagedAt, PromotedAt, TokensUntil time.Time
	Compromised                       bool
}

// Pair is one pair of credentials.
type Pair struct {
	ID, Client string
	SetAt      time.Time
	Serial     int
}

// Unrevoked is an entry about a pair that is no longer used but may still work.
type Unrevoked struct {
	ID, Client, Why string
	Since           time.Time
}

// compromised is why a pair is listed that may be in the wrong hands.
const compromised = "compromised"

// shown is what everyone may see of an entry, nothing of none.
func (e *Entry) shown() Config {
	if e == nil {
		return Config{}
	}
	return Config{e.Reminder, e.Current.Client, e.Staged.Client, e.Previous.Client, e.Compromised, e.Current.SetAt.UTC().Format(time.RFC3339)}
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
