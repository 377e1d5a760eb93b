// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The kinds of fault. They hit token requests or requests for orders, after Hold and the rate limits. Only the
// certificate faults hit the TLS handshakes of all requests: a server can't know at that time what the request will be.
const (
	FaultDelay     = "delay"     // Waits Delay, then answers normally.
	FaultHang      = "hang"      // Never answers; ends when the client disconnects or the server closes.
	FaultStatus    = "status"    // Answers Status with the documented error for it, or with Body verbatim.
	FaultBody      = "body"      // Answers 200 with Body verbatim.
	FaultGarbage   = "garbage"   // Answers 200 with an HTML page, as a gateway in front of the API might.
	FaultEmpty     = "empty"     // Answers 200 without a body.
	FaultTruncated = "truncated" // Sends half of the normal JSON as if it were the whole.
	FaultRedirect  = "redirect"  // Answers 307 to the Location in Header, or else to another host.
	FaultCut       = "cut"       // Announces the normal body and closes the connection in the middle of it.
	FaultRefuse    = "refuse"    // Closes the connection without a byte of response.
	FaultDrip      = "drip"      // Sends the normal body one byte every Delay.

	FaultExpiredCertificate   = "expired_certificate"    // Presents a certificate that expired yesterday.
	FaultWrongHostCertificate = "wrong_host_certificate" // Presents a certificate for another name.
)

var faultKinds = []string{
	FaultDelay, FaultHang, FaultStatus, FaultBody, FaultGarbage, FaultEmpty, FaultTruncated, FaultRedirect,
	FaultCut, FaultRefuse, FaultDrip, FaultExpiredCertificate, FaultWrongHostCertificate,
}

const (
	garbagePage      = "<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body>It works!</body></html>\n"
	redirectLocation = "https://" + otherHost + "/"
	otherHost        = "elsewhere.invalid" // RFC 2606 §2: this name never resolves.
)

// Where a fault hits.
const (
	OnToken     = "token"  // Token requests.
	OnOrders    = "orders" // Requests for /orders and /order.
	onHandshake = "handshake"
)

// Fault says what goes wrong, and for which requests.
type Fault struct {
	Kind     string            // One of the constants.
	On       string            // OnToken or OnOrders; empty: OnToken.
	ClientID string            // The client whose requests it hits; empty: all clients.
	After    int               // How many requests pass first.
	Times    int               // How many requests it hits; 0: all until ClearFault.
	Status   int               // With FaultStatus: 200 to 599.
	Body     string            // With FaultStatus (empty: the documented error) and FaultBody.
	Header   map[string]string // Response headers to set; an empty value removes the header.
	Delay    time.Duration     // With FaultDelay and FaultDrip.
}

// validate returns an error that says what is wrong with a fault, and how to fix it.
func (f Fault) validate() error {
	timed := f.Kind == FaultDelay || f.Kind == FaultDrip
	switch {
	case !slices.Contains(faultKinds, f.Kind):
		return fmt.Errorf("unknown kind %q: use one of %s", f.Kind, strings.Join(faultKinds, ", "))
	case f.On != "" && f.On != OnToken && f.On != OnOrders:
		return fmt.Errorf("unknown on %q: use %s or %s", f.On, OnToken, OnOrders)
	case f.hits() == onHandshake && (f.On != "" || f.ClientID != ""):
		return fmt.Errorf("%s hits all connections: leave out on and client_id", f.Kind)
	case f.After < 0:
		return fmt.Errorf("after is %d: use the number of requests to let pass", f.After)
	case f.Times < 0:
		return fmt.Errorf("times is %d: use the number of requests to hit, or 0 for all until the fault is cleared", f.Times)
	case f.Kind == FaultStatus && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("status is %d: use an HTTP status from 200 to 599 with kind status", f.Status)
	case f.Kind != FaultStatus && f.Status != 0:
		return fmt.Errorf("status goes with kind status, not with %s: leave it out", f.Kind)
	case f.Kind != FaultStatus && f.Kind != FaultBody && f.Body != "":
		return fmt.Errorf("body goes with the kinds status and body, not with %s: leave it out", f.Kind)
	case timed && f.Delay <= 0:
		return fmt.Errorf(`delay is %s: use a positive duration like "2s" with kind %s`, f.Delay, f.Kind)
	case !timed && f.Delay != 0:
		return fmt.Errorf("delay goes with the kinds delay and drip, not with %s: leave it out", f.Kind)
	}
	return nil
}

