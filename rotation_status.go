// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// reminderInterval is how often a due rotation is logged.
const reminderInterval = 24 * time.Hour

// rotationFields are what each path of the rotation answers with. What does not
// apply is null.
var rotationFields = map[string]*framework.FieldSchema{
	"state":              {Type: framework.TypeString, Required: true, Description: "idle, staged or promoted."},
	"client_id":          {Type: framework.TypeString, Required: true, Description: "The client in force."},
	"last_rotated":       {Type: framework.TypeTime, Required: true, Description: "When the credentials in force were put in force."},
	"next_rotation":      {Type: framework.TypeTime, Required: true, Description: "When the credentials are due for rotation."},
	"days_left":          {Type: framework.TypeInt64, Required: true, Description: "Days until next_rotation, rounded up; 0 or less if overdue."},
	"overdue":            {Type: framework.TypeBool, Required: true, Description: "Whether the credentials are overdue for rotation."},
	"staged_client_id":   {Type: framework.TypeString, Required: true, Description: "The client that is staged."},
	"staged_at":          {Type: framework.TypeTime, Required: true, Description: "When the staged client was staged."},
	"previous_client_id": {Type: framework.TypeString, Required: true, Description: "The client that was in force before, and is not known to be dead."},
	"promoted_at":        {Type: framework.TypeTime, Required: true, Description: "When the client in force took the place of the previous one."},
	"revoke_old_after":   {Type: framework.TypeTime, Required: true, Description: "When no app holds a token of the previous client any more, so that it can be revoked in the dashboard."},
	"compromised":        {Type: framework.TypeBool, Required: true, Description: "Whether the previous credentials were said to be compromised."},
	"fallback_active":    {Type: framework.TypeBool, Required: true, Description: "Whether a token of the previous credentials is served because the new ones are rejected."},
	"auth_failures":      {Type: framework.TypeInt64, Required: true, Description: "How often Fuuffy rejected the credentials in force; counted by this node, since the plugin started."},
	"history":            {Type: framework.TypeStringSlice, Required: true, Description: "The last ten steps, the newest last: when, what, and which client."},
	"next_step":          {Type: framework.TypeString, Required: true, Description: "What to do now."},
}

var rotationAnswers = map[int][]framework.Response{http.StatusOK: {{Description: "Where the rotation stands.", Fields: rotationFields}}}

// rotationResponse shows where a rotation stands.
func (b *backend) rotationResponse(c *storedConfig, mount string) *logical.Response {
	now, r := b.cache.wallClock(), &c.Rotation
	data := map[string]any{
		"state":              r.state(),
		"client_id":          c.Current.ClientID,
		"last_rotated":       timestamp(c.Current.SetAt),
		"next_rotation":      timestamp(c.dueAt()),
		"days_left":          c.daysLeft(now),
		"overdue":            c.overdue(now),
		"staged_client_id":   nil,
		"staged_at":          timestamp(r.StagedAt),
		"previous_client_id": nil,
		"promoted_at":        timestamp(r.PromotedAt),
		"revoke_old_after":   nil,
		"compromised":        r.Compromised,
		"fallback_active":    b.fallbackActive(c),
		"auth_failures":      int64(b.authFailures.of(c.Current.ID)),
		"history":            r.history(),
		"next_step":          b.nextStep(c, mount, now),
	}
	if r.Staged != nil {
		data["staged_client_id"] = r.Staged.ClientID
	}
	if r.Previous != nil {
		data["previous_client_id"] = r.Previous.ClientID
		data["revoke_old_after"] = timestamp(b.revokeOldAfter(r))
	}
	resp := &logical.Response{Data: data}
	c.warnIfDue(resp, now, mount)
	if b.fallbackActive(c) {
		resp.AddWarning(fmt.Sprintf("Fuuffy rejects the new credentials of client %s; apps get tokens of client %s. Do not revoke that one now.", c.Current.ClientID, r.Previous.ClientID))
	}
	return resp
}

// timestamp is nil for no time.
func timestamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}

// fallbackActive tells whether the token held is of the old credentials although
// the new ones are in force.
func (b *backend) fallbackActive(c *storedConfig) bool {
	held, fallback := b.cache.held.Load(), c.Rotation.fallback()
	return held != nil && fallback != nil && held.CredentialsID == fallback.ID && !held.superseded
}

// revokeOldAfter is when the last app has replaced its token of the old
// credentials: they hold it for one rotation_period of the token at most. What was
// leaked is revoked at once.
func (b *backend) revokeOldAfter(r *rotation) time.Time {
	if r.Compromised {
		return r.PromotedAt
	}
	served := defaultTokenLife
	if held := b.cache.held.Load(); held != nil {
		served = held.servedUntil
	}
	return r.PromotedAt.Add(served)
}

