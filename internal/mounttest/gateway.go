// SPDX-License-Identifier: MPL-2.0

package mounttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// GatewayAnswer is what a gateway in front of Fuuffy answers on its own.
type GatewayAnswer struct {
	Status      int
	ContentType string
	Body        string
	RetryAfter  string
}

// NewAuthority returns the certificate of a new authority, in PEM.
func NewAuthority(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test authority"},
		NotBefore: time.Now(), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return CertificatePEM(certificate)
}

const (
	JSONType = "application/json"
	HTMLType = "text/html"
)

// ProvesNothing are answers to a token request that don't say that Fuuffy no longer accepts the
// client: something else answered, or it was about something else.
var ProvesNothing = map[string]GatewayAnswer{
	"a firewall's 403 page":                 {Status: http.StatusForbidden, ContentType: HTMLType, Body: "<html><h1>Access denied</h1></html>"},
	"a 403 page that quotes the code":       {Status: http.StatusForbidden, ContentType: HTMLType, Body: "<html>invalid_client 401021</html>"},
	"403 without a body":                    {Status: http.StatusForbidden},
	"403 in another envelope":               {Status: http.StatusForbidden, ContentType: JSONType, Body: `{"message": "invalid_client", "code": "invalid_client"}`},
	"403, no permission":                    {Status: http.StatusForbidden, ContentType: JSONType, Body: `{"error": {"code": "unauthorized_client", "message": "The account lacks permission"}}`},
	"400 about a parameter":                 {Status: http.StatusBadRequest, ContentType: JSONType, Body: `{"error": {"code": "400000", "code_reason": "validation_error", "message": "Invalid request parameters"}}`},
	"400 that quotes the code in a message": {Status: http.StatusBadRequest, ContentType: JSONType, Body: `{"error": {"code": "invalid_request", "message": "not invalid_client, not 401021", "field": "grant_type"}}`},
	"400 without a body":                    {Status: http.StatusBadRequest},
	"404":                                   {Status: http.StatusNotFound, ContentType: JSONType, Body: `{"error": {"code": "not_found", "message": "Not found"}}`},
	"404 page":                              {Status: http.StatusNotFound, ContentType: HTMLType, Body: "<html>Not found</html>"},
	"409":                                   {Status: http.StatusConflict, ContentType: JSONType, Body: `{"error": {"code": "conflict", "message": "Conflict"}}`},
	"422":                                   {Status: http.StatusUnprocessableEntity, ContentType: JSONType, Body: `{"error": {"code": "validation_error", "message": "Invalid"}}`},
	"redirect to a login page":              {Status: http.StatusFound, ContentType: HTMLType},
	"503":                                   {Status: http.StatusServiceUnavailable, ContentType: HTMLType},
	"429":                                   {Status: http.StatusTooManyRequests, ContentType: JSONType},
	"200 without a token":                   {Status: http.StatusOK, ContentType: HTMLType, Body: "<html>Log in</html>"},
	"200 that says it":                      {Status: http.StatusOK, ContentType: JSONType, Body: `{"error": {"code": "invalid_client", "message": "Client authentication failed"}}`},
}

// ProvesDeath are the answers that do.
var ProvesDeath = map[string]GatewayAnswer{
	"401":                          {Status: http.StatusUnauthorized, ContentType: JSONType, Body: `{"error": {"code": "invalid_client", "message": "Client authentication failed"}}`},
	"401 without a body":           {Status: http.StatusUnauthorized},
	"400 invalid_client":           {Status: http.StatusBadRequest, ContentType: JSONType, Body: `{"error": {"code": "invalid_client", "message": "Client authentication failed"}}`},
	"403 invalid_client":           {Status: http.StatusForbidden, ContentType: JSONType, Body: `{"error": {"code": "invalid_client", "message": "Client authentication failed"}}`},
	"400 in the numbered dialect":  {Status: http.StatusBadRequest, ContentType: JSONType, Body: `{"error": {"code": "401021", "code_reason": "invalid_client_id_or_client_secret", "message": "Invalid client_id"}}`},
	"400 with the number alone":    {Status: http.StatusBadRequest, ContentType: JSONType, Body: `{"error": {"code": "401021", "message": "Invalid client_id"}}`},
	"400, error_trace as a text":   {Status: http.StatusBadRequest, ContentType: JSONType, Body: `{"error": {"code": "invalid_client", "message": "No", "error_trace": "trace-7"}}`},
	"400, message as a list":       {Status: http.StatusBadRequest, ContentType: JSONType, Body: `{"error": {"code": "invalid_client", "message": ["No"]}}`},
	"400, code_reason as a number": {Status: http.StatusBadRequest, ContentType: JSONType, Body: `{"error": {"code": "invalid_client", "code_reason": 7, "message": "No"}}`},
	"400 with a byte order mark":   {Status: http.StatusBadRequest, ContentType: JSONType, Body: "\ufeff" + `{"error": {"code": "invalid_client", "message": "No"}}`},
	"400 with the number unquoted": {Status: http.StatusBadRequest, ContentType: JSONType, Body: `{"error": {"code": 401021, "message": "Invalid client_id"}}`},
}
