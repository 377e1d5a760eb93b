// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
)

// While storage takes three seconds for the config, readers who can wait for 200 ms
// wait no longer than that, however many there are.
func TestReadersDoNotWaitForEachOthersConfigLoad(t *testing.T) {
	const readers, patience, load = 30, 200 * time.Millisecond, 3 * time.Second
	for name, unload := range map[string]func(*mount, *faultyStorage){
		"after a start that could not load it": func(m *mount, storage *faultyStorage) {
			storage.set("get", "config", fails)
			m.restart()
		},
		"after another node changed it": func(m *mount, _ *faultyStorage) { m.b.InvalidateKey(m.t.Context(), "config") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				storage := m.useFaultyStorage()
				m.read()
				unload(m, storage)
				storage.set("get", "config", slowly(load))

				var late atomic.Int64
				var waiting sync.WaitGroup
				for i := range readers {
					waiting.Go(func() {
						time.Sleep(time.Duration(i) * 10 * time.Millisecond)
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						defer cancel()
						began := time.Now()
						_, _ = m.handle(ctx, logical.ReadOperation, "token", nil)
						if time.Since(began) > patience+50*time.Millisecond {
							late.Add(1)
						}
					})
				}
				waiting.Wait()
				assert.Zero(t, late.Load(), "readers that waited longer than they could, of %d", readers)

				began := time.Now()
				m.read()
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
	m := newMount(t)
	storage := m.useFaultyStorage()
	log := &curiousLog{asked: make(chan struct{}, 1000)}
	m.startWith(func(conf *logical.BackendConfig) {
		conf.Logger = hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Trace})
	})
	m.useSandbox()
	m.configure("verify_connection", false)
	log.ask = func() bool {
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			defer cancel()
			for _, path := range []string{"status", "token", "rotate-root"} {
				_, _ = m.handle(ctx, logical.ReadOperation, path, nil)
			}
		}()
		select {
		case <-answered:
			return true
		case <-time.After(3 * time.Second):
			return false
		}
	}

	m.sandbox.SetFault(faultRejected)
	m.refusedToken()
	awaitLine(t, log, "a failure is logged")
	assert.Zero(t, log.stuck.Load(), "reads that wait for a log line to be written")

	m.sandbox.ClearFault()
	m.do(logical.DeleteOperation, "token", nil)
	storage.set("put", "token", fails)
	m.read()
	awaitLine(t, log, "a failed save is logged")
	storage.set("put", "token", nil)
	m.do(logical.UpdateOperation, "config", pairs("stale_if_error", true))
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
	if key == tokenKey {
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
	for name, get := range map[string]func(*mount){
		"storage": func(m *mount) { m.storage.Storage = stuckStorage{m.storage.Storage} },
		"events, of a fallback": func(m *mount) {
			m.b.Cleanup(context.Background())
			m.startWith(func(conf *logical.BackendConfig) { conf.EventsSender = stuckEvents{} })
			m.useSandbox()
			m.promoteSuccessor()
			m.sandbox.RevokeClient(successorID)
			m.do(logical.DeleteOperation, "token", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				get(m)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				resp, err := m.handle(ctx, logical.ReadOperation, "token", nil)
				if assert.NoError(t, err) && assert.False(t, resp.IsError()) {
					assert.True(t, m.sandbox.TokenAlive(resp.Data["access_token"].(string)))
				}
			})
		})
	}
}
