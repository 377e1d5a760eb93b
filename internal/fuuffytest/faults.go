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

// The kinds of fault. All hit token requests or those for orders, after Hold and the rate limits, except those of the
// certificate: these hit the TLS handshakes of all requests, because a server can't know then what will be asked of it.
const (
	FaultDelay     = "delay"     // Waits Delay, then answers normally.
	FaultHang      = "hang"      // Never answers; ends when the client goes away or the server closes.
	FaultStatus    = "status"    // Answers Status with the documented error for it, or with Body verbatim.
	FaultBody      = "body"      // Answers 200 with Body verbatim.
	FaultGarbage   = "garbage"   // Answers 200 with an HTML page, as a gateway in front of the API might.
	FaultEmpty     = "empty"     // Answers 200 without a body.
	FaultTruncated = "truncated" // Sends half of the normal JSON as if it were all.
	FaultRedirect  = "redirect"  // Answers 307 to the Location in Header, or else to another host.
	FaultCut       = "cut"       // Announces the normal body and closes the connection in the middle of it.
	FaultRefuse    = "refuse"    // Closes the connection without a byte of response.
	FaultDrip      = "drip"      // Sends the normal body one byte every Delay.

	FaultExpiredCertificate   = "expired_certificate"    // Shows a certificate that expired yesterday.
	FaultWrongHostCertificate = "wrong_host_certificate" // Shows a certificate for another name.
)

var faultKinds = []string{
	FaultDelay, FaultHang, FaultStatus, FaultBody, FaultGarbage, FaultEmpty, FaultTruncated, FaultRedirect,
	FaultCut, FaultRefuse, FaultDrip, FaultExpiredCertificate, FaultWrongHostCertificate,
}

const (
	garbagePage      = "<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body>It works!</body></html>\n"
	redirectLocation = "https://" + otherHost + "/"
	otherHost        = "elsewhere.invalid" // RFC 2606 §2: a name that never resolves.
)

// Where a fault hits.
const (
	OnToken     = "token"  // Token requests.
	OnOrders    = "orders" // Requests for /orders and /order.
	onHandshake = "handshake"
)

// Fault is what goes wrong.
type Fault struct {
	Kind     string            // One of the constants.
	On       string            // OnToken or OnOrders; empty: OnToken.
	ClientID string            // Whose requests it hits; empty: everybody's.
	After    int               // How many requests it lets pass first.
	Times    int               // How many requests it hits; 0: all until ClearFault.
	Status   int               // With FaultStatus: 200 to 599.
	Body     string            // With FaultStatus (empty: the documented error) and FaultBody.
	Header   map[string]string // Response headers to set; an empty value removes the header.
	Delay    time.Duration     // With FaultDelay and FaultDrip.
}

// validate says what is wrong with a fault, and what to do about it.
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

// hits returns where it hits.
func (f Fault) hits() string {
	if f.Kind == FaultExpiredCertificate || f.Kind == FaultWrongHostCertificate {
		return onHandshake
	}
	return cmp.Or(f.On, OnToken)
}

// SetFault makes requests go wrong; it replaces the fault that was set. It panics at a fault that makes
// no sense, because a test with such a fault would test nothing.
func (s *Sandbox) SetFault(f Fault) {
	if err := f.validate(); err != nil {
		panic(fmt.Errorf("set fault: %w", err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// ClearFault makes requests work again.
func (s *Sandbox) ClearFault() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = Fault{}
}

// Fault returns the fault that is set, with the Times that are left of it; the zero Fault if there is none.
func (s *Sandbox) Fault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// takeFault returns the fault that hits this handshake or this request of a client, and counts it.
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

// serve answers a request as the fault wants it; the zero Fault answers normally. The normal answer is made
// where it is sent, so a token is issued only then. Aborting the handler is how net/http closes a connection.
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

// pause ends the request unanswered if the client goes away or the server closes.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		panic(http.ErrAbortHandler)
	}
}

// flush sends what was written so far. It fails only where the client went away, and then so does what comes after.
func flush(w http.ResponseWriter) {
	_ = http.NewResponseController(w).Flush()
}
