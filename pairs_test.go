// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// A pair is rejected if the last answer to it was a 400, 401, or 403. It is revoked only if
// Fuuffy proved it: by a 401, or by its own envelope that says invalid_client.
var (
	firewallPage       = provesNothing["a firewall's 403 page"]
	aboutSomethingElse = provesNothing["400 about a parameter"]

	rejectedNotRevoked = map[string]gatewayAnswer{
		"a firewall's 403 page": firewallPage, "a 400 about something else": aboutSomethingElse,
		"no permission": provesNothing["403, no permission"],
	}
)

const (
	thirdID     = "shop-3"
	thirdSecret = "third-secret"
)

var (
	third       = pairs("client_id", thirdID, "client_secret", thirdSecret)
	thirdLeaked = pairs("client_id", thirdID, "client_secret", thirdSecret, "compromised", true)
	firstPair   = pairs("client_id", testClientID, "client_secret", testSecret)
)

// newPairsMount is newRotatingMount with something between Vault and Fuuffy, and a third client.
func newPairsMount(t *testing.T, state string) (*mount, answers) {
	t.Helper()
	m, between := newMount(t), answers{}
	m.between(between)
	m.configure()
	m.sandbox.CreateClient(newClientID, newSecret)
	m.sandbox.CreateClient(thirdID, thirdSecret)
	m.rotateTo(state)
	return m, between
}

var revokeAdvice = regexp.MustCompile(`(?i)(don't |do not |never )?\brevoke ((?:the (?:old|new) secret of )?client [\w-]*\w)`)

// toldToRevoke is what a text has an operator revoke, in its words: "client shop-1", "the old
// secret of client shop-1".
func toldToRevoke(text string) []string {
	var told []string
	for _, match := range revokeAdvice.FindAllStringSubmatch(text, -1) {
		if match[1] == "" {
			told = append(told, match[2])
		}
	}
	return told
}

// assertToldToRevoke holds a text to have an operator revoke this and nothing else.
func assertToldToRevoke(t *testing.T, want, text string) {
	t.Helper()
	told := toldToRevoke(text)
	slices.Sort(told)
	assert.Equal(t, []string{want}, slices.Compact(told), text)
}

// revokeFirst is a text that begins with what to revoke.
var revokeFirst = regexp.MustCompile(`(?i)^(\w+[:,] )?revoke ((?:the (?:old|new) secret of )?client [\w-]*\w)`)

// assertRevokeFirst holds a text to begin with what to revoke.
func assertRevokeFirst(t *testing.T, want, text string) {
	t.Helper()
	match := revokeFirst.FindStringSubmatch(text)
	if assert.NotNil(t, match, "it doesn't begin with what to revoke: %s", text) {
		assert.Equal(t, want, match[2], text)
	}
}

// claimsRevoked is a sentence that says that a client is revoked, and not whether it is.
var claimsRevoked = regexp.MustCompile(`(?i)(^|[.:;\n] ?)(the (old|new) secret of )?client [\w-]+ is revoked`)

// newLeakedMount returns an idle engine after an emergency that was completed by force: shop-1 is
// compromised and may still work.
func newLeakedMount(t *testing.T) (*mount, answers) {
	t.Helper()
	m, between := newPairsMount(t, stateCompromised)
	m.forceComplete()
	return m, between
}

func (m *mount) forceComplete() {
	m.t.Helper()
	m.write("rotate-root/complete", "force", true)
	require.Equal(m.t, rotation.Idle, m.rotation()["state"])
}

// linesOf are the entries of a client among the unrevoked, empty if there are none.
func (m *mount) linesOf(clientID string) string {
	m.t.Helper()
	others := func(line string) bool { return !strings.Contains(line, " "+clientID+" ") }
	return strings.Join(slices.DeleteFunc(m.unrevoked(), others), "\n")
}

// Defect 1 and the words of check: each answer, and what check makes of it.
func TestCheckSaysWhatFuuffyProved(t *testing.T) {
	want := map[string]map[string]gatewayAnswer{
		"rejected: ": rejectedNotRevoked,
		"revoked: ":  provesDeath,
		"unknown: ":  {"503": provesNothing["503"], "429": provesNothing["429"], "login page": provesNothing["200 without a token"], "redirect": provesNothing["redirect to a login page"]},
	}
	for verdict, all := range want {
		for name, answer := range all {
			t.Run(verdict+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, between := newPairsMount(t, rotation.Promoted)
					between[testClientID] = answer
					data := m.write("rotate-root/check").Data
					assert.Equal(t, "works", data["current"])
					assert.True(t, strings.HasPrefix(data["previous"].(string), verdict), "previous: %s", data["previous"])
				})
			})
		}
	}
}

