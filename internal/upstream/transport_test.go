// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// The connection: verified, never redirected, bounded. None of it reaches the
// token endpoint of a host that is not Fuuffy's.
func TestConnection(t *testing.T) {
	server := fuuffytest.NewServer(t, fuuffytest.Config{PerMinute: -1, PerHour: -1})
	server.CreateClient(testClientID, testSecret)
	trusting, err := NewTransport(server.CACert())
	require.NoError(t, err)
	distrusting, err := NewTransport("")
	require.NoError(t, err)

	evil := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the secret was sent to another host")
	}))
	defer evil.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())

	for name, tt := range map[string]struct {
		transport http.RoundTripper
		address   string
		fault     fuuffytest.Fault
		failure   Failure
		text      string
	}{
		"untrusted":           {transport: distrusting, failure: Unavailable, text: "unknown authority"},
		"expired certificate": {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultExpiredCertificate}, failure: Unavailable, text: "expired"},
		"wrong host":          {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultWrongHostCertificate}, failure: Unavailable, text: "cannot validate certificate"},
		"refused":             {transport: trusting, address: "https://" + closed.Addr().String() + "/v1", failure: Unavailable, text: "connection refused"},
		"redirect":            {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultRedirect, Header: map[string]string{"Location": evil.URL}}, failure: Rejected, text: "redirect"},
		"cut connection":      {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultCut}, failure: Unavailable, text: "read the response: unexpected EOF"},
		"no answer":           {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultRefuse}, failure: Unavailable, text: "EOF"},
		"huge body":           {transport: trusting, fault: fuuffytest.Fault{Kind: fuuffytest.FaultBody, Body: strings.Repeat(" ", 10<<20)}, failure: Malformed, text: "longer than 64 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			server.ClearFault()
			if tt.fault.Kind != "" {
				server.SetFault(tt.fault)
			}
			address := server.BaseURL()
			if tt.address != "" {
				address = tt.address
			}
			failed := requireFailed(t, New(Config{BaseURL: address, Timeout: 10 * time.Second, Transport: tt.transport, UserAgent: "test/1"}))
			assert.Equal(t, tt.failure, failed.Failure)
			assert.Contains(t, failed.Error(), tt.text)
			assert.False(t, strings.HasPrefix(failed.Message, ":"), failed.Message)
			assert.False(t, failed.Timeout)
		})
	}

	server.ClearFault()
	_, err = New(Config{BaseURL: server.BaseURL(), Timeout: 10 * time.Second, Transport: trusting, UserAgent: "test/1"}).RequestToken(t.Context(), testClientID, testSecret)
	assert.NoError(t, err)
}

// After a request has ended, net/http would go on connecting, for the next request.
func TestNoConnectionOutlivesItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lasted := make(chan time.Duration, maxAttempts)
		transport := dialing(t, "", func() net.Conn {
			client, server := net.Pipe()
			began := time.Now()
			go func() {
				_, _ = io.Copy(io.Discard, server) // The handshake gets no answer.
				lasted <- time.Since(began)
			}()
			return client
		})
		assert.True(t, requireFailed(t, New(Config{BaseURL: "https://gateway.example.com/v1", Timeout: time.Second, Transport: transport})).Timeout)
		for range maxAttempts {
			assert.Equal(t, time.Second, <-lasted)
		}
	})
}

// config refuses such settings. An entry in storage may be damaged.
func TestSettingsThatCannotWork(t *testing.T) {
	_, err := NewTransport("not a certificate")
	assert.EqualError(t, err, "read ca_cert: no certificate in it")
	synctest.Test(t, func(t *testing.T) {
		failed := requireFailed(t, New(Config{BaseURL: "https://gateway.example.com/\x7f", Timeout: time.Second}))
		assert.Equal(t, Unavailable, failed.Failure)
		assert.Contains(t, failed.Message, "build the request: ")
	})
}

// A certificate that is not trusted does not get better in a second.
func TestCertificateErrorsAreNotRetried(t *testing.T) {
	c, sandbox := sandboxClient(t)
	sandbox.SetFault(fuuffytest.Fault{Kind: fuuffytest.FaultExpiredCertificate})
	requireFailed(t, c)
	assert.Equal(t, 1, sandbox.Stats().FaultsHit)
}

func TestOldTLSIsRefused(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the secret was sent over TLS 1.1")
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = oldTLS
	server.StartTLS()
	defer server.Close()
	transport, err := NewTransport(certificatePEM(server.Certificate()))
	require.NoError(t, err)
	failed := requireFailed(t, New(Config{BaseURL: server.URL, Timeout: 10 * time.Second, Transport: transport, UserAgent: "test/1"}))
	assert.Contains(t, failed.Error(), "protocol version")
}

// A small response must not expand to a huge one, nor may its headers be endless.
func TestTransportBounds(t *testing.T) {
	transport, err := NewTransport("")
	assert.NoError(t, err)
	bounded := transport.(*http.Transport)
	assert.True(t, bounded.DisableCompression)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for i := range 80 {
			w.Header().Set(fmt.Sprintf("X-%d", i), fmt.Sprintf("%01000d", i))
		}
		fmt.Fprint(w, `{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 3600}}`)
	}))
	defer server.Close()
	transport, err = NewTransport(certificatePEM(server.Certificate()))
	assert.NoError(t, err)
	failed := requireFailed(t, New(Config{BaseURL: server.URL, Timeout: 10 * time.Second, Transport: transport}))
	assert.Equal(t, Unavailable, failed.Failure)
	assert.Contains(t, failed.Message, "header")
}

// oldTLS is a server's configuration that no client should accept today.
var oldTLS = &tls.Config{MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11}

func certificatePEM(certificate *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
}
