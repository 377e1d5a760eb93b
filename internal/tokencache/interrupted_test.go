// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// These tests do something between two steps of the cache, where it takes luck from outside.

// interruptedClock runs something once at a look at the clock, between two steps of the cache.
type interruptedClock struct {
	looks atomic.Int64
	act   func()
}

// at acts at the n-th look from now.
func (k *interruptedClock) at(n int64, act func()) {
	k.act = act
	k.looks.Store(n)
}

func (k *interruptedClock) now() Instant {
	if k.looks.Add(-1) == 0 {
		k.act()
	}
	return SystemClock()
}

func newInterruptedCache(t *testing.T) (*Cache, *interruptedClock) {
	clock := &interruptedClock{}
	c := New(Options{Clock: clock.now, Logger: hclog.NewNullLogger, RefreshInterval: time.Minute, ReaderDelay: time.Second})
	t.Cleanup(c.Close)
	return c, clock
}

// whileItWaits runs do, and edits the state when do waits for the cache's lock in a function.
func (c *Cache) whileItWaits(function string, do func(), edit func(*state)) {
	c.mu.Lock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	for stacks := make([]byte, 1<<20); !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*Cache)."+function+"("); {
		runtime.Gosched()
	}
	c.changeLocked(edit)
	c.mu.Unlock()
	<-done
}
