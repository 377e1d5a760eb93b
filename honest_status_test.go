// SPDX-License-Identifier: MPL-2.0

package fuuffy

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

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

const checkCommand = "write rotate-root/check"

// assertCheckFirst holds the next step to begin with a check: nothing irreversible comes before.
func (m *mount) assertCheckFirst(why string) {
	m.t.Helper()
	next := m.nextStep()
	before, _, found := strings.Cut(next, "vault ")
	assert.True(m.t, found, "%s: no command: %s", why, next)
	assert.Empty(m.t, toldToRevoke(before), "%s: %s", why, next)
	if names := m.names(next); assert.NotEmpty(m.t, names, why) {
		assert.Equal(m.t, checkCommand, names[0], "%s: %s", why, next)
	}
}

// assertRevokeOld holds the next step to be the last of a routine rotation.
func (m *mount) assertRevokeOld() {
	m.t.Helper()
	next := m.nextStep()
	assertToldToRevoke(m.t, "client shop-1", next)
	assert.NotContains(m.t, next, "Wait until")
	if names := m.names(next); assert.NotEmpty(m.t, names) {
		assert.Equal(m.t, "write rotate-root/complete", names[0], next)
	}
}

// past sleeps until a time that the rotation names.
func (m *mount) past(field string) {
	m.t.Helper()
	after, err := time.Parse(time.RFC3339, m.rotation()[field].(string))
	require.NoError(m.t, err)
	time.Sleep(time.Until(after) + time.Second)
}

// Defect 40: the new client is dead at Fuuffy, and no one reads. Revoking the old one, the only one
// that works, would be an outage.
func TestNothingIrreversibleWithoutAFreshSuccess(t *testing.T) {
	for _, after := range []time.Duration{2 * time.Hour, 8 * 24 * time.Hour} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, rotation.Promoted)
				m.sandbox.RevokeClient(newClientID)
				time.Sleep(after)
				m.assertCheckFirst("nobody asked Fuuffy since")
				status := m.do(logical.ReadOperation, "status", nil)
				assert.Empty(t, toldToRevoke(strings.Join(status.Warnings, "\n")))

				data := m.write("rotate-root/check").Data
				assert.Contains(t, data["current"], "revoked: ")
				assert.Equal(t, "works", data["previous"])
				assert.Empty(t, toldToRevoke(data["next_step"].(string)), data["next_step"])
				assert.Equal(t, "write rotate-root/rollback", m.names(m.nextStep())[0])
			})
		})
	}
}

// Defect 40: how fresh the success must be: since revoke_old_after, within an hour, and the last
// word.
func TestRevokeAfterAFreshSuccess(t *testing.T) {
	t.Run("a refresh before revoke_old_after is not enough", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newRotatingMount(t, rotation.Promoted)
			m.read()
			for range 54 { // The refresh comes within these.
				time.Sleep(time.Minute)
				m.tick()
				m.read()
			}
			require.Equal(t, "ok", m.status()["upstream_state"])
			m.past("revoke_old_after")
			m.assertCheckFirst("the last success is from before")
			assert.Equal(t, "works", m.write("rotate-root/check").Data["current"])
			m.assertRevokeOld()
		})
	})
	t.Run("a check, then an hour", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newRotatingMount(t, rotation.Promoted)
			m.past("revoke_old_after")
			m.write("rotate-root/check")
			m.assertRevokeOld()
			time.Sleep(59 * time.Minute)
			m.assertRevokeOld()
			time.Sleep(2 * time.Minute)
			m.assertCheckFirst("the success is older than an hour")
		})
	})
	t.Run("a read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newRotatingMount(t, rotation.Promoted)
			m.past("revoke_old_after")
			m.loseToken()
			m.read()
			m.assertRevokeOld()
		})
	})
	for name, fails := range map[string]gatewayAnswer{"an outage": provesNothing["503"], "a firewall": firewallPage, "a login page": provesNothing["200 without a token"]} {
		t.Run("a check, then "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := newPairsMount(t, rotation.Promoted)
				m.past("revoke_old_after")
				m.write("rotate-root/check")
				m.assertRevokeOld()
				time.Sleep(time.Minute)
				between[newClientID] = fails
				m.write("rotate-root/check")
				assert.Empty(t, toldToRevoke(m.nextStep()), m.nextStep())
				assert.NotContains(t, m.names(m.nextStep()), "write rotate-root/complete")

				delete(between, newClientID)
				time.Sleep(time.Minute)
				assert.Equal(t, "works", m.write("rotate-root/check").Data["current"])
				time.Sleep(time.Minute)
				m.past("revoke_old_after") // The fallback's token counts too.
				m.write("rotate-root/check")
				m.assertRevokeOld()
			})
		})
	}
	t.Run("the old one is revoked already", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newRotatingMount(t, rotation.Promoted)
			m.sandbox.RevokeClient(testClientID)
			m.past("revoke_old_after")
			m.write("rotate-root/check")
			assert.Equal(t, "write rotate-root/complete", m.names(m.nextStep())[0])
			assert.Empty(t, toldToRevoke(m.nextStep()), m.nextStep())
			time.Sleep(3 * time.Hour)
			m.assertCheckFirst("forgetting the old secret is irreversible too")
		})
	})
}

