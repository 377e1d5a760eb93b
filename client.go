// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	cleanhttp "github.com/hashicorp/go-cleanhttp"
	retryablehttp "github.com/hashicorp/go-retryablehttp"
)

const (
	// maxAttempts counts the first attempt of a token request too.
	maxAttempts = 3
	// retryWait and maxRetryWait bound the pause between two attempts.
	retryWait    = 250 * time.Millisecond
	maxRetryWait = 2 * time.Second
	// maxRequestTime bounds a token request with all its attempts. It stays below
	// the minute after which the vault CLI gives up.
	maxRequestTime = 50 * time.Second
	// maxBody is how much of an answer is read. A token response has some 150 bytes.
	maxBody = 64 << 10
)

// client asks one Fuuffy environment for access tokens. It keeps one pool of
// connections and is safe for concurrent use.
type client struct {
	http     *retryablehttp.Client
	tokenURL string
	// now is the wall clock, for a Retry-After that is a date.
	now func() time.Time
	// remaining is where the last X-RateLimit-Remaining is kept.
	remaining *rateLimit
}

// rateLimit is how many requests Fuuffy's rate limit left at its last answer,
// shared by the clients of a mount. A negative number means that it never said.
type rateLimit struct{ atomic.Int64 }

func newRateLimit() *rateLimit {
	r := &rateLimit{}
	r.Store(-1)
	return r
}

// grant is an access token as Fuuffy granted it.
type grant struct {
	accessToken string
	// expiresIn is the life of the token, counted from before it was asked for.
	expiresIn time.Duration
	// assumedExpiry is set when Fuuffy did not say and the documented hour was taken.
	assumedExpiry bool
}

// newTransport returns a pooled transport that verifies certificates against
// caCert (a PEM bundle), or against the system's authorities where it is empty.
func newTransport(caCert string) (http.RoundTripper, error) {
	transport := cleanhttp.DefaultPooledTransport()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	transport.DisableCompression = true
	transport.MaxResponseHeaderBytes = maxBody
	if caCert != "" {
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM([]byte(caCert)) {
			return nil, errors.New("read ca_cert: no certificate in it")
		}
	}
	return transport, nil
}

// newClient returns a client of the API at baseURL. An attempt is given up after
// timeout.
func newClient(baseURL string, timeout time.Duration, transport http.RoundTripper, now func() time.Time, remaining *rateLimit) *client {
	return &client{
		tokenURL:  strings.TrimSuffix(baseURL, "/") + "/auth/token",
		now:       now,
		remaining: remaining,
		http: &retryablehttp.Client{
			HTTPClient: &http.Client{
				Transport: transport,
				Timeout:   timeout,
				// A redirect would carry the secret to wherever it points.
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			},
			RetryMax:     maxAttempts - 1,
			RetryWaitMin: retryWait,
			RetryWaitMax: maxRetryWait,
			CheckRetry:   worthRetrying,
			Backoff:      fullJitter,
			ErrorHandler: retryablehttp.PassthroughErrorHandler,
		},
	}
}

// close gives the idle connections back. Requests under way are not disturbed.
func (c *client) close() { c.http.HTTPClient.CloseIdleConnections() }

// requestToken asks for an access token with the client credentials grant
// (RFC 6749 §4.4). What keeps Fuuffy from giving one is an *upstreamError; any
// other error means that ctx ended.
func (c *client) requestToken(ctx context.Context, clientID, clientSecret string) (grant, error) {
	limited, cancel := context.WithTimeout(ctx, maxRequestTime)
	defer cancel()

	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {clientSecret}}
	req, err := retryablehttp.NewRequestWithContext(limited, http.MethodPost, c.tokenURL, []byte(form.Encode()))
	if err != nil {
		return grant{}, fmt.Errorf("build token request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", pluginName+"/"+version)

	var granted grant
	req.SetResponseHandler(func(resp *http.Response) error {
		defer resp.Body.Close()
		if remaining, err := strconv.ParseInt(resp.Header.Get("X-RateLimit-Remaining"), 10, 64); err == nil {
			c.remaining.Store(remaining)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		granted, err = readAnswer(resp, body, c.now())
		return err
	})
	resp, err := c.http.Do(req)
	if err == nil {
		return granted, nil
	}
	if resp != nil {
		resp.Body.Close()
	}
	return grant{}, asUpstreamError(ctx, err, clientSecret)
}

// worthRetrying is the retry policy: only what may be better a second later is
// tried again. It is asked twice about an answer: when it starts, and with what
// the response handler made of it.
func worthRetrying(ctx context.Context, _ *http.Response, err error) (bool, error) {
	if err == nil || ctx.Err() != nil {
		return false, nil
	}
	if upstream, ok := errors.AsType[*upstreamError](err); ok {
		return upstream.failure == unavailable && upstream.retryAfter <= maxRetryWait, nil
	}
	// The library knows the transport errors that last, such as an untrusted certificate.
	return retryablehttp.DefaultRetryPolicy(ctx, nil, err)
}

// fullJitter waits a random part of an exponentially growing time, so that
// engines that failed together do not return together.
func fullJitter(least, most time.Duration, attempt int, _ *http.Response) time.Duration {
	ceiling := min(least<<(attempt+1), most)
	return rand.N(ceiling) + time.Millisecond
}

// asUpstreamError gives every way a request can end without a token one type.
// The end of the caller's own context is not Fuuffy's doing and stays as it is.
func asUpstreamError(ctx context.Context, err error, clientSecret string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if upstream, ok := errors.AsType[*upstreamError](err); ok {
		upstream.code = redact(upstream.code, clientSecret)
		upstream.message = redact(upstream.message, clientSecret)
		return upstream
	}
	timedOut := errors.Is(err, context.DeadlineExceeded)
	if netErr, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok {
		timedOut = timedOut || netErr.Timeout()
	}
	return &upstreamError{
		failure: unavailable,
		timeout: timedOut,
		message: redact(printable(err.Error()), clientSecret),
		cause:   err,
	}
}

// redact takes the secret out of a text that came from outside, in case it was
// echoed, plain or URL-encoded.
func redact(text, secret string) string {
	if secret == "" {
		return text
	}
	return strings.NewReplacer(secret, "[redacted]", url.QueryEscape(secret), "[redacted]").Replace(text)
}
