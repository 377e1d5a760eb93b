// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
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

const (
	proxyUser     = "proxy-user"
	proxyPassword = "planted-proxy-passw0rd"
)

// proxy is a real CONNECT proxy on this machine.
type proxy struct {
	*httptest.Server
	// connected counts the tunnels.
	connected atomic.Int64
}

// newProxy starts a proxy. refuse answers CONNECT if it is given; otherwise the proxy connects
// to destination, whatever host the client names.
func newProxy(t *testing.T, secure bool, destination string, refuse func(net.Conn, *http.Request)) *proxy {
	t.Helper()
	p := &proxy{}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		user, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
		switch {
		case r.Method != http.MethodConnect:
			t.Error("the proxy got a request in plain text")
		case refuse != nil:
			refuse(conn, r)
		case user != proxyUser || password != proxyPassword:
			t.Error("the proxy didn't get its credentials")
		default:
			p.connected.Add(1)
			fmt.Fprint(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
			tunnel(conn, destination)
		}
	}))
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		p.StartTLS()
	} else {
		p.Start()
	}
	t.Cleanup(p.Close)
	return p
}

// tunnel connects a client with a destination until either is gone.
func tunnel(client net.Conn, destination string) {
	remote, err := net.Dial("tcp", destination)
	if err != nil {
		return
	}
	defer remote.Close()
	go func() { _, _ = io.Copy(remote, client) }()
	_, _ = io.Copy(client, remote)
}

// address is what an operator puts into HTTPS_PROXY.
func (p *proxy) address(scheme string) string {
	return fmt.Sprintf("%s://%s:%s@%s", scheme, proxyUser, proxyPassword, p.Listener.Addr())
}

// throughProxy returns a transport that uses a proxy for every host. Otherwise net/http uses
// none for hosts on this machine.
func throughProxy(t *testing.T, caCert, address string) http.RoundTripper {
	t.Helper()
	d, err := newDialer(caCert)
	require.NoError(t, err)
	d.proxy = fixedProxy(t, address)
	return d.transport()
}

// fixedProxy uses a proxy for every host, or none if address is empty.
func fixedProxy(t *testing.T, address string) func(*http.Request) (*url.URL, error) {
	t.Helper()
	if address == "" {
		return http.ProxyURL(nil)
	}
	u, err := url.Parse(address)
	require.NoError(t, err)
	return http.ProxyURL(u)
}

func status(code int) func(net.Conn, *http.Request) {
	return func(conn net.Conn, r *http.Request) {
		// A proxy may echo what it got, even in the reason.
		fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Length: 0\r\n\r\n", code, r.Header.Get("Proxy-Authorization"))
	}
}

