// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// servedUntil is when the engine stops serving the token of an answer: apps may hold it
// until then.
func servedUntil(t *testing.T, resp *logical.Response) time.Time {
	t.Helper()
	issued, err := time.Parse(time.RFC3339, resp.Data["last_vault_rotation"].(string))
	require.NoError(t, err)
	return issued.Add(time.Duration(resp.Data["rotation_period"].(int64)) * time.Second)
}

// Apps hold tokens of the old client for as long as they were served, those of the
// fallback too. Until then nothing says that the old client can be revoked.
func TestRevokeOldAfterCountsFallbackTokens(t *testing.T) {
	for name, tt := range map[string]struct {
		mend    func(*mounttest.Mount) // gets a token of the new client after it works again
		restart bool
	}{
		"replaced in its window": {mend: func(m *mounttest.Mount) {
			time.Sleep(51 * time.Minute)
			m.Read()
		}},
		"replaced after a delete": {mend: func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "token", nil) }},
		"replaced after a report": {mend: func(m *mounttest.Mount) {
			time.Sleep(time.Minute)
			m.Do(logical.UpdateOperation, "token", nil)
		}},
		"restarted in between": {restart: true, mend: func(m *mounttest.Mount) {
			time.Sleep(51 * time.Minute)
			m.Read()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Read()
				m.RotateTo(rotation.Promoted)
				time.Sleep(54 * time.Minute)
				m.Sandbox.RevokeClient(mounttest.NewClientID)
				m.Do(logical.DeleteOperation, "token", nil)
				fallback := m.Read()
				rotation := m.Rotation()
				require.Equal(t, true, rotation["fallback_active"])
				assert.Nil(t, rotation["revoke_old_after"], "the old client is needed")
				if tt.restart {
					m.Restart()
					rotation = m.Rotation()
					assert.Equal(t, true, rotation["fallback_active"])
					assert.Nil(t, rotation["revoke_old_after"], "the old client is needed after a restart too")
				}

				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				tt.mend(m)
				synctest.Wait()
				require.False(t, m.Read().Data["access_token"] == fallback.Data["access_token"], "there is a token of the new client")
				if tt.restart {
					m.Restart()
				}
				rotation = m.Rotation()
				require.Equal(t, false, rotation["fallback_active"])
				require.NotNil(t, rotation["revoke_old_after"])
				after, err := time.Parse(time.RFC3339, rotation["revoke_old_after"].(string))
				require.NoError(t, err)
				last := servedUntil(t, fallback)
				assert.False(t, after.Before(last), "apps hold a token of the old client until %s, but it is to be revoked after %s", last.UTC(), after)
				if time.Now().Before(last) {
					assert.Contains(t, rotation["next_step"], "Wait until "+rotation["revoke_old_after"].(string))
					assert.NotContains(t, rotation["next_step"], "Now: revoke")
					assert.NotContains(t, rotation["next_step"], "rotate-root/complete")
				}
			})
		})
	}
}

// The wall clock was set back between the old token and the promotion. That does not
// make the old token one of a fallback, nor keep apps from a token of the new client.
func TestPromoteAfterTheWallClockWasSetBack(t *testing.T) {
	for name, back := range map[string]time.Duration{"an hour": time.Hour, "ten minutes": 10 * time.Minute, "a second": time.Second, "not at all": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				var skew time.Duration
				m.SkewWallClock(func() time.Duration { return skew })
				m.Read()
				m.RotateTo(rotation.Staged)
				time.Sleep(500 * time.Millisecond)
				skew = -back
				resp := m.Do(logical.UpdateOperation, "rotate-root/promote", nil)

				m.Sandbox.RevokeClient(mounttest.ClientID) // Kills its tokens.
				assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()), "the next read yields a token of the new client")
				for range 2 {
					assert.Equal(t, false, resp.Data["fallback_active"])
					assert.NotContains(t, resp.Data["next_step"], "Fuuffy rejects", "advice to roll back")
					assert.Contains(t, resp.Data["next_step"], "Wait until")
					assert.Empty(t, resp.Warnings)
					assert.Equal(t, false, m.Do(logical.ReadOperation, "status", nil).Data["fallback_active"])
					resp = m.Do(logical.ReadOperation, "rotate-root", nil)
				}
			})
		})
	}
}

