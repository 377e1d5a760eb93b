// SPDX-License-Identifier: MPL-2.0

package fuuffy_test

import (
	"context"
	"maps"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

func TestTokenReadShape(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		asked := time.Now()
		resp := m.Read()

		assert.Nil(t, resp.Secret, "a token has no lease")
		assert.Empty(t, resp.Warnings)
		assert.True(t, m.Sandbox.TokenAlive(resp.Data["access_token"].(string)))
		assert.Equal(t, "Bearer", resp.Data["token_type"])
		assert.Equal(t, asked.UTC().Format(time.RFC3339), resp.Data["last_vault_rotation"])
		assert.Equal(t, asked.Add(time.Hour).UTC().Format(time.RFC3339), resp.Data["expires_at"])
		assert.EqualValues(t, 55*60, resp.Data["rotation_period"])
		assert.Equal(t, "production", resp.Data["environment"])
		assert.Len(t, resp.Data, 7)

		ttl := resp.Data["ttl"].(int64)
		assert.GreaterOrEqual(t, ttl, int64(51*60), "not before the replacement")
		assert.Less(t, ttl, int64(55*60), "not after the token is served")
	})
}

func TestTokenReadBeforeConfig(t *testing.T) {
	m := mounttest.New(t)
	status, text := m.Refused(logical.ReadOperation, "token", nil)
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Contains(t, text, "vault write fuuffy/config client_id=")
}

// A warm read touches no storage and asks Fuuffy nothing, and only its ttl differs.
func TestWarmRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		first := m.Read()
		storage, requests := m.Storage.Count(), m.Requests()
		ttls := map[int64]bool{}
		for range 100 {
			again := m.Read()
			ttls[again.Data["ttl"].(int64)] = true
			again.Data["ttl"] = first.Data["ttl"]
			require.Equal(t, first.Data, again.Data)
			time.Sleep(time.Second)
		}
		assert.Equal(t, storage, m.Storage.Count(), "storage operations")
		assert.Equal(t, requests, m.Requests(), "token requests")
		assert.Greater(t, len(ttls), 50, "ttl is spread over readers")
	})
}

// max_read_ttl brings readers back sooner, and changes nothing else of a response. A read stays a
// warm one.
func TestMaxReadTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		plain := m.Read()
		between := func(resp *logical.Response, least, most int64) {
			t.Helper()
			ttl := resp.Data["ttl"].(int64)
			assert.GreaterOrEqual(t, ttl, least)
			assert.LessOrEqual(t, ttl, most)
		}
		m.Write("config", "max_read_ttl", "2m")
		storage, ttls := m.Storage.Count(), map[int64]bool{}
		for range 200 {
			resp := m.Read()
			between(resp, 60, 120)
			ttls[resp.Data["ttl"].(int64)] = true
			resp.Data["ttl"] = plain.Data["ttl"]
			require.True(t, maps.Equal(plain.Data, resp.Data), "everything but ttl is the same")
		}
		assert.Greater(t, len(ttls), 40, "ttl is spread over readers")
		assert.Equal(t, storage, m.Storage.Count(), "storage operations")
		between(m.ReadFor("20m"), 60, 120)

		m.Restart()
		between(m.Read(), 60, 120)
		m.Write("config", "max_read_ttl", "10s")
		between(m.Read(), 5, 10)
		m.Write("config", "max_read_ttl", 0)
		between(m.Read(), 51*60, 55*60)
		m.Write("config", "max_read_ttl", "10m")
		time.Sleep(54 * time.Minute)
		between(m.Read(), 1, 59) // This one starts the refresh.
		synctest.Wait()
		require.Equal(t, 2, m.Requests())
		between(m.Read(), 300, 600)

		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.Write("config", "max_read_ttl", "10s")
		time.Sleep(52 * time.Minute)
		m.Read()
		time.Sleep(10 * time.Second)
		resp := m.Read()
		require.Len(t, resp.Warnings, 1)
		between(resp, 5, 10)
	})
}