// A proxy that ends the request is named, with its status, and without its credentials.
func TestProxyThatFails(t *testing.T) {
	gateway := fuuffytest.NewServer(t, fuuffytest.Config{PerMinute: -1, PerHour: -1})
	gateway.CreateClient(testClientID, testSecret)
	echo := func(conn net.Conn, r *http.Request) {
		fmt.Fprintf(conn, "%s %s:%s\r\n\r\n", r.Header.Get("Proxy-Authorization"), proxyUser, proxyPassword)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())

	for name, tt := range map[string]struct {
		proxy   *proxy
		scheme  string
		address string
		status  int
		again   bool
		text    string
	}{
		"407":                 {proxy: newProxy(t, false, "", status(407)), scheme: "http", status: 407, again: false, text: "the proxy %s refused to connect to Fuuffy: it answered 407 (Proxy Authentication Required)"},
		"403":                 {proxy: newProxy(t, false, "", status(403)), scheme: "http", status: 403, again: false, text: "the proxy %s refused to connect to Fuuffy: it answered 403 (Forbidden)"},
		"502":                 {proxy: newProxy(t, false, "", status(502)), scheme: "http", status: 502, again: true, text: "the proxy %s refused to connect to Fuuffy: it answered 502 (Bad Gateway)"},
		"599":                 {proxy: newProxy(t, false, "", status(599)), scheme: "http", status: 599, again: true, text: "the proxy %s refused to connect to Fuuffy: it answered 599"},
		"407 over TLS":        {proxy: newProxy(t, true, "", status(407)), scheme: "https", status: 407, again: false, text: "the proxy %s refused to connect to Fuuffy: it answered 407 (Proxy Authentication Required)"},
		"hangs up":            {proxy: newProxy(t, false, "", func(net.Conn, *http.Request) {}), scheme: "http", again: true, text: "the proxy %s didn't answer the request to connect: "},
		"garbage":             {proxy: newProxy(t, false, "", echo), scheme: "http", again: true, text: "the proxy %s didn't answer the request to connect in HTTP"},
		"not trusted":         {proxy: newProxy(t, true, "", status(407)), scheme: "https", address: "not trusted", again: false, text: "connect to the proxy %s: tls: failed to verify certificate"},
		"not TLS":             {proxy: newProxy(t, false, "", status(407)), scheme: "https", again: true, text: "connect to the proxy %s: tls: first record does not look like a TLS handshake"},
		"refused":             {scheme: "http", address: closed.Addr().String(), again: true, text: "connect to the proxy %s: dial tcp"},
		"socks":               {scheme: "socks5", address: closed.Addr().String(), again: true, text: "connect through the proxy %s: "},
		"socks, closed to us": {scheme: "socks5", address: newSOCKS(t, "", 0xff), again: true, text: "connect through the proxy %s: socks connect"},
		"other scheme":        {scheme: "ftp", address: closed.Addr().String(), again: true, text: "connect to the proxy %s: its scheme is neither http, https, nor socks5"},
	} {
		t.Run(name, func(t *testing.T) {
			caCert, address := gateway.CACert(), tt.address
			if tt.proxy != nil {
				address = tt.proxy.Listener.Addr().String()
			}
			if tt.proxy != nil && tt.proxy.TLS != nil && tt.address == "" {
				caCert += certificatePEM(tt.proxy.Certificate())
			}
			transport := throughProxy(t, caCert, fmt.Sprintf("%s://%s:%s@%s", tt.scheme, proxyUser, proxyPassword, address))
			c := New(Config{BaseURL: gateway.BaseURL(), Timeout: 10 * time.Second, Transport: transport})
			_, failed := c.attempt(t.Context(), "grant_type=client_credentials", newRedactor(testSecret))
			require.NotNil(t, failed)
			assert.Equal(t, Unavailable, failed.Failure)
			assert.Equal(t, address, failed.Proxy)
			assert.Equal(t, tt.status, failed.ProxyStatus)
			assert.Zero(t, failed.Status, "Fuuffy didn't answer")
			assert.False(t, failed.RejectsCredentials())
			assert.False(t, failed.ProvesRevoked())
			assert.Contains(t, failed.Error(), strings.ReplaceAll(tt.text, "%s", address))
			assert.Equal(t, tt.again, failed.worthRetrying())
			requireNoProxyCredentials(t, failed.Error())
			requireNoProxyCredentials(t, failed.Cause.Error())
			_, untrusted := errors.AsType[x509.UnknownAuthorityError](failed)
			assert.Equal(t, name == "not trusted", untrusted)
		})
	}
	assert.Zero(t, gateway.Stats().TokenRequests)
}

func requireNoProxyCredentials(t *testing.T, text string) {
	t.Helper()
	for _, credential := range []string{proxyUser, proxyPassword, base64.StdEncoding.EncodeToString([]byte(proxyUser + ":" + proxyPassword))} {
		require.NotContains(t, text, credential)
	}
}