// Defect 1a: after a leak, someone else's 403 doesn't end the advice to revoke the leaked client,
// and an outage doesn't either.
func TestLeakedClientIsToBeRevokedUntilProof(t *testing.T) {
	for name, answer := range rejectedNotRevoked {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := newPairsMount(t, stateCompromised)
				between[testClientID] = answer
				checked := m.write("rotate-root/check").Data["next_step"].(string)
				assertRevokeFirst(t, "client shop-1", checked)
				assertRevokeFirst(t, "client shop-1", m.nextStep())

				delete(between, testClientID)
				m.sandbox.SetFault(faultUnavailable)
				m.loseToken()
				text := m.said(logical.ReadOperation, "token", nil)
				assert.Contains(t, toldToRevoke(text), "client shop-1", text)
				assertRevokeFirst(t, "client shop-1", m.nextStep())

				m.sandbox.ClearFault()
				m.sandbox.RevokeClient(testClientID)
				time.Sleep(checkInterval)
				assert.Contains(t, m.write("rotate-root/check").Data["previous"], "revoked: ")
				assert.Empty(t, toldToRevoke(m.nextStep()), "it is proved now")
				assert.Equal(t, "write rotate-root/complete", m.names(m.nextStep())[0])
			})
		})
	}
}

// After a leak, "revoke client X" comes first whatever fails, until X is proved revoked or marked.
func TestLeakComesFirstWhateverFails(t *testing.T) {
	for name, answer := range map[string]gatewayAnswer{
		"503": provesNothing["503"], "429": provesNothing["429"], "login page": provesNothing["200 without a token"],
		"redirect": provesNothing["redirect to a login page"], "404": provesNothing["404"], "firewall": firewallPage,
		"the new client is revoked": provesDeath["401"], "nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := newPairsMount(t, stateCompromised)
				if answer.status != 0 {
					between[newClientID] = answer
					m.loseToken()
					m.refusedToken()
				}
				next := m.nextStep()
				assertRevokeFirst(t, "client shop-1", next)
				assert.NotContains(t, toldToRevoke(next), "client shop-2", next)
				m.commands(next)

				m.write("rotate-root/revoked", "client_id", testClientID)
				assert.NotContains(t, toldToRevoke(m.nextStep()), "client shop-1", m.nextStep())
			})
		})
	}
}

// Defect 1b: in a routine rotation a 403 page neither ends the wait nor finishes the rotation,
// while it is there and after it has gone.
func TestRejectedPreviousPairIsNotRevoked(t *testing.T) {
	for name, answer := range rejectedNotRevoked {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := newPairsMount(t, rotation.Promoted)
				between[testClientID] = answer
				m.write("rotate-root/check")
				after := m.rotation()["revoke_old_after"].(string)
				for _, when := range []string{"during", "afterwards"} {
					next := m.nextStep()
					assert.Contains(t, next, after, "%s: the time to wait for", when)
					assert.NotContains(t, next, "so finish", when)
					assert.NotRegexp(t, claimsRevoked, next, when)
					for _, told := range toldToRevoke(next) {
						assert.Equal(t, "client shop-1", told, when)
					}
					delete(between, testClientID)
				}
				time.Sleep(checkInterval)
				assert.Equal(t, "works", m.write("rotate-root/check").Data["previous"])
				assert.Contains(t, m.nextStep(), after)
			})
		})
	}
}

// Proof is taken back when Fuuffy accepts the pair again.
func TestAcceptedAgainIsNotRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, stateCompromised)
		m.sandbox.RevokeClient(testClientID)
		require.Contains(t, m.write("rotate-root/check").Data["previous"], "revoked: ")
		assert.Empty(t, toldToRevoke(m.nextStep()))

		m.sandbox.CreateClient(testClientID, testSecret)
		time.Sleep(checkInterval)
		require.Equal(t, "works", m.write("rotate-root/check").Data["previous"])
		assertRevokeFirst(t, "client shop-1", m.nextStep())
	})
}

// Defect 1c: a page for both pairs proves nothing about either. Nothing is advised that needs
// proof: no completion, and no emergency where nothing leaked.
func TestPageForBothPairs(t *testing.T) {
	for _, state := range []string{rotation.Staged, rotation.Promoted} {
		for name, answer := range rejectedNotRevoked {
			t.Run(state+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, between := newPairsMount(t, state)
					between[testClientID], between[newClientID] = answer, answer
					m.write("rotate-root/check")
					m.loseToken()
					text := m.said(logical.ReadOperation, "token", nil)
					next := m.nextStep()
					for _, told := range []string{text, next} {
						assert.NotContains(t, told, "compromised=true")
						require.NotEmpty(t, m.commands(told), told)
						for _, c := range m.commands(told) {
							assert.NotEqual(t, "write rotate-root/complete", c.String(), told)
						}
						assert.Empty(t, toldToRevoke(told), told)
						assert.NotContains(t, told, "no others", "there are: %s", told)
						assert.NotRegexp(t, claimsRevoked, told)
					}
				})
			})
		}
	}
}

