// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
)

// The log has a line for each change between grants and failures, and for each change of the
// failure, but not for each attempt.
func TestLogOfTheUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newConfiguredMount(t)
		const fails, works = "Fuuffy grants no token", "Fuuffy grants tokens again"
		logs := func(step string, wantFails, wantWorks int) {
			t.Helper()
			synctest.Wait()
			assert.Equal(t, wantFails, m.log.count(fails), step)
			assert.Equal(t, wantWorks, m.log.count(works), step)
			m.log.reset()
		}
		fail := func() {
			time.Sleep(10 * time.Minute) // The hold-off.
			m.refusedToken()
		}
		m.read()
		m.do(logical.DeleteOperation, "token", nil)
		m.read()
		logs("all is well", 0, 0)

		m.do(logical.DeleteOperation, "token", nil)
		m.sandbox.SetFault(faultMalformed)
		m.refusedToken()
		assert.Contains(t, m.log.String(), "failure=malformed")
		assert.Contains(t, m.log.String(), "next_try_in=1s")
		logs("it fails", 1, 0)
		fail()
		logs("once more", 0, 0)
		m.sandbox.SetFault(faultRejected)
		fail()
		assert.Contains(t, m.log.String(), "failure=rejected")
		logs("in another way", 1, 0)

		m.sandbox.CreateClient(newClientID, testSecret)
		m.configure("client_id", newClientID, "verify_connection", false)
		logs("credentials that nobody tried", 0, 0)
		m.refusedToken()
		logs("they fail", 1, 0)
		m.sandbox.ClearFault()
		m.configure("client_id", newClientID)
		logs("credentials that work", 0, 1)
		m.read()
		logs("and go on", 0, 0)

		m.do(logical.DeleteOperation, "token", nil)
		m.sandbox.SetFault(faultRejected)
		m.write("rotate-root/check")
		logs("a check fails", 1, 0)
		m.sandbox.ClearFault()
		time.Sleep(checkInterval)
		m.write("rotate-root/check")
		logs("a check succeeds", 0, 1)
	})
}

// A token that is only in memory, and one that could not be read, are logged wherever they
// come from.
func TestLogOfTheStoredToken(t *testing.T) {
	const unsaved, unreadable = "could not save the access token", "could not use the stored access token"
	for name, tt := range map[string]struct {
		act                 func(*mount)
		unsaved, unreadable int
	}{
		"read": {func(m *mount) { m.read() }, 1, 1},
		"credentials in config": {func(m *mount) {
			m.sandbox.CreateClient(newClientID, testSecret)
			m.configure("client_id", newClientID)
		}, 1, 0},
		"check":    {func(m *mount) { m.write("rotate-root/check") }, 1, 0},
		"start":    {(*mount).restart, 0, 1},
		"no token": {func(m *mount) { m.status() }, 0, 0},
	} {
		for _, broken := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, broken %t", name, broken), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newConfiguredMount(t)
					storage := m.useFaultyStorage()
					want := map[string]int{}
					if broken {
						storage.set("get", tokenKey, fails)
						storage.set("put", tokenKey, fails)
						want[unsaved], want[unreadable] = tt.unsaved, tt.unreadable
					}
					tt.act(m)
					synctest.Wait()
					for _, line := range []string{unsaved, unreadable} {
						assert.Equal(t, want[line], m.log.count(line), line)
					}
				})
			})
		}
	}
}
