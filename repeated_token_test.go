// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// repeater is an authorization server that caches the token that it issued, and repeats it until
// the token expires.
type repeater struct {
	next http.RoundTripper
	// delay is how long each response takes.
	delay time.Duration

	mu       sync.Mutex
	token    string
	expires  time.Time
	requests int
}

// newMountOfARepeater returns an engine that was configured but not read yet.
func newMountOfARepeater(t *testing.T, life time.Duration, settings ...any) (*mount, *repeater) {
	t.Helper()
	m := newMount(t)
	m.sandbox.SetTokenLifetime(life)
	server := &repeater{next: m.sandbox.RoundTripper()}
	m.transport = func(string) (http.RoundTripper, error) { return server, nil }
	m.configure(append([]any{"verify_connection", false}, settings...)...)
	return m, server
}

// RoundTrip is part of http.RoundTripper.
func (s *repeater) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if !time.Now().Before(s.expires) {
		resp, err := s.next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, err
		}
		var envelope struct {
			Data struct {
				AccessToken string `json:"access_token"`
				ExpiresIn   int    `json:"expires_in"`
			} `json:"data"`
		}
		if resp.StatusCode == http.StatusOK {
			if err := json.Unmarshal(body, &envelope); err != nil {
				return nil, err
			}
			s.token, s.expires = envelope.Data.AccessToken, time.Now().Add(time.Duration(envelope.Data.ExpiresIn)*time.Second)
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		time.Sleep(s.delay)
		return resp, nil
	}
	body := fmt.Sprintf(`{"data": {"access_token": %q, "token_type": "Bearer", "expires_in": %d}}`, s.token, int(time.Until(s.expires).Seconds()))
	time.Sleep(s.delay)
	return &http.Response{
		StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {jsonType}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}, nil
}

// left is the life that the server's token still has.
func (s *repeater) left() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Until(s.expires)
}

func (s *repeater) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// An authorization server repeats its token until that expires. Readers get it for as long as it
// is valid, the next one as soon as there is one, and nothing looks like a failure.
func TestRepeatedToken(t *testing.T) {
	for _, life := range []time.Duration{20 * time.Second, time.Minute, 10 * time.Minute, time.Hour} {
		for _, delay := range []time.Duration{0, 300 * time.Millisecond} {
			t.Run(fmt.Sprint(life, ", in ", delay), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const lives = 3
					m, server := newMountOfARepeater(t, life)
					server.delay = delay
					reads, failed := 0, 0
					began := time.Now()
					for time.Since(began) < lives*life {
						// A token with less than ten seconds left is not valid. Seconds count from the
						// server's response, and whole.
						left := server.left()
						ending := left > 0 && left < upstream.MinTokenLife+time.Second || delay > 0 && left > -2*time.Second && left <= 0
						reads++
						resp, err := m.handle(t.Context(), logical.ReadOperation, "token", nil)
						if err == nil && !resp.IsError() {
							assert.True(t, m.sandbox.TokenAlive(resp.Data["access_token"].(string)), "at %s", time.Since(began))
							assert.Empty(t, resp.Warnings)
						} else if failed++; assert.True(t, ending, "at %s: %v %v", time.Since(began), resp, err) {
							_, text := refusal(t, resp, err)
							assert.Contains(t, text, "Fuuffy repeats")
						}
						if reads%60 == 0 {
							m.tick()
						}
						time.Sleep(time.Second)
					}
					t.Logf("%d reads, %d failed, %d requests", reads, failed, server.count())
					synctest.Wait()
					assert.Greater(t, failed, 0, "the last seconds of a token were tried")
					assert.LessOrEqual(t, failed, lives*12)
					assert.LessOrEqual(t, server.count(), lives*12+1)
					assert.Zero(t, m.log.count("[WARN]")+m.log.count("[ERROR]"), m.log)
					for _, event := range m.events.take() {
						assert.NotContains(t, event, "fail")
					}
					assert.Equal(t, "ok", m.status()["upstream_state"])
					assert.LessOrEqual(t, m.metric("fuuffy_token_requests_total/malformed"), float64(lives), "a request after the end of each token may come too early")
				})
			})
		}
	}
}

// Only who asked for a longer life gets an error while Fuuffy repeats its token, and costs few
// requests. The error says so, and when the engine asks again.
func TestMinTTLOfARepeatedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, server := newMountOfARepeater(t, time.Hour)
		token := m.readToken()
		time.Sleep(35 * time.Minute)
		before := m.status()["last_success"]
		for i := range 240 {
			_, text := m.refused(logical.ReadOperation, "token", pairs("min_ttl", "30m"))
			assert.Contains(t, text, "Fuuffy repeats the access token that it issued before, which expires at 2000-01-01T01:00:00Z")
			assert.True(t, m.readToken() == token)
			assert.Equal(t, 2+i/60, server.count(), "a request each five minutes, a twelfth of the life")
			time.Sleep(5 * time.Second)
		}
		assert.EqualValues(t, 3, m.status()["min_ttl_requests"], "the last one opened the refresh window")
		assert.Less(t, before, m.status()["last_success"])
		assert.Equal(t, "ok", m.status()["upstream_state"])
		assert.Zero(t, m.log.count("[WARN]"))
		m.readFor("4m")
	})
}

// An operator's action ends the wait for another token.
func TestOperatorsActionEndsTheRepetition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, server := newMountOfARepeater(t, time.Hour)
		m.read()
		time.Sleep(51 * time.Minute)
		for range 3 {
			m.read()
			synctest.Wait()
		}
		require.Equal(t, 2, server.count())
		m.write("config", "stale_if_error", true)
		m.read()
		synctest.Wait()
		assert.Equal(t, 3, server.count())
	})
}

