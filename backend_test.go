// SPDX-License-Identifier: MPL-2.0

package fuuffy_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

// The clock was a year ahead for a moment, in which a rotation was called due.
func TestReminderAfterTheClockWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		skew := 365 * 24 * time.Hour
		m.SkewWallClock(func() time.Duration { return skew })
		m.Tick()
		require.Equal(t, 1, m.Log.Count("overdue"))
		skew = 0
		time.Sleep(80 * 24 * time.Hour)
		m.Tick()
		assert.Equal(t, 1, m.Log.Count("due for rotation on"))
	})
}

// The reader learns that the engine is stopping, whichever of what ends the engine notices
// first.
func TestCleanEndsWhatIsUnderWay(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewConfigured(t)
			m.Sandbox.Hold() // Never released: only Clean ends the request.
			failed := make(chan error, 1)
			go func() {
				_, err := m.Handle(context.Background(), logical.ReadOperation, "token", nil)
				failed <- err
			}()
			synctest.Wait()
			began := time.Now()
			m.Backend.Cleanup(t.Context())
			assert.Zero(t, time.Since(began))
			assert.ErrorIs(t, <-failed, tokencache.ErrClosed)
		})
	}
}

// After Clean, nothing begins anymore.
func TestNothingBeginsAfterClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Write("config", "stale_if_error", true)
		m.Backend.Cleanup(t.Context())
		storage := m.Storage.Count()
		_, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
		assert.ErrorIs(t, err, tokencache.ErrClosed)

		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		_, err = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
		assert.ErrorIs(t, err, tokencache.ErrClosed)
		_, err = m.Handle(t.Context(), logical.RollbackOperation, "", nil)
		assert.ErrorIs(t, err, tokencache.ErrClosed)
		assert.Equal(t, storage, m.Storage.Count(), "storage operations")
		assert.Zero(t, m.Requests())
	})
}

// Clean waits until storage is done, but not forever.
func TestCleanWaitsForStorage(t *testing.T) {
	for saving, want := range map[time.Duration]time.Duration{2 * time.Second: 2 * time.Second, time.Minute: 5 * time.Second} {
		t.Run(saving.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.UseFaultyStorage().Set("put", mounttest.TokenKey, mounttest.Slowly(saving))
				go func() { _, _ = m.Handle(context.Background(), logical.ReadOperation, "token", nil) }()
				synctest.Wait()
				began := time.Now()
				m.Backend.Cleanup(t.Context())
				assert.Equal(t, want, time.Since(began))
				time.Sleep(saving)
			})
		})
	}
}

// helpText is the help for a path, as `vault path-help` shows it.
func helpText(m *mounttest.Mount, path string) string {
	m.T.Helper()
	m.System.PluginEnvironment = &logical.PluginEnvironment{}
	resp, err := m.Backend.HandleRequest(m.T.Context(), &logical.Request{Operation: logical.HelpOperation, Path: path, Storage: m.Storage, MountPoint: m.Path})
	require.NoError(m.T, err)
	text, _ := resp.Data["help"].(string)
	require.NotEmpty(m.T, text, path)
	return text
}

// Defect 52: path-help has the mount's own path in its commands, and none of another mount.
func TestHelpNamesTheMount(t *testing.T) {
	patterns := []string{""}
	for _, p := range mounttest.New(t).Framework().Paths {
		patterns = append(patterns, p.Pattern)
	}
	require.Contains(t, patterns, "rotate-root/check")
	for _, path := range []string{"fuuffy/", "shops/eu/", "my fuuffy/"} {
		commands := 0
		for _, pattern := range patterns {
			t.Run(path+pattern, func(t *testing.T) {
				m := mounttest.New(t)
				m.Path = path
				text := helpText(m, pattern)
				assert.NotContains(t, text, "<mount>")
				commands += len(m.Commands(text))
			})
		}
		assert.Greater(t, commands, 5, path)
	}
}

