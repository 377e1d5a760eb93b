// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/jsonutil"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

const (
	testClientID = "shop-1"
	// testSecret needs URL-encoding and is easy to search for in logs.
	testSecret = "planted+secret&=/%é"
)

// mount is a backend with the storage, the sandbox and the log behind it.
type mount struct {
	t       *testing.T
	b       logical.Backend
	storage *testStorage
	sandbox *fuuffytest.Sandbox
	system  *systemView
	log     *lockedBuffer
	events  *eventSink
	// path is where the engine is mounted, fuuffy/ by default.
	path string
	// What a test may replace, while a backend is running too.
	transport func(caCert string) (http.RoundTripper, error)
	random    func() float64
	clock     func() (wall time.Time, monotonic time.Duration)
	// skew is how far the wall clock of a backend that starts is ahead. Nil leaves it alone.
	skew func() time.Duration
}

// newMount returns an engine that is not configured, whose connections end in a
// sandbox in the same process: it works in virtual time too.
func newMount(t *testing.T) *mount {
	t.Helper()
	m := &mount{
		t:       t,
		storage: &testStorage{Storage: &logical.InmemStorage{}},
		sandbox: fuuffytest.New(fuuffytest.Config{PerMinute: -1, PerHour: -1}),
		system:  &systemView{StaticSystemView: *logical.TestSystemView()},
		log:     &lockedBuffer{},
		events:  &eventSink{},
	}
	m.sandbox.CreateClient(testClientID, testSecret)
	m.start()
	return m
}

// newConfiguredMount returns an engine that was configured but not read yet.
func newConfiguredMount(t *testing.T, settings ...any) *mount {
	t.Helper()
	m := newMount(t)
	m.configure(append([]any{"verify_connection", false}, settings...)...)
	return m
}

// start makes a backend on the mount's storage, as Vault does on an unseal.
func (m *mount) start() {
	m.t.Helper()
	m.startWith(func(*logical.BackendConfig) {})
	require.NoError(m.t, m.b.Initialize(m.t.Context(), &logical.InitializationRequest{Storage: m.storage}))
}

// startWith is start with another configuration of Vault's, without Initialize.
func (m *mount) startWith(adjust func(*logical.BackendConfig)) {
	m.t.Helper()
	if m.skew != nil {
		m.skewWallClock(m.skew)
	}
	conf := &logical.BackendConfig{
		StorageView:  m.storage,
		System:       m.system,
		EventsSender: m.events,
		Logger:       hclog.New(&hclog.LoggerOptions{Output: m.log, Level: hclog.Trace}),
	}
	adjust(conf)
	b, err := New(m.dependencies())(m.t.Context(), conf)
	require.NoError(m.t, err)
	m.b = b
	m.t.Cleanup(func() { b.Cleanup(context.Background()) })
}

// useSandbox ends the connections to Fuuffy in the sandbox.
func (m *mount) useSandbox() {
	m.transport = func(string) (http.RoundTripper, error) { return m.sandbox.RoundTripper(), nil }
}

// framework describes the paths of the engine.
func (m *mount) framework() *framework.Backend {
	return reflect.ValueOf(m.b).Elem().FieldByName("Backend").Interface().(*framework.Backend)
}

func (m *mount) dependencies() Dependencies {
	if m.transport == nil {
		m.useSandbox()
	}
	if m.clock == nil {
		m.clock = systemClock
	}
	if m.random == nil {
		m.random = rand.Float64
	}
	return Dependencies{
		Clock:     func() (time.Time, time.Duration) { return m.clock() },
		Random:    func() float64 { return m.random() },
		Transport: func(caCert string) (http.RoundTripper, error) { return m.transport(caCert) },
	}
}

// restart makes a new backend on the same storage.
func (m *mount) restart() {
	m.t.Helper()
	m.b.Cleanup(context.Background())
	m.start()
}

