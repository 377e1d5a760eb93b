// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

func (m *mount) write(path string, keysAndValues ...any) *logical.Response {
	m.t.Helper()
	return m.do(logical.UpdateOperation, path, pairs(keysAndValues...))
}

// loseToken makes the next read need Fuuffy.
func (m *mount) loseToken() {
	m.t.Helper()
	m.do(logical.DeleteOperation, "token", nil)
}

// Writing dead credentials again does not clear the alarm, and writing them once they
// work again does.
func TestDeadCredentialsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure()
		m.sandbox.RevokeClient(testClientID)
		m.loseToken()
		m.refused(logical.ReadOperation, "token", nil)

		same := pairs("client_id", testClientID, "client_secret", testSecret)
		status, text := m.refused(logical.UpdateOperation, "config", same)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, text, "Nothing was saved")
		assert.Equal(t, "rejected", m.status()["upstream_state"])
		m.write("config", "request_timeout", 9)
		assert.Equal(t, "rejected", m.status()["upstream_state"], "a setting says nothing about the credentials")

		m.sandbox.CreateClient(testClientID, testSecret)
		m.do(logical.UpdateOperation, "config", same)
		assert.Equal(t, "ok", m.status()["upstream_state"])
		assert.Equal(t, 1, m.log.count("Fuuffy issues tokens again"))
	})
}

// Terraform repeats a write with each plan: while all is well, that costs nothing.
func TestWriteThatChangesNothing(t *testing.T) {
	m := newMount(t)
	m.configure()
	stored, err := m.storage.Storage.Get(t.Context(), configKey)
	require.NoError(t, err)
	puts := 0
	m.storage.failing(func(operation, _ string) error {
		if operation != "get" {
			puts++
		}
		return nil
	})
	requests := m.requests()
	for range 3 {
		m.configure("environment", "production", "token_expiry_buffer", "5m")
	}
	again, err := m.storage.Storage.Get(t.Context(), configKey)
	require.NoError(t, err)
	assert.Equal(t, stored.Value, again.Value)
	assert.Zero(t, puts)
	assert.Equal(t, requests, m.requests())
}

// The verdict, and a next step that works, in each state that goes wrong.
func TestHealthAndNextStep(t *testing.T) {
	for name, tt := range map[string]struct {
		state                 string
		happen                func(*mount)
		health, next, warning string
		// follow does what the next step says; the mount is well afterwards.
		follow func(*mount)
	}{
		"well":        {rotation.Idle, func(*mount) {}, "ok", "No action needed until 2000-03-17.", "", func(*mount) {}},
		"rejected":    {rotation.Idle, func(m *mount) { m.sandbox.RevokeClient(testClientID); m.loseToken() }, "failing", "vault write fuuffy/config client_id=<client_id> client_secret=-", "apps get no token", func(m *mount) { m.do(logical.UpdateOperation, "config", newPair()) }},
		"unavailable": {rotation.Idle, func(m *mount) { m.sandbox.SetFault(faultUnavailable); m.loseToken() }, "failing", "vault write -f fuuffy/rotate-root/check", "HTTP status 503", func(m *mount) { m.sandbox.ClearFault(); m.write("rotate-root/check") }},
		"refresh fails": {
			rotation.Idle,
			func(m *mount) { m.sandbox.SetFault(faultUnavailable); time.Sleep(52 * time.Minute); m.read() },
			"degraded", "vault write -f fuuffy/rotate-root/check", "token refresh is failing",
			func(m *mount) { m.sandbox.ClearFault(); m.write("rotate-root/check") },
		},
		"staged, rejected": {
			rotation.Staged,
			func(m *mount) { m.sandbox.RevokeClient(testClientID); m.loseToken() },
			"failing", "vault write -f fuuffy/rotate-root/promote", "apps get no token",
			func(m *mount) {
				m.promote()
				m.write("rotate-root/complete")
			},
		},
		"fallback": {
			rotation.Promoted,
			func(m *mount) { m.sandbox.RevokeClient(newClientID); m.loseToken() },
			"degraded", "vault write -f fuuffy/rotate-root/rollback", "Don't revoke client shop-1 now",
			func(m *mount) { m.write("rotate-root/rollback") },
		},
		"both revoked": {
			rotation.Promoted,
			func(m *mount) {
				m.sandbox.RevokeClient(newClientID)
				m.sandbox.RevokeClient(testClientID)
				m.loseToken()
			},
			"failing", "vault write fuuffy/rotate-root client_id=<client_id> client_secret=-", "apps get no token",
			func(m *mount) {
				time.Sleep(time.Minute) // The engine limits its requests.
				m.sandbox.CreateClient("shop-3", "third-secret")
				m.write("rotate-root", "client_id", "shop-3", "client_secret", "third-secret")
				m.promote()
				m.write("rotate-root/complete")
				assert.NotContains(m.t, m.rotation()["history"], "compromised", "the way out records no leak")
				assert.NotContains(m.t, m.rotation(), "unrevoked")
			},
		},
		"leak": {
			"compromised",
			func(*mount) {},
			"degraded", "vault write -f fuuffy/rotate-root/complete\nAlso restart the Agents", "compromised",
			func(m *mount) { m.sandbox.RevokeClient(testClientID); m.write("rotate-root/complete") },
		},
		"stuck": {
			rotation.Promoted,
			func(*mount) { time.Sleep(8 * 24 * time.Hour) },
			"degraded", "vault write -f fuuffy/rotate-root/complete", "but not completed",
			func(m *mount) { m.sandbox.RevokeClient(testClientID); m.write("rotate-root/complete") },
		},
		"overdue": {rotation.Idle, func(*mount) { time.Sleep(91 * 24 * time.Hour) }, "degraded", "Rotate now", "overdue for rotation", func(m *mount) {
			m.stage()
			m.promote()
			m.sandbox.RevokeClient(testClientID)
			m.write("rotate-root/complete")
		}},
		"suspect": {
			rotation.Idle,
			func(m *mount) {
				time.Sleep(time.Minute)
				m.sandbox.SetFault(faultUnavailable)
				m.refused(logical.UpdateOperation, "token", nil)
			},
			"degraded", "vault write -f fuuffy/rotate-root/check", "an app reported", func(m *mount) {
				m.sandbox.ClearFault()
				m.write("rotate-root/check")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, tt.state)
				m.read()
				tt.happen(m)
				_, _ = m.handle(t.Context(), logical.ReadOperation, "token", nil)
				synctest.Wait()
				time.Sleep(3 * time.Second) // The attempts in the background.

				resp := m.do(logical.ReadOperation, "status", nil)
				assert.Equal(t, tt.health, resp.Data["health"], "%v", resp)
				assert.Contains(t, resp.Data["next_step"], tt.next)
				assert.Contains(t, strings.Join(resp.Warnings, "\n"), tt.warning)
				assert.Equal(t, resp.Data["next_step"], m.rotation()["next_step"], "one place knows")
				tt.follow(m)
				m.read()
				status := m.do(logical.ReadOperation, "status", nil)
				assert.Equal(t, "ok", status.Data["health"], "%v", status.Warnings)
			})
		})
	}
}

