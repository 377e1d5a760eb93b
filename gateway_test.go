// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

const (
	successorID     = "shop-next"
	successorSecret = "planted-successor+secret"
)

// gatewayAnswer is what a gateway in front of Fuuffy answers on its own.
type gatewayAnswer struct {
	status      int
	contentType string
	body        string
	retryAfter  string
}

// gateway passes token requests on to the sandbox, except those of the clients that it
// answers itself.
type gateway struct {
	next http.RoundTripper

	mu       sync.Mutex
	answers  map[string]gatewayAnswer
	requests map[string]int
}

// newMountBehindGateway returns an engine that is not configured.
func newMountBehindGateway(t *testing.T) (*mount, *gateway) {
	t.Helper()
	m := newMount(t)
	g := &gateway{next: m.sandbox.RoundTripper(), answers: map[string]gatewayAnswer{}, requests: map[string]int{}}
	m.transport = func(string) (http.RoundTripper, error) { return g, nil }
	return m, g
}

func (g *gateway) answer(clientID string, a gatewayAnswer) {
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

func (g *gateway) arrive(clientID string) (gatewayAnswer, bool) {
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
	header := http.Header{"Content-Type": {a.contentType}}
	if a.retryAfter != "" {
		header.Set("Retry-After", a.retryAfter)
	}
	return &http.Response{
		StatusCode: a.status, Status: http.StatusText(a.status),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(strings.NewReader(a.body)), ContentLength: int64(len(a.body)), Request: r,
	}, nil
}

// promoteSuccessor takes a configured mount through a rotation until complete is next.
func (m *mount) promoteSuccessor() {
	m.t.Helper()
	m.stageSuccessor()
	m.do(logical.UpdateOperation, "rotate-root/promote", nil)
}

func (m *mount) stageSuccessor() {
	m.t.Helper()
	m.sandbox.CreateClient(successorID, successorSecret)
	m.do(logical.UpdateOperation, "rotate-root", pairs("client_id", successorID, "client_secret", successorSecret))
}

func (m *mount) readRotation() map[string]any {
	m.t.Helper()
	return m.do(logical.ReadOperation, "rotate-root", nil).Data
}

// newAuthority returns the certificate of a new authority, in PEM.
func newAuthority(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test authority"},
		NotBefore: time.Now(), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return certificatePEM(certificate)
}
