// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"bufio"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// A composed fault is a status, how its bytes come, what is in them, and whom it hits.
// Each part is one that gateways, firewalls and dying servers are known for, and any may
// come with any other. The tests are over net/http, so that the faults are real.

// echoedSecret has a character for each encoding, and parts that are easy to find.
const echoedSecret = `Pl4nted+Secret&Value/%"<é>`

// echoes are the encodings in which an answer may repeat the client secret.
var echoes = map[string]func(string) string{
	"plain":              func(s string) string { return s },
	"percent":            url.QueryEscape,
	"percent lower case": func(s string) string { return everyByte(s, "%%%02x") },
	"HTML":               html.EscapeString,
	"HTML numbers":       func(s string) string { return everyRune(s, "&#%d;") },
	"JSON": func(s string) string {
		quoted, _ := json.Marshal(s)
		return string(quoted[1 : len(quoted)-1])
	},
	"JSON numbers": func(s string) string { return everyRune(s, `\u%04x`) },
}

func everyByte(s, format string) string {
	var out strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&out, format, s[i])
	}
	return out.String()
}

func everyRune(s, format string) string {
	var out strings.Builder
	for _, r := range s {
		fmt.Fprintf(&out, format, r)
	}
	return out.String()
}

// bodies are what may be in an answer that is not a token.
var faultBodies = map[string]string{
	"none":         "",
	"own":          `{"error": {"code": "some_code", "message": "Some message"}}`,
	"HTML":         "<html><body>A gateway's page</body></html>",
	"foreign JSON": `{"status": "failed", "error_id": 17}`,
	"list":         `[1, 2, 3]`,
	"NULs":         strings.Repeat("\x00", 2000),
}

// framings are how the bytes of an answer come. The head is whole in those that carry
// the status to the engine.
var framings = map[string]struct {
	status bool // whether the status arrives
	write  func(conn net.Conn, head, body string, ended <-chan struct{})
}{
	"whole": {true, func(conn net.Conn, head, body string, _ <-chan struct{}) {
		fmt.Fprintf(conn, "%sContent-Length: %d\r\nConnection: close\r\n\r\n%s", head, len(body), body)
	}},
	"cut": {true, func(conn net.Conn, head, body string, _ <-chan struct{}) {
		fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\n%s", head, len(body)+500, body)
	}},
	"cut in a chunk": {true, func(conn net.Conn, head, body string, _ <-chan struct{}) {
		fmt.Fprintf(conn, "%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s", head, len(body)+500, body)
	}},
	"silent": {true, func(conn net.Conn, head, body string, ended <-chan struct{}) {
		fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\n%s", head, len(body)+500, body)
		<-ended
	}},
	"dripping": {true, func(conn net.Conn, head, _ string, ended <-chan struct{}) {
		fmt.Fprintf(conn, "%sContent-Length: 60000\r\n\r\n", head)
		dripFor(conn, ended, " ")
	}},
	"endless headers": {false, func(conn net.Conn, head, _ string, ended <-chan struct{}) {
		_, _ = io.WriteString(conn, head)
		dripFor(conn, ended, "X-More: and more\r\n")
	}},
	"headers of a megabyte": {false, func(conn net.Conn, head, _ string, _ <-chan struct{}) {
		_, _ = io.WriteString(conn, head+strings.Repeat("X-More: "+strings.Repeat("x", 1000)+"\r\n", 1000)+"\r\n")
	}},
	"closed in the head": {false, func(conn net.Conn, head, _ string, _ <-chan struct{}) { _, _ = io.WriteString(conn, head) }},
}

// slowFramings last until the engine gives up, or make it try again.
var slowFramings = map[string]bool{"silent": true, "dripping": true, "endless headers": true, "headers of a megabyte": true, "closed in the head": true}

// classOfStatus is the class of each status by the contract, in docs/reliability.md, and
// RFC 9110 for those that it does not name: a status without a meaning of its own is
// treated as the x00 of its hundred. It is written by hand and not asked of the engine.
func classOfStatus(status int) string {
	switch {
	case status == 101: // The others below 200 announce another answer, which never comes.
		return "malformed"
	case status < 200:
		return "unavailable"
	case status < 300:
		return "malformed" // No body here has a token.
	case status == 408, status >= 500:
		return "unavailable"
	case status == 429:
		return "rate_limited"
	}
	return "rejected"
}

// class is the one of the whole fault.
func (f composedFault) class() string {
	switch {
	case !framings[f.framing].status:
		return "unavailable"
	case f.status == http.StatusNoContent:
		return "malformed" // It has no body that could be cut.
	case f.status >= 200 && f.status < 300 && f.framing != "whole":
		return "unavailable" // A success whose body does not arrive.
	}
	return classOfStatus(f.status)
}