// What a reader is told to do works in the state that the mount is in.
func TestErrorsLeadOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.sandbox.RevokeClient(newClientID)
		m.sandbox.RevokeClient(testClientID)
		m.loseToken()
		_, text := m.refused(logical.ReadOperation, "token", nil)
		assert.Contains(t, text, "vault write fuuffy/rotate-root client_id=<client_id> client_secret=-")
		assert.NotContains(t, text, "compromised=true", "nothing leaked")
		assert.NotContains(t, text, "fuuffy/config", "which is refused now")

		_, text = m.refused(logical.UpdateOperation, "rotate-root/rollback", nil)
		assert.Contains(t, text, "Can't roll back. Fuuffy rejected client shop-1: invalid_client")
		assert.Contains(t, text, "vault write fuuffy/rotate-root client_id=<client_id> client_secret=-")
		assert.NotContains(t, text, "compromised=true")
	})
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.sandbox.RevokeClient(newClientID)
		_, text := m.refused(logical.UpdateOperation, "rotate-root/complete", nil)
		assert.Contains(t, text, "Don't revoke client shop-1. Roll back, then find out in the Fuuffy dashboard why the new credentials fail: vault write -f fuuffy/rotate-root/rollback")
		assert.NotContains(t, text, "mistyped")
	})
}

func TestUnrevokedClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, "compromised")
		assert.Equal(t, "2000-01-01T00:00:00Z shop-1 (compromised)", m.rotation()["unrevoked"])
		_, text := m.refused(logical.UpdateOperation, "rotate-root/complete", nil)
		assert.True(t, strings.HasSuffix(text, "vault write fuuffy/rotate-root/complete force=true"), "what works is advised: %s", text)

		forced := m.write("rotate-root/complete", "force", true)
		assert.Contains(t, forced.Warnings[0], "The engine forgot client shop-1 without proof that it is revoked")
		assert.Equal(t, "2000-01-01T00:00:00Z shop-1 (compromised)", m.rotation()["unrevoked"], "force is no proof")
		assert.Contains(t, m.rotation()["history"], "completed shop-2 (forced; not proved to be revoked: shop-1)")
		status := m.do(logical.ReadOperation, "status", nil)
		assert.Equal(t, "degraded", status.Data["health"], "the leaked secret may still work")
		assert.Contains(t, status.Data["next_step"], "vault write fuuffy/rotate-root/revoked client_id=shop-1")
		assert.Equal(t, 1.0, m.metric("fuuffy_rotation_unrevoked_clients"))
		leaked := pairs("client_id", testClientID, "client_secret", testSecret)
		for _, path := range []string{"rotate-root", "config"} {
			_, text = m.refused(logical.UpdateOperation, path, leaked)
			assert.Contains(t, text, "because client shop-1 is compromised", path)
			assert.Contains(t, text, "vault write fuuffy/rotate-root/revoked client_id=shop-1", path)
		}

		m.write("rotate-root/revoked", "client_id", testClientID)
		assert.Nil(t, m.rotation()["unrevoked"])
		assert.Equal(t, "ok", m.status()["health"])
		assert.Equal(t, []string{"No client of this ID is on the list of those that may still work. Nothing was changed."}, m.write("rotate-root/revoked", "client_id", testClientID).Warnings)
		_, text = m.refused(logical.UpdateOperation, "rotate-root/revoked", nil)
		assert.Contains(t, text, "client_id is missing")
		_, text = m.refused(logical.UpdateOperation, "rotate-root/revoked", pairs("client_id", "shop 1"))
		assert.Contains(t, text, "client_id has white space")
	})
}

