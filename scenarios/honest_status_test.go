// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

const checkCommand = "write rotate-root/check"

// assertCheckFirst holds the next step to begin with a check: nothing irreversible comes before.
func assertCheckFirst(m *mounttest.Mount, why string) {
	m.T.Helper()
	next := nextStep(m)
	before, _, found := strings.Cut(next, "vault ")
	assert.True(m.T, found, "%s: no command: %s", why, next)
	assert.Empty(m.T, toldToRevoke(before), "%s: %s", why, next)
	if names := names(m, next); assert.NotEmpty(m.T, names, why) {
		assert.Equal(m.T, checkCommand, names[0], "%s: %s", why, next)
	}
}

// assertRevokeOld holds the next step to be the last of a routine rotation.
func assertRevokeOld(m *mounttest.Mount) {
	m.T.Helper()
	next := nextStep(m)
	assertToldToRevoke(m.T, "client shop-1", next)
	assert.NotContains(m.T, next, "Wait until")
	if names := names(m, next); assert.NotEmpty(m.T, names) {
		assert.Equal(m.T, "write rotate-root/complete", names[0], next)
	}
}

// past sleeps until a time that the rotation names.
func past(m *mounttest.Mount, field string) {
	m.T.Helper()
	after, err := time.Parse(time.RFC3339, m.Rotation()[field].(string))
	require.NoError(m.T, err)
	time.Sleep(time.Until(after) + time.Second)
}

// Defect 40: the new client is dead at Fuuffy, and no one reads. Revoking the old one, the only one
// that works, would be an outage.
func TestNothingIrreversibleWithoutAFreshSuccess(t *testing.T) {
	for _, after := range []time.Duration{2 * time.Hour, 8 * 24 * time.Hour} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, rotation.Promoted)
				m.Sandbox.RevokeClient(mounttest.NewClientID)
				time.Sleep(after)
				assertCheckFirst(m, "nobody asked Fuuffy since")
				status := m.Do(logical.ReadOperation, "status", nil)
				assert.Empty(t, toldToRevoke(strings.Join(status.Warnings, "\n")))

				data := m.Write("rotate-root/check").Data
				assert.Contains(t, data["current"], "revoked: ")
				assert.Equal(t, "works", data["previous"])
				assert.Empty(t, toldToRevoke(data["next_step"].(string)), data["next_step"])
				assert.Equal(t, "write rotate-root/rollback", names(m, nextStep(m))[0])
			})
		})
	}
}

// Defect 40: how fresh the success must be: since revoke_old_after, within an hour, and the last
// word.
func TestRevokeAfterAFreshSuccess(t *testing.T) {
	t.Run("a refresh before revoke_old_after is not enough", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewRotating(t, rotation.Promoted)
			m.Read()
			for range 54 { // The refresh comes within these.
				time.Sleep(time.Minute)
				m.Tick()
				m.Read()
			}
			require.Equal(t, "ok", m.Status()["upstream_state"])
			past(m, "revoke_old_after")
			assertCheckFirst(m, "the last success is from before")
			assert.Equal(t, "works", m.Write("rotate-root/check").Data["current"])
			assertRevokeOld(m)
		})
	})
	t.Run("a check, then an hour", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewRotating(t, rotation.Promoted)
			past(m, "revoke_old_after")
			m.Write("rotate-root/check")
			assertRevokeOld(m)
			time.Sleep(59 * time.Minute)
			assertRevokeOld(m)
			time.Sleep(2 * time.Minute)
			assertCheckFirst(m, "the success is older than an hour")
		})
	})
	t.Run("a read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewRotating(t, rotation.Promoted)
			past(m, "revoke_old_after")
			m.LoseToken()
			m.Read()
			assertRevokeOld(m)
		})
	})
	for name, fails := range map[string]mounttest.GatewayAnswer{"an outage": mounttest.ProvesNothing["503"], "a firewall": mounttest.FirewallPage, "a login page": mounttest.ProvesNothing["200 without a token"]} {
		t.Run("a check, then "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := mounttest.NewPairsMount(t, rotation.Promoted)
				past(m, "revoke_old_after")
				m.Write("rotate-root/check")
				assertRevokeOld(m)
				time.Sleep(time.Minute)
				between[mounttest.NewClientID] = fails
				m.Write("rotate-root/check")
				assert.Empty(t, toldToRevoke(nextStep(m)), nextStep(m))
				assert.NotContains(t, names(m, nextStep(m)), "write rotate-root/complete")

				delete(between, mounttest.NewClientID)
				time.Sleep(time.Minute)
				assert.Equal(t, "works", m.Write("rotate-root/check").Data["current"])
				time.Sleep(time.Minute)
				past(m, "revoke_old_after") // The fallback's token counts too.
				m.Write("rotate-root/check")
				assertRevokeOld(m)
			})
		})
	}
	t.Run("the old one is revoked already", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.NewRotating(t, rotation.Promoted)
			m.Sandbox.RevokeClient(mounttest.ClientID)
			past(m, "revoke_old_after")
			m.Write("rotate-root/check")
			assert.Equal(t, "write rotate-root/complete", names(m, nextStep(m))[0])
			assert.Empty(t, toldToRevoke(nextStep(m)), nextStep(m))
			time.Sleep(3 * time.Hour)
			assertCheckFirst(m, "forgetting the old secret is irreversible too")
		})
	})
}

