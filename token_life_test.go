// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

var (
	faultRejected    = fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusUnauthorized}
	faultUnavailable = fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusServiceUnavailable}
	faultMalformed   = fuuffytest.Fault{Kind: fuuffytest.FaultGarbage}
	faultHang        = fuuffytest.Fault{Kind: fuuffytest.FaultHang}
	slowAnswer       = fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 2 * time.Second}
	faultRateLimited = fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusTooManyRequests, Header: map[string]string{"Retry-After": "600"}}
)

// untilAsked reads once a second until another request reaches Fuuffy, and
// returns how long that took.
func (m *mount) untilAsked(limit time.Duration) time.Duration {
	m.t.Helper()
	before, began := m.requests(), time.Now()
	for m.requests() == before && time.Since(began) < limit {
		_, _ = m.handle(m.t.Context(), logical.ReadOperation, "token", nil)
		time.Sleep(time.Second)
	}
	require.Greater(m.t, m.requests(), before, "nobody asked Fuuffy for %s", limit)
	return time.Since(began)
}

// Ten thousand readers of a failing mount cost one request for as long as the
// hold-off lasts, which grows.
func TestHoldOff(t *testing.T) {
	for name, tt := range map[string]struct {
		fault         fuuffytest.Fault
		attempts      int
		status, later int
		least, most   time.Duration // of the first hold-off
		grown         time.Duration // what it has reached after ten failures, at least
	}{
		"rejected":     {faultRejected, 1, 400, 400, 30 * time.Second, 31 * time.Second, 225 * time.Second},
		"unavailable":  {faultUnavailable, 3, 502, 503, time.Second, 2 * time.Second, 45 * time.Second},
		"malformed":    {faultMalformed, 1, 502, 503, time.Second, 2 * time.Second, 45 * time.Second},
		"rate limited": {faultRateLimited, 1, 429, 429, 600 * time.Second, 602 * time.Second, 600 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.SetFault(tt.fault)
				status, text := m.refused(logical.ReadOperation, "token", nil)
				assert.Equal(t, tt.status, status, text)
				require.Equal(t, tt.attempts, m.requests())

				for range 10_000 {
					status, text = m.refused(logical.ReadOperation, "token", nil)
					require.Equal(t, tt.later, status, text)
				}
				assert.Contains(t, text, "retries after 20")
				require.Equal(t, tt.attempts, m.requests(), "requests during the hold-off")
				assert.Equal(t, 1, m.log.count("Fuuffy issues no token"), "logged once per change of state")

				first := m.untilAsked(time.Hour)
				assert.GreaterOrEqual(t, first, tt.least)
				assert.LessOrEqual(t, first, tt.most+10*time.Second, "with the attempts of a flight")
				for range 9 {
					m.untilAsked(time.Hour)
				}
				assert.GreaterOrEqual(t, m.untilAsked(time.Hour), tt.grown)
				assert.Equal(t, 1, m.log.count("Fuuffy issues no token"))

				m.sandbox.ClearFault()
				m.untilAsked(time.Hour)
				m.read()
				assert.Equal(t, 1, m.log.count("Fuuffy issues tokens again"))
			})
		})
	}
}

func TestOperatorsActionEndsTheHoldOff(t *testing.T) {
	for name, act := range map[string]func(*mount){
		"config write": func(m *mount) { m.do(logical.UpdateOperation, "config", pairs("stale_if_error", true)) },
		"token delete": func(m *mount) { m.do(logical.DeleteOperation, "token", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.SetFault(faultRejected)
				m.refused(logical.ReadOperation, "token", nil)
				m.sandbox.ClearFault()
				m.refused(logical.ReadOperation, "token", nil)
				act(m)
				m.read()
			})
		})
	}
}