func TestGivenUpClientsAreListed(t *testing.T) {
	for name, tt := range map[string]struct {
		state string
		step  func(*mount)
		want  string
	}{
		"rolled back":              {rotation.Promoted, func(m *mount) { m.write("rotate-root/rollback") }, "shop-2 (rolled back)"},
		"discarded":                {rotation.Staged, func(m *mount) { m.do(logical.DeleteOperation, "rotate-root", nil) }, "shop-2 (discarded)"},
		"forced":                   {rotation.Promoted, func(m *mount) { m.write("rotate-root/complete", "force", true) }, "shop-1 (forced)"},
		"proved dead":              {rotation.Promoted, func(m *mount) { m.sandbox.RevokeClient(testClientID); m.write("rotate-root/complete") }, ""},
		"compromised, proved dead": {"compromised", func(m *mount) { m.sandbox.RevokeClient(testClientID); m.write("rotate-root/complete") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newRotatingMount(t, tt.state)
			tt.step(m)
			unrevoked, _ := m.rotation()["unrevoked"].(string)
			if tt.want == "" {
				assert.Empty(t, unrevoked)
				return
			}
			assert.True(t, strings.HasSuffix(unrevoked, tt.want), unrevoked)
			m.restart()
			assert.Equal(t, unrevoked, m.status()["unrevoked"])
		})
	}
}

// discardClients stages and discards clients, from shop-100 on, at a rate that the engine's budget
// allows.
func (m *mount) discardClients(n int) {
	m.t.Helper()
	for i := range n {
		id := fmt.Sprintf("shop-%d", 100+i)
		m.sandbox.CreateClient(id, newSecret)
		m.write("rotate-root", "client_id", id, "client_secret", newSecret)
		m.do(logical.DeleteOperation, "rotate-root", nil)
		time.Sleep(6 * time.Second)
	}
}

func TestUnrevokedListIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Idle)
		m.discardClients(20 + 1)
		assert.NotContains(t, m.rotation()["unrevoked"], "shop-100")
		assert.Len(t, strings.Split(m.rotation()["unrevoked"].(string), "\n"), 20)
		assert.Equal(t, 1, m.log.count("the list of unrevoked clients is full, so the engine dropped the oldest: revoke it in the Fuuffy dashboard: mount=fuuffy/ client_id=shop-100"))
	})
}

func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.sandbox.RevokeClient(testClientID)
		token := m.readToken()
		before, err := m.storage.Storage.Get(t.Context(), configKey)
		require.NoError(t, err)
		data := m.write("rotate-root/check").Data
		assert.Equal(t, "works", data["current"])
		assert.Equal(t, newClientID, data["client_id"])
		assert.Contains(t, data["previous"], "revoked: invalid_client")
		assert.NotContains(t, data, "staged")
		time.Sleep(6 * time.Second)
		_, text := m.refused(logical.UpdateOperation, "rotate-root/check", nil)
		assert.Contains(t, text, "Checks are limited to one per 10s. Try again in 4s.")

		time.Sleep(4 * time.Second)
		m.sandbox.RevokeClient(newClientID)
		assert.Contains(t, m.write("rotate-root/check").Data["current"], "revoked: invalid_client")
		assert.Equal(t, "rejected", m.status()["upstream_state"], "what Fuuffy says counts")

		time.Sleep(checkInterval)
		m.sandbox.SetFault(faultUnavailable)
		assert.Contains(t, m.write("rotate-root/check").Data["current"], "unknown: service_unavailable")
		assert.Equal(t, token, m.readToken(), "nothing changes for apps")
		after, err := m.storage.Storage.Get(t.Context(), configKey)
		require.NoError(t, err)
		assert.Equal(t, before.Value, after.Value)
	})
}

