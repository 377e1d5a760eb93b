// SPDX-License-Identifier: MPL-2.0

// Package mounttest is a mount of the engine in a test: with storage that fails on demand, a
// sandbox in place of Fuuffy, other nodes, and clocks that can be set. It works in virtual time
// too, and uses the engine only from outside.
package mounttest

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

	fuuffy "github.com/fuuffy/vault-plugin-secrets-fuuffy"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

func (m *Mount) Write(path string, keysAndValues ...any) *logical.Response {
	m.T.Helper()
	return m.Do(logical.UpdateOperation, path, Pairs(keysAndValues...))
}

// LoseToken makes the next read need Fuuffy.
func (m *Mount) LoseToken() {
	m.T.Helper()
	m.Do(logical.DeleteOperation, "token", nil)
}

const (
	ClientID = "shop-1"
	// Secret needs URL-encoding and is easy to search for in logs.
	Secret = "planted+secret&=/%é"
)

// Mount is a backend with the storage, the sandbox and the log behind it.
type Mount struct {
	T       *testing.T
	Backend logical.Backend
	Storage *testStorage
	Sandbox *fuuffytest.Sandbox
	System  *systemView
	Log     *Log
	Events  *eventSink
	// Path is where the engine is mounted, fuuffy/ by default.
	Path string
	// What a test may replace, while a backend is running too.
	Transport func(caCert string) (http.RoundTripper, error)
	Random    func() float64
	Clock     func() (wall time.Time, monotonic time.Duration)
	// Skew is how far the wall clock of a backend that starts is ahead. Nil leaves it alone.
	Skew func() time.Duration
}

// New returns an engine that is not configured, whose connections end in a
// sandbox in the same process: it works in virtual time too.
func New(t *testing.T) *Mount {
	t.Helper()
	m := &Mount{
		T:       t,
		Storage: &testStorage{Storage: &logical.InmemStorage{}},
		Sandbox: fuuffytest.New(fuuffytest.Config{PerMinute: -1, PerHour: -1}),
		System:  &systemView{StaticSystemView: *logical.TestSystemView()},
		Log:     &Log{},
		Events:  &eventSink{},
	}
	m.Sandbox.CreateClient(ClientID, Secret)
	m.Start()
	return m
}

// NewConfigured returns an engine that was configured but not read yet.
func NewConfigured(t *testing.T, settings ...any) *Mount {
	t.Helper()
	m := New(t)
	m.Configure(append([]any{"verify_connection", false}, settings...)...)
	return m
}

// Start makes a backend on the mount's storage, as Vault does on an unseal.
func (m *Mount) Start() {
	m.T.Helper()
	m.StartWith(func(*logical.BackendConfig) {})
	require.NoError(m.T, m.Backend.Initialize(m.T.Context(), &logical.InitializationRequest{Storage: m.Storage}))
}

// StartWith is Start with another configuration of Vault's, without Initialize.
func (m *Mount) StartWith(adjust func(*logical.BackendConfig)) {
	m.T.Helper()
	if m.Skew != nil {
		m.SkewWallClock(m.Skew)
	}
	conf := &logical.BackendConfig{
		StorageView:  m.Storage,
		System:       m.System,
		EventsSender: m.Events,
		Logger:       hclog.New(&hclog.LoggerOptions{Output: m.Log, Level: hclog.Trace}),
	}
	adjust(conf)
	b, err := fuuffy.New(m.dependencies())(m.T.Context(), conf)
	require.NoError(m.T, err)
	m.Backend = b
	m.T.Cleanup(func() { b.Cleanup(context.Background()) })
}

// UseSandbox ends the connections to Fuuffy in the sandbox.
func (m *Mount) UseSandbox() {
	m.Transport = func(string) (http.RoundTripper, error) { return m.Sandbox.RoundTripper(), nil }
}

// Framework describes the paths of the engine.
func (m *Mount) Framework() *framework.Backend {
	return reflect.ValueOf(m.Backend).Elem().FieldByName("Backend").Interface().(*framework.Backend)
}

