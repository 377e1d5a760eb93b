// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// requests are the ways to call a path.
var requests = map[string]func(context.Context, *api.Logical, string) error{
	"read": func(ctx context.Context, vault *api.Logical, path string) error {
		_, err := vault.ReadWithContext(ctx, path)
		return err
	},
	"update": func(ctx context.Context, vault *api.Logical, path string) error {
		_, err := vault.WriteWithContext(ctx, path, nil)
		return err
	},
	"delete": func(ctx context.Context, vault *api.Logical, path string) error {
		_, err := vault.DeleteWithContext(ctx, path)
		return err
	},
	"list": func(ctx context.Context, vault *api.Logical, path string) error {
		_, err := vault.ListWithContext(ctx, path)
		return err
	},
}

// paths are all that the engine has, and one that it has not. Deleting the config
// comes last.
var paths = []string{
	"token", "token/more", "rotate-root", "rotate-root/promote", "rotate-root/rollback", "rotate-root/complete", "rotate-root/check", "rotate-root/revoked", "status", "metrics", "config",
}

// allowed is what each example of a policy lets someone do. All else is forbidden.
var allowed = map[string]map[string][]string{
	"app": {
		"token": {"read", "update"},
	},
	"operator": {
		"config":               {"read", "update", "delete"},
		"token":                {"read", "update", "delete"},
		"rotate-root":          {"read", "update", "delete"},
		"rotate-root/promote":  {"update"},
		"rotate-root/rollback": {"update"},
		"rotate-root/complete": {"update"},
		"rotate-root/check":    {"update"},
		"rotate-root/revoked":  {"update"},
		"status":               {"read"},
		"metrics":              {"read"},
	},
	"rotator": {
		"rotate-root":          {"read", "update", "delete"},
		"rotate-root/promote":  {"update"},
		"rotate-root/rollback": {"update"},
		"rotate-root/complete": {"update"},
		"rotate-root/check":    {"update"},
		"rotate-root/revoked":  {"update"},
		"status":               {"read"},
	},
	"on-call": {
		"status":            {"read"},
		"rotate-root":       {"read"},
		"rotate-root/check": {"update"},
	},
	"monitor": {
		"status":      {"read"},
		"metrics":     {"read"},
		"rotate-root": {"read"},
	},
}

// TestPolicies tries everything that there is with each of the policies. Vault
// refuses what is forbidden before the engine sees it; what is allowed may end in
// any other way.
func TestPolicies(t *testing.T) {
	t.Parallel()
	for name, mayDo := range allowed {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMount(t, "policy-"+name, fuuffytest.Config{}, nil)
			other := newMount(t, "policy-"+name+"-other", fuuffytest.Config{}, nil)
			client := m.clientWith(name)

			forbidden := 0
			for _, path := range paths {
				for _, operation := range []string{"read", "update", "list", "delete"} {
					err := requests[operation](t.Context(), client.Logical(), m.path+"/"+path)
					may := slices.Contains(mayDo[path], operation)
					assert.Equal(t, may, !isForbidden(err), "%s may %s %s: %v", name, operation, path, err)
					if !may {
						forbidden++
					}
				}
			}
			for operation, request := range requests {
				assert.True(t, isForbidden(request(t.Context(), client.Logical(), other.path+"/token")), "%s must not %s a token of another mount", name, operation)
			}
			t.Logf("%s: of %d kinds of requests %d are forbidden", name, len(paths)*len(requests), forbidden)
			if name == "operator" {
				// The config is deleted by now. To write it anew takes another capability.
				_, err := client.Logical().WriteWithContext(t.Context(), m.path+"/config", m.settings())
				require.NoError(t, err)
			}
		})
	}
}

// clientWith returns a client whose token has just the policy.
func (m *mount) clientWith(name string) *api.Client {
	m.t.Helper()
	client, err := m.tryClientWith(name)
	require.NoError(m.t, err)
	return client
}

// tryClientWith returns the server's error if it does not take the policy.
func (m *mount) tryClientWith(name string) (*api.Client, error) {
	m.t.Helper()
	policy := m.path + "-" + name
	if err := vault.Client.Sys().PutPolicyWithContext(m.t.Context(), policy, m.example("policies/"+name+".hcl")); err != nil {
		return nil, err
	}
	created, err := vault.Client.Auth().Token().CreateWithContext(m.t.Context(), &api.TokenCreateRequest{Policies: []string{policy}})
	require.NoError(m.t, err)
	client, err := vault.Client.Clone()
	require.NoError(m.t, err)
	client.SetToken(created.Auth.ClientToken)
	return client, nil
}

// Vault Community has no events, but it knows what the policy for them allows. The
// operator subscribes by the type of the mount, which it looks up with this policy.
func TestInstantUpdatesPolicy(t *testing.T) {
	t.Parallel()
	m := newMount(t, "policy-updates", fuuffytest.Config{}, nil)
	client, err := m.tryClientWith("instant-updates")
	if stack.Lacks(t, "events", err, `invalid capability "subscribe"`, `invalid key "subscribe_event_types"`) {
		return
	}
	for path, want := range map[string][]string{
		"sys/events/subscribe/" + stack.Engine + "*": {"read"},
		m.path + "/token":      {"subscribe"},
		m.path + "/config":     {"deny"},
		"sys/mounts/" + m.path: {"read"},
		"sys/mounts":           {"deny"},
	} {
		got, err := client.Sys().CapabilitiesSelfWithContext(t.Context(), path)
		require.NoError(t, err)
		assert.Equal(t, want, got, path)
	}
	mount, err := client.Logical().ReadWithContext(t.Context(), "sys/mounts/"+m.path)
	require.NoError(t, err)
	assert.Equal(t, stack.Engine, mount.Data["type"])

	// Vault Enterprise answers this with an invitation to a WebSocket.
	answer, err := vault.Client.Logical().ReadRawWithContext(t.Context(), "sys/events/subscribe/"+stack.Engine+"*")
	require.NotNil(t, answer)
	answer.Body.Close()
	if answer.StatusCode == http.StatusNotFound {
		stack.Lacks(t, "events", err, "unsupported path")
	}
}

func isForbidden(err error) bool {
	refused, ok := errors.AsType[*api.ResponseError](err)
	return ok && refused.StatusCode == http.StatusForbidden
}
