// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// failingOnce fails the n-th operation from now.
func failingOnce(n int64) mounttest.StorageFault {
	var met atomic.Int64
	return func(apply func() error) error {
		if met.Add(1) == n {
			return mounttest.ErrStorage
		}
		return apply()
	}
}

// refusedOperations are refused before they write anything, in a mount whose rotation is in
// progress.
var refusedOperations = map[string]func(*mounttest.Mount, *mounttest.FaultyStorage){
	"config delete": func(m *mounttest.Mount, _ *mounttest.FaultyStorage) {
		m.Refused(logical.DeleteOperation, "config", nil)
	},
	"config write that can't read the entry": func(m *mounttest.Mount, s *mounttest.FaultyStorage) {
		s.Set("get", mounttest.ConfigKey, failingOnce(2)) // The look before the proof succeeds.
		m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("rotation_reminder", "24h"))
		s.Set("get", mounttest.ConfigKey, nil)
	},
	"config write that was overtaken": func(m *mounttest.Mount, s *mounttest.FaultyStorage) {
		before := s.Stored(m.T, mounttest.ConfigKey)
		s.Set("get", mounttest.ConfigKey, func(apply func() error) error {
			err := apply()
			m.Put(mounttest.ConfigKey, strings.Replace(before, `"write_id":"`, `"write_id":"other`, 1))
			return err
		})
		m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("rotation_reminder", "24h"))
		s.Set("get", mounttest.ConfigKey, nil)
		m.Put(mounttest.ConfigKey, before)
	},
	"discard": func(m *mounttest.Mount, _ *mounttest.FaultyStorage) {
		m.Refused(logical.DeleteOperation, "rotate-root", nil)
	},
	"endpoint": func(m *mounttest.Mount, _ *mounttest.FaultyStorage) {
		m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("environment", "testing"))
	},
}

// A refused operation doesn't end a wait that Fuuffy asked for.
func TestRefusedOperationKeepsTheHoldOff(t *testing.T) {
	for name, act := range refusedOperations {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, rotation.Promoted)
				storage := m.UseFaultyStorage()
				m.Do(logical.DeleteOperation, "token", nil)
				m.Sandbox.SetFault(mounttest.FaultRateLimited)
				refusedToken(m)
				requests, next := m.Requests(), m.Status()["upstream_next_try"]
				for range 20 {
					act(m, storage)
					status, _ := refusedToken(m)
					assert.Equal(t, http.StatusTooManyRequests, status)
					time.Sleep(time.Second)
				}
				assert.Equal(t, requests, m.Requests(), "requests within the wait")
				assert.Equal(t, next, m.Status()["upstream_next_try"])
			})
		})
	}
}

// Nor does it end a request that is in progress.
func TestRefusedOperationKeepsARequest(t *testing.T) {
	for name, act := range refusedOperations {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, rotation.Promoted)
				storage := m.UseFaultyStorage()
				m.Do(logical.DeleteOperation, "token", nil)
				m.Sandbox.SetFault(mounttest.SlowAnswer)
				requests := m.Requests()
				token := make(chan string, 1)
				go func() { token <- m.ReadToken() }()
				synctest.Wait()
				act(m, storage)
				assert.True(t, m.Sandbox.TokenAlive(<-token))
				assert.Equal(t, requests+1, m.Requests())
			})
		})
	}
}

// A check is only a test. If it fails, readers learn why, but a wait that Fuuffy asked for stays,
// and so does the time after which readers' requests go on.
func TestFailingCheckKeepsTheHoldOff(t *testing.T) {
	faults := map[string]fuuffytest.Fault{
		"rejected": mounttest.FaultRejected, "unavailable": mounttest.FaultUnavailable, "malformed": mounttest.FaultMalformed, "rate limited": mounttest.FaultRateLimited,
	}
	for first, held := range faults {
		for second, heard := range faults {
			t.Run(fmt.Sprint(first, ", then ", second), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					m.Sandbox.SetFault(held)
					for range 6 {
						m.UntilAsked(time.Hour) // The hold-off grows.
					}
					time.Sleep(7 * time.Second) // The budget has room for the check.
					before := m.Status()
					m.Sandbox.SetFault(heard)
					m.Write("rotate-root/check")
					after := m.Status()
					assert.Equal(t, before["upstream_next_try"], after["upstream_next_try"])
					assert.Equal(t, before["upstream_failures"], after["upstream_failures"])
					assert.Equal(t, string(faultClass(second)), after["upstream_state"], "the last word")
				})
			})
		}
	}
}

// faultClass is the upstream_state after a fault.
func faultClass(name string) string {
	if name == "rate limited" {
		return "rate_limited"
	}
	return name
}

// However often a check fails, the first reader's failure after it counts as the first.
func TestFailingChecksDoNotGrowTheHoldOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetFault(mounttest.FaultRejected)
		for range 10 {
			m.Write("rotate-root/check")
			time.Sleep(mounttest.CheckInterval)
		}
		time.Sleep(30 * time.Second)
		refusedToken(m)
		requests := m.Requests()
		time.Sleep(29 * time.Second)
		refusedToken(m)
		assert.Equal(t, requests, m.Requests())
		time.Sleep(2 * time.Second)
		refusedToken(m)
		assert.Equal(t, requests+1, m.Requests(), "30 s after the first failure of a reader")
	})
}
