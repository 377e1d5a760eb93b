// SPDX-License-Identifier: MPL-2.0

package fuuffy_test

import (
	"context"
	"fmt"
	"slices"
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

func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		token := m.ReadToken()
		before, err := m.Storage.Storage.Get(t.Context(), mounttest.ConfigKey)
		require.NoError(t, err)
		data := m.Write("rotate-root/check").Data
		assert.Equal(t, "works", data["current"])
		assert.Equal(t, mounttest.NewClientID, data["client_id"])
		assert.Contains(t, data["previous"], "revoked: invalid_client")
		assert.NotContains(t, data, "staged")
		time.Sleep(6 * time.Second)
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/check", nil)
		assert.Contains(t, text, "Checks are limited to one per 10s. Try again in 4s.")

		time.Sleep(4 * time.Second)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		assert.Contains(t, m.Write("rotate-root/check").Data["current"], "revoked: invalid_client")
		assert.Equal(t, "rejected", m.Status()["upstream_state"], "what Fuuffy says counts")

		time.Sleep(mounttest.CheckInterval)
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		assert.Contains(t, m.Write("rotate-root/check").Data["current"], "unknown: service_unavailable")
		assert.Equal(t, token, m.ReadToken(), "nothing changes for apps")
		after, err := m.Storage.Storage.Get(t.Context(), mounttest.ConfigKey)
		require.NoError(t, err)
		assert.Equal(t, before.Value, after.Value)
	})
}

// A check that finds the new client rejected does not keep apps from the fallback, and
// does not deny that there is one.
func TestCheckLeavesTheFallbackAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare  func(*mounttest.Mount)
		nextStep string
	}{
		"no token":                     {func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "token", nil) }, "rotate-root/rollback"},
		"a fresh token of the new":     {func(*mounttest.Mount) {}, "rotate-root/rollback"},
		"a token of the fallback":      {func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "token", nil); m.Read() }, "rotate-root/rollback"},
		"the old one is dead too":      {func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID) }, "vault write fuuffy/rotate-root client_id=<client_id> client_secret=-"},
		"the new one was only delayed": {func(m *mounttest.Mount) { m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret) }, "Wait until 2000-01-01T00:55:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, rotation.Promoted)
				m.Sandbox.RevokeClient(mounttest.NewClientID)
				tt.prepare(m)
				data := m.Write("rotate-root/check").Data
				assert.Contains(t, data["next_step"], tt.nextStep)
				assert.NotContains(t, data["next_step"], "compromised=true", "nothing leaked")
				if data["current"] == data["previous"] || data["previous"] != "works" {
					return // No fallback is needed, or there is none.
				}
				m.Do(logical.DeleteOperation, "token", nil)
				time.Sleep(mounttest.CheckInterval)
				m.Write("rotate-root/check")
				assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()), "apps get a token of the old client")
				assert.Equal(t, mounttest.ClientID, m.ServedClientID())
			})
		})
	}
}

