// SPDX-License-Identifier: MPL-2.0

// Package upstream requests access tokens from Fuuffy over HTTPS. It knows what a response
// means and how a request can fail. It knows nothing about Vault, storage, or caching.
package upstream

import (
	"cmp"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxAttempts includes the first attempt of a token request for readers.
	maxAttempts = 3
	// minPause and maxPause bound the pause between two attempts.
	minPause = 250 * time.Millisecond
	maxPause = 2 * time.Second
	// maxRequestTime bounds a token request with all its attempts. It stays below
	// the minute after which the vault CLI gives up.
	maxRequestTime = 50 * time.Second
	// maxBody is how much of a response is read. A token response has some 150 bytes.
	maxBody = 64 << 10
)

// Config says where and how a Client requests tokens.
type Config struct {
	// BaseURL is the address of the API. It ends before /auth/token.
	BaseURL string
	// Timeout bounds one attempt.
	Timeout time.Duration
	// Transport makes the connections. See NewTransport.
	Transport http.RoundTripper
	// UserAgent is what Fuuffy sees as the client's name.
	UserAgent string
	// Now is the wall clock, for a Retry-After that is a date in a response without one.
	Now func() time.Time
	// Random returns a number in [0, 1), for the pauses between attempts.
	Random func() float64
	// Budget bounds how many attempts the clients of a mount make. Without one there is no bound.
	Budget *Budget
	// RateLimit keeps the last X-RateLimit-Remaining. The clients of a mount share it.
	RateLimit *RateLimit
}

// Client requests access tokens from one Fuuffy environment. It is safe for concurrent use.
type Client struct {
	config   Config
	tokenURL string
}

// New returns a client. Without a clock, a Random, or a RateLimit it uses its own.
func New(config Config) *Client {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Random == nil {
		config.Random = rand.Float64
	}
	config.RateLimit = cmp.Or(config.RateLimit, NewRateLimit())
	return &Client{config: config, tokenURL: strings.TrimSuffix(config.BaseURL, "/") + "/auth/token"}
}

// RateLimit is how many requests Fuuffy's rate limit left, according to its last response.
// It is safe for concurrent use.
type RateLimit struct{ remaining atomic.Int64 }

// NewRateLimit returns a RateLimit that knows nothing yet.
func NewRateLimit() *RateLimit {
	r := &RateLimit{}
	r.remaining.Store(-1)
	return r
}

// Remaining returns how many requests were left, and whether Fuuffy ever said.
func (r *RateLimit) Remaining() (n int64, known bool) {
	n = r.remaining.Load()
	return max(n, 0), n >= 0
}

func (r *RateLimit) note(header http.Header) {
	if n, err := strconv.ParseInt(header.Get("X-RateLimit-Remaining"), 10, 64); err == nil && n >= 0 {
		r.remaining.Store(n)
	}
}

// Grant is an access token as Fuuffy issued it.
type Grant struct {
	AccessToken string
	// ExpiresIn is the life of the token, counted from before the request.
	ExpiresIn time.Duration
	// AssumedExpiry is set if Fuuffy didn't say, so that DefaultTokenLife applies.
	AssumedExpiry bool
}

// RequestToken requests an access token with the client credentials grant (RFC 6749
// §4.4). Where the Budget is spent, it waits for its turn. If Fuuffy issues none, the error is
// an *Error. If ctx ends, it is ctx's own.
func (c *Client) RequestToken(ctx context.Context, clientID, clientSecret string) (Grant, error) {
	return c.request(ctx, clientID, clientSecret, maxAttempts, c.config.Budget.wait)
}

// TryToken is RequestToken for an operator, who sees the outcome and can repeat the command. It
// makes one attempt, so that an outage doesn't use up the Budget. It doesn't wait for a turn: if
// the Budget is spent, it fails immediately with an *Error that is OverBudget.
func (c *Client) TryToken(ctx context.Context, clientID, clientSecret string) (Grant, error) {
	return c.request(ctx, clientID, clientSecret, 1, c.config.Budget.take)
}

// request sends at most so many attempts, for as long as another may help. Before each, spend
// tells whether the budget allows it.
func (c *Client) request(ctx context.Context, clientID, clientSecret string, attempts int, spend func(context.Context) bool) (Grant, error) {
	limited, cancel := context.WithTimeout(ctx, maxRequestTime)
	defer cancel()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {clientSecret}}.Encode()
	redact := newRedactor(clientSecret)
	var failed *Error
	for attempt := 1; ; attempt++ {
		if !spend(limited) {
			if ctx.Err() != nil {
				return Grant{}, ctx.Err()
			}
			// What Fuuffy said last explains more than the budget.
			return Grant{}, cmp.Or(failed, c.config.Budget.exhausted(1))
		}
		var granted Grant
		granted, failed = c.attempt(limited, form, redact)
		if failed == nil {
			return granted, nil
		}
		last := attempt == attempts || !failed.worthRetrying()
		if !last {
			// A pause below Retry-After would ignore what Fuuffy asked for.
			wait(limited, max(jitter(attempt, c.config.Random()), failed.RetryAfter))
		}
		if ctx.Err() != nil {
			return Grant{}, ctx.Err()
		}
		if last || limited.Err() != nil {
			return Grant{}, failed
		}
	}
}

// attempt sends the request once. It uses the transport without an http.Client,
// which would parse the Location of a redirect before asking whether to follow it.
func (c *Client) attempt(ctx context.Context, form string, redact *redactor) (Grant, *Error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	var conn *silentConn
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { conn, _ = info.Conn.(*silentConn) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.tokenURL, strings.NewReader(form))
	if err != nil {
		return Grant{}, networkError("build the request", err, redact)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", c.config.UserAgent)

	resp, err := c.config.Transport.RoundTrip(req)
	if err != nil {
		c.stopConnecting()
		return Grant{}, networkError("", err, redact)
	}
	defer resp.Body.Close()
	c.config.RateLimit.note(resp.Header)
	if resp.StatusCode < 200 {
		// After 101 the body is the bare connection, which no context ends. No one reads it.
		return readResponse(resp, nil, c.config.Now(), redact)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		if resp.StatusCode < 300 {
			return Grant{}, networkError("read the response", err, redact)
		}
		// The status of an error says enough. A partial body explains nothing.
		body = nil
	}
	granted, failed := readResponse(resp, body, c.config.Now(), redact)
	if failed != nil && conn != nil && conn.wantsCertificate.Load() {
		failed.blameCertificate()
	}
	return granted, failed
}

// stopConnecting ends the dial that net/http continues after its request ended. It doesn't
// affect requests in progress.
func (c *Client) stopConnecting() {
	if transport, ok := c.config.Transport.(interface{ CloseIdleConnections() }); ok {
		transport.CloseIdleConnections()
	}
}

// jitter is the pause after an attempt: random up to an exponentially growing limit,
// so that engines that failed together don't return together.
func jitter(attempt int, random float64) time.Duration {
	limit := min(2*minPause<<attempt, maxPause)
	return minPause + time.Duration(random*float64(limit-minPause))
}

func wait(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
