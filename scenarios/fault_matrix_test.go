// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// upstreamFault is one thing that can be wrong with Fuuffy or the way to it.
type upstreamFault struct {
	name string
	// class is the one that docs/reliability.md and RFC 9110 give it.
	class upstream.Failure
	// fault is the sandbox's doing, transport the network's.
	fault     fuuffytest.Fault
	transport func(*http.Request) error
}

func body(text string) fuuffytest.Fault {
	return fuuffytest.Fault{Kind: fuuffytest.FaultBody, Body: text}
}

// tokenBody is a token response with one part replaced.
func tokenBody(old, replacement string) fuuffytest.Fault {
	return body(strings.Replace(`{"data": {"access_token": "sk-1", "token_type": "Bearer", "expires_in": 3600}}`, old, replacement, 1))
}

// gzipped is so many spaces, compressed.
func gzipped(length int) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(bytes.Repeat([]byte(" "), length))
	_ = w.Close()
	return out.String()
}

func retryAfterHeader(value string) fuuffytest.Fault {
	f := mounttest.StatusFault(http.StatusTooManyRequests, "")
	f.Header = map[string]string{"Retry-After": value, "X-RateLimit-Reset": ""}
	return f
}

func always(err error) func(*http.Request) error {
	return func(*http.Request) error { return err }
}

func untilGivenUp(r *http.Request) error {
	<-r.Context().Done()
	return r.Context().Err()
}

var upstreamFaults = []upstreamFault{
	{name: "connection refused", class: upstream.Unavailable, transport: always(&net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})},
	{name: "name not found (DNS)", class: upstream.Unavailable, transport: always(&net.DNSError{Err: "no such host", Name: "gateway.example.com", IsNotFound: true})},
	{name: "black hole", class: upstream.Unavailable, transport: untilGivenUp},
	{name: "hangs after the request", class: upstream.Unavailable, fault: fuuffytest.Fault{Kind: fuuffytest.FaultHang}},
	{name: "slow drip", class: upstream.Unavailable, fault: fuuffytest.Fault{Kind: fuuffytest.FaultDrip, Delay: time.Second}},
	{name: "connection cut in the body", class: upstream.Unavailable, fault: fuuffytest.Fault{Kind: fuuffytest.FaultCut}},
	{name: "connection closed without an answer", class: upstream.Unavailable, fault: fuuffytest.Fault{Kind: fuuffytest.FaultRefuse}},
	{name: "certificate not trusted", class: upstream.Unavailable, transport: always(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}})},
	{name: "certificate expired", class: upstream.Unavailable, fault: fuuffytest.Fault{Kind: fuuffytest.FaultExpiredCertificate}},
	{name: "certificate of another host", class: upstream.Unavailable, fault: fuuffytest.Fault{Kind: fuuffytest.FaultWrongHostCertificate}},
	{name: "TLS 1.1 only", class: upstream.Unavailable, transport: always(errors.New("remote error: tls: protocol version not supported"))},
	{name: "redirect to another host", class: upstream.Rejected, fault: fuuffytest.Fault{Kind: fuuffytest.FaultRedirect}},
	{name: "redirect to http", class: upstream.Rejected, fault: fuuffytest.Fault{Kind: fuuffytest.FaultRedirect, Header: map[string]string{"Location": "http://gateway.example.com/v1/auth/token"}}},
	{name: "400 invalid request", class: upstream.Rejected, fault: mounttest.StatusFault(400, `{"error": {"code": "invalid_request", "message": "The 'grant_type' field is required", "field": "grant_type"}}`)},
	{name: "401 invalid_client", class: upstream.Rejected, fault: mounttest.StatusFault(401, "")},
	{name: "401 401021", class: upstream.Rejected, fault: mounttest.StatusFault(401, `{"error": {"code": "401021", "code_reason": "invalid_client_id_or_client_secret", "message": "Invalid client_id, client_secret, or session_key"}}`)},
	{name: "403 unauthorized_client", class: upstream.Rejected, fault: mounttest.StatusFault(403, `{"error": {"code": "unauthorized_client", "message": "The account lacks permission"}}`)},
	{name: "404", class: upstream.Rejected, fault: mounttest.StatusFault(404, "")},
	{name: "409", class: upstream.Rejected, fault: mounttest.StatusFault(409, "")},
	{name: "422 validation", class: upstream.Rejected, fault: mounttest.StatusFault(422, "")},
	{name: "408", class: upstream.Unavailable, fault: mounttest.StatusFault(408, "")},
	{name: "500", class: upstream.Unavailable, fault: mounttest.StatusFault(500, "")},
	{name: "503 maintenance", class: upstream.Unavailable, fault: mounttest.StatusFault(503, "")},
	{name: "503, HTML", class: upstream.Unavailable, fault: mounttest.StatusFault(503, "<html>Maintenance</html>")},
	{name: "429, Retry-After 20 s", class: upstream.RateLimited, fault: retryAfterHeader("20")},
	{name: "429, Retry-After a date", class: upstream.RateLimited, fault: retryAfterHeader("Sat, 01 Jan 2000 03:00:00 GMT")},
	{name: "429, Retry-After absurd", class: upstream.RateLimited, fault: retryAfterHeader("99999999999999999999")},
	{name: "429, Retry-After absent", class: upstream.RateLimited, fault: retryAfterHeader("")},
	{name: "200 with HTML", class: upstream.Malformed, fault: fuuffytest.Fault{Kind: fuuffytest.FaultGarbage}},
	{name: "200 empty", class: upstream.Malformed, fault: fuuffytest.Fault{Kind: fuuffytest.FaultEmpty}},
	{name: "200 truncated JSON", class: upstream.Malformed, fault: fuuffytest.Fault{Kind: fuuffytest.FaultTruncated}},
	{name: "200 deep nesting", class: upstream.Malformed, fault: body(strings.Repeat("[", 60_000))},
	{name: "200 of 10 MB", class: upstream.Malformed, fault: body(strings.Repeat(" ", 10<<20))},
	{name: "200 with a gzip bomb", class: upstream.Malformed, fault: fuuffytest.Fault{Kind: fuuffytest.FaultBody, Body: gzipped(10 << 20), Header: map[string]string{"Content-Encoding": "gzip"}}},
	{name: "200 without data", class: upstream.Malformed, fault: body(`{"access_token": "sk-1", "token_type": "Bearer"}`)},
	{name: "expires_in 0", class: upstream.Malformed, fault: tokenBody("3600", "0")},
	{name: "expires_in negative", class: upstream.Malformed, fault: tokenBody("3600", "-1")},
	{name: "expires_in 1e300", class: upstream.Malformed, fault: tokenBody("3600", "1e300")},
	{name: "token empty", class: upstream.Malformed, fault: tokenBody("sk-1", "")},
	{name: "token with newline", class: upstream.Malformed, fault: tokenBody("sk-1", `sk-1\n`)},
	{name: "token with NUL", class: upstream.Malformed, fault: tokenBody("sk-1", `sk-\u00001`)},
	{name: "token with emoji", class: upstream.Malformed, fault: tokenBody("sk-1", "sk-😀")},
	{name: "token of 50 KB", class: upstream.Malformed, fault: tokenBody("sk-1", strings.Repeat("a", 50_000))},
	{name: "token_type mac", class: upstream.Malformed, fault: tokenBody("Bearer", "mac")},
}

