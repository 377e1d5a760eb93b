// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// While storage takes three seconds for the config, readers who can wait for 200 ms
// wait no longer than that, however many there are.
func TestReadersDoNotWaitForEachOthersConfigLoad(t *testing.T) {
	const readers, patience, load = 30, 200 * time.Millisecond, 3 * time.Second
	for name, unload := range map[string]func(*mounttest.Mount, *mounttest.FaultyStorage){
		"after a start that could not load it": func(m *mounttest.Mount, storage *mounttest.FaultyStorage) {
			storage.Set("get", "config", mounttest.Fails)
			m.Restart()
		},
		"after another node changed it": func(m *mounttest.Mount, _ *mounttest.FaultyStorage) { m.Backend.InvalidateKey(m.T.Context(), "config") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				storage := m.UseFaultyStorage()
				m.Read()
				unload(m, storage)
				storage.Set("get", "config", mounttest.Slowly(load))

				var late atomic.Int64
				var waiting sync.WaitGroup
				for i := range readers {
					waiting.Go(func() {
						time.Sleep(time.Duration(i) * 10 * time.Millisecond)
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						defer cancel()
						began := time.Now()
						_, _ = m.Handle(ctx, logical.ReadOperation, "token", nil)
						if time.Since(began) > patience+50*time.Millisecond {
							late.Add(1)
						}
					})
				}
				waiting.Wait()
				assert.Zero(t, late.Load(), "readers that waited longer than they could, of %d", readers)

				began := time.Now()
				m.Read()
				assert.LessOrEqual(t, time.Since(began), load+time.Second, "who has the time gets a token")
			})
		})
	}
}

// curiousLog asks the mount for its state with each line that it is given, and waits
// for the answer: like a log shipper that adds what it knows of the mount.
type curiousLog struct {
	ask   func() bool
	busy  atomic.Bool
	asked chan struct{}
	stuck atomic.Int64
}

func (l *curiousLog) Write(p []byte) (int, error) {
	// A line that comes of the question is not asked about.
	if l.ask == nil || !l.busy.CompareAndSwap(false, true) {
		return len(p), nil
	}
	defer l.busy.Store(false)
	if !l.ask() {
		l.stuck.Add(1)
	}
	l.asked <- struct{}{}
	return len(p), nil
}

// Nothing is logged while a lock is held that a read needs: a log that takes its time,
// or reads itself, does not keep readers waiting.
func TestLogMayReadTheMount(t *testing.T) {
	m := mounttest.New(t)
	storage := m.UseFaultyStorage()
	log := &curiousLog{asked: make(chan struct{}, 1000)}
	m.StartWith(func(conf *logical.BackendConfig) {
		conf.Logger = hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Trace})
	})
	m.Configure("verify_connection", false)
	log.ask = func() bool {
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			defer cancel()
			for _, path := range []string{"status", "token", "rotate-root"} {
				_, _ = m.Handle(ctx, logical.ReadOperation, path, nil)
			}
		}()
		select {
		case <-answered:
			return true
		case <-time.After(3 * time.Second):
			return false
		}
	}

	m.Sandbox.SetFault(mounttest.FaultRejected)
	refusedToken(m)
	awaitLine(t, log, "a failure is logged")
	assert.Zero(t, log.stuck.Load(), "reads that wait for a log line to be written")

	m.Sandbox.ClearFault()
	m.Do(logical.DeleteOperation, "token", nil)
	storage.Set("put", "token", mounttest.Fails)
	m.Read()
	awaitLine(t, log, "a failed save is logged")
	storage.Set("put", "token", nil)
	m.Do(logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true))
	assert.Zero(t, log.stuck.Load(), "reads that wait for a log line to be written")
}

// awaitLine waits for a log line, and until the mount was asked about it. A flight may
// log after it has answered its readers.
func awaitLine(t *testing.T, log *curiousLog, why string) {
	t.Helper()
	select {
	case <-log.asked:
	case <-time.After(10 * time.Second):
		t.Fatal(why)
	}
	for {
		select {
		case <-log.asked:
		default:
			return
		}
	}
}

// hang waits until its context ends, as a call to a Vault that is stuck does.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// stuckStorage hangs when the token is read.
type stuckStorage struct{ logical.Storage }

func (s stuckStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if key == mounttest.TokenKey {
		return nil, hang(ctx)
	}
	return s.Storage.Get(ctx, key)
}

// stuckEvents hangs with each event.
type stuckEvents struct{}

// SendEvent is part of logical.EventSender.
func (stuckEvents) SendEvent(ctx context.Context, _ logical.EventType, _ *logical.EventData) error {
	return hang(ctx)
}