// A check that finds the new client rejected does not keep apps from the fallback, and
// does not deny that there is one.
func TestCheckLeavesTheFallbackAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare  func(*mount)
		nextStep string
	}{
		"no token":                     {func(m *mount) { m.do(logical.DeleteOperation, "token", nil) }, "rotate-root/rollback"},
		"a fresh token of the new":     {func(*mount) {}, "rotate-root/rollback"},
		"a token of the fallback":      {func(m *mount) { m.do(logical.DeleteOperation, "token", nil); m.read() }, "rotate-root/rollback"},
		"the old one is dead too":      {func(m *mount) { m.sandbox.RevokeClient(testClientID) }, "vault write fuuffy/rotate-root client_id=<client_id> client_secret=-"},
		"the new one was only delayed": {func(m *mount) { m.sandbox.CreateClient(newClientID, newSecret) }, "Wait until 2000-01-01T00:55:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, rotation.Promoted)
				m.sandbox.RevokeClient(newClientID)
				tt.prepare(m)
				data := m.write("rotate-root/check").Data
				assert.Contains(t, data["next_step"], tt.nextStep)
				assert.NotContains(t, data["next_step"], "compromised=true", "nothing leaked")
				if data["current"] == data["previous"] || data["previous"] != "works" {
					return // No fallback is needed, or there is none.
				}
				m.do(logical.DeleteOperation, "token", nil)
				time.Sleep(checkInterval)
				m.write("rotate-root/check")
				assert.True(t, m.sandbox.TokenAlive(m.readToken()), "apps get a token of the old client")
				assert.Equal(t, testClientID, m.servedClientID())
			})
		})
	}
}

// The clock was a year ahead for a moment, in which a rotation was called due.
func TestReminderAfterTheClockWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		skew := 365 * 24 * time.Hour
		m.skewWallClock(func() time.Duration { return skew })
		m.tick()
		require.Equal(t, 1, m.log.count("overdue"))
		skew = 0
		time.Sleep(80 * 24 * time.Hour)
		m.tick()
		assert.Equal(t, 1, m.log.count("due for rotation on"))
	})
}

// A reported token that Fuuffy could not replace is served for want of another, and
// replaced as soon as Fuuffy answers.
func TestSuspectToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		time.Sleep(time.Minute)
		m.sandbox.SetFault(faultUnavailable)
		m.refused(logical.UpdateOperation, "token", pairs("rejected_token", token))
		resp := m.read()
		assert.Equal(t, token, resp.Data["access_token"])
		require.Len(t, resp.Warnings, 1)
		assert.Contains(t, resp.Warnings[0], "reported that Fuuffy rejected this token")
		assert.LessOrEqual(t, resp.Data["ttl"], int64(60))
		assert.Equal(t, "suspect", m.status()["token_state"])
		assert.Equal(t, 1.0, m.metric("fuuffy_token_suspect"))

		m.sandbox.ClearFault()
		time.Sleep(time.Minute)
		m.tick()
		synctest.Wait()
		resp = m.read()
		assert.NotEqual(t, token, resp.Data["access_token"])
		assert.Empty(t, resp.Warnings)
		assert.Equal(t, 0.0, m.metric("fuuffy_token_suspect"))
	})
}

// A token that comes of a check or a config write is held to what one of a refresh is: it
// is not the one that an app reported, and lives longer than the one that it replaces.
func TestTokenOfACheckIsHeldToTheSameRules(t *testing.T) {
	granted := func(token string, life int) fuuffytest.Fault {
		return fuuffytest.Fault{Kind: fuuffytest.FaultBody, Body: fmt.Sprintf(`{"data": {"access_token": %q, "token_type": "Bearer", "expires_in": %d}}`, token, life)}
	}
	for name, ask := range map[string]func(*mount){
		"check":        func(m *mount) { m.write("rotate-root/check") },
		"config write": func(m *mount) { m.do(logical.UpdateOperation, "config", pairs("client_secret", testSecret)) },
	} {
		t.Run(name+", of a suspect token", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.SetFault(granted("sk-same", 3600))
				m.read()
				time.Sleep(time.Minute)
				m.refused(logical.UpdateOperation, "token", pairs("rejected_token", "sk-same"))
				ask(m)
				assert.Equal(t, "suspect", m.status()["token_state"])
				assert.NotEmpty(t, m.read().Warnings, "readers are told")
			})
		})
		t.Run(name+", of a token in its window", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				token := m.readToken()
				time.Sleep(51 * time.Minute)
				m.sandbox.SetFault(faultUnavailable)
				_, _ = m.handle(t.Context(), logical.ReadOperation, "token", nil) // So that the write is tried.
				time.Sleep(2 * time.Minute)
				m.sandbox.SetFault(granted("sk-short", 20))
				ask(m)
				assert.True(t, token == m.readToken(), "the one that lives longer is kept")
			})
		})
	}
}

func TestErrorWhileATokenLivesInItsBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.read()
		m.sandbox.SetFault(faultUnavailable)
		time.Sleep(52 * time.Minute)
		m.read()
		time.Sleep(10 * time.Second) // The attempts in the background.
		assert.Contains(t, m.nextStep(), "The cached token expires at 2000-01-01T01:00:00Z. The engine serves it until 2000-01-01T00:55:00Z. To serve it until it expires: vault write")
		time.Sleep(4 * time.Minute)
		_, text := m.refused(logical.ReadOperation, "token", nil)
		assert.Contains(t, text, "The cached token expires at 2000-01-01T01:00:00Z. The engine stopped serving it at 2000-01-01T00:55:00Z. To serve it until it expires: vault write")
		assert.Contains(t, text, "vault write fuuffy/config stale_if_error=true")
		m.write("config", "stale_if_error", true)
		m.read()
	})
}

