// SPDX-License-Identifier: MPL-2.0

package scenarios

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

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
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
	panic("bug near " + mounttest.Secret)
}

// A panic on the way of a token does not end the process, which serves other mounts
// too. It is logged, without its value: that may quote a secret.
func TestPanicWhileAFlightSavesItsToken(t *testing.T) {
	for _, operation := range []string{"get", "put"} {
		t.Run(operation, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.NewConfigured(t)
				storage := m.UseFaultyStorage()
				storage.Set(operation, "token", mounttest.PanicsWith(fmt.Sprintf("bug near %s", mounttest.Secret)))
				readDuringPanics(m)

				storage.Set(operation, "token", nil)
				readAfterPanics(m)
			})
		})
	}
}

func TestPanicWhileAFlightReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		sender := &panickySender{}
		sender.mended.Store(true)
		m.StartWith(func(conf *logical.BackendConfig) { conf.EventsSender = sender })
		m.Configure("verify_connection", false)

		sender.mended.Store(false)
		readDuringPanics(m)
		assert.NotZero(t, sender.panics.Load())
		sender.mended.Store(true)
		readAfterPanics(m)
	})
}

// readDuringPanics has some readers find what they find: an error or a token.
func readDuringPanics(m *mounttest.Mount) {
	m.T.Helper()
	const readers = 5
	answered := make(chan struct{}, readers)
	for range readers {
		go func() {
			_, _ = m.Handle(m.T.Context(), logical.ReadOperation, "token", nil)
			answered <- struct{}{}
		}()
	}
	for range readers {
		select {
		case <-answered:
		case <-time.After(time.Minute):
			m.T.Fatal("a reader waits for ever")
		}
	}
	synctest.Wait()
	assert.NotZero(m.T, m.Log.Count("panic"), "the log tells of the panic")
	assert.NotZero(m.T, m.Log.Count("_test.go:")+m.Log.Count("/mounttest/"), "and of its place, here in a test")
}

// readAfterPanics finds a mount that works, and a log that tells no secret.
func readAfterPanics(m *mounttest.Mount) {
	m.T.Helper()
	time.Sleep(2 * time.Minute) // The hold-off, if there is one.
	token := m.ReadToken()
	assert.True(m.T, m.Sandbox.TokenAlive(token))
	m.Do(logical.DeleteOperation, "token", nil)
	next := m.ReadToken()
	assert.True(m.T, m.Sandbox.TokenAlive(next))
	for _, secret := range []string{mounttest.Secret, token, next} {
		assert.Zero(m.T, m.Log.Count(secret), "a secret or a token is in the log")
	}
}

// A panic while the configuration is loaded ends neither the process nor the mount: the former
// one stays in use.
func TestPanicWhileTheConfigurationIsLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Storage.Failing(func(operation, key string) error {
			if operation == "get" && key == mounttest.ConfigKey {
				panic("bug near " + mounttest.Secret)
			}
			return nil
		})
		m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey)
		m.Read()
		m.Read()
		synctest.Wait()
		assert.Equal(t, 1, m.Log.Count("could not load the configuration"))
		assert.Equal(t, 1, m.Log.Count("[ERROR]"), "the place of the panic, once")
		assert.Zero(t, m.Log.Count(mounttest.Secret))
		m.Storage.Failing(nil)
		m.Read()
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
		m := mounttest.New(t)
		sender := &panickySender{}
		sender.mended.Store(true)
		m.StartWith(func(conf *logical.BackendConfig) { conf.EventsSender = sender })
		m.Configure()
		m.RotateTo(rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.LoseToken()
		sender.mended.Store(false)
		readDuringPanics(m)
		assert.NotZero(t, sender.panics.Load())
		sender.mended.Store(true)
		readAfterPanics(m)
	})
}