// Defect 41: settings that no request was made with are untested, and the next step is a check. It
// finds out.
func TestUntestedIsNotHealthy(t *testing.T) {
	wrongCA := func(m *mounttest.Mount) {
		m.Transport = func(string) (http.RoundTripper, error) {
			return mounttest.RoundTripFunc(func(*http.Request) (*http.Response, error) {
				return nil, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
			}), nil
		}
	}
	for name, tt := range map[string]struct {
		prepare func(*mounttest.Mount)
		health  string
		names   string // what the advice after the check names
	}{
		"all is well":    {func(*mounttest.Mount) {}, "ok", "No action needed until"},
		"a wrong CA":     {wrongCA, "failing", "ca_cert="},
		"a login page":   {func(m *mounttest.Mount) { m.Between(mounttest.Answers{mounttest.ClientID: loginPage}) }, "failing", "base_url"},
		"a wrong secret": {func(m *mounttest.Mount) { m.Sandbox.CreateClient(mounttest.ClientID, "other") }, "failing", "vault write fuuffy/config client_id=<client_id> client_secret=-"},
		"Fuuffy is down": {func(m *mounttest.Mount) { m.Sandbox.SetFault(mounttest.FaultUnavailable) }, "failing", "vault write -f fuuffy/rotate-root/check"},
		"another address": {func(m *mounttest.Mount) {
			m.Between(mounttest.Answers{mounttest.ClientID: mounttest.ProvesNothing["404 page"]})
		}, "failing", "base_url"},
		"a firewall's 403": {func(m *mounttest.Mount) { m.Between(mounttest.Answers{mounttest.ClientID: mounttest.FirewallPage}) }, "failing", "vault write fuuffy/"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.New(t)
				tt.prepare(m)
				m.Configure("verify_connection", false)
				require.Zero(t, m.Requests())
				status := m.Status()
				assert.Equal(t, "untested", status["health"])
				assert.NotEqual(t, "ok", status["upstream_state"], "nobody asked")
				assertCheckFirst(m, "nobody asked")

				m.Write("rotate-root/check")
				assert.Equal(t, tt.health, m.Status()["health"])
				assert.Contains(t, nextStep(m), tt.names)
				m.Commands(nextStep(m))
			})
		})
	}
}

// What ends untested: an answer of Fuuffy's to the current settings, whoever asked.
func TestUntestedUntilFuuffyAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		happen func(*mounttest.Mount)
		want   string
	}{
		"a read":         {func(m *mounttest.Mount) { m.Read() }, "ok"},
		"a tested write": {func(m *mounttest.Mount) { m.Do(logical.UpdateOperation, "config", mounttest.NewPair()) }, "ok"},
		"a setting":      {func(m *mounttest.Mount) { m.Write("config", "request_timeout", "9s") }, "untested"},
		"a restart":      {func(m *mounttest.Mount) { m.Restart() }, "untested"},
		"a read, then new": {func(m *mounttest.Mount) {
			m.Read()
			m.Write("config", "client_id", mounttest.NewClientID, "client_secret", mounttest.NewSecret, "verify_connection", false)
		}, "untested"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				require.Equal(t, "untested", m.Status()["health"])
				tt.happen(m)
				assert.Equal(t, tt.want, m.Status()["health"])
			})
		})
	}
}