// Defect 2: what an operator called compromised comes back neither by a step nor by a config
// write, until it is marked as revoked.
func TestCompromisedPairNeverComesBack(t *testing.T) {
	untested := pairs("client_id", testClientID, "client_secret", testSecret, "verify_connection", false)
	leakedAgain := pairs("client_id", testClientID, "client_secret", testSecret, "compromised", true)
	for name, try := range map[string]adviceRequest{
		"stage":                  {logical.UpdateOperation, "rotate-root", firstPair},
		"emergency":              {logical.UpdateOperation, "rotate-root", leakedAgain},
		"config":                 {logical.UpdateOperation, "config", firstPair},
		"config, without a test": {logical.UpdateOperation, "config", untested},
		"config, patch":          {logical.PatchOperation, "config", firstPair},
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarted %t", name, restarted), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, _ := newLeakedMount(t)
					if restarted {
						m.restart()
					}
					before := m.rotation()
					for range 2 {
						code, text := m.refused(try.operation, try.path, try.data)
						assert.Equal(t, http.StatusBadRequest, code)
						assert.Contains(t, text, "client shop-1")
						assert.Contains(t, m.names(text), "write rotate-root/revoked", "the way out: %s", text)
						after := m.rotation()
						for _, field := range []string{"state", "client_id", "unrevoked", "history", "staged_client_id"} {
							assert.Equal(t, before[field], after[field], field)
						}
						m.do(logical.DeleteOperation, "rotate-root", nil) // Nothing is staged.
						assert.Contains(t, m.linesOf(testClientID), "(compromised)")
						assert.Equal(t, "degraded", m.status()["health"])
						assertRevokeFirst(t, "client shop-1", m.nextStep())
					}

					marked := m.write("rotate-root/revoked", "client_id", testClientID).Data
					assert.Contains(t, marked["history"], "marked revoked shop-1")
					assert.Empty(t, m.unrevoked())
					if try.path == "config" {
						m.do(try.operation, try.path, try.data)
						assert.Equal(t, testClientID, m.rotation()["client_id"])
						return
					}
					m.do(logical.UpdateOperation, "rotate-root", firstPair)
					m.promote()
					assert.Equal(t, testClientID, m.rotation()["client_id"])
				})
			})
		}
	}
}

// Defect 2, during the emergency.
func TestCompromisedPairDoesNotComeBackWhilePromoted(t *testing.T) {
	for name, try := range map[string]adviceRequest{
		"stage":    {logical.UpdateOperation, "rotate-root", firstPair},
		"rollback": {logical.UpdateOperation, "rotate-root/rollback", nil},
		"config":   {logical.UpdateOperation, "config", firstPair},
		"promote":  {logical.UpdateOperation, "rotate-root/promote", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _ := newPairsMount(t, stateCompromised)
				text := m.said(try.operation, try.path, try.data)
				assert.Contains(t, text, "client shop-1")
				m.commands(text)
				assert.Equal(t, newClientID, m.rotation()["client_id"])
				assert.Equal(t, true, m.rotation()["compromised"])
				assert.Contains(t, m.linesOf(testClientID), "(compromised)")
			})
		})
	}
}

// Only the leaked pair stays away: another secret of the same client is another pair, and neither
// taking it in nor dropping it changes what is known of the leaked one.
func TestAnotherSecretOfACompromisedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		m.createSecret("second")
		m.createSecret("third")
		m.write("rotate-root", "client_id", testClientID, "client_secret", "second", "compromised", true)
		m.forceComplete()
		assert.Contains(t, m.linesOf(testClientID), "(compromised)")
		assertToldToRevoke(t, "the old secret of client shop-1", m.nextStep())

		_, text := m.refused(logical.UpdateOperation, "config", firstPair)
		assert.Contains(t, text, "shop-1")
		m.write("config", "client_id", testClientID, "client_secret", "second") // Terraform repeats it.
		m.write("rotate-root", "client_id", testClientID, "client_secret", "third")
		assert.Equal(t, rotation.Staged, m.rotation()["state"])
		assert.Contains(t, m.linesOf(testClientID), "(compromised)")
		m.do(logical.DeleteOperation, "rotate-root", nil)
		assert.Contains(t, m.linesOf(testClientID), "(compromised)")
		assert.Contains(t, strings.Join(m.unrevoked(), "\n"), "(discarded)")
		m.refused(logical.UpdateOperation, "rotate-root", firstPair)
	})
}

