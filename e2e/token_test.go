// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// The answer is what Vault Agent and the Vault Secrets Operator act on: without a
// lease, with these keys and types and no others.
func TestTokenAnswer(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	m.configure(nil)

	answer := decode(t, command(t, shared, "read", "-format=json", m.path+"/token"))

	assert.Empty(t, answer["lease_id"])
	assert.Equal(t, "0", number(t, answer, "lease_duration").String())
	assert.Equal(t, false, answer["renewable"])
	assert.Nil(t, answer["warnings"])
	data, _ := answer["data"].(map[string]any)
	assert.Len(t, data, 7)
	assert.Regexp(t, `^sk-[0-9a-f]{32}$`, data["access_token"])
	assert.Equal(t, "Bearer", data["token_type"])
	assert.Equal(t, "production", data["environment"])
	assert.Equal(t, "3300", number(t, data, "rotation_period").String())
	ttl, err := number(t, data, "ttl").Int64()
	require.NoError(t, err)
	assert.Positive(t, ttl)
	assert.LessOrEqual(t, ttl, int64(3300))
	issued, expires := utc(t, data, "last_vault_rotation"), utc(t, data, "expires_at")
	assert.Equal(t, time.Hour, expires.Sub(issued))
}

func number(t *testing.T, from map[string]any, key string) json.Number {
	t.Helper()
	n, ok := from[key].(json.Number)
	require.Truef(t, ok, "%s is %#v, no number", key, from[key])
	return n
}

func utc(t *testing.T, from map[string]any, key string) time.Time {
	t.Helper()
	text, _ := from[key].(string)
	require.Regexp(t, `Z$`, text)
	at, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return at
}

// However many read at once while there is no token, Fuuffy is asked once.
func TestColdReadsShareOneRequest(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	m.configure(map[string]any{"verify_connection": false})
	require.Zero(t, m.requests())
	release := m.Hold()
	defer release()

	const readers = 50
	answers := make([]*api.Secret, readers)
	failures := make([]error, readers)
	var all sync.WaitGroup
	for i := range readers {
		all.Go(func() {
			answers[i], failures[i] = m.client.Logical().ReadWithContext(t.Context(), m.path+"/token")
		})
	}
	require.NoError(t, m.WaitHeld(t.Context(), 1))
	release()
	all.Wait()

	require.NoError(t, errors.Join(failures...))
	for _, answer := range answers {
		require.Equal(t, accessToken(t, answers[0]), accessToken(t, answer))
	}
	assert.Equal(t, 1, m.requests())
	m.token()
	assert.Equal(t, 1, m.requests(), "a warm read asks nobody")
}

// A token that Fuuffy refuses is replaced once, for all who report it.
func TestRejectedToken(t *testing.T) {
	t.Parallel()
	// A token is replaced from a tenth of its life on: here after 6 seconds.
	m := newMount(t, shared, fuuffytest.Config{TokenLifetime: time.Minute})
	m.configure(nil)
	dead := m.token()
	require.Equal(t, http.StatusOK, m.orders(dead))
	require.True(t, m.RevokeToken(dead))
	require.Equal(t, http.StatusUnauthorized, m.orders(dead))
	before := m.requests()

	var replacement string
	require.NoError(t, stack.Eventually(t.Context(), "another token", func() error {
		answer, err := m.write("token", map[string]any{"rejected_token": dead})
		if err != nil {
			return err
		}
		if replacement = accessToken(t, answer); replacement == dead {
			assert.NotEmpty(t, answer.Warnings, "that it is too young must be said")
			return errors.New("it is the dead one")
		}
		return nil
	}))

	assert.Equal(t, http.StatusOK, m.orders(replacement))
	assert.Equal(t, before+1, m.requests())
	again, err := m.write("token", map[string]any{"rejected_token": dead})
	require.NoError(t, err)
	assert.Equal(t, replacement, accessToken(t, again), "who reports it later gets the current one")
	assert.Equal(t, replacement, m.token())
	assert.Equal(t, before+1, m.requests())
}

func TestDeletedToken(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	m.configure(nil)
	first := m.token()

	_, err := m.client.Logical().DeleteWithContext(t.Context(), m.path+"/token")
	require.NoError(t, err)

	assert.NotEqual(t, first, m.token())
	assert.Equal(t, 2, m.requests())
}

// While there is a token, an outage of Fuuffy is no one's problem. Without one, the
// error says what is wrong.
func TestOutage(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	m.configure(nil)
	held := m.token()
	m.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusServiceUnavailable})
	require.Equal(t, held, m.token())

	_, err := m.client.Logical().DeleteWithContext(t.Context(), m.path+"/token")
	require.NoError(t, err)
	_, err = m.client.Logical().ReadWithContext(t.Context(), m.path+"/token")

	failure, ok := errors.AsType[*api.ResponseError](err)
	require.Truef(t, ok, "got %v", err)
	assert.Equal(t, http.StatusBadGateway, failure.StatusCode)
	assert.Positive(t, m.Stats().FaultsHit)
	m.ClearFault()
	_, err = m.client.Logical().DeleteWithContext(t.Context(), m.path+"/token")
	require.NoError(t, err)
	assert.NotEqual(t, held, m.token(), "deleting the token ends the hold-off")
}