// Defect 41: settings that no request was made with are untested, and the next step is a check. It
// finds out.
func TestUntestedIsNotHealthy(t *testing.T) {
	wrongCA := func(m *mount) {
		m.transport = func(string) (http.RoundTripper, error) {
			return roundTripFunc(func(*http.Request) (*http.Response, error) {
				return nil, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
			}), nil
		}
	}
	for name, tt := range map[string]struct {
		prepare func(*mount)
		health  string
		names   string // what the advice after the check names
	}{
		"all is well":      {func(*mount) {}, "ok", "No action needed until"},
		"a wrong CA":       {wrongCA, "failing", "ca_cert="},
		"a login page":     {func(m *mount) { m.between(answers{testClientID: loginPage}) }, "failing", "base_url"},
		"a wrong secret":   {func(m *mount) { m.sandbox.CreateClient(testClientID, "other") }, "failing", "vault write fuuffy/config client_id=<client_id> client_secret=-"},
		"Fuuffy is down":   {func(m *mount) { m.sandbox.SetFault(faultUnavailable) }, "failing", "vault write -f fuuffy/rotate-root/check"},
		"another address":  {func(m *mount) { m.between(answers{testClientID: provesNothing["404 page"]}) }, "failing", "base_url"},
		"a firewall's 403": {func(m *mount) { m.between(answers{testClientID: firewallPage}) }, "failing", "vault write fuuffy/"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				tt.prepare(m)
				m.configure("verify_connection", false)
				require.Zero(t, m.requests())
				status := m.status()
				assert.Equal(t, "untested", status["health"])
				assert.NotEqual(t, "ok", status["upstream_state"], "nobody asked")
				m.assertCheckFirst("nobody asked")

				m.write("rotate-root/check")
				assert.Equal(t, tt.health, m.status()["health"])
				assert.Contains(t, m.nextStep(), tt.names)
				m.commands(m.nextStep())
			})
		})
	}
}

// What ends untested: an answer of Fuuffy's to the current settings, whoever asked.
func TestUntestedUntilFuuffyAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		happen func(*mount)
		want   string
	}{
		"a read":         {func(m *mount) { m.read() }, "ok"},
		"a tested write": {func(m *mount) { m.do(logical.UpdateOperation, "config", newPair()) }, "ok"},
		"a setting":      {func(m *mount) { m.write("config", "request_timeout", "9s") }, "untested"},
		"a restart":      {func(m *mount) { m.restart() }, "untested"},
		"a read, then new": {func(m *mount) {
			m.read()
			m.write("config", "client_id", newClientID, "client_secret", newSecret, "verify_connection", false)
		}, "untested"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				require.Equal(t, "untested", m.status()["health"])
				tt.happen(m)
				assert.Equal(t, tt.want, m.status()["health"])
			})
		})
	}
}

