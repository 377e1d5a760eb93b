// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// RoundTripper returns a transport to the sandbox without sockets, for any host. A client sees the same as over HTTPS:
// io.ErrUnexpectedEOF from the body of a cut connection, io.EOF for a refused one, and
// *tls.CertificateVerificationError for a bad certificate. As with any transport, read or close the response body. If
// you forget one in a synctest bubble, the bubble deadlocks.
func (s *Sandbox) RoundTripper() http.RoundTripper {
	return roundTripper{s, func() Fault { return s.takeFault(onHandshake, "") }}
}

type roundTripper struct {
	handler   http.Handler
	handshake func() Fault // takes the fault that hits before the handler runs
}

func (t roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := readRequestBody(req)
	if err != nil {
		return nil, fmt.Errorf("read request body: %w", err)
	}
	if err := context.Cause(req.Context()); err != nil {
		return nil, err
	}
	if err := certificateError(t.handshake(), req.URL.Hostname()); err != nil {
		return nil, err
	}

	ctx, cancel := context.WithCancel(req.Context())
	reader, writer := io.Pipe()
	x := &exchange{
		header:   http.Header{},
		body:     writer,
		response: make(chan *http.Response, 1),
		template: http.Response{
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Body:    responseBody{reader, cancel},
			Request: req,
		},
	}
	// Neither side may wait for the other after the request is canceled or the client is gone.
	context.AfterFunc(ctx, func() { _ = writer.CloseWithError(context.Cause(ctx)) })
	failed := make(chan error, 1)
	go func() {
		defer cancel()
		if err := x.run(t.handler, serverRequest(ctx, req, body)); err != nil {
			failed <- err
		}
	}()

	select {
	case resp := <-x.response:
		return resp, nil
	case err := <-failed:
		return nil, err
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
}

// readRequestBody reads and closes the body. A transport must do both even if it fails.
func readRequestBody(req *http.Request) ([]byte, error) {
	if req.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(req.Body)
	return body, errors.Join(err, req.Body.Close())
}

// serverRequest returns the request as a server would receive it.
func serverRequest(ctx context.Context, req *http.Request, body []byte) *http.Request {
	r := req.Clone(ctx)
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.Host = cmp.Or(req.Host, req.URL.Host)
	r.RequestURI = req.URL.RequestURI()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	if _, ok := r.Header["User-Agent"]; !ok {
		r.Header.Set("User-Agent", "Go-http-client/1.1")
	}
	return r
}

// certificateError returns the error that crypto/tls reports for the certificate of the fault.
func certificateError(f Fault, host string) error {
	leaf := &x509.Certificate{DNSNames: []string{otherHost}}
	switch f.Kind {
	case FaultExpiredCertificate:
		return &tls.CertificateVerificationError{
			UnverifiedCertificates: []*x509.Certificate{leaf},
			Err:                    x509.CertificateInvalidError{Cert: leaf, Reason: x509.Expired},
		}
	case FaultWrongHostCertificate:
		return &tls.CertificateVerificationError{
			UnverifiedCertificates: []*x509.Certificate{leaf},
			Err:                    x509.HostnameError{Certificate: leaf, Host: host},
		}
	}
	return nil
}

// exchange is the http.ResponseWriter of one in-process request.
type exchange struct {
	header   http.Header
	body     *io.PipeWriter
	template http.Response       // the part of the response that is known before the handler runs
	started  bool                // only the handler's goroutine uses it
	response chan *http.Response // receives the response when the handler sends its header
}

// run serves the request. It returns an error if the connection would have closed before any response. If it would
// have closed later, reading the body fails.
func (x *exchange) run(handler http.Handler, r *http.Request) (err error) {
	defer func() {
		switch v := recover(); {
		case v == nil:
			_ = x.body.Close()
		case v != http.ErrAbortHandler:
			panic(v)
		case x.started:
			_ = x.body.CloseWithError(cmp.Or(context.Cause(r.Context()), io.ErrUnexpectedEOF))
		default:
			err = cmp.Or(context.Cause(r.Context()), io.EOF)
		}
	}()
	handler.ServeHTTP(x, r)
	x.WriteHeader(http.StatusOK) // Does nothing if the handler already wrote a header.
	return nil
}

func (x *exchange) Header() http.Header { return x.header }

func (x *exchange) WriteHeader(status int) {
	if x.started {
		return
	}
	x.started = true
	resp := x.template
	resp.StatusCode = status
	resp.Status = strconv.Itoa(status) + " " + http.StatusText(status)
	resp.Header = x.header.Clone()
	resp.ContentLength = -1
	if length, err := strconv.ParseInt(x.header.Get("Content-Length"), 10, 64); err == nil {
		resp.ContentLength = length
	}
	x.response <- &resp
}

func (x *exchange) Write(p []byte) (int, error) {
	x.WriteHeader(http.StatusOK)
	if len(p) == 0 {
		return 0, nil // A pipe would wait for a reader even for an empty write.
	}
	return x.body.Write(p)
}

// Flush sends the header. Nothing buffers the body.
func (x *exchange) Flush() { x.WriteHeader(http.StatusOK) }

// responseBody tells the handler when the client closes the body.
type responseBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b responseBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}
