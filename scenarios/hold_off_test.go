// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// Fuuffy that alternates between 503 and garbage is left alone for longer and longer,
// like one that fails in one way.
func TestHoldOffGrowsAcrossKindsOfFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		for i := range 10 {
			m.Sandbox.SetFault(mounttest.FaultMalformed)
			if i%2 == 0 {
				m.Sandbox.SetFault(mounttest.FaultUnavailable)
			}
			m.UntilAsked(time.Hour)
		}
		assert.GreaterOrEqual(t, m.UntilAsked(time.Hour), 45*time.Second)
	})
}

// A token that an app reports while Fuuffy is held off is suspect too.
func TestReportDuringAHoldOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		time.Sleep(time.Minute)
		m.Sandbox.SetFault(mounttest.FaultRateLimited)
		m.Write("rotate-root/check")
		requests := m.Requests()
		m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", token))
		assert.Equal(t, requests, m.Requests(), "Fuuffy was not asked")
		assert.Equal(t, "suspect", m.Status()["token_state"])
		require.Len(t, m.Read().Warnings, 1)
	})
}