// composedFault is one answer, with Retry-After: 600.
type composedFault struct {
	status        int
	framing, body string
}

func (f composedFault) String() string { return fmt.Sprintf("%d %s %s", f.status, f.framing, f.body) }

// faultServer is a Fuuffy of which one client, or the n-th request, meets a fault.
type faultServer struct {
	*httptest.Server
	ended chan struct{}

	mu       sync.Mutex
	fault    func(clientID string, n int) (composedFault, string, bool) // with the body
	requests int
}

func newFaultServer(t *testing.T) *faultServer {
	t.Helper()
	s := &faultServer{ended: make(chan struct{})}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.ErrorLog = mounttest.DiscardLog
	s.StartTLS()
	t.Cleanup(func() {
		close(s.ended)
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *faultServer) serve(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	s.mu.Lock()
	s.requests++
	n, fault := s.requests, s.fault
	s.mu.Unlock()
	if fault != nil {
		if f, body, hit := fault(r.PostForm.Get("client_id"), n); hit {
			s.spoil(w, f, body)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"data": {"access_token": "sk-%d", "token_type": "Bearer", "expires_in": 3600}}`, n)
}

func (s *faultServer) spoil(w http.ResponseWriter, f composedFault, body string) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	gone := make(chan struct{}) // when the engine gave up
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, bufio.NewReader(buffered))
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-gone:
		case <-s.ended:
		}
	}()
	framings[f.framing].write(conn, fmt.Sprintf("HTTP/1.1 %d Some reason\r\nContent-Type: application/json\r\nRetry-After: 600\r\n", f.status), body, ended)
}

// newFaultMount returns an engine with real connections to a server, and without a token.
func newFaultMount(t *testing.T) (*mounttest.Mount, *faultServer) {
	t.Helper()
	s := newFaultServer(t)
	m := mounttest.New(t)
	m.Transport = upstream.NewTransport
	m.Configure("base_url", s.URL, "ca_cert", mounttest.CertificatePEM(s.Certificate()), "client_secret", echoedSecret, "request_timeout", 3, "verify_connection", false)
	return m, s
}

func (s *faultServer) set(fault func(clientID string, n int) (composedFault, string, bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.requests = fault, 0
}

func (s *faultServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// meet reads a token during a fault, and holds what the engine makes of it to the class.
func (f composedFault) meet(t *testing.T, m *mounttest.Mount, s *faultServer, body string) {
	t.Helper()
	s.set(func(string, int) (composedFault, string, bool) { return f, body, true })
	m.Do(logical.DeleteOperation, "token", nil)
	m.Restart() // The faults come faster than one process's budget allows.
	began := time.Now()
	resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
	if !assert.True(t, err != nil || resp.IsError(), "%s: a token was served", f) {
		return
	}
	status, text := mounttest.Refusal(t, resp, err)
	class := f.class()
	assert.Less(t, time.Since(began), 20*time.Second, f)
	requireNoPart(t, text, f)
	told := m.Do(logical.ReadOperation, "status", nil)
	assert.Equal(t, class, told.Data["upstream_state"], "%s: %s", f, text)
	requireNoPart(t, told.Data["upstream_message"].(string), f)
	wants := map[string][]int{"rejected": {400}, "rate_limited": {429}, "malformed": {502}, "unavailable": {502, 504}}[class]
	assert.Contains(t, wants, status, f)
	requests := s.count()
	next, err := time.Parse(time.RFC3339, told.Data["upstream_next_try"].(string))
	assert.NoError(t, err)
	heldOff := time.Until(next) + time.Second // The time is cut to seconds.
	switch {
	case class == "rate_limited":
		assert.Greater(t, heldOff, 9*time.Minute, "%s: Retry-After holds", f)
	case class == "rejected":
		assert.Greater(t, heldOff, 20*time.Second, f)
	case class == "unavailable" && framings[f.framing].status && f.status >= 300:
		assert.Greater(t, heldOff, 50*time.Second, "%s: Retry-After holds, for a minute", f)
	}
	if class != "unavailable" || framings[f.framing].status && f.status >= 300 {
		assert.Equal(t, 1, requests, "%s: nothing is gained by another attempt", f)
	}
	_, _ = m.Handle(t.Context(), logical.ReadOperation, "token", nil)
	if class == "rejected" || class == "rate_limited" {
		assert.Equal(t, requests, s.count(), "%s: the next reader asks again", f)
	}
}

// requireNoPart fails if six characters of the secret in a row are in a text, in any
// encoding. It does not show the text.
func requireNoPart(t *testing.T, text string, f composedFault) {
	t.Helper()
	runes := []rune(echoedSecret)
	for i := 0; i+6 <= len(runes); i++ {
		for name, encode := range echoes {
			if strings.Contains(text, encode(string(runes[i:i+6]))) {
				t.Fatalf("%s: characters %d to %d of the secret are shown, %s", f, i, i+6, name)
			}
		}
	}
}

// Every status, in whole answers; and for one of each kind each framing with each body.
func TestComposedFaults(t *testing.T) {
	t.Parallel()
	t.Run("every status", func(t *testing.T) {
		t.Parallel()
		m, s := newFaultMount(t)
		for status := 101; status <= 599; status++ {
			if status >= 102 && status < 200 {
				continue // Below, as an announcement of what never comes.
			}
			composedFault{status, "whole", "own"}.meet(t, m, s, faultBodies["own"])
		}
	})
	for _, status := range []int{101, 103, 200, 204, 302, 400, 401, 403, 404, 408, 422, 429, 500, 503} {
		for framing := range framings {
			if slowFramings[framing] && !slices.Contains([]int{200, 401, 429}, status) {
				continue // They take seconds each.
			}
			t.Run(fmt.Sprint(status, " ", framing), func(t *testing.T) {
				t.Parallel()
				m, s := newFaultMount(t)
				bodies := faultBodies
				if slowFramings[framing] || (status == 103 || status == 200) && framing != "whole" {
					bodies = map[string]string{"own": faultBodies["own"]}
				}
				for name, body := range bodies {
					composedFault{status, framing, name}.meet(t, m, s, body)
				}
			})
		}
	}
}

// The secret in an answer, in each encoding, at offsets around the cut of a message.
func TestEchoedSecret(t *testing.T) {
	t.Parallel()
	places := map[string]string{
		"message":           `{"error": {"code": "invalid_request", "message": "%s"}}`,
		"code":              `{"error": {"code": "%s", "message": "m"}}`,
		"reason":            `{"error": {"code": "400000", "code_reason": "%s", "message": "m"}}`,
		"details":           `{"error": {"code": "invalid_request", "message": "m", "details": "%s"}}`,
		"list of details":   `{"error": {"code": "invalid_request", "message": "m", "details": [{"field": "client_secret", "message": "%s"}]}}`,
		"trace":             `{"error": {"code": "invalid_request", "message": "m", "error_trace": {"client_secret": "%s"}}}`,
		"OAuth description": `{"error": "invalid_request", "error_description": "%s"}`,
		"page":              `<html>%s</html>`,
	}
	for place, body := range places {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			m, s := newFaultMount(t)
			for name, encode := range echoes {
				for _, offset := range []int{0, 380, 390, 395, 399, 2040} {
					quoted, _ := json.Marshal(strings.Repeat("_", offset) + encode(echoedSecret))
					text := strings.Replace(body, "%s", string(quoted[1:len(quoted)-1]), 1)
					f := composedFault{400, "whole", fmt.Sprintf("%s, %s, offset %d", place, name, offset)}
					f.meet(t, m, s, text)
				}
			}
			requireNoPart(t, m.Log.String(), composedFault{400, "whole", place + ", in the log"})
		})
	}
}

// A fault that hits the first request, or one client, is not taken for one of the others.
func TestFaultOfOneRequestOrClient(t *testing.T) {
	t.Parallel()
	for _, f := range []composedFault{{503, "cut", "HTML"}, {500, "whole", "none"}, {408, "whole", "none"}, {200, "cut", "none"}, {200, "closed in the head", "none"}} {
		t.Run("first request, "+f.String(), func(t *testing.T) {
			t.Parallel()
			m, s := newFaultMount(t)
			withoutRetryAfter := f.status < 300 // Who is told to wait does not try again.
			s.set(func(_ string, n int) (composedFault, string, bool) { return f, faultBodies[f.body], n == 1 })
			resp, err := m.Handle(t.Context(), logical.ReadOperation, "token", nil)
			assert.Equal(t, withoutRetryAfter, err == nil && !resp.IsError())
		})
	}
	for _, f := range []composedFault{{401, "cut", "HTML"}, {400, "whole", "own"}, {403, "silent", "own"}} {
		t.Run("new client, "+f.String(), func(t *testing.T) {
			t.Parallel()
			m, s := newFaultMount(t)
			m.Do(logical.UpdateOperation, "rotate-root", mounttest.NewPair())
			m.Do(logical.UpdateOperation, "rotate-root/promote", nil)
			m.Do(logical.DeleteOperation, "token", nil)
			s.set(func(clientID string, _ int) (composedFault, string, bool) {
				return f, faultBodies[f.body], clientID == mounttest.NewClientID
			})
			m.Read()
			assert.Equal(t, true, m.Rotation()["fallback_active"], "the old client is tried")
		})
	}
}
