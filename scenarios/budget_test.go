// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"net/http"
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

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// maxPerMinute is how many token requests a mount sends in any minute.
const maxPerMinute = 20

// Defect 10: no one can make a mount hammer Fuuffy.
func TestTokenRequestsPerMinute(t *testing.T) {
	wrong := func(i int) map[string]any {
		return mounttest.Pairs("client_id", fmt.Sprintf("typo-%d", i), "client_secret", "wrong")
	}
	for name, tt := range map[string]struct {
		state string
		call  func(m *mounttest.Mount, i int) (*logical.Response, error)
		// waits is set for readers, who may wait instead.
		waits bool
	}{
		"stage": {rotation.Idle, func(m *mounttest.Mount, i int) (*logical.Response, error) {
			return m.Handle(m.T.Context(), logical.UpdateOperation, "rotate-root", wrong(i))
		}, false},
		"emergency": {rotation.Idle, func(m *mounttest.Mount, i int) (*logical.Response, error) {
			data := wrong(i)
			data["compromised"] = true
			return m.Handle(m.T.Context(), logical.UpdateOperation, "rotate-root", data)
		}, false},
		"complete": {rotation.Promoted, func(m *mounttest.Mount, _ int) (*logical.Response, error) {
			return m.Handle(m.T.Context(), logical.UpdateOperation, "rotate-root/complete", nil)
		}, false},
		"config": {rotation.Idle, func(m *mounttest.Mount, i int) (*logical.Response, error) {
			return m.Handle(m.T.Context(), logical.UpdateOperation, "config", wrong(i))
		}, false},
		"delete and read": {rotation.Idle, func(m *mounttest.Mount, _ int) (*logical.Response, error) {
			m.LoseToken()
			return m.Handle(m.T.Context(), logical.ReadOperation, "token", nil)
		}, true},
	} {
		for _, pace := range []time.Duration{0, time.Second} {
			t.Run(fmt.Sprintf("%s, one in %s", name, pace), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.New(t)
					var mu sync.Mutex
					var all arrivals
					m.Answering(func(string, string) *mounttest.GatewayAnswer {
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
					m.Configure()
					m.RotateTo(tt.state)
					m.Read()
					time.Sleep(time.Minute)
					limited := 0
					for i := range 300 {
						before := len(sent())
						resp, err := tt.call(m, i)
						if len(sent()) == before && !tt.waits {
							limited++
							code, text := mounttest.Refusal(t, resp, err)
							require.Equal(t, http.StatusTooManyRequests, code, "call %d: %s", i, text)
							require.Regexp(t, mounttest.InstantPattern.String()+`|\b\d+ ?s`, text, "it says when")
							require.Equal(t, name == "config", strings.HasPrefix(text, "Nothing was saved."), text)
							m.Commands(text)
						}
						time.Sleep(pace)
					}
					assert.LessOrEqual(t, sent().most(), maxPerMinute, "of %d requests", len(sent()))
					assert.NotEmpty(t, sent())
					if tt.waits {
						return
					}
					assert.NotZero(t, limited, "some calls are refused")

					token := m.ReadToken()
					assert.True(t, m.Sandbox.TokenAlive(token), "readers get the cached token meanwhile")
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
		m := mounttest.New(t)
		m.Configure()
		limited := 0
		for i := range 40 {
			resp, err := m.Handle(t.Context(), logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", fmt.Sprintf("typo-%d", i), "client_secret", "wrong"))
			if code, _ := mounttest.Refusal(t, resp, err); code == http.StatusTooManyRequests {
				limited++
			}
		}
		assert.NotZero(t, limited)
		m.LoseToken()
		began := time.Now()
		assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
		assert.LessOrEqual(t, time.Since(began), time.Minute)
	})
}

// Who waits for as long as a refusal says is not refused again: complete needs two requests, and
// a check one for each pair.
func TestRefusalNamesTheTimeForAllRequests(t *testing.T) {
	for _, step := range []string{"rotate-root/complete", "rotate-root/check"} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewRotating(t, rotation.Promoted)
				m.Sandbox.RevokeClient(mounttest.ClientID)
				for range 20 {
					_, _ = m.Handle(t.Context(), logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", "typo", "client_secret", "wrong", "compromised", true))
				}
				before := m.Requests()
				code, text := m.Refused(logical.UpdateOperation, step, nil)
				require.Equal(t, http.StatusTooManyRequests, code, text)
				assert.Equal(t, before, m.Requests(), "none is sent if not all may be")
				wait, err := time.ParseDuration(regexp.MustCompile(`Try again in (\w+)\.`).FindStringSubmatch(text)[1])
				require.NoError(t, err)
				assert.Greater(t, wait, 6*time.Second, "one request is there sooner")
				time.Sleep(wait)
				m.Do(logical.UpdateOperation, step, nil)
			})
		})
	}
}
