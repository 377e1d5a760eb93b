// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// toldStorage is storage whose changes Vault tells other nodes of.
type toldStorage struct {
	logical.Storage
	tell func(ctx context.Context, key string)
}

func (s toldStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	err := s.Storage.Put(ctx, entry)
	s.tell(context.WithoutCancel(ctx), entry.Key)
	return err
}

func (s toldStorage) Delete(ctx context.Context, key string) error {
	err := s.Storage.Delete(ctx, key)
	s.tell(context.WithoutCancel(ctx), key)
	return err
}

// readOnlyStorage is what a standby sees of the active node's storage, and a secondary of the
// primary's.
type readOnlyStorage struct {
	logical.Storage
	writable []string
}

func (s readOnlyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if !slices.Contains(s.writable, entry.Key) {
		return logical.ErrReadOnly
	}
	return s.Storage.Put(ctx, entry)
}

func (s readOnlyStorage) Delete(ctx context.Context, key string) error {
	if !slices.Contains(s.writable, key) {
		return logical.ErrReadOnly
	}
	return s.Storage.Delete(ctx, key)
}

// twin starts another node of the mount, with the same storage, events, and log.
func (m *mount) twin(state consts.ReplicationState) *mount {
	m.t.Helper()
	other := &mount{
		t: m.t, storage: m.storage, sandbox: m.sandbox, system: &systemView{StaticSystemView: m.system.StaticSystemView},
		log: m.log, events: m.events,
	}
	other.setReplicationState(state)
	other.start()
	return other
}

// node starts another node of the mount, with storage, events, and a log of its own.
func (m *mount) node(state consts.ReplicationState, storage logical.Storage) *mount {
	m.t.Helper()
	system := &systemView{StaticSystemView: m.system.StaticSystemView}
	other := &mount{
		t: m.t, storage: &testStorage{Storage: storage}, sandbox: m.sandbox, system: system,
		log: &lockedBuffer{}, events: &eventSink{},
	}
	other.setReplicationState(state)
	other.start()
	return other
}

// follower starts a performance standby that hears of all that the mount stores from now on.
func (m *mount) follower() *mount {
	m.t.Helper()
	shared := m.storage.Storage
	other := m.node(m.system.ReplicationStateVal|consts.ReplicationPerformanceStandby, readOnlyStorage{Storage: shared})
	m.storage.Storage = toldStorage{shared, other.b.InvalidateKey}
	return other
}

// secondary starts the active node of a performance secondary, which hears of all that the mount
// stores from now on, except tokens. It returns the storage of its own token too.
func (m *mount) secondary() (*mount, *logical.InmemStorage) {
	m.t.Helper()
	shared, local := m.storage.Storage, &logical.InmemStorage{}
	other := m.node(consts.ReplicationPerformanceSecondary, readOnlyStorage{localToken{shared, local}, []string{tokenKey}})
	m.storage.Storage = toldStorage{shared, func(ctx context.Context, key string) {
		if key == configKey {
			other.b.InvalidateKey(ctx, key)
		}
	}}
	return other, local
}

// failover ends the mount's node and starts another on the same storage, whose wall clock is off
// by skew.
func (m *mount) failover(skew time.Duration) {
	m.t.Helper()
	m.skew = func() time.Duration { return skew }
	m.restart()
}

// localEntry is an entry as it lies in storage, empty for none.
func localEntry(t testing.TB, storage logical.Storage, key string) string {
	t.Helper()
	entry, err := storage.Get(context.Background(), key)
	require.NoError(t, err)
	if entry == nil {
		return ""
	}
	return string(entry.Value)
}

// impatience is how long the clients of a Vault wait. The vault CLI gives up after a minute.
const impatience = time.Minute

// timed sends a request as a client does that waits for so long, and returns how long it took.
func (m *mount) timed(operation logical.Operation, path string, data map[string]any) (resp *logical.Response, took time.Duration, err error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), impatience)
	defer cancel()
	began := time.Now()
	resp, err = m.handle(ctx, operation, path, data)
	return resp, time.Since(began), err
}

// gets reads a token, which must take no longer than that, and returns the answer, nil for an
// error.
func (m *mount) gets(most time.Duration, why string) *logical.Response {
	m.t.Helper()
	resp, took, err := m.timed(logical.ReadOperation, tokenKey, nil)
	if took > most {
		m.t.Errorf("%s: a read took %s", why, took)
	}
	if err != nil || resp.IsError() {
		_, text := refusal(m.t, resp, err)
		m.t.Errorf("%s: a read failed: %s", why, text)
		return nil
	}
	return resp
}

// serves reads a token, and tells whether it is this one.
func (m *mount) serves(token string, most time.Duration, why string) bool {
	m.t.Helper()
	resp := m.gets(most, why)
	if resp == nil {
		return false
	}
	if resp.Data["access_token"] != token {
		m.t.Errorf("%s: a read yields another token", why)
		return false
	}
	return true
}
