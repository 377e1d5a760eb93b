// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

// closeRecorder is a request body that records whether the transport closed it.
type closeRecorder struct {
	io.Reader
	closed bool
}

func (c *closeRecorder) Close() error {
	c.closed = true
	return nil
}

func TestRoundTripperIsATransport(t *testing.T) {
	s, c := newInProcess(t, Config{})
	body := &closeRecorder{Reader: strings.NewReader(tokenForm(testID, testSecret).Encode())}
	req := c.request("POST", "/auth/token", "application/x-www-form-urlencoded", "")
	req.Body = body
	req.Header.Set("User-Agent", "test/1")
	resp, err := s.RoundTripper().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil || resp.Status != "200 OK" || resp.ContentLength != int64(len(content)) {
		t.Errorf("got %s, length %d, %d bytes, error %v", resp.Status, resp.ContentLength, len(content), err)
	}
	if !body.closed || resp.Request != req {
		t.Errorf("request body closed: %v, response has its request: %v", body.closed, resp.Request == req)
	}
	for name := range resp.Header {
		if name != textproto.CanonicalMIMEHeaderKey(name) {
			t.Errorf("header %q is not canonical", name)
		}
	}
	if got := s.Stats().LastUserAgent; got != "test/1" {
		t.Errorf("got user agent %q, want the request's", got)
	}
}

func TestRoundTripperClosesBodyOfFailedRequest(t *testing.T) {
	s, c := newInProcess(t, Config{})
	broken := errors.New("broken")
	body := &closeRecorder{Reader: iotest.ErrReader(broken)}
	req := c.request("POST", "/auth/token", "", "")
	req.Body = body
	resp, err := s.RoundTripper().RoundTrip(req)
	if err == nil {
		resp.Body.Close()
	}
	if !errors.Is(err, broken) || !body.closed || s.Stats().TokenRequests != 0 {
		t.Errorf("got error %v, closed %v, stats %+v", err, body.closed, s.Stats())
	}
}

func TestRoundTripperRefusesCancelledRequest(t *testing.T) {
	s, c := newInProcess(t, Config{})
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	resp, err := s.RoundTripper().RoundTrip(c.request("GET", "/orders", "", "").WithContext(ctx))
	if err == nil {
		resp.Body.Close()
	}
	if !errors.Is(err, gone) || s.Stats().OrderRequests != 0 {
		t.Errorf("got error %v, stats %+v, want the cause and no request", err, s.Stats())
	}
}

func TestCancelledContextEndsTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newInProcess(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		resp, err := c.client.Do(c.request("GET", "/orders", "", "").WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		cancel()
		synctest.Wait()
		if body, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("got body %q, error %v, want canceled", body, err)
		}
	})
}

func TestClosingTheBodyEndsTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// If the handler didn't end, the test would deadlock. The test's own context would end it with the test.
		ctx := context.WithoutCancel(t.Context())
		transport := roundTripper{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			flush(w)
			<-r.Context().Done()
		}), func() Fault { return Fault{} }}
		resp, err := transport.RoundTrip(caller{t: t, baseURL: inProcess}.request("GET", "/orders", "", "").WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestHandlerThatWritesNothing(t *testing.T) {
	transport := roundTripper{http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), func() Fault { return Fault{} }}
	r := caller{t, &http.Client{Transport: transport}, inProcess}.get("/orders", "")
	if r.status != http.StatusOK || r.body != "" || r.err != nil {
		t.Errorf("got %d %q, error %v, want an empty 200", r.status, r.body, r.err)
	}
}
