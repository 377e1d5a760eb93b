// SPDX-License-Identifier: MPL-2.0

package fuuffy

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
)

func TestTokenReadShape(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		asked := time.Now()
		resp := m.read()

		assert.Nil(t, resp.Secret, "a token has no lease")
		assert.Empty(t, resp.Warnings)
		assert.True(t, m.sandbox.TokenAlive(resp.Data["access_token"].(string)))
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
	m := newMount(t)
	status, text := m.refused(logical.ReadOperation, "token", nil)
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Contains(t, text, "vault write fuuffy/config client_id=")
}

// A warm read touches no storage and asks Fuuffy nothing, and only its ttl differs.
func TestWarmRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		first := m.read()
		storage, requests := m.storage.count(), m.requests()
		ttls := map[int64]bool{}
		for range 100 {
			again := m.read()
			ttls[again.Data["ttl"].(int64)] = true
			again.Data["ttl"] = first.Data["ttl"]
			require.Equal(t, first.Data, again.Data)
			time.Sleep(time.Second)
		}
		assert.Equal(t, storage, m.storage.count(), "storage operations")
		assert.Equal(t, requests, m.requests(), "token requests")
		assert.Greater(t, len(ttls), 50, "ttl is spread over readers")
	})
}

// max_read_ttl brings readers back sooner, and changes nothing else of a response. A read stays a
// warm one.
func TestMaxReadTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		plain := m.read()
		between := func(resp *logical.Response, least, most int64) {
			t.Helper()
			ttl := resp.Data["ttl"].(int64)
			assert.GreaterOrEqual(t, ttl, least)
			assert.LessOrEqual(t, ttl, most)
		}
		m.write("config", "max_read_ttl", "2m")
		storage, ttls := m.storage.count(), map[int64]bool{}
		for range 200 {
			resp := m.read()
			between(resp, 60, 120)
			ttls[resp.Data["ttl"].(int64)] = true
			resp.Data["ttl"] = plain.Data["ttl"]
			require.True(t, maps.Equal(plain.Data, resp.Data), "everything but ttl is the same")
		}
		assert.Greater(t, len(ttls), 40, "ttl is spread over readers")
		assert.Equal(t, storage, m.storage.count(), "storage operations")
		between(m.readFor("20m"), 60, 120)

		m.restart()
		between(m.read(), 60, 120)
		m.write("config", "max_read_ttl", "10s")
		between(m.read(), 5, 10)
		m.write("config", "max_read_ttl", 0)
		between(m.read(), 51*60, 55*60)
		m.write("config", "max_read_ttl", "10m")
		time.Sleep(54 * time.Minute)
		between(m.read(), 1, 59) // This one starts the refresh.
		synctest.Wait()
		require.Equal(t, 2, m.requests())
		between(m.read(), 300, 600)

		m.sandbox.SetFault(faultUnavailable)
		m.write("config", "max_read_ttl", "10s")
		time.Sleep(52 * time.Minute)
		m.read()
		time.Sleep(10 * time.Second)
		resp := m.read()
		require.Len(t, resp.Warnings, 1)
		between(resp, 5, 10)
	})
}

// Nodes learn of max_read_ttl as of any other setting.
func TestMaxReadTTLOnAStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.read()
		standby := m.twin(0)
		standby.setReplicationState(consts.ReplicationPerformanceStandby)
		assert.Greater(t, standby.read().Data["ttl"], int64(50*60))
		m.write("config", "max_read_ttl", "1m")
		standby.b.InvalidateKey(t.Context(), configKey)
		assert.LessOrEqual(t, standby.read().Data["ttl"], int64(60))
		assert.Equal(t, 1, m.requests())
	})
}

// A reader that can't report a 401 gets rid of a dead token when it comes back.
func TestMaxReadTTLEndsADeadToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t, "max_read_ttl", "2m")
		m.read()
		time.Sleep(10 * time.Minute)
		held := m.read()
		dead := held.Data["access_token"].(string)
		require.True(t, m.sandbox.RevokeToken(dead))
		back := time.Duration(held.Data["ttl"].(int64)+1) * time.Second
		time.Sleep(back / 2)
		reported := m.write("token", "rejected_token", dead)
		assert.LessOrEqual(t, reported.Data["ttl"], int64(120), "the response to a report has it too")
		time.Sleep(back / 2)
		token := m.readToken()
		assert.False(t, token == dead)
		assert.True(t, m.sandbox.TokenAlive(token))
		assert.Equal(t, 2, m.requests())
	})
}

