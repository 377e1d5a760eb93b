// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

const (
	testID     = "shop"
	testSecret = "s3cret with +&= and ünicode"
	inProcess  = "https://api.invalid/v1" // Any host will do.
)

// caller is a client of the sandbox, over HTTPS or in-process.
type caller struct {
	t       testing.TB
	client  *http.Client
	baseURL string
}

// newInProcess returns a sandbox with one client, and a caller without sockets.
func newInProcess(t testing.TB, cfg Config) (*Sandbox, caller) {
	s := New(cfg)
	s.CreateClient(testID, testSecret)
	return s, caller{t, noRedirects(s.RoundTripper()), inProcess}
}

// newHTTPS returns a sandbox behind HTTPS with one client, and a caller that trusts its CA.
func newHTTPS(t testing.TB, cfg Config) (*Server, caller) {
	s := NewServer(t, cfg)
	s.CreateClient(testID, testSecret)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(s.CACert())) {
		t.Fatal("CACert is not PEM")
	}
	return s, caller{t, noRedirects(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}), s.BaseURL()}
}

func noRedirects(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func tokenForm(id, secret string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
}

// reply is a response, read to its end or to its first error. err is the error of the request or of the body.
type reply struct {
	status int
	header http.Header
	body   string
	err    error
}

func (c caller) do(req *http.Request) reply {
	resp, err := c.client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(body), err}
}

func (c caller) post(contentType, body string) reply {
	c.t.Helper()
	return c.do(c.request(http.MethodPost, "/auth/token", contentType, body))
}

func (c caller) request(method, path, contentType, body string) *http.Request {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.baseURL+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	return req
}

// requestToken requests a token with the right credentials.
func (c caller) requestToken() reply {
	c.t.Helper()
	return c.postForm(tokenForm(testID, testSecret))
}

func (c caller) postForm(form url.Values) reply {
	c.t.Helper()
	return c.post("application/x-www-form-urlencoded", form.Encode())
}

// token requests a token, and fails the test without one.
func (c caller) token() string {
	c.t.Helper()
	return accessToken(c.t, c.requestToken())
}

func accessToken(t testing.TB, r reply) string {
	t.Helper()
	var parsed struct {
		Data struct {
			AccessToken string `json:"access_token"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(r.body), &parsed); r.err != nil || r.status != http.StatusOK || err != nil {
		t.Fatalf("want a token, got status %d, body %q, error %v, %v", r.status, r.body, r.err, err)
	}
	return parsed.Data.AccessToken
}

func (c caller) get(path, authorization string) reply {
	c.t.Helper()
	req := c.request(http.MethodGet, path, "application/json", "")
	req.Header.Set("Authorization", authorization)
	return c.do(req)
}

func (c caller) orders(token string) reply {
	c.t.Helper()
	return c.get("/orders", "Bearer "+token)
}

func wantStatus(t testing.TB, r reply, status int) {
	t.Helper()
	if r.err != nil || r.status != status {
		t.Errorf("want status %d, got %d, body %q, error %v", status, r.status, r.body, r.err)
	}
}