// Through a proxy that works the engine gets tokens, and what the gateway then does isn't the
// proxy's fault.
func TestProxyThatWorks(t *testing.T) {
	gateway := fuuffytest.NewServer(t, fuuffytest.Config{PerMinute: -1, PerHour: -1})
	gateway.CreateClient(testClientID, testSecret)
	destination := strings.TrimSuffix(strings.TrimPrefix(gateway.BaseURL(), "https://"), "/v1")
	plain, secure := newProxy(t, false, destination, nil), newProxy(t, true, destination, nil)
	trusted := gateway.CACert() + certificatePEM(secure.Certificate())
	for _, tt := range []struct{ scheme, address string }{
		{"http", plain.address("http")},
		{"https", secure.address("https")},
		{"socks5", "socks5://" + newSOCKS(t, destination, 0)},
		{"socks5h", "socks5h://" + newSOCKS(t, destination, 0)},
	} {
		t.Run(tt.scheme, func(t *testing.T) {
			// The proxy resolves the name: only the certificate must fit.
			c := New(Config{BaseURL: "https://localhost/v1", Timeout: 10 * time.Second, Transport: throughProxy(t, trusted, tt.address)})
			granted, err := c.RequestToken(t.Context(), testClientID, testSecret)
			require.NoError(t, err)
			assert.True(t, gateway.TokenAlive(granted.AccessToken))

			untrusted := requireFailed(t, New(Config{BaseURL: "https://localhost/v1", Timeout: 10 * time.Second,
				Transport: throughProxy(t, certificatePEM(secure.Certificate()), tt.address)}))
			_, is := errors.AsType[x509.UnknownAuthorityError](untrusted)
			assert.True(t, is, untrusted)
			assert.Empty(t, untrusted.Proxy, "the gateway's certificate isn't trusted, the proxy's is")

			other := requireFailed(t, New(Config{BaseURL: "https://gateway.example.com/v1", Timeout: 10 * time.Second, Transport: throughProxy(t, trusted, tt.address)}))
			_, is = errors.AsType[x509.HostnameError](other)
			assert.True(t, is, other)
			assert.Empty(t, other.Proxy)
		})
	}
	assert.EqualValues(t, 3, plain.connected.Load())
	assert.EqualValues(t, 3, secure.connected.Load())
}

// newSOCKS starts a SOCKS5 proxy (RFC 1928) that connects to destination, and returns its
// address. Method 0 asks for no credentials, and 0xff accepts none.
func newSOCKS(t *testing.T, destination string, method byte) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				part := make([]byte, 2)
				_, _ = io.ReadFull(conn, part) // The version, and how many methods it offers.
				_, _ = io.ReadFull(conn, make([]byte, part[1]))
				_, _ = conn.Write([]byte{5, method})
				if method != 0 {
					return
				}
				head := make([]byte, 5) // Version, command, reserved, a host name, its length.
				_, _ = io.ReadFull(conn, head)
				_, _ = io.ReadFull(conn, make([]byte, int(head[4])+2))
				_, _ = conn.Write([]byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 0})
				tunnel(conn, destination)
			}()
		}
	}()
	return listener.Addr().String()
}

