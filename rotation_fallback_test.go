// SPDX-License-Identifier: MPL-2.0

package fuuffy

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
		mend    func(*mount) // gets a token of the new client after it works again
		restart bool
	}{
		"replaced in its window": {mend: func(m *mount) {
			time.Sleep(51 * time.Minute)
			m.read()
		}},
		"replaced after a delete": {mend: func(m *mount) { m.do(logical.DeleteOperation, "token", nil) }},
		"replaced after a report": {mend: func(m *mount) {
			time.Sleep(time.Minute)
			m.do(logical.UpdateOperation, "token", nil)
		}},
		"restarted in between": {restart: true, mend: func(m *mount) {
			time.Sleep(51 * time.Minute)
			m.read()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.read()
				m.promoteSuccessor()
				time.Sleep(54 * time.Minute)
				m.sandbox.RevokeClient(successorID)
				m.do(logical.DeleteOperation, "token", nil)
				fallback := m.read()
				rotation := m.readRotation()
				require.Equal(t, true, rotation["fallback_active"])
				assert.Nil(t, rotation["revoke_old_after"], "the old client is needed")
				if tt.restart {
					m.restart()
					rotation = m.readRotation()
					assert.Equal(t, true, rotation["fallback_active"])
					assert.Nil(t, rotation["revoke_old_after"], "the old client is needed after a restart too")
				}

				m.sandbox.CreateClient(successorID, successorSecret)
				tt.mend(m)
				synctest.Wait()
				require.False(t, m.read().Data["access_token"] == fallback.Data["access_token"], "there is a token of the new client")
				if tt.restart {
					m.restart()
				}
				rotation = m.readRotation()
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
				m := newConfiguredMount(t)
				var skew time.Duration
				m.skewWallClock(func() time.Duration { return skew })
				m.read()
				m.stageSuccessor()
				time.Sleep(500 * time.Millisecond)
				skew = -back
				resp := m.do(logical.UpdateOperation, "rotate-root/promote", nil)

				m.sandbox.RevokeClient(testClientID) // Kills its tokens.
				assert.True(t, m.sandbox.TokenAlive(m.readToken()), "the next read yields a token of the new client")
				for range 2 {
					assert.Equal(t, false, resp.Data["fallback_active"])
					assert.NotContains(t, resp.Data["next_step"], "Fuuffy rejects", "advice to roll back")
					assert.Contains(t, resp.Data["next_step"], "Wait until")
					assert.Empty(t, resp.Warnings)
					assert.Equal(t, false, m.do(logical.ReadOperation, "status", nil).Data["fallback_active"])
					resp = m.do(logical.ReadOperation, "rotate-root", nil)
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
		m.configure()
		m.promoteSuccessor()
		time.Sleep(time.Minute)
		m.sandbox.RevokeClient(successorID)
		g.answer(testClientID, gatewayAnswer{
			status: http.StatusTooManyRequests, contentType: jsonType, retryAfter: "3600",
			body: `{"error": {"code": "rate_limit_exceeded", "message": "Too many requests"}}`,
		})
		m.do(logical.DeleteOperation, "token", nil)
		m.log.reset()
		m.refusedToken()
		requests := g.count()
		began := time.Now()
		for range 59 {
			m.tick()
			for range 6 {
				m.refusedToken()
				time.Sleep(10 * time.Second)
			}
		}
		assert.Zero(t, g.count()-requests, "token requests within %s, after the old client was told to wait an hour", time.Since(began))
		assert.LessOrEqual(t, m.log.count("[WARN]")+m.log.count("[ERROR]"), 3, "a warning for each change of state")

		time.Sleep(3 * time.Minute)
		g.pass(testClientID)
		assert.True(t, m.sandbox.TokenAlive(m.readToken()), "after the hour the fallback is tried again")
		assert.Equal(t, true, m.readRotation()["fallback_active"])
	})
}

// A 503 of the old client holds Fuuffy off for as long as any 503: a minute at most.
func TestFallbackThatIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, g := newMountBehindGateway(t)
		m.configure()
		m.promoteSuccessor()
		m.sandbox.RevokeClient(successorID)
		g.answer(testClientID, gatewayAnswer{status: http.StatusServiceUnavailable, retryAfter: "3600"})
		m.do(logical.DeleteOperation, "token", nil)
		m.refusedToken()
		g.pass(testClientID)
		time.Sleep(time.Minute)
		assert.True(t, m.sandbox.TokenAlive(m.readToken()))
	})
}

