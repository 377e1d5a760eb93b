// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"flag"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

var (
	chaosSeed  = flag.Uint64("chaos-seed", 0, "repeat the chaos test with this seed (0: another one each time)")
	chaosHours = flag.Int("chaos-hours", 4, "virtual hours that the chaos test runs")
)

// chaos is a mount to which bad things happen while it is read.
type chaos struct {
	*mount
	random *rand.Rand
	// clients counts the credentials that were created; they are named by it.
	clients int
	// killed are the tokens that are dead for another reason than age. Guarded by mu.
	mu     sync.Mutex
	killed map[string]bool
	served int
	denied int
}

// TestChaos runs virtual hours of short-lived tokens, random faults, lost
// storage, rotations and restarts under fifty readers. No one may ever be served a
// token that Fuuffy would refuse, but for what was killed behind the engine's back,
// and when the chaos ends all must work again.
func TestChaos(t *testing.T) {
	seed := rand.Uint64()
	if *chaosSeed != 0 {
		seed = *chaosSeed
	}
	t.Logf("chaos: -chaos-seed %d repeats this run", seed)
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.configure()
		m.sandbox.SetTokenLifetime(2 * time.Minute)
		c := &chaos{mount: m, random: rand.New(rand.NewPCG(seed, 0)), killed: map[string]bool{}}
		ctx, stop := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		for range 50 {
			readers.Go(func() { c.follow(ctx) })
		}
		end := time.Now().Add(time.Duration(*chaosHours) * time.Hour)
		happenings := 0
		for time.Now().Before(end) {
			c.happen()
			happenings++
			time.Sleep(time.Duration(c.random.Int64N(int64(20 * time.Second))))
			if happenings%4 == 0 {
				c.attempt(logical.RollbackOperation, "", nil) // Vault's tick.
			}
			c.log.reset() // It would grow for hours.
		}
		stop()
		readers.Wait()

		m.storage.failing(nil)
		m.sandbox.ClearFault()
		m.do(logical.DeleteOperation, "token", nil)
		assert.True(t, m.sandbox.TokenAlive(m.readToken()), "all is well again")
		t.Logf("chaos: %d virtual hours, %d happenings, %d reads served, %d refused, %d token requests", *chaosHours, happenings, c.served, c.denied, m.requests())
		assert.Greater(t, c.served, 10_000)
		assert.Greater(t, c.denied, 10)
	})
}

// follow reads as Vault Agent does, and more often, until ctx ends.
func (c *chaos) follow(ctx context.Context) {
	for ctx.Err() == nil {
		asked := time.Now()
		resp, err := c.handle(context.Background(), logical.ReadOperation, "token", nil)
		c.mu.Lock()
		if err != nil || resp.IsError() {
			c.denied++
			c.mu.Unlock()
			time.Sleep(5 * time.Second)
			continue
		}
		c.served++
		token := resp.Data["access_token"].(string)
		dead := !c.killed[token] && !c.sandbox.TokenAlive(token)
		c.mu.Unlock()
		expires, parseErr := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
		assert.NoError(c.t, parseErr)
		assert.False(c.t, dead, "served a token that Fuuffy refuses; it expires at %s, it is %s", expires, asked)
		time.Sleep(min(time.Duration(resp.Data["ttl"].(int64)+1)*time.Second, 30*time.Second))
	}
}

// happen does one bad thing, or one that an operator does in the middle of it.
func (c *chaos) happen() {
	switch c.random.IntN(12) {
	case 0, 1, 2:
		kinds := []fuuffytest.Fault{
			faultRejected, faultUnavailable, faultMalformed, slowAnswer,
			{Kind: fuuffytest.FaultHang}, {Kind: fuuffytest.FaultCut}, {Kind: fuuffytest.FaultExpiredCertificate},
			{Kind: fuuffytest.FaultStatus, Status: 429, Header: map[string]string{"Retry-After": "7"}},
		}
		fault := kinds[c.random.IntN(len(kinds))]
		fault.Times = c.random.IntN(4)
		c.sandbox.SetFault(fault)
	case 3, 4:
		c.sandbox.ClearFault()
	case 5:
		operation := []string{"get", "put", "delete"}[c.random.IntN(3)]
		key := []string{configKey, tokenKey}[c.random.IntN(2)]
		c.storage.failing(failAll(operation, key))
	case 6:
		c.storage.failing(nil)
	case 7:
		c.attempt(logical.DeleteOperation, "token", nil)
	case 8:
		c.killToken()
	case 9:
		c.b.InvalidateKey(c.t.Context(), []string{configKey, tokenKey}[c.random.IntN(2)])
	case 10:
		c.attempt(logical.UpdateOperation, "config", pairs("stale_if_error", c.random.IntN(2) == 0, "token_expiry_buffer", 30+c.random.IntN(60)))
	case 11:
		c.rotate()
	}
}

// attempt sends a request that may fail.
func (c *chaos) attempt(operation logical.Operation, path string, data map[string]any) bool {
	resp, err := c.handle(context.Background(), operation, path, data)
	return err == nil && !resp.IsError()
}

// killToken revokes the token held, which the engine can't know, and reports it as
// an app does.
func (c *chaos) killToken() {
	resp, err := c.handle(context.Background(), logical.ReadOperation, "token", nil)
	if err != nil || resp.IsError() {
		return
	}
	held := resp.Data["access_token"].(string)
	c.mu.Lock()
	c.killed[held] = true
	c.sandbox.RevokeToken(held)
	c.mu.Unlock()
	c.attempt(logical.UpdateOperation, "token", pairs("rejected_token", held))
}

// rotate takes the steps of a rotation as far as they go.
func (c *chaos) rotate() {
	c.clients++
	id := "chaos-" + strconv.Itoa(c.clients)
	c.sandbox.CreateClient(id, newSecret)
	c.attempt(logical.UpdateOperation, "rotate-root", pairs("client_id", id, "client_secret", newSecret, "compromised", c.random.IntN(3) == 0))
	c.attempt(logical.UpdateOperation, "rotate-root/promote", nil)
	if c.random.IntN(3) == 0 {
		c.attempt(logical.UpdateOperation, "rotate-root/rollback", nil)
		return
	}
	// Forced, because revoking the old client would kill the tokens that apps hold.
	c.attempt(logical.UpdateOperation, "rotate-root/complete", pairs("force", true))
}