// tokenAges are the states of the held token, by its age; none is negative.
var tokenAges = []struct {
	name  string
	age   time.Duration
	stale bool
}{
	{"none", -1, false},
	{"fresh", 10 * time.Minute, false},
	{"in window", 52 * time.Minute, false},
	{"in buffer", 56 * time.Minute, false},
	{"in buffer, stale_if_error", 56 * time.Minute, true},
	{"expired", 61 * time.Minute, true},
}

// faultOutcome is what readers get from an engine with a fault.
type faultOutcome struct {
	answer  string // "token", "token, warned", or the status
	message string
	// class is the one that status names after the answer.
	class upstream.Failure
	took  time.Duration
	// nextMinute counts the requests in a minute of reads, one a second, after the first.
	nextMinute int
}

// meet reads with a fault, from an engine that holds a token of some age.
func (f upstreamFault) meet(t *testing.T, age time.Duration, stale bool) faultOutcome {
	m := mounttest.NewConfigured(t, "stale_if_error", stale)
	m.Random = func() float64 { return 0 }
	if age >= 0 {
		m.Read()
		time.Sleep(age)
	}
	var requests atomic.Int64
	m.Transport = func(string) (http.RoundTripper, error) {
		return mounttest.RoundTripFunc(func(r *http.Request) (*http.Response, error) {
			requests.Add(1)
			if f.transport != nil {
				return nil, f.transport(r)
			}
			return m.Sandbox.RoundTripper().RoundTrip(r)
		}), nil
	}
	m.Backend.InvalidateKey(t.Context(), mounttest.ConfigKey) // So that the next request builds the connection anew.
	if f.transport == nil {
		m.Sandbox.SetFault(f.fault)
	}

	began := time.Now()
	var o faultOutcome
	resp, err := m.Handle(context.Background(), logical.ReadOperation, "token", nil)
	o.took = time.Since(began)
	switch {
	case err != nil || resp.IsError():
		code, text := mounttest.Refusal(t, resp, err)
		o.answer, o.message = fmt.Sprint(code), text
		o.class = upstream.Failure(m.Status()["upstream_state"].(string))
	default:
		synctest.Wait()
		time.Sleep(2 * time.Minute) // The refresh in the background fails.
		o.answer = "token"
		if again := m.Read(); len(again.Warnings) > 0 {
			o.answer, o.message = "token, warned", again.Warnings[0]
		}
	}
	before, began := requests.Load(), time.Now()
	for time.Since(began) < time.Minute {
		_, _ = m.Handle(context.Background(), logical.ReadOperation, "token", nil)
		time.Sleep(time.Second)
	}
	o.nextMinute = int(requests.Load() - before)
	return o
}

