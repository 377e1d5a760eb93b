// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
)

// tokenPath is where tokens are requested, below the host.
const tokenPath = "/v1/auth/token"

// fuuffy is the sandbox with a record of each token request, and with a fault that the
// sandbox does not know: 101 and then nothing.
type fuuffy struct {
	*fuuffytest.Sandbox
	server *httptest.Server
	record *recorder
	// switches makes it answer 101.
	switches atomic.Bool
	// ended is closed when the server ends, so that no answer outlives it.
	ended chan struct{}
	once  sync.Once
}

func newFuuffy(record *recorder, life time.Duration) *fuuffy {
	f := &fuuffy{
		Sandbox: fuuffytest.New(fuuffytest.Config{TokenLifetime: life, PerMinute: -1, PerHour: -1}),
		record:  record, ended: make(chan struct{}),
	}
	f.server = httptest.NewUnstartedServer(f)
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0) // Connections that break are what some faults are for.
	f.server.StartTLS()
	return f
}

func (f *fuuffy) close() {
	f.once.Do(func() { close(f.ended) })
	f.server.CloseClientConnections()
	f.server.Close()
}

func (f *fuuffy) baseURL() string { return f.server.URL + "/v1" }

func (f *fuuffy) caCert() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw}))
}

// works tells whether Fuuffy knows a client that was not revoked.
func (f *fuuffy) works(client string) bool {
	return slices.Contains(f.Clients(), fuuffytest.Client{ID: client})
}

// ServeHTTP is part of http.Handler.
func (f *fuuffy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != tokenPath {
		f.Sandbox.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return
	}
	form, _ := url.ParseQuery(string(body))
	asked := f.record.request(form.Get("client_id"))
	copied := &copied{ResponseWriter: w}
	defer func() { f.answered(asked, copied) }() // Faults abort the handler with a panic.
	if f.switches.Load() {
		f.switchProtocols(w, r.Context())
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	f.Sandbox.ServeHTTP(copied, r)
}

// answered records what a token request was answered.
func (f *fuuffy) answered(asked *history.Request, answer *copied) {
	var granted struct {
		Data struct {
			AccessToken string `json:"access_token"`
		} `json:"data"`
	}
	_ = json.Unmarshal(answer.body.Bytes(), &granted)
	outcome := fmt.Sprint(answer.status)
	switch {
	case granted.Data.AccessToken != "":
		outcome = history.Granted
	case answer.status == http.StatusUnauthorized:
		outcome = history.Rejected
	case answer.status == http.StatusTooManyRequests:
		outcome = history.Limited
	}
	f.record.answer(asked, outcome, granted.Data.AccessToken)
}

// switchProtocols answers 101 and keeps the connection open for as long as the client.
func (f *fuuffy) switchProtocols(w http.ResponseWriter, ctx context.Context) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, conn)
	}()
	select {
	case <-gone:
	case <-f.ended:
	case <-ctx.Done():
	}
}

// copied keeps what is sent.
type copied struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

// WriteHeader is part of http.ResponseWriter.
func (c *copied) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

// Write is part of http.ResponseWriter.
func (c *copied) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	c.body.Write(p)
	return c.ResponseWriter.Write(p)
}

// Unwrap is how http.ResponseController finds the original.
func (c *copied) Unwrap() http.ResponseWriter { return c.ResponseWriter }
