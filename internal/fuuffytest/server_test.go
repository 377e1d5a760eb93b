// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// eventually waits until other goroutines have made something true, in real time.
func eventually(t *testing.T, happened func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("did not happen within 10 s")
		}
	}
}

func TestServer(t *testing.T) {
	s, c := newHTTPS(t, Config{})
	host, port, err := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(s.BaseURL(), "https://"), "/v1"))
	if err != nil || host != "127.0.0.1" {
		t.Fatalf("got base URL %s, want one on 127.0.0.1, error %v", s.BaseURL(), err)
	}
	wantStatus(t, c.orders(c.token()), http.StatusOK)
	c.baseURL = "https://localhost:" + port + "/v1"
	wantStatus(t, c.requestToken(), http.StatusOK)

	c.client.Transport = &http.Transport{}
	var unknown x509.UnknownAuthorityError
	if r := c.requestToken(); !errors.As(r.err, &unknown) {
		t.Errorf("without the CA: got error %v, want an unknown authority", r.err)
	}
}

func TestServerRefusesOldTLS(t *testing.T) {
	s, _ := newHTTPS(t, Config{})
	conn, err := tls.Dial("tcp", s.listener.Addr().String(), &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11,
	})
	if err == nil {
		conn.Close()
		t.Error("TLS 1.1 was accepted")
	}
}

func TestCertificateFaultHitsOrdersToo(t *testing.T) {
	s, c := newHTTPS(t, Config{})
	s.SetFault(Fault{Kind: FaultExpiredCertificate, Times: 1})
	if r := c.orders("sk-dead"); !isVerificationError(r.err) {
		t.Errorf("got error %v, want a certificate error", r.err)
	}
	if got := s.Stats(); got.OrderRequests != 0 || got.FaultsHit != 1 {
		t.Errorf("got stats %+v, want a handshake that failed before any request", got)
	}
	wantStatus(t, c.orders("sk-dead"), http.StatusUnauthorized)
}

func TestCloseEndsRequests(t *testing.T) {
	for name, f := range map[string]Fault{
		"hang":  {Kind: FaultHang},
		"delay": {Kind: FaultDelay, Delay: time.Hour},
		"drip":  {Kind: FaultDrip, Delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := newHTTPS(t, Config{})
			s.SetFault(f)
			result := make(chan reply, 1)
			go func() { result <- c.requestToken() }()
			eventually(t, func() bool { return s.Stats().FaultsHit == 1 })
			start := time.Now()
			s.Close()
			if took := time.Since(start); took >= closeTimeout {
				t.Errorf("Close took %s: it waited for a handler that should have ended", took)
			}
			if r := <-result; r.err == nil {
				t.Errorf("got status %d, body %q, want a closed connection", r.status, r.body)
			}
			s.Close()
			if r := c.requestToken(); !errors.Is(r.err, syscall.ECONNREFUSED) {
				t.Errorf("after Close: got error %v, want connection refused", r.err)
			}
		})
	}
}

func TestCloseEndsHeldRequestsAndIdleConnections(t *testing.T) {
	s, c := newHTTPS(t, Config{})
	idle, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	s.Hold()
	result := make(chan reply, 1)
	go func() { result <- c.requestToken() }()
	if err := s.WaitHeld(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if r := <-result; r.err == nil || s.Stats().Held != 0 {
		t.Errorf("got error %v, %d held", r.err, s.Stats().Held)
	}
	if err := idle.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the idle connection is still open: %v", err)
	}
}

func TestListenLoopbackRefusesOtherAddresses(t *testing.T) {
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "sandbox.example:0"} {
		listener, err := ListenLoopback(addr)
		if err == nil {
			listener.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "use 127.0.0.1:PORT") {
			t.Errorf("%s: got error %v, want advice", addr, err)
		}
	}
	if _, err := Start(Config{}, "nonsense"); err == nil || !strings.HasPrefix(err.Error(), `parse address "nonsense"`) {
		t.Errorf("got error %v", err)
	}
	listener, err := ListenLoopback("localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
}

func TestStartReportsAPortInUse(t *testing.T) {
	s, _ := newHTTPS(t, Config{})
	if _, err := Start(Config{}, s.listener.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got error %v, want address in use", err)
	}
}