// What a reader gets when Fuuffy is down, by the state of the token.
func TestOutageByTokenState(t *testing.T) {
	for name, tt := range map[string]struct {
		age           time.Duration
		stale         bool
		fault         fuuffytest.Fault
		served        bool
		warning       string
		requestsAbove int
	}{
		"fresh":                       {age: 10 * time.Minute, fault: faultUnavailable, served: true},
		"window":                      {age: 52 * time.Minute, fault: faultUnavailable, served: true, warning: "Token refresh is failing"},
		"window, rejected":            {age: 52 * time.Minute, fault: faultRejected, served: true, warning: "Token refresh is failing"},
		"buffer":                      {age: 56 * time.Minute, fault: faultUnavailable},
		"buffer, stale served":        {age: 56 * time.Minute, fault: faultUnavailable, stale: true, served: true, warning: "stale_if_error"},
		"buffer, stale, rate limited": {age: 56 * time.Minute, fault: faultRateLimited, stale: true, served: true, warning: "stale_if_error"},
		"buffer, stale, rejected":     {age: 56 * time.Minute, fault: faultRejected, stale: true},
		"expired":                     {age: 61 * time.Minute, fault: faultUnavailable},
		"expired, stale":              {age: 61 * time.Minute, fault: faultUnavailable, stale: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t, "stale_if_error", tt.stale)
				token := m.readToken()
				m.sandbox.SetFault(tt.fault)
				time.Sleep(tt.age)
				if !tt.served {
					m.refused(logical.ReadOperation, "token", nil)
					assert.Greater(t, m.requests(), 1, "it was tried")
					return
				}
				m.read() // Starts the refresh, if one is due.
				time.Sleep(4 * time.Second)
				resp := m.read()
				assert.Equal(t, token, resp.Data["access_token"])
				if tt.warning == "" {
					assert.Empty(t, resp.Warnings)
					assert.Equal(t, 1, m.requests())
					return
				}
				require.Len(t, resp.Warnings, 1)
				assert.Contains(t, resp.Warnings[0], tt.warning)
				assert.NotContains(t, resp.Warnings[0], token)
				assert.GreaterOrEqual(t, resp.Data["ttl"].(int64), int64(15), "readers are kept from hammering")
				assert.Greater(t, m.requests(), 1, "it was tried")
			})
		})
	}
}

// Expired if either clock says so.
func TestClocks(t *testing.T) {
	for name, tt := range map[string]struct {
		sleep time.Duration // on both clocks
		skew  time.Duration // on the wall clock only
		fresh bool
	}{
		"wall clock an hour back":                  {sleep: 10 * time.Minute, skew: -time.Hour, fresh: true},
		"wall clock back does not prolong":         {sleep: 57 * time.Minute, skew: -time.Hour},
		"wall clock forward":                       {sleep: 10 * time.Minute, skew: time.Hour},
		"suspended, with the monotonic clock":      {sleep: time.Minute, skew: 58 * time.Minute},
		"suspended for less than the token's life": {sleep: time.Minute, skew: 30 * time.Minute, fresh: true},
	} {
		for change, makeChange := range map[string]func(*mount){
			"":                          func(*mount) {},
			", a setting changed":       func(m *mount) { m.write("config", "stale_if_error", true) },
			", another node changed it": func(m *mount) { m.b.InvalidateKey(t.Context(), configKey) },
		} {
			t.Run(name+change, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					var skew time.Duration
					m.skewWallClock(func() time.Duration { return skew })
					token := m.readToken()
					time.Sleep(tt.sleep)
					skew = tt.skew
					makeChange(m)
					assert.Equal(t, tt.fresh, token == m.readToken())
				})
			})
		}
	}
}

// The wall clock is set back during a request that takes its time. The token is as old as the
// request, all the same.
func TestWallClockSetBackDuringTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		setBack := time.Now().Add(time.Second)
		m.skewWallClock(func() time.Duration {
			if time.Now().Before(setBack) {
				return 0
			}
			return -time.Hour
		})
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 9 * time.Second, Times: 1})
		token := m.readToken()
		time.Sleep(55*time.Minute - 9*time.Second)
		assert.False(t, m.readToken() == token)
	})
}