// A token request ends in bounded time, although Vault's storage or its events hang. One
// that does not end would be the last: all later readers wait for it.
func TestTokenRequestOutlivesAStuckVault(t *testing.T) {
	for name, get := range map[string]func(*mounttest.Mount){
		"storage": func(m *mounttest.Mount) { m.Storage.Storage = stuckStorage{m.Storage.Storage} },
		"events, of a fallback": func(m *mounttest.Mount) {
			m.Backend.Cleanup(context.Background())
			m.StartWith(func(conf *logical.BackendConfig) { conf.EventsSender = stuckEvents{} })
			m.RotateTo(rotation.Promoted)
			m.Sandbox.RevokeClient(mounttest.NewClientID)
			m.Do(logical.DeleteOperation, "token", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				get(m)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				resp, err := m.Handle(ctx, logical.ReadOperation, "token", nil)
				if assert.NoError(t, err) && assert.False(t, resp.IsError()) {
					assert.True(t, m.Sandbox.TokenAlive(resp.Data["access_token"].(string)))
				}
			})
		})
	}
}

// Who waits for a change that takes long gives up with its caller, and has changed nothing.
func TestCallersGiveUp(t *testing.T) {
	for name, tt := range map[string]struct {
		operation logical.Operation
		path      string
		data      map[string]any
	}{
		"config read":   {logical.ReadOperation, "config", nil},
		"config write":  {logical.UpdateOperation, "config", mounttest.Pairs("request_timeout", 20)},
		"config delete": {logical.DeleteOperation, "config", nil},
		"token delete":  {logical.DeleteOperation, "token", nil},
		"check":         {logical.UpdateOperation, "rotate-root/check", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				token := m.ReadToken()
				storage := m.UseFaultyStorage()
				storage.Set("put", "config", mounttest.Slowly(10*time.Second))
				go m.Write("config", "request_timeout", 15)
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := m.Handle(ctx, tt.operation, tt.path, tt.data)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				time.Sleep(time.Minute)
				assert.EqualValues(t, 15, m.ReadConfig()["request_timeout"])
				assert.True(t, m.ReadToken() == token)
				m.Restart()
				assert.True(t, m.ReadToken() == token)
				assert.Zero(t, m.Log.Count("panic"))
			})
		})
	}
}

// Whatever needs storage, one stores at a time: what is in memory agrees with storage
// afterwards.
func TestOneStoresAtATime(t *testing.T) {
	for name, act := range map[string]func(*mounttest.Mount){
		"setting":               func(m *mounttest.Mount) { m.Write("config", "request_timeout", 15) },
		"credentials":           func(m *mounttest.Mount) { m.Configure("client_id", mounttest.NewClientID, "verify_connection", false) },
		"credentials that work": func(m *mounttest.Mount) { m.Configure("client_id", mounttest.NewClientID) },
		"token delete":          func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "token", nil) },
		"config delete":         func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "config", nil) },
		"check":                 func(m *mounttest.Mount) { m.Write("rotate-root/check") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.CreateClient(mounttest.NewClientID, mounttest.Secret)
				storage := m.UseFaultyStorage()
				var busy atomic.Bool
				alone := func(apply func() error) error {
					if assert.True(t, busy.CompareAndSwap(false, true), "two at a time") {
						defer busy.Store(false)
					}
					return mounttest.Slowly(time.Second)(apply)
				}
				for _, operation := range []string{"put config", "delete config", "put token", "delete token"} {
					kind, key, _ := strings.Cut(operation, " ")
					storage.Set(kind, key, alone)
				}
				m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 250 * time.Millisecond})
				var callers sync.WaitGroup
				callers.Go(func() { _, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil) })
				callers.Go(func() { act(m) })
				callers.Wait()

				_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
				stored := storage.Stored(t, "token")
				resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
				held := err == nil && !resp.IsError()
				assert.True(t, !held && stored == "" || held && strings.Contains(stored, resp.Data["access_token"].(string)))
			})
		})
	}
}

// A change makes a request that is in progress pointless. Its readers don't wait for its end.
func TestReadersDoNotWaitForAPointlessRequest(t *testing.T) {
	for name, act := range map[string]func(*mounttest.Mount){
		"token delete":  func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "token", nil) },
		"setting":       func(m *mounttest.Mount) { m.Write("config", "request_timeout", 15) },
		"config delete": func(m *mounttest.Mount) { m.Do(logical.DeleteOperation, "config", nil) },
		"check":         func(m *mounttest.Mount) { m.Write("rotate-root/check") },
		"another node":  func(m *mounttest.Mount) { m.Backend.InvalidateKey(m.T.Context(), "config") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				m.Sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultHang, Times: 1})
				began, answered := time.Now(), make(chan time.Duration)
				go func() {
					_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
					answered <- time.Since(began)
				}()
				time.Sleep(time.Second)
				act(m)
				assert.Equal(t, time.Second, <-answered)
			})
		})
	}
}

// However many readers need the configuration, it is loaded once.
func TestReadersShareALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Read()
		var loads atomic.Int64
		m.UseFaultyStorage().Set("get", "config", func(apply func() error) error {
			loads.Add(1)
			return mounttest.Slowly(time.Second)(apply)
		})
		m.Backend.InvalidateKey(t.Context(), "config")
		var readers sync.WaitGroup
		for range 20 {
			readers.Go(func() { m.Read() })
		}
		readers.Wait()
		assert.EqualValues(t, 1, loads.Load())
	})
}
