// SPDX-License-Identifier: MPL-2.0

package mounttest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// ToldStorage is storage whose changes Vault tells other nodes of.
type ToldStorage struct {
	logical.Storage
	Tell func(ctx context.Context, key string)
}

func (s ToldStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	err := s.Storage.Put(ctx, entry)
	s.Tell(context.WithoutCancel(ctx), entry.Key)
	return err
}

func (s ToldStorage) Delete(ctx context.Context, key string) error {
	err := s.Storage.Delete(ctx, key)
	s.Tell(context.WithoutCancel(ctx), key)
	return err
}

// ReadOnlyStorage is what a standby sees of the active node's storage, and a secondary of the
// primary's.
type ReadOnlyStorage struct {
	logical.Storage
	writable []string
}

func (s ReadOnlyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if !slices.Contains(s.writable, entry.Key) {
		return logical.ErrReadOnly
	}
	return s.Storage.Put(ctx, entry)
}

func (s ReadOnlyStorage) Delete(ctx context.Context, key string) error {
	if !slices.Contains(s.writable, key) {
		return logical.ErrReadOnly
	}
	return s.Storage.Delete(ctx, key)
}

// Twin starts another node of the mount, with the same storage, events, and log.
func (m *Mount) Twin(state consts.ReplicationState) *Mount {
	m.T.Helper()
	other := &Mount{
		T: m.T, Storage: m.Storage, Sandbox: m.Sandbox, System: &systemView{StaticSystemView: m.System.StaticSystemView},
		Log: m.Log, Events: m.Events,
	}
	other.SetReplicationState(state)
	other.Start()
	return other
}

// Node starts another node of the mount, with storage, events, and a log of its own.
func (m *Mount) Node(state consts.ReplicationState, storage logical.Storage) *Mount {
	m.T.Helper()
	system := &systemView{StaticSystemView: m.System.StaticSystemView}
	other := &Mount{
		T: m.T, Storage: &testStorage{Storage: storage}, Sandbox: m.Sandbox, System: system,
		Log: &Log{}, Events: &eventSink{},
	}
	other.SetReplicationState(state)
	other.Start()
	return other
}

// Follower starts a performance standby that hears of all that the mount stores from now on.
func (m *Mount) Follower() *Mount {
	m.T.Helper()
	shared := m.Storage.Storage
	other := m.Node(m.System.ReplicationStateVal|consts.ReplicationPerformanceStandby, ReadOnlyStorage{Storage: shared})
	m.Storage.Storage = ToldStorage{shared, other.Backend.InvalidateKey}
	return other
}

// Secondary starts the active node of a performance secondary, which hears of all that the mount
// stores from now on, except tokens. It returns the storage of its own token too.
func (m *Mount) Secondary() (*Mount, *logical.InmemStorage) {
	m.T.Helper()
	shared, local := m.Storage.Storage, &logical.InmemStorage{}
	other := m.Node(consts.ReplicationPerformanceSecondary, ReadOnlyStorage{LocalToken{shared, local}, []string{TokenKey}})
	m.Storage.Storage = ToldStorage{shared, func(ctx context.Context, key string) {
		if key == ConfigKey {
			other.Backend.InvalidateKey(ctx, key)
		}
	}}
	return other, local
}

// Failover ends the mount's node and starts another on the same storage, whose wall clock is off
// by skew.
func (m *Mount) Failover(skew time.Duration) {
	m.T.Helper()
	m.Skew = func() time.Duration { return skew }
	m.Restart()
}

// LocalEntry is an entry as it lies in storage, empty for none.
func LocalEntry(t testing.TB, storage logical.Storage, key string) string {
	t.Helper()
	entry, err := storage.Get(context.Background(), key)
	require.NoError(t, err)
	if entry == nil {
		return ""
	}
	return string(entry.Value)
}

// Impatience is how long the clients of a Vault wait. The vault CLI gives up after a minute.
const Impatience = time.Minute

// Timed sends a request as a client does that waits for so long, and returns how long it took.
func (m *Mount) Timed(operation logical.Operation, path string, data map[string]any) (resp *logical.Response, took time.Duration, err error) {
	m.T.Helper()
	ctx, cancel := context.WithTimeout(m.T.Context(), Impatience)
	defer cancel()
	began := time.Now()
	resp, err = m.Handle(ctx, operation, path, data)
	return resp, time.Since(began), err
}

// Gets reads a token, which must take no longer than that, and returns the answer, nil for an
// error.
func (m *Mount) Gets(most time.Duration, why string) *logical.Response {
	m.T.Helper()
	resp, took, err := m.Timed(logical.ReadOperation, TokenKey, nil)
	if took > most {
		m.T.Errorf("%s: a read took %s", why, took)
	}
	if err != nil || resp.IsError() {
		_, text := Refusal(m.T, resp, err)
		m.T.Errorf("%s: a read failed: %s", why, text)
		return nil
	}
	return resp
}

// Serves reads a token, which must be this one.
func (m *Mount) Serves(token string, most time.Duration, why string) {
	m.T.Helper()
	if resp := m.Gets(most, why); resp != nil && resp.Data["access_token"] != token {
		m.T.Errorf("%s: a read yields another token", why)
	}
}

// Pause waits in virtual time, or until the context ends.
func Pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// LocalToken is what a secondary cluster stores: the primary's config, and a token of
// its own.
type LocalToken struct {
	logical.Storage
	Local logical.Storage
}

func (s LocalToken) of(key string) logical.Storage {
	if key == TokenKey {
		return s.Local
	}
	return s.Storage
}

func (s LocalToken) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	return s.of(key).Get(ctx, key)
}

func (s LocalToken) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.of(entry.Key).Put(ctx, entry)
}

func (s LocalToken) Delete(ctx context.Context, key string) error { return s.of(key).Delete(ctx, key) }