// While Fuuffy only tells the previous client to wait, no one is told to give it up.
func TestFallbackThatPausesIsNotGivenUp(t *testing.T) {
	for name, answer := range map[string]gatewayAnswer{
		"rate limited": {status: http.StatusTooManyRequests, retryAfter: "60"},
		"down":         {status: http.StatusServiceUnavailable},
		"garbage":      {status: http.StatusOK, contentType: htmlType, body: "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, g := newMountBehindGateway(t)
				m.configure()
				m.promoteSuccessor()
				m.sandbox.RevokeClient(successorID)
				g.answer(testClientID, answer)
				m.do(logical.DeleteOperation, "token", nil)
				_, text := m.refusedToken()
				assert.Contains(t, text, "Don't revoke client "+testClientID)
				g.pass(testClientID)
				time.Sleep(2 * time.Minute)
				m.write("rotate-root/rollback")
			})
		})
	}
}

// A check ends the memory of an outage in which the new client was revoked: apps get a
// token of the previous one, and the next step is to put it back.
func TestCheckFindsTheFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusServiceUnavailable})
		m.do(logical.DeleteOperation, "token", nil)
		m.refused(logical.ReadOperation, "token", nil)
		m.sandbox.ClearFault()
		m.sandbox.RevokeClient(newClientID)

		assert.Contains(t, m.write("rotate-root/check").Data["next_step"], "rotate-root/rollback")
		status := m.status()
		assert.Equal(t, "ok", status["upstream_state"])
		assert.Equal(t, true, status["fallback_active"])
		requests := m.requests()
		assert.Equal(t, testClientID, m.servedClientID())
		assert.Equal(t, requests, m.requests(), "apps get the token that the check brought")
	})
}

// A check that can't reach Fuuffy for the new client doesn't serve a token of the old one.
func TestCheckDuringAnOutageIsNoFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		token := m.readToken()
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusServiceUnavailable, ClientID: newClientID})
		data := m.write("rotate-root/check").Data
		assert.Contains(t, data["current"], "unknown: service_unavailable")
		assert.Equal(t, "works", data["previous"])
		status := m.status()
		assert.Equal(t, "unavailable", status["upstream_state"])
		assert.Equal(t, false, status["fallback_active"])
		assert.Zero(t, m.log.count("falling back"))
		assert.True(t, m.readToken() == token)
	})
}

// A fallback is told of when it begins, whether or not the new client had got a token
// before, and not with each token that follows.
func TestFallbackIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.read()
		m.promoteSuccessor()
		m.read()
		m.sandbox.RevokeClient(successorID)
		time.Sleep(time.Minute)
		m.log.reset()
		m.do(logical.UpdateOperation, "token", nil)
		const told = "falling back to the old ones"
		synctest.Wait()
		assert.Equal(t, 1, m.log.count(told), "the fallback begins")
		for range 3 {
			time.Sleep(time.Minute)
			m.do(logical.UpdateOperation, "token", nil)
		}
		assert.Equal(t, 1, m.log.count(told), "the fallback goes on")
	})
}

// Where Fuuffy does not say for how long the old client must wait, it is a minute, and not
// the half that follows the rejection of the new one.
func TestFallbackThatIsRateLimitedWithoutADate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, g := newMountBehindGateway(t)
		m.configure()
		m.promoteSuccessor()
		m.sandbox.RevokeClient(successorID)
		g.answer(testClientID, gatewayAnswer{status: http.StatusTooManyRequests, contentType: jsonType, body: `{}`})
		m.do(logical.DeleteOperation, "token", nil)
		m.refusedToken()
		requests := g.count()
		time.Sleep(55 * time.Second)
		m.refusedToken()
		assert.Equal(t, requests, g.count(), "within a minute")
		time.Sleep(10 * time.Second)
		m.refusedToken()
		assert.Less(t, requests, g.count(), "after it")
	})
}

