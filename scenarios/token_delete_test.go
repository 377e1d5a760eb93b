// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// A deleted token does not come back, although someone reads while storage is about
// to delete it.
func TestDeletedTokenDoesNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		storage := m.UseFaultyStorage()
		deleted := m.ReadToken()

		deleting, finish := make(chan struct{}), make(chan struct{})
		storage.Set("delete", "token", func(apply func() error) error {
			close(deleting)
			<-finish
			return apply()
		})
		loaded := make(chan struct{}, 100)
		storage.Set("get", "token", func(apply func() error) error {
			defer func() { loaded <- struct{}{} }()
			return apply()
		})
		answered, read := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(answered)
			m.Do(logical.DeleteOperation, "token", nil)
		}()
		<-deleting
		go func() {
			defer close(read)
			_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
		}()
		// The reader has its answer, has found the token in storage, or waits.
		select {
		case <-read:
		case <-loaded:
		case <-time.After(time.Second):
		}
		close(finish)
		<-answered
		<-read
		storage.Set("delete", "token", nil)
		assert.False(t, m.ReadToken() == deleted, "a read after the delete yields the deleted token")
		m.Restart()
		assert.False(t, m.ReadToken() == deleted, "a read after a restart yields the deleted token")
	})
}

// interval is a call with its beginning and its end.
type interval struct {
	began, ended time.Time
	token        string // what a read yielded
}

// Readers and deleters on storage that takes its time: what was served before a delete
// began is not served by a read that begins after it has answered.
func TestDeletedTokensAmongReaders(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { deleteAmongReaders(t, seed) })
		})
	}
}

func deleteAmongReaders(t *testing.T, seed uint64) {
	m := mounttest.NewConfigured(t)
	storage := m.UseFaultyStorage()
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	pause := func(most time.Duration) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(random.Int64N(int64(most))) + time.Microsecond
	}
	for _, operation := range []string{"get", "put", "delete"} {
		storage.Set(operation, "token", func(apply func() error) error { return mounttest.Slowly(pause(10 * time.Millisecond))(apply) })
	}

	var reads, deletes []interval
	read := func() {
		s := interval{began: time.Now()}
		resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
		if !assert.NoError(t, err) || !assert.False(t, resp.IsError()) {
			return
		}
		s.ended, s.token = time.Now(), resp.Data["access_token"].(string)
		mu.Lock()
		defer mu.Unlock()
		reads = append(reads, s)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(pause(3 * time.Millisecond)):
					read()
				}
			}
		})
	}
	for range 10 {
		time.Sleep(pause(30 * time.Millisecond))
		s := interval{began: time.Now()}
		m.Do(logical.DeleteOperation, "token", nil)
		s.ended = time.Now()
		deletes = append(deletes, s)
		time.Sleep(time.Microsecond)
		read()
	}
	close(stop)
	readers.Wait()
	m.Restart()
	read()

	assert.Greater(t, len(reads), 20)
	for _, d := range deletes {
		dead := map[string]bool{}
		for _, r := range reads {
			if r.ended.Before(d.began) {
				dead[r.token] = true
			}
		}
		for _, r := range reads {
			if r.began.After(d.ended) {
				assert.False(t, dead[r.token], "a deleted token was served %s after the delete had answered", r.began.Sub(d.ended))
			}
		}
	}
}
