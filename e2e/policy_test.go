// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// The policies are those that people are told to use: an app needs read and update
// on token, an operator the rest.
const (
	appPolicy = `
path "%[1]s/token" { capabilities = ["read", "update"] }`
	operatorPolicy = `
path "%[1]s/config" { capabilities = ["create", "read", "update", "delete"] }
path "%[1]s/token"  { capabilities = ["read", "delete"] }`
)

func TestPolicies(t *testing.T) {
	m := newMount(t, shared, fuuffytest.Config{})
	app, operator := m.as("app", appPolicy), m.as("operator", operatorPolicy)

	operator.configure(nil)
	require.NotNil(t, operator.readConfig())
	token := app.token()
	answer, err := app.write("token", map[string]any{"rejected_token": "sk-of-yesterday"})
	require.NoError(t, err)
	assert.Equal(t, token, accessToken(t, answer))

	for name, attempt := range map[string]func() error{
		"app reads config": func() error {
			_, err := app.client.Logical().ReadWithContext(t.Context(), m.path+"/config")
			return err
		},
		"app writes config": func() error {
			_, err := app.write("config", map[string]any{"request_timeout": "5s"})
			return err
		},
		"app deletes config": func() error {
			_, err := app.client.Logical().DeleteWithContext(t.Context(), m.path+"/config")
			return err
		},
		"app deletes token": func() error {
			_, err := app.client.Logical().DeleteWithContext(t.Context(), m.path+"/token")
			return err
		},
		"nobody reads token": func() error {
			nobody, err := m.client.Clone()
			require.NoError(t, err)
			_, err = nobody.Logical().ReadWithContext(t.Context(), m.path+"/token")
			return err
		},
	} {
		assertForbidden(t, name, attempt())
	}

	_, err = operator.client.Logical().DeleteWithContext(t.Context(), m.path+"/token")
	require.NoError(t, err)
	assert.NotEqual(t, token, app.token())
}

func assertForbidden(t *testing.T, what string, err error) {
	t.Helper()
	refused, ok := errors.AsType[*api.ResponseError](err)
	if assert.True(t, ok, what) {
		assert.Equal(t, http.StatusForbidden, refused.StatusCode, what)
	}
}

// as returns the mount as somebody sees it whose token has just this policy.
func (m *mount) as(who, policy string) *mount {
	m.t.Helper()
	name := strings.ToLower(m.t.Name()) + "-" + who
	require.NoError(m.t, m.client.Sys().PutPolicyWithContext(m.t.Context(), name, fmt.Sprintf(policy, m.path)))
	created, err := m.client.Auth().Token().CreateWithContext(m.t.Context(), &api.TokenCreateRequest{Policies: []string{name}})
	require.NoError(m.t, err)
	client, err := m.client.Clone()
	require.NoError(m.t, err)
	client.SetToken(created.Auth.ClientToken)
	other := *m
	other.client = client
	return &other
}