// That the credentials were tested survives their token: an idle mount is well after a restart.
func TestTestedSurvivesARestart(t *testing.T) {
	for name, tt := range map[string]struct {
		write func(*mounttest.Mount)
		want  string
	}{
		"tested":   {func(m *mounttest.Mount) { m.Configure() }, "ok"},
		"untested": {func(m *mounttest.Mount) { m.Configure("verify_connection", false) }, "untested"},
		"untested, then moved": {func(m *mounttest.Mount) {
			m.Configure()
			m.Write("config", "environment", "testing", "client_secret", mounttest.Secret, "verify_connection", false)
		}, "untested"},
		"untested, then rotated": {func(m *mounttest.Mount) {
			m.Configure("verify_connection", false)
			m.Stage()
			m.Promote()
			m.Sandbox.RevokeClient(mounttest.ClientID)
			m.Write("rotate-root/complete")
		}, "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.New(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
				tt.write(m)
				time.Sleep(2 * time.Hour) // The token, if there is one, expires.
				m.Restart()
				assert.Equal(t, tt.want, m.Status()["health"])
			})
		})
	}
}

// A mount that is well needs nothing until the reminder starts.
func TestNoActionNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		assert.Equal(t, "No action needed until 2000-03-17.", nextStep(m))
		assert.Equal(t, "ok", m.Status()["health"])
	})
}

// loginPage is what a captive portal or an identity-aware proxy answers.
var loginPage = mounttest.GatewayAnswer{Status: http.StatusOK, ContentType: "text/html; charset=utf-8", Body: "<!DOCTYPE html><html><head><title>Sign in</title></head><form></form></html>"}

var loginWords = regexp.MustCompile(`(?i)login|log-in|log in|sign-in|proxy`)

// Defect 42: a page with status 200 names base_url and what may have answered, on reads, status,
// and writes.
func TestLoginPageNamesTheAddress(t *testing.T) {
	pages := map[string]mounttest.GatewayAnswer{
		"a login page":               loginPage,
		"a page without a type":      {Status: http.StatusOK, Body: loginPage.Body},
		"JSON of somebody else":      {Status: http.StatusOK, ContentType: mounttest.JSONType, Body: `{"login": "https://sso.example.com"}`},
		"a page with another status": {Status: http.StatusAccepted, ContentType: mounttest.HTMLType, Body: loginPage.Body},
	}
	hears := func(t *testing.T, text string) {
		t.Helper()
		assert.Contains(t, text, "base_url")
		assert.Regexp(t, loginWords, text)
		assert.NotContains(t, text, "firewalls")
		assert.NotContains(t, text, "Once Fuuffy responds again")
		assert.NotContains(t, text, "<html>")
	}
	for name, page := range pages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := mounttest.NewPairsMount(t, rotation.Idle)
				between[mounttest.ClientID], between[mounttest.NewClientID] = page, page
				m.LoseToken()
				for _, r := range []adviceRequest{
					{logical.ReadOperation, "token", nil},
					{logical.ReadOperation, "token", nil}, // While the engine waits to try again.
					{logical.ReadOperation, "status", nil},
					{logical.ReadOperation, "rotate-root", nil},
					{logical.UpdateOperation, "config", mounttest.NewPair()},
					{logical.UpdateOperation, "rotate-root", mounttest.NewPair()},
					{logical.UpdateOperation, "rotate-root/check", nil},
				} {
					text := m.Said(r.operation, r.path, r.data)
					hears(t, text)
					m.Commands(text)
				}
			})
		})
		t.Run(name+", first write", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.New(t)
				m.Between(mounttest.Answers{mounttest.ClientID: page})
				hears(t, m.Said(logical.CreateOperation, "config", firstPair))
			})
		})
	}
}

