// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// closeTimeout is how long Close waits for requests to finish before it closes their connections.
const closeTimeout = time.Second

// Server is a Sandbox behind real HTTPS, with its own CA.
type Server struct {
	*Sandbox
	address      string // host and port
	certificates *certificates
	listener     net.Listener
	server       *http.Server
	cancel       context.CancelFunc // ends waiting handlers
	done         chan struct{}      // closed when the server no longer accepts connections
}

// NewServer starts a server on a loopback port, and stops it when the test ends.
func NewServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := Start(cfg, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Start starts a server on an address that Config.Listen accepts. Every connection serves one request. So a certificate
// fault hits the very next request, whatever connections a client would keep.
func Start(cfg Config, addr string) (*Server, error) {
	listener, err := cfg.Listen(addr)
	if err != nil {
		return nil, err
	}
	certs, err := newCertificates(listener.Addr().(*net.TCPAddr).IP, cfg.Name)
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		Sandbox:      New(cfg),
		address:      cfg.Address(listener),
		certificates: certs,
		listener:     listener,
		cancel:       cancel,
		done:         make(chan struct{}),
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // In HTTP/2, requests share a connection, so a fault can't close it for one of them.
	s.server = &http.Server{
		Handler:           s.Sandbox,
		Protocols:         protocols,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // Some faults make handshakes fail on purpose.
		TLSConfig: &tls.Config{
			MinVersion:             tls.VersionTLS12,
			SessionTicketsDisabled: true, // A resumed session would show no certificate.
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return s.certificates.choose(s.takeFault(onHandshake, "")), nil
			},
		},
	}
	s.server.SetKeepAlivesEnabled(false)
	go func() {
		defer close(s.done)
		_ = s.server.ServeTLS(listener, "", "") // Ends with http.ErrServerClosed at Close.
	}()
	return s, nil
}

// BaseURL returns the value for the engine's base_url: https://127.0.0.1:PORT/v1.
func (s *Server) BaseURL() string { return "https://" + s.address + "/v1" }

// LocalURL is BaseURL for a client on this machine, which may not be able to resolve the name.
func (s *Server) LocalURL() string {
	address := *s.listener.Addr().(*net.TCPAddr)
	if address.IP.IsUnspecified() {
		address.IP = net.IPv4(127, 0, 0, 1)
	}
	return "https://" + address.String() + "/v1"
}

// CACert returns the PEM certificate of the CA that signed the server's certificate.
func (s *Server) CACert() string { return s.certificates.caPEM }

// Close stops the server and ends all its requests, including hanging ones. You can call it more than once.
func (s *Server) Close() {
	s.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.server.Shutdown(ctx) != nil {
		_ = s.server.Close()
	}
	<-s.done
}

// Listen listens on a TCP address. Only with a Name does it accept an address that other machines can reach.
func (c Config) Listen(addr string) (net.Listener, error) {
	if c.Name == "" {
		return ListenLoopback(addr)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
}

// Address returns the host and port at which clients reach a listener.
func (c Config) Address(l net.Listener) string {
	if c.Name == "" {
		return l.Addr().String()
	}
	return net.JoinHostPort(c.Name, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// ListenLoopback listens on a loopback TCP address, and refuses all others, because the sandbox gives credentials to
// anyone who connects.
func ListenLoopback(addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("parse address %q: %w", addr, err)
	}
	if ip, _ := netip.ParseAddr(host); host != "localhost" && !ip.IsLoopback() {
		return nil, fmt.Errorf("listen on %q: not a loopback address: use 127.0.0.1:PORT (port 0 picks a free one), or -name to let other machines connect", addr)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
}