// Nodes learn of max_read_ttl as of any other setting.
func TestMaxReadTTLOnAStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Read()
		standby := m.Twin(0)
		standby.SetReplicationState(consts.ReplicationPerformanceStandby)
		assert.Greater(t, standby.Read().Data["ttl"], int64(50*60))
		m.Write("config", "max_read_ttl", "1m")
		standby.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		assert.LessOrEqual(t, standby.Read().Data["ttl"], int64(60))
		assert.Equal(t, 1, m.Requests())
	})
}

// A reader that can't report a 401 gets rid of a dead token when it comes back.
func TestMaxReadTTLEndsADeadToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t, "max_read_ttl", "2m")
		m.Read()
		time.Sleep(10 * time.Minute)
		held := m.Read()
		dead := held.Data["access_token"].(string)
		require.True(t, m.Sandbox.RevokeToken(dead))
		back := time.Duration(held.Data["ttl"].(int64)+1) * time.Second
		time.Sleep(back / 2)
		reported := m.Write("token", "rejected_token", dead)
		assert.LessOrEqual(t, reported.Data["ttl"], int64(120), "the response to a report has it too")
		time.Sleep(back / 2)
		token := m.ReadToken()
		assert.False(t, token == dead)
		assert.True(t, m.Sandbox.TokenAlive(token))
		assert.Equal(t, 2, m.Requests())
	})
}

// A read while the refresh is under way is as cheap as a warm one, but not while there
// is a failure to tell of.
func TestReadDuringARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		held := m.ReadToken()
		time.Sleep(51 * time.Minute)
		_, warm := m.Warm(nil)
		require.False(t, warm, "somebody must start the refresh")

		release := m.Sandbox.Hold()
		resp := m.Read()
		assert.Equal(t, held, resp.Data["access_token"])
		assert.Empty(t, resp.Warnings)
		synctest.Wait()
		resp, warm = m.Warm(nil)
		require.True(t, warm)
		assert.Equal(t, held, resp.Data["access_token"])

		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusUnauthorized})
		release()
		synctest.Wait()
		_, warm = m.Warm(nil)
		assert.False(t, warm, "the refresh failed")
		if resp := m.Read(); assert.Len(t, resp.Warnings, 1) {
			assert.Contains(t, resp.Warnings[0], "the engine retries after")
		}

		time.Sleep(time.Minute)
		m.Sandbox.ClearFault()
		release = m.Sandbox.Hold()
		assert.NotEmpty(t, m.Read().Warnings, "this starts another refresh")
		synctest.Wait()
		_, warm = m.Warm(nil)
		assert.False(t, warm, "the failure before it is still told")
		assert.NotEmpty(t, m.Read().Warnings)
		release()
		synctest.Wait()
		_, warm = m.Warm(nil)
		assert.True(t, warm, "there is a new token")
	})
}

// A thousand readers of a cold mount cost one request, and share its failure too.
func TestColdReadersShareOneRequest(t *testing.T) {
	for name, fault := range map[string]*fuuffytest.Fault{
		"success":  nil,
		"rejected": {Kind: fuuffytest.FaultStatus, Status: http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				if fault != nil {
					m.Sandbox.SetFault(*fault)
				}
				release := m.Sandbox.Hold()
				answers := make(chan string, 1000)
				for range cap(answers) {
					go func() {
						resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
						if err == nil && !resp.IsError() {
							answers <- resp.Data["access_token"].(string)
							return
						}
						_, text := mounttest.Refusal(t, resp, err)
						answers <- text
					}()
				}
				synctest.Wait()
				require.Empty(t, answers, "all wait")
				release()
				first := <-answers
				for range cap(answers) - 1 {
					require.Equal(t, first, <-answers)
				}
				assert.Equal(t, fault == nil, m.Sandbox.TokenAlive(first))
				assert.Equal(t, 1, m.Requests())
			})
		})
	}
}

func TestReaderThatGivesUpDoesNotDisturbTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		release := m.Sandbox.Hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := m.Handle(ctx, logical.ReadOperation, "token", nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(began))

		release()
		synctest.Wait()
		assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
		assert.Equal(t, 1, m.Requests(), "the request went on for the next reader")
	})
}