// force alone forces, after an emergency too; what leaked stays on the list.
func TestForceAloneCompletesAnEmergency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, stateCompromised)
		_, text := m.refused(logical.UpdateOperation, "rotate-root/complete", pairs("force", true, "compromised_client_id", testClientID))
		assert.Contains(t, text, "unknown field")
		data := m.write("rotate-root/complete", "force", true).Data
		assert.Equal(t, rotation.Idle, data["state"])
		assert.Contains(t, data["unrevoked"], "shop-1 (compromised)")
		assert.Equal(t, "degraded", m.status()["health"])
		m.restart()
		assert.Contains(t, m.linesOf(testClientID), "(compromised)")
	})
}

// newSecretsMount returns a configured engine whose Fuuffy keeps several secrets of shop-1.
func newSecretsMount(t *testing.T) *mount {
	t.Helper()
	m := newMount(t)
	m.separateSecrets()
	m.configure()
	m.sandbox.CreateClient(newClientID, newSecret)
	return m
}

// separateSecrets treats each secret of shop-1 but the first as a client of its own: the sandbox
// keeps one secret a client, and the real dashboard lets the old one work until it is revoked.
func (m *mount) separateSecrets() {
	m.intercept(func(form url.Values) *gatewayAnswer {
		if secret := form.Get("client_secret"); form.Get("client_id") == testClientID && secret != testSecret {
			form.Set("client_id", secretOfShop1(secret))
		}
		return nil
	})
}

func secretOfShop1(secret string) string { return testClientID + " with " + secret }

func (m *mount) createSecret(secret string) { m.sandbox.CreateClient(secretOfShop1(secret), secret) }

// Defect 3: no one is told to revoke the secret that is in use. The one that was given up is the
// new secret, or the old.
func TestGivenUpSecretOfTheClientInUse(t *testing.T) {
	for name, giveUp := range map[string]func(*mount){
		"discarded":   func(m *mount) { m.do(logical.DeleteOperation, "rotate-root", nil) },
		"rolled back": func(m *mount) { m.promote(); m.write("rotate-root/rollback") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newSecretsMount(t)
				m.createSecret("second")
				m.write("rotate-root", "client_id", testClientID, "client_secret", "second")
				giveUp(m)
				require.Contains(t, m.linesOf(testClientID), "("+name+")")
				status := m.do(logical.ReadOperation, "status", nil)
				told := strings.Join(toldBy(t, status, nil), "\n")
				assertToldToRevoke(t, "the new secret of client shop-1", m.nextStep())
				assert.NotContains(t, told, "old secret", told)
				assert.Contains(t, strings.Join(status.Warnings, "\n"), "the new secret of client shop-1", "in the warning too")

				commands := m.commands(m.nextStep())
				require.NotEmpty(t, commands)
				require.Equal(t, "write rotate-root/revoked", commands[0].String())
				_, err := m.enter(commands[0])
				require.NoError(t, err)
				assert.Empty(t, m.unrevoked())
				assert.Equal(t, "ok", m.status()["health"])
				assert.True(t, m.sandbox.TokenAlive(m.readToken()))
			})
		})
	}
}

// The old secret is called so where it is the earlier one.
func TestOldSecretOfTheClientInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		m.createSecret("second")
		m.write("rotate-root", "client_id", testClientID, "client_secret", "second")
		m.promote()
		for _, told := range toldToRevoke(m.nextStep()) {
			assert.Equal(t, "the old secret of client shop-1", told)
		}
		m.write("rotate-root/complete", "force", true)
		assertToldToRevoke(t, "the old secret of client shop-1", m.nextStep())
	})
}

