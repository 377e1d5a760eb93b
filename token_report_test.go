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

// Who reports a token is never answered with that token, at no age of it and whatever
// Fuuffy does: it is of no use to them.
func TestReportedTokenIsNeverTheAnswer(t *testing.T) {
	for name, age := range map[string]time.Duration{"fresh": 10 * time.Minute, "in its window": 52 * time.Minute, "in its buffer": 56 * time.Minute, "expired": 61 * time.Minute} {
		for _, staleIfError := range []bool{false, true} {
			for _, heldOff := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, stale_if_error %t, held off %t", name, staleIfError, heldOff), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := newConfiguredMount(t, "stale_if_error", staleIfError)
						token := m.readToken()
						time.Sleep(age)
						m.sandbox.SetFault(faultUnavailable)
						if heldOff {
							_, _ = m.handle(t.Context(), logical.ReadOperation, "token", nil)
							synctest.Wait()
						}
						for range 3 {
							resp, err := m.handle(t.Context(), logical.UpdateOperation, "token", pairs("rejected_token", token))
							if err == nil && !resp.IsError() {
								assert.False(t, resp.Data["access_token"] == token, "the answer is the token that was reported")
							}
							time.Sleep(time.Second)
						}

						m.sandbox.ClearFault()
						time.Sleep(2 * time.Minute)
						resp := m.do(logical.UpdateOperation, "token", pairs("rejected_token", token))
						assert.False(t, resp.Data["access_token"] == token, "Fuuffy grants tokens again")
					})
				})
			}
		}
	}
}