// A gateway that requires a client certificate is told apart, and so is a proxy. One that only
// asks for a certificate serves the engine without.
func TestHostThatWantsAClientCertificate(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		start := func(t *testing.T, auth tls.ClientAuthType) *httptest.Server {
			gateway := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, goodGrant) }))
			gateway.TLS = &tls.Config{MinVersion: version, MaxVersion: version, ClientAuth: auth}
			gateway.Config.ErrorLog = log.New(io.Discard, "", 0)
			gateway.StartTLS()
			t.Cleanup(gateway.Close)
			return gateway
		}
		request := func(t *testing.T, gateway *httptest.Server, proxyAddress string) error {
			transport, err := NewTransport(certificatePEM(gateway.Certificate()))
			require.NoError(t, err)
			if proxyAddress != "" {
				transport = throughProxy(t, certificatePEM(gateway.Certificate()), proxyAddress)
			}
			_, err = New(Config{BaseURL: gateway.URL, Timeout: 10 * time.Second, Transport: transport}).RequestToken(t.Context(), testClientID, testSecret)
			return err
		}
		t.Run(tls.VersionName(version), func(t *testing.T) {
			requires, asks, doesnt := start(t, tls.RequireAnyClientCert), start(t, tls.RequestClientCert), start(t, tls.NoClientCert)
			assert.NoError(t, request(t, asks, ""))
			assert.NoError(t, request(t, doesnt, ""))

			failed, _ := errors.AsType[*Error](request(t, requires, ""))
			require.NotNil(t, failed)
			assert.True(t, failed.WantsClientCertificate, failed)
			assert.Contains(t, failed.Message, "the host requires a client certificate, which the engine doesn't support: remote error: tls: ")
			assert.Empty(t, failed.Proxy)
			assert.Equal(t, Unavailable, failed.Failure)

			failed, _ = errors.AsType[*Error](request(t, requires, newProxy(t, false, requires.Listener.Addr().String(), nil).address("http")))
			require.NotNil(t, failed)
			assert.True(t, failed.WantsClientCertificate, failed)
			assert.Empty(t, failed.Proxy, "the gateway wants it, not the proxy")

			failed, _ = errors.AsType[*Error](request(t, requires, "https://"+requires.Listener.Addr().String()))
			require.NotNil(t, failed)
			assert.True(t, failed.WantsClientCertificate, failed)
			assert.Equal(t, requires.Listener.Addr().String(), failed.Proxy)
			assert.Contains(t, failed.Message, "requires a client certificate")

			// nginx completes the handshake and answers with a page.
			page := func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, "<html>400 No required SSL certificate was sent</html>")
			}
			asks.Config.Handler, doesnt.Config.Handler = http.HandlerFunc(page), http.HandlerFunc(page)
			failed, _ = errors.AsType[*Error](request(t, asks, ""))
			require.NotNil(t, failed)
			assert.True(t, failed.WantsClientCertificate)
			assert.Equal(t, "the host requested a client certificate, which the engine doesn't support, and gave no explanation in Fuuffy's format", failed.Message)
			failed, _ = errors.AsType[*Error](request(t, doesnt, ""))
			require.NotNil(t, failed)
			assert.False(t, failed.WantsClientCertificate)
			assert.Equal(t, noExplanation, failed.Message)
			asks.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, `{"error": {"code": "invalid_client"}}`)
			})
			failed, _ = errors.AsType[*Error](request(t, asks, ""))
			require.NotNil(t, failed)
			assert.False(t, failed.WantsClientCertificate, "Fuuffy answered")
		})
	}
}

// A proxy's URL may leave out the port.
func TestProxyPorts(t *testing.T) {
	for address, want := range map[string]string{
		"http://proxy.example.com":          "proxy.example.com:80",
		"https://proxy.example.com":         "proxy.example.com:443",
		"socks5://proxy.example.com":        "proxy.example.com:1080",
		"socks5h://proxy.example.com":       "proxy.example.com:1080",
		"http://u:p@proxy.example.com:3128": "proxy.example.com:3128",
		"http://[::1]":                      "[::1]:80",
	} {
		d, err := newDialer("")
		require.NoError(t, err)
		dialed := ""
		d.proxy = fixedProxy(t, address)
		d.dial = func(_ context.Context, _, address string) (net.Conn, error) {
			dialed = address
			return nil, io.ErrClosedPipe
		}
		_, err = d.dialTLS(t.Context(), "tcp", "gateway.example.com:443")
		assert.ErrorIs(t, err, io.ErrClosedPipe)
		failed, ok := errors.AsType[*proxyError](err)
		require.True(t, ok)
		assert.Equal(t, want, dialed)
		assert.Equal(t, want, failed.host)
	}
}