// That the credentials were tested survives their token: an idle mount is well after a restart.
func TestTestedSurvivesARestart(t *testing.T) {
	for name, tt := range map[string]struct {
		write func(*mount)
		want  string
	}{
		"tested":   {func(m *mount) { m.configure() }, "ok"},
		"untested": {func(m *mount) { m.configure("verify_connection", false) }, "untested"},
		"untested, then moved": {func(m *mount) {
			m.configure()
			m.write("config", "environment", "testing", "client_secret", testSecret, "verify_connection", false)
		}, "untested"},
		"untested, then rotated": {func(m *mount) {
			m.configure("verify_connection", false)
			m.stage()
			m.promote()
			m.sandbox.RevokeClient(testClientID)
			m.write("rotate-root/complete")
		}, "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				m.sandbox.CreateClient(newClientID, newSecret)
				tt.write(m)
				time.Sleep(2 * time.Hour) // The token, if there is one, expires.
				m.restart()
				assert.Equal(t, tt.want, m.status()["health"])
			})
		})
	}
}

// A mount that is well needs nothing until the reminder starts.
func TestNoActionNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure()
		assert.Equal(t, "No action needed until 2000-03-17.", m.nextStep())
		assert.Equal(t, "ok", m.status()["health"])
	})
}

// loginPage is what a captive portal or an identity-aware proxy answers.
var loginPage = gatewayAnswer{status: http.StatusOK, contentType: "text/html; charset=utf-8", body: "<!DOCTYPE html><html><head><title>Sign in</title></head><form></form></html>"}

var loginWords = regexp.MustCompile(`(?i)login|log-in|log in|sign-in|proxy`)

// Defect 42: a page with status 200 names base_url and what may have answered, on reads, status,
// and writes.
func TestLoginPageNamesTheAddress(t *testing.T) {
	pages := map[string]gatewayAnswer{
		"a login page":               loginPage,
		"a page without a type":      {status: http.StatusOK, body: loginPage.body},
		"JSON of somebody else":      {status: http.StatusOK, contentType: jsonType, body: `{"login": "https://sso.example.com"}`},
		"a page with another status": {status: http.StatusAccepted, contentType: htmlType, body: loginPage.body},
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
				m, between := newPairsMount(t, rotation.Idle)
				between[testClientID], between[newClientID] = page, page
				m.loseToken()
				for _, r := range []adviceRequest{
					{logical.ReadOperation, "token", nil},
					{logical.ReadOperation, "token", nil}, // While the engine waits to try again.
					{logical.ReadOperation, "status", nil},
					{logical.ReadOperation, "rotate-root", nil},
					{logical.UpdateOperation, "config", newPair()},
					{logical.UpdateOperation, "rotate-root", newPair()},
					{logical.UpdateOperation, "rotate-root/check", nil},
				} {
					text := m.said(r.operation, r.path, r.data)
					hears(t, text)
					m.commands(text)
				}
			})
		})
		t.Run(name+", first write", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				m.between(answers{testClientID: page})
				hears(t, m.said(logical.CreateOperation, "config", firstPair))
			})
		})
	}
}

