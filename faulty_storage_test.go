// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"errors"
	"sync"
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
}

// useFaultyStorage puts faulty storage behind the mount. Call it before the mount
// does anything concurrent.
func (m *mount) useFaultyStorage() *faultyStorage {
	s := &faultyStorage{Storage: m.storage.Storage, faults: map[string]storageFault{}}
	m.storage.Storage = s
	return s
}

// set makes an operation ("get", "put", "delete") on a key go wrong; nil mends it.
func (s *faultyStorage) set(operation, key string, fault storageFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[operation+" "+key] = fault
}

func (s *faultyStorage) run(operation, key string, apply func() error) error {
	s.mu.Lock()
	fault := s.faults[operation+" "+key]
	s.mu.Unlock()
	if fault == nil {
		return apply()
	}
	return fault(apply)
}

func (s *faultyStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.run("get", key, func() (err error) {
		entry, err = s.Storage.Get(ctx, key)
		return err
	})
	return entry, err
}

func (s *faultyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.run("put", entry.Key, func() error { return s.Storage.Put(context.WithoutCancel(ctx), entry) })
}

func (s *faultyStorage) Delete(ctx context.Context, key string) error {
	return s.run("delete", key, func() error { return s.Storage.Delete(context.WithoutCancel(ctx), key) })
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
