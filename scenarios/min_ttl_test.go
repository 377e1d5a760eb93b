// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"encoding/json"
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

// One reader's longer job replaces the token for everyone, once.
func TestMinTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		held := m.ReadToken()
		assert.True(t, m.ReadFor("20m").Data["access_token"] == held)
		time.Sleep(41 * time.Minute)
		assert.True(t, m.ReadFor("15m").Data["access_token"] == held)
		assert.True(t, m.ReadToken() == held)
		require.Equal(t, 1, m.Requests())

		m.Sandbox.SetFault(mounttest.SlowAnswer)
		var readers sync.WaitGroup
		for i := range 200 {
			readers.Go(func() {
				began := time.Now()
				if i%2 == 0 {
					assert.False(t, m.ReadFor("20m").Data["access_token"] == held)
				} else {
					m.Read()
					assert.Equal(t, began, time.Now(), "others don't wait")
				}
			})
		}
		readers.Wait()
		assert.Equal(t, 2, m.Requests())
		assert.False(t, m.ReadToken() == held, "it is replaced for everybody")
		synctest.Wait()
		assert.EqualValues(t, 1, m.Do(logical.ReadOperation, "status", nil).Data["min_ttl_requests"])
		assert.EqualValues(t, 1, m.Metric("fuuffy_min_ttl_requests_total"))
	})
}

// A read whose demand is met is as cheap as one that demands nothing.
func TestMinTTLOfAWarmRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Read()
		storage := m.Storage.Count()
		for _, minTTL := range []any{"30m", 1800, "1800", nil, 0} {
			_, warm := m.Warm(mounttest.Pairs("min_ttl", minTTL))
			assert.True(t, warm, minTTL)
		}
		m.ReadFor("30m")
		assert.Equal(t, storage, m.Storage.Count(), "storage operations")

		time.Sleep(31 * time.Minute)
		assert.False(t, m.ReadFor("29m").IsError())
		time.Sleep(20 * time.Minute)
		m.ReadFor("8m")
		m.ReadFor("6m")
		synctest.Wait()
		assert.Equal(t, 2, m.Requests(), "the refresh in the window is nobody's demand")
		assert.EqualValues(t, 0, m.Metric("fuuffy_min_ttl_requests_total"))

		time.Sleep(31 * time.Minute)
		_, warm := m.Warm(mounttest.Pairs("min_ttl", "30m"))
		assert.False(t, warm, "less is left")
	})
}

// It allocates no more either.
func TestMinTTLAllocatesNothing(t *testing.T) {
	m := mounttest.NewConfigured(t)
	m.Read()
	allocations := func(data map[string]any) float64 {
		req := &logical.Request{Operation: logical.ReadOperation, Path: "token", Storage: m.Storage, Data: data}
		return testing.AllocsPerRun(100, func() {
			_, err := m.Backend.HandleRequest(t.Context(), req)
			require.NoError(t, err)
		})
	}
	assert.Equal(t, allocations(nil), allocations(mounttest.Pairs("min_ttl", "20m")))
}

// Even whoever asks for more than a whole life, and reads first, learns what is possible.
func TestMinTTLOfAnUnknownLife(t *testing.T) {
	for _, minTTL := range []string{"11m", "25m"} {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewConfigured(t)
			m.Sandbox.SetTokenLifetime(20 * time.Minute)
			_, text := m.Refused(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", minTTL))
			assert.Equal(t, "min_ttl is too long. Ask for at most 10m, half of the life of this mount's tokens.", text, minTTL)
			assert.Equal(t, 1, m.Requests())
		})
	}
}

func TestMinTTLRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.SetTokenLifetime(20 * time.Minute)
		read := func(minTTL any) string {
			_, text := m.Refused(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", minTTL))
			return text
		}
		const most = "min_ttl is too long. Ask for at most 10m, half of the life of this mount's tokens."
		assert.Equal(t, most, read("11m"), "nobody knew their life before")
		assert.Equal(t, 1, m.Requests())
		assert.Equal(t, most, read("601s"))
		assert.Equal(t, most, read("10000h"))
		for _, wrong := range []any{
			"-1s", -1, "-1000000h", "5.5", "1.5d", "soon", " 5m", "5m ", "5M", "5 m", "9223372037", "99999999999999999999", "1e3", true,
			[]string{"5m"}, []any{"5m", "6m"}, map[string]any{"a": 1}, json.Number("0.5"), json.Number("-1"),
		} {
			assert.Equal(t, "min_ttl must be a duration like 5m, or a whole number of seconds", read(wrong), "%v", wrong)
		}
		for _, fraction := range []any{"1500ms", "1.5s", "-0.5s", "1h0.5s", 0.5} {
			assert.Equal(t, "min_ttl must be whole seconds", read(fraction), "%v", fraction)
		}
		assert.Equal(t, 1, m.Requests())
		m.ReadFor("10m")
		assert.Equal(t, 1, m.Requests())
		time.Sleep(time.Second)
		m.ReadFor("10m")

		for _, operation := range []logical.Operation{logical.UpdateOperation, logical.DeleteOperation} {
			for _, minTTL := range []any{"10m", 0} {
				_, text := m.Refused(operation, "token", mounttest.Pairs("min_ttl", minTTL))
				assert.Equal(t, "min_ttl is for reads. Nothing was changed. Leave it out here, then: vault read fuuffy/token min_ttl=<duration>", text)
			}
		}
		resp := m.Do(logical.ReadOperation, "token", mounttest.Pairs("MIN_TTL", "30m"))
		assert.Equal(t, []string{"Endpoint ignored these unrecognized parameters: [MIN_TTL]"}, resp.Warnings)
		assert.Equal(t, 1, m.Requests(), "nothing was replaced")
		_, warm := m.Warm(nil)
		assert.True(t, warm, "nothing was deleted")

		time.Sleep(12 * time.Minute) // In its window.
		m.Sandbox.SetFault(mounttest.FaultMalformed)
		assert.Equal(t, most, read("601s"), "the token tells its life")
		assert.Equal(t, 1, m.Requests())
		m.Sandbox.ClearFault()
		m.ReadFor("10m")
		assert.Equal(t, 2, m.Requests())
	})
}

// What a token has left is enough to the second, in each state of it.
func TestMinTTLToTheSecond(t *testing.T) {
	for name, age := range map[string]time.Duration{"fresh": 40 * time.Minute, "in its window": 52 * time.Minute, "in its buffer": 57 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t, "stale_if_error", true)
				held := m.ReadToken()
				time.Sleep(age)
				m.Sandbox.SetFault(mounttest.FaultMalformed)
				left := time.Hour - age
				m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey) // The read is not a warm one.
				assert.True(t, m.ReadFor(left.String()).Data["access_token"] == held)
				synctest.Wait()
				if name == "fresh" {
					assert.Equal(t, 1, m.Requests())
				}
				m.Refused(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", (left+time.Second).String()))
				assert.True(t, m.ReadFor(left.String()).Data["access_token"] == held)
			})
		})
	}
}

// A token of which less than half is left when it arrives is good for no job of half its life.
// That is not what the reader did wrong.
func TestMinTTLOfATokenThatArrivesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t, "request_timeout", 30, "token_expiry_buffer", 30)
		m.Sandbox.SetTokenLifetime(62 * time.Second)
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 29 * time.Second})
		storage := m.UseFaultyStorage()
		storage.Set("put", mounttest.TokenKey, mounttest.Slowly(4*time.Second))
		status, text := m.Refused(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", 31))
		assert.Equal(t, http.StatusBadGateway, status)
		assert.Contains(t, text, "arrived too late to live for min_ttl")

		storage.Set("put", mounttest.TokenKey, mounttest.Slowly(2*time.Second))
		m.Do(logical.DeleteOperation, "token", nil)
		m.ReadFor("31s")
	})
}

// If Fuuffy gives no other token, only those who need one notice.
func TestMinTTLDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		held := m.ReadToken()
		time.Sleep(45 * time.Minute)
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		for _, want := range []int{http.StatusBadGateway, http.StatusServiceUnavailable} {
			status, text := m.Refused(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", "20m"))
			assert.Equal(t, want, status)
			assert.Contains(t, text, "Fuuffy returned 503")
			resp := m.Read()
			assert.True(t, resp.Data["access_token"] == held)
			assert.Empty(t, resp.Warnings)
			assert.True(t, m.ReadFor("10m").Data["access_token"] == held)
		}
		m.Do(logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true))
		time.Sleep(12 * time.Minute) // Three are left.
		m.ReadFor("2m")
		m.Refused(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", "4m"))

		m.Sandbox.ClearFault()
		time.Sleep(time.Minute)
		m.ReadFor("30m")
	})
}

// However many ask for however much, a token is replaced once in half of its life, or
// as often as without them where its buffer and its window take more than half of it.
// A second is lost each time, because readers are told expires_at in whole seconds.
func TestMinTTLRequestsPerLife(t *testing.T) {
	const lives = 20
	requests := func(life time.Duration, minTTLs ...time.Duration) (n int) {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewConfigured(t)
			m.Sandbox.SetTokenLifetime(life)
			for range lives * 100 {
				for _, minTTL := range minTTLs {
					m.ReadFor(minTTL.String())
				}
				m.Read()
				time.Sleep(life / 100)
			}
			n = m.Requests()
		})
		return n
	}
	for _, life := range []time.Duration{20 * time.Second, 61 * time.Second, 10 * time.Minute, time.Hour, 12 * time.Hour} {
		t.Run(life.String(), func(t *testing.T) {
			half := (life / 2).Truncate(time.Second)
			without := requests(life)
			with := requests(life, half, half-time.Second, (half / 2).Truncate(time.Second), time.Second)
			assert.LessOrEqual(t, with, max(without, int(lives*life/(half-time.Second))+2))
			assert.GreaterOrEqual(t, with, lives*2*9/10)
		})
	}
}

