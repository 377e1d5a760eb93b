// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// discardClients stages and discards clients, from shop-100 on, at a rate that the engine's budget
// allows.
func discardClients(m *mounttest.Mount, n int) {
	m.T.Helper()
	for i := range n {
		id := fmt.Sprintf("shop-%d", 100+i)
		m.Sandbox.CreateClient(id, mounttest.NewSecret)
		m.Write("rotate-root", "client_id", id, "client_secret", mounttest.NewSecret)
		m.Do(logical.DeleteOperation, "rotate-root", nil)
		time.Sleep(6 * time.Second)
	}
}

// A pipeline may repeat a step that succeeded.
func TestRepeatedSteps(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Promoted)
	m.Sandbox.RevokeClient(mounttest.ClientID)
	m.Write("rotate-root/complete")
	again := m.Write("rotate-root/complete")
	assert.Equal(t, rotation.Idle, again.Data["state"])
	assert.Contains(t, again.Warnings, "This step was already taken. Nothing was changed.")
	assert.Equal(t, m.Rotation(), again.Data)
	_, text := m.Refused(logical.UpdateOperation, "rotate-root/rollback", nil)
	assert.Contains(t, text, "nothing to roll back")
	assert.Contains(t, m.Do(logical.DeleteOperation, "rotate-root", nil).Warnings, "Nothing was staged. Nothing was changed.")
}

// A step that has nothing to do does nothing: it writes no storage, and no one hears of it.
func TestStepsThatChangeNothing(t *testing.T) {
	complete := func(m *mounttest.Mount) {
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.Write("rotate-root/complete")
	}
	for name, tt := range map[string]struct {
		state  string
		before func(*mounttest.Mount)
		step   func(*mounttest.Mount)
		name   string
	}{
		"stage again":        {rotation.Staged, nil, func(m *mounttest.Mount) { m.Stage() }, "stage"},
		"stage the promoted": {rotation.Promoted, nil, func(m *mounttest.Mount) { m.Stage() }, "stage"},
		"promote again":      {rotation.Promoted, nil, func(m *mounttest.Mount) { m.Promote() }, "promote"},
		"complete again":     {rotation.Promoted, complete, func(m *mounttest.Mount) { m.Write("rotate-root/complete") }, "complete"},
		"rollback again":     {rotation.Promoted, func(m *mounttest.Mount) { m.Write("rotate-root/rollback") }, func(m *mounttest.Mount) { m.Write("rotate-root/rollback") }, "rollback"},
		"discard nothing":    {rotation.Idle, nil, func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "rotate-root", nil) }, "discard"},
		"not unrevoked":      {rotation.Idle, nil, func(m *mounttest.Mount) { m.Write("rotate-root/revoked", "client_id", "shop-9") }, "revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.NewRotating(t, tt.state)
			if tt.before != nil {
				tt.before(m)
			}
			storage := m.UseFaultyStorage()
			before, history := storage.Stored(t, mounttest.ConfigKey), m.Rotation()["history"]
			steps := m.Metrics()["fuuffy_rotation_steps_total"].String()
			require.NotEmpty(t, steps)
			m.Log.Reset()
			m.Events.Take()
			tt.step(m)
			assert.True(t, storage.Stored(t, mounttest.ConfigKey) == before, "nothing was stored")
			assert.Equal(t, history, m.Rotation()["history"])
			assert.Equal(t, steps, m.Metrics()["fuuffy_rotation_steps_total"].String())
			assert.Zero(t, m.Log.Count("rotation of the credentials"))
			assert.Empty(t, m.Events.Take())
		})
	}
}

// A repeated emergency tests the credentials again, and that is all.
func TestRepeatedEmergency(t *testing.T) {
	m := mounttest.NewRotating(t, mounttest.StateCompromised)
	before, requests := m.Rotation(), m.Requests()
	again := m.Write("rotate-root", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "compromised", true)
	assert.Contains(t, again.Warnings, "These credentials are already staged or promoted. The engine only tested them again.")
	assert.Equal(t, before, m.Rotation())
	assert.Equal(t, requests+1, m.Requests())
}

// Clients that an operator marks as revoked between a step and its repetition change nothing,
// however many they are. Once they have pushed the step out of the history, it can't be repeated.
func TestRepeatedStepAfterMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Idle)
		discardClients(m, 10)
		m.Stage()
		m.Promote()
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.Write("rotate-root/complete")
		for i := range 10 {
			assert.Contains(t, m.Write("rotate-root/complete").Warnings, "This step was already taken. Nothing was changed.")
			m.Write("rotate-root/revoked", "client_id", fmt.Sprintf("shop-%d", 100+i))
		}
		assert.NotContains(t, m.Rotation()["history"], "completed")
		for _, step := range []string{"complete", "rollback"} {
			_, text := m.Refused(logical.UpdateOperation, "rotate-root/"+step, nil)
			assert.Contains(t, text, "No rotation is in progress")
		}
	})
}

const restartAgents = "restart the agents of apps that don't report a 401"

func TestEmergencyTellsOfAgents(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Idle)
	resp := m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true))
	assert.Contains(t, strings.ToLower(strings.Join(resp.Warnings, "\n")), restartAgents)
	assert.Contains(t, strings.ToLower(resp.Data["next_step"].(string)), restartAgents)
	assert.Contains(t, resp.Data["history"], "promoted shop-2 (replaced shop-1, which is compromised)")
	m.Sandbox.RevokeClient(mounttest.ClientID)
	assert.Contains(t, strings.ToLower(strings.Join(m.Write("rotate-root/complete").Warnings, "\n")), restartAgents)
}

func TestCompleteTooEarlyWarns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		resp := m.Write("rotate-root/complete")
		require.NotEmpty(t, resp.Warnings)
		assert.Contains(t, resp.Warnings[0], "Apps may hold tokens of client shop-1 until 2000-01-01T00:55:00Z. It is revoked")
	})
}
