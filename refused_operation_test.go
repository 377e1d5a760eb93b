// SPDX-License-Identifier: MPL-2.0

package fuuffy

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
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// failingOnce fails the n-th operation from now.
func failingOnce(n int64) storageFault {
	var met atomic.Int64
	return func(apply func() error) error {
		if met.Add(1) == n {
			return errStorage
		}
		return apply()
	}
}

// refusedOperations are refused before they write anything, in a mount whose rotation is in
// progress.
var refusedOperations = map[string]func(*mount, *faultyStorage){
	"config delete": func(m *mount, _ *faultyStorage) { m.refused(logical.DeleteOperation, "config", nil) },
	"config write that can't read the entry": func(m *mount, s *faultyStorage) {
		s.set("get", configKey, failingOnce(2)) // The look before the proof succeeds.
		m.refused(logical.UpdateOperation, "config", pairs("rotation_reminder", "24h"))
		s.set("get", configKey, nil)
	},
	"config write that was overtaken": func(m *mount, s *faultyStorage) {
		before := s.stored(m.t, configKey)
		s.set("get", configKey, func(apply func() error) error {
			err := apply()
			m.put(configKey, strings.Replace(before, `"write_id":"`, `"write_id":"other`, 1))
			return err
		})
		m.refused(logical.UpdateOperation, "config", pairs("rotation_reminder", "24h"))
		s.set("get", configKey, nil)
		m.put(configKey, before)
	},
	"discard": func(m *mount, _ *faultyStorage) { m.refused(logical.DeleteOperation, "rotate-root", nil) },
	"endpoint": func(m *mount, _ *faultyStorage) {
		m.refused(logical.UpdateOperation, "config", pairs("environment", "testing"))
	},
}

// A refused operation doesn't end a wait that Fuuffy asked for.
func TestRefusedOperationKeepsTheHoldOff(t *testing.T) {
	for name, act := range refusedOperations {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, rotation.Promoted)
				storage := m.useFaultyStorage()
				m.do(logical.DeleteOperation, "token", nil)
				m.sandbox.SetFault(faultRateLimited)
				m.refusedToken()
				requests, next := m.requests(), m.status()["upstream_next_try"]
				for range 20 {
					act(m, storage)
					status, _ := m.refusedToken()
					assert.Equal(t, http.StatusTooManyRequests, status)
					time.Sleep(time.Second)
				}
				assert.Equal(t, requests, m.requests(), "requests within the wait")
				assert.Equal(t, next, m.status()["upstream_next_try"])
			})
		})
	}
}

// Nor does it end a request that is in progress.
func TestRefusedOperationKeepsARequest(t *testing.T) {
	for name, act := range refusedOperations {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, rotation.Promoted)
				storage := m.useFaultyStorage()
				m.do(logical.DeleteOperation, "token", nil)
				m.sandbox.SetFault(slowAnswer)
				requests := m.requests()
				token := make(chan string, 1)
				go func() { token <- m.readToken() }()
				synctest.Wait()
				act(m, storage)
				assert.True(t, m.sandbox.TokenAlive(<-token))
				assert.Equal(t, requests+1, m.requests())
			})
		})
	}
}

// A check is only a test. If it fails, readers learn why, but a wait that Fuuffy asked for stays,
// and so does the time after which readers' requests go on.
func TestFailingCheckKeepsTheHoldOff(t *testing.T) {
	faults := map[string]fuuffytest.Fault{
		"rejected": faultRejected, "unavailable": faultUnavailable, "malformed": faultMalformed, "rate limited": faultRateLimited,
	}
	for first, held := range faults {
		for second, heard := range faults {
			t.Run(fmt.Sprint(first, ", then ", second), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					m.sandbox.SetFault(held)
					for range 6 {
						m.untilAsked(time.Hour) // The hold-off grows.
					}
					time.Sleep(7 * time.Second) // The budget has room for the check.
					before := m.status()
					m.sandbox.SetFault(heard)
					m.write("rotate-root/check")
					after := m.status()
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
		m := newConfiguredMount(t)
		m.sandbox.SetFault(faultRejected)
		for range 10 {
			m.write("rotate-root/check")
			time.Sleep(checkInterval)
		}
		time.Sleep(30 * time.Second)
		m.refusedToken()
		requests := m.requests()
		time.Sleep(29 * time.Second)
		m.refusedToken()
		assert.Equal(t, requests, m.requests())
		time.Sleep(2 * time.Second)
		m.refusedToken()
		assert.Equal(t, requests+1, m.requests(), "30 s after the first failure of a reader")
	})
}
