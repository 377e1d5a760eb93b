// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// endlessAnswers are what a server can do with a connection so that an answer never
// ends. Each is over when write fails, or when ended is closed.
var endlessAnswers = map[string]func(conn net.Conn, ended <-chan struct{}){
	"101": func(conn net.Conn, ended <-chan struct{}) {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		<-ended
	},
	"101 that goes on talking": func(conn net.Conn, ended <-chan struct{}) {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		dripFor(conn, ended, "x")
	},
	"silence": func(_ net.Conn, ended <-chan struct{}) { <-ended },
	"headers that never end": func(conn net.Conn, ended <-chan struct{}) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
		dripFor(conn, ended, "X-More: and more\r\n")
	},
	"informational answers without end": func(conn net.Conn, ended <-chan struct{}) {
		dripFor(conn, ended, "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")
	},
	"a body that never ends": func(conn net.Conn, ended <-chan struct{}) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
		dripFor(conn, ended, " ")
	},
	"an error whose body never ends": func(conn net.Conn, ended <-chan struct{}) {
		_, _ = io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n")
		dripFor(conn, ended, " ")
	},
}

// headless are those of them of which not even the head arrives.
var headless = map[string]bool{"silence": true, "headers that never end": true, "informational answers without end": true}

func dripFor(conn net.Conn, ended <-chan struct{}, text string) {
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for {
		select {
		case <-ended:
			return
		case <-ticks.C:
			if _, err := io.WriteString(conn, text); err != nil {
				return
			}
		}
	}
}

// headTransport tells when the head of an answer has arrived.
type headTransport struct {
	http.RoundTripper
	arrived chan<- struct{}
}

func (t headTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		t.arrived <- struct{}{}
	}
	return resp, err
}

// CloseIdleConnections is what http.Client looks for.
func (t headTransport) CloseIdleConnections() {
	(&http.Client{Transport: t.RoundTripper}).CloseIdleConnections()
}

// newEndlessMount returns a mount whose Fuuffy is a server that never ends an answer,
// and channels that tell of each token request and of each head of an answer.
func newEndlessMount(t *testing.T, answer func(net.Conn, <-chan struct{})) (m *mounttest.Mount, requested, arrived <-chan struct{}) {
	t.Helper()
	m = mounttest.New(t)
	requests, heads, ended := make(chan struct{}, 100), make(chan struct{}, 100), make(chan struct{})
	m.Transport = func(caCert string) (http.RoundTripper, error) {
		transport, err := upstream.NewTransport(caCert)
		return headTransport{transport, heads}, err
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		requests <- struct{}{}
		answer(conn, ended)
	}))
	server.Config.ErrorLog = mounttest.DiscardLog
	server.StartTLS()
	// Runs before the mount's own end, which would wait for the server if the engine does.
	t.Cleanup(func() {
		close(ended)
		server.Close()
	})
	m.Configure("base_url", server.URL+"/v1", "ca_cert", mounttest.CertificatePEM(server.Certificate()),
		"request_timeout", "1s", "verify_connection", false)
	return m, requests, heads
}

// No answer outlives request_timeout: the reader gets an error, and the mount can ask
// again.
func TestAnswerThatNeverEnds(t *testing.T) {
	t.Parallel()
	for name, answer := range endlessAnswers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, requested, _ := newEndlessMount(t, answer)
			failed := make(chan int, 1)
			go func() {
				resp, err := m.Handle(context.Background(), logical.ReadOperation, "token", nil)
				status, _ := mounttest.Refusal(t, resp, err)
				failed <- status
			}()
			select {
			case status := <-failed:
				assert.GreaterOrEqual(t, status, 400)
				assert.NotEmpty(t, requested, "the server was asked")
			case <-time.After(15 * time.Second): // Three attempts of a second, and the pauses between them.
				t.Fatal("the token request does not end")
			}
		})
	}
}

// The engine's end does not wait for an answer that never ends: Vault holds a lock of
// all mounts meanwhile.
func TestCleanDuringAnAnswerThatNeverEnds(t *testing.T) {
	t.Parallel()
	for name, answer := range endlessAnswers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, requested, arrived := newEndlessMount(t, answer)
			go func() { _, _ = m.Handle(context.Background(), logical.ReadOperation, "token", nil) }()
			begun := arrived
			if headless[name] {
				begun = requested
			}
			select {
			case <-begun:
			case <-time.After(15 * time.Second):
				t.Fatal("the server was not asked")
			}
			cleaned := make(chan struct{})
			go func() {
				defer close(cleaned)
				m.Backend.Cleanup(context.Background())
			}()
			select {
			case <-cleaned:
			case <-time.After(5 * time.Second):
				t.Fatal("Clean does not return")
			}
		})
	}
}
