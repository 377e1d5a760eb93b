// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
)

// panickySender panics at events until it is fixed.
type panickySender struct {
	mended atomic.Bool
	panics atomic.Int64
}

// SendEvent is part of logical.EventSender.
func (s *panickySender) SendEvent(context.Context, logical.EventType, *logical.EventData) error {
	if s.mended.Load() {
		return nil
	}
	s.panics.Add(1)
	panic("bug near " + testSecret)
}

// A panic on the way of a token does not end the process, which serves other mounts
// too. It is logged, without its value: that may quote a secret.
func TestPanicWhileAFlightSavesItsToken(t *testing.T) {
	for _, operation := range []string{"get", "put"} {
		t.Run(operation, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newConfiguredMount(t)
				storage := m.useFaultyStorage()
				storage.set(operation, "token", panicsWith(fmt.Sprintf("bug near %s", testSecret)))
				m.readDuringPanics()

				storage.set(operation, "token", nil)
				m.readAfterPanics()
			})
		})
	}
}

func TestPanicWhileAFlightReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		sender := &panickySender{}
		sender.mended.Store(true)
		m.startWith(func(conf *logical.BackendConfig) { conf.EventsSender = sender })
		m.configure("verify_connection", false)

		sender.mended.Store(false)
		m.readDuringPanics()
		assert.NotZero(t, sender.panics.Load())
		sender.mended.Store(true)
		m.readAfterPanics()
	})
}

// readDuringPanics has some readers find what they find: an error or a token.
func (m *mount) readDuringPanics() {
	m.t.Helper()
	const readers = 5
	answered := make(chan struct{}, readers)
	for range readers {
		go func() {
			_, _ = m.handle(m.t.Context(), logical.ReadOperation, "token", nil)
			answered <- struct{}{}
		}()
	}
	for range readers {
		select {
		case <-answered:
		case <-time.After(time.Minute):
			m.t.Fatal("a reader waits for ever")
		}
	}
	synctest.Wait()
	assert.NotZero(m.t, m.log.count("panic"), "the log tells of the panic")
	assert.NotZero(m.t, m.log.count("_test.go:"), "and of its place, here in a test")
}

// readAfterPanics finds a mount that works, and a log that tells no secret.
func (m *mount) readAfterPanics() {
	m.t.Helper()
	time.Sleep(2 * time.Minute) // The hold-off, if there is one.
	token := m.readToken()
	assert.True(m.t, m.sandbox.TokenAlive(token))
	m.do(logical.DeleteOperation, "token", nil)
	next := m.readToken()
	assert.True(m.t, m.sandbox.TokenAlive(next))
	for _, secret := range []string{testSecret, token, next} {
		assert.Zero(m.t, m.log.count(secret), "a secret or a token is in the log")
	}
}

// A panic while the configuration is loaded ends neither the process nor the mount: the former
// one stays in use.
func TestPanicWhileTheConfigurationIsLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		m.storage.failing(func(operation, key string) error {
			if operation == "get" && key == configKey {
				panic("bug near " + testSecret)
			}
			return nil
		})
		m.b.InvalidateKey(t.Context(), configKey)
		m.read()
		m.read()
		synctest.Wait()
		assert.Equal(t, 1, m.log.count("could not load the configuration"))
		assert.Equal(t, 1, m.log.count("[ERROR]"), "the place of the panic, once")
		assert.Zero(t, m.log.count(testSecret))
		m.storage.failing(nil)
		m.read()
	})
}

// A panic while the beginning of a fallback is announced does not end the process either. It is
// another process, because the panic would end this one.
func TestPanicWhileAFallbackIsAnnounced(t *testing.T) {
	const marker = "FUUFFY_TEST_PANIC"
	if os.Getenv(marker) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPanicWhileAFallbackIsAnnounced$")
		cmd.Env = append(os.Environ(), marker+"=1")
		out, err := cmd.CombinedOutput()
		assert.NoError(t, err, "the process ended: %.300s", out)
		return
	}
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		sender := &panickySender{}
		sender.mended.Store(true)
		m.startWith(func(conf *logical.BackendConfig) { conf.EventsSender = sender })
		m.configure()
		m.promoteSuccessor()
		m.sandbox.RevokeClient(successorID)
		m.loseToken()
		sender.mended.Store(false)
		m.readDuringPanics()
		assert.NotZero(t, sender.panics.Load())
		sender.mended.Store(true)
		m.readAfterPanics()
	})
}
