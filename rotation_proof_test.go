// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

const (
	jsonType = "application/json"
	htmlType = "text/html"
)

// provesNothing are answers to a token request that don't say that Fuuffy no longer accepts the
// client: something else answered, or it was about something else.
var provesNothing = map[string]gatewayAnswer{
	"a firewall's 403 page":                 {status: http.StatusForbidden, contentType: htmlType, body: "<html><h1>Access denied</h1></html>"},
	"a 403 page that quotes the code":       {status: http.StatusForbidden, contentType: htmlType, body: "<html>invalid_client 401021</html>"},
	"403 without a body":                    {status: http.StatusForbidden},
	"403 in another envelope":               {status: http.StatusForbidden, contentType: jsonType, body: `{"message": "invalid_client", "code": "invalid_client"}`},
	"403, no permission":                    {status: http.StatusForbidden, contentType: jsonType, body: `{"error": {"code": "unauthorized_client", "message": "The account lacks permission"}}`},
	"400 about a parameter":                 {status: http.StatusBadRequest, contentType: jsonType, body: `{"error": {"code": "400000", "code_reason": "validation_error", "message": "Invalid request parameters"}}`},
	"400 that quotes the code in a message": {status: http.StatusBadRequest, contentType: jsonType, body: `{"error": {"code": "invalid_request", "message": "not invalid_client, not 401021", "field": "grant_type"}}`},
	"400 without a body":                    {status: http.StatusBadRequest},
	"404":                                   {status: http.StatusNotFound, contentType: jsonType, body: `{"error": {"code": "not_found", "message": "Not found"}}`},
	"404 page":                              {status: http.StatusNotFound, contentType: htmlType, body: "<html>Not found</html>"},
	"409":                                   {status: http.StatusConflict, contentType: jsonType, body: `{"error": {"code": "conflict", "message": "Conflict"}}`},
	"422":                                   {status: http.StatusUnprocessableEntity, contentType: jsonType, body: `{"error": {"code": "validation_error", "message": "Invalid"}}`},
	"redirect to a login page":              {status: http.StatusFound, contentType: htmlType},
	"503":                                   {status: http.StatusServiceUnavailable, contentType: htmlType},
	"429":                                   {status: http.StatusTooManyRequests, contentType: jsonType},
	"200 without a token":                   {status: http.StatusOK, contentType: htmlType, body: "<html>Log in</html>"},
	"200 that says it":                      {status: http.StatusOK, contentType: jsonType, body: `{"error": {"code": "invalid_client", "message": "Client authentication failed"}}`},
}

// provesDeath are the answers that do.
var provesDeath = map[string]gatewayAnswer{
	"401":                          {status: http.StatusUnauthorized, contentType: jsonType, body: `{"error": {"code": "invalid_client", "message": "Client authentication failed"}}`},
	"401 without a body":           {status: http.StatusUnauthorized},
	"400 invalid_client":           {status: http.StatusBadRequest, contentType: jsonType, body: `{"error": {"code": "invalid_client", "message": "Client authentication failed"}}`},
	"403 invalid_client":           {status: http.StatusForbidden, contentType: jsonType, body: `{"error": {"code": "invalid_client", "message": "Client authentication failed"}}`},
	"400 in the numbered dialect":  {status: http.StatusBadRequest, contentType: jsonType, body: `{"error": {"code": "401021", "code_reason": "invalid_client_id_or_client_secret", "message": "Invalid client_id"}}`},
	"400 with the number alone":    {status: http.StatusBadRequest, contentType: jsonType, body: `{"error": {"code": "401021", "message": "Invalid client_id"}}`},
	"400, error_trace as a text":   {status: http.StatusBadRequest, contentType: jsonType, body: `{"error": {"code": "invalid_client", "message": "No", "error_trace": "trace-7"}}`},
	"400, message as a list":       {status: http.StatusBadRequest, contentType: jsonType, body: `{"error": {"code": "invalid_client", "message": ["No"]}}`},
	"400, code_reason as a number": {status: http.StatusBadRequest, contentType: jsonType, body: `{"error": {"code": "invalid_client", "code_reason": 7, "message": "No"}}`},
	"400 with a byte order mark":   {status: http.StatusBadRequest, contentType: jsonType, body: "\ufeff" + `{"error": {"code": "invalid_client", "message": "No"}}`},
	"400 with the number unquoted": {status: http.StatusBadRequest, contentType: jsonType, body: `{"error": {"code": 401021, "message": "Invalid client_id"}}`},
}