// A read while the refresh is under way is as cheap as a warm one, but not while there
// is a failure to tell of.
func TestReadDuringARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		held := m.readToken()
		time.Sleep(51 * time.Minute)
		_, warm := m.warm(nil)
		require.False(t, warm, "somebody must start the refresh")

		release := m.sandbox.Hold()
		resp := m.read()
		assert.Equal(t, held, resp.Data["access_token"])
		assert.Empty(t, resp.Warnings)
		synctest.Wait()
		resp, warm = m.warm(nil)
		require.True(t, warm)
		assert.Equal(t, held, resp.Data["access_token"])

		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusUnauthorized})
		release()
		synctest.Wait()
		_, warm = m.warm(nil)
		assert.False(t, warm, "the refresh failed")
		if resp := m.read(); assert.Len(t, resp.Warnings, 1) {
			assert.Contains(t, resp.Warnings[0], "the engine retries after")
		}

		time.Sleep(time.Minute)
		m.sandbox.ClearFault()
		release = m.sandbox.Hold()
		assert.NotEmpty(t, m.read().Warnings, "this starts another refresh")
		synctest.Wait()
		_, warm = m.warm(nil)
		assert.False(t, warm, "the failure before it is still told")
		assert.NotEmpty(t, m.read().Warnings)
		release()
		synctest.Wait()
		_, warm = m.warm(nil)
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
				m := newConfiguredMount(t)
				if fault != nil {
					m.sandbox.SetFault(*fault)
				}
				release := m.sandbox.Hold()
				answers := make(chan string, 1000)
				for range cap(answers) {
					go func() {
						resp, err := m.handle(t.Context(), logical.ReadOperation, "token", nil)
						if err == nil && !resp.IsError() {
							answers <- resp.Data["access_token"].(string)
							return
						}
						_, text := refusal(t, resp, err)
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
				assert.Equal(t, fault == nil, m.sandbox.TokenAlive(first))
				assert.Equal(t, 1, m.requests())
			})
		})
	}
}

func TestReaderThatGivesUpDoesNotDisturbTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		release := m.sandbox.Hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := m.handle(ctx, logical.ReadOperation, "token", nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(began))

		release()
		synctest.Wait()
		assert.True(t, m.sandbox.TokenAlive(m.readToken()))
		assert.Equal(t, 1, m.requests(), "the request went on for the next reader")
	})
}

// The window: the old token is served at once while one request runs.
func TestReadInTheWindowRefreshesInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		old := m.readToken()
		time.Sleep(51 * time.Minute)
		release := m.sandbox.Hold()
		for range 10 {
			require.Equal(t, old, m.readToken())
			synctest.Wait()
		}
		release()
		synctest.Wait()
		assert.NotEqual(t, old, m.readToken())
		assert.Equal(t, 2, m.requests())
	})
}

func TestPeriodicRefreshesATokenInUseOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.read()
		for range 180 {
			time.Sleep(time.Minute)
			m.tick()
			synctest.Wait()
		}
		assert.Equal(t, 2, m.requests(), "the second token was never read and lapsed")
	})
}

func TestReplaceToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		dead := m.readToken()
		time.Sleep(10 * time.Minute)
		m.sandbox.RevokeToken(dead)

		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				resp, err := m.handle(t.Context(), logical.UpdateOperation, "token", pairs("rejected_token", dead+"\n"))
				if assert.NoError(t, err) && assert.False(t, resp.IsError()) {
					assert.True(t, m.sandbox.TokenAlive(resp.Data["access_token"].(string)))
				}
			})
		}
		wg.Wait()
		assert.Equal(t, 2, m.requests(), "one replacement for all")

		current := m.readToken()
		time.Sleep(time.Second)
		resp := m.do(logical.UpdateOperation, "token", pairs("rejected_token", current))
		assert.Equal(t, current, resp.Data["access_token"], "a token of a second is kept")
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "30s after its issue")

		time.Sleep(time.Minute)
		resp = m.do(logical.UpdateOperation, "token", pairs("rejected_token", "sk-of-long-ago"))
		assert.Equal(t, current, resp.Data["access_token"], "somebody had it replaced")
		resp = m.do(logical.UpdateOperation, "token", nil)
		assert.NotEqual(t, current, resp.Data["access_token"], "without a token, whichever is held")
		assert.Equal(t, 3, m.requests())
	})
}

// A report that can't be acted on takes the token from no one.
func TestReplaceDuringAnOutageKeepsTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		held := m.readToken()
		time.Sleep(time.Minute)
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusServiceUnavailable})
		status, _ := m.refused(logical.UpdateOperation, "token", pairs("rejected_token", held))
		assert.Equal(t, http.StatusBadGateway, status)
		resp := m.read()
		assert.Equal(t, held, resp.Data["access_token"])
		assert.LessOrEqual(t, resp.Data["ttl"], int64(60), "there may be another in a moment")
		assert.EqualValues(t, 0, m.metric("fuuffy_min_ttl_requests_total"), "nobody needed a longer life")
	})
}

