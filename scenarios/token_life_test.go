// SPDX-License-Identifier: MPL-2.0

package scenarios

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
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// Ten thousand readers of a failing mount cost one request for as long as the
// hold-off lasts, which grows.
func TestHoldOff(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fault         fuuffytest.Fault
		attempts      int
		status, later int
		least, most   time.Duration // of the first hold-off
		grown         time.Duration // what it has reached after ten failures, at least
	}{
		"rejected":     {mounttest.FaultRejected, 1, 400, 400, 30 * time.Second, 31 * time.Second, 225 * time.Second},
		"unavailable":  {mounttest.FaultUnavailable, 3, 502, 503, time.Second, 2 * time.Second, 45 * time.Second},
		"malformed":    {mounttest.FaultMalformed, 1, 502, 503, time.Second, 2 * time.Second, 45 * time.Second},
		"rate limited": {mounttest.FaultRateLimited, 1, 429, 429, 600 * time.Second, 602 * time.Second, 600 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.SetFault(tt.fault)
				status, text := m.Refused(logical.ReadOperation, "token", nil)
				assert.Equal(t, tt.status, status, text)
				require.Equal(t, tt.attempts, m.Requests())

				for range 10_000 {
					status, text = m.Refused(logical.ReadOperation, "token", nil)
					require.Equal(t, tt.later, status, text)
				}
				assert.Contains(t, text, "retries after 20")
				require.Equal(t, tt.attempts, m.Requests(), "requests during the hold-off")
				assert.Equal(t, 1, m.Log.Count("Fuuffy issues no token"), "logged once per change of state")

				first := m.UntilAsked(time.Hour)
				assert.GreaterOrEqual(t, first, tt.least)
				assert.LessOrEqual(t, first, tt.most+10*time.Second, "with the attempts of a flight")
				for range 9 {
					m.UntilAsked(time.Hour)
				}
				assert.GreaterOrEqual(t, m.UntilAsked(time.Hour), tt.grown)
				assert.Equal(t, 1, m.Log.Count("Fuuffy issues no token"))

				m.Sandbox.ClearFault()
				m.UntilAsked(time.Hour)
				m.Read()
				assert.Equal(t, 1, m.Log.Count("Fuuffy issues tokens again"))
			})
		})
	}
}

func TestOperatorsActionEndsTheHoldOff(t *testing.T) {
	for name, act := range map[string]func(*mounttest.Mount){
		"config write": func(m *mounttest.Mount) {
			m.Do(logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true))
		},
		"token delete": func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "token", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.SetFault(mounttest.FaultRejected)
				m.Refused(logical.ReadOperation, "token", nil)
				m.Sandbox.ClearFault()
				m.Refused(logical.ReadOperation, "token", nil)
				act(m)
				m.Read()
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
		"fresh":                       {age: 10 * time.Minute, fault: mounttest.FaultUnavailable, served: true},
		"window":                      {age: 52 * time.Minute, fault: mounttest.FaultUnavailable, served: true, warning: "Token refresh is failing"},
		"window, rejected":            {age: 52 * time.Minute, fault: mounttest.FaultRejected, served: true, warning: "Token refresh is failing"},
		"buffer":                      {age: 56 * time.Minute, fault: mounttest.FaultUnavailable},
		"buffer, stale served":        {age: 56 * time.Minute, fault: mounttest.FaultUnavailable, stale: true, served: true, warning: "stale_if_error"},
		"buffer, stale, rate limited": {age: 56 * time.Minute, fault: mounttest.FaultRateLimited, stale: true, served: true, warning: "stale_if_error"},
		"buffer, stale, rejected":     {age: 56 * time.Minute, fault: mounttest.FaultRejected, stale: true},
		"expired":                     {age: 61 * time.Minute, fault: mounttest.FaultUnavailable},
		"expired, stale":              {age: 61 * time.Minute, fault: mounttest.FaultUnavailable, stale: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t, "stale_if_error", tt.stale)
				token := m.ReadToken()
				m.Sandbox.SetFault(tt.fault)
				time.Sleep(tt.age)
				if !tt.served {
					m.Refused(logical.ReadOperation, "token", nil)
					assert.Greater(t, m.Requests(), 1, "it was tried")
					return
				}
				m.Read() // Starts the refresh, if one is due.
				time.Sleep(4 * time.Second)
				resp := m.Read()
				assert.Equal(t, token, resp.Data["access_token"])
				if tt.warning == "" {
					assert.Empty(t, resp.Warnings)
					assert.Equal(t, 1, m.Requests())
					return
				}
				require.Len(t, resp.Warnings, 1)
				assert.Contains(t, resp.Warnings[0], tt.warning)
				assert.NotContains(t, resp.Warnings[0], token)
				assert.GreaterOrEqual(t, resp.Data["ttl"].(int64), int64(15), "readers are kept from hammering")
				assert.Greater(t, m.Requests(), 1, "it was tried")
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
		for change, makeChange := range map[string]func(*mounttest.Mount){
			"":                          func(*mounttest.Mount) {},
			", a setting changed":       func(m *mounttest.Mount) { m.Write("config", "stale_if_error", true) },
			", another node changed it": func(m *mounttest.Mount) { m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey) },
		} {
			t.Run(name+change, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					var skew time.Duration
					m.SkewWallClock(func() time.Duration { return skew })
					token := m.ReadToken()
					time.Sleep(tt.sleep)
					skew = tt.skew
					makeChange(m)
					assert.Equal(t, tt.fresh, token == m.ReadToken())
				})
			})
		}
	}
}

