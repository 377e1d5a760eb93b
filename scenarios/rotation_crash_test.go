// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// How an operation is interrupted.
const (
	failOnce  = "fails"
	dieBefore = "process killed before it"
	dieAfter  = "process killed after it"
	// failAfter has the operation take effect and fail, and the same process go on.
	failAfter = "fails after it took effect"
)

// interrupter counts the storage and network operations of a backend and
// interrupts one of them. After a kill nothing of the backend has an effect.
type interrupter struct {
	mu         sync.Mutex
	operations int
	at         int
	how        string
	dead       bool
}

var errInterrupted = errors.New("interrupted")

func (i *interrupter) run(operation func() error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.operations++
	if i.dead {
		return errInterrupted
	}
	if i.operations != i.at {
		return operation()
	}
	i.dead = i.how == dieBefore || i.how == dieAfter
	if i.how == dieAfter || i.how == failAfter {
		_ = operation()
	}
	return errInterrupted
}

// interruptedStorage passes its operations through an interrupter.
type interruptedStorage struct {
	logical.Storage
	i *interrupter
}

func (s interruptedStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.i.run(func() (err error) {
		entry, err = s.Storage.Get(ctx, key)
		return err
	})
	return entry, err
}

func (s interruptedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.i.run(func() error { return s.Storage.Put(ctx, entry) })
}

func (s interruptedStorage) Delete(ctx context.Context, key string) error {
	return s.i.run(func() error { return s.Storage.Delete(ctx, key) })
}

// interruptedTransport passes its requests through an interrupter.
func interruptedTransport(next http.RoundTripper, i *interrupter) http.RoundTripper {
	return mounttest.RoundTripFunc(func(r *http.Request) (resp *http.Response, err error) {
		err = i.run(func() (err error) {
			resp, err = next.RoundTrip(r)
			return err
		})
		if err != nil && resp != nil {
			resp.Body.Close()
			resp = nil
		}
		return resp, err
	})
}

// crashStep is a step of the rotation that is interrupted everywhere.
type crashStep struct {
	name, before string
	prepare      func(*mounttest.Mount)
	take         func(*mounttest.Mount) (*logical.Response, error)
	after        string // the state that the step leads to
	afterClient  string // and the current client
	compromises  bool   // and whether the previous one is compromised then
}

func attemptUpdate(m *mounttest.Mount, path string, data map[string]any) (*logical.Response, error) {
	return m.Handle(m.T.Context(), logical.UpdateOperation, path, data)
}

func createThird(m *mounttest.Mount) { m.Sandbox.CreateClient("shop-3", "third-secret") }

var crashSteps = []crashStep{
	{"stage", rotation.Idle, nil, func(m *mounttest.Mount) (*logical.Response, error) {
		return attemptUpdate(m, "rotate-root", mounttest.NewPair())
	}, rotation.Staged, mounttest.ClientID, false},
	{"promote", rotation.Staged, nil, func(m *mounttest.Mount) (*logical.Response, error) {
		return attemptUpdate(m, "rotate-root/promote", nil)
	}, rotation.Promoted, mounttest.NewClientID, false},
	{
		"complete", rotation.Promoted, func(m *mounttest.Mount) { m.Sandbox.RevokeClient(mounttest.ClientID) },
		func(m *mounttest.Mount) (*logical.Response, error) {
			return attemptUpdate(m, "rotate-root/complete", nil)
		}, rotation.Idle, mounttest.NewClientID, false,
	},
	{"rollback", rotation.Promoted, nil, func(m *mounttest.Mount) (*logical.Response, error) {
		return attemptUpdate(m, "rotate-root/rollback", nil)
	}, rotation.Idle, mounttest.ClientID, false},
	{"rollback from the fallback", rotation.Promoted, func(m *mounttest.Mount) {
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.Do(logical.DeleteOperation, "token", nil)
		m.Read()
	}, func(m *mounttest.Mount) (*logical.Response, error) {
		return attemptUpdate(m, "rotate-root/rollback", nil)
	}, rotation.Idle, mounttest.ClientID, false},
	{"compromised", rotation.Idle, nil, func(m *mounttest.Mount) (*logical.Response, error) {
		return attemptUpdate(m, "rotate-root", mounttest.NewPair("compromised", true))
	}, rotation.Promoted, mounttest.NewClientID, true},
	{"compromised while promoted", rotation.Promoted, nil, func(m *mounttest.Mount) (*logical.Response, error) {
		return attemptUpdate(m, "rotate-root", mounttest.NewPair("compromised", true))
	}, rotation.Promoted, mounttest.NewClientID, true},
	{"new ones compromised too", rotation.Promoted, createThird, func(m *mounttest.Mount) (*logical.Response, error) {
		return attemptUpdate(m, "rotate-root", mounttest.Pairs("client_id", "shop-3", "client_secret", "third-secret", "compromised", true))
	}, rotation.Promoted, "shop-3", true},
	{"new ones compromised, old ones revoked", rotation.Promoted, func(m *mounttest.Mount) {
		createThird(m)
		m.Sandbox.RevokeClient(mounttest.ClientID)
	}, func(m *mounttest.Mount) (*logical.Response, error) {
		return attemptUpdate(m, "rotate-root", mounttest.Pairs("client_id", "shop-3", "client_secret", "third-secret", "compromised", true))
	}, rotation.Promoted, "shop-3", true},
	{"stage that completes", rotation.Promoted, func(m *mounttest.Mount) {
		createThird(m)
		m.Sandbox.RevokeClient(mounttest.ClientID)
	}, func(m *mounttest.Mount) (*logical.Response, error) {
		return attemptUpdate(m, "rotate-root", mounttest.Pairs("client_id", "shop-3", "client_secret", "third-secret"))
	}, rotation.Staged, mounttest.NewClientID, false},
	{"complete by force", rotation.Promoted, nil, func(m *mounttest.Mount) (*logical.Response, error) {
		return attemptUpdate(m, "rotate-root/complete", mounttest.Pairs("force", true))
	}, rotation.Idle, mounttest.NewClientID, false},
	{"discard", rotation.Staged, nil, func(m *mounttest.Mount) (*logical.Response, error) {
		return m.Handle(m.T.Context(), logical.DeleteOperation, "rotate-root", nil)
	}, rotation.Idle, mounttest.ClientID, false},
	{"replace through config", rotation.Idle, nil, func(m *mounttest.Mount) (*logical.Response, error) {
		return attemptUpdate(m, "config", mounttest.NewPair())
	}, rotation.Idle, mounttest.NewClientID, false},
}

