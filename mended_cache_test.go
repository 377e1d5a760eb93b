// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// A reader's patience ends after the stale token's life does. The request under way is all that
// there is to wait for, and it brings a token.
func TestStaleTokenThatExpiresBeforePatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t, "stale_if_error", true)
		token := m.readToken()
		time.Sleep(56 * time.Minute)
		m.sandbox.SetFault(faultUnavailable)
		m.serves(token, attempts, "the first read in the buffer")
		m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 4 * time.Second})
		time.Sleep(m.b.cache.Snapshot().Token.ExpiresAt.Add(-time.Second).Sub(m.b.now()))
		resp := m.gets(6*time.Second, "one second before the end")
		if resp != nil {
			assert.True(t, m.sandbox.TokenAlive(resp.Data["access_token"].(string)))
		}
	})
}

// A rejected token that could not be removed is removed later, although its successor was placed
// under another setting in the meantime.
func TestRemovalOutlivesASetting(t *testing.T) {
	for name, place := range map[string]func(*mount){
		"control":      func(*mount) {},
		"setting":      func(m *mount) { m.write("config", "rotation_reminder", "24h") },
		"invalidation": func(m *mount) { m.b.InvalidateKey(m.t.Context(), configKey); m.read() },
		"stage":        func(m *mount) { m.stage() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				storage := m.useFaultyStorage()
				token := m.readToken()
				time.Sleep(time.Minute)
				storage.set("put", tokenKey, fails)
				storage.set("delete", tokenKey, fails)
				resp := m.write("token", "rejected_token", token)
				require.False(t, resp.Data["access_token"] == token)
				place(m)
				storage.set("delete", tokenKey, nil)
				for range 2 {
					time.Sleep(time.Minute)
					m.tick()
					synctest.Wait()
				}
				m.restart()
				assert.False(t, m.readToken() == token, "the rejected token is back")
			})
		})
	}
}

// Two tokens were reported and replaced while neither could be removed. Neither comes back.
func TestTwoReplacedTokensThatOutliveTheirSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		storage := m.useFaultyStorage()
		first := m.readToken()
		time.Sleep(time.Minute)
		m.sandbox.SetTokenLifetime(2 * time.Minute)
		storage.set("put", tokenKey, fails)
		storage.set("delete", tokenKey, fails)
		second := m.write("token", "rejected_token", first).Data["access_token"].(string)
		time.Sleep(40 * time.Second)
		m.write("token", "rejected_token", second)
		for i := range 20 {
			time.Sleep(10 * time.Second)
			if !assert.False(t, m.readToken() == first, "the first is back after %d reads", i) {
				return
			}
			synctest.Wait()
		}
	})
}

// While storage can't be read, an app reports the token that lies in it. What others report
// doesn't make up for that.
func TestReportOfAnUnreadableTokenOutlivesOthers(t *testing.T) {
	for name, others := range map[string]func(*mount){
		"control":  func(*mount) {},
		"no token": func(m *mount) { m.refused(logical.UpdateOperation, tokenKey, nil) },
		"another":  func(m *mount) { m.refused(logical.UpdateOperation, tokenKey, pairs("rejected_token", "an-older-one")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				token := m.readToken()
				time.Sleep(time.Minute)
				storage := m.useFaultyStorage()
				storage.set("get", tokenKey, fails)
				m.restart()
				m.reportTo(faultUnavailable, token)
				others(m)
				storage.mend()
				m.assertSuspect(token, "once storage works")
			})
		})
	}
}

// A report that names no token means the one that readers get, which another reader is just
// looking for.
func TestReportOfWhicheverTokenDuringALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		time.Sleep(time.Minute)
		storage := m.useFaultyStorage()
		storage.set("get", tokenKey, failingOnce(1))
		m.restart()
		storage.set("get", tokenKey, slowly(2*time.Second))
		read := make(chan struct{})
		go func() {
			defer close(read)
			m.gets(oneHang, "a reader")
		}()
		time.Sleep(time.Second)
		resp := m.write("token")
		assert.False(t, resp.Data["access_token"] == token, "the rejected token is the response")
		<-read
	})
}

// During a hold-off, a reader waits for storage while the token in it enters its buffer.
func TestTokenThatEntersItsBufferDuringALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		until := m.b.cache.Snapshot().Token.ServedUntil()
		time.Sleep(54 * time.Minute)
		storage := m.useFaultyStorage()
		storage.set("get", tokenKey, fails)
		m.sandbox.SetFault(faultRateLimited)
		m.restart()
		m.refused(logical.ReadOperation, tokenKey, nil)
		storage.set("get", tokenKey, slowly(4*time.Second))
		time.Sleep(until.Add(-2 * time.Second).Sub(m.b.now()))
		resp, _, err := m.timed(logical.ReadOperation, tokenKey, nil)
		if err == nil && !resp.IsError() {
			assert.False(t, resp.Data["access_token"] == token, "the token has less left than the buffer")
		}
	})
}

// During a hold-off, a reader waits for storage while an operator writes credentials that work.
func TestNewCredentialsDuringALook(t *testing.T) {
	for name, verify := range map[string]bool{"verified": true, "not verified": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				storage := m.useFaultyStorage()
				storage.set("get", tokenKey, fails)
				m.sandbox.RevokeClient(testClientID)
				m.restart()
				m.refused(logical.ReadOperation, tokenKey, nil)
				storage.hang("get", tokenKey, 1, false)
				read := make(chan struct{})
				go func() {
					defer close(read)
					time.Sleep(time.Second)
					m.gets(attempts, "a reader that waits while the credentials are replaced")
				}()
				time.Sleep(2 * time.Second)
				m.write("config", "client_id", newClientID, "client_secret", newSecret, "verify_connection", verify)
				<-read
			})
		})
	}
}

// After a start that couldn't look for the stored token, an app reports an older one than that.
// All apps have the stored one already.
func TestNoEventOfAnOldReportAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		old := m.readToken()
		time.Sleep(time.Minute)
		token := m.write("token", "rejected_token", old).Data["access_token"].(string)
		storage := m.useFaultyStorage()
		storage.set("get", tokenKey, failingOnce(1))
		m.restart()
		storage.mend()
		m.events.take()
		resp := m.write("token", "rejected_token", old)
		require.True(t, resp.Data["access_token"] == token)
		synctest.Wait()
		assert.Empty(t, newOperator(t).updates(t, m.events.take()), "nothing changed for apps")
	})
}

// After a start that can't read the stored token, an app reports it, and the engine replaces it.
func TestEventOfAReportOfAnUnreadableToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		time.Sleep(time.Minute)
		storage := m.useFaultyStorage()
		storage.set("get", tokenKey, fails)
		m.restart()
		m.events.take()
		resp := m.write("token", "rejected_token", token)
		require.False(t, resp.Data["access_token"] == token)
		synctest.Wait()
		assert.Equal(t, []string{"replace"}, newOperator(t).updates(t, m.events.take()), "apps hold a dead token")
	})
}