// dueAt is when the credentials are to be rotated (Fuuffy's security page: every
// 90 days).
func (c *storedConfig) dueAt() time.Time { return c.Current.SetAt.Add(c.RotationPeriod) }

func (c *storedConfig) overdue(now time.Time) bool { return !now.Before(c.dueAt()) }

func (c *storedConfig) dueSoon(now time.Time) bool {
	return !now.Before(c.dueAt().Add(-c.RotationReminder))
}

func (c *storedConfig) daysLeft(now time.Time) int64 {
	return int64(math.Ceil(c.dueAt().Sub(now).Hours() / 24))
}

// warnIfDue adds a warning to an answer if the rotation is due soon or overdue.
func (c *storedConfig) warnIfDue(resp *logical.Response, now time.Time, mount string) {
	if text := c.dueText(now); text != "" {
		resp.AddWarning(fmt.Sprintf("%s: vault read %s%s", text, mount, rotatePath))
	}
}

func (c *storedConfig) dueText(now time.Time) string {
	due := c.dueAt().UTC().Format(time.RFC3339)
	switch {
	case c.overdue(now):
		return fmt.Sprintf("the credentials of client %s are overdue for rotation since %s", c.Current.ClientID, due)
	case c.dueSoon(now):
		return fmt.Sprintf("the credentials of client %s are due for rotation on %s", c.Current.ClientID, due)
	}
	return ""
}

// remind logs once a day that a rotation is due.
func (b *backend) remind(ctx context.Context, c *storedConfig) {
	now := b.cache.wallClock()
	text := c.dueText(now)
	if text == "" || now.Sub(b.reminded) < reminderInterval {
		return
	}
	b.reminded = now
	b.Logger().Warn(text, "days_left", c.daysLeft(now))
	b.notify(ctx, "rotate-root-due", rotatePath, "client_id", c.Current.ClientID, "due", c.dueAt().UTC().Format(time.RFC3339))
}

// nextStep says what to do now, with commands to copy.
func (b *backend) nextStep(c *storedConfig, mount string, now time.Time) string {
	r, path := &c.Rotation, mount+rotatePath
	switch r.state() {
	case stateStaged:
		return fmt.Sprintf("Put client %s in force: vault write -f %s/promote (or discard it: vault delete %s)", r.Staged.ClientID, path, path)
	case statePromoted:
		return b.nextStepPromoted(c, path, now)
	}
	create := fmt.Sprintf("create new credentials in the Fuuffy dashboard, then: vault write %s client_id=… client_secret=-", path)
	if c.dueSoon(now) {
		return "Rotate now: " + create
	}
	return fmt.Sprintf("Nothing until %s. To rotate before: %s", c.dueAt().Add(-c.RotationReminder).UTC().Format(time.RFC3339), create)
}

func (b *backend) nextStepPromoted(c *storedConfig, path string, now time.Time) string {
	r := &c.Rotation
	finish := fmt.Sprintf("revoke %s in the Fuuffy dashboard, then: vault write -f %s/complete", toRevoke(r.Previous, &c.Current), path)
	back := fmt.Sprintf(" If apps have trouble with the new credentials: vault write -f %s/rollback", path)
	after := b.revokeOldAfter(r)
	cause := b.cache.upstream().cause
	switch {
	case cause != nil && cause.failure == rejected && !b.fallbackActive(c):
		return fmt.Sprintf("Fuuffy rejects the new credentials, and there are no old ones to use: create others in the Fuuffy dashboard, revoke %s there, "+
			"then: vault write %s client_id=… client_secret=- compromised=true", toRevoke(r.Previous, &c.Current), path)
	case r.Compromised:
		return "Now: " + finish
	case b.fallbackActive(c):
		return fmt.Sprintf("Fuuffy rejects the new credentials: put the old ones back with vault write -f %s/rollback, and find out in the Fuuffy dashboard why client %s fails", path, c.Current.ClientID)
	case now.Before(after):
		return fmt.Sprintf("Wait until %s: apps may hold tokens of client %s. After that %s.%s", after.UTC().Format(time.RFC3339), r.Previous.ClientID, finish, back)
	}
	return "Now: " + finish + "." + back
}

// workflow explains the rotation to who asked for it without credentials.
func workflow(mount string) string {
	path := cmp.Or(mount, "fuuffy/") + rotatePath
	return fmt.Sprintf(`Fuuffy's credentials are created and revoked in its dashboard, so a rotation takes you and Vault in turns:
  1. create new credentials in the Fuuffy dashboard, and keep the old ones
  2. vault write %[1]s client_id=… client_secret=-   tries and stages them
  3. vault write -f %[1]s/promote                    puts them in force
  4. wait until revoke_old_after, then revoke the old ones in the dashboard
  5. vault write -f %[1]s/complete                   proves that they are dead
See where you are: vault read %[1]s`, path)
}