func (m *Mount) dependencies() fuuffy.Dependencies {
	if m.Transport == nil {
		m.UseSandbox()
	}
	if m.Clock == nil {
		m.Clock = SystemClock
	}
	if m.Random == nil {
		m.Random = rand.Float64
	}
	return fuuffy.Dependencies{
		Clock:     func() (time.Time, time.Duration) { return m.Clock() },
		Random:    func() float64 { return m.Random() },
		Transport: func(caCert string) (http.RoundTripper, error) { return m.Transport(caCert) },
	}
}

// Restart makes a new backend on the same storage.
func (m *Mount) Restart() {
	m.T.Helper()
	m.Backend.Cleanup(context.Background())
	m.Start()
}

// Handle sends a request as it comes, and holds a good answer to its schema.
func (m *Mount) Handle(ctx context.Context, operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	m.T.Helper()
	resp, err := m.Backend.HandleRequest(ctx, &logical.Request{
		Operation: operation, Path: path, Data: data, Storage: m.Storage, MountPoint: cmp.Or(m.Path, "fuuffy/"),
	})
	if err == nil && !resp.IsError() && operation != logical.RollbackOperation && (resp != nil || operation != logical.ReadOperation) {
		route := m.Framework().Route(path)
		require.NotNil(m.T, route, path)
		responses := route.Operations[operation].Properties().Responses
		if _, mayBeEmpty := responses[http.StatusNoContent]; resp != nil || !mayBeEmpty {
			schema.ValidateResponse(m.T, schema.GetResponseSchema(m.T, route, operation), resp, true)
		}
	}
	return resp, err
}

// Do sends a request that must succeed.
func (m *Mount) Do(operation logical.Operation, path string, data map[string]any) *logical.Response {
	m.T.Helper()
	resp, err := m.Handle(m.T.Context(), operation, path, data)
	require.NoError(m.T, err)
	require.False(m.T, resp.IsError(), "%v", resp.Error())
	return resp
}

// Refused sends a request that must be answered with an error, and returns its
// HTTP status and its text.
func (m *Mount) Refused(operation logical.Operation, path string, data map[string]any) (int, string) {
	m.T.Helper()
	resp, err := m.Handle(m.T.Context(), operation, path, data)
	return Refusal(m.T, resp, err)
}