// Defect 43: in a long outage, the status says until when apps keep the cached token, and offers
// stale_if_error while that would help.
func TestOutageNamesItsDeadline(t *testing.T) {
	offers := func(m *mount) bool {
		m.t.Helper()
		return slices.ContainsFunc(m.commands(toldBy(m.t, m.do(logical.ReadOperation, "status", nil), nil)...), func(c typed) bool {
			return c.path == "config" && c.fields["stale_if_error"] == "true"
		})
	}
	tell := func(m *mount) string {
		m.t.Helper()
		return m.said(logical.ReadOperation, "status", nil)
	}
	outage := func(t *testing.T, settings ...any) *mount {
		t.Helper()
		m := newMount(t)
		m.configure(settings...)
		m.read()
		m.sandbox.SetFault(faultUnavailable)
		time.Sleep(52 * time.Minute)
		m.read()
		synctest.Wait()
		time.Sleep(10 * time.Second) // The attempts in the background.
		require.Equal(t, "unavailable", m.status()["upstream_state"])
		return m
	}
	t.Run("without stale_if_error", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := outage(t)
			served, expires := m.status()["token_served_until"].(string), m.status()["token_expires_at"].(string)
			assert.Contains(t, tell(m), served, "until when apps keep the token")
			assert.True(t, offers(m), "it would help")

			time.Sleep(5 * time.Minute) // In the buffer.
			m.refusedToken()
			assert.Equal(t, "failing", m.status()["health"])
			assert.Contains(t, tell(m), expires, "until when it would help")
			assert.True(t, offers(m))

			time.Sleep(5 * time.Minute) // Expired.
			m.refusedToken()
			assert.Equal(t, "expired", m.status()["token_state"])
			assert.False(t, offers(m), "it doesn't help now")
		})
	})
	t.Run("with stale_if_error", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := outage(t, "stale_if_error", true)
			expires := m.status()["token_expires_at"].(string)
			assert.Contains(t, tell(m), expires, "until when apps keep the token")
			assert.False(t, offers(m), "it is on")

			time.Sleep(5 * time.Minute) // In the buffer.
			token := m.readToken()
			assert.True(t, m.sandbox.TokenAlive(token))
			status := m.status()
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
			m.refusedToken()
			m.write("config", "stale_if_error", true)
			assert.True(t, m.sandbox.TokenAlive(m.readToken()))
			assert.Equal(t, "stale", m.status()["token_state"])
		})
	})
	t.Run("a rejection", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newMount(t)
			m.configure()
			m.read()
			m.sandbox.RevokeClient(testClientID)
			time.Sleep(57 * time.Minute)
			m.refusedToken()
			assert.False(t, offers(m), "it is for outages")
		})
	})
}

// Defect 44: an app gets a 401 though everything is fresh. A check that works says how to report
// the token.
func TestCheckNamesTheReportOfAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure()
		m.sandbox.RevokeToken(m.readToken())
		text := m.said(logical.UpdateOperation, "rotate-root/check", nil)
		assert.Contains(t, text, "401")
		assert.True(t, slices.ContainsFunc(m.commands(text), func(c typed) bool {
			return c.String() == "write token" && c.fields["rejected_token"] == "-"
		}), "how to report the token: %s", text)
	})
}

// Defect 45: the client is rejected and the only token is reported as dead: every app fails.
func TestRejectedAndSuspectIsFailing(t *testing.T) {
	for name, answer := range map[string]gatewayAnswer{"revoked": provesDeath["401"], "a firewall": firewallPage} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := newPairsMount(t, rotation.Idle)
				token := m.readToken()
				time.Sleep(time.Minute)
				m.sandbox.RevokeTokens()
				between[testClientID] = answer
				m.refused(logical.UpdateOperation, "token", pairs("rejected_token", token))
				require.Equal(t, "rejected", m.status()["upstream_state"])
				assert.Equal(t, "failing", m.status()["health"])
				assert.Equal(t, "suspect", m.status()["token_state"])
				require.NotEmpty(t, m.commands(m.nextStep()))
			})
		})
	}
}

