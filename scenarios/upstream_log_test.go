// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// The log has a line for each change between issues and failures, and for each change of the
// failure, but not for each attempt.
func TestLogOfTheUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		const fails, works = "Fuuffy issues no token", "Fuuffy issues tokens again"
		logs := func(step string, wantFails, wantWorks int) {
			t.Helper()
			synctest.Wait()
			assert.Equal(t, wantFails, m.Log.Count(fails), step)
			assert.Equal(t, wantWorks, m.Log.Count(works), step)
			m.Log.Reset()
		}
		fail := func() {
			time.Sleep(10 * time.Minute) // The hold-off.
			refusedToken(m)
		}
		m.Read()
		m.Do(logical.DeleteOperation, "token", nil)
		m.Read()
		logs("all is well", 0, 0)

		m.Do(logical.DeleteOperation, "token", nil)
		m.Sandbox.SetFault(mounttest.FaultMalformed)
		refusedToken(m)
		synctest.Wait()
		assert.Contains(t, m.Log.String(), "failure=malformed")
		assert.Contains(t, m.Log.String(), "next_try_in=1s")
		logs("it fails", 1, 0)
		fail()
		logs("once more", 0, 0)
		m.Sandbox.SetFault(mounttest.FaultRejected)
		fail()
		synctest.Wait()
		assert.Contains(t, m.Log.String(), "failure=rejected")
		logs("in another way", 1, 0)

		m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.Secret)
		m.Configure("client_id", mounttest.NewClientID, "verify_connection", false)
		logs("credentials that nobody tried", 0, 0)
		refusedToken(m)
		logs("they fail", 1, 0)
		m.Sandbox.ClearFault()
		m.Configure("client_id", mounttest.NewClientID)
		logs("credentials that work", 0, 1)
		m.Read()
		logs("and go on", 0, 0)

		m.Do(logical.DeleteOperation, "token", nil)
		m.Sandbox.SetFault(mounttest.FaultRejected)
		m.Write("rotate-root/check")
		logs("a check fails", 1, 0)
		m.Sandbox.ClearFault()
		time.Sleep(mounttest.CheckInterval)
		m.Write("rotate-root/check")
		logs("a check succeeds", 0, 1)
	})
}

// A token that is only in memory, and one that could not be read, are logged wherever they
// come from.
func TestLogOfTheStoredToken(t *testing.T) {
	const unsaved, unreadable = "could not save the access token", "could not use the stored access token"
	for name, tt := range map[string]struct {
		act                 func(*mounttest.Mount)
		unsaved, unreadable int
	}{
		"read": {func(m *mounttest.Mount) { m.Read() }, 1, 1},
		"credentials in config": {func(m *mounttest.Mount) {
			m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.Secret)
			m.Configure("client_id", mounttest.NewClientID)
		}, 1, 0},
		"check":    {func(m *mounttest.Mount) { m.Write("rotate-root/check") }, 1, 0},
		"start":    {(*mounttest.Mount).Restart, 0, 1},
		"no token": {func(m *mounttest.Mount) { m.Status() }, 0, 0},
	} {
		for _, broken := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, broken %t", name, broken), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					storage := m.UseFaultyStorage()
					want := map[string]int{}
					if broken {
						storage.Set("get", mounttest.TokenKey, mounttest.Fails)
						storage.Set("put", mounttest.TokenKey, mounttest.Fails)
						want[unsaved], want[unreadable] = tt.unsaved, tt.unreadable
					}
					tt.act(m)
					synctest.Wait()
					for _, line := range []string{unsaved, unreadable} {
						assert.Equal(t, want[line], m.Log.Count(line), line)
					}
				})
			})
		}
	}
}

// A stored token that can't be read is logged once, however many readers need it, until it can be
// read again.
func TestUnreadableTokenIsLoggedOnce(t *testing.T) {
	const unreadable = "could not use the stored access token"
	for node, start := range map[string]func(m *mounttest.Mount) *mounttest.Mount{
		"standby": func(m *mounttest.Mount) *mounttest.Mount {
			return m.Node(consts.ReplicationPerformanceStandby, mounttest.ReadOnlyStorage{Storage: m.Storage.Storage})
		},
		"active, and Fuuffy fails": func(m *mounttest.Mount) *mounttest.Mount {
			m.Sandbox.SetFault(mounttest.FaultMalformed)
			return m.Node(0, m.Storage.Storage)
		},
	} {
		for fault, spoil := range map[string]func(m *mounttest.Mount, s *mounttest.FaultyStorage){
			"fails": func(_ *mounttest.Mount, s *mounttest.FaultyStorage) {
				s.Set("get", mounttest.TokenKey, mounttest.Fails)
			},
			"hangs": func(_ *mounttest.Mount, s *mounttest.FaultyStorage) {
				s.Hang("get", mounttest.TokenKey, mounttest.AllCalls, false)
			},
			"damaged": func(m *mounttest.Mount, _ *mounttest.FaultyStorage) {
				m.Put(mounttest.TokenKey, `{"format": 1, "access_token": "sk-planted`)
			},
		} {
			t.Run(node+", "+fault, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.NewConfigured(t)
					m.Read()
					entry := mounttest.LocalEntry(t, m.Storage.Storage, mounttest.TokenKey)
					other := start(m)
					storage := other.UseFaultyStorage()
					for round := range 2 {
						other.Backend.InvalidateKey(t.Context(), mounttest.TokenKey)
						spoil(m, storage)
						for range 20 {
							_, _, _ = other.Timed(logical.ReadOperation, mounttest.TokenKey, nil)
							time.Sleep(6 * time.Second)
						}
						synctest.Wait()
						assert.Equal(t, round+1, other.Log.Count(unreadable), "outage %d", round+1)
						storage.Mend()
						m.Put(mounttest.TokenKey, entry)
						time.Sleep(10 * time.Minute) // The hold-off.
						other.Gets(oneHang, "it can be read again")
					}
				})
			})
		}
	}
}