// Defect 43: in a long outage, the status says until when apps keep the cached token, and offers
// stale_if_error while that would help.
func TestOutageNamesItsDeadline(t *testing.T) {
	offers := func(m *mounttest.Mount) bool {
		m.T.Helper()
		return slices.ContainsFunc(m.Commands(mounttest.ToldBy(m.T, m.Do(logical.ReadOperation, "status", nil), nil)...), func(c mounttest.Typed) bool {
			return c.Path == "config" && c.Fields["stale_if_error"] == "true"
		})
	}
	tell := func(m *mounttest.Mount) string {
		m.T.Helper()
		return m.Said(logical.ReadOperation, "status", nil)
	}
	outage := func(t *testing.T, settings ...any) *mounttest.Mount {
		t.Helper()
		m := mounttest.New(t)
		m.Configure(settings...)
		m.Read()
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		time.Sleep(52 * time.Minute)
		m.Read()
		synctest.Wait()
		time.Sleep(10 * time.Second) // The attempts in the background.
		require.Equal(t, "unavailable", m.Status()["upstream_state"])
		return m
	}
	t.Run("without stale_if_error", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := outage(t)
			served, expires := m.Status()["token_served_until"].(string), m.Status()["token_expires_at"].(string)
			assert.Contains(t, tell(m), served, "until when apps keep the token")
			assert.True(t, offers(m), "it would help")

			time.Sleep(5 * time.Minute) // In the buffer.
			refusedToken(m)
			assert.Equal(t, "failing", m.Status()["health"])
			assert.Contains(t, tell(m), expires, "until when it would help")
			assert.True(t, offers(m))

			time.Sleep(5 * time.Minute) // Expired.
			refusedToken(m)
			assert.Equal(t, "expired", m.Status()["token_state"])
			assert.False(t, offers(m), "it doesn't help now")
		})
	})
	t.Run("with stale_if_error", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := outage(t, "stale_if_error", true)
			expires := m.Status()["token_expires_at"].(string)
			assert.Contains(t, tell(m), expires, "until when apps keep the token")
			assert.False(t, offers(m), "it is on")

			time.Sleep(5 * time.Minute) // In the buffer.
			token := m.ReadToken()
			assert.True(t, m.Sandbox.TokenAlive(token))
			status := m.Status()
			assert.Equal(t, "stale", status["token_state"])
			assert.Equal(t, expires, status["token_served_until"])
			assert.Equal(t, "degraded", status["health"])
			assert.Contains(t, tell(m), expires)
			assert.False(t, offers(m))
		})
	})
	t.Run("what is offered helps", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := outage(t)
			time.Sleep(5 * time.Minute)
			refusedToken(m)
			m.Write("config", "stale_if_error", true)
			assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
			assert.Equal(t, "stale", m.Status()["token_state"])
		})
	})
	t.Run("a rejection", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := mounttest.New(t)
			m.Configure()
			m.Read()
			m.Sandbox.RevokeClient(mounttest.ClientID)
			time.Sleep(57 * time.Minute)
			refusedToken(m)
			assert.False(t, offers(m), "it is for outages")
		})
	})
}

// Defect 45: the client is rejected and the only token is reported as dead: every app fails.
func TestRejectedAndSuspectIsFailing(t *testing.T) {
	for name, answer := range map[string]mounttest.GatewayAnswer{"revoked": mounttest.ProvesDeath["401"], "a firewall": mounttest.FirewallPage} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := mounttest.NewPairsMount(t, rotation.Idle)
				token := m.ReadToken()
				time.Sleep(time.Minute)
				m.Sandbox.RevokeTokens()
				between[mounttest.ClientID] = answer
				m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", token))
				require.Equal(t, "rejected", m.Status()["upstream_state"])
				assert.Equal(t, "failing", m.Status()["health"])
				assert.Equal(t, "suspect", m.Status()["token_state"])
				require.NotEmpty(t, m.Commands(nextStep(m)))
			})
		})
	}
}

// Defect 46: both pairs are revoked, and nothing leaked. The way out records no leak.
func TestBothPairsRevokedWithoutALeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.LoseToken()
		text := m.Said(logical.ReadOperation, "token", nil)
		for _, told := range []string{nextStep(m), text} {
			assert.NotContains(t, told, "compromised=true")
			assert.Contains(t, names(m, told), "write rotate-root", told)
		}
		at := slices.Index(names(m, nextStep(m)), "write rotate-root")
		resp, err := enter(m, m.Commands(nextStep(m))[at], "client_id", mounttest.ThirdID, "client_secret", mounttest.ThirdSecret)
		require.NoError(t, err)
		require.False(t, resp.IsError(), "%v", resp)
		assert.Equal(t, rotation.Staged, resp.Data["state"])
		assert.Equal(t, mounttest.ThirdID, resp.Data["staged_client_id"])
		assert.Nil(t, resp.Data["previous_client_id"])
		assert.Equal(t, false, resp.Data["compromised"])

		assert.Equal(t, "write rotate-root/promote", names(m, nextStep(m))[0])
		m.Promote()
		assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
		time.Sleep(2 * time.Hour)
		m.Write("rotate-root/complete")
		assert.Empty(t, unrevoked(m))
		assert.NotContains(t, m.Rotation()["history"], "compromised")
		assert.Equal(t, "ok", m.Status()["health"])
	})
}