func TestReplaceRefusesUnknownFields(t *testing.T) {
	m := newConfiguredMount(t)
	status, text := m.refused(logical.UpdateOperation, "token", pairs("rejected-token", "sk-1"))
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Contains(t, text, "unknown field rejected-token")
	assert.Contains(t, text, "rejected_token")
}

func TestDeleteToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		first := m.readToken()
		m.do(logical.DeleteOperation, "token", nil)
		m.restart()
		assert.NotEqual(t, first, m.readToken())
		assert.Equal(t, 2, m.requests())
	})
}

// What is being fetched when the cache is cleared is not served or stored later.
func TestDeleteDuringARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		release := m.sandbox.Hold()
		waiting := make(chan string, 1)
		go func() { waiting <- m.readToken() }()
		synctest.Wait()
		m.do(logical.DeleteOperation, "token", nil)
		release()
		served := <-waiting
		assert.Equal(t, served, m.readToken())
		assert.Equal(t, 2, m.requests(), "the reader asked again after the delete")
	})
}

func TestTokenSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		first := m.read()
		time.Sleep(20 * time.Minute)
		m.restart()
		before := m.storage.count()
		again := m.read()
		assert.Equal(t, before, m.storage.count(), "the first read after a start is warm")
		again.Data["ttl"] = first.Data["ttl"]
		assert.Equal(t, first.Data, again.Data)
		assert.Equal(t, 1, m.requests())
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
		"of a newer version":     {stored: pairs("format", 2, "access_token", "sk-1")},
		"without a token":        {stored: pairs("format", 1)},
		"with a damaged token":   {stored: pairs("format", 1, "access_token", "sk 1")},
		"of unknown credentials": {stored: pairs("format", 1, "access_token", "sk-1", "issued_at", time.Unix(946684800, 0), "expires_at", time.Unix(946688400, 0), "credentials_id", "other")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				first := m.readToken()
				if tt.stored != nil {
					entry, err := logical.StorageEntryJSON(tokenKey, tt.stored)
					require.NoError(t, err)
					require.NoError(t, m.storage.Put(t.Context(), entry))
				}
				time.Sleep(tt.wait)
				m.restart()
				second := m.readToken()
				assert.NotEqual(t, first, second)
				assert.True(t, m.sandbox.TokenAlive(second))
				assert.Equal(t, 2, m.requests())
			})
		})
	}
}

// A stored token in its refresh window is served after a restart, and replaced.
func TestStoredTokenInItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		first := m.readToken()
		time.Sleep(52 * time.Minute)
		m.restart()
		assert.Equal(t, first, m.readToken(), "nobody waits")
		synctest.Wait()
		assert.NotEqual(t, first, m.readToken())
		assert.Equal(t, 2, m.requests())
	})
}

// A stored token from the future means that a clock is wrong: it can't be judged.
func TestStoredTokenFromTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		first := m.readToken()
		m.b.Cleanup(t.Context())
		m.start()
		m.b.InvalidateKey(t.Context(), tokenKey)
		m.skewWallClock(func() time.Duration { return -10 * time.Minute })
		assert.NotEqual(t, first, m.readToken())
		assert.Equal(t, 2, m.requests())
	})
}

func TestFailedSaveIsServedFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.storage.failing(failAll("put", tokenKey))
		token := m.readToken()
		assert.Equal(t, token, m.readToken())
		assert.Equal(t, 1, m.requests())
		synctest.Wait()
		assert.Equal(t, 1, m.log.count("could not save the access token"))
	})
}

func TestUnreadableStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.storage.failing(failAll("get", tokenKey))
		assert.True(t, m.sandbox.TokenAlive(m.readToken()), "a token that can't be read is asked for")

		m.storage.failing(failAll("get", configKey))
		m.restart()
		status, text := m.refused(logical.ReadOperation, "token", nil)
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Contains(t, text, "read config: storage is broken")

		m.storage.failing(nil)
		m.read()
	})
}

// A performance standby serves what it has and leaves the asking to the active node.
func TestPerformanceStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.setReplicationState(consts.ReplicationPerformanceStandby)
		forwarded := func(operation logical.Operation) {
			t.Helper()
			_, err := m.handle(t.Context(), operation, "token", nil)
			require.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)
		}
		forwarded(logical.ReadOperation)
		forwarded(logical.UpdateOperation)
		forwarded(logical.DeleteOperation)
		require.Zero(t, m.requests())

		m.setReplicationState(0) // The active node gets one, and the standby is told.
		token := m.readToken()
		m.b.InvalidateKey(t.Context(), tokenKey)
		m.setReplicationState(consts.ReplicationPerformanceStandby)
		assert.Equal(t, token, m.readToken(), "from storage")
		time.Sleep(51 * time.Minute)
		forwarded(logical.ReadOperation)
		assert.Equal(t, 1, m.requests())
		m.tick()
		synctest.Wait()
		assert.Equal(t, 1, m.requests(), "no background work on a standby")
	})
}