func TestUnknownAuthorityAdvice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.transport = func(string) (http.RoundTripper, error) {
			return roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, x509.UnknownAuthorityError{} }), nil
		}
		_, text := m.refused(logical.CreateOperation, "config", pairs("client_id", testClientID, "client_secret", testSecret))
		assert.Contains(t, text, "Repeat this command with ca_cert=@ca.pem")
		m.configure("verify_connection", false)
		_, text = m.refused(logical.ReadOperation, "token", nil)
		assert.Contains(t, text, "vault write fuuffy/config ca_cert=@ca.pem client_secret=-")
	})
}

// What others said, and ended in their own way, ends in one period.
func TestSentencesEndOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		page gatewayAnswer
		want string
	}{
		"an expired certificate": {err: x509.CertificateInvalidError{Reason: x509.Expired}, want: "certificate has expired or is not yet valid."},
		"a period":               {err: errors.New("connection lost."), want: "connection lost."},
		"Fuuffy's period": {page: gatewayAnswer{status: 503, contentType: "application/json", body: `{"error": "maintenance", "error_description": "Back soon."}`},
			want: "Fuuffy returned 503: maintenance: Back soon."},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				m.answering(func(string, string) *gatewayAnswer { return &tt.page })
				if tt.err != nil {
					m.transport = func(string) (http.RoundTripper, error) {
						return roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, tt.err }), nil
					}
				}
				_, text := m.refused(logical.CreateOperation, "config", firstPair)
				assert.Contains(t, text, tt.want)
				assert.NotRegexp(t, `[.:]\s?\.`, text)
			})
		})
	}
}

// A failure that lasts is explained, in the error as in the next step.
func TestConnectionAdvice(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"expired":    {x509.CertificateInvalidError{Reason: x509.Expired, Cert: &x509.Certificate{}}, "Check the Vault server's clock"},
		"other host": {x509.HostnameError{Certificate: &x509.Certificate{}, Host: "fuuffy.example"}, "The certificate is for another host"},
		"no name":    {&net.DNSError{Err: "no such host"}, "can't resolve the host name"},
		"refused":    {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "can't connect"},
		"cut":        {io.EOF, "Check the network between Vault and Fuuffy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				m.transport = func(string) (http.RoundTripper, error) {
					return roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, tt.err }), nil
				}
				m.configure("verify_connection", false)
				_, text := m.refused(logical.ReadOperation, "token", nil)
				assert.Contains(t, text, tt.want)
				assert.Contains(t, text, m.status()["next_step"], "one place knows")
				assert.Contains(t, m.status()["next_step"], "To retry now: vault write -f fuuffy/rotate-root/check")
			})
		})
	}
}

// A check finds that the new client is dead and the old one isn't: there is a way back.
func TestAdviceAfterACheck(t *testing.T) {
	for name, tt := range map[string]struct {
		state                  string
		currentDead, otherDead bool
		want                   string
	}{
		"promoted, new dead":  {rotation.Promoted, true, false, "Don't revoke client shop-1. Roll back, then find out in the Fuuffy dashboard why the new credentials fail: vault write -f fuuffy/rotate-root/rollback"},
		"promoted, old dead":  {rotation.Promoted, false, true, "Fuuffy no longer accepts client shop-1, so finish: vault write -f fuuffy/rotate-root/complete"},
		"promoted, both dead": {rotation.Promoted, true, true, "create new credentials in the Fuuffy dashboard, then: vault write fuuffy/rotate-root client_id=<client_id> client_secret=-"},
		"staged dead":         {rotation.Staged, false, true, "Fuuffy rejects client shop-2, which is staged. Discard it: vault delete fuuffy/rotate-root"},
		"staged, both dead":   {rotation.Staged, true, true, "Fuuffy rejects both client shop-1 and client shop-2. Discard what is staged: vault delete fuuffy/rotate-root\nThen write working credentials: vault write fuuffy/config client_id=<client_id> client_secret=-"},
		"leaked, new dead":    {stateCompromised, true, false, "If you can't fix it, create new credentials in the Fuuffy dashboard, then: vault write fuuffy/rotate-root client_id=<client_id> client_secret=-"},
		"leaked, old dead":    {stateCompromised, false, true, "Fuuffy no longer accepts client shop-1, so finish: vault write -f fuuffy/rotate-root/complete"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newRotatingMount(t, tt.state)
			current, other := newClientID, testClientID
			if tt.state == rotation.Staged {
				current, other = other, current
			}
			if tt.currentDead {
				m.sandbox.RevokeClient(current)
			}
			if tt.otherDead {
				m.sandbox.RevokeClient(other)
			}
			data := m.write("rotate-root/check").Data
			next := data["next_step"].(string)
			assert.Contains(t, next, tt.want)
			leakOpen := tt.state == stateCompromised && !tt.otherDead
			assert.Equal(t, leakOpen, strings.HasPrefix(next, "Now: revoke client shop-1 in the Fuuffy dashboard, because it is compromised."), "a leak comes first: %s", next)
			assert.NotContains(t, next, "compromised=true", "the current client didn't leak")
			if tt.currentDead && (tt.otherDead || tt.state != rotation.Promoted) {
				assert.Equal(t, "rejected", m.status()["upstream_state"])
				assert.Zero(t, m.log.count("falling back"), "there is nothing to fall back to")
			}
			// Only a check that works adds what to do if an app still gets a 401.
			next, added := strings.CutSuffix(next, "\nIf an app still gets a 401, report its token: vault write fuuffy/token rejected_token=-")
			assert.Equal(t, !tt.currentDead, added)
			assert.Equal(t, next, m.status()["next_step"])
			assert.Equal(t, next, m.rotation()["next_step"])
		})
	}
}