// handle sends a request as it comes, and holds a good answer to its schema.
func (m *mount) handle(ctx context.Context, operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	m.t.Helper()
	resp, err := m.b.HandleRequest(ctx, &logical.Request{
		Operation: operation, Path: path, Data: data, Storage: m.storage, MountPoint: cmp.Or(m.path, "fuuffy/"),
	})
	if err == nil && !resp.IsError() && operation != logical.RollbackOperation && (resp != nil || operation != logical.ReadOperation) {
		route := m.framework().Route(path)
		require.NotNil(m.t, route, path)
		responses := route.Operations[operation].Properties().Responses
		if _, mayBeEmpty := responses[http.StatusNoContent]; resp != nil || !mayBeEmpty {
			schema.ValidateResponse(m.t, schema.GetResponseSchema(m.t, route, operation), resp, true)
		}
	}
	return resp, err
}

// do sends a request that must succeed.
func (m *mount) do(operation logical.Operation, path string, data map[string]any) *logical.Response {
	m.t.Helper()
	resp, err := m.handle(m.t.Context(), operation, path, data)
	require.NoError(m.t, err)
	require.False(m.t, resp.IsError(), "%v", resp.Error())
	return resp
}

// refused sends a request that must be answered with an error, and returns its
// HTTP status and its text.
func (m *mount) refused(operation logical.Operation, path string, data map[string]any) (int, string) {
	m.t.Helper()
	resp, err := m.handle(m.t.Context(), operation, path, data)
	return refusal(m.t, resp, err)
}

func refusal(t testing.TB, resp *logical.Response, err error) (int, string) {
	t.Helper()
	if coded, ok := errors.AsType[logical.HTTPCodedError](err); ok {
		return coded.Code(), coded.Error()
	}
	if err != nil {
		return http.StatusInternalServerError, err.Error()
	}
	require.True(t, resp.IsError(), "expected an error, got %v", resp)
	return http.StatusBadRequest, resp.Error().Error()
}

// roundTripFunc is a transport made of a function.
type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// pairs makes a map of "key", value, "key", value.
func pairs(keysAndValues ...any) map[string]any {
	data := make(map[string]any, len(keysAndValues)/2)
	for i := 0; i < len(keysAndValues); i += 2 {
		data[keysAndValues[i].(string)] = keysAndValues[i+1]
	}
	return data
}

// configure writes working credentials and what else is named.
func (m *mount) configure(settings ...any) *logical.Response {
	m.t.Helper()
	data := pairs("client_id", testClientID, "client_secret", testSecret)
	for field, value := range pairs(settings...) {
		data[field] = value
	}
	return m.do(logical.CreateOperation, "config", data)
}

func (m *mount) read() *logical.Response {
	m.t.Helper()
	return m.do(logical.ReadOperation, "token", nil)
}

func (m *mount) readToken() string {
	m.t.Helper()
	return m.read().Data["access_token"].(string)
}

func (m *mount) readConfig() map[string]any {
	m.t.Helper()
	resp := m.do(logical.ReadOperation, "config", nil)
	require.NotNil(m.t, resp)
	return resp.Data
}

// tick is Vault's minute.
func (m *mount) tick() {
	m.t.Helper()
	_, err := m.handle(m.t.Context(), logical.RollbackOperation, "", nil)
	require.NoError(m.t, err)
}

// requests is how many token requests reached Fuuffy.
func (m *mount) requests() int { return m.sandbox.Stats().TokenRequests }

// skewWallClock sets the wall clock forward by what skew returns; the monotonic
// one goes on as it was.
func (m *mount) skewWallClock(skew func() time.Duration) {
	m.clock = func() (time.Time, time.Duration) {
		wall, monotonic := systemClock()
		return wall.Add(skew()), monotonic
	}
}

var processStart = time.Now()

func systemClock() (wall time.Time, monotonic time.Duration) {
	now := time.Now()
	return now.Round(0), now.Sub(processStart)
}

// now is the wall clock of the node.
func (m *mount) now() time.Time {
	wall, _ := m.clock()
	return wall
}

func (m *mount) setReplicationState(state consts.ReplicationState) {
	m.system.ReplicationStateVal = state
}

// systemView counts how often the engine asks for the replication state.
type systemView struct {
	logical.StaticSystemView
	asked atomic.Int64
}

// ReplicationState is part of logical.SystemView.
func (v *systemView) ReplicationState() consts.ReplicationState {
	v.asked.Add(1)
	return v.StaticSystemView.ReplicationState()
}

