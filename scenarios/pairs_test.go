// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"net/http"
	"net/url"
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

var (
	third       = mounttest.Pairs("client_id", mounttest.ThirdID, "client_secret", mounttest.ThirdSecret)
	thirdLeaked = mounttest.Pairs("client_id", mounttest.ThirdID, "client_secret", mounttest.ThirdSecret, "compromised", true)
	firstPair   = mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret)
)

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
func newLeakedMount(t *testing.T) (*mounttest.Mount, mounttest.Answers) {
	t.Helper()
	m, between := mounttest.NewPairsMount(t, mounttest.StateCompromised)
	forceComplete(m)
	return m, between
}

func forceComplete(m *mounttest.Mount) {
	m.T.Helper()
	m.Write("rotate-root/complete", "force", true)
	require.Equal(m.T, rotation.Idle, m.Rotation()["state"])
}

// linesOf are the entries of a client among the unrevoked, empty if there are none.
func linesOf(m *mounttest.Mount, clientID string) string {
	m.T.Helper()
	others := func(line string) bool { return !strings.Contains(line, " "+clientID+" ") }
	return strings.Join(slices.DeleteFunc(unrevoked(m), others), "\n")
}

// Defect 1a: after a leak, someone else's 403 doesn't end the advice to revoke the leaked client,
// and an outage doesn't either.
func TestLeakedClientIsToBeRevokedUntilProof(t *testing.T) {
	for name, answer := range mounttest.RejectedNotRevoked {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := mounttest.NewPairsMount(t, mounttest.StateCompromised)
				between[mounttest.ClientID] = answer
				checked := m.Write("rotate-root/check").Data["next_step"].(string)
				assertRevokeFirst(t, "client shop-1", checked)
				assertRevokeFirst(t, "client shop-1", nextStep(m))

				delete(between, mounttest.ClientID)
				m.Sandbox.SetFault(mounttest.FaultUnavailable)
				m.LoseToken()
				text := m.Said(logical.ReadOperation, "token", nil)
				assert.Contains(t, toldToRevoke(text), "client shop-1", text)
				assertRevokeFirst(t, "client shop-1", nextStep(m))

				m.Sandbox.ClearFault()
				m.Sandbox.RevokeClient(mounttest.ClientID)
				time.Sleep(mounttest.CheckInterval)
				assert.Contains(t, m.Write("rotate-root/check").Data["previous"], "revoked: ")
				assert.Empty(t, toldToRevoke(nextStep(m)), "it is proved now")
				assert.Equal(t, "write rotate-root/complete", names(m, nextStep(m))[0])
			})
		})
	}
}

// After a leak, "revoke client X" comes first whatever fails, until X is proved revoked or marked.
func TestLeakComesFirstWhateverFails(t *testing.T) {
	for name, answer := range map[string]mounttest.GatewayAnswer{
		"503": mounttest.ProvesNothing["503"], "429": mounttest.ProvesNothing["429"], "login page": mounttest.ProvesNothing["200 without a token"],
		"redirect": mounttest.ProvesNothing["redirect to a login page"], "404": mounttest.ProvesNothing["404"], "firewall": mounttest.FirewallPage,
		"the new client is revoked": mounttest.ProvesDeath["401"], "nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := mounttest.NewPairsMount(t, mounttest.StateCompromised)
				if answer.Status != 0 {
					between[mounttest.NewClientID] = answer
					m.LoseToken()
					refusedToken(m)
				}
				next := nextStep(m)
				assertRevokeFirst(t, "client shop-1", next)
				assert.NotContains(t, toldToRevoke(next), "client shop-2", next)
				m.Commands(next)

				m.Write("rotate-root/revoked", "client_id", mounttest.ClientID)
				assert.NotContains(t, toldToRevoke(nextStep(m)), "client shop-1", nextStep(m))
			})
		})
	}
}

// Defect 1b: in a routine rotation a 403 page neither ends the wait nor finishes the rotation,
// while it is there and after it has gone.
func TestRejectedPreviousPairIsNotRevoked(t *testing.T) {
	for name, answer := range mounttest.RejectedNotRevoked {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := mounttest.NewPairsMount(t, rotation.Promoted)
				between[mounttest.ClientID] = answer
				m.Write("rotate-root/check")
				after := m.Rotation()["revoke_old_after"].(string)
				for _, when := range []string{"during", "afterwards"} {
					next := nextStep(m)
					assert.Contains(t, next, after, "%s: the time to wait for", when)
					assert.NotContains(t, next, "so finish", when)
					assert.NotRegexp(t, claimsRevoked, next, when)
					for _, told := range toldToRevoke(next) {
						assert.Equal(t, "client shop-1", told, when)
					}
					delete(between, mounttest.ClientID)
				}
				time.Sleep(mounttest.CheckInterval)
				assert.Equal(t, "works", m.Write("rotate-root/check").Data["previous"])
				assert.Contains(t, nextStep(m), after)
			})
		})
	}
}