// The wall clock is set back during a request that takes its time. The token is as old as the
// request, all the same.
func TestWallClockSetBackDuringTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		setBack := time.Now().Add(time.Second)
		m.SkewWallClock(func() time.Duration {
			if time.Now().Before(setBack) {
				return 0
			}
			return -time.Hour
		})
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 9 * time.Second, Times: 1})
		token := m.ReadToken()
		time.Sleep(55*time.Minute - 9*time.Second)
		assert.False(t, m.ReadToken() == token)
	})
}

// A slow answer does not make the token younger.
func TestLifeCountsFromBeforeTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 9 * time.Second, Times: 1})
		asked := time.Now()
		resp := m.Read()
		assert.Equal(t, 9*time.Second, time.Since(asked))
		assert.Equal(t, asked.UTC().Format(time.RFC3339), resp.Data["last_vault_rotation"])
	})
}

// A life shorter than the buffer halves it, rather than never serving anything. However
// many readers follow ttl, Fuuffy is asked once for each token that is used up: the
// bound counts tokens, not reads, of which there are many more.
func TestShortLivedTokens(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{20 * time.Second, 30 * time.Second, 4 * time.Minute, 10 * time.Minute} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.SetTokenLifetime(life)
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
							resp := m.Read()
							reads.Add(1)
							assert.Less(t, time.Since(asked), time.Second, "Fuuffy answers at once here")
							assert.True(t, m.Sandbox.TokenAlive(resp.Data["access_token"].(string)))
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
				assert.LessOrEqual(t, m.Requests(), most, "one request for each token that is used up")
				assert.GreaterOrEqual(t, m.Requests(), int(100*life/servedUntil)-1, "and not fewer than that takes")
				assert.Greater(t, reads.Load(), int64(5*m.Requests()), "so that the bound is not one of the reads")
			})
		})
	}
}

// A token that is due for refresh when it arrives still answers a report.
func TestReportedTokenIsReplacedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetTokenLifetime(20 * time.Second)
		reported := m.ReadToken()
		time.Sleep(5 * time.Second)
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 8 * time.Second})
		resp := m.Do(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", reported))
		assert.False(t, resp.Data["access_token"] == reported)
		assert.Equal(t, 2, m.Requests())
	})
}

// A token of which nothing is left on arrival is an error, not a loop.
func TestTokenThatArrivesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetTokenLifetime(12 * time.Second)
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 7 * time.Second})
		status, text := m.Refused(logical.ReadOperation, "token", nil)
		assert.Equal(t, http.StatusBadGateway, status)
		assert.Contains(t, text, "arrived too late to be usable")
		refusedToken(m)
		assert.Equal(t, 1, m.Requests(), "it is a failure, which a hold-off follows")
		assert.Equal(t, "none", m.Status()["token_state"])
	})
}

