// SPDX-License-Identifier: MPL-2.0

package mounttest

import (
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

var (
	FaultRejected    = fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusUnauthorized}
	FaultUnavailable = fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusServiceUnavailable}
	FaultMalformed   = fuuffytest.Fault{Kind: fuuffytest.FaultGarbage}
	FaultHang        = fuuffytest.Fault{Kind: fuuffytest.FaultHang}
	SlowAnswer       = fuuffytest.Fault{Kind: fuuffytest.FaultDelay, Delay: 2 * time.Second}
	FaultRateLimited = fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: http.StatusTooManyRequests, Header: map[string]string{"Retry-After": "600"}}
)

// UntilAsked reads once a second until another request reaches Fuuffy, and
// returns how long that took.
func (m *Mount) UntilAsked(limit time.Duration) time.Duration {
	m.T.Helper()
	before, began := m.Requests(), time.Now()
	for m.Requests() == before && time.Since(began) < limit {
		_, _ = m.Handle(m.T.Context(), logical.ReadOperation, "token", nil)
		time.Sleep(time.Second)
	}
	require.Greater(m.T, m.Requests(), before, "no request reached Fuuffy in %s", limit)
	return time.Since(began)
}

// StatusFault is an answer of Fuuffy's to each request.
func StatusFault(code int, body string) fuuffytest.Fault {
	return fuuffytest.Fault{Kind: fuuffytest.FaultStatus, Status: code, Body: body}
}