// expected is what the design promises for a failure class and a state of the token.
func expected(class upstream.Failure, state string) string {
	served := map[string]string{"fresh": "token", "in window": "token, warned"}
	if class != upstream.Rejected {
		served["in buffer, stale_if_error"] = "token, warned"
	}
	if answer, ok := served[state]; ok {
		return answer
	}
	return map[upstream.Failure]string{upstream.Rejected: "400", upstream.RateLimited: "429", upstream.Unavailable: "502", upstream.Malformed: "502"}[class]
}

// TestFaultMatrix meets each fault in each state of the token, and prints the
// table that is kept in testdata.
func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("| fault | class | no token, or expired | in the buffer | in the buffer, `stale_if_error` | took | requests in the next minute |\n|---|---|---|---|---|---|---|\n")
	for _, f := range upstreamFaults {
		outcomes := map[string]faultOutcome{}
		for _, state := range tokenAges {
			t.Run(f.name+", "+state.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := f.meet(t, state.age, state.stale)
					outcomes[state.name] = o
					if state.name == "none" {
						assert.Equal(t, f.class, o.class)
						assert.True(t, saysClass(o), o.message)
					}
					want := expected(f.class, state.name)
					if want == "502" && o.answer == "504" {
						want = "504" // A time-out says so.
					}
					assert.Equal(t, want, o.answer, o.message)
					assert.LessOrEqual(t, o.took, time.Minute)
					assert.LessOrEqual(t, o.nextMinute, 18, "requests in the next minute")
					assert.NotContains(t, o.message, mounttest.Secret)
				})
			})
		}
		cold, buffer, stale := outcomes["none"], outcomes["in buffer"], outcomes["in buffer, stale_if_error"]
		assert.Equal(t, cold.answer, outcomes["expired"].answer, f.name)
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %s | %s | %d |\n",
			f.name, strings.ReplaceAll(string(f.class), "_", " "), cold.answer, buffer.answer, stale.answer, roughly(cold.took), cold.nextMinute)
	}
	t.Logf("fault matrix, %d faults in %d states of the token:\n%s", len(upstreamFaults), len(tokenAges), table.String())
	requireGolden(t, "testdata/fault_matrix.md", table.String())
}

// saysClass tells whether a reader without a token learns from the first words what kind of
// failure it is.
func saysClass(o faultOutcome) bool {
	beginnings := map[upstream.Failure][]string{
		upstream.Rejected:    {"Fuuffy rejected client " + mounttest.ClientID + ": ", "Fuuffy's token endpoint didn't respond: "},
		upstream.RateLimited: {"Fuuffy's rate limit is exhausted: "},
		upstream.Unavailable: {"Can't reach Fuuffy: ", "Fuuffy returned "},
		upstream.Malformed:   {"Fuuffy's response has no valid access token: ", "Fuuffy's token endpoint didn't respond: "},
	}
	return slices.ContainsFunc(beginnings[o.class], func(beginning string) bool { return strings.HasPrefix(o.message, beginning) })
}

// roughly hides the jitter of the retries.
func roughly(d time.Duration) string {
	if d < 10*time.Millisecond {
		return "immediately"
	}
	return fmt.Sprintf("< %d s", (int(d.Seconds())/5+1)*5)
}

// requireGolden holds a table to the file that keeps it; -update writes it.
func requireGolden(t *testing.T, file, table string) {
	t.Helper()
	if *mounttest.Update {
		require.NoError(t, os.WriteFile(file, []byte(table), 0o644))
	}
	kept, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, table, string(kept), "%s is out of date: make docs", file)
}