// A token that a check brings remembers, over a restart, until when apps use a fallback's.
func TestCheckRemembersTheFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		time.Sleep(30 * time.Minute)
		m.sandbox.RevokeClient(newClientID)
		m.do(logical.DeleteOperation, "token", nil)
		used := servedUntil(t, m.read())
		m.sandbox.CreateClient(newClientID, newSecret)
		m.do(logical.DeleteOperation, "token", nil)
		m.write("rotate-root/check")
		before := m.rotation()["revoke_old_after"]
		after, err := time.Parse(time.RFC3339, before.(string))
		require.NoError(t, err)
		assert.False(t, after.Before(used))
		for range 2 { // The second restart finds the token of a check that followed the first.
			m.restart()
			m.read()
			assert.Equal(t, before, m.rotation()["revoke_old_after"])
			m.do(logical.DeleteOperation, "token", nil)
			time.Sleep(checkInterval)
			m.write("rotate-root/check")
		}
	})
}

// Until when apps use a fallback's token is known after a restart, although that token was deleted
// or could not be saved, and no one has read another.
func TestFallbackIsRememberedWithoutItsToken(t *testing.T) {
	for name, lose := range map[string]func(*mount, *faultyStorage){
		"deleted, and a restart": func(m *mount, _ *faultyStorage) {
			m.do(logical.DeleteOperation, "token", nil)
			m.restart()
		},
		"deleted, its successor not saved, and a restart": func(m *mount, s *faultyStorage) {
			m.do(logical.DeleteOperation, "token", nil)
			s.set("put", tokenKey, fails)
			m.read()
			s.mend()
			m.restart()
		},
		"reported, its successor not saved, and a restart": func(m *mount, s *faultyStorage) {
			time.Sleep(time.Minute)
			s.set("put", tokenKey, fails)
			m.write("token")
			s.mend()
			m.restart()
		},
		"control: deleted": func(m *mount, _ *faultyStorage) { m.do(logical.DeleteOperation, "token", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, storage, used := newMountAfterAFallback(t)
				lose(m, storage)
				time.Sleep(checkInterval)
				m.write("rotate-root/check")
				m.read()
				m.assertRevokeOldAfter(used, time.Now().Add(55*time.Minute))
				assert.NotContains(t, m.rotation()["next_step"], "Now: revoke")
			})
		})
	}
}

// newMountAfterAFallback returns a mount whose apps hold a fallback's token until the given time,
// and whose new client works again.
func newMountAfterAFallback(t *testing.T) (m *mount, storage *faultyStorage, used time.Time) {
	t.Helper()
	m = newRotatingMount(t, rotation.Promoted)
	storage = m.useFaultyStorage()
	time.Sleep(2 * time.Hour)
	m.sandbox.RevokeClient(newClientID)
	m.do(logical.DeleteOperation, "token", nil)
	used = servedUntil(t, m.read())
	require.Equal(t, true, m.rotation()["fallback_active"])
	m.sandbox.CreateClient(newClientID, newSecret)
	return m, storage, used
}

// Until when apps use a fallback's token isn't known after a restart that finds the entry damaged
// or can't read it. So nobody is told to revoke the previous client now.
func TestFallbackWhoseEntryCannotBeRead(t *testing.T) {
	for name, spoil := range map[string]func(*mount, *faultyStorage){
		"damaged":    func(m *mount, _ *faultyStorage) { m.put(tokenKey, `{"format": 1, "access_token": "sk-`) },
		"reads fail": func(_ *mount, s *faultyStorage) { s.set("get", tokenKey, fails) },
		"reads hang": func(_ *mount, s *faultyStorage) { s.hang("get", tokenKey, allCalls, false) },
		"control: lost": func(m *mount, s *faultyStorage) {
			require.NoError(m.t, s.Storage.Delete(m.t.Context(), tokenKey))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, storage, used := newMountAfterAFallback(t)
				spoil(m, storage)
				m.restart()
				m.read()
				storage.mend()
				m.assertRevokeOldAfter(used, time.Now().Add(56*time.Minute))
				assert.NotContains(t, m.rotation()["next_step"], "Now: revoke")
			})
		})
	}
}

