// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// countedConn counts when it is closed.
type countedConn struct {
	net.Conn
	closed *atomic.Int64
}

// Close is part of net.Conn.
func (c countedConn) Close() error {
	c.closed.Add(1)
	return c.Conn.Close()
}

// Whoever ends a connection attempt, the connection is closed.
func TestFailedConnectionIsClosed(t *testing.T) {
	gateway := httptest.NewTLSServer(http.NotFoundHandler())
	defer gateway.Close()
	gateway.Config.ErrorLog = log.New(io.Discard, "", 0)
	refuses := newProxy(t, false, "", status(403))
	for name, proxyAddress := range map[string]string{"certificate": "", "proxy": refuses.address("http"), "proxy's certificate": "https://" + gateway.Listener.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			d, err := newDialer("")
			require.NoError(t, err)
			d.proxy = fixedProxy(t, proxyAddress)
			var closed atomic.Int64
			dial := d.dial
			d.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				require.NoError(t, err)
				return countedConn{conn, &closed}, nil
			}
			_, err = d.dialTLS(t.Context(), "tcp", gateway.Listener.Addr().String())
			require.Error(t, err)
			assert.Positive(t, closed.Load())
		})
	}
}

// Nothing can be read before the first write, and a read that waits for one ends with the
// connection.
func TestSilentConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, end := range []func(*silentConn){
			func(c *silentConn) { _, _ = io.WriteString(c, "request") },
			func(c *silentConn) { _ = c.Close() },
		} {
			client, server := net.Pipe()
			go func() { _, _ = io.WriteString(server, "response") }()
			go func() { _, _ = io.Copy(io.Discard, server) }()
			conn := &silentConn{securedConn: &securedConn{Conn: client}, asked: make(chan struct{})}
			var read atomic.Bool
			go func() {
				_, _ = conn.Read(make([]byte, 8))
				read.Store(true)
			}()
			time.Sleep(time.Hour)
			synctest.Wait()
			assert.False(t, read.Load())
			end(conn)
			synctest.Wait()
			assert.True(t, read.Load())
			_ = conn.Close()
			_ = server.Close()
		}
	})
}

// Only an alert says that the host required the certificate that it requested. A connection
// may end for other reasons, which may pass.
func TestHostThatAsksForACertificateAndFails(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if assert.NoError(t, err) {
			tcp := conn.(*tls.Conn).NetConn().(*net.TCPConn)
			assert.NoError(t, tcp.SetLinger(0))
			assert.NoError(t, tcp.Close())
		}
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	defer server.Close()
	transport, err := NewTransport(certificatePEM(server.Certificate()))
	require.NoError(t, err)
	_, failed := New(Config{BaseURL: server.URL, Timeout: 10 * time.Second, Transport: transport}).attempt(t.Context(), "", newRedactor(testSecret))
	require.NotNil(t, failed)
	assert.Contains(t, failed.Message, "connection reset")
	assert.False(t, failed.WantsClientCertificate)
	assert.True(t, failed.worthRetrying())
}

// A proxy's 4xx won't change in a second. Its other refusals may.
func TestWhichRefusalsOfAProxyLast(t *testing.T) {
	for code, want := range map[int]bool{300: false, 399: false, 400: true, 407: true, 499: true, 500: false, 503: false} {
		failed := networkError("", (&proxyError{host: "proxy:3128", status: code}).because(nil, "%s"), newRedactor(testSecret))
		assert.Equal(t, want, failed.lasting, "status %d", code)
	}
}

// The CONNECT request says where to, and not from whom unless the proxy's URL does.
func TestConnectRequest(t *testing.T) {
	for credentials, want := range map[string]string{"": "", "user@": "Basic dXNlcjo=", "us%40er:p%3Ass@": "Basic dXNAZXI6cDpzcw=="} {
		var seen http.Header
		var host string
		p := newProxy(t, false, "", func(conn net.Conn, r *http.Request) {
			seen, host = r.Header, r.Host
			fmt.Fprint(conn, "HTTP/1.1 403 No\r\n\r\n")
		})
		d, err := newDialer("")
		require.NoError(t, err)
		d.proxy = fixedProxy(t, "http://"+credentials+strings.TrimPrefix(p.URL, "http://"))
		_, err = d.dialTLS(t.Context(), "tcp", "gateway.example.com:443")
		require.Error(t, err)
		assert.Equal(t, "gateway.example.com:443", host)
		assert.Equal(t, want, seen.Get("Proxy-Authorization"))
		assert.Empty(t, seen.Get("Authorization"))
	}
}
