// SPDX-License-Identifier: MPL-2.0

package scenarios

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

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
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
func newMountOfARepeater(t *testing.T, life time.Duration, settings ...any) (*mounttest.Mount, *repeater) {
	t.Helper()
	m := mounttest.New(t)
	m.Sandbox.SetTokenLifetime(life)
	server := &repeater{next: m.Sandbox.RoundTripper()}
	m.Transport = func(string) (http.RoundTripper, error) { return server, nil }
	m.Configure(append([]any{"verify_connection", false}, settings...)...)
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
		Header: http.Header{"Content-Type": {mounttest.JSONType}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r,
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
	t.Parallel()
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
						resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
						if err == nil && !resp.IsError() {
							assert.True(t, m.Sandbox.TokenAlive(resp.Data["access_token"].(string)), "at %s", time.Since(began))
							assert.Empty(t, resp.Warnings)
						} else if failed++; assert.True(t, ending, "at %s: %v %v", time.Since(began), resp, err) {
							_, text := mounttest.Refusal(t, resp, err)
							assert.Contains(t, text, "Fuuffy repeats")
						}
						if reads%60 == 0 {
							m.Tick()
						}
						time.Sleep(time.Second)
					}
					t.Logf("%d reads, %d failed, %d requests", reads, failed, server.count())
					synctest.Wait()
					assert.Greater(t, failed, 0, "the last seconds of a token were tried")
					assert.LessOrEqual(t, failed, lives*12)
					assert.LessOrEqual(t, server.count(), lives*12+1)
					assert.Zero(t, m.Log.Count("[WARN]")+m.Log.Count("[ERROR]"), m.Log)
					for _, event := range m.Events.Take() {
						assert.NotContains(t, event, "fail")
					}
					assert.Equal(t, "ok", m.Status()["upstream_state"])
					assert.LessOrEqual(t, m.Metric("fuuffy_token_requests_total/malformed"), float64(lives), "a request after the end of each token may come too early")
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
		token := m.ReadToken()
		time.Sleep(35 * time.Minute)
		before := m.Status()["last_success"]
		for i := range 240 {
			_, text := m.Refused(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", "30m"))
			assert.Contains(t, text, "Fuuffy repeats the access token that it issued before, which expires at 2000-01-01T01:00:00Z")
			assert.True(t, m.ReadToken() == token)
			assert.Equal(t, 2+i/60, server.count(), "a request each five minutes, a twelfth of the life")
			time.Sleep(5 * time.Second)
		}
		assert.EqualValues(t, 3, m.Status()["min_ttl_requests"], "the last one opened the refresh window")
		assert.Less(t, before, m.Status()["last_success"])
		assert.Equal(t, "ok", m.Status()["upstream_state"])
		assert.Zero(t, m.Log.Count("[WARN]"))
		m.ReadFor("4m")
	})
}

// An operator's action ends the wait for another token.
func TestOperatorsActionEndsTheRepetition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, server := newMountOfARepeater(t, time.Hour)
		m.Read()
		time.Sleep(51 * time.Minute)
		for range 3 {
			m.Read()
			synctest.Wait()
		}
		require.Equal(t, 2, server.count())
		m.Write("config", "stale_if_error", true)
		m.Read()
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
					_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
				}
				if tt.age == 58*time.Minute {
					time.Sleep(time.Minute) // Out of the time that the repeated token was served for.
				}
				requests := server.count()
				for range 2 {
					_, text := m.Refused(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", server.token))
					assert.Contains(t, text, tt.text)
				}
				assert.Equal(t, tt.requests, server.count()-requests)
				assert.Equal(t, tt.state, m.Status()["upstream_state"])
			})
		})
	}
}

// While the new token is repeated, the token of credentials that were rotated is replaced.
func TestRotationDuringARepetition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, server := newMountOfARepeater(t, time.Hour)
		m.Read()
		time.Sleep(51 * time.Minute)
		m.Read()
		synctest.Wait()
		require.Equal(t, 2, server.count())
		other := m.Twin(0)
		other.RotateTo(rotation.Promoted)
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		m.Read()
		synctest.Wait()
		assert.Equal(t, mounttest.NewClientID, m.ServedClientID())
	})
}

// A clock was fast when the token was issued, and was then set right. Its expiry is later than
// that of any other, but on the engine's own clock it lives shorter.
func TestTokenOfAFastClockIsReplaced(t *testing.T) {
	for _, fast := range []time.Duration{10 * time.Minute, time.Hour, 24 * time.Hour} {
		t.Run(fast.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				skew := fast
				m.SkewWallClock(func() time.Duration { return skew })
				old := m.ReadToken()
				skew = 0
				time.Sleep(40 * time.Minute)
				resp := m.Do(logical.ReadOperation, "token", mounttest.Pairs("min_ttl", "30m"))
				assert.False(t, resp.Data["access_token"] == old)
				assert.Empty(t, resp.Warnings)
				assert.Equal(t, 2, m.Requests())
				assert.Zero(t, m.Log.Count("[WARN]"))

				old = m.ReadToken()
				time.Sleep(51 * time.Minute)
				m.Read()
				synctest.Wait()
				assert.False(t, m.ReadToken() == old)
				assert.Equal(t, "ok", m.Status()["upstream_state"])
			})
		})
	}
}

// A refresh that brings a token of less life is no failure either.
func TestShorterTokenIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		token := m.ReadToken()
		time.Sleep(51 * time.Minute)
		m.Sandbox.SetTokenLifetime(2 * time.Minute)
		m.Events.Take()
		for range 20 {
			resp := m.Read()
			assert.True(t, resp.Data["access_token"] == token)
			assert.Empty(t, resp.Warnings)
			synctest.Wait()
			time.Sleep(time.Second)
		}
		assert.Equal(t, 2, m.Requests())
		assert.Empty(t, m.Events.Take())
		assert.Zero(t, m.Log.Count("[WARN]"))
		assert.Equal(t, "ok", m.Status()["upstream_state"])
		time.Sleep(4 * time.Minute)
		assert.False(t, m.ReadToken() == token, "in the buffer, any valid token is better")
	})
}

// With stale_if_error, readers get the repeated token to its end.
func TestStaleTokenThatIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, server := newMountOfARepeater(t, time.Minute, "stale_if_error", true)
		for range 180 {
			resp := m.Read()
			assert.True(t, m.Sandbox.TokenAlive(resp.Data["access_token"].(string)))
			stale := m.Status()["token_state"] == "stale"
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
		m := mounttest.NewConfigured(t)
		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
		m.Sandbox.SetTokenLifetime(time.Minute)
		m.Sandbox.SetRepeat(true)
		secondary, _ := m.Secondary()
		secondary.Read()
		time.Sleep(28 * time.Second)
		secondary.Read()
		synctest.Wait()
		secondary.Read()
		m.Stage()
		m.Promote()
		time.Sleep(22500 * time.Millisecond)
		m.Sandbox.SetFault(mounttest.FaultMalformed)
		before := m.Requests()
		_, _, _ = secondary.Timed(logical.ReadOperation, mounttest.TokenKey, nil)
		assert.LessOrEqual(t, m.Requests()-before, 2)
	})
}