// Proof is taken back when Fuuffy accepts the pair again.
func TestAcceptedAgainIsNotRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, mounttest.StateCompromised)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		require.Contains(t, m.Write("rotate-root/check").Data["previous"], "revoked: ")
		assert.Empty(t, toldToRevoke(nextStep(m)))

		m.Sandbox.CreateClient(mounttest.ClientID, mounttest.Secret)
		time.Sleep(mounttest.CheckInterval)
		require.Equal(t, "works", m.Write("rotate-root/check").Data["previous"])
		assertRevokeFirst(t, "client shop-1", nextStep(m))
	})
}

// Defect 1c: a page for both pairs proves nothing about either. Nothing is advised that needs
// proof: no completion, and no emergency where nothing leaked.
func TestPageForBothPairs(t *testing.T) {
	for _, state := range []string{rotation.Staged, rotation.Promoted} {
		for name, answer := range mounttest.RejectedNotRevoked {
			t.Run(state+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, between := mounttest.NewPairsMount(t, state)
					between[mounttest.ClientID], between[mounttest.NewClientID] = answer, answer
					m.Write("rotate-root/check")
					m.LoseToken()
					text := m.Said(logical.ReadOperation, "token", nil)
					next := nextStep(m)
					for _, told := range []string{text, next} {
						assert.NotContains(t, told, "compromised=true")
						require.NotEmpty(t, m.Commands(told), told)
						for _, c := range m.Commands(told) {
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
	untested := mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "verify_connection", false)
	leakedAgain := mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "compromised", true)
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
						m.Restart()
					}
					before := m.Rotation()
					for range 2 {
						code, text := m.Refused(try.operation, try.path, try.data)
						assert.Equal(t, http.StatusBadRequest, code)
						assert.Contains(t, text, "client shop-1")
						assert.Contains(t, names(m, text), "write rotate-root/revoked", "the way out: %s", text)
						after := m.Rotation()
						for _, field := range []string{"state", "client_id", "unrevoked", "history", "staged_client_id"} {
							assert.Equal(t, before[field], after[field], field)
						}
						m.Do(logical.DeleteOperation, "rotate-root", nil) // Nothing is staged.
						assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
						assert.Equal(t, "degraded", m.Status()["health"])
						assertRevokeFirst(t, "client shop-1", nextStep(m))
					}

					marked := m.Write("rotate-root/revoked", "client_id", mounttest.ClientID).Data
					assert.Contains(t, marked["history"], "marked revoked shop-1")
					assert.Empty(t, unrevoked(m))
					if try.path == "config" {
						m.Do(try.operation, try.path, try.data)
						assert.Equal(t, mounttest.ClientID, m.Rotation()["client_id"])
						return
					}
					m.Do(logical.UpdateOperation, "rotate-root", firstPair)
					m.Promote()
					assert.Equal(t, mounttest.ClientID, m.Rotation()["client_id"])
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
				m, _ := mounttest.NewPairsMount(t, mounttest.StateCompromised)
				text := m.Said(try.operation, try.path, try.data)
				assert.Contains(t, text, "client shop-1")
				m.Commands(text)
				assert.Equal(t, mounttest.NewClientID, m.Rotation()["client_id"])
				assert.Equal(t, true, m.Rotation()["compromised"])
				assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
			})
		})
	}
}

// Only the leaked pair stays away: another secret of the same client is another pair, and neither
// taking it in nor dropping it changes what is known of the leaked one.
func TestAnotherSecretOfACompromisedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		createSecret(m, "second")
		createSecret(m, "third")
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "second", "compromised", true)
		forceComplete(m)
		assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
		assertToldToRevoke(t, "the old secret of client shop-1", nextStep(m))

		_, text := m.Refused(logical.UpdateOperation, "config", firstPair)
		assert.Contains(t, text, "shop-1")
		m.Write("config", "client_id", mounttest.ClientID, "client_secret", "second") // Terraform repeats it.
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "third")
		assert.Equal(t, rotation.Staged, m.Rotation()["state"])
		assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
		m.Do(logical.DeleteOperation, "rotate-root", nil)
		assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
		assert.Contains(t, strings.Join(unrevoked(m), "\n"), "(discarded)")
		m.Refused(logical.UpdateOperation, "rotate-root", firstPair)
	})
}