// Where two secrets of one client are involved, no error leaves open which one it is about.
func TestErrorsNameTheSecret(t *testing.T) {
	const oldSecret, newSecret = "the old secret of client shop-1", "the new secret of client shop-1"
	second := pairs("client_id", testClientID, "client_secret", "second")
	stage := func(m *mount) { m.do(logical.UpdateOperation, "rotate-root", second) }
	promote := func(m *mount) { stage(m); m.promote() }
	leak := func(m *mount) {
		m.write("rotate-root", "client_id", testClientID, "client_secret", "second", "compromised", true)
	}
	forced := func(m *mount) { leak(m); m.forceComplete() }
	revokeSecond := func(m *mount) { m.sandbox.RevokeClient(secretOfShop1("second")); m.loseToken() }
	revokeFirst := func(m *mount) { m.sandbox.RevokeClient(testClientID) }
	pageForFirst := func(m *mount) {
		m.answering(func(_, secret string) *gatewayAnswer {
			if secret == testSecret {
				return &firewallPage
			}
			return nil
		})
	}
	down := func(m *mount) { m.sandbox.SetFault(faultUnavailable) }
	both := func(m *mount) { revokeFirst(m); revokeSecond(m) }
	nothing := func(*mount) {}
	for name, tt := range map[string]struct {
		prepare, breaks func(*mount)
		try             adviceRequest
		want            string
	}{
		"stage":               {nothing, revokeSecond, adviceRequest{logical.UpdateOperation, "rotate-root", second}, "issued no token to " + newSecret + ". Fuuffy rejected " + newSecret},
		"config":              {nothing, revokeSecond, adviceRequest{logical.UpdateOperation, "config", second}, "Fuuffy rejected " + newSecret},
		"promote":             {stage, revokeSecond, adviceRequest{logical.UpdateOperation, "rotate-root/promote", nil}, "issued no token to " + newSecret},
		"rollback":            {promote, revokeFirst, adviceRequest{logical.UpdateOperation, "rotate-root/rollback", nil}, "Fuuffy rejected " + oldSecret},
		"complete":            {promote, revokeSecond, adviceRequest{logical.UpdateOperation, "rotate-root/complete", nil}, "issued no token to " + newSecret},
		"complete, no proof":  {promote, pageForFirst, adviceRequest{logical.UpdateOperation, "rotate-root/complete", nil}, "couldn't verify that " + oldSecret + " is revoked"},
		"read":                {promote, both, adviceRequest{logical.ReadOperation, "token", nil}, "Fuuffy rejected " + newSecret + ": invalid_client: "},
		"read, the fallback":  {promote, both, adviceRequest{logical.ReadOperation, "token", nil}, oldSecret + " gets no token either"},
		"stage another":       {stage, nothing, adviceRequest{logical.UpdateOperation, "rotate-root", pairs("client_id", testClientID, "client_secret", "third")}, newSecret + " is already staged"},
		"complete too early":  {stage, nothing, adviceRequest{logical.UpdateOperation, "rotate-root/complete", nil}, newSecret + " is staged but not promoted"},
		"discard too late":    {promote, nothing, adviceRequest{logical.DeleteOperation, "rotate-root", nil}, "can't discard " + newSecret},
		"stage the leaked":    {forced, nothing, adviceRequest{logical.UpdateOperation, "rotate-root", firstPair}, "because " + oldSecret + " is compromised"},
		"config, the leaked":  {forced, nothing, adviceRequest{logical.UpdateOperation, "config", firstPair}, "because " + oldSecret + " is compromised"},
		"delete of the leak":  {forced, nothing, adviceRequest{logical.DeleteOperation, "config", nil}, "because " + oldSecret + " is compromised"},
		"outage during stage": {nothing, down, adviceRequest{logical.UpdateOperation, "rotate-root", second}, "issued no token to " + newSecret},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newSecretsMount(t)
				m.createSecret("second")
				tt.prepare(m)
				tt.breaks(m)
				_, text := m.refused(tt.try.operation, tt.try.path, tt.try.data)
				assert.Contains(t, text, tt.want)
			})
		})
	}
}

// Defect 4: an entry is a pair's, not a client's.
func TestUnrevokedEntriesAreOfPairs(t *testing.T) {
	discard := func(m *mount, secret string) {
		m.t.Helper()
		m.createSecret(secret)
		m.write("rotate-root", "client_id", testClientID, "client_secret", secret)
		m.do(logical.DeleteOperation, "rotate-root", nil)
	}
	t.Run("another secret is staged", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newSecretsMount(t)
			discard(m, "second")
			m.createSecret("third")
			m.write("rotate-root", "client_id", testClientID, "client_secret", "third")
			assert.Contains(t, m.linesOf(testClientID), "(discarded)", "the second may still work")
			m.promote()
			assert.Contains(t, m.linesOf(testClientID), "(discarded)")
		})
	})
	t.Run("another secret is written", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newSecretsMount(t)
			discard(m, "second")
			m.createSecret("third")
			m.write("config", "client_id", testClientID, "client_secret", "third")
			assert.Contains(t, strings.Join(m.unrevoked(), "\n"), "(discarded)", "the second may still work")
		})
	})
	t.Run("another secret is proved revoked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newSecretsMount(t)
			discard(m, "second")
			m.stage()
			m.promote()
			m.sandbox.RevokeClient(testClientID) // The first secret.
			m.write("rotate-root/complete")
			assert.Contains(t, m.linesOf(testClientID), "(discarded)", "the second may still work")
			assert.Contains(t, strings.Join(toldToRevoke(m.nextStep()), "\n"), "client shop-1")
		})
	})
	t.Run("two secrets were discarded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newSecretsMount(t)
			discard(m, "second")
			discard(m, "third")
			assert.Len(t, m.unrevoked(), 2)
		})
	})
	t.Run("the same secret is discarded twice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newSecretsMount(t)
			discard(m, "second")
			discard(m, "second")
			assert.Len(t, m.unrevoked(), 1)
		})
	})
}

