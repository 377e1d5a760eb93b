// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

var errStorage = errors.New("storage is broken")

// storageFault carries out one storage operation, badly. apply is the operation.
type storageFault func(apply func() error) error

// slowly takes its time, before and after the operation has an effect. It ignores
// contexts, as storage does that has begun to write.
func slowly(d time.Duration) storageFault {
	return func(apply func() error) error {
		time.Sleep(d / 2)
		err := apply()
		time.Sleep(d / 2)
		return err
	}
}

// fails carries nothing out.
func fails(func() error) error { return errStorage }

// failsAfterwards carries the operation out, and says that it failed.
func failsAfterwards(apply func() error) error {
	_ = apply()
	return errStorage
}

// panicsWith is a bug in what storage is made of.
func panicsWith(value any) storageFault {
	return func(func() error) error { panic(value) }
}

// faultyStorage is storage whose operations on a key go as the test says. Storage is
// what the test itself reads, without any fault.
type faultyStorage struct {
	logical.Storage

	mu     sync.Mutex
	faults map[string]storageFault
	stuck  map[string]*stuckCalls
}

// stuckCalls are the calls of one operation on one key that hang until their context ends, as
// those of Vault's storage do when it is stuck. An hour is the most, so that a test of an engine
// that waits forever fails, and doesn't deadlock.
type stuckCalls struct {
	mu      sync.Mutex
	left    int // negative: all
	applied bool
	// late, if set, is how long after the end of its context a call takes effect.
	late  time.Duration
	begun int
}

// take counts a call, and tells whether it hangs.
func (c *stuckCalls) take() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 {
		return false
	}
	c.left--
	c.begun++
	return true
}

// count is how many calls hung, or hang now.
func (c *stuckCalls) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begun
}

// allCalls makes all calls hang.
const allCalls = -1

// hang makes that many calls of an operation on a key hang. If applied is set, they take effect
// before they hang. No calls fixes it.
func (s *faultyStorage) hang(operation, key string, calls int, applied bool) *stuckCalls {
	return s.stick(operation, key, &stuckCalls{left: calls, applied: applied})
}

// hangLate makes the next call of an operation on a key hang, and take effect after the engine has
// given up.
func (s *faultyStorage) hangLate(operation, key string, late time.Duration) *stuckCalls {
	return s.stick(operation, key, &stuckCalls{left: 1, late: late})
}

func (s *faultyStorage) stick(operation, key string, c *stuckCalls) *stuckCalls {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stuck[operation+" "+key] = c
	return c
}

// useFaultyStorage puts faulty storage behind the mount. Call it before the mount
// does anything concurrent.
func (m *mount) useFaultyStorage() *faultyStorage {
	s := &faultyStorage{Storage: m.storage.Storage, faults: map[string]storageFault{}, stuck: map[string]*stuckCalls{}}
	m.storage.Storage = s
	return s
}

// set makes an operation ("get", "put", "delete") on a key go wrong; nil fixes it.
func (s *faultyStorage) set(operation, key string, fault storageFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[operation+" "+key] = fault
}

// count makes an operation go wrong, and returns how often the engine has met that.
func (s *faultyStorage) count(operation, key string, fault storageFault) (met func() int) {
	var n atomic.Int64
	s.set(operation, key, func(apply func() error) error {
		n.Add(1)
		return fault(apply)
	})
	return func() int { return int(n.Load()) }
}

func (s *faultyStorage) run(ctx context.Context, operation, key string, apply func() error) error {
	s.mu.Lock()
	fault, stuck := s.faults[operation+" "+key], s.stuck[operation+" "+key]
	s.mu.Unlock()
	if stuck.take() {
		if stuck.applied {
			_ = apply()
		}
		if stuck.late > 0 {
			context.AfterFunc(ctx, func() {
				time.Sleep(stuck.late)
				_ = apply()
			})
		}
		return cmp.Or(pause(ctx, time.Hour), errStorage)
	}
	if fault == nil {
		return apply()
	}
	return fault(apply)
}

func (s *faultyStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.run(ctx, "get", key, func() (err error) {
		entry, err = s.Storage.Get(ctx, key)
		return err
	})
	return entry, err
}

func (s *faultyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.run(ctx, "put", entry.Key, func() error { return s.Storage.Put(context.WithoutCancel(ctx), entry) })
}

func (s *faultyStorage) Delete(ctx context.Context, key string) error {
	return s.run(ctx, "delete", key, func() error { return s.Storage.Delete(context.WithoutCancel(ctx), key) })
}

// stored returns an entry as it lies in storage right now; empty for none.
func (s *faultyStorage) stored(t testing.TB, key string) string {
	t.Helper()
	entry, err := s.Storage.Get(context.Background(), key)
	require.NoError(t, err)
	if entry == nil {
		return ""
	}
	return string(entry.Value)
}

// snapshot is what a crash at this moment would leave.
func (s *faultyStorage) snapshot(t testing.TB) logical.Storage {
	t.Helper()
	left := &logical.InmemStorage{}
	for _, key := range []string{"config", "token", leaksKey} {
		entry, err := s.Storage.Get(context.Background(), key)
		require.NoError(t, err)
		if entry != nil {
			require.NoError(t, left.Put(context.Background(), entry))
		}
	}
	return left
}