// While the new client is rejected and the old one told to wait an hour, the engine
// waits an hour, and says so once.
func TestFallbackThatIsRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, g := newMountBehindGateway(t)
		m.Configure()
		m.RotateTo(rotation.Promoted)
		time.Sleep(time.Minute)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		g.answer(mounttest.ClientID, mounttest.GatewayAnswer{
			Status: http.StatusTooManyRequests, ContentType: mounttest.JSONType, RetryAfter: "3600",
			Body: `{"error": {"code": "rate_limit_exceeded", "message": "Too many requests"}}`,
		})
		m.Do(logical.DeleteOperation, "token", nil)
		m.Log.Reset()
		refusedToken(m)
		requests := g.count()
		began := time.Now()
		for range 59 {
			m.Tick()
			for range 6 {
				refusedToken(m)
				time.Sleep(10 * time.Second)
			}
		}
		assert.Zero(t, g.count()-requests, "token requests within %s, after the old client was told to wait an hour", time.Since(began))
		assert.LessOrEqual(t, m.Log.Count("[WARN]")+m.Log.Count("[ERROR]"), 3, "a warning for each change of state")

		time.Sleep(3 * time.Minute)
		g.pass(mounttest.ClientID)
		assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()), "after the hour the fallback is tried again")
		assert.Equal(t, true, m.Rotation()["fallback_active"])
	})
}

// A 503 of the old client holds Fuuffy off for as long as any 503: a minute at most.
func TestFallbackThatIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, g := newMountBehindGateway(t)
		m.Configure()
		m.RotateTo(rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		g.answer(mounttest.ClientID, mounttest.GatewayAnswer{Status: http.StatusServiceUnavailable, RetryAfter: "3600"})
		m.Do(logical.DeleteOperation, "token", nil)
		refusedToken(m)
		g.pass(mounttest.ClientID)
		time.Sleep(time.Minute)
		assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
	})
}

// While Fuuffy only tells the previous client to wait, no one is told to give it up.
func TestFallbackThatPausesIsNotGivenUp(t *testing.T) {
	for name, answer := range map[string]mounttest.GatewayAnswer{
		"rate limited": {Status: http.StatusTooManyRequests, RetryAfter: "60"},
		"down":         {Status: http.StatusServiceUnavailable},
		"garbage":      {Status: http.StatusOK, ContentType: mounttest.HTMLType, Body: "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, g := newMountBehindGateway(t)
				m.Configure()
				m.RotateTo(rotation.Promoted)
				m.Sandbox.RevokeClient(mounttest.NewClientID)
				g.answer(mounttest.ClientID, answer)
				m.Do(logical.DeleteOperation, "token", nil)
				_, text := refusedToken(m)
				assert.Contains(t, text, "Don't revoke client "+mounttest.ClientID)
				g.pass(mounttest.ClientID)
				time.Sleep(2 * time.Minute)
				m.Write("rotate-root/rollback")
			})
		})
	}
}

// A check ends the memory of an outage in which the new client was revoked: apps get a
// token of the previous one, and the next step is to put it back.
func TestCheckFindsTheFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusServiceUnavailable})
		m.Do(logical.DeleteOperation, "token", nil)
		m.Refused(logical.ReadOperation, "token", nil)
		m.Sandbox.ClearFault()
		m.Sandbox.RevokeClient(mounttest.NewClientID)

		assert.Contains(t, m.Write("rotate-root/check").Data["next_step"], "rotate-root/rollback")
		status := m.Status()
		assert.Equal(t, "ok", status["upstream_state"])
		assert.Equal(t, true, status["fallback_active"])
		requests := m.Requests()
		assert.Equal(t, mounttest.ClientID, m.ServedClientID())
		assert.Equal(t, requests, m.Requests(), "apps get the token that the check brought")
	})
}

// A check that can't reach Fuuffy for the new client doesn't serve a token of the old one.
func TestCheckDuringAnOutageIsNoFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		token := m.ReadToken()
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusServiceUnavailable, ClientID: mounttest.NewClientID})
		data := m.Write("rotate-root/check").Data
		assert.Contains(t, data["current"], "unknown: service_unavailable")
		assert.Equal(t, "works", data["previous"])
		status := m.Status()
		assert.Equal(t, "unavailable", status["upstream_state"])
		assert.Equal(t, false, status["fallback_active"])
		assert.Zero(t, m.Log.Count("falling back"))
		assert.True(t, m.ReadToken() == token)
	})
}

// A fallback is told of when it begins, whether or not the new client had got a token
// before, and not with each token that follows.
func TestFallbackIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Read()
		m.RotateTo(rotation.Promoted)
		m.Read()
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		time.Sleep(time.Minute)
		m.Log.Reset()
		m.Do(logical.UpdateOperation, "token", nil)
		const told = "falling back to the old ones"
		synctest.Wait()
		assert.Equal(t, 1, m.Log.Count(told), "the fallback begins")
		for range 3 {
			time.Sleep(time.Minute)
			m.Do(logical.UpdateOperation, "token", nil)
		}
		assert.Equal(t, 1, m.Log.Count(told), "the fallback goes on")
	})
}

