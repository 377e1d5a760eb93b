// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// faultTests lists what a client sees of each fault that ends without help: the same over HTTPS and in-process.
var faultTests = map[string]struct {
	fault  Fault
	check  func(*testing.T, reply)
	issued int
}{
	"delay":    {Fault{Kind: FaultDelay, Delay: time.Millisecond}, wantToken, 1},
	"drip":     {Fault{Kind: FaultDrip, Delay: 100 * time.Microsecond}, wantToken, 1},
	"garbage":  {Fault{Kind: FaultGarbage}, wantReply(200, "text/html; charset=utf-8", garbagePage), 0},
	"empty":    {Fault{Kind: FaultEmpty}, wantReply(200, "application/json", ""), 0},
	"body":     {Fault{Kind: FaultBody, Body: `{"data":{}}`}, wantReply(200, "application/json", `{"data":{}}`), 0},
	"redirect": {Fault{Kind: FaultRedirect}, wantHeader("Location", "https://elsewhere.invalid/"), 0},
	"redirect there": {
		Fault{Kind: FaultRedirect, Header: map[string]string{"location": "https://there.invalid/"}},
		wantHeader("Location", "https://there.invalid/"), 0,
	},
	"status, own body": {Fault{Kind: FaultStatus, Status: 502, Body: "oops", Header: map[string]string{"Content-Type": "text/plain"}},
		wantReply(502, "text/plain", "oops"), 0},
	"status, no content": {Fault{Kind: FaultStatus, Status: 204}, wantReply(204, "application/json", ""), 0},
	"header":             {Fault{Kind: FaultStatus, Status: 429, Header: map[string]string{"Retry-After": "7"}}, wantHeader("Retry-After", "7"), 0},
	"header removed":     {Fault{Kind: FaultEmpty, Header: map[string]string{"X-RateLimit-Reset": ""}}, wantHeader("X-RateLimit-Reset", ""), 0},
	"truncated": {Fault{Kind: FaultTruncated}, func(t *testing.T, r reply) {
		wantStatus(t, r, http.StatusOK)
		if json.Valid([]byte(r.body)) || !strings.HasPrefix(r.body, `{"data":{"access_token":"sk-`) {
			t.Errorf("got body %q, want the first half of a token's JSON", r.body)
		}
	}, 1},
	"cut": {Fault{Kind: FaultCut}, func(t *testing.T, r reply) {
		if r.status != http.StatusOK || !errors.Is(r.err, io.ErrUnexpectedEOF) || !strings.HasPrefix(r.body, `{"data"`) {
			t.Errorf("got status %d, body %q, error %v, want 200, half a body and an unexpected EOF", r.status, r.body, r.err)
		}
	}, 1},
	"refuse": {Fault{Kind: FaultRefuse}, func(t *testing.T, r reply) {
		if !errors.Is(r.err, io.EOF) {
			t.Errorf("got error %v, status %d, want EOF", r.err, r.status)
		}
	}, 0},
	"expired certificate": {Fault{Kind: FaultExpiredCertificate}, func(t *testing.T, r reply) {
		var invalid x509.CertificateInvalidError
		if !isVerificationError(r.err) || !errors.As(r.err, &invalid) || invalid.Reason != x509.Expired {
			t.Errorf("got error %v, want an expired certificate", r.err)
		}
	}, 0},
	"wrong host certificate": {Fault{Kind: FaultWrongHostCertificate}, func(t *testing.T, r reply) {
		var hostname x509.HostnameError
		if !isVerificationError(r.err) || !errors.As(r.err, &hostname) {
			t.Errorf("got error %v, want a wrong host name", r.err)
		}
	}, 0},
}

func isVerificationError(err error) bool {
	var verification *tls.CertificateVerificationError
	return errors.As(err, &verification)
}

func wantToken(t *testing.T, r reply) {
	accessToken(t, r)
}

func wantReply(status int, contentType, body string) func(*testing.T, reply) {
	return func(t *testing.T, r reply) {
		wantStatus(t, r, status)
		if got := r.header.Get("Content-Type"); got != contentType || r.body != body {
			t.Errorf("got %s %q, want %s %q", got, r.body, contentType, body)
		}
	}
}