// Every path and field explains itself. What Vault makes of them is tested in e2e.
func TestPathsExplainThemselves(t *testing.T) {
	m := mounttest.New(t)
	for _, path := range m.Framework().Paths {
		assert.NotEmpty(t, path.HelpSynopsis, path.Pattern)
		assert.Greater(t, len(path.HelpDescription), 100, path.Pattern)
		schemas := []map[string]*framework.FieldSchema{path.Fields}
		for _, handler := range path.Operations {
			for _, responses := range handler.Properties().Responses {
				schemas = append(schemas, responses[0].Fields)
			}
		}
		for _, schema := range schemas {
			for name, field := range schema {
				assert.NotEmpty(t, field.Description, "%s: %s", path.Pattern, name)
			}
		}
	}
}

// The documents mark as required what a write can't do without.
func TestRequiredFields(t *testing.T) {
	found := map[string][]string{}
	for _, path := range mounttest.New(t).Framework().Paths {
		for _, name := range slices.Sorted(maps.Keys(path.Fields)) {
			if path.Fields[name].Required {
				found[path.Pattern] = append(found[path.Pattern], name)
			}
		}
	}
	assert.Equal(t, map[string][]string{
		"rotate-root":         {"client_id", "client_secret"},
		"rotate-root/revoked": {"client_id"},
	}, found)
}

func TestSpecialPaths(t *testing.T) {
	special := mounttest.New(t).Framework().PathsSpecial
	assert.Empty(t, special.Unauthenticated)
	assert.Equal(t, []string{mounttest.ConfigKey, mounttest.TokenKey, mounttest.LeaksKey}, special.SealWrapStorage)
	assert.Equal(t, []string{mounttest.TokenKey}, special.LocalStorage)
}

// Who serves, who asks Fuuffy, who saves and who refreshes, by Vault's replication
// states. What may not be done here is forwarded with the bare error.
func TestReplicationStates(t *testing.T) {
	for name, tt := range map[string]struct {
		state     consts.ReplicationState
		local     bool // the mount
		asks      bool // without a token
		refreshes bool // by PeriodicFunc
		configure bool
	}{
		"primary, or no replication":            {state: consts.ReplicationPerformancePrimary, asks: true, refreshes: true, configure: true},
		"performance standby":                   {state: consts.ReplicationPerformanceStandby},
		"performance secondary":                 {state: consts.ReplicationPerformanceSecondary, asks: true},
		"performance secondary, local mount":    {state: consts.ReplicationPerformanceSecondary, local: true, asks: true, refreshes: true, configure: true},
		"standby of a secondary":                {state: consts.ReplicationPerformanceSecondary | consts.ReplicationPerformanceStandby},
		"standby of a secondary, local mount":   {state: consts.ReplicationPerformanceSecondary | consts.ReplicationPerformanceStandby, local: true},
		"disaster recovery secondary":           {state: consts.ReplicationDRSecondary, configure: true}, // Vault itself answers nothing there.
		"primary of both kinds, for comparison": {state: consts.ReplicationPerformancePrimary | consts.ReplicationDRPrimary, asks: true, refreshes: true, configure: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.System.LocalMountVal = tt.local
				m.SetReplicationState(tt.state)

				_, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
				if tt.asks {
					require.NoError(t, err)
				} else {
					require.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)
				}
				stored, err := m.Storage.Storage.Get(t.Context(), mounttest.TokenKey)
				require.NoError(t, err)
				assert.Equal(t, tt.asks, stored != nil, "saved")

				m.SetReplicationState(0)
				token := m.ReadToken()
				requests := m.Requests()
				m.SetReplicationState(tt.state)
				assert.Equal(t, token, m.ReadToken(), "whoever has a token serves it")
				time.Sleep(51 * time.Minute)
				m.Tick()
				synctest.Wait()
				assert.Equal(t, tt.refreshes, m.Requests() == requests+1, "refreshed by PeriodicFunc")

				_, err = m.Handle(t.Context(), logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true))
				assert.Equal(t, tt.configure, err == nil, "%v", err)
			})
		})
	}
}