// warm reads the token, and tells whether the engine needed neither storage nor Vault for that.
func (m *mount) warm(data map[string]any) (*logical.Response, bool) {
	m.t.Helper()
	asked, operations := m.system.asked.Load(), m.storage.count()
	resp, err := m.b.HandleRequest(m.t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: tokenKey, Data: data, Storage: m.storage})
	require.NoError(m.t, err)
	return resp, !resp.IsError() && m.system.asked.Load() == asked && m.storage.count() == operations
}

// statusTime is a time that the status names.
func (m *mount) statusTime(field string) time.Time {
	m.t.Helper()
	at, err := time.Parse(time.RFC3339, m.status()[field].(string))
	require.NoError(m.t, err)
	return at
}

// storedPairs are the credentials in storage, zero if nothing is configured.
func (m *mount) storedPairs() (stored rotation.Pairs) {
	m.t.Helper()
	entry, err := m.storage.Get(m.t.Context(), configKey)
	require.NoError(m.t, err)
	if entry != nil {
		require.NoError(m.t, entry.DecodeJSON(&stored))
	}
	return stored
}

// storedToken is the token in storage, zero if there is none.
func (m *mount) storedToken() (stored tokencache.Token) {
	m.t.Helper()
	entry, err := m.storage.Get(m.t.Context(), tokenKey)
	require.NoError(m.t, err)
	if entry != nil {
		require.NoError(m.t, entry.DecodeJSON(&stored))
	}
	return stored
}

// put writes an entry behind the engine's back.
func (m *mount) put(key, value string) {
	m.t.Helper()
	require.NoError(m.t, m.storage.Storage.Put(m.t.Context(), &logical.StorageEntry{Key: key, Value: []byte(value)}))
}

// edit changes an entry behind the engine's back.
func (m *mount) edit(key string, edit func(stored map[string]any)) {
	m.t.Helper()
	entry, err := m.storage.Storage.Get(m.t.Context(), key)
	require.NoError(m.t, err)
	var stored map[string]any
	require.NoError(m.t, jsonutil.DecodeJSON(entry.Value, &stored))
	edit(stored)
	value, err := json.Marshal(stored)
	require.NoError(m.t, err)
	m.put(key, string(value))
}

// eventSink keeps the events that are sent, as "type key=value …".
type eventSink struct {
	mu   sync.Mutex
	sent []string
}

// SendEvent is part of logical.EventSender.
func (e *eventSink) SendEvent(ctx context.Context, kind logical.EventType, event *logical.EventData) error {
	if err := ctx.Err(); err != nil {
		return err // As a call from a plugin to Vault.
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	text := string(kind)
	fields := event.Metadata.GetFields()
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		text += " " + key + "=" + fields[key].GetStringValue()
	}
	e.sent = append(e.sent, text)
	return nil
}

// take returns the events since the last time.
func (e *eventSink) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	sent := e.sent
	e.sent = nil
	return sent
}

// lockedBuffer is a log that many goroutines write.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lockedBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = bytes.Buffer{}
}

func (l *lockedBuffer) count(text string) int { return strings.Count(l.String(), text) }

// testStorage counts its operations and fails those that fail picks.
type testStorage struct {
	logical.Storage

	mu         sync.Mutex
	operations int
	fail       func(operation, key string) error
}

func (s *testStorage) before(operation, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.operations++
	if s.fail == nil {
		return nil
	}
	return s.fail(operation, key)
}

func (s *testStorage) failing(fail func(operation, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func (s *testStorage) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.operations
}

func (s *testStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := s.before("get", key); err != nil {
		return nil, err
	}
	return s.Storage.Get(ctx, key)
}

func (s *testStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if err := s.before("put", entry.Key); err != nil {
		return err
	}
	return s.Storage.Put(ctx, entry)
}

func (s *testStorage) Delete(ctx context.Context, key string) error {
	if err := s.before("delete", key); err != nil {
		return err
	}
	return s.Storage.Delete(ctx, key)
}

var discardLog = log.New(io.Discard, "", 0)

func certificatePEM(certificate *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
}

// failAll fails every operation of one kind on one key.
func failAll(operation, key string) func(string, string) error {
	return func(o, k string) error {
		if o == operation && k == key {
			return errors.New("storage is broken")
		}
		return nil
	}
}