// Defect 46: while promoted, the next pair is staged as soon as Fuuffy proves that the previous one
// is revoked, and not before. The step finds out.
func TestStageWhilePromoted(t *testing.T) {
	for name, tt := range map[string]struct {
		happen   func(m *mounttest.Mount, between mounttest.Answers)
		accepted bool
	}{
		"both work":               {func(*mounttest.Mount, mounttest.Answers) {}, false},
		"the previous is revoked": {func(m *mounttest.Mount, _ mounttest.Answers) { m.Sandbox.RevokeClient(mounttest.ClientID) }, true},
		"both are revoked": {func(m *mounttest.Mount, _ mounttest.Answers) {
			m.Sandbox.RevokeClient(mounttest.ClientID)
			m.Sandbox.RevokeClient(mounttest.NewClientID)
		}, true},
		"a firewall answers for the previous": {func(_ *mounttest.Mount, between mounttest.Answers) {
			between[mounttest.ClientID] = mounttest.FirewallPage
		}, false},
		"an outage of the previous": {func(_ *mounttest.Mount, between mounttest.Answers) {
			between[mounttest.ClientID] = mounttest.ProvesNothing["503"]
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := mounttest.NewPairsMount(t, rotation.Promoted)
				tt.happen(m, between)
				before := m.Rotation()
				if !tt.accepted {
					text := m.Said(logical.UpdateOperation, "rotate-root", third)
					assert.Contains(t, text, "client shop-1")
					assert.Equal(t, before["history"], m.Rotation()["history"])
					assert.Equal(t, rotation.Promoted, m.Rotation()["state"])
					m.Commands(text)
					return
				}
				data := m.Do(logical.UpdateOperation, "rotate-root", third).Data
				assert.Equal(t, rotation.Staged, data["state"])
				assert.Equal(t, mounttest.NewClientID, data["client_id"])
				assert.Equal(t, mounttest.ThirdID, data["staged_client_id"])
				assert.Nil(t, data["unrevoked"])
				assert.NotContains(t, data["history"], "compromised")
				m.Promote()
				assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
			})
		})
	}
}

// Defect 46: the current client leaked while promoted. The next pair with compromised=true is taken
// in immediately, whatever the previous one does.
func TestLeakOfTheCurrentClientWhilePromoted(t *testing.T) {
	for name, tt := range map[string]struct {
		state  string
		happen func(*mounttest.Mount)
		first  string // what the list says of shop-1
	}{
		"both work":                {rotation.Promoted, func(*mounttest.Mount) {}, "shop-1 ("},
		"the first is compromised": {mounttest.StateCompromised, func(*mounttest.Mount) {}, "shop-1 (compromised)"},
		"the first is proved revoked": {rotation.Promoted, func(m *mounttest.Mount) {
			m.Sandbox.RevokeClient(mounttest.ClientID)
			m.Write("rotate-root/check")
		}, ""},
		"the second is revoked": {rotation.Promoted, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.NewClientID) }, "shop-1 ("},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _ := mounttest.NewPairsMount(t, tt.state)
				tt.happen(m)
				data := m.Do(logical.UpdateOperation, "rotate-root", thirdLeaked).Data
				assert.Equal(t, rotation.Promoted, data["state"])
				assert.Equal(t, mounttest.ThirdID, data["client_id"])
				assert.Equal(t, mounttest.NewClientID, data["previous_client_id"])
				assert.Equal(t, true, data["compromised"])
				assert.Contains(t, linesOf(m, mounttest.NewClientID), "(compromised)")
				if tt.first == "" {
					assert.Empty(t, linesOf(m, mounttest.ClientID))
				} else {
					assert.Contains(t, linesOf(m, mounttest.ClientID), tt.first)
				}
				if tt.state == rotation.Promoted {
					assertRevokeFirst(t, "client shop-2", nextStep(m))
				} else { // Both leaked.
					assert.Regexp(t, revokeFirst, nextStep(m))
				}
				assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
				assert.Equal(t, mounttest.ThirdID, m.ServedClientID())
			})
		})
	}
}