// sluggishLogger takes ten seconds for each line. Unlike a slow file it lets others log meanwhile.
type sluggishLogger struct{ hclog.Logger }

func (l sluggishLogger) With(args ...any) hclog.Logger { return sluggishLogger{l.Logger.With(args...)} }

func (l sluggishLogger) Named(name string) hclog.Logger { return sluggishLogger{l.Logger.Named(name)} }

func (l sluggishLogger) Debug(text string, args ...any) {
	time.Sleep(lineTime)
	l.Logger.Debug(text, args...)
}

func (l sluggishLogger) Info(text string, args ...any) {
	time.Sleep(lineTime)
	l.Logger.Info(text, args...)
}

func (l sluggishLogger) Warn(text string, args ...any) {
	time.Sleep(lineTime)
	l.Logger.Warn(text, args...)
}

func (l sluggishLogger) Error(text string, args ...any) {
	time.Sleep(lineTime)
	l.Logger.Error(text, args...)
}

const lineTime = 10 * time.Second

// Readers hear of a token before anything of it is logged. A slow log keeps no one waiting, and
// no one gets a token that was deleted meanwhile.
func TestSlowLogDelaysNoReader(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(*mounttest.Mount, *mounttest.FaultyStorage)
		line    string
	}{
		"the save fails": {func(_ *mounttest.Mount, s *mounttest.FaultyStorage) {
			s.Set("put", mounttest.TokenKey, mounttest.Fails)
		}, "could not save the access token"},
		"the save panics": {func(_ *mounttest.Mount, s *mounttest.FaultyStorage) {
			s.Set("put", mounttest.TokenKey, mounttest.PanicsWith("bug"))
		}, "could not save the access token"},
		"the stored token can't be read": {
			func(_ *mounttest.Mount, s *mounttest.FaultyStorage) {
				s.Set("get", mounttest.TokenKey, mounttest.Fails)
			}, "could not use the stored access token",
		},
		"Fuuffy works again": {
			func(m *mounttest.Mount, _ *mounttest.FaultyStorage) {
				m.Sandbox.SetFault(mounttest.FaultMalformed)
				refusedToken(m)
				m.Sandbox.ClearFault()
				time.Sleep(time.Minute)
			}, "Fuuffy issues tokens again",
		},
		"the fallback begins": {
			func(m *mounttest.Mount, _ *mounttest.FaultyStorage) {
				m.Stage()
				m.Promote()
				m.Do(logical.DeleteOperation, mounttest.TokenKey, nil)
				m.Sandbox.RevokeClient(mounttest.NewClientID)
				time.Sleep(time.Minute)
			}, "falling back to the old ones",
		},
		"Fuuffy names no life": {
			func(m *mounttest.Mount, _ *mounttest.FaultyStorage) {
				m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultBody, Body: `{"data": {"access_token": "sk-1", "token_type": "Bearer"}}`})
			}, "didn't say how long the access token lives",
		},
	} {
		for who, deleted := range map[string]bool{"readers": false, "a delete follows": true} {
			t.Run(name+", "+who, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := mounttest.New(t)
					m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.NewSecret)
					m.StartWith(func(conf *logical.BackendConfig) { conf.Logger = sluggishLogger{conf.Logger} })
					m.Configure("verify_connection", false)
					storage := m.UseFaultyStorage()
					tt.prepare(m, storage)
					m.Log.Reset()

					var tokens [5]string
					var readers sync.WaitGroup
					began := time.Now()
					for i := range tokens {
						readers.Go(func() {
							if resp := m.Gets(time.Second, "a reader"); resp != nil {
								tokens[i] = resp.Data["access_token"].(string)
							}
							if deleted {
								assert.LessOrEqual(t, time.Since(began), 2*time.Second, "a reader gets the token after the delete has answered")
							}
						})
					}
					if deleted {
						time.Sleep(2 * time.Second)
						_, took, err := m.Timed(logical.DeleteOperation, mounttest.TokenKey, nil)
						require.NoError(t, err)
						assert.LessOrEqual(t, took, time.Second)
					}
					readers.Wait()
					time.Sleep(2 * time.Minute)
					assert.Equal(t, 1, m.Log.Count(tt.line), m.Log)
				})
			})
		}
	}
}