func TestConfigIsNotDeletedInTheMiddleOfARotation(t *testing.T) {
	m := newRotatingMount(t, rotation.Staged)
	_, text := m.refused(logical.DeleteOperation, "config", nil)
	assert.Contains(t, text, "vault delete fuuffy/config force=true")
	m.read()
	m.do(logical.DeleteOperation, "config", pairs("force", true))
	m.refused(logical.ReadOperation, "token", nil)
	_, text = m.refused(logical.CreateOperation, "config", pairs("client_id", testClientID, "client_secret", testSecret, "force", true))
	assert.Contains(t, text, "force is for deleting")
}

func TestCredentialsCreated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // It is 2000-01-01.
		m := newMount(t)
		for value, text := range map[string]string{"2000-01-02": "within the last year", "1998-12-31": "within the last year", "yesterday": "must be a date"} {
			_, refusal := m.refused(logical.CreateOperation, "config", pairs("client_id", testClientID, "client_secret", testSecret, "credentials_created", value))
			assert.Contains(t, refusal, text, value)
		}
		m.configure("credentials_created", "1999-11-02")
		assert.EqualValues(t, 30, m.rotation()["days_left"])
		assert.NotContains(t, m.readConfig(), "credentials_created")
		m.write("config", "credentials_created", "1999-12-02T00:00:00Z")
		assert.EqualValues(t, 60, m.rotation()["days_left"])
	})
}

// A date can leave the last year while Fuuffy tests the credentials. The write is then refused
// as a whole.
func TestDateThatAgesDuringTheTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Idle)
		before := m.readConfig()
		m.sandbox.SetFault(slowAnswer)
		_, text := m.refused(logical.UpdateOperation, "config", newPair("credentials_created", time.Now().AddDate(-1, 0, 0).Format(time.RFC3339)))
		assert.Contains(t, text, "credentials_created must be within the last year")
		assert.Equal(t, 2, m.requests(), "the credentials were tested")
		for range 2 {
			assert.Equal(t, before, m.readConfig())
			assert.Equal(t, testClientID, m.servedClientID())
			m.restart()
		}
	})
}

func TestFractionOfASecondIsRefused(t *testing.T) {
	m := newMount(t)
	m.configure()
	for _, value := range []any{7.5, "7.5s", "7500ms"} {
		_, text := m.refused(logical.UpdateOperation, "config", pairs("request_timeout", value))
		assert.Contains(t, text, "request_timeout must be whole seconds", "%v", value)
	}
	m.write("config", "request_timeout", "7000ms")
	assert.EqualValues(t, 7, m.readConfig()["request_timeout"])
}

func TestPatchIsAnUpdate(t *testing.T) {
	m := newMount(t)
	m.configure("request_timeout", 7)
	m.do(logical.PatchOperation, "config", pairs("stale_if_error", true))
	assert.Equal(t, true, m.readConfig()["stale_if_error"])
	assert.EqualValues(t, 7, m.readConfig()["request_timeout"])
	_, text := m.refused(logical.PatchOperation, "config", pairs("stale", true))
	assert.Contains(t, text, "unknown field stale")
}

// A pipeline may repeat a step that succeeded.
func TestRepeatedSteps(t *testing.T) {
	m := newRotatingMount(t, rotation.Promoted)
	m.sandbox.RevokeClient(testClientID)
	m.write("rotate-root/complete")
	again := m.write("rotate-root/complete")
	assert.Equal(t, rotation.Idle, again.Data["state"])
	assert.Contains(t, again.Warnings, "This step was already taken. Nothing was changed.")
	assert.Equal(t, m.rotation(), again.Data)
	_, text := m.refused(logical.UpdateOperation, "rotate-root/rollback", nil)
	assert.Contains(t, text, "nothing to roll back")
	assert.Contains(t, m.do(logical.DeleteOperation, "rotate-root", nil).Warnings, "Nothing was staged. Nothing was changed.")
}