// A slow answer does not make the token younger.
func TestLifeCountsFromBeforeTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 9 * time.Second, Times: 1})
		asked := time.Now()
		resp := m.read()
		assert.Equal(t, 9*time.Second, time.Since(asked))
		assert.Equal(t, asked.UTC().Format(time.RFC3339), resp.Data["last_vault_rotation"])
	})
}

// A life shorter than the buffer halves it, rather than never serving anything. However
// many readers follow ttl, Fuuffy is asked once for each token that is used up: the
// bound counts tokens, not reads, of which there are many more.
func TestShortLivedTokens(t *testing.T) {
	for _, life := range []time.Duration{20 * time.Second, 30 * time.Second, 4 * time.Minute, 10 * time.Minute} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.SetTokenLifetime(life)
				buffer := min(5*time.Minute, life/2)
				servedUntil := life - buffer
				opens := servedUntil - min(5*time.Minute, servedUntil/4)*11/10 // at the earliest
				const readers = 20
				var reads atomic.Int64
				began := time.Now()
				end := began.Add(100 * life)
				var following sync.WaitGroup
				for range readers {
					following.Go(func() {
						for time.Now().Before(end) {
							asked := time.Now()
							resp := m.read()
							reads.Add(1)
							assert.Less(t, time.Since(asked), time.Second, "Fuuffy answers at once here")
							assert.True(t, m.sandbox.TokenAlive(resp.Data["access_token"].(string)))
							expires, err := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
							assert.NoError(t, err)
							left := time.Until(expires.Add(time.Second)) // expires_at is cut to whole seconds.
							assert.GreaterOrEqual(t, left, buffer, "life left of what is served")
							ttl := time.Duration(resp.Data["ttl"].(int64)) * time.Second
							// Who comes back as told finds another token, or this one not in its buffer
							// for longer than the rounding of ttl.
							assert.GreaterOrEqual(t, left-ttl, buffer-time.Second, "life left when the reader returns")
							time.Sleep(ttl + time.Second)
						}
					})
				}
				following.Wait()
				most := int(time.Since(began)/opens) + 1
				assert.LessOrEqual(t, m.requests(), most, "one request for each token that is used up")
				assert.GreaterOrEqual(t, m.requests(), int(100*life/servedUntil)-1, "and not fewer than that takes")
				assert.Greater(t, reads.Load(), int64(5*m.requests()), "so that the bound is not one of the reads")
			})
		})
	}
}

// A token that is due for refresh when it arrives still answers a report.
func TestReportedTokenIsReplacedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.SetTokenLifetime(20 * time.Second)
		reported := m.readToken()
		time.Sleep(5 * time.Second)
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 8 * time.Second})
		resp := m.do(logical.UpdateOperation, "token", pairs("rejected_token", reported))
		assert.False(t, resp.Data["access_token"] == reported)
		assert.Equal(t, 2, m.requests())
	})
}

// A token of which nothing is left on arrival is an error, not a loop.
func TestTokenThatArrivesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.SetTokenLifetime(12 * time.Second)
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 7 * time.Second})
		status, text := m.refused(logical.ReadOperation, "token", nil)
		assert.Equal(t, http.StatusBadGateway, status)
		assert.Contains(t, text, "arrived too late to be usable")
		m.refusedToken()
		assert.Equal(t, 1, m.requests(), "it is a failure, which a hold-off follows")
		assert.Equal(t, "none", m.status()["token_state"])
	})
}

// Nor is a token served that left its window, or expired, while it was being saved.
func TestTokenThatIsSavedTooLate(t *testing.T) {
	for name, saving := range map[string]time.Duration{"in its buffer": 5 * time.Second, "expired": 11 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.SetTokenLifetime(12 * time.Second)
				m.sandbox.SetFault(slowAnswer)
				m.useFaultyStorage().set("put", tokenKey, slowly(saving))
				status, text := m.refusedToken()
				assert.Equal(t, http.StatusBadGateway, status)
				assert.Contains(t, text, "arrived too late to be usable")
			})
		})
	}
}