// Defect 46: both pairs are revoked, and nothing leaked. The way out records no leak.
func TestBothPairsRevokedWithoutALeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Promoted)
		m.sandbox.RevokeClient(testClientID)
		m.sandbox.RevokeClient(newClientID)
		m.loseToken()
		text := m.said(logical.ReadOperation, "token", nil)
		for _, told := range []string{m.nextStep(), text} {
			assert.NotContains(t, told, "compromised=true")
			assert.Contains(t, m.names(told), "write rotate-root", told)
		}
		at := slices.Index(m.names(m.nextStep()), "write rotate-root")
		resp, err := m.enter(m.commands(m.nextStep())[at], "client_id", thirdID, "client_secret", thirdSecret)
		require.NoError(t, err)
		require.False(t, resp.IsError(), "%v", resp)
		assert.Equal(t, rotation.Staged, resp.Data["state"])
		assert.Equal(t, thirdID, resp.Data["staged_client_id"])
		assert.Nil(t, resp.Data["previous_client_id"])
		assert.Equal(t, false, resp.Data["compromised"])

		assert.Equal(t, "write rotate-root/promote", m.names(m.nextStep())[0])
		m.promote()
		assert.True(t, m.sandbox.TokenAlive(m.readToken()))
		time.Sleep(2 * time.Hour)
		m.write("rotate-root/complete")
		assert.Empty(t, m.unrevoked())
		assert.NotContains(t, m.rotation()["history"], "compromised")
		assert.Equal(t, "ok", m.status()["health"])
	})
}

// Defect 46: while promoted, the next pair is staged as soon as Fuuffy proves that the previous one
// is revoked, and not before. The step finds out.
func TestStageWhilePromoted(t *testing.T) {
	for name, tt := range map[string]struct {
		happen   func(m *mount, between answers)
		accepted bool
	}{
		"both work":               {func(*mount, answers) {}, false},
		"the previous is revoked": {func(m *mount, _ answers) { m.sandbox.RevokeClient(testClientID) }, true},
		"both are revoked": {func(m *mount, _ answers) {
			m.sandbox.RevokeClient(testClientID)
			m.sandbox.RevokeClient(newClientID)
		}, true},
		"a firewall answers for the previous": {func(_ *mount, between answers) { between[testClientID] = firewallPage }, false},
		"an outage of the previous":           {func(_ *mount, between answers) { between[testClientID] = provesNothing["503"] }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := newPairsMount(t, rotation.Promoted)
				tt.happen(m, between)
				before := m.rotation()
				if !tt.accepted {
					text := m.said(logical.UpdateOperation, "rotate-root", third)
					assert.Contains(t, text, "client shop-1")
					assert.Equal(t, before["history"], m.rotation()["history"])
					assert.Equal(t, rotation.Promoted, m.rotation()["state"])
					m.commands(text)
					return
				}
				data := m.do(logical.UpdateOperation, "rotate-root", third).Data
				assert.Equal(t, rotation.Staged, data["state"])
				assert.Equal(t, newClientID, data["client_id"])
				assert.Equal(t, thirdID, data["staged_client_id"])
				assert.Nil(t, data["unrevoked"])
				assert.NotContains(t, data["history"], "compromised")
				m.promote()
				assert.True(t, m.sandbox.TokenAlive(m.readToken()))
			})
		})
	}
}

// Defect 46: the current client leaked while promoted. The next pair with compromised=true is taken
// in immediately, whatever the previous one does.
func TestLeakOfTheCurrentClientWhilePromoted(t *testing.T) {
	for name, tt := range map[string]struct {
		state  string
		happen func(*mount)
		first  string // what the list says of shop-1
	}{
		"both work":                {rotation.Promoted, func(*mount) {}, "shop-1 ("},
		"the first is compromised": {stateCompromised, func(*mount) {}, "shop-1 (compromised)"},
		"the first is proved revoked": {rotation.Promoted, func(m *mount) {
			m.sandbox.RevokeClient(testClientID)
			m.write("rotate-root/check")
		}, ""},
		"the second is revoked": {rotation.Promoted, func(m *mount) { m.sandbox.RevokeClient(newClientID) }, "shop-1 ("},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _ := newPairsMount(t, tt.state)
				tt.happen(m)
				data := m.do(logical.UpdateOperation, "rotate-root", thirdLeaked).Data
				assert.Equal(t, rotation.Promoted, data["state"])
				assert.Equal(t, thirdID, data["client_id"])
				assert.Equal(t, newClientID, data["previous_client_id"])
				assert.Equal(t, true, data["compromised"])
				assert.Contains(t, m.linesOf(newClientID), "(compromised)")
				if tt.first == "" {
					assert.Empty(t, m.linesOf(testClientID))
				} else {
					assert.Contains(t, m.linesOf(testClientID), tt.first)
				}
				if tt.state == rotation.Promoted {
					assertRevokeFirst(t, "client shop-2", m.nextStep())
				} else { // Both leaked.
					assert.Regexp(t, revokeFirst, m.nextStep())
				}
				assert.True(t, m.sandbox.TokenAlive(m.readToken()))
				assert.Equal(t, thirdID, m.servedClientID())
			})
		})
	}
}