// A report of a token that Fuuffy repeats is a failure: the app needs another. In the last seconds
// of its life, Fuuffy is not asked for it.
func TestReportOfARepeatedToken(t *testing.T) {
	for name, tt := range map[string]struct {
		age      time.Duration
		requests int
		state    string
		text     string
	}{
		"fresh":         {10 * time.Minute, 1, "malformed", "the very access token that an app reported"},
		"in its window": {52 * time.Minute, 1, "malformed", "the very access token that an app reported"},
		"in its buffer": {58 * time.Minute, 1, "malformed", "the very access token that an app reported"},
		"ending":        {time.Hour - 5*time.Second, 0, "ok", "Fuuffy repeats the access token"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, server := newMountOfARepeater(t, time.Hour)
				for began := time.Now(); time.Since(began) < tt.age; time.Sleep(5 * time.Second) {
					_, _ = m.handle(t.Context(), logical.ReadOperation, "token", nil)
				}
				if tt.age == 58*time.Minute {
					time.Sleep(time.Minute) // Out of the time that the repeated token was served for.
				}
				requests := server.count()
				for range 2 {
					_, text := m.refused(logical.UpdateOperation, "token", pairs("rejected_token", server.token))
					assert.Contains(t, text, tt.text)
				}
				assert.Equal(t, tt.requests, server.count()-requests)
				assert.Equal(t, tt.state, m.status()["upstream_state"])
			})
		})
	}
}

// While the new token is repeated, the token of credentials that were rotated is replaced.
func TestRotationDuringARepetition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, server := newMountOfARepeater(t, time.Hour)
		m.read()
		time.Sleep(51 * time.Minute)
		m.read()
		synctest.Wait()
		require.Equal(t, 2, server.count())
		other := m.twin(0)
		other.promoteSuccessor()
		m.b.InvalidateKey(t.Context(), configKey)
		m.read()
		synctest.Wait()
		assert.Equal(t, successorID, m.servedClientID())
	})
}

// A clock was fast when the token was issued, and was then set right. Its expiry is later than
// that of any other, but on the engine's own clock it lives shorter.
func TestTokenOfAFastClockIsReplaced(t *testing.T) {
	for _, fast := range []time.Duration{10 * time.Minute, time.Hour, 24 * time.Hour} {
		t.Run(fast.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				skew := fast
				m.skewWallClock(func() time.Duration { return skew })
				old := m.readToken()
				skew = 0
				time.Sleep(40 * time.Minute)
				resp := m.do(logical.ReadOperation, "token", pairs("min_ttl", "30m"))
				assert.False(t, resp.Data["access_token"] == old)
				assert.Empty(t, resp.Warnings)
				assert.Equal(t, 2, m.requests())
				assert.Zero(t, m.log.count("[WARN]"))

				old = m.readToken()
				time.Sleep(51 * time.Minute)
				m.read()
				synctest.Wait()
				assert.False(t, m.readToken() == old)
				assert.Equal(t, "ok", m.status()["upstream_state"])
			})
		})
	}
}

// A refresh that brings a token of less life is no failure either.
func TestShorterTokenIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		token := m.readToken()
		time.Sleep(51 * time.Minute)
		m.sandbox.SetTokenLifetime(2 * time.Minute)
		m.events.take()
		for range 20 {
			resp := m.read()
			assert.True(t, resp.Data["access_token"] == token)
			assert.Empty(t, resp.Warnings)
			synctest.Wait()
			time.Sleep(time.Second)
		}
		assert.Equal(t, 2, m.requests())
		assert.Empty(t, m.events.take())
		assert.Zero(t, m.log.count("[WARN]"))
		assert.Equal(t, "ok", m.status()["upstream_state"])
		time.Sleep(4 * time.Minute)
		assert.False(t, m.readToken() == token, "in the buffer, any valid token is better")
	})
}

// With stale_if_error, readers get the repeated token to its end.
func TestStaleTokenThatIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, server := newMountOfARepeater(t, time.Minute, "stale_if_error", true)
		for range 180 {
			resp := m.read()
			assert.True(t, m.sandbox.TokenAlive(resp.Data["access_token"].(string)))
			stale := m.status()["token_state"] == "stale"
			assert.Equal(t, server.left() < 8*time.Second, stale, "%s left", server.left())
			assert.Equal(t, stale, len(resp.Warnings) == 1, resp.Warnings)
			time.Sleep(time.Second)
		}
	})
}

// A token that Fuuffy repeated is at its end when a secondary hears of other credentials, which get
// garbage. That is a failure like any other: the engine holds off.
func TestRepeatedTokenOfFormerCredentialsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.sandbox.CreateClient(newClientID, newSecret)
		m.sandbox.SetTokenLifetime(time.Minute)
		m.sandbox.SetRepeat(true)
		secondary, _ := m.secondary()
		secondary.read()
		time.Sleep(28 * time.Second)
		secondary.read()
		synctest.Wait()
		secondary.read()
		m.stage()
		m.promote()
		time.Sleep(22500 * time.Millisecond)
		m.sandbox.SetFault(faultMalformed)
		before := m.requests()
		_, _, _ = secondary.timed(logical.ReadOperation, tokenKey, nil)
		assert.LessOrEqual(t, m.requests()-before, 2)
	})
}
