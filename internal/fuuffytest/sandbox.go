// SPDX-License-Identifier: MPL-2.0

// Package fuuffytest imitates the Fuuffy API. Use it to test and demonstrate the engine without a Fuuffy account.
//
// A Sandbox behaves like the API: tokens, orders, rate limits, and faults on demand. Use it as an http.Handler, behind
// real HTTPS (NewServer, Start), or in-process without sockets (Sandbox.RoundTripper). The last one also works in the
// virtual time of testing/synctest.
package fuuffytest

import (
	"cmp"
	"net/http"
	"sync"
	"time"
)

// Fuuffy's documented limits and token life. A zero Config selects them.
const (
	defaultTokenLifetime = time.Hour
	defaultPerMinute     = 100
	defaultPerHour       = 1000
)

const (
	tokenPath  = "/v1/auth/token"
	ordersPath = "/v1/orders"
	orderPath  = "/v1/order"
)

// methods has the only method that each endpoint accepts.
var methods = map[string]string{
	tokenPath:  http.MethodPost,
	ordersPath: http.MethodGet,
	orderPath:  http.MethodGet,
}

// Config sets how a Sandbox behaves. The zero value is Fuuffy as documented.
type Config struct {
	TokenLifetime    time.Duration    // 0: one hour
	MinTokenLifetime time.Duration    // the least that the admin API sets; 0: one second
	PerMinute        int              // requests a minute; 0: 100, negative: no limit
	PerHour          int              // requests an hour; 0: 1000, negative: no limit
	Now              func() time.Time // nil: time.Now
	Name             string           // with Start: the host name for other machines; empty: only this machine connects
}

// Stats counts what the sandbox has seen since New or the last Reset.
type Stats struct {
	TokenRequests   int    `json:"token_requests"`   // All requests to the token endpoint, whatever their outcome.
	TokensIssued    int    `json:"tokens_issued"`    // Including tokens whose response a fault then spoiled.
	TokenRejections int    `json:"token_rejections"` // Token requests with a bad form or bad credentials.
	OrderRequests   int    `json:"order_requests"`   // Requests for /orders and /order.
	OrderRejections int    `json:"order_rejections"` // Those of them without a live token.
	RateLimited     int    `json:"rate_limited"`     // Requests of any kind that exceeded the rate limit.
	FaultsHit       int    `json:"faults_hit"`       // Requests or handshakes that a fault hit.
	Held            int    `json:"held"`             // Token requests that Hold keeps waiting right now.
	LastUserAgent   string `json:"last_user_agent"`  // Of the last token request.
}

// Sandbox behaves like the Fuuffy API. It is an http.Handler and safe for concurrent use. It logs nothing, so it can't
// leak secrets or tokens to a log.
type Sandbox struct {
	now    func() time.Time
	config Config

	mu          sync.Mutex // guards all fields below
	lifetime    time.Duration
	repeat      bool // SetRepeat
	limits      []*window
	clients     map[string]*client
	tokens      map[string]token // by access token
	stats       Stats
	fault       Fault         // zero: none
	gate        chan struct{} // the release of Hold closes it; nil: token requests pass
	heldChanged chan struct{} // closed and replaced whenever stats.Held changes
}

// New returns a sandbox without clients.
func New(cfg Config) *Sandbox {
	s := &Sandbox{
		now:         cfg.Now,
		config:      cfg,
		clients:     map[string]*client{},
		tokens:      map[string]token{},
		heldChanged: make(chan struct{}),
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.Reset()
	return s
}

// Reset undoes what a test did: it clears the fault, sets the counters to zero, and restores the full rate limit and
// the configured token life, and repeats no tokens. Clients, tokens, and Hold stay as they are.
func (s *Sandbox) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lifetime, s.repeat = cmp.Or(s.config.TokenLifetime, defaultTokenLifetime), false
	s.limits = newLimits(s.config)
	s.fault = Fault{}
	s.stats = Stats{Held: s.stats.Held}
}

// Stats returns the current counters.
func (s *Sandbox) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// ServeHTTP answers POST /v1/auth/token, GET /v1/orders, and GET /v1/order?id=. Everything else gets an error in
// Fuuffy's envelope. As at Fuuffy, every request counts against the rate limits.
func (s *Sandbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	allowed := s.arrive(w.Header(), r)
	method, known := methods[r.URL.Path]
	switch {
	case !allowed:
		refuse(http.StatusTooManyRequests, standardError(http.StatusTooManyRequests)).send(w)
	case !known:
		refuse(http.StatusNotFound, standardError(http.StatusNotFound)).send(w)
	case r.Method != method:
		w.Header().Set("Allow", method)
		refuse(http.StatusMethodNotAllowed, standardError(http.StatusMethodNotAllowed)).send(w)
	case r.URL.Path == tokenPath:
		s.serveToken(w, r)
	default:
		s.serveOrders(w, r)
	}
}

// arrive counts a request, subtracts it from the rate limits, and writes their headers. It reports whether the limits
// allow the request.
func (s *Sandbox) arrive(header http.Header, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path {
	case tokenPath:
		s.stats.TokenRequests++
		s.stats.LastUserAgent = r.UserAgent()
	case ordersPath, orderPath:
		s.stats.OrderRequests++
	}
	allowed := takeRequest(s.limits, s.now(), header)
	if !allowed {
		s.stats.RateLimited++
	}
	return allowed
}
