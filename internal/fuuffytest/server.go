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

// closeTimeout is how long Close lets requests end by themselves before it closes their connections.
const closeTimeout = time.Second

// Server is a Sandbox behind real HTTPS on a loopback port, with a CA of its own.
type Server struct {
	*Sandbox
	address      string // host and port
	certificates *certificates
	listener     net.Listener
	server       *http.Server
	cancel       context.CancelFunc // ends the handlers that wait
	done         chan struct{}      // closed when the server has stopped accepting
}

// NewServer starts a server that ends with the test.
func NewServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := Start(cfg, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Start starts a server on an address that Config.Listen takes. Every connection serves one request: so a fault
// of the certificate hits the very next request, and never depends on which connections a client kept.
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
	protocols.SetHTTP1(true) // In HTTP/2 there is no closing a connection under one request.
	s.server = &http.Server{
		Handler:           s.Sandbox,
		Protocols:         protocols,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // Handshakes that fail are what some faults are for.
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

// BaseURL returns what goes into the engine's base_url: https://127.0.0.1:PORT/v1.
func (s *Server) BaseURL() string { return "https://" + s.address + "/v1" }

// LocalURL is BaseURL for a client on this machine, where the name may lead nowhere.
func (s *Server) LocalURL() string {
	address := *s.listener.Addr().(*net.TCPAddr)
	if address.IP.IsUnspecified() {
		address.IP = net.IPv4(127, 0, 0, 1)
	}
	return "https://" + address.String() + "/v1"
}

// CACert returns the certificate, in PEM, of the CA that signs for the server.
func (s *Server) CACert() string { return s.certificates.caPEM }

// Close ends the server and all its requests, hanging ones as well. It may be called more than once.
func (s *Server) Close() {
	s.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.server.Shutdown(ctx) != nil {
		_ = s.server.Close()
	}
	<-s.done
}

// Listen listens on a TCP address: one that other machines can reach only if there is a name for them.
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

// Address is how clients reach a listener.
func (c Config) Address(l net.Listener) string {
	if c.Name == "" {
		return l.Addr().String()
	}
	return net.JoinHostPort(c.Name, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// ListenLoopback listens on a TCP address of this machine that no other machine can reach, and refuses all others:
// the sandbox gives credentials to whoever asks.
func ListenLoopback(addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("parse address %q: %w", addr, err)
	}
	if ip, _ := netip.ParseAddr(host); host != "localhost" && !ip.IsLoopback() {
		return nil, fmt.Errorf("listen on %q: not a loopback address: use 127.0.0.1:PORT (port 0: any free one), or -name to let other machines in", addr)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
}
