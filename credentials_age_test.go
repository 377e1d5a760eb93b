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

// Today has begun up to 14 hours earlier in the east. A date that is still ahead counts as now.
func TestTodayInTheEast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // It is 2000-01-01, 00:00 UTC.
		m := newMount(t)
		time.Sleep(10*time.Hour - time.Second)
		data := pairs("client_id", testClientID, "client_secret", testSecret, "credentials_created", "2000-01-02")
		_, text := m.refused(logical.CreateOperation, "config", data)
		assert.Contains(t, text, "credentials_created must be within the last year, and not after today")
		assert.Zero(t, m.requests())
		time.Sleep(time.Second)
		m.do(logical.CreateOperation, "config", data)
		assert.Equal(t, "2000-01-01T10:00:00Z", m.readRotation()["last_rotated"])
	})
}

// Terraform repeats a write with each plan. What was accepted once changes nothing later,
// however old the date gets by then.
func TestAcceptedDateIsAcceptedAgain(t *testing.T) {
	for _, date := range []string{"1999-12-02", "1999-12-02T08:00:00+02:00", "1999-12-02T08:00:00.5Z", "2000-01-01", "2000-01-02", "2000-01-02T10:30:00Z"} {
		t.Run(date, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				time.Sleep(21*time.Hour + 500*time.Millisecond)
				write := pairs("client_id", testClientID, "client_secret", testSecret, "credentials_created", date)
				m.do(logical.CreateOperation, "config", write)
				storage := m.useFaultyStorage()
				stored, created := storage.stored(t, configKey), m.readRotation()["last_rotated"]
				for _, later := range []time.Duration{0, time.Hour, 12 * time.Hour, 48 * time.Hour, 399 * 24 * time.Hour, 3000 * 24 * time.Hour} {
					time.Sleep(later)
					m.do(logical.UpdateOperation, "config", write)
					m.do(logical.PatchOperation, "config", pairs("credentials_created", date))
					m.do(logical.UpdateOperation, "config", pairs("credentials_created", created))
					assert.True(t, storage.stored(t, configKey) == stored, "the write is a no-op %s later", later)
					assert.Equal(t, created, m.readRotation()["last_rotated"])
					m.restart()
				}
				assert.Equal(t, 1, m.requests())
				m.write("config", "credentials_created", date, "stale_if_error", true)
				assert.Equal(t, true, m.readConfig()["stale_if_error"])
				assert.Equal(t, created, m.readRotation()["last_rotated"])
			})
		})
	}
}

// A date that was ahead is that pair's. It means nothing once there is another date, or pair.
func TestDateThatWasAheadIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		time.Sleep(20 * time.Hour)
		m.configure("credentials_created", "2000-01-02")
		time.Sleep(48 * time.Hour)
		m.write("config", "credentials_created", "1999-12-24")
		assert.Equal(t, "1999-12-24T00:00:00Z", m.readRotation()["last_rotated"])
		m.write("config", "credentials_created", "2000-01-02")
		assert.Equal(t, "2000-01-02T00:00:00Z", m.readRotation()["last_rotated"])

		m = newMount(t)
		m.sandbox.CreateClient(successorID, successorSecret)
		m.configure("credentials_created", "2000-01-04")
		m.write("config", "client_id", successorID, "client_secret", successorSecret)
		time.Sleep(72 * time.Hour)
		m.write("config", "credentials_created", "2000-01-04")
		assert.Equal(t, "2000-01-04T00:00:00Z", m.readRotation()["last_rotated"])
		for _, old := range []string{"1998-01-04", "0001-01-01"} {
			_, text := m.refused(logical.UpdateOperation, "config", pairs("credentials_created", old))
			assert.Contains(t, text, "within the last year")
		}
	})
}