func Refusal(t testing.TB, resp *logical.Response, err error) (int, string) {
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

// RoundTripFunc is a transport made of a function.
type RoundTripFunc func(*http.Request) (*http.Response, error)

func (f RoundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Pairs makes a map of "key", value, "key", value.
func Pairs(keysAndValues ...any) map[string]any {
	data := make(map[string]any, len(keysAndValues)/2)
	for i := 0; i < len(keysAndValues); i += 2 {
		data[keysAndValues[i].(string)] = keysAndValues[i+1]
	}
	return data
}

// Configure writes working credentials and what else is named.
func (m *Mount) Configure(settings ...any) *logical.Response {
	m.T.Helper()
	data := Pairs("client_id", ClientID, "client_secret", Secret)
	for field, value := range Pairs(settings...) {
		data[field] = value
	}
	return m.Do(logical.CreateOperation, "config", data)
}

func (m *Mount) Read() *logical.Response {
	m.T.Helper()
	return m.Do(logical.ReadOperation, "token", nil)
}

func (m *Mount) ReadToken() string {
	m.T.Helper()
	return m.Read().Data["access_token"].(string)
}

func (m *Mount) ReadConfig() map[string]any {
	m.T.Helper()
	resp := m.Do(logical.ReadOperation, "config", nil)
	require.NotNil(m.T, resp)
	return resp.Data
}

// Tick is Vault's minute.
func (m *Mount) Tick() {
	m.T.Helper()
	_, err := m.Handle(m.T.Context(), logical.RollbackOperation, "", nil)
	require.NoError(m.T, err)
}

// Requests is how many token requests reached Fuuffy.
func (m *Mount) Requests() int { return m.Sandbox.Stats().TokenRequests }

// SkewWallClock sets the wall clock forward by what skew returns; the monotonic
// one goes on as it was.
func (m *Mount) SkewWallClock(skew func() time.Duration) {
	m.Clock = func() (time.Time, time.Duration) {
		wall, monotonic := SystemClock()
		return wall.Add(skew()), monotonic
	}
}

var processStart = time.Now()

func SystemClock() (wall time.Time, monotonic time.Duration) {
	now := time.Now()
	return now.Round(0), now.Sub(processStart)
}

// Now is the wall clock of the node.
func (m *Mount) Now() time.Time {
	wall, _ := m.Clock()
	return wall
}

func (m *Mount) SetReplicationState(state consts.ReplicationState) {
	m.System.ReplicationStateVal = state
}

// systemView counts how often the engine asks for the replication state.
type systemView struct {
	logical.StaticSystemView
	Asked atomic.Int64
}

// ReplicationState is part of logical.SystemView.
func (v *systemView) ReplicationState() consts.ReplicationState {
	v.Asked.Add(1)
	return v.StaticSystemView.ReplicationState()
}

// Warm reads the token, and tells whether the engine needed neither storage nor Vault for that.
func (m *Mount) Warm(data map[string]any) (*logical.Response, bool) {
	m.T.Helper()
	asked, operations := m.System.Asked.Load(), m.Storage.Count()
	resp, err := m.Backend.HandleRequest(m.T.Context(), &logical.Request{Operation: logical.ReadOperation, Path: TokenKey, Data: data, Storage: m.Storage})
	require.NoError(m.T, err)
	return resp, !resp.IsError() && m.System.Asked.Load() == asked && m.Storage.Count() == operations
}

// StatusTime is a time that the status names.
func (m *Mount) StatusTime(field string) time.Time {
	m.T.Helper()
	at, err := time.Parse(time.RFC3339, m.Status()[field].(string))
	require.NoError(m.T, err)
	return at
}

// StoredPairs are the credentials in storage, zero if nothing is configured.
func (m *Mount) StoredPairs() (stored rotation.Pairs) {
	m.T.Helper()
	entry, err := m.Storage.Get(m.T.Context(), ConfigKey)
	require.NoError(m.T, err)
	if entry != nil {
		require.NoError(m.T, entry.DecodeJSON(&stored))
	}
	return stored
}

// Put writes an entry behind the engine's back.
func (m *Mount) Put(key, value string) {
	m.T.Helper()
	require.NoError(m.T, m.Storage.Storage.Put(m.T.Context(), &logical.StorageEntry{Key: key, Value: []byte(value)}))
}

// Edit changes an entry behind the engine's back.
func (m *Mount) Edit(key string, edit func(stored map[string]any)) {
	m.T.Helper()
	entry, err := m.Storage.Storage.Get(m.T.Context(), key)
	require.NoError(m.T, err)
	var stored map[string]any
	require.NoError(m.T, jsonutil.DecodeJSON(entry.Value, &stored))
	edit(stored)
	value, err := json.Marshal(stored)
	require.NoError(m.T, err)
	m.Put(key, string(value))
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

// Take returns the events since the last time.
func (e *eventSink) Take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	sent := e.sent
	e.sent = nil
	return sent
}

// Log is a log that many goroutines write.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *Log) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = bytes.Buffer{}
}

func (l *Log) Count(text string) int { return strings.Count(l.String(), text) }

// testStorage counts its operations, and fails those that a test picks.
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

// Failing sets what picks the operations that fail, nil for none.
func (s *testStorage) Failing(fail func(operation, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func (s *testStorage) Count() int {
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

var DiscardLog = log.New(io.Discard, "", 0)

func CertificatePEM(certificate *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
}

// FailAll fails every operation of one kind on one key.
func FailAll(operation, key string) func(string, string) error {
	return func(o, k string) error {
		if o == operation && k == key {
			return ErrStorage
		}
		return nil
	}
}

// ReadFor reads the token for a job, and makes sure that it lives for that long.
func (m *Mount) ReadFor(minTTL string) *logical.Response {
	m.T.Helper()
	resp := m.Do(logical.ReadOperation, "token", Pairs("min_ttl", minTTL))
	job, err := time.ParseDuration(minTTL)
	require.NoError(m.T, err)
	expires, err := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
	require.NoError(m.T, err)
	require.GreaterOrEqual(m.T, time.Until(expires), job, "life left")
	return resp
}