// Nor is a token served that left its window, or expired, while it was being saved.
func TestTokenThatIsSavedTooLate(t *testing.T) {
	for name, saving := range map[string]time.Duration{"in its buffer": 5 * time.Second, "expired": 11 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.SetTokenLifetime(12 * time.Second)
				m.Sandbox.SetFault(mounttest.SlowAnswer)
				m.UseFaultyStorage().Set("put", mounttest.TokenKey, mounttest.Slowly(saving))
				status, text := refusedToken(m)
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
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		time.Sleep(51 * time.Minute)
		m.Sandbox.SetTokenLifetime(2 * time.Minute)
		for range 20 {
			require.Equal(t, token, m.ReadToken())
			synctest.Wait()
		}
		assert.Equal(t, 2, m.Requests())
	})
}

func TestPanicInARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Transport = func(string) (http.RoundTripper, error) {
			return mounttest.RoundTripFunc(func(*http.Request) (*http.Response, error) { panic("bug near " + mounttest.Secret) }), nil
		}
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		status, text := m.Refused(logical.ReadOperation, "token", nil)
		assert.Equal(t, http.StatusBadGateway, status)
		assert.Contains(t, text, "could not process")
		synctest.Wait()
		assert.Equal(t, 1, m.Log.Count("panic in a token request"))
		assert.NotContains(t, m.Log.String(), mounttest.Secret)

		m.UseSandbox()
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		time.Sleep(2 * time.Second)
		m.Read()
	})
}

// What was asked for with the old credentials is not served after a change.
func TestConfigWriteDuringARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.CreateClient("shop-2", "other-secret")
		release := m.Sandbox.Hold()
		waiting := make(chan string, 1)
		go func() { waiting <- m.ReadToken() }()
		synctest.Wait()
		require.Equal(t, 1, m.Requests())

		m.Do(logical.UpdateOperation, "config", mounttest.Pairs("client_id", "shop-2", "client_secret", "other-secret", "verify_connection", false))
		m.Sandbox.RevokeClient(mounttest.ClientID)
		release()
		served := <-waiting
		assert.True(t, m.Sandbox.TokenAlive(served), "the reader got one of the new credentials")
		m.Restart()
		assert.Equal(t, served, m.ReadToken(), "and that is what was stored")
		assert.Equal(t, 2, m.Requests())
	})
}

// Many changes and many readers. Each change revokes the client before it, which kills
// that client's tokens. So a read between two changes must yield a token that lives: one of
// the current credentials.
func TestConfigWritesAmongReaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure("verify_connection", false)
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 2 * time.Millisecond})
		// changes is odd while a change is under way.
		var changes, judged, dead atomic.Int64
		var pause atomic.Pointer[chan struct{}]
		ctx, stop := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		for range 50 {
			readers.Go(func() {
				for ctx.Err() == nil {
					before := changes.Load()
					resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
					if !assert.NoError(t, err) || !assert.False(t, resp.IsError(), "%v", resp.Error()) {
						return
					}
					alive := m.Sandbox.TokenAlive(resp.Data["access_token"].(string))
					if before%2 == 0 && changes.Load() == before {
						judged.Add(1)
						if !alive {
							dead.Add(1)
						}
					}
					time.Sleep(time.Millisecond)
					if over := pause.Load(); over != nil {
						<-*over
					}
				}
			})
		}
		former := mounttest.ClientID
		for i := range 50 {
			id := "shop-" + strconv.Itoa(i)
			m.Sandbox.CreateClient(id, "other-secret")
			changes.Add(1)
			m.Do(logical.UpdateOperation, "config", mounttest.Pairs("client_id", id, "client_secret", "other-secret", "verify_connection", i%2 == 0))
			m.Sandbox.RevokeClient(former)
			changes.Add(1)
			former = id
			time.Sleep(10 * time.Millisecond)
			over := make(chan struct{})
			pause.Store(&over)
			time.Sleep(15 * time.Second) // The engine limits its requests.
			pause.Store(nil)
			close(over)
			time.Sleep(10 * time.Millisecond)
			require.Equal(t, id, m.ReadConfig()["client_id"])
		}
		stop()
		readers.Wait()
		assert.Zero(t, dead.Load(), "reads of a token of former credentials")
		assert.Greater(t, judged.Load(), int64(10_000))
		assert.LessOrEqual(t, m.Requests(), 2*50+1, "token requests: one for each change, and one more for those it overtook")
	})
}
