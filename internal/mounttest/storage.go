// SPDX-License-Identifier: MPL-2.0

package mounttest

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var ErrStorage = errors.New("storage is broken")

// StorageFault carries out one storage operation, badly. apply is the operation.
type StorageFault func(apply func() error) error

// Slowly takes its time, before and after the operation has an effect. It ignores
// contexts, as storage does that has begun to write.
func Slowly(d time.Duration) StorageFault {
	return func(apply func() error) error {
		time.Sleep(d / 2)
		err := apply()
		time.Sleep(d / 2)
		return err
	}
}

// Fails carries nothing out.
func Fails(func() error) error { return ErrStorage }

// FailsAfterwards carries the operation out, and says that it failed.
func FailsAfterwards(apply func() error) error {
	_ = apply()
	return ErrStorage
}

// PanicsWith is a bug in what storage is made of.
func PanicsWith(value any) StorageFault {
	return func(func() error) error { panic(value) }
}

// FaultyStorage is storage whose operations on a key go as the test says. Storage is
// what the test itself reads, without any fault.
type FaultyStorage struct {
	logical.Storage

	mu     sync.Mutex
	faults map[string]StorageFault
	stuck  map[string]*StuckCalls
}

// StuckCalls are the calls of one operation on one key that hang until their context ends, as
// those of Vault's storage do when it is stuck. An hour is the most, so that a test of an engine
// that waits forever fails, and doesn't deadlock.
type StuckCalls struct {
	mu      sync.Mutex
	left    int // negative: all
	applied bool
	// late, if set, is how long after the end of its context a call takes effect.
	late  time.Duration
	begun int
}

// take counts a call, and tells whether it hangs.
func (c *StuckCalls) take() bool {
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

// Count is how many calls hung, or hang now.
func (c *StuckCalls) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begun
}

// AllCalls makes all calls hang.
const AllCalls = -1

// Hang makes that many calls of an operation on a key hang. If applied is set, they take effect
// before they hang. No calls fixes it.
func (s *FaultyStorage) Hang(operation, key string, calls int, applied bool) *StuckCalls {
	return s.stick(operation, key, &StuckCalls{left: calls, applied: applied})
}

// HangLate makes the next call of an operation on a key hang, and take effect after the engine has
// given up.
func (s *FaultyStorage) HangLate(operation, key string, late time.Duration) *StuckCalls {
	return s.stick(operation, key, &StuckCalls{left: 1, late: late})
}

func (s *FaultyStorage) stick(operation, key string, c *StuckCalls) *StuckCalls {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stuck[operation+" "+key] = c
	return c
}

// UseFaultyStorage puts faulty storage behind the mount. Call it before the mount
// does anything concurrent.
func (m *Mount) UseFaultyStorage() *FaultyStorage {
	s := &FaultyStorage{Storage: m.Storage.Storage, faults: map[string]StorageFault{}, stuck: map[string]*StuckCalls{}}
	m.Storage.Storage = s
	return s
}

// Set makes an operation ("get", "put", "delete") on a key go wrong; nil fixes it.
func (s *FaultyStorage) Set(operation, key string, fault StorageFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[operation+" "+key] = fault
}

// Count makes an operation go wrong, and returns how often the engine has met that.
func (s *FaultyStorage) Count(operation, key string, fault StorageFault) (met func() int) {
	var n atomic.Int64
	s.Set(operation, key, func(apply func() error) error {
		n.Add(1)
		return fault(apply)
	})
	return func() int { return int(n.Load()) }
}

func (s *FaultyStorage) run(ctx context.Context, operation, key string, apply func() error) error {
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
		return cmp.Or(Pause(ctx, time.Hour), ErrStorage)
	}
	if fault == nil {
		return apply()
	}
	return fault(apply)
}

func (s *FaultyStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.run(ctx, "get", key, func() (err error) {
		entry, err = s.Storage.Get(ctx, key)
		return err
	})
	return entry, err
}

func (s *FaultyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.run(ctx, "put", entry.Key, func() error { return s.Storage.Put(context.WithoutCancel(ctx), entry) })
}

func (s *FaultyStorage) Delete(ctx context.Context, key string) error {
	return s.run(ctx, "delete", key, func() error { return s.Storage.Delete(context.WithoutCancel(ctx), key) })
}

// Stored returns an entry as it lies in storage right now; empty for none.
func (s *FaultyStorage) Stored(t testing.TB, key string) string {
	t.Helper()
	return LocalEntry(t, s.Storage, key)
}

// Snapshot is what a crash at this moment would leave.
func (s *FaultyStorage) Snapshot(t testing.TB) logical.Storage {
	t.Helper()
	left := &logical.InmemStorage{}
	for _, key := range []string{"config", "token", LeaksKey} {
		entry, err := s.Storage.Get(context.Background(), key)
		require.NoError(t, err)
		if entry != nil {
			require.NoError(t, left.Put(context.Background(), entry))
		}
	}
	return left
}

// Mend makes all storage operations work.
func (s *FaultyStorage) Mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.stuck = map[string]StorageFault{}, map[string]*StuckCalls{}
}

// AssertGone makes sure that a token was replaced, and comes back from nowhere.
func (s *FaultyStorage) AssertGone(t *testing.T, m *Mount, token string) {
	t.Helper()
	next := m.ReadToken()
	require.False(t, next == token, "it is replaced")
	assert.False(t, strings.Contains(s.Stored(t, TokenKey), token), "it is still stored")
	s.Mend()
	standby := m.Node(consts.ReplicationPerformanceStandby, ReadOnlyStorage{Storage: s})
	if resp, err := standby.Handle(t.Context(), logical.ReadOperation, TokenKey, nil); err == nil && !resp.IsError() {
		assert.False(t, resp.Data["access_token"] == token, "it is back on a standby")
	}
	m.Restart()
	assert.False(t, m.ReadToken() == token, "it is back after a restart")
}