// Defect 5: a mark that came too early doesn't hide the leaked client from the list once it was
// given up without proof.
func TestForcedAfterAMarkThatCameTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, stateCompromised)
		_, _ = m.handle(t.Context(), logical.UpdateOperation, "rotate-root/revoked", pairs("client_id", testClientID))
		m.refused(logical.UpdateOperation, "rotate-root/complete", nil) // It still works.
		m.forceComplete()
		assert.Contains(t, m.linesOf(testClientID), "(compromised)")
		assert.Equal(t, "degraded", m.status()["health"])
		assertRevokeFirst(t, "client shop-1", m.nextStep())
	})
}

// Defect 6: the leak comes first in the next step and among the warnings, however old the others
// are, and what only needs attention comes after what is wrong.
func TestTheLeakComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Idle)
		m.do(logical.UpdateOperation, "rotate-root", third)
		m.do(logical.DeleteOperation, "rotate-root", nil)
		time.Sleep(time.Minute)
		m.rotateTo(stateCompromised)
		m.forceComplete()
		require.Len(t, m.unrevoked(), 2)
		for _, when := range []string{"now", "when the next rotation is due soon"} {
			next := m.nextStep()
			require.NotEmpty(t, toldToRevoke(next), when)
			assert.Equal(t, "client shop-1", toldToRevoke(next)[0], "%s: %s", when, next)
			commands := m.commands(next)
			require.NotEmpty(t, commands)
			assert.Equal(t, "write rotate-root/revoked", commands[0].String(), when)
			assert.Equal(t, testClientID, commands[0].fields["client_id"], when)
			for _, path := range []string{"status", "rotate-root"} {
				warnings := m.do(logical.ReadOperation, path, nil).Warnings
				require.NotEmpty(t, warnings)
				assert.Contains(t, warnings[0], "client shop-1", "%s: the worst first: %q", when, warnings)
			}
			time.Sleep(80 * 24 * time.Hour)
		}
	})
}

// Defect 7: only proof makes a rollback's refusal say that the old client is revoked.
func TestRefusedRollbackDoesNotClaimRevocation(t *testing.T) {
	for name, answer := range rejectedNotRevoked {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := newPairsMount(t, rotation.Promoted)
				between[testClientID] = answer
				code, text := m.refused(logical.UpdateOperation, "rotate-root/rollback", nil)
				assert.Equal(t, http.StatusBadRequest, code)
				assert.Contains(t, text, "shop-1")
				assert.NotRegexp(t, claimsRevoked, text)
				assert.Equal(t, rotation.Promoted, m.rotation()["state"])
				delete(between, testClientID)
				m.write("rotate-root/rollback")
			})
		})
	}
}

// Defect 9: check answers in time, whatever Fuuffy does. It tries the pairs side by side.
func TestCheckAnswersInTime(t *testing.T) {
	for _, timeout := range []string{"10s", "30s"} {
		for _, state := range []string{rotation.Idle, rotation.Staged, rotation.Promoted} {
			t.Run(state+", "+timeout, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, _ := newPairsMount(t, state)
					m.write("config", "request_timeout", timeout)
					m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultHang})
					began := time.Now()
					data := m.write("rotate-root/check").Data
					assert.LessOrEqual(t, time.Since(began), 45*time.Second)
					for _, pair := range []string{"current", "staged", "previous"} {
						if said, ok := data[pair].(string); ok {
							assert.True(t, strings.HasPrefix(said, "unknown: "), "%s: %s", pair, said)
						}
					}
				})
			})
		}
	}
	for _, hanging := range []string{testClientID, newClientID} {
		t.Run("only "+hanging+" hangs", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _ := newPairsMount(t, rotation.Promoted)
				m.write("config", "request_timeout", "30s")
				m.sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultHang, ClientID: hanging})
				began := time.Now()
				data := m.write("rotate-root/check").Data
				assert.LessOrEqual(t, time.Since(began), 45*time.Second)
				verdicts := map[any]any{data["client_id"]: data["current"], data["previous_client_id"]: data["previous"]}
				for clientID, said := range verdicts {
					if clientID == hanging {
						assert.Contains(t, said, "unknown: ")
					} else {
						assert.Equal(t, "works", said, clientID)
					}
				}
			})
		})
	}
}

