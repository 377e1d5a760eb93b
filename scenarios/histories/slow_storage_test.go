// SPDX-License-Identifier: MPL-2.0

package histories

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// How a storage operation fails.
const (
	failsBefore = "fails before it takes effect"
	// failsAfter is the nasty one: the caller gets an error, and the change is there.
	failsAfter   = "fails after it took effect"
	panicsBefore = "panics before it takes effect"
	panicsAfter  = "panics after it took effect"
	// What hangs ends only with its context.
	hangsBefore = "hangs before it takes effect"
	hangsAfter  = "hangs after it took effect"
)

var (
	errStorageBroken = errors.New("storage is broken")
	errProcessDead   = errors.New("the process is dead")
)

// storageFate is what happens to one storage operation. It takes effect between the
// two delays.
type storageFate struct {
	before, after time.Duration
	fails         string
}

// slowStorage is storage that takes time and sometimes fails. Like real storage it
// gives up when the context ends, perhaps after the change took effect.
type slowStorage struct {
	// Storage takes no time and never fails.
	logical.Storage
	fate func(ctx context.Context, operation, key string) storageFate
	// begin is told of each operation, and returns who is told of its effect and its end.
	begin func(ctx context.Context, operation string, entry *logical.StorageEntry) storageObserver
	// readOnly picks the keys that this node may not write. Nil picks none.
	readOnly func(key string) bool
	// dead is set when the process was killed: nothing of it has an effect any more.
	dead atomic.Bool
}

// storageObserver is told of one operation.
type storageObserver interface {
	// effect runs the operation itself, and notes when that was.
	effect(func() error) error
	// end notes how it ended. A panic ends it with an error too.
	end(error)
}

func (s *slowStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.run(ctx, "get", &logical.StorageEntry{Key: key}, func() (err error) {
		entry, err = s.Storage.Get(context.WithoutCancel(ctx), key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return entry, nil
}

func (s *slowStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.run(ctx, "put", entry, func() error { return s.Storage.Put(context.WithoutCancel(ctx), entry) })
}

func (s *slowStorage) Delete(ctx context.Context, key string) error {
	return s.run(ctx, "delete", &logical.StorageEntry{Key: key}, func() error {
		return s.Storage.Delete(context.WithoutCancel(ctx), key)
	})
}

func (s *slowStorage) run(ctx context.Context, operation string, entry *logical.StorageEntry, act func() error) (err error) {
	if operation != "get" && s.readOnly != nil && s.readOnly(entry.Key) {
		return logical.ErrReadOnly
	}
	fate, observer := s.fate(ctx, operation, entry.Key), s.begin(ctx, operation, entry)
	err = errStorageBroken // In case of a panic.
	defer func() { observer.end(err) }()

	if err := mounttest.Pause(ctx, fate.before); err != nil {
		return err
	}
	switch {
	case s.dead.Load():
		return errProcessDead
	case fate.fails == failsBefore:
		return errStorageBroken
	case fate.fails == panicsBefore:
		panic("the storage panics")
	case fate.fails == hangsBefore:
		<-ctx.Done()
		return ctx.Err()
	}
	if err := observer.effect(act); err != nil {
		return err
	}
	if err := mounttest.Pause(ctx, fate.after); err != nil {
		return err
	}
	switch {
	case s.dead.Load():
		return errProcessDead
	case fate.fails == failsAfter:
		return errStorageBroken
	case fate.fails == panicsAfter:
		panic("the storage panics")
	case fate.fails == hangsAfter:
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}