// finishing are the steps that forget the previous credentials, which must be revoked by then.
var finishing = map[string]struct {
	path  string
	data  map[string]any
	state string // after the step
}{
	"complete":       {"rotate-root/complete", nil, rotation.Idle},
	"stage the next": {"rotate-root", pairs("client_id", "shop-third", "client_secret", "third-secret"), rotation.Staged},
}

func newPromotedMountBehindGateway(t *testing.T) (*mount, *gateway) {
	t.Helper()
	m, g := newMountBehindGateway(t)
	m.configure()
	m.promoteSuccessor()
	m.sandbox.CreateClient("shop-third", "third-secret")
	return m, g
}

// The engine keeps the old credentials until Fuuffy itself says that it no longer accepts them.
func TestForeignAnswerIsNoProof(t *testing.T) {
	for step, finish := range finishing {
		for name, answer := range provesNothing {
			t.Run(step+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, g := newPromotedMountBehindGateway(t)
					g.answer(testClientID, answer)
					resp, err := m.handle(t.Context(), logical.UpdateOperation, finish.path, finish.data)
					if assert.True(t, err != nil || resp.IsError(), "the step is refused") {
						_, text := refusal(t, resp, err)
						assert.Contains(t, text, "the engine couldn't verify that client "+testClientID+" is revoked. Only a rejection from Fuuffy counts as proof.")
					}
					rotation := m.readRotation()
					assert.Equal(t, "promoted", rotation["state"])
					assert.Equal(t, testClientID, rotation["previous_client_id"])
					assert.Equal(t, successorID, rotation["client_id"])
					assert.Equal(t, false, rotation["compromised"])
					assert.NotContains(t, rotation, "staged_client_id")

					// The old credentials are still there to go back to.
					g.pass(testClientID)
					m.do(logical.UpdateOperation, "rotate-root/rollback", nil)
					assert.Equal(t, testClientID, m.readRotation()["client_id"])
				})
			})
		}
	}
}

func TestFuuffysRejectionIsProof(t *testing.T) {
	for step, finish := range finishing {
		for name, answer := range provesDeath {
			t.Run(step+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, g := newPromotedMountBehindGateway(t)
					g.answer(testClientID, answer)
					m.do(logical.UpdateOperation, finish.path, finish.data)
					rotation := m.readRotation()
					assert.Equal(t, finish.state, rotation["state"])
					assert.NotContains(t, rotation, "previous_client_id")
					assert.NotContains(t, rotation, "unrevoked")
					assert.Contains(t, rotation["history"], "completed "+successorID+" (revoked: "+testClientID+")")
				})
			})
		}
	}
}

// In an emergency nothing waits for proof: the client before the leaked one is given up and
// listed, whatever is known about it.
func TestEmergencyNeedsNoProof(t *testing.T) {
	for name, answer := range provesNothing {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, g := newPromotedMountBehindGateway(t)
				g.answer(testClientID, answer)
				requests := g.count()
				resp := m.write("rotate-root", "client_id", "shop-third", "client_secret", "third-secret", "compromised", true)
				assert.Equal(t, requests+1, g.count(), "the new credentials are tested, and no others")
				assert.Contains(t, resp.Warnings, "The engine no longer keeps client "+testClientID+". Unless it is revoked, it may still work: see unrevoked.")
				rotation := m.readRotation()
				assert.Equal(t, "promoted", rotation["state"])
				assert.Equal(t, "shop-third", rotation["client_id"])
				assert.Equal(t, successorID, rotation["previous_client_id"])
				assert.Equal(t, true, rotation["compromised"])
				assert.Equal(t, "2000-01-01T00:00:00Z "+testClientID+" (replaced)\n2000-01-01T00:00:00Z "+successorID+" (compromised)", rotation["unrevoked"])
				assert.True(t, m.sandbox.TokenAlive(m.readToken()))
			})
		})
	}
}