// A proxy that is silent is given up with the request.
func TestSilentProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := newDialer("")
		require.NoError(t, err)
		d.proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example.com:3128"})
		lasted := make(chan time.Duration, 2)
		d.dial = func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			began := time.Now()
			go func() {
				_, _ = io.Copy(io.Discard, server)
				lasted <- time.Since(began)
			}()
			return client, nil
		}
		_, failed := New(Config{BaseURL: "https://gateway.example.com", Timeout: time.Second, Transport: d.transport()}).attempt(t.Context(), "", newRedactor(testSecret))
		require.NotNil(t, failed)
		assert.True(t, failed.Timeout)
		assert.Equal(t, time.Second, <-lasted)

		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err = d.dialTLS(ctx, "tcp", "gateway.example.com:443")
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.EqualError(t, err, "the proxy proxy.example.com:3128 didn't answer the request to connect: context deadline exceeded")
		assert.Equal(t, 2*time.Second, <-lasted)
	})
}

// A setting that can't be used is not quoted.
func TestProxySettingIsNotQuoted(t *testing.T) {
	d, err := newDialer("")
	require.NoError(t, err)
	d.proxy = func(*http.Request) (*url.URL, error) { return nil, errors.New("invalid " + proxyPassword) }
	_, failed := New(Config{BaseURL: "https://gateway.example.com", Timeout: time.Second, Transport: d.transport()}).attempt(t.Context(), "", newRedactor(testSecret))
	require.NotNil(t, failed)
	assert.Equal(t, "the server's HTTPS_PROXY is not a valid address", failed.Message)
}

// HTTPS_PROXY of the server counts. net/http reads the variable once, so this needs a process
// of its own.
func TestProxyFromTheEnvironment(t *testing.T) {
	const child = "FUUFFY_TEST_BASE_URL"
	if baseURL := os.Getenv(child); baseURL != "" {
		transport, err := NewTransport(os.Getenv("FUUFFY_TEST_CA"))
		require.NoError(t, err)
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {testClientID}, "client_secret": {testSecret}}.Encode()
		_, failed := New(Config{BaseURL: baseURL, Timeout: 5 * time.Second, Transport: transport}).attempt(t.Context(), form, newRedactor(testSecret))
		fmt.Printf("outcome: %v\n", failed)
		return
	}
	gateway, err := fuuffytest.Start(fuuffytest.Config{PerMinute: -1, PerHour: -1, Name: "gateway.invalid"}, "127.0.0.1:0")
	require.NoError(t, err)
	defer gateway.Close()
	gateway.CreateClient(testClientID, testSecret)
	destination := strings.TrimSuffix(strings.TrimPrefix(gateway.LocalURL(), "https://"), "/v1")
	works, refuses := newProxy(t, false, destination, nil), newProxy(t, false, "", status(407))
	outcome := func(proxy string, more ...string) string {
		command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxyFromTheEnvironment$", "-test.count=1")
		command.Env = append(os.Environ(), "HTTPS_PROXY="+proxy, "https_proxy="+proxy, "NO_PROXY=", "no_proxy=", child+"="+gateway.BaseURL(), "FUUFFY_TEST_CA="+gateway.CACert())
		command.Env = append(command.Env, more...)
		output, err := command.CombinedOutput()
		require.NoError(t, err, "%s", output)
		_, text, found := bytes.Cut(output, []byte("outcome: "))
		require.True(t, found, "%s", output)
		line, _, _ := strings.Cut(string(text), "\n")
		requireNoProxyCredentials(t, string(output))
		return line
	}
	assert.Equal(t, "<nil>", outcome(works.address("http")))
	assert.Equal(t, "<nil>", outcome(strings.TrimPrefix(works.address("http"), "http://")), "a scheme isn't needed")
	assert.Contains(t, outcome(refuses.address("http")), "it answered 407")
	for _, direct := range []string{
		outcome(works.address("http"), "NO_PROXY=.invalid"),
		outcome("http://" + proxyUser + ":" + proxyPassword + "%zz@127.0.0.1:1"), // net/http ignores what it can't read.
	} {
		assert.NotEqual(t, "<nil>", direct, "the name doesn't resolve")
		assert.NotContains(t, direct, "proxy")
	}
	assert.EqualValues(t, 2, works.connected.Load())
}