// A setting that an operator writes while a fallback begins makes the engine repeat its requests.
// The fallback is told of once, with the token that apps get.
func TestFallbackIsToldOnceAlthoughARequestIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.sandbox.RevokeClient(newClientID)
		m.loseToken()
		m.events.take()
		m.useFaultyStorage().set("put", configKey, slowly(2*time.Second))
		written := make(chan struct{})
		go func() {
			m.write("config", "rotation_reminder", "24h")
			close(written)
		}()
		time.Sleep(500 * time.Millisecond)
		m.read()
		<-written
		synctest.Wait()
		assert.Equal(t, 1, m.log.count("falling back"))
		assert.Equal(t, 1, countEvents(m.events.take(), "fuuffy/rotate-root-fallback "))
	})
}

// With stale_if_error, readers get a fallback's token in its buffer too, so apps use it for longer.
func TestRevokeOldAfterCountsStaleTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.write("config", "stale_if_error", true)
		time.Sleep(2 * time.Hour)
		m.sandbox.RevokeClient(newClientID)
		m.loseToken()
		fallback := m.readToken()
		time.Sleep(57 * time.Minute)
		m.sandbox.SetFault(faultUnavailable)
		stale := m.read()
		require.True(t, stale.Data["access_token"] == fallback)
		used := time.Now().Add(time.Duration(stale.Data["ttl"].(int64)) * time.Second)

		m.sandbox.ClearFault()
		m.sandbox.CreateClient(newClientID, newSecret)
		time.Sleep(5 * time.Second)
		require.False(t, m.readToken() == fallback)
		m.assertRevokeOldAfter(used, time.Now().Add(55*time.Minute))
	})
}

// A fallback's token couldn't be saved, and the entry of the token before it says nothing of it after
// a restart.
func TestFallbackWhoseTokenIsNotSaved(t *testing.T) {
	for name, lose := range map[string]func(*mount){
		"after a delete": (*mount).loseToken,
		"after a report": func(m *mount) { time.Sleep(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, rotation.Promoted)
				storage := m.useFaultyStorage()
				time.Sleep(2 * time.Hour)
				m.read()
				m.sandbox.RevokeClient(newClientID)
				lose(m)
				storage.set("put", tokenKey, fails)
				resp := m.write("token")
				used := servedUntil(t, resp)
				require.Equal(t, true, m.rotation()["fallback_active"])
				m.sandbox.CreateClient(newClientID, newSecret)
				storage.mend()
				m.restart()
				m.read()
				m.assertRevokeOldAfter(used, time.Now().Add(56*time.Minute))
			})
		})
	}
}

// The credentials that a fallback uses get the same token again and again, which has less left
// than the cached one. Nobody gets it, so nobody is told of a fallback.
func TestFallbackThatBringsNoBetterToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.CreateClient(newClientID, newSecret)
		m.sandbox.SetTokenLifetime(8 * time.Minute)
		m.sandbox.SetRepeat(true)
		m.write("rotate-root/check")
		m.sandbox.SetTokenLifetime(12 * time.Minute)
		m.stage()
		m.promote()
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: 401, ClientID: newClientID})
		m.events.take()
		told := 0
		for m.status()["token_state"] == "fresh" || m.status()["token_state"] == "refreshing" {
			m.read()
			synctest.Wait()
			for _, event := range m.events.take() {
				if strings.HasPrefix(event, "fuuffy/rotate-root-fallback") && m.servedClientID() == newClientID {
					told++
				}
			}
			time.Sleep(time.Second)
		}
		assert.Zero(t, told, "events of a fallback whose token nobody gets")
		assert.Zero(t, m.log.count("falling back"), m.log)
	})
}