// Where Fuuffy does not say for how long the old client must wait, it is a minute, and not
// the half that follows the rejection of the new one.
func TestFallbackThatIsRateLimitedWithoutADate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, g := newMountBehindGateway(t)
		m.Configure()
		m.RotateTo(rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		g.answer(mounttest.ClientID, mounttest.GatewayAnswer{Status: http.StatusTooManyRequests, ContentType: mounttest.JSONType, Body: `{}`})
		m.Do(logical.DeleteOperation, "token", nil)
		refusedToken(m)
		requests := g.count()
		time.Sleep(55 * time.Second)
		refusedToken(m)
		assert.Equal(t, requests, g.count(), "within a minute")
		time.Sleep(10 * time.Second)
		refusedToken(m)
		assert.Less(t, requests, g.count(), "after it")
	})
}

// A token that a check brings remembers, over a restart, until when apps use a fallback's.
func TestCheckRemembersTheFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		time.Sleep(30 * time.Minute)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.Do(logical.DeleteOperation, "token", nil)
		used := servedUntil(t, m.Read())
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Do(logical.DeleteOperation, "token", nil)
		m.Write("rotate-root/check")
		before := m.Rotation()["revoke_old_after"]
		after, err := time.Parse(time.RFC3339, before.(string))
		require.NoError(t, err)
		assert.False(t, after.Before(used))
		for range 2 { // The second restart finds the token of a check that followed the first.
			m.Restart()
			m.Read()
			assert.Equal(t, before, m.Rotation()["revoke_old_after"])
			m.Do(logical.DeleteOperation, "token", nil)
			time.Sleep(mounttest.CheckInterval)
			m.Write("rotate-root/check")
		}
	})
}

// Until when apps use a fallback's token is known after a restart, although that token was deleted
// or could not be saved, and no one has read another.
func TestFallbackIsRememberedWithoutItsToken(t *testing.T) {
	for name, lose := range map[string]func(*mounttest.Mount, *mounttest.FaultyStorage){
		"deleted, and a restart": func(m *mounttest.Mount, _ *mounttest.FaultyStorage) {
			m.Do(logical.DeleteOperation, "token", nil)
			m.Restart()
		},
		"deleted, its successor not saved, and a restart": func(m *mounttest.Mount, s *mounttest.FaultyStorage) {
			m.Do(logical.DeleteOperation, "token", nil)
			s.Set("put", mounttest.TokenKey, mounttest.Fails)
			m.Read()
			s.Mend()
			m.Restart()
		},
		"reported, its successor not saved, and a restart": func(m *mounttest.Mount, s *mounttest.FaultyStorage) {
			time.Sleep(time.Minute)
			s.Set("put", mounttest.TokenKey, mounttest.Fails)
			m.Write("token")
			s.Mend()
			m.Restart()
		},
		"control: deleted": func(m *mounttest.Mount, _ *mounttest.FaultyStorage) { m.Do(logical.DeleteOperation, "token", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, storage, used := newMountAfterAFallback(t)
				lose(m, storage)
				time.Sleep(mounttest.CheckInterval)
				m.Write("rotate-root/check")
				m.Read()
				assertRevokeOldAfter(m, used, time.Now().Add(55*time.Minute))
				assert.NotContains(t, m.Rotation()["next_step"], "Now: revoke")
			})
		})
	}
}

// newMountAfterAFallback returns a mount whose apps hold a fallback's token until the given time,
// and whose new client works again.
func newMountAfterAFallback(t *testing.T) (m *mounttest.Mount, storage *mounttest.FaultyStorage, used time.Time) {
	t.Helper()
	m = mounttest.NewRotating(t, rotation.Promoted)
	storage = m.UseFaultyStorage()
	time.Sleep(2 * time.Hour)
	m.Sandbox.RevokeClient(mounttest.NewClientID)
	m.Do(logical.DeleteOperation, "token", nil)
	used = servedUntil(t, m.Read())
	require.Equal(t, true, m.Rotation()["fallback_active"])
	m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
	return m, storage, used
}