// A token that comes of a check or a config write is held to what one of a refresh is: it
// is not the one that an app reported, and lives longer than the one that it replaces.
func TestTokenOfACheckIsHeldToTheSameRules(t *testing.T) {
	granted := func(token string, life int) fuuffytest.Fault {
		return fuuffytest.Fault{Kind: fuuffytest.FaultBody, Body: fmt.Sprintf(`{"data": {"access_token": %q, "token_type": "Bearer", "expires_in": %d}}`, token, life)}
	}
	for name, ask := range map[string]func(*mounttest.Mount){
		"check": func(m *mounttest.Mount) { m.Write("rotate-root/check") },
		"config write": func(m *mounttest.Mount) {
			m.Do(logical.UpdateOperation, "config", mounttest.Pairs("client_secret", mounttest.Secret))
		},
	} {
		t.Run(name+", of a suspect token", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.SetFault(granted("sk-same", 3600))
				m.Read()
				time.Sleep(time.Minute)
				m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", "sk-same"))
				ask(m)
				assert.Equal(t, "suspect", m.Status()["token_state"])
				assert.NotEmpty(t, m.Read().Warnings, "readers are told")
			})
		})
		t.Run(name+", of a token in its window", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				time.Sleep(51 * time.Minute)
				m.Sandbox.SetFault(mounttest.FaultUnavailable)
				_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil) // So that the write is tried.
				time.Sleep(2 * time.Minute)
				m.Sandbox.SetFault(granted("sk-short", 20))
				ask(m)
				assert.True(t, token == m.ReadToken(), "the one that lives longer is kept")
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
		"leaked, new dead":    {mounttest.StateCompromised, true, false, "If you can't fix it, create new credentials in the Fuuffy dashboard, then: vault write fuuffy/rotate-root client_id=<client_id> client_secret=-"},
		"leaked, old dead":    {mounttest.StateCompromised, false, true, "Fuuffy no longer accepts client shop-1, so finish: vault write -f fuuffy/rotate-root/complete"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.NewRotating(t, tt.state)
			current, other := mounttest.NewClientID, mounttest.ClientID
			if tt.state == rotation.Staged {
				current, other = other, current
			}
			if tt.currentDead {
				m.Sandbox.RevokeClient(current)
			}
			if tt.otherDead {
				m.Sandbox.RevokeClient(other)
			}
			data := m.Write("rotate-root/check").Data
			next := data["next_step"].(string)
			assert.Contains(t, next, tt.want)
			leakOpen := tt.state == mounttest.StateCompromised && !tt.otherDead
			assert.Equal(t, leakOpen, strings.HasPrefix(next, "Now: revoke client shop-1 in the Fuuffy dashboard, because it is compromised."), "a leak comes first: %s", next)
			assert.NotContains(t, next, "compromised=true", "the current client didn't leak")
			if tt.currentDead && (tt.otherDead || tt.state != rotation.Promoted) {
				assert.Equal(t, "rejected", m.Status()["upstream_state"])
				assert.Zero(t, m.Log.Count("falling back"), "there is nothing to fall back to")
			}
			// Only a check that works adds what to do if an app still gets a 401.
			next, added := strings.CutSuffix(next, "\nIf an app still gets a 401, report its token: vault write fuuffy/token rejected_token=-")
			assert.Equal(t, !tt.currentDead, added)
			assert.Equal(t, next, m.Status()["next_step"])
			assert.Equal(t, next, m.Rotation()["next_step"])
		})
	}
}

// A check that takes long does not bring back a configuration that was replaced
// meanwhile.
func TestCheckOvertakenByAConfigWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Idle)
		release := m.Sandbox.Hold()
		checked := make(chan struct{})
		go func() {
			defer close(checked)
			m.Write("rotate-root/check")
		}()
		synctest.Wait()
		m.Do(logical.UpdateOperation, "config", mounttest.NewPair("verify_connection", false))
		release()
		<-checked
		assert.Equal(t, mounttest.NewClientID, m.ServedClientID())
		assert.Equal(t, mounttest.NewClientID, m.Status()["client_id"])
	})
}

// A wall clock that was set back locks no one out.
func TestCheckAfterTheClockWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Idle)
		skew := time.Duration(0)
		m.SkewWallClock(func() time.Duration { return skew })
		m.Write("rotate-root/check")
		skew = -time.Hour
		m.Write("rotate-root/check")
	})
}

// The log tells of an outage that an operator's check found, and of its end.
func TestCheckIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Read()
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		m.Write("rotate-root/check")
		time.Sleep(mounttest.CheckInterval)
		m.Write("rotate-root/check")
		assert.Equal(t, 1, m.Log.Count("Fuuffy issues no token"))
		m.Sandbox.ClearFault()
		time.Sleep(mounttest.CheckInterval)
		m.Write("rotate-root/check")
		assert.Equal(t, 1, m.Log.Count("Fuuffy issues tokens again"))
	})
}

// Defect 44: an app gets a 401 though everything is fresh. A check that works says how to report
// the token.
func TestCheckNamesTheReportOfAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		m.Sandbox.RevokeToken(m.ReadToken())
		text := m.Said(logical.UpdateOperation, "rotate-root/check", nil)
		assert.Contains(t, text, "401")
		assert.True(t, slices.ContainsFunc(m.Commands(text), func(c mounttest.Typed) bool {
			return c.String() == "write token" && c.Fields["rejected_token"] == "-"
		}), "how to report the token: %s", text)
	})
}