// compromised=true with the current pair says that the previous one leaked.
func TestLeakOfThePreviousClientWhilePromoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Promoted)
		data := m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair("compromised", true)).Data
		assert.Equal(t, true, data["compromised"])
		assert.Equal(t, mounttest.NewClientID, data["client_id"])
		assert.Equal(t, mounttest.ClientID, data["previous_client_id"])
		assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
		assertRevokeFirst(t, "client shop-1", nextStep(m))
		m.Commands(nextStep(m))
		m.Refused(logical.UpdateOperation, "rotate-root/rollback", nil)
	})
}

// Defect 46: the way out is named where an operator looks for it.
func TestLeakOfTheCurrentClientIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Promoted)
		text := nextStep(m) + "\n" + m.Said(logical.UpdateOperation, "rotate-root", third)
		assert.True(t, slices.ContainsFunc(m.Commands(text), func(c mounttest.Typed) bool {
			return c.String() == "write rotate-root" && c.Fields["compromised"] == "true"
		}), text)
	})
}

// Defect 47: what was proved moments ago isn't said to be open.
func TestProvedIsNotSaidToBeOpen(t *testing.T) {
	t.Run("rollback after a check", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, _ := mounttest.NewPairsMount(t, rotation.Promoted)
			m.Sandbox.RevokeClient(mounttest.NewClientID)
			require.Equal(t, "works", m.Write("rotate-root/check").Data["previous"])
			text := m.Said(logical.UpdateOperation, "rotate-root/rollback", nil)
			assert.NotContains(t, text, "may still work")
			assert.Empty(t, unrevoked(m))
			assert.NotContains(t, toldToRevoke(nextStep(m)), "client shop-2")
		})
	})
	t.Run("discard after a check", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, _ := mounttest.NewPairsMount(t, rotation.Staged)
			m.Sandbox.RevokeClient(mounttest.NewClientID)
			m.Write("rotate-root/check")
			m.Do(logical.DeleteOperation, "rotate-root", nil)
			assert.Empty(t, unrevoked(m))
		})
	})
	t.Run("rollback after a 403 page", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, between := mounttest.NewPairsMount(t, rotation.Promoted)
			between[mounttest.NewClientID] = mounttest.FirewallPage
			m.Write("rotate-root/check")
			m.Write("rotate-root/rollback")
			assert.Contains(t, linesOf(m, mounttest.NewClientID), "(rolled back)", "a page proves nothing")
		})
	})
	t.Run("complete before revoke_old_after", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, _ := mounttest.NewPairsMount(t, rotation.Promoted)
			m.Sandbox.RevokeClient(mounttest.ClientID)
			after := m.Rotation()["revoke_old_after"].(string)
			warnings := strings.Join(m.Write("rotate-root/complete").Warnings, "\n")
			assert.Contains(t, warnings, after, "apps may hold its tokens until then")
			assert.NotContains(t, strings.ToLower(warnings), "once it is revoked", "it is")
		})
	})
}

// Defect 47: each failure has its status once.
func TestStatusIsNamedOnce(t *testing.T) {
	twice := regexp.MustCompile(`\(HTTP status \d+\)\W*\(HTTP status \d+\)`)
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.LoseToken()
		_, text := refusedToken(m)
		assert.NotRegexp(t, twice, text)
		assert.Contains(t, text, "401")
		status := m.Do(logical.ReadOperation, "status", nil)
		assert.NotRegexp(t, twice, strings.Join(status.Warnings, "\n"))
		assert.NotRegexp(t, twice, status.Data["upstream_message"])
	})
}

// Defect 48: a token that can't be saved would be lost by a restart. The status warns of it until
// one is saved.
func TestUnsavedTokenIsWarnedOf(t *testing.T) {
	saving := regexp.MustCompile(`(?i)\b(saved?|saving|stored?|storage)\b`)
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		m.LoseToken()
		m.Storage.Failing(mounttest.FailAll("put", mounttest.TokenKey))
		m.Read()
		resp := m.Do(logical.ReadOperation, "status", nil)
		assert.Regexp(t, saving, strings.Join(resp.Warnings, "\n"))

		m.Storage.Failing(nil)
		m.LoseToken()
		m.Read()
		resp = m.Do(logical.ReadOperation, "status", nil)
		assert.Empty(t, resp.Warnings)
		assert.Equal(t, "ok", resp.Data["health"])
	})
}