// The window: the old token is served at once while one request runs.
func TestReadInTheWindowRefreshesInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		old := m.ReadToken()
		time.Sleep(51 * time.Minute)
		release := m.Sandbox.Hold()
		for range 10 {
			require.Equal(t, old, m.ReadToken())
			synctest.Wait()
		}
		release()
		synctest.Wait()
		assert.NotEqual(t, old, m.ReadToken())
		assert.Equal(t, 2, m.Requests())
	})
}

func TestPeriodicRefreshesATokenInUseOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Read()
		for range 180 {
			time.Sleep(time.Minute)
			m.Tick()
			synctest.Wait()
		}
		assert.Equal(t, 2, m.Requests(), "the second token was never read and lapsed")
	})
}

func TestReplaceToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		dead := m.ReadToken()
		time.Sleep(10 * time.Minute)
		m.Sandbox.RevokeToken(dead)

		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				resp, err := m.Handle(t.Context(), logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", dead+"\n"))
				if assert.NoError(t, err) && assert.False(t, resp.IsError()) {
					assert.True(t, m.Sandbox.TokenAlive(resp.Data["access_token"].(string)))
				}
			})
		}
		wg.Wait()
		assert.Equal(t, 2, m.Requests(), "one replacement for all")

		current := m.ReadToken()
		time.Sleep(time.Second)
		resp := m.Do(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", current))
		assert.Equal(t, current, resp.Data["access_token"], "a token of a second is kept")
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "30s after its issue")

		time.Sleep(time.Minute)
		resp = m.Do(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", "sk-of-long-ago"))
		assert.Equal(t, current, resp.Data["access_token"], "somebody had it replaced")
		resp = m.Do(logical.UpdateOperation, "token", nil)
		assert.NotEqual(t, current, resp.Data["access_token"], "without a token, whichever is held")
		assert.Equal(t, 3, m.Requests())
	})
}

// A report that can't be acted on takes the token from no one.
func TestReplaceDuringAnOutageKeepsTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		held := m.ReadToken()
		time.Sleep(time.Minute)
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusServiceUnavailable})
		status, _ := m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", held))
		assert.Equal(t, http.StatusBadGateway, status)
		resp := m.Read()
		assert.Equal(t, held, resp.Data["access_token"])
		assert.LessOrEqual(t, resp.Data["ttl"], int64(60), "there may be another in a moment")
		assert.EqualValues(t, 0, m.Metric("fuuffy_min_ttl_requests_total"), "nobody needed a longer life")
	})
}

func TestReplaceRefusesUnknownFields(t *testing.T) {
	m := mounttest.NewConfigured(t)
	status, text := m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected-token", "sk-1"))
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Contains(t, text, "unknown field rejected-token")
	assert.Contains(t, text, "rejected_token")
}

func TestDeleteToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		first := m.ReadToken()
		m.Do(logical.DeleteOperation, "token", nil)
		m.Restart()
		assert.NotEqual(t, first, m.ReadToken())
		assert.Equal(t, 2, m.Requests())
	})
}

// What is being fetched when the cache is cleared is not served or stored later.
func TestDeleteDuringARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		release := m.Sandbox.Hold()
		waiting := make(chan string, 1)
		go func() { waiting <- m.ReadToken() }()
		synctest.Wait()
		m.Do(logical.DeleteOperation, "token", nil)
		release()
		served := <-waiting
		assert.Equal(t, served, m.ReadToken())
		assert.Equal(t, 2, m.Requests(), "the reader asked again after the delete")
	})
}

func TestTokenSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		first := m.Read()
		time.Sleep(20 * time.Minute)
		m.Restart()
		before := m.Storage.Count()
		again := m.Read()
		assert.Equal(t, before, m.Storage.Count(), "the first read after a start is warm")
		again.Data["ttl"] = first.Data["ttl"]
		assert.Equal(t, first.Data, again.Data)
		assert.Equal(t, 1, m.Requests())
	})
}