// force alone forces, after an emergency too; what leaked stays on the list.
func TestForceAloneCompletesAnEmergency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, mounttest.StateCompromised)
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/complete", mounttest.Pairs("force", true, "compromised_client_id", mounttest.ClientID))
		assert.Contains(t, text, "unknown field")
		data := m.Write("rotate-root/complete", "force", true).Data
		assert.Equal(t, rotation.Idle, data["state"])
		assert.Contains(t, data["unrevoked"], "shop-1 (compromised)")
		assert.Equal(t, "degraded", m.Status()["health"])
		m.Restart()
		assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
	})
}

// newSecretsMount returns a configured engine whose Fuuffy keeps several secrets of shop-1.
func newSecretsMount(t *testing.T) *mounttest.Mount {
	t.Helper()
	m := mounttest.New(t)
	separateSecrets(m)
	m.Configure()
	m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
	return m
}

// separateSecrets treats each secret of shop-1 but the first as a client of its own: the sandbox
// keeps one secret a client, and the real dashboard lets the old one work until it is revoked.
func separateSecrets(m *mounttest.Mount) {
	m.Intercept(func(form url.Values) *mounttest.GatewayAnswer {
		if secret := form.Get("client_secret"); form.Get("client_id") == mounttest.ClientID && secret != mounttest.Secret {
			form.Set("client_id", secretOfShop1(secret))
		}
		return nil
	})
}

func secretOfShop1(secret string) string { return mounttest.ClientID + " with " + secret }

func createSecret(m *mounttest.Mount, secret string) {
	m.Sandbox.CreateClient(secretOfShop1(secret), secret)
}

// Defect 3: no one is told to revoke the secret that is in use. The one that was given up is the
// new secret, or the old.
func TestGivenUpSecretOfTheClientInUse(t *testing.T) {
	for name, giveUp := range map[string]func(*mounttest.Mount){
		"discarded":   func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "rotate-root", nil) },
		"rolled back": func(m *mounttest.Mount) { m.Promote(); m.Write("rotate-root/rollback") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newSecretsMount(t)
				createSecret(m, "second")
				m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "second")
				giveUp(m)
				require.Contains(t, linesOf(m, mounttest.ClientID), "("+name+")")
				status := m.Do(logical.ReadOperation, "status", nil)
				told := strings.Join(mounttest.ToldBy(t, status, nil), "\n")
				assertToldToRevoke(t, "the new secret of client shop-1", nextStep(m))
				assert.NotContains(t, told, "old secret", told)
				assert.Contains(t, strings.Join(status.Warnings, "\n"), "the new secret of client shop-1", "in the warning too")

				commands := m.Commands(nextStep(m))
				require.NotEmpty(t, commands)
				require.Equal(t, "write rotate-root/revoked", commands[0].String())
				_, err := enter(m, commands[0])
				require.NoError(t, err)
				assert.Empty(t, unrevoked(m))
				assert.Equal(t, "ok", m.Status()["health"])
				assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
			})
		})
	}
}

// The old secret is called so where it is the earlier one.
func TestOldSecretOfTheClientInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSecretsMount(t)
		createSecret(m, "second")
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "second")
		m.Promote()
		for _, told := range toldToRevoke(nextStep(m)) {
			assert.Equal(t, "the old secret of client shop-1", told)
		}
		m.Write("rotate-root/complete", "force", true)
		assertToldToRevoke(t, "the old secret of client shop-1", nextStep(m))
	})
}

// Where two secrets of one client are involved, no error leaves open which one it is about.
func TestErrorsNameTheSecret(t *testing.T) {
	const oldSecret, newSecret = "the old secret of client shop-1", "the new secret of client shop-1"
	second := mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", "second")
	stage := func(m *mounttest.Mount) { m.Do(logical.UpdateOperation, "rotate-root", second) }
	promote := func(m *mounttest.Mount) { stage(m); m.Promote() }
	leak := func(m *mounttest.Mount) {
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "second", "compromised", true)
	}
	forced := func(m *mounttest.Mount) { leak(m); forceComplete(m) }
	revokeSecond := func(m *mounttest.Mount) { m.Sandbox.RevokeClient(secretOfShop1("second")); m.LoseToken() }
	revokeFirst := func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID) }
	pageForFirst := func(m *mounttest.Mount) {
		m.Answering(func(_, secret string) *mounttest.GatewayAnswer {
			if secret == mounttest.Secret {
				return &mounttest.FirewallPage
			}
			return nil
		})
	}
	down := func(m *mounttest.Mount) { m.Sandbox.SetFault(mounttest.FaultUnavailable) }
	both := func(m *mounttest.Mount) { revokeFirst(m); revokeSecond(m) }
	nothing := func(*mounttest.Mount) {}
	for name, tt := range map[string]struct {
		prepare, breaks func(*mounttest.Mount)
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
		"stage another":       {stage, nothing, adviceRequest{logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", "third")}, newSecret + " is already staged"},
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
				createSecret(m, "second")
				tt.prepare(m)
				tt.breaks(m)
				_, text := m.Refused(tt.try.operation, tt.try.path, tt.try.data)
				assert.Contains(t, text, tt.want)
			})
		})
	}
}

