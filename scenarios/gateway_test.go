// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// gateway passes token requests on to the sandbox, except those of the clients that it
// answers itself.
type gateway struct {
	next http.RoundTripper

	mu       sync.Mutex
	answers  map[string]mounttest.GatewayAnswer
	requests map[string]int
}

// newMountBehindGateway returns an engine that is not configured.
func newMountBehindGateway(t *testing.T) (*mounttest.Mount, *gateway) {
	t.Helper()
	m := mounttest.New(t)
	g := &gateway{next: m.Sandbox.RoundTripper(), answers: map[string]mounttest.GatewayAnswer{}, requests: map[string]int{}}
	m.Transport = func(string) (http.RoundTripper, error) { return g, nil }
	return m, g
}

func (g *gateway) answer(clientID string, a mounttest.GatewayAnswer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answers[clientID] = a
}

// pass has the sandbox answer a client again.
func (g *gateway) pass(clientID string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.answers, clientID)
}

// count is how many token requests arrived, of any client.
func (g *gateway) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	total := 0
	for _, n := range g.requests {
		total += n
	}
	return total
}

func (g *gateway) arrive(clientID string) (mounttest.GatewayAnswer, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests[clientID]++
	a, ok := g.answers[clientID]
	return a, ok
}

// RoundTrip is part of http.RoundTripper.
func (g *gateway) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if err := r.Body.Close(); err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	a, ok := g.arrive(form.Get("client_id"))
	if !ok {
		passed := r.Clone(r.Context())
		passed.Body = io.NopCloser(bytes.NewReader(body))
		return g.next.RoundTrip(passed)
	}
	header := http.Header{"Content-Type": {a.ContentType}}
	if a.RetryAfter != "" {
		header.Set("Retry-After", a.RetryAfter)
	}
	return &http.Response{
		StatusCode: a.Status, Status: http.StatusText(a.Status),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(strings.NewReader(a.Body)), ContentLength: int64(len(a.Body)), Request: r,
	}, nil
}