func TestStoredTokenThatIsNotServed(t *testing.T) {
	for name, tt := range map[string]struct {
		stored any
		wait   time.Duration
	}{
		"in its buffer":          {wait: 56 * time.Minute},
		"expired":                {wait: 2 * time.Hour},
		"garbage":                {stored: "garbage"},
		"of a newer version":     {stored: mounttest.Pairs("format", 2, "access_token", "sk-1")},
		"without a token":        {stored: mounttest.Pairs("format", 1)},
		"with a damaged token":   {stored: mounttest.Pairs("format", 1, "access_token", "sk 1")},
		"of unknown credentials": {stored: mounttest.Pairs("format", 1, "access_token", "sk-1", "issued_at", time.Unix(946684800, 0), "expires_at", time.Unix(946688400, 0), "credentials_id", "other")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				first := m.ReadToken()
				if tt.stored != nil {
					entry, err := logical.StorageEntryJSON(mounttest.TokenKey, tt.stored)
					require.NoError(t, err)
					require.NoError(t, m.Storage.Put(t.Context(), entry))
				}
				time.Sleep(tt.wait)
				m.Restart()
				second := m.ReadToken()
				assert.NotEqual(t, first, second)
				assert.True(t, m.Sandbox.TokenAlive(second))
				assert.Equal(t, 2, m.Requests())
			})
		})
	}
}

// A stored token in its refresh window is served after a restart, and replaced.
func TestStoredTokenInItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		first := m.ReadToken()
		time.Sleep(52 * time.Minute)
		m.Restart()
		assert.Equal(t, first, m.ReadToken(), "nobody waits")
		synctest.Wait()
		assert.NotEqual(t, first, m.ReadToken())
		assert.Equal(t, 2, m.Requests())
	})
}

// A stored token from the future means that a clock is wrong: it can't be judged.
func TestStoredTokenFromTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		first := m.ReadToken()
		m.Backend.Cleanup(t.Context())
		m.Start()
		m.Backend.InvalidateKey(t.Context(), mounttest.TokenKey)
		m.SkewWallClock(func() time.Duration { return -10 * time.Minute })
		assert.NotEqual(t, first, m.ReadToken())
		assert.Equal(t, 2, m.Requests())
	})
}

func TestFailedSaveIsServedFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Storage.Failing(mounttest.FailAll("put", mounttest.TokenKey))
		token := m.ReadToken()
		assert.Equal(t, token, m.ReadToken())
		assert.Equal(t, 1, m.Requests())
		synctest.Wait()
		assert.Equal(t, 1, m.Log.Count("could not save the access token"))
	})
}

func TestUnreadableStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Storage.Failing(mounttest.FailAll("get", mounttest.TokenKey))
		assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()), "a token that can't be read is asked for")

		m.Storage.Failing(mounttest.FailAll("get", mounttest.ConfigKey))
		m.Restart()
		status, text := m.Refused(logical.ReadOperation, "token", nil)
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Contains(t, text, "read config: storage is broken")

		m.Storage.Failing(nil)
		m.Read()
	})
}

// A performance standby serves what it has and leaves the asking to the active node.
func TestPerformanceStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.SetReplicationState(consts.ReplicationPerformanceStandby)
		forwarded := func(operation logical.Operation) {
			t.Helper()
			_, err := m.Handle(t.Context(), operation, "token", nil)
			require.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)
		}
		forwarded(logical.ReadOperation)
		forwarded(logical.UpdateOperation)
		forwarded(logical.DeleteOperation)
		require.Zero(t, m.Requests())

		m.SetReplicationState(0) // The active node gets one, and the standby is told.
		token := m.ReadToken()
		m.Backend.InvalidateKey(t.Context(), mounttest.TokenKey)
		m.SetReplicationState(consts.ReplicationPerformanceStandby)
		assert.Equal(t, token, m.ReadToken(), "from storage")
		time.Sleep(51 * time.Minute)
		forwarded(logical.ReadOperation)
		assert.Equal(t, 1, m.Requests())
		m.Tick()
		synctest.Wait()
		assert.Equal(t, 1, m.Requests(), "no background work on a standby")
	})
}

// Defect 47: no reader is told to come back in 0 s.
func TestTTLIsNeverZero(t *testing.T) {
	for _, random := range []float64{0, 0.5, 0.999} {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.New(t)
			m.Sandbox.SetTokenLifetime(time.Minute)
			m.Random = func() float64 { return random }
			m.Configure()
			for range 240 {
				ttl := m.Read().Data["ttl"].(int64)
				require.GreaterOrEqual(t, ttl, int64(1))
				time.Sleep(500 * time.Millisecond)
			}
		})
	}
}