// A refresh that brings a token of less life does not replace the better one, nor
// is it repeated with every read.
func TestWorseTokenIsNotPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		time.Sleep(51 * time.Minute)
		m.sandbox.SetTokenLifetime(2 * time.Minute)
		for range 20 {
			require.Equal(t, token, m.readToken())
			synctest.Wait()
		}
		assert.Equal(t, 2, m.requests())
	})
}

func TestPanicInARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.transport = func(string) (http.RoundTripper, error) {
			return roundTripFunc(func(*http.Request) (*http.Response, error) { panic("bug near " + testSecret) }), nil
		}
		m.b.InvalidateKey(t.Context(), configKey)
		status, text := m.refused(logical.ReadOperation, "token", nil)
		assert.Equal(t, http.StatusBadGateway, status)
		assert.Contains(t, text, "could not process")
		synctest.Wait()
		assert.Equal(t, 1, m.log.count("panic in a token request"))
		assert.NotContains(t, m.log.String(), testSecret)

		m.useSandbox()
		m.b.InvalidateKey(t.Context(), configKey)
		time.Sleep(2 * time.Second)
		m.read()
	})
}

// What was asked for with the old credentials is not served after a change.
func TestConfigWriteDuringARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.CreateClient("shop-2", "other-secret")
		release := m.sandbox.Hold()
		waiting := make(chan string, 1)
		go func() { waiting <- m.readToken() }()
		synctest.Wait()
		require.Equal(t, 1, m.requests())

		m.do(logical.UpdateOperation, "config", pairs("client_id", "shop-2", "client_secret", "other-secret", "verify_connection", false))
		m.sandbox.RevokeClient(testClientID)
		release()
		served := <-waiting
		assert.True(t, m.sandbox.TokenAlive(served), "the reader got one of the new credentials")
		m.restart()
		assert.Equal(t, served, m.readToken(), "and that is what was stored")
		assert.Equal(t, 2, m.requests())
	})
}

// Many changes and many readers. Each change revokes the client before it, which kills
// that client's tokens. So a read between two changes must yield a token that lives: one of
// the current credentials.
func TestConfigWritesAmongReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure("verify_connection", false)
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 2 * time.Millisecond})
		// changes is odd while a change is under way.
		var changes, judged, dead atomic.Int64
		var idle atomic.Bool
		ctx, stop := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		for range 50 {
			readers.Go(func() {
				for ctx.Err() == nil {
					before := changes.Load()
					resp, err := m.handle(t.Context(), logical.ReadOperation, "token", nil)
					if !assert.NoError(t, err) || !assert.False(t, resp.IsError(), "%v", resp.Error()) {
						return
					}
					alive := m.sandbox.TokenAlive(resp.Data["access_token"].(string))
					if before%2 == 0 && changes.Load() == before {
						judged.Add(1)
						if !alive {
							dead.Add(1)
						}
					}
					time.Sleep(time.Millisecond)
					for idle.Load() && ctx.Err() == nil {
						time.Sleep(100 * time.Millisecond)
					}
				}
			})
		}
		former := testClientID
		for i := range 50 {
			id := "shop-" + strconv.Itoa(i)
			m.sandbox.CreateClient(id, "other-secret")
			changes.Add(1)
			m.do(logical.UpdateOperation, "config", pairs("client_id", id, "client_secret", "other-secret", "verify_connection", i%2 == 0))
			m.sandbox.RevokeClient(former)
			changes.Add(1)
			former = id
			time.Sleep(10 * time.Millisecond)
			idle.Store(true)
			time.Sleep(15 * time.Second) // The engine limits its requests.
			idle.Store(false)
			time.Sleep(200 * time.Millisecond)
			require.Equal(t, id, m.readConfig()["client_id"])
		}
		stop()
		readers.Wait()
		assert.Zero(t, dead.Load(), "reads of a token of former credentials")
		assert.Greater(t, judged.Load(), int64(10_000))
		assert.LessOrEqual(t, m.requests(), 2*50+1, "token requests: one for each change, and one more for those it overtook")
	})
}
