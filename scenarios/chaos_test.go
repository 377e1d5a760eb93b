// SPDX-License-Identifier: MPL-2.0

package scenarios

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
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

var (
	chaosSeed  = flag.Uint64("chaos-seed", 0, "repeat the chaos test with this seed (0: another one each time)")
	chaosHours = flag.Int("chaos-hours", 4, "virtual hours that the chaos test runs")
)

// chaos is a mount to which bad things happen while it is read.
type chaos struct {
	*mounttest.Mount
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
	t.Parallel()
	seed := rand.Uint64()
	if *chaosSeed != 0 {
		seed = *chaosSeed
	}
	t.Logf("chaos: -chaos-seed %d repeats this run", seed)
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		m.Sandbox.SetTokenLifetime(2 * time.Minute)
		c := &chaos{Mount: m, random: rand.New(rand.NewPCG(seed, 0)), killed: map[string]bool{}}
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
			c.Log.Reset() // It would grow for hours.
		}
		stop()
		readers.Wait()

		m.Storage.Failing(nil)
		m.Sandbox.ClearFault()
		m.Do(logical.DeleteOperation, "token", nil)
		assert.True(t, m.Sandbox.TokenAlive(m.ReadToken()), "all is well again")
		t.Logf("chaos: %d virtual hours, %d happenings, %d reads served, %d refused, %d token requests", *chaosHours, happenings, c.served, c.denied, m.Requests())
		assert.Greater(t, c.served, 10_000)
		assert.Greater(t, c.denied, 10)
	})
}

// follow reads as Vault Agent does, and more often, until ctx ends.
func (c *chaos) follow(ctx context.Context) {
	for ctx.Err() == nil {
		asked := time.Now()
		resp, err := c.Handle(context.Background(), logical.ReadOperation, "token", nil)
		c.mu.Lock()
		if err != nil || resp.IsError() {
			c.denied++
			c.mu.Unlock()
			time.Sleep(5 * time.Second)
			continue
		}
		c.served++
		token := resp.Data["access_token"].(string)
		dead := !c.killed[token] && !c.Sandbox.TokenAlive(token)
		c.mu.Unlock()
		expires, parseErr := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
		assert.NoError(c.T, parseErr)
		assert.False(c.T, dead, "served a token that Fuuffy refuses; it expires at %s, it is %s", expires, asked)
		time.Sleep(min(time.Duration(resp.Data["ttl"].(int64)+1)*time.Second, 30*time.Second))
	}
}

// happen does one bad thing, or one that an operator does in the middle of it.
func (c *chaos) happen() {
	switch c.random.IntN(12) {
	case 0, 1, 2:
		kinds := []fuuffytest.Fault{
			mounttest.FaultRejected, mounttest.FaultUnavailable, mounttest.FaultMalformed, mounttest.SlowAnswer,
			{Kind: fuuffytest.FaultHang}, {Kind: fuuffytest.FaultCut}, {Kind: fuuffytest.FaultExpiredCertificate},
			{Kind: fuuffytest.FaultStatus, Status: 429, Header: map[string]string{"Retry-After": "7"}},
		}
		fault := kinds[c.random.IntN(len(kinds))]
		fault.Times = c.random.IntN(4)
		c.Sandbox.SetFault(fault)
	case 3, 4:
		c.Sandbox.ClearFault()
	case 5:
		operation := []string{"get", "put", "delete"}[c.random.IntN(3)]
		key := []string{mounttest.ConfigKey, mounttest.TokenKey}[c.random.IntN(2)]
		c.Storage.Failing(mounttest.FailAll(operation, key))
	case 6:
		c.Storage.Failing(nil)
	case 7:
		c.attempt(logical.DeleteOperation, "token", nil)
	case 8:
		c.killToken()
	case 9:
		c.Backend.InvalidateKey(c.T.Context(), []string{mounttest.ConfigKey, mounttest.TokenKey}[c.random.IntN(2)])
	case 10:
		c.attempt(logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", c.random.IntN(2) == 0, "token_expiry_buffer", 30+c.random.IntN(60)))
	case 11:
		c.rotate()
	}
}

// attempt sends a request that may fail.
func (c *chaos) attempt(operation logical.Operation, path string, data map[string]any) bool {
	resp, err := c.Handle(context.Background(), operation, path, data)
	return err == nil && !resp.IsError()
}

// killToken revokes the token held, which the engine can't know, and reports it as
// an app does.
func (c *chaos) killToken() {
	resp, err := c.Handle(context.Background(), logical.ReadOperation, "token", nil)
	if err != nil || resp.IsError() {
		return
	}
	held := resp.Data["access_token"].(string)
	c.mu.Lock()
	c.killed[held] = true
	c.Sandbox.RevokeToken(held)
	c.mu.Unlock()
	c.attempt(logical.UpdateOperation, "token", mounttest.Pairs("rejected_token", held))
}

// rotate takes the steps of a rotation as far as they go.
func (c *chaos) rotate() {
	c.clients++
	id := "chaos-" + strconv.Itoa(c.clients)
	c.Sandbox.CreateClient(id, mounttest.NewSecret)
	c.attempt(logical.UpdateOperation, "rotate-root", mounttest.Pairs("client_id", id, "client_secret", mounttest.NewSecret, "compromised", c.random.IntN(3) == 0))
	c.attempt(logical.UpdateOperation, "rotate-root/promote", nil)
	if c.random.IntN(3) == 0 {
		c.attempt(logical.UpdateOperation, "rotate-root/rollback", nil)
		return
	}
	// Forced, because revoking the old client would kill the tokens that apps hold.
	c.attempt(logical.UpdateOperation, "rotate-root/complete", mounttest.Pairs("force", true))
}
