// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	socks "golang.org/x/net/proxy"
)

// dialer makes TLS connections to Fuuffy, directly or through a proxy. net/http could do that
// too, but it starts to read before there is a request, and doesn't tell whether the proxy or
// the host failed.
type dialer struct {
	tls   *tls.Config
	dial  dialFunc
	proxy func(*http.Request) (*url.URL, error)
}

// dialFunc connects over TCP. It is what the SOCKS package calls a dialer.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Dial is part of socks.Dialer, which needs it but uses DialContext.
func (d dialFunc) Dial(network, address string) (net.Conn, error) {
	return d(context.Background(), network, address)
}

// DialContext is part of socks.ContextDialer.
func (d dialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}

// dialTLS connects to a host and port, and verifies the host's certificate.
func (d *dialer) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	proxyURL, err := d.proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: address}})
	if err != nil {
		return nil, errProxySetting // err quotes the setting, and with it a password.
	}
	var conn net.Conn
	if proxyURL == nil {
		conn, err = d.dial(ctx, network, address)
	} else {
		conn, err = d.tunnel(ctx, proxyURL, address)
	}
	if err != nil {
		return nil, err
	}
	secured, err := d.secure(ctx, conn, address)
	if err != nil {
		return nil, err
	}
	return &silentConn{securedConn: secured, asked: make(chan struct{})}, nil
}

// tunnel connects to a host and port through a proxy.
func (d *dialer) tunnel(ctx context.Context, proxyURL *url.URL, address string) (net.Conn, error) {
	ports := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}
	failed := &proxyError{host: proxyURL.Host}
	port, known := ports[proxyURL.Scheme]
	if !known {
		return nil, failed.because(nil, "connect to the proxy %s: its scheme is neither http, https, nor socks5")
	}
	failed.host = net.JoinHostPort(proxyURL.Hostname(), cmp.Or(proxyURL.Port(), port))

	if proxyURL.Scheme == "socks5" || proxyURL.Scheme == "socks5h" {
		var conn net.Conn
		through, err := socks.FromURL(proxyURL, d.dial)
		if err == nil {
			conn, err = through.(socks.ContextDialer).DialContext(ctx, "tcp", address)
		}
		if err != nil {
			return nil, failed.because(err, "connect through the proxy %s: %v")
		}
		return conn, nil
	}
	conn, err := d.dial(ctx, "tcp", failed.host)
	if err != nil {
		return nil, failed.because(err, "connect to the proxy %s: %v")
	}
	if proxyURL.Scheme == "https" {
		if conn, err = d.secure(ctx, conn, failed.host); err != nil {
			return nil, failed.because(err, "connect to the proxy %s: %v")
		}
	}
	if err := connectThrough(ctx, conn, proxyURL.User, address, failed); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// connectThrough has a proxy connect to a host and port (RFC 9110 §9.3.6). It shows nothing of
// what the proxy says but its status: the proxy may echo the credentials that it got.
func connectThrough(ctx context.Context, conn net.Conn, user *url.Userinfo, address string, failed *proxyError) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if user != nil {
		password, _ := user.Password()
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	err := request.Write(conn)
	var resp *http.Response
	if err == nil {
		// No byte of the host's is lost with this buffer: in TLS, the client speaks first.
		resp, err = http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxBody)), request)
	}
	_, isNetwork := errors.AsType[net.Error](err)
	switch {
	case ctx.Err() != nil:
		return failed.because(ctx.Err(), "the proxy %s didn't answer the request to connect: %v")
	case isNetwork || errors.Is(err, io.ErrUnexpectedEOF):
		return failed.because(err, "the proxy %s didn't answer the request to connect: %v")
	case err != nil:
		return failed.because(nil, "the proxy %s didn't answer the request to connect in HTTP")
	case resp.StatusCode != http.StatusOK:
		failed.status = resp.StatusCode
		answer := fmt.Sprint(resp.StatusCode)
		if reason := http.StatusText(resp.StatusCode); reason != "" {
			answer += " (" + reason + ")"
		}
		return failed.because(nil, "the proxy %s refused to connect to Fuuffy: it answered "+answer)
	}
	return nil
}

// secure starts TLS on a connection and verifies the host's certificate. It closes the
// connection if that fails.
func (d *dialer) secure(ctx context.Context, conn net.Conn, address string) (*securedConn, error) {
	host, _, _ := net.SplitHostPort(address) // Without a name, the handshake fails.
	s := &securedConn{}
	config := d.tls.Clone()
	config.ServerName = host
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		s.wantsCertificate.Store(true)
		return &tls.Certificate{}, nil // The host may accept clients without one.
	}
	client := tls.Client(conn, config)
	s.Conn = client
	if err := client.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, s.explain(err)
	}
	return s, nil
}

// securedConn knows whether the host requested a client certificate. With TLS 1.3 the host
// ends the connection only after the handshake.
type securedConn struct {
	net.Conn
	wantsCertificate atomic.Bool
}

// Read is part of net.Conn.
func (s *securedConn) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	return n, s.explain(err)
}

// explain adds why the host ended the connection, if it was because the engine has no client
// certificate.
func (s *securedConn) explain(err error) error {
	alert, is := errors.AsType[*net.OpError](err)
	if is && alert.Op == "remote error" && s.wantsCertificate.Load() {
		return &clientCertificateError{alert: alert}
	}
	return err
}

// silentConn delivers nothing before the first write. net/http doesn't expect what a host
// sends before it gets the request, and writes it into the process's log. Afterward, net/http
// reads it as the response: a malformed one, most likely.
type silentConn struct {
	*securedConn
	asked chan struct{} // closed at the first write, or with the connection
	once  sync.Once
}

func (c *silentConn) ask() { c.once.Do(func() { close(c.asked) }) }

// Read is part of net.Conn.
func (c *silentConn) Read(p []byte) (int, error) {
	<-c.asked
	return c.securedConn.Read(p)
}

// Write is part of net.Conn. net/http expects the response before it writes the first byte of
// the request.
func (c *silentConn) Write(p []byte) (int, error) {
	c.ask()
	return c.securedConn.Write(p)
}

// Close is part of net.Conn.
func (c *silentConn) Close() error {
	c.ask()
	return c.securedConn.Close()
}

// errProxySetting replaces an error that quotes the variable, which may hold a password.
var errProxySetting = errors.New("the server's HTTPS_PROXY is not a valid address")

// proxyError is the failure of a proxy to connect to Fuuffy, or of the engine to connect to
// the proxy.
type proxyError struct {
	host   string // and port, without the credentials that the proxy's URL may have
	status int    // 0 if the proxy didn't refuse with one
	text   string
	err    error
}

func (e *proxyError) Error() string { return e.text }
func (e *proxyError) Unwrap() error { return e.err }

// because completes the error. The text has the host, and then err if it isn't nil.
func (e *proxyError) because(err error, text string) error {
	args := []any{e.host}
	if err != nil {
		args = append(args, err)
	}
	e.text, e.err = fmt.Sprintf(text, args...), err
	return e
}

// lasting tells whether another attempt would end the same way.
func (e *proxyError) lasting() bool { return e.status >= 400 && e.status < 500 }

// clientCertificateError is the alert of a host that requested a client certificate in vain.
type clientCertificateError struct{ alert error }

func (e *clientCertificateError) Error() string {
	return "the host requires a client certificate, which the engine doesn't support: " + e.alert.Error()
}
func (e *clientCertificateError) Unwrap() error { return e.alert }