// compromised=true with the current pair says that the previous one leaked.
func TestLeakOfThePreviousClientWhilePromoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Promoted)
		data := m.do(logical.UpdateOperation, "rotate-root", newPair("compromised", true)).Data
		assert.Equal(t, true, data["compromised"])
		assert.Equal(t, newClientID, data["client_id"])
		assert.Equal(t, testClientID, data["previous_client_id"])
		assert.Contains(t, m.linesOf(testClientID), "(compromised)")
		assertRevokeFirst(t, "client shop-1", m.nextStep())
		m.commands(m.nextStep())
		m.refused(logical.UpdateOperation, "rotate-root/rollback", nil)
	})
}

// Defect 46: the way out is named where an operator looks for it.
func TestLeakOfTheCurrentClientIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Promoted)
		text := m.nextStep() + "\n" + m.said(logical.UpdateOperation, "rotate-root", third)
		assert.True(t, slices.ContainsFunc(m.commands(text), func(c typed) bool {
			return c.String() == "write rotate-root" && c.fields["compromised"] == "true"
		}), text)
	})
}

// Defect 47: what was proved moments ago isn't said to be open.
func TestProvedIsNotSaidToBeOpen(t *testing.T) {
	t.Run("rollback after a check", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, _ := newPairsMount(t, rotation.Promoted)
			m.sandbox.RevokeClient(newClientID)
			require.Equal(t, "works", m.write("rotate-root/check").Data["previous"])
			text := m.said(logical.UpdateOperation, "rotate-root/rollback", nil)
			assert.NotContains(t, text, "may still work")
			assert.Empty(t, m.unrevoked())
			assert.NotContains(t, toldToRevoke(m.nextStep()), "client shop-2")
		})
	})
	t.Run("discard after a check", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, _ := newPairsMount(t, rotation.Staged)
			m.sandbox.RevokeClient(newClientID)
			m.write("rotate-root/check")
			m.do(logical.DeleteOperation, "rotate-root", nil)
			assert.Empty(t, m.unrevoked())
		})
	})
	t.Run("rollback after a 403 page", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, between := newPairsMount(t, rotation.Promoted)
			between[newClientID] = firewallPage
			m.write("rotate-root/check")
			m.write("rotate-root/rollback")
			assert.Contains(t, m.linesOf(newClientID), "(rolled back)", "a page proves nothing")
		})
	})
	t.Run("complete before revoke_old_after", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, _ := newPairsMount(t, rotation.Promoted)
			m.sandbox.RevokeClient(testClientID)
			after := m.rotation()["revoke_old_after"].(string)
			warnings := strings.Join(m.write("rotate-root/complete").Warnings, "\n")
			assert.Contains(t, warnings, after, "apps may hold its tokens until then")
			assert.NotContains(t, strings.ToLower(warnings), "once it is revoked", "it is")
		})
	})
}

// Defect 47: each failure has its status once.
func TestStatusIsNamedOnce(t *testing.T) {
	twice := regexp.MustCompile(`\(HTTP status \d+\)\W*\(HTTP status \d+\)`)
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Promoted)
		m.sandbox.RevokeClient(testClientID)
		m.sandbox.RevokeClient(newClientID)
		m.loseToken()
		_, text := m.refusedToken()
		assert.NotRegexp(t, twice, text)
		assert.Contains(t, text, "401")
		status := m.do(logical.ReadOperation, "status", nil)
		assert.NotRegexp(t, twice, strings.Join(status.Warnings, "\n"))
		assert.NotRegexp(t, twice, status.Data["upstream_message"])
	})
}

