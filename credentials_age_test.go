// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
)

// The 90 days are those of the pair. Another endpoint, authority or setting for the
// same pair does not make it younger.
func TestAgeOfCredentialsOutlivesOtherChanges(t *testing.T) {
	authority := newAuthority(t)
	for name, change := range map[string]map[string]any{
		"base_url":             pairs("base_url", "https://gateway.example.com/v1", "client_secret", testSecret),
		"ca_cert":              pairs("ca_cert", authority, "client_secret", testSecret),
		"environment":          pairs("environment", "testing", "client_secret", testSecret),
		"all, not verified":    pairs("base_url", "https://gateway.example.com/v1", "ca_cert", authority, "environment", "testing", "client_id", testClientID, "client_secret", testSecret, "verify_connection", false),
		"setting":              pairs("stale_if_error", true),
		"setting and the pair": pairs("stale_if_error", true, "client_id", testClientID, "client_secret", testSecret),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				created := m.readRotation()["last_rotated"]
				time.Sleep(100 * 24 * time.Hour)
				m.do(logical.UpdateOperation, "config", change)
				for range 2 {
					rotation := m.readRotation()
					assert.Equal(t, created, rotation["last_rotated"])
					assert.EqualValues(t, -10, rotation["days_left"])
					assert.Equal(t, true, rotation["overdue"])
					m.restart()
				}
			})
		})
	}
}

// Another pair, or another secret of the same client, does begin at zero.
func TestAgeOfCredentialsBeginsWithThem(t *testing.T) {
	for name, change := range map[string]map[string]any{
		"another client": pairs("client_id", successorID, "client_secret", successorSecret),
		"another secret": pairs("client_secret", successorSecret),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				time.Sleep(100 * 24 * time.Hour)
				m.sandbox.CreateClient(successorID, successorSecret)
				m.sandbox.CreateClient(testClientID, successorSecret)
				m.do(logical.UpdateOperation, "config", change)
				rotation := m.readRotation()
				assert.Equal(t, time.Now().UTC().Format(time.RFC3339), rotation["last_rotated"])
				assert.EqualValues(t, 90, rotation["days_left"])
			})
		})
	}
}