// hits returns what the fault hits: OnToken, OnOrders, or onHandshake.
func (f Fault) hits() string {
	if f.Kind == FaultExpiredCertificate || f.Kind == FaultWrongHostCertificate {
		return onHandshake
	}
	return cmp.Or(f.On, OnToken)
}

// SetFault makes requests fail. It replaces the current fault, and panics if the new one is invalid: a test with such
// a fault would test nothing.
func (s *Sandbox) SetFault(f Fault) {
	if err := f.validate(); err != nil {
		panic(fmt.Errorf("set fault: %w", err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// ClearFault makes requests succeed again.
func (s *Sandbox) ClearFault() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = Fault{}
}

// Fault returns the current fault with the rest of After and Times, or the zero Fault if there is none.
func (s *Sandbox) Fault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// takeFault returns the fault that hits this handshake or this client's request, and counts the hit.
func (s *Sandbox) takeFault(on, clientID string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fault
	if f.Kind == "" || f.hits() != on || f.ClientID != "" && f.ClientID != clientID {
		return Fault{}
	}
	if f.After > 0 {
		s.fault.After--
		return Fault{}
	}
	s.stats.FaultsHit++
	switch s.fault.Times {
	case 0:
	case 1:
		s.fault = Fault{}
	default:
		s.fault.Times--
	}
	return f
}

// serve answers a request as the fault says. The zero Fault answers normally. Only the faults that send the normal
// answer call normal, so other faults issue no token. To close a connection in net/http, abort the handler.
func (f Fault) serve(w http.ResponseWriter, r *http.Request, normal func() answer) {
	f.setHeader(w.Header())
	switch f.Kind {
	case FaultHang:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case FaultRefuse:
		panic(http.ErrAbortHandler)
	case FaultStatus:
		spoiled := refuse(f.Status, standardError(f.Status))
		if f.Status == http.StatusUnauthorized && f.On == OnOrders {
			spoiled = refuse(f.Status, errInvalidToken)
		}
		if f.Body != "" {
			spoiled.body = []byte(f.Body)
		}
		spoiled.send(w)
	case FaultBody, FaultEmpty:
		answer{status: http.StatusOK, body: []byte(f.Body)}.send(w)
	case FaultGarbage:
		setDefault(w.Header(), "Content-Type", "text/html; charset=utf-8")
		answer{status: http.StatusOK, body: []byte(garbagePage)}.send(w)
	case FaultRedirect:
		setDefault(w.Header(), "Location", redirectLocation)
		answer{status: http.StatusTemporaryRedirect}.send(w)
	case FaultTruncated:
		whole := normal()
		answer{status: whole.status, body: whole.body[:len(whole.body)/2]}.send(w)
	case FaultCut:
		whole := normal()
		whole.start(w)
		_, _ = w.Write(whole.body[:len(whole.body)/2])
		flush(w)
		panic(http.ErrAbortHandler)
	case FaultDrip:
		drip(r.Context(), w, normal(), f.Delay)
	case FaultDelay:
		pause(r.Context(), f.Delay)
		normal().send(w)
	default:
		normal().send(w)
	}
}

func (f Fault) setHeader(header http.Header) {
	for name, value := range f.Header {
		if value == "" {
			header.Del(name)
		} else {
			header.Set(name, value)
		}
	}
}

func setDefault(header http.Header, name, value string) {
	header.Set(name, cmp.Or(header.Get(name), value))
}

func drip(ctx context.Context, w http.ResponseWriter, a answer, every time.Duration) {
	a.start(w)
	flush(w)
	for i := range a.body {
		pause(ctx, every)
		if _, err := w.Write(a.body[i : i+1]); err != nil {
			return
		}
		flush(w)
	}
}

// pause aborts the request if the client disconnects or the server closes.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		panic(http.ErrAbortHandler)
	}
}

// flush sends what the handler wrote so far. It fails only if the client is gone, and then later writes fail too.
func flush(w http.ResponseWriter) {
	_ = http.NewResponseController(w).Flush()
}