// Defect 47: a check that comes too soon is told the seconds that are left.
func TestRefusedCheckSaysWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		m.Write("rotate-root/check")
		for _, wait := range []string{"6", "2"} {
			time.Sleep(4 * time.Second)
			_, text := m.Refused(logical.UpdateOperation, "rotate-root/check", nil)
			assert.Regexp(t, `\b`+wait+` ?s`, text)
		}
		time.Sleep(2 * time.Second)
		m.Write("rotate-root/check")
	})
}

// Defect 1 and the words of check: each answer, and what check makes of it.
func TestCheckSaysWhatFuuffyProved(t *testing.T) {
	want := map[string]map[string]mounttest.GatewayAnswer{
		"rejected: ": mounttest.RejectedNotRevoked,
		"revoked: ":  mounttest.ProvesDeath,
		"unknown: ":  {"503": mounttest.ProvesNothing["503"], "429": mounttest.ProvesNothing["429"], "login page": mounttest.ProvesNothing["200 without a token"], "redirect": mounttest.ProvesNothing["redirect to a login page"]},
	}
	for verdict, all := range want {
		for name, answer := range all {
			t.Run(verdict+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, between := mounttest.NewPairsMount(t, rotation.Promoted)
					between[mounttest.ClientID] = answer
					data := m.Write("rotate-root/check").Data
					assert.Equal(t, "works", data["current"])
					assert.True(t, strings.HasPrefix(data["previous"].(string), verdict), "previous: %s", data["previous"])
				})
			})
		}
	}
}

// Defect 9: check answers in time, whatever Fuuffy does. It tries the pairs side by side.
func TestCheckAnswersInTime(t *testing.T) {
	for _, timeout := range []string{"10s", "30s"} {
		for _, state := range []string{rotation.Idle, rotation.Staged, rotation.Promoted} {
			t.Run(state+", "+timeout, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, _ := mounttest.NewPairsMount(t, state)
					m.Write("config", "request_timeout", timeout)
					m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultHang})
					began := time.Now()
					data := m.Write("rotate-root/check").Data
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
	for _, hanging := range []string{mounttest.ClientID, mounttest.NewClientID} {
		t.Run("only "+hanging+" hangs", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _ := mounttest.NewPairsMount(t, rotation.Promoted)
				m.Write("config", "request_timeout", "30s")
				m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultHang, ClientID: hanging})
				began := time.Now()
				data := m.Write("rotate-root/check").Data
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
				m, _ := mounttest.NewPairsMount(t, state)
				time.Sleep(time.Minute)
				m.Sandbox.SetFault(mounttest.FaultUnavailable)
				for range 6 {
					before, data := m.Requests(), m.Write("rotate-root/check").Data
					pairs := 0
					for _, pair := range []string{"current", "staged", "previous"} {
						if said, ok := data[pair].(string); ok {
							assert.Regexp(t, "^unknown: .*HTTP status 503", said, pair)
							pairs++
						}
					}
					assert.Equal(t, pairs, m.Requests()-before, "one attempt per pair")
					time.Sleep(mounttest.CheckInterval)
				}
			})
		})
	}
}

// A check that must wait for a slow save gives up with its caller.
func TestCheckGivesUpWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.UseFaultyStorage().Set("put", mounttest.TokenKey, mounttest.Slowly(4*time.Second))
		go m.Read()
		time.Sleep(time.Second) // The new token is being saved.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.Handle(ctx, logical.UpdateOperation, "rotate-root/check", nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(10 * time.Second)
		assert.Equal(t, 2, m.Requests(), "the reader's, and that of the check")
	})
}

// The token that a check gets is served and stored if there is no better one, and else
// neither.
func TestTokenOfACheckSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Do(logical.UpdateOperation, "rotate-root/check", nil)
		token := m.ReadToken()
		assert.Equal(t, 1, m.Requests(), "the check's token is served")
		m.Restart()
		assert.True(t, m.ReadToken() == token, "the check's token is stored")

		time.Sleep(mounttest.CheckInterval)
		m.Do(logical.UpdateOperation, "rotate-root/check", nil)
		m.Restart()
		assert.True(t, m.ReadToken() == token, "the token of a later check is not")
		assert.Equal(t, 2, m.Requests())

		time.Sleep(51 * time.Minute)
		m.Sandbox.SetTokenLifetime(2 * time.Minute)
		m.Do(logical.UpdateOperation, "rotate-root/check", nil)
		assert.True(t, m.ReadToken() == token, "nor one that expires earlier")
	})
}