// Defect 4: an entry is a pair's, not a client's.
func TestUnrevokedEntriesAreOfPairs(t *testing.T) {
	discard := func(m *mounttest.Mount, secret string) {
		m.T.Helper()
		createSecret(m, secret)
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", secret)
		m.Do(logical.DeleteOperation, "rotate-root", nil)
	}
	t.Run("another secret is staged", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newSecretsMount(t)
			discard(m, "second")
			createSecret(m, "third")
			m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", "third")
			assert.Contains(t, linesOf(m, mounttest.ClientID), "(discarded)", "the second may still work")
			m.Promote()
			assert.Contains(t, linesOf(m, mounttest.ClientID), "(discarded)")
		})
	})
	t.Run("another secret is written", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newSecretsMount(t)
			discard(m, "second")
			createSecret(m, "third")
			m.Write("config", "client_id", mounttest.ClientID, "client_secret", "third")
			assert.Contains(t, strings.Join(unrevoked(m), "\n"), "(discarded)", "the second may still work")
		})
	})
	t.Run("another secret is proved revoked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newSecretsMount(t)
			discard(m, "second")
			m.Stage()
			m.Promote()
			m.Sandbox.RevokeClient(mounttest.ClientID) // The first secret.
			m.Write("rotate-root/complete")
			assert.Contains(t, linesOf(m, mounttest.ClientID), "(discarded)", "the second may still work")
			assert.Contains(t, strings.Join(toldToRevoke(nextStep(m)), "\n"), "client shop-1")
		})
	})
	t.Run("two secrets were discarded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newSecretsMount(t)
			discard(m, "second")
			discard(m, "third")
			assert.Len(t, unrevoked(m), 2)
		})
	})
	t.Run("the same secret is discarded twice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newSecretsMount(t)
			discard(m, "second")
			discard(m, "second")
			assert.Len(t, unrevoked(m), 1)
		})
	})
}

// Defect 5: a mark that came too early doesn't hide the leaked client from the list once it was
// given up without proof.
func TestForcedAfterAMarkThatCameTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, mounttest.StateCompromised)
		_, _ = m.Handle(t.Context(), logical.UpdateOperation, "rotate-root/revoked", mounttest.Pairs("client_id", mounttest.ClientID))
		m.Refused(logical.UpdateOperation, "rotate-root/complete", nil) // It still works.
		forceComplete(m)
		assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
		assert.Equal(t, "degraded", m.Status()["health"])
		assertRevokeFirst(t, "client shop-1", nextStep(m))
	})
}

// Defect 6: the leak comes first in the next step and among the warnings, however old the others
// are, and what only needs attention comes after what is wrong.
func TestTheLeakComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Idle)
		m.Do(logical.UpdateOperation, "rotate-root", third)
		m.Do(logical.DeleteOperation, "rotate-root", nil)
		time.Sleep(time.Minute)
		m.RotateTo(mounttest.StateCompromised)
		forceComplete(m)
		require.Len(t, unrevoked(m), 2)
		for _, when := range []string{"now", "when the next rotation is due soon"} {
			next := nextStep(m)
			require.NotEmpty(t, toldToRevoke(next), when)
			assert.Equal(t, "client shop-1", toldToRevoke(next)[0], "%s: %s", when, next)
			commands := m.Commands(next)
			require.NotEmpty(t, commands)
			assert.Equal(t, "write rotate-root/revoked", commands[0].String(), when)
			assert.Equal(t, mounttest.ClientID, commands[0].Fields["client_id"], when)
			for _, path := range []string{"status", "rotate-root"} {
				warnings := m.Do(logical.ReadOperation, path, nil).Warnings
				require.NotEmpty(t, warnings)
				assert.Contains(t, warnings[0], "client shop-1", "%s: the worst first: %q", when, warnings)
			}
			time.Sleep(80 * 24 * time.Hour)
		}
	})
}