// A step that has nothing to do does nothing: it writes no storage, and no one hears of it.
func TestStepsThatChangeNothing(t *testing.T) {
	complete := func(m *mount) {
		m.sandbox.RevokeClient(testClientID)
		m.write("rotate-root/complete")
	}
	for name, tt := range map[string]struct {
		state  string
		before func(*mount)
		step   func(*mount)
		name   string
	}{
		"stage again":        {rotation.Staged, nil, func(m *mount) { m.stage() }, "stage"},
		"stage the promoted": {rotation.Promoted, nil, func(m *mount) { m.stage() }, "stage"},
		"promote again":      {rotation.Promoted, nil, func(m *mount) { m.promote() }, "promote"},
		"complete again":     {rotation.Promoted, complete, func(m *mount) { m.write("rotate-root/complete") }, "complete"},
		"rollback again":     {rotation.Promoted, func(m *mount) { m.write("rotate-root/rollback") }, func(m *mount) { m.write("rotate-root/rollback") }, "rollback"},
		"discard nothing":    {rotation.Idle, nil, func(m *mount) { m.do(logical.DeleteOperation, "rotate-root", nil) }, "discard"},
		"not unrevoked":      {rotation.Idle, nil, func(m *mount) { m.write("rotate-root/revoked", "client_id", "shop-9") }, "revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newRotatingMount(t, tt.state)
			if tt.before != nil {
				tt.before(m)
			}
			storage := m.useFaultyStorage()
			before, history := storage.stored(t, configKey), m.rotation()["history"]
			steps := m.metrics()["fuuffy_rotation_steps_total"].String()
			require.NotEmpty(t, steps)
			m.log.reset()
			m.events.take()
			tt.step(m)
			assert.True(t, storage.stored(t, configKey) == before, "nothing was stored")
			assert.Equal(t, history, m.rotation()["history"])
			assert.Equal(t, steps, m.metrics()["fuuffy_rotation_steps_total"].String())
			assert.Zero(t, m.log.count("rotation of the credentials"))
			assert.Empty(t, m.events.take())
		})
	}
}

// A repeated emergency tests the credentials again, and that is all.
func TestRepeatedEmergency(t *testing.T) {
	m := newRotatingMount(t, stateCompromised)
	before, requests := m.rotation(), m.requests()
	again := m.write("rotate-root", "client_id", newClientID, "client_secret", newSecret, "compromised", true)
	assert.Contains(t, again.Warnings, "These credentials are already staged or promoted. The engine only tested them again.")
	assert.Equal(t, before, m.rotation())
	assert.Equal(t, requests+1, m.requests())
}

// Clients that an operator marks as revoked between a step and its repetition change nothing,
// however many they are. Once they have pushed the step out of the history, it can't be repeated.
func TestRepeatedStepAfterMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Idle)
		m.discardClients(10)
		m.stage()
		m.promote()
		m.sandbox.RevokeClient(testClientID)
		m.write("rotate-root/complete")
		for i := range 10 {
			assert.Contains(t, m.write("rotate-root/complete").Warnings, "This step was already taken. Nothing was changed.")
			m.write("rotate-root/revoked", "client_id", fmt.Sprintf("shop-%d", 100+i))
		}
		assert.NotContains(t, m.rotation()["history"], "completed")
		for _, step := range []string{"complete", "rollback"} {
			_, text := m.refused(logical.UpdateOperation, "rotate-root/"+step, nil)
			assert.Contains(t, text, "No rotation is in progress")
		}
	})
}

const restartAgents = "restart the agents of apps that don't report a 401"

func TestEmergencyTellsOfAgents(t *testing.T) {
	m := newRotatingMount(t, rotation.Idle)
	resp := m.do(logical.UpdateOperation, "rotate-root", newPair("compromised", true))
	assert.Contains(t, strings.ToLower(strings.Join(resp.Warnings, "\n")), restartAgents)
	assert.Contains(t, strings.ToLower(resp.Data["next_step"].(string)), restartAgents)
	assert.Contains(t, resp.Data["history"], "promoted shop-2 (replaced shop-1, which is compromised)")
	m.sandbox.RevokeClient(testClientID)
	assert.Contains(t, strings.ToLower(strings.Join(m.write("rotate-root/complete").Warnings, "\n")), restartAgents)
}

func TestCompleteTooEarlyWarns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.sandbox.RevokeClient(testClientID)
		resp := m.write("rotate-root/complete")
		require.NotEmpty(t, resp.Warnings)
		assert.Contains(t, resp.Warnings[0], "Apps may hold tokens of client shop-1 until 2000-01-01T00:55:00Z. It is revoked")
	})
}

func TestStatusSaysSinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		assert.NotContains(t, m.status(), "last_success")
		m.read()
		time.Sleep(time.Minute)
		m.sandbox.SetFault(faultUnavailable)
		m.loseToken()
		m.refused(logical.ReadOperation, "token", nil)
		since := m.status()["upstream_since"]
		for range 5 {
			m.untilAsked(time.Hour)
		}
		assert.Equal(t, since, m.status()["upstream_since"], "the first failure")
		assert.Equal(t, "2000-01-01T00:00:00Z", m.status()["last_success"])
		m.sandbox.ClearFault()
		m.untilAsked(time.Hour)
		synctest.Wait()
		assert.Greater(t, m.status()["upstream_since"], since)
	})
}