// An operator who repeats a check during an outage hears of the outage each time, and not of the
// mount's own limit.
func TestChecksDuringAnOutage(t *testing.T) {
	for _, state := range []string{rotation.Idle, rotation.Staged, rotation.Promoted} {
		t.Run(state, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _ := newPairsMount(t, state)
				time.Sleep(time.Minute)
				m.sandbox.SetFault(faultUnavailable)
				for range 6 {
					before, data := m.requests(), m.write("rotate-root/check").Data
					pairs := 0
					for _, pair := range []string{"current", "staged", "previous"} {
						if said, ok := data[pair].(string); ok {
							assert.Regexp(t, "^unknown: .*HTTP status 503", said, pair)
							pairs++
						}
					}
					assert.Equal(t, pairs, m.requests()-before, "one attempt per pair")
					time.Sleep(checkInterval)
				}
			})
		})
	}
}

// arrivals are the times of token requests.
type arrivals []time.Time

// most is the most requests in any minute.
func (a arrivals) most() int {
	most := 0
	for i, first := range a {
		within := slices.IndexFunc(a[i:], func(at time.Time) bool { return at.Sub(first) >= time.Minute })
		if within < 0 {
			within = len(a) - i
		}
		most = max(most, within)
	}
	return most
}

// maxPerMinute is how many token requests a mount sends in any minute.
const maxPerMinute = 20

// Defect 10: no one can make a mount hammer Fuuffy.
func TestTokenRequestsPerMinute(t *testing.T) {
	wrong := func(i int) map[string]any {
		return pairs("client_id", fmt.Sprintf("typo-%d", i), "client_secret", "wrong")
	}
	for name, tt := range map[string]struct {
		state string
		call  func(m *mount, i int) (*logical.Response, error)
		// waits is set for readers, who may wait instead.
		waits bool
	}{
		"stage": {rotation.Idle, func(m *mount, i int) (*logical.Response, error) {
			return m.handle(m.t.Context(), logical.UpdateOperation, "rotate-root", wrong(i))
		}, false},
		"emergency": {rotation.Idle, func(m *mount, i int) (*logical.Response, error) {
			data := wrong(i)
			data["compromised"] = true
			return m.handle(m.t.Context(), logical.UpdateOperation, "rotate-root", data)
		}, false},
		"complete": {rotation.Promoted, func(m *mount, _ int) (*logical.Response, error) {
			return m.handle(m.t.Context(), logical.UpdateOperation, "rotate-root/complete", nil)
		}, false},
		"config": {rotation.Idle, func(m *mount, i int) (*logical.Response, error) {
			return m.handle(m.t.Context(), logical.UpdateOperation, "config", wrong(i))
		}, false},
		"delete and read": {rotation.Idle, func(m *mount, _ int) (*logical.Response, error) {
			m.loseToken()
			return m.handle(m.t.Context(), logical.ReadOperation, "token", nil)
		}, true},
	} {
		for _, pace := range []time.Duration{0, time.Second} {
			t.Run(fmt.Sprintf("%s, one in %s", name, pace), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMount(t)
					var mu sync.Mutex
					var all arrivals
					m.answering(func(string, string) *gatewayAnswer {
						mu.Lock()
						defer mu.Unlock()
						all = append(all, time.Now())
						return nil
					})
					sent := func() arrivals {
						mu.Lock()
						defer mu.Unlock()
						return slices.Clone(all)
					}
					m.configure()
					m.sandbox.CreateClient(newClientID, newSecret)
					m.rotateTo(tt.state)
					m.read()
					time.Sleep(time.Minute)
					limited := 0
					for i := range 300 {
						before := len(sent())
						resp, err := tt.call(m, i)
						if len(sent()) == before && !tt.waits {
							limited++
							code, text := refusal(t, resp, err)
							require.Equal(t, http.StatusTooManyRequests, code, "call %d: %s", i, text)
							require.Regexp(t, instantPattern.String()+`|\b\d+ ?s`, text, "it says when")
							m.commands(text)
						}
						time.Sleep(pace)
					}
					assert.LessOrEqual(t, sent().most(), maxPerMinute, "of %d requests", len(sent()))
					assert.NotEmpty(t, sent())
					if tt.waits {
						return
					}
					assert.NotZero(t, limited, "some calls are refused")

					token := m.readToken()
					assert.True(t, m.sandbox.TokenAlive(token), "readers get the cached token meanwhile")
					time.Sleep(2 * time.Minute)
					before := len(sent())
					_, _ = tt.call(m, 300)
					assert.Greater(t, len(sent()), before, "it goes on later")
				})
			})
		}
	}
}

// A reader without a token doesn't fail because an operator used up the mount's requests: it waits.
func TestReaderWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure()
		limited := 0
		for i := range 40 {
			resp, err := m.handle(t.Context(), logical.UpdateOperation, "rotate-root", pairs("client_id", fmt.Sprintf("typo-%d", i), "client_secret", "wrong"))
			if code, _ := refusal(t, resp, err); code == http.StatusTooManyRequests {
				limited++
			}
		}
		assert.NotZero(t, limited)
		m.loseToken()
		began := time.Now()
		assert.True(t, m.sandbox.TokenAlive(m.readToken()))
		assert.LessOrEqual(t, time.Since(began), time.Minute)
	})
}