// Defect 7: only proof makes a rollback's refusal say that the old client is revoked.
func TestRefusedRollbackDoesNotClaimRevocation(t *testing.T) {
	for name, answer := range mounttest.RejectedNotRevoked {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := mounttest.NewPairsMount(t, rotation.Promoted)
				between[mounttest.ClientID] = answer
				code, text := m.Refused(logical.UpdateOperation, "rotate-root/rollback", nil)
				assert.Equal(t, http.StatusBadRequest, code)
				assert.Contains(t, text, "shop-1")
				assert.NotRegexp(t, claimsRevoked, text)
				assert.Equal(t, rotation.Promoted, m.Rotation()["state"])
				delete(between, mounttest.ClientID)
				m.Write("rotate-root/rollback")
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

// Defect 12: each client that falls off the list is in the log, however many fall in one step.
func TestEachDroppedClientIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := mounttest.NewPairsMount(t, rotation.Idle)
		fillUnrevoked(m, 20)
		before := unrevoked(m)
		require.Len(t, before, 20)
		m.Stage()
		m.Log.Reset()
		m.Do(logical.UpdateOperation, "rotate-root", thirdLeaked)
		after := strings.Join(unrevoked(m), "\n")
		assert.Contains(t, after, "shop-1 (compromised)")
		assert.Contains(t, after, "shop-2 (discarded)")
		for _, line := range before {
			if clientID := strings.Fields(line)[1]; !strings.Contains(after, " "+clientID+" ") {
				assert.NotZero(t, m.Log.Count(clientID), "%s was dropped:\n%s", clientID, m.Log)
			}
		}
	})
}

// fillUnrevoked stages and discards clients, at a pace that Fuuffy's limit allows.
func fillUnrevoked(m *mounttest.Mount, n int) {
	m.T.Helper()
	for i := range n {
		id := fmt.Sprintf("shop-%d", 100+i)
		m.Sandbox.CreateClient(id, mounttest.NewSecret)
		m.Write("rotate-root", "client_id", id, "client_secret", mounttest.NewSecret)
		m.Do(logical.DeleteOperation, "rotate-root", nil)
		time.Sleep(mounttest.CheckInterval)
	}
}

// A compromised client's entry outlives everything but a mark or a proof, a full list too.
func TestFullListKeepsTheCompromised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := newLeakedMount(t)
		fillUnrevoked(m, 20+2)
		assert.Contains(t, linesOf(m, mounttest.ClientID), "(compromised)")
		assert.Equal(t, "degraded", m.Status()["health"])
		m.Refused(logical.UpdateOperation, "rotate-root", firstPair)
	})
}

// A config write that replaces the pair lists the replaced one, unless Fuuffy's last word on it
// was a proof.
func TestReplacedPairIsListed(t *testing.T) {
	for name, tt := range map[string]struct {
		happen func(m *mounttest.Mount, between mounttest.Answers)
		listed bool
	}{
		"it worked": {func(*mounttest.Mount, mounttest.Answers) {}, true},
		"it was revoked": {func(m *mounttest.Mount, _ mounttest.Answers) {
			m.Sandbox.RevokeClient(mounttest.ClientID)
			m.LoseToken()
			refusedToken(m)
		}, false},
		"a check proved it": {func(m *mounttest.Mount, _ mounttest.Answers) {
			m.Sandbox.RevokeClient(mounttest.ClientID)
			m.Write("rotate-root/check")
		}, false},
		"a 403 page": {func(m *mounttest.Mount, between mounttest.Answers) {
			between[mounttest.ClientID] = mounttest.FirewallPage
			m.LoseToken()
			refusedToken(m)
		}, true},
		"accepted after a proof": {func(m *mounttest.Mount, _ mounttest.Answers) {
			m.Sandbox.RevokeClient(mounttest.ClientID)
			m.Write("rotate-root/check")
			m.Sandbox.CreateClient(mounttest.ClientID, mounttest.Secret)
			time.Sleep(mounttest.CheckInterval)
			m.Write("rotate-root/check")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, between := mounttest.NewPairsMount(t, rotation.Idle)
				tt.happen(m, between)
				m.Do(logical.UpdateOperation, "config", mounttest.NewPair())
				if !tt.listed {
					assert.Empty(t, unrevoked(m))
					return
				}
				assert.Contains(t, linesOf(m, mounttest.ClientID), "shop-1 (replaced)")
				assertToldToRevoke(t, "client shop-1", nextStep(m))
				m.Write("rotate-root/revoked", "client_id", mounttest.ClientID)
				assert.Empty(t, unrevoked(m))
			})
		})
	}
}