// Until when apps use a fallback's token isn't known after a restart that finds the entry damaged
// or can't read it. So nobody is told to revoke the previous client now.
func TestFallbackWhoseEntryCannotBeRead(t *testing.T) {
	for name, spoil := range map[string]func(*mounttest.Mount, *mounttest.FaultyStorage){
		"damaged": func(m *mounttest.Mount, _ *mounttest.FaultyStorage) {
			m.Put(mounttest.TokenKey, `{"format": 1, "access_token": "sk-`)
		},
		"reads fail": func(_ *mounttest.Mount, s *mounttest.FaultyStorage) {
			s.Set("get", mounttest.TokenKey, mounttest.Fails)
		},
		"reads hang": func(_ *mounttest.Mount, s *mounttest.FaultyStorage) {
			s.Hang("get", mounttest.TokenKey, mounttest.AllCalls, false)
		},
		"control: lost": func(m *mounttest.Mount, s *mounttest.FaultyStorage) {
			require.NoError(m.T, s.Storage.Delete(m.T.Context(), mounttest.TokenKey))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, storage, used := newMountAfterAFallback(t)
				spoil(m, storage)
				m.Restart()
				m.Read()
				storage.Mend()
				assertRevokeOldAfter(m, used, time.Now().Add(56*time.Minute))
				assert.NotContains(t, m.Rotation()["next_step"], "Now: revoke")
			})
		})
	}
}

// A setting that an operator writes while a fallback begins makes the engine repeat its requests.
// The fallback is told of once, with the token that apps get.
func TestFallbackIsToldOnceAlthoughARequestIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.LoseToken()
		m.Events.Take()
		m.UseFaultyStorage().Set("put", mounttest.ConfigKey, mounttest.Slowly(2*time.Second))
		written := make(chan struct{})
		go func() {
			m.Write("config", "rotation_reminder", "24h")
			close(written)
		}()
		time.Sleep(500 * time.Millisecond)
		m.Read()
		<-written
		synctest.Wait()
		assert.Equal(t, 1, m.Log.Count("falling back"))
		assert.Equal(t, 1, countEvents(m.Events.Take(), "fuuffy/rotate-root-fallback "))
	})
}

// With stale_if_error, readers get a fallback's token in its buffer too, so apps use it for longer.
func TestRevokeOldAfterCountsStaleTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Write("config", "stale_if_error", true)
		time.Sleep(2 * time.Hour)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.LoseToken()
		fallback := m.ReadToken()
		time.Sleep(57 * time.Minute)
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		stale := m.Read()
		require.True(t, stale.Data["access_token"] == fallback)
		used := time.Now().Add(time.Duration(stale.Data["ttl"].(int64)) * time.Second)

		m.Sandbox.ClearFault()
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		time.Sleep(5 * time.Second)
		require.False(t, m.ReadToken() == fallback)
		assertRevokeOldAfter(m, used, time.Now().Add(55*time.Minute))
	})
}

// A fallback's token couldn't be saved, and the entry of the token before it says nothing of it after
// a restart.
func TestFallbackWhoseTokenIsNotSaved(t *testing.T) {
	for name, lose := range map[string]func(*mounttest.Mount){
		"after a delete": (*mounttest.Mount).LoseToken,
		"after a report": func(m *mounttest.Mount) { time.Sleep(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, rotation.Promoted)
				storage := m.UseFaultyStorage()
				time.Sleep(2 * time.Hour)
				m.Read()
				m.Sandbox.RevokeClient(mounttest.NewClientID)
				lose(m)
				storage.Set("put", mounttest.TokenKey, mounttest.Fails)
				resp := m.Write("token")
				used := servedUntil(t, resp)
				require.Equal(t, true, m.Rotation()["fallback_active"])
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				storage.Mend()
				m.Restart()
				m.Read()
				assertRevokeOldAfter(m, used, time.Now().Add(56*time.Minute))
			})
		})
	}
}

// The credentials that a fallback uses get the same token again and again, which has less left
// than the cached one. Nobody gets it, so nobody is told of a fallback.
func TestFallbackThatBringsNoBetterToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Sandbox.SetTokenLifetime(8 * time.Minute)
		m.Sandbox.SetRepeat(true)
		m.Write("rotate-root/check")
		m.Sandbox.SetTokenLifetime(12 * time.Minute)
		m.Stage()
		m.Promote()
		m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 401, ClientID: mounttest.NewClientID})
		m.Events.Take()
		told := 0
		for m.Status()["token_state"] == "fresh" || m.Status()["token_state"] == "refreshing" {
			m.Read()
			synctest.Wait()
			for _, event := range m.Events.Take() {
				if strings.HasPrefix(event, "fuuffy/rotate-root-fallback") && m.ServedClientID() == mounttest.NewClientID {
					told++
				}
			}
			time.Sleep(time.Second)
		}
		assert.Zero(t, told, "events of a fallback whose token nobody gets")
		assert.Zero(t, m.Log.Count("falling back"), m.Log)
	})
}
