// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// TestVaultOutage cuts the Agent off from Vault until it has tried in vain to get the
// next token. The app must not notice.
func TestVaultOutage(t *testing.T) {
	t.Parallel()
	m := newMount(t, "vault-outage", fuuffytest.Config{TokenLifetime: life}, nil)
	h := m.newHost("app")
	way := newWay(t, strings.TrimPrefix(vault.Address, "http://"))
	a := h.startAgent("agent/token-file.hcl", "https://vault.example.com:8200", "http://"+way.address)
	w := m.watch(filepath.Join(h.run, "token"), func(content string) string { return content })
	// The first token is as old as its mount. The second has just come.
	w.follow(t, 2*life, func() bool { return len(w.seen) == 2 })
	require.Len(t, w.seen, 2)

	cut := time.Now()
	way.cut(true)
	w.follow(t, life, func() bool {
		log, err := a.Log()
		require.NoError(t, err)
		return strings.Contains(log, "(retry attempt 2 after ")
	})
	way.cut(false)
	lasted := time.Since(cut)
	require.Less(t, lasted, life, "the Agent should have noticed that it can't reach Vault")
	require.Len(t, w.seen, 2, "tokens in the file")

	w.follow(t, 2*life, func() bool { return len(w.seen) == 3 })
	require.Len(t, w.seen, 3, "tokens in the file")
	w.follow(t, life, func() bool { return !w.seen[1].died.IsZero() })
	assert.Zero(t, w.dead, "looks at a token that Fuuffy did not accept")
	t.Logf("Vault could not be reached for %s; life left of each token when it was last in the file: %s", lasted.Truncate(100*time.Millisecond), w.livesLeft())
}

// way is a way to Vault that can be cut.
type way struct {
	address, vault string

	mu    sync.Mutex
	isCut bool
	open  map[net.Conn]bool
}

func newWay(t *testing.T, vault string) *way {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &way{address: listener.Addr().String(), vault: vault, open: map[net.Conn]bool{}}
	var carriers sync.WaitGroup
	carriers.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return // The listener was closed.
			}
			carriers.Go(func() { w.carry(from) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		w.cut(true)
		carriers.Wait()
	})
	return w
}

// cut closes all connections, and new ones at once, or lets them through again.
func (w *way) cut(isCut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = isCut
	for connection := range w.open {
		if isCut {
			connection.Close()
		}
	}
}

func (w *way) carry(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", w.vault)
	if err != nil {
		return
	}
	defer to.Close()
	w.mu.Lock()
	if w.isCut {
		w.mu.Unlock()
		return
	}
	w.open[from], w.open[to] = true, true
	w.mu.Unlock()

	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(from, to)
		from.Close()
	}()
	_, _ = io.Copy(to, from)
	to.Close()
	<-back
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, from)
	delete(w.open, to)
}
