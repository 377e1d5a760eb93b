// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
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

// captureLog returns what reaches the process's own log from now on. net/http writes there.
func captureLog(t *testing.T) *lockedLog {
	t.Helper()
	captured := &lockedLog{}
	before := log.Writer()
	log.SetOutput(captured)
	t.Cleanup(func() { log.SetOutput(before) })
	return captured
}

type lockedLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// conversation is how a host behaves after the handshake.
type conversation struct {
	// before is what it sends before the request, and after is what it sends for it.
	before, after string
	// h2 is set if it chooses HTTP/2, when it may.
	h2 bool
	// grants is set if the engine gets a token all the same.
	grants bool
}

const httpHead = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

// rudeHosts speak at the wrong time, or say too much.
var rudeHosts = map[string]conversation{
	"polite":                     {after: httpHead + "Content-Length: 78\r\n\r\n" + goodGrant, grants: true},
	"speaks first":               {before: "planted: " + testSecret + "\r\n", after: httpHead + "\r\n" + goodGrant},
	"answers first":              {before: httpHead + "\r\n", after: goodGrant, grants: true},
	"time-out first":             {before: "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n" + testSecret},
	"more than it announced":     {after: httpHead + "Content-Length: 78\r\n\r\n" + goodGrant + testSecret, grants: true},
	"two answers":                {after: httpHead + "Content-Length: 78\r\n\r\n" + goodGrant + httpHead + "\r\n" + testSecret, grants: true},
	"keeps alive":                {after: httpHead + "Connection: keep-alive\r\nContent-Length: 78\r\n\r\n" + goodGrant + testSecret, grants: true},
	"garbage":                    {after: testSecret + "\r\n\r\n"},
	"bad headers":                {after: "HTTP/1.1 200 OK\r\n" + testSecret + "\r\n\r\n"},
	"bad trailers":               {after: httpHead + "Trailer: X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + testSecret + "\r\n\r\n"},
	"silence":                    {},
	"HTTP/2, data before a head": {h2: true, before: h2Settings, after: "\x00\x00\x05\x00\x00\x00\x00\x00\x01hello"},
	"HTTP/2, data unasked":       {h2: true, before: h2Settings, after: "\x00\x00\x05\x00\x00\x00\x00\x00\x09hello"},
	"HTTP/2, no settings":        {h2: true, before: "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"},
}

// h2Settings is an empty SETTINGS frame (RFC 9113 §6.5).
const h2Settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// serve has the conversation with one client. It reads all along, as a socket would.
func (c conversation) serve(conn net.Conn) {
	defer conn.Close()
	asked := make(chan struct{})
	go func() {
		reader := bufio.NewReader(conn)
		_, _ = http.ReadRequest(reader)
		close(asked)
		_, _ = io.Copy(io.Discard, reader)
	}()
	if _, err := io.WriteString(conn, c.before); err != nil {
		return
	}
	<-asked
	_, _ = io.WriteString(conn, c.after)
}

// Whatever a host says, and whenever it says it, nothing of it reaches the process's log. In
// virtual time, the host always speaks before the request is sent.
func TestNothingReachesTheProcessLog(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	for name, host := range rudeHosts {
		t.Run(name, func(t *testing.T) {
			captured := captureLog(t)
			synctest.Test(t, func(t *testing.T) {
				transport := dialing(t, certificatePEM(server.Certificate()), func() net.Conn {
					client, remote := net.Pipe()
					config := &tls.Config{Certificates: server.TLS.Certificates}
					if host.h2 {
						config.NextProtos = []string{"h2", "http/1.1"}
					}
					go host.serve(tls.Server(remote, config))
					return client
				})
				// What waits for the host to have spoken is the request, between the
				// connection and the first byte of it.
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { synctest.Wait() }})
				granted, err := New(Config{BaseURL: "https://127.0.0.1", Timeout: time.Second, Transport: transport}).RequestToken(ctx, testClientID, testSecret)
				if host.grants {
					assert.NoError(t, err)
					assert.Equal(t, "sk-1", granted.AccessToken)
				} else {
					assert.Error(t, err)
					assert.NotContains(t, err.Error(), testSecret)
				}
			})
			assert.Empty(t, captured.String())
		})
	}
}

// The same over sockets.
func TestHostThatSpeaksFirst(t *testing.T) {
	captured := captureLog(t)
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: server.TLS.Certificates})
	require.NoError(t, err)
	defer listener.Close()
	hungUp := make(chan struct{}, 1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, "planted: "+testSecret+"\r\n")
				_, _ = io.Copy(io.Discard, conn)
				hungUp <- struct{}{}
			}()
		}
	}()
	transport, err := NewTransport(certificatePEM(server.Certificate()))
	require.NoError(t, err)
	// net/http that noticed the words would hang up before the request.
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		select {
		case <-hungUp:
		case <-time.After(100 * time.Millisecond):
		}
	}})
	c := New(Config{BaseURL: "https://" + listener.Addr().String(), Timeout: 10 * time.Second, Transport: transport})
	_, failed := c.attempt(ctx, "grant_type=client_credentials", newRedactor(testSecret))
	require.NotNil(t, failed)
	assert.Equal(t, Unavailable, failed.Failure)
	assert.Contains(t, failed.Message, "malformed HTTP")
	assert.NotContains(t, failed.Message, testSecret)
	assert.Empty(t, captured.String())
}

// dialing returns a transport whose connections come from dial.
func dialing(t *testing.T, caCert string, dial func() net.Conn) http.RoundTripper {
	t.Helper()
	d, err := newDialer(caCert)
	require.NoError(t, err)
	d.dial = func(context.Context, string, string) (net.Conn, error) { return dial(), nil }
	return d.transport()
}
