// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

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

var rotationResponses = map[int][]framework.Response{http.StatusOK: {{Description: "Where the rotation stands.", Fields: rotationFields}}}

// rotationResponse shows where a rotation stands.
func (s *snapshot) rotationResponse(mount string) *logical.Response {
	r := &s.Rotation
	rejected, _ := s.b.rejections.of(s.Current.ID)
	data := map[string]any{
		"state":              r.state(),
		"client_id":          s.Current.ClientID,
		"last_rotated":       timestamp(s.Current.SetAt),
		"next_rotation":      timestamp(s.dueAt()),
		"days_left":          s.daysLeft(s.now),
		"overdue":            s.overdue(s.now),
		"staged_client_id":   nil,
		"staged_at":          timestamp(r.StagedAt),
		"previous_client_id": nil,
		"promoted_at":        timestamp(r.PromotedAt),
		"revoke_old_after":   timestamp(s.revokeOldAfter()),
		"compromised":        r.Compromised,
		"fallback_active":    s.fallbackActive(),
		"auth_failures":      int64(rejected),
		"history":            r.history(),
		"next_step":          s.nextStep(mount),
	}
	if r.Staged != nil {
		data["staged_client_id"] = r.Staged.ClientID
	}
	if r.Previous != nil {
		data["previous_client_id"] = r.Previous.ClientID
	}
	resp := &logical.Response{Data: data}
	s.warnIfDue(resp, s.now, mount)
	if s.fallbackActive() {
		resp.AddWarning(fmt.Sprintf("Fuuffy rejects the new credentials of client %s; apps get tokens of client %s. Do not revoke that one now.", s.Current.ClientID, r.Previous.ClientID))
	}
	return resp
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

// nextStep says what to do now, with commands to copy.
func (s *snapshot) nextStep(mount string) string {
	r, path := &s.Rotation, mount+rotatePath
	switch r.state() {
	case stateStaged:
		return fmt.Sprintf("Put client %s in force: vault write -f %s/promote (or discard it: vault delete %s)", r.Staged.ClientID, path, path)
	case statePromoted:
		return s.nextStepPromoted(path)
	}
	create := fmt.Sprintf("create new credentials in the Fuuffy dashboard, then: vault write %s client_id=… client_secret=-", path)
	if s.dueSoon(s.now) {
		return "Rotate now: " + create
	}
	return fmt.Sprintf("Nothing until %s. To rotate before: %s", s.dueAt().Add(-s.RotationReminder).UTC().Format(time.RFC3339), create)
}

func (s *snapshot) nextStepPromoted(path string) string {
	r := &s.Rotation
	finish := fmt.Sprintf("revoke %s in the Fuuffy dashboard, then: vault write -f %s/complete", toRevoke(r.Previous, &s.Current), path)
	back := fmt.Sprintf(" If apps have trouble with the new credentials: vault write -f %s/rollback", path)
	after := s.revokeOldAfter()
	switch failure := s.cached.Failure; {
	case failure != nil && failure.Failure == upstream.Rejected && !s.fallbackActive():
		return fmt.Sprintf("Fuuffy rejects the new credentials, and there are no old ones to use: create others in the Fuuffy dashboard, revoke %s there, "+
			"then: vault write %s client_id=… client_secret=- compromised=true", toRevoke(r.Previous, &s.Current), path)
	case r.Compromised:
		return "Now: " + finish
	case s.fallbackActive():
		return fmt.Sprintf("Fuuffy rejects the new credentials: put the old ones back with vault write -f %s/rollback, and find out in the Fuuffy dashboard why client %s fails", path, s.Current.ClientID)
	case s.now.Before(after):
		return fmt.Sprintf("Wait until %s: apps may hold tokens of client %s. After that %s.%s", after.UTC().Format(time.RFC3339), r.Previous.ClientID, finish, back)
	}
	return "Now: " + finish + "." + back
}

// stillWorks says what to do about credentials that should be dead and are not.
func stillWorks(t transition, mount string) error {
	if t.step == "complete" {
		return userError(fmt.Sprintf("the old credentials still work, so nothing was changed: revoke %s in the Fuuffy dashboard, and complete again. "+
			"If that can't be, vault write %s%s/complete force=true forgets them without this proof", toRevoke(t.mustBeDead, t.mustWork), mount, rotatePath))
	}
	return userError(fmt.Sprintf("client %s still works, so nothing was changed: put it back with rotate-root/rollback, "+
		"or revoke it in the Fuuffy dashboard and write this again", t.mustBeDead.ClientID))
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