// interrupted takes the step with one operation interrupted, and returns how many
// operations there were and whether the step succeeded.
func (s crashStep) interrupted(m *mounttest.Mount, at int, how string) (operations int, ok bool) {
	m.T.Helper()
	i := &interrupter{at: at, how: how}
	whole := m.Storage.Storage
	m.Storage.Storage = interruptedStorage{whole, i}
	m.Transport = func(string) (http.RoundTripper, error) {
		return interruptedTransport(m.Sandbox.RoundTripper(), i), nil
	}
	resp, err := s.take(m)
	m.Storage.Storage = whole
	m.UseSandbox() // For the next process.
	return i.operations, err == nil && !resp.IsError()
}

// The crash matrix: interrupt every storage and network operation of every step in
// turn, start a new backend on the same storage, and see that it works and that
// the step, repeated, ends where it should.
func TestRotationCrashMatrix(t *testing.T) {
	t.Parallel()
	points := 0
	for _, s := range crashSteps {
		m := mounttest.NewRotating(t, s.before)
		if s.prepare != nil {
			s.prepare(m)
		}
		operations, ok := s.interrupted(m, 0, "")
		require.True(t, ok, "%s works when nothing interrupts it", s.name)
		require.Greater(t, operations, 2)
		for at := 1; at <= operations; at++ {
			for _, how := range []string{failOnce, failAfter, dieBefore, dieAfter} {
				points++
				t.Run(fmt.Sprintf("%s, operation %d %s", s.name, at, how), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { s.crash(t, at, how) })
				})
			}
		}
	}
	t.Logf("crash matrix: %d points tried", points)
	assert.Greater(t, points, 100)
}

func (s crashStep) crash(t *testing.T, at int, how string) {
	m := mounttest.NewRotating(t, s.before)
	if s.prepare != nil {
		s.prepare(m)
	}
	_, answered := s.interrupted(m, at, how)

	// A process that was not killed goes on, on storage that works again.
	if how == dieBefore || how == dieAfter {
		m.Restart()
	} else {
		time.Sleep(2 * time.Minute) // The hold-off of what failed.
	}
	assert.Equal(t, m.Rotation()["client_id"], m.Do(logical.ReadOperation, "status", nil).Data["client_id"], "memory and storage agree")
	assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()), "the token read after the crash works")
	m.Do(logical.DeleteOperation, "token", nil)
	assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()), "and so does the next one")

	status := m.Rotation()
	taken := s.reached(status)
	assert.False(t, answered && !taken, "a step that was answered with success has its effect")
	before := status["history"]
	resp, err := s.take(m)
	repeated := err == nil && !resp.IsError()
	if !repeated {
		code, text := mounttest.Refusal(t, resp, err)
		assert.True(t, taken, "the step is neither taken nor can it be repeated: %s", text)
		assert.Equal(t, http.StatusBadRequest, code, "who repeats what is done is told so: %s", text)
	}
	status = m.Rotation()
	if taken {
		assert.Equal(t, before, status["history"], "nothing is done twice")
	}
	assert.True(t, s.reached(status), "after the repetition (%v): state %v, client %v", repeated, status["state"], status["client_id"])
	m.Restart()
	assert.True(t, s.reached(m.Rotation()), "and in storage")
	assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()))
}

// reached tells whether the step was taken.
func (s crashStep) reached(status map[string]any) bool {
	return status["state"] == s.after && status["client_id"] == s.afterClient && (!s.compromises || status["compromised"] == true)
}