// Defect 47: a check that comes too soon is told the seconds that are left.
func TestRefusedCheckSaysWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure()
		m.write("rotate-root/check")
		for _, wait := range []string{"6", "2"} {
			time.Sleep(4 * time.Second)
			_, text := m.refused(logical.UpdateOperation, "rotate-root/check", nil)
			assert.Regexp(t, `\b`+wait+` ?s`, text)
		}
		time.Sleep(2 * time.Second)
		m.write("rotate-root/check")
	})
}

// Defect 47: no reader is told to come back in 0 s.
func TestTTLIsNeverZero(t *testing.T) {
	for _, random := range []float64{0, 0.5, 0.999} {
		synctest.Test(t, func(t *testing.T) {
			m := newMount(t)
			m.sandbox.SetTokenLifetime(time.Minute)
			m.random = func() float64 { return random }
			m.configure()
			for range 240 {
				ttl := m.read().Data["ttl"].(int64)
				require.GreaterOrEqual(t, ttl, int64(1))
				time.Sleep(500 * time.Millisecond)
			}
		})
	}
}

// Defect 48: a token that can't be saved would be lost by a restart. The status warns of it until
// one is saved.
func TestUnsavedTokenIsWarnedOf(t *testing.T) {
	saving := regexp.MustCompile(`(?i)\b(saved?|saving|stored?|storage)\b`)
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure()
		m.loseToken()
		m.storage.failing(failAll("put", tokenKey))
		m.read()
		resp := m.do(logical.ReadOperation, "status", nil)
		assert.Regexp(t, saving, strings.Join(resp.Warnings, "\n"))

		m.storage.failing(nil)
		m.loseToken()
		m.read()
		resp = m.do(logical.ReadOperation, "status", nil)
		assert.Empty(t, resp.Warnings)
		assert.Equal(t, "ok", resp.Data["health"])
	})
}

// helpText is the help for a path, as `vault path-help` shows it.
func (m *mount) helpText(path string) string {
	m.t.Helper()
	m.system.PluginEnvironment = &logical.PluginEnvironment{}
	resp, err := m.b.HandleRequest(m.t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: path, Storage: m.storage, MountPoint: m.path})
	require.NoError(m.t, err)
	text, _ := resp.Data["help"].(string)
	require.NotEmpty(m.t, text, path)
	return text
}

// Defect 52: path-help has the mount's own path in its commands, and none of another mount.
func TestHelpNamesTheMount(t *testing.T) {
	patterns := []string{""}
	for _, p := range newMount(t).framework().Paths {
		patterns = append(patterns, p.Pattern)
	}
	require.Contains(t, patterns, "rotate-root/check")
	for _, path := range []string{"fuuffy/", "shops/eu/", "my fuuffy/"} {
		commands := 0
		for _, pattern := range patterns {
			t.Run(path+pattern, func(t *testing.T) {
				m := newMount(t)
				m.path = path
				text := m.helpText(pattern)
				assert.NotContains(t, text, "<mount>")
				commands += len(m.commands(text))
			})
		}
		assert.Greater(t, commands, 5, path)
	}
}

// Defect 52: a metric is there from the start. A rule on one that is absent never fires.
func TestRateLimitMetricIsThereFromTheStart(t *testing.T) {
	m := newMount(t)
	assert.Contains(t, m.metrics(), "fuuffy_rate_limit_remaining", "not configured")
	m.configure("verify_connection", false)
	assert.Contains(t, m.metrics(), "fuuffy_rate_limit_remaining", "configured, and nothing requested")
	require.Zero(t, m.requests())
	m.restart()
	assert.Contains(t, m.metrics(), "fuuffy_rate_limit_remaining", "restarted")

	limited := newMount(t)
	limited.sandbox = fuuffytest.New(fuuffytest.Config{})
	limited.sandbox.CreateClient(testClientID, testSecret)
	limited.configure()
	assert.Equal(t, 99.0, limited.metric("fuuffy_rate_limit_remaining"))
}