// Fuuffy that alternates between 503 and garbage is left alone for longer and longer,
// like one that fails in one way.
func TestHoldOffGrowsAcrossKindsOfFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		for i := range 10 {
			m.sandbox.SetFault(faultMalformed)
			if i%2 == 0 {
				m.sandbox.SetFault(faultUnavailable)
			}
			m.untilAsked(time.Hour)
		}
		assert.GreaterOrEqual(t, m.untilAsked(time.Hour), 45*time.Second)
	})
}

// No one is told to revoke the current client.
func TestAdviceNeverRevokesWhatIsInForce(t *testing.T) {
	t.Run("staged again", func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.write("rotate-root/rollback")
		m.stage()
		assert.NotContains(t, m.rotation(), "unrevoked")
		m.promote()
		assert.NotContains(t, strings.ToLower(m.rotation()["next_step"].(string)), "revoke client shop-2")
	})
	t.Run("written again", func(t *testing.T) {
		m := newRotatingMount(t, rotation.Promoted)
		m.write("rotate-root/rollback")
		m.do(logical.UpdateOperation, "config", newPair())
		unrevoked := m.rotation()["unrevoked"].(string)
		assert.True(t, strings.HasSuffix(unrevoked, " shop-1 (replaced)"), unrevoked)
		assert.NotContains(t, unrevoked, newClientID)
		assert.NotContains(t, strings.ToLower(m.rotation()["next_step"].(string)), "revoke client shop-2")
	})
	t.Run("the secret alone", func(t *testing.T) {
		m := newMount(t)
		m.configure()
		m.sandbox.CreateClient(testClientID, newSecret)
		m.write("rotate-root", "client_id", testClientID, "client_secret", newSecret)
		m.promote()
		m.write("rotate-root/complete", "force", true)
		assert.Contains(t, m.rotation()["next_step"], "Revoke the old secret of client shop-1")
	})
}

// A check that takes long does not bring back a configuration that was replaced
// meanwhile.
func TestCheckOvertakenByAConfigWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Idle)
		release := m.sandbox.Hold()
		checked := make(chan struct{})
		go func() {
			defer close(checked)
			m.write("rotate-root/check")
		}()
		synctest.Wait()
		m.do(logical.UpdateOperation, "config", newPair("verify_connection", false))
		release()
		<-checked
		assert.Equal(t, newClientID, m.servedClientID())
		assert.Equal(t, newClientID, m.status()["client_id"])
	})
}

// A wall clock that was set back locks no one out.
func TestCheckAfterTheClockWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRotatingMount(t, rotation.Idle)
		skew := time.Duration(0)
		m.skewWallClock(func() time.Duration { return skew })
		m.write("rotate-root/check")
		skew = -time.Hour
		m.write("rotate-root/check")
	})
}

// A token that an app reports while Fuuffy is held off is suspect too.
func TestReportDuringAHoldOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		time.Sleep(time.Minute)
		m.sandbox.SetFault(faultRateLimited)
		m.write("rotate-root/check")
		requests := m.requests()
		m.refused(logical.UpdateOperation, "token", pairs("rejected_token", token))
		assert.Equal(t, requests, m.requests(), "Fuuffy was not asked")
		assert.Equal(t, "suspect", m.status()["token_state"])
		require.Len(t, m.read().Warnings, 1)
	})
}

// upstream_since is when the state began, not when it was last confirmed.
func TestUpstreamSinceOutlivesASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure()
		m.read()
		time.Sleep(52 * time.Minute)
		m.read()
		synctest.Wait()
		assert.Equal(t, 2, m.requests())
		assert.Equal(t, "2000-01-01T00:00:00Z", m.status()["upstream_since"])
		assert.Equal(t, "2000-01-01T00:52:00Z", m.status()["last_success"])
	})
}

// The verdict is as bad as the worst of several conditions.
func TestHealthIsTheWorstOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.CreateClient(newClientID, newSecret)
		m.write("rotate-root", "client_id", newClientID, "client_secret", newSecret, "compromised", true)
		require.Equal(t, "degraded", m.status()["health"])
		m.sandbox.SetFault(faultUnavailable)
		m.loseToken()
		m.refused(logical.ReadOperation, "token", nil)
		assert.Equal(t, "failing", m.status()["health"])
	})
}

// The log tells of an outage that an operator's check found, and of its end.
func TestCheckIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.read()
		m.sandbox.SetFault(faultUnavailable)
		m.write("rotate-root/check")
		time.Sleep(checkInterval)
		m.write("rotate-root/check")
		assert.Equal(t, 1, m.log.count("Fuuffy issues no token"))
		m.sandbox.ClearFault()
		time.Sleep(checkInterval)
		m.write("rotate-root/check")
		assert.Equal(t, 1, m.log.count("Fuuffy issues tokens again"))
	})
}