func wantHeader(name, value string) func(*testing.T, reply) {
	return func(t *testing.T, r reply) {
		if got := r.header.Get(name); r.err != nil || got != value {
			t.Errorf("got %s %q, want %q, error %v", name, got, value, r.err)
		}
	}
}

func TestFaultsOverHTTPS(t *testing.T) {
	for name, test := range faultTests {
		t.Run(name, func(t *testing.T) {
			s, c := newHTTPS(t, Config{})
			c.token() // A reused connection would hide a bad certificate.
			testFault(t, s.Sandbox, c, test.fault, test.check, 1+test.issued)
		})
	}
}

func TestFaultsInProcess(t *testing.T) {
	for name, test := range faultTests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newInProcess(t, Config{})
				testFault(t, s, c, test.fault, test.check, test.issued)
			})
		})
	}
}

// testFault checks that the fault hits one token request, and no other.
func testFault(t *testing.T, s *Sandbox, c caller, f Fault, check func(*testing.T, reply), issued int) {
	f.Times = 1
	s.SetFault(f)
	check(t, c.requestToken())
	if got := s.Stats(); got.FaultsHit != 1 || got.TokensIssued != issued {
		t.Errorf("got stats %+v, want one fault hit and %d tokens issued", got, issued)
	}
	c.token()
}

func TestStatusFaultSpeaksAllDialects(t *testing.T) {
	s, c := newInProcess(t, Config{})
	for status, want := range map[int]string{
		400: `{"code":"400000","code_reason":"validation_error","message":"Invalid request parameters","error_trace":{"client_id":"Missing required field 'client_id'"}}`,
		401: `{"code":"invalid_client","message":"Client authentication failed","details":"Invalid client credentials provided"}`,
		403: `{"code":"unauthorized_client","message":"The client is not authorized to perform this action"}`,
		404: `{"code":"not_found","message":"The requested resource was not found"}`,
		408: `{"code":"request_timeout","message":"Request Timeout"}`,
		409: `{"code":"conflict","message":"The resource is in a conflicting state"}`,
		422: `{"code":"validation_error","message":"Invalid request parameters","details":[{"field":"client_id","message":"Client id is malformed"}]}`,
		429: `{"code":"rate_limit_exceeded","message":"Too many requests, please try again later"}`,
		500: `{"code":"internal_server_error","message":"An unexpected error occurred"}`,
		503: `{"code":"service_unavailable","message":"The service is under maintenance"}`,
		599: `{"code":"status_599","message":"Status 599"}`,
	} {
		s.SetFault(Fault{Kind: FaultStatus, Status: status})
		r := c.requestToken()
		wantStatus(t, r, status)
		if r.body != `{"error":`+want+`}` {
			t.Errorf("status %d: got %s\nwant %s", status, r.body, want)
		}
	}
}

func TestFaultTimes(t *testing.T) {
	s, c := newInProcess(t, Config{})
	s.SetFault(Fault{Kind: FaultStatus, Status: 500, Times: 2})
	wantStatus(t, c.orders("sk-dead"), http.StatusUnauthorized) // The fault doesn't hit orders.
	wantStatus(t, c.requestToken(), 500)
	if got := s.Fault().Times; got != 1 {
		t.Errorf("got %d times left, want 1", got)
	}
	wantStatus(t, c.requestToken(), 500)
	wantStatus(t, c.requestToken(), 200)

	s.SetFault(Fault{Kind: FaultStatus, Status: 500})
	for range 5 {
		wantStatus(t, c.requestToken(), 500)
	}
	s.ClearFault()
	wantStatus(t, c.requestToken(), 200)
	if got := s.Stats().FaultsHit; got != 7 {
		t.Errorf("got %d faults hit, want 7", got)
	}
}

func TestFaultSpoilsARejectionToo(t *testing.T) {
	s, c := newInProcess(t, Config{})
	s.SetFault(Fault{Kind: FaultCut})
	r := c.postForm(tokenForm(testID, "wrong"))
	if r.status != http.StatusUnauthorized || !errors.Is(r.err, io.ErrUnexpectedEOF) {
		t.Errorf("got status %d, error %v, want a 401 that is cut", r.status, r.err)
	}
}

func TestFaultTimingIsExactInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newInProcess(t, Config{})
		start := time.Now()
		s.SetFault(Fault{Kind: FaultDelay, Delay: 2 * time.Second})
		c.token()
		if got := time.Since(start); got != 2*time.Second {
			t.Errorf("delay took %s, want 2s", got)
		}

		s.SetFault(Fault{Kind: FaultDrip, Delay: time.Second})
		start = time.Now()
		resp, err := c.client.Do(c.request("POST", "/auth/token", "application/x-www-form-urlencoded", tokenForm(testID, testSecret).Encode()))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got := time.Since(start); got != 0 {
			t.Errorf("the header of a dripping answer took %s, want none", got)
		}
		body, err := io.ReadAll(resp.Body)
		if got := time.Since(start); err != nil || got != time.Duration(len(body))*time.Second {
			t.Errorf("%d bytes took %s, want a second each, error %v", len(body), got, err)
		}
	})
}

func TestSlowFaultsEndWithTheRequest(t *testing.T) {
	for name, f := range map[string]Fault{
		"hang":  {Kind: FaultHang},
		"delay": {Kind: FaultDelay, Delay: time.Hour},
		"drip":  {Kind: FaultDrip, Delay: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newInProcess(t, Config{})
				s.SetFault(f)
				start := time.Now()
				c.client.Timeout = 90 * time.Second
				r := c.requestToken()
				if !errors.Is(r.err, context.DeadlineExceeded) || time.Since(start) != 90*time.Second {
					t.Errorf("got error %v after %s, want deadline exceeded after 1m30s", r.err, time.Since(start))
				}
				if got := s.Stats().FaultsHit; got != 1 {
					t.Errorf("got %d faults hit, want 1", got)
				}
			})
		})
	}
}

func TestHangOverHTTPSEndsWithTheRequest(t *testing.T) {
	s, c := newHTTPS(t, Config{})
	s.SetFault(Fault{Kind: FaultHang})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan reply, 1)
	go func() { result <- c.do(c.request("POST", "/auth/token", "", "").WithContext(ctx)) }()
	eventually(t, func() bool { return s.Stats().FaultsHit == 1 })
	cancel()
	if r := <-result; !errors.Is(r.err, context.Canceled) {
		t.Errorf("got error %v, want canceled", r.err)
	}
}

func TestSetFaultRefusesNonsense(t *testing.T) {
	for name, test := range map[string]struct {
		fault Fault
		want  string
	}{
		"no kind":              {Fault{}, `unknown kind "": use one of delay, hang, status, `},
		"unknown kind":         {Fault{Kind: "explode"}, `unknown kind "explode": use one of delay, hang, status, `},
		"negative times":       {Fault{Kind: FaultHang, Times: -1}, "times is -1: "},
		"no status":            {Fault{Kind: FaultStatus}, "status is 0: "},
		"informational status": {Fault{Kind: FaultStatus, Status: 101}, "status is 101: "},
		"status elsewhere":     {Fault{Kind: FaultHang, Status: 500}, "status goes with kind status, not with hang"},
		"body elsewhere":       {Fault{Kind: FaultCut, Body: "x"}, "body goes with the kinds status and body, not with cut"},
		"no delay":             {Fault{Kind: FaultDelay}, "delay is 0s: "},
		"negative delay":       {Fault{Kind: FaultDrip, Delay: -1}, "delay is -1ns: "},
		"delay elsewhere":      {Fault{Kind: FaultHang, Delay: 1}, "delay goes with the kinds delay and drip, not with hang"},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(Config{})
			defer func() {
				err, _ := recover().(error)
				if err == nil || !strings.HasPrefix(err.Error(), "set fault: "+test.want) {
					t.Errorf("got panic %v, want %q", err, test.want)
				}
				if s.Fault().Kind != "" {
					t.Error("a refused fault was set")
				}
			}()
			s.SetFault(test.fault)
		})
	}
}