// Who waits for as long as a refusal says is not refused again: complete needs two requests, and
// a check one for each pair.
func TestRefusalNamesTheTimeForAllRequests(t *testing.T) {
	for _, step := range []string{"rotate-root/complete", "rotate-root/check"} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newRotatingMount(t, rotation.Promoted)
				m.sandbox.RevokeClient(testClientID)
				for range 20 {
					_, _ = m.handle(t.Context(), logical.UpdateOperation, "rotate-root", pairs("client_id", "typo", "client_secret", "wrong", "compromised", true))
				}
				before := m.requests()
				code, text := m.refused(logical.UpdateOperation, step, nil)
				require.Equal(t, http.StatusTooManyRequests, code, text)
				assert.Equal(t, before, m.requests(), "none is sent if not all may be")
				wait, err := time.ParseDuration(regexp.MustCompile(`Try again in (\w+)\.`).FindStringSubmatch(text)[1])
				require.NoError(t, err)
				assert.Greater(t, wait, 6*time.Second, "one request is there sooner")
				time.Sleep(wait)
				m.do(logical.UpdateOperation, step, nil)
			})
		})
	}
}

// Defect 12: each client that falls off the list is in the log, however many fall in one step.
func TestEachDroppedClientIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newPairsMount(t, rotation.Idle)
		m.fillUnrevoked(20)
		before := m.unrevoked()
		require.Len(t, before, 20)
		m.stage()
		m.log.reset()
		m.do(logical.UpdateOperation, "rotate-root", thirdLeaked)
		after := strings.Join(m.unrevoked(), "\n")
		assert.Contains(t, after, "shop-1 (compromised)")
		assert.Contains(t, after, "shop-2 (discarded)")
		for _, line := range before {
			if clientID := strings.Fields(line)[1]; !strings.Contains(after, " "+clientID+" ") {
				assert.NotZero(t, m.log.count(clientID), "%s was dropped:\n%s", clientID, m.log)
			}
		}
	})
}

// fillUnrevoked stages and discards clients, at a pace that Fuuffy's limit allows.
func (m *mount) fillUnrevoked(n int) {
	m.t.Helper()
	for i := range n {
		id := fmt.Sprintf("shop-%d", 100+i)
		m.sandbox.CreateClient(id, newSecret)
		m.write("rotate-root", "client_id", id, "client_secret", newSecret)
		m.do(logical.DeleteOperation, "rotate-root", nil)
		time.Sleep(checkInterval)
	}
}

// A compromised client's entry outlives everything but a mark or a proof, a full list too.
func TestFullListKeepsTheCompromised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newLeakedMount(t)
		m.fillUnrevoked(20 + 2)
		assert.Contains(t, m.linesOf(testClientID), "(compromised)")
		assert.Equal(t, "degraded", m.status()["health"])
		m.refused(logical.UpdateOperation, "rotate-root", firstPair)
	})
}

// A config write that replaces the pair lists the replaced one, unless Fuuffy's last word on it
// was a proof.
func TestReplacedPairIsListed(t *testing.T) {
	for name, tt := range map[string]struct {
		happen func(m *mount, between answers)
		listed bool
	}{
		"it worked":      {func(*mount, answers) {}, true},
		"it was revoked": {func(m *mount, _ answers) { m.sandbox.RevokeClient(testClientID); m.loseToken(); m.refusedToken() }, false},
		"a check proved it": {func(m *mount, _ answers) {
			m.sandbox.RevokeClient(testClientID)
			m.write("rotate-root/check")
		}, false},
		"a 403 page": {func(m *mount, between answers) { between[testClientID] = firewallPage; m.loseToken(); m.refusedToken() }, true},
		"accepted after a proof": {func(m *mount, _ answers) {
			m.sandbox.RevokeClient(testClientID)
			m.write("rotate-root/check")
			m.sandbox.CreateClient(testClientID, testSecret)
			time.Sleep(checkInterval)
			m.write("rotate-root/check")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := newPairsMount(t, rotation.Idle)
				tt.happen(m, between)
				m.do(logical.UpdateOperation, "config", newPair())
				if !tt.listed {
					assert.Empty(t, m.unrevoked())
					return
				}
				assert.Contains(t, m.linesOf(testClientID), "shop-1 (replaced)")
				assertToldToRevoke(t, "client shop-1", m.nextStep())
				m.write("rotate-root/revoked", "client_id", testClientID)
				assert.Empty(t, m.unrevoked())
			})
		})
	}
}