// A token that an app reported, one of the previous credentials and one inside its buffer
// are good for a job if they live for long enough and there is no other. Who needs more
// gets the error, and no one else.
func TestMinTTLOfATokenWithAFault(t *testing.T) {
	down := func(m *mounttest.Mount) { m.Sandbox.SetFault(mounttest.FaultUnavailable) }
	for name, tt := range map[string]struct {
		prepare func(*mounttest.Mount)
		// left is what the token has left then.
		left    time.Duration
		warning string
	}{
		"reported": {func(m *mounttest.Mount) {
			held := m.ReadToken()
			time.Sleep(40 * time.Minute)
			down(m)
			m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", held))
		}, 20 * time.Minute, "An app reported that Fuuffy rejected this token"},
		"of the previous credentials": {func(m *mounttest.Mount) {
			m.Read()
			m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
			m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair())
			m.Do(logical.UpdateOperation, "rotate-root/promote", nil)
			m.Sandbox.RevokeClient(mounttest.NewClientID)
			m.Do(logical.DeleteOperation, "token", nil)
			m.Read()
			time.Sleep(40 * time.Minute)
			down(m)
		}, 20 * time.Minute, "this token belongs to the previous ones"},
		"inside its buffer": {func(m *mounttest.Mount) {
			m.Do(logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true))
			m.Read()
			time.Sleep(56 * time.Minute)
			down(m)
		}, 4 * time.Minute, "stale_if_error"},
		"at the edge of its buffer": {func(m *mounttest.Mount) {
			m.Read()
			time.Sleep(55*time.Minute - 10*time.Second)
			down(m)
			m.Read()
			synctest.Wait()
		}, 5*time.Minute + 10*time.Second, "Token refresh is failing"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				tt.prepare(m)
				for range 2 {
					status, _ := m.Refused(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", int(tt.left/time.Second)+1))
					assert.Contains(t, []int{http.StatusBadGateway, http.StatusServiceUnavailable}, status)
					for _, resp := range []*logical.Response{m.ReadFor((tt.left - 8*time.Second).String()), m.Read()} {
						if assert.NotEmpty(t, resp.Warnings) {
							assert.Contains(t, resp.Warnings[0], tt.warning)
						}
					}
				}
			})
		})
	}
}

// Who follows ttl has a token that is good for the job, give or take a minute.
func TestMinTTLIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		for range 200 {
			resp := m.ReadFor("25m")
			time.Sleep(time.Duration(resp.Data["ttl"].(int64)+1) * time.Second)
			expires, err := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
			require.NoError(t, err)
			left := time.Until(expires)
			require.Greater(t, left, 25*time.Minute-time.Minute-2*time.Second)
			require.LessOrEqual(t, left, 25*time.Minute)
		}
		assert.Equal(t, 200, m.Requests())
	})
}

// A performance standby serves what it has, and forwards just the read that needs more.
func TestMinTTLOnAStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		held := m.ReadToken()
		standby := standby(m)
		assert.True(t, standby.ReadFor("30m").Data["access_token"] == held)
		time.Sleep(40 * time.Minute)
		assert.True(t, standby.ReadToken() == held)
		_, err := standby.Handle(t.Context(), logical.ReadOperation, "token", mounttest.Pairs("min_ttl", "25m"))
		require.True(t, err == logical.ErrReadOnly, "want the bare error, got %v", err)
		assert.True(t, standby.ReadToken() == held, "others are served")
		assert.Equal(t, 1, m.Requests())
		assert.EqualValues(t, 0, standby.Metric("fuuffy_min_ttl_requests_total"), "the active node makes the request")

		next := m.ReadFor("25m").Data["access_token"]
		assert.True(t, standby.ReadFor("25m").Data["access_token"] == next, "the active node's token is in storage")
		assert.Equal(t, 2, m.Requests())
		synctest.Wait()
		assert.EqualValues(t, 1, m.Metric("fuuffy_min_ttl_requests_total"))
	})
}

// standby starts a performance standby of the mount.
func standby(m *mounttest.Mount) *mounttest.Mount {
	m.T.Helper()
	return m.Twin(consts.ReplicationPerformanceStandby)
}
