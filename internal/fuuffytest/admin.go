// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// maxAdminRequest limits a request to the admin API, in bytes.
const maxAdminRequest = 1 << 20

// AdminHandler serves the admin API of a sandbox: what people do in the Fuuffy dashboard, and faults. It also serves
// AdminUsage, which describes the API. It doesn't authenticate anyone, so bind it to loopback only, and wrap it with
// Config.RefuseBrowsers.
func AdminHandler(s *Sandbox) http.Handler {
	a := admin{s}
	mux := http.NewServeMux()
	calls := a.calls()
	calls["/"] = a.unknown
	for pattern, call := range calls {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxAdminRequest)
			result, err := call(r)
			respond(w, result, err)
		})
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, AdminUsage)
	})
	return mux
}

// RefuseBrowsers serves next, but not what a web page sends. A browser on this machine connects to loopback addresses for
// any site that it shows, and the admin API has no password. So a page could otherwise revoke tokens, or read them.
func (c Config) RefuseBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
		var problem string
		switch {
		case !c.isHost(r.Host):
			problem = "the Host header isn't this sandbox: use the address that it prints, or start it with -name"
		case origin != "" && origin != "http://"+r.Host, site != "" && site != "same-origin" && site != "none":
			problem = "the request is from a web page: use another client, such as curl"
		default:
			next.ServeHTTP(w, r)
			return
		}
		answer{status: http.StatusForbidden, body: append(encode(map[string]string{"error": problem}), '\n')}.send(w)
	})
}

// isHost tells whether a Host header can be that of a client of the sandbox. A site can have its own name lead to this
// machine (DNS rebinding), and its pages are then of the same origin. It can't have an address for a name.
func (c Config) isHost(header string) bool {
	host, _, err := net.SplitHostPort(header)
	if err != nil {
		host = strings.Trim(header, "[]") // There is no port.
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback() || c.Name != ""
	}
	return strings.EqualFold(host, "localhost") || c.Name != "" && strings.EqualFold(host, c.Name)
}

// calls returns the admin API's calls, except GET / for AdminUsage.
func (a admin) calls() map[string]func(*http.Request) (any, error) {
	return map[string]func(*http.Request) (any, error){
		"GET /stats":           a.stats,
		"GET /clients":         a.listClients,
		"POST /clients":        a.createClient,
		"DELETE /clients/{id}": a.revokeClient,
		"POST /tokens/revoke":  a.revokeToken,
		"GET /fault":           a.readFault,
		"PUT /fault":           a.setFault,
		"DELETE /fault":        a.clearFault,
		"PUT /token-lifetime":  a.setTokenLifetime,
		"POST /reset":          a.reset,
	}
}

// admin has a method for each call. The caller reads its errors.
type admin struct {
	sandbox *Sandbox
}

var (
	errNotFound = errors.New("not found")

	clientExample   = `send {"client_id": "shop", "client_secret": "..."}; the sandbox generates what you leave out`
	tokenExample    = `send {"token": "sk-..."}, or {"all": true} for all tokens`
	faultExample    = `send {"on": "orders", "kind": "status", "status": 503, "times": 3} or {"kind": "delay", "delay": "2s"}; GET / explains all kinds`
	lifetimeExample = `send {"lifetime": "30s"}`
)

// credentials are the body of POST /clients, and of its response, which has status 201.
type credentials struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
}

// faultDocument is a Fault in JSON. The empty object means that there is none.
type faultDocument struct {
	Kind     string            `json:"kind,omitempty"`
	On       string            `json:"on,omitempty"`
	ClientID string            `json:"client_id,omitempty"`
	After    int               `json:"after,omitempty"`
	Times    int               `json:"times,omitempty"`
	Status   int               `json:"status,omitempty"`
	Body     string            `json:"body,omitempty"`
	Header   map[string]string `json:"header,omitempty"`
	Delay    duration          `json:"delay,omitempty"`
}

type lifetimeDocument struct {
	Lifetime duration `json:"lifetime"`
}

// duration is a string such as "2s" in JSON.
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = duration(parsed)
	return err
}

func (a admin) stats(*http.Request) (any, error) { return a.sandbox.Stats(), nil }

func (a admin) listClients(*http.Request) (any, error) {
	return map[string][]Client{"clients": a.sandbox.Clients()}, nil
}

func (a admin) createClient(r *http.Request) (any, error) {
	var given credentials
	if err := decode(r, &given); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %s", err, clientExample)
	}
	id, secret := RandomCredentials()
	c := credentials{cmp.Or(given.ClientID, id), cmp.Or(given.ClientSecret, secret)}
	a.sandbox.CreateClient(c.ClientID, c.ClientSecret)
	return c, nil
}

func (a admin) revokeClient(r *http.Request) (any, error) {
	id := r.PathValue("id")
	if !a.sandbox.RevokeClient(id) {
		return nil, fmt.Errorf("revoke client %q: %w: GET /clients lists them", id, errNotFound)
	}
	return Client{ID: id, Revoked: true}, nil
}

func (a admin) revokeToken(r *http.Request) (any, error) {
	var given struct {
		Token string `json:"token"`
		All   bool   `json:"all"`
	}
	if err := decode(r, &given); err != nil {
		return nil, fmt.Errorf("%w: %s", err, tokenExample)
	}
	switch {
	case (given.Token != "") == given.All:
		return nil, errors.New(tokenExample)
	case given.All && !a.sandbox.RevokeTokens():
		return nil, fmt.Errorf("revoke all tokens: %w: none is alive", errNotFound)
	case !given.All && !a.sandbox.RevokeToken(given.Token):
		return nil, fmt.Errorf("revoke token: %w: it is unknown, expired, or already revoked", errNotFound)
	}
	return map[string]bool{"revoked": true}, nil
}

func (a admin) readFault(*http.Request) (any, error) {
	f := a.sandbox.Fault()
	return faultDocument{f.Kind, f.On, f.ClientID, f.After, f.Times, f.Status, f.Body, f.Header, duration(f.Delay)}, nil
}

func (a admin) setFault(r *http.Request) (any, error) {
	var given faultDocument
	if err := decode(r, &given); err != nil {
		return nil, fmt.Errorf("%w: %s", err, faultExample)
	}
	f := Fault{
		Kind: given.Kind, On: given.On, ClientID: given.ClientID, After: given.After, Times: given.Times,
		Status: given.Status, Body: given.Body, Header: given.Header, Delay: time.Duration(given.Delay),
	}
	if err := f.validate(); err != nil {
		return nil, err
	}
	a.sandbox.SetFault(f)
	return given, nil
}

func (a admin) clearFault(*http.Request) (any, error) {
	a.sandbox.ClearFault()
	return faultDocument{}, nil
}

func (a admin) setTokenLifetime(r *http.Request) (any, error) {
	var given lifetimeDocument
	if err := decode(r, &given); err != nil {
		return nil, fmt.Errorf("%w: %s", err, lifetimeExample)
	}
	// Fuuffy returns the lifetime in whole seconds.
	if least := cmp.Or(a.sandbox.config.MinTokenLifetime, time.Second); time.Duration(given.Lifetime) < least {
		return nil, fmt.Errorf("lifetime is %s: %s, at least %s", time.Duration(given.Lifetime), lifetimeExample, least)
	}
	a.sandbox.SetTokenLifetime(time.Duration(given.Lifetime))
	return given, nil
}

func (a admin) reset(*http.Request) (any, error) {
	a.sandbox.Reset()
	return a.sandbox.Stats(), nil
}

func (a admin) unknown(r *http.Request) (any, error) {
	return nil, fmt.Errorf("%s %s: %w: GET / lists all calls", r.Method, r.URL.Path, errNotFound)
}

// decode reads one JSON object. It refuses unknown fields, so that a typo doesn't silently select a default.
func decode(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("read JSON body: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("read JSON body: unexpected data after the object")
	}
	return nil
}

func respond(w http.ResponseWriter, result any, err error) {
	status := http.StatusOK
	if _, ok := result.(credentials); ok {
		status = http.StatusCreated
	}
	if err != nil {
		status, result = http.StatusBadRequest, map[string]string{"error": err.Error()}
	}
	if errors.Is(err, errNotFound) {
		status = http.StatusNotFound
	}
	answer{status: status, body: append(encode(result), '\n')}.send(w)
}

// AdminUsage describes the admin API with commands to copy.
const AdminUsage = `The admin API does what the Fuuffy dashboard does, and makes requests fail on demand.

  See the requests so far, and the clients:
    curl "$FUUFFY_ADMIN_URL/stats"
    curl "$FUUFFY_ADMIN_URL/clients"

  Create a client. The sandbox generates what you leave out. An existing id gets the new secret:
    curl -X POST "$FUUFFY_ADMIN_URL/clients"
    curl -X POST "$FUUFFY_ADMIN_URL/clients" -d '{"client_id": "shop-2", "client_secret": "only-for-the-sandbox"}'

  Revoke a client. Its tokens die too:
    curl -X DELETE "$FUUFFY_ADMIN_URL/clients/shop-2"

  Kill one token, or all:
    curl -X POST "$FUUFFY_ADMIN_URL/tokens/revoke" -d '{"token": "sk-..."}'
    curl -X POST "$FUUFFY_ADMIN_URL/tokens/revoke" -d '{"all": true}'

  Set the life of tokens issued from now on:
    curl -X PUT "$FUUFFY_ADMIN_URL/token-lifetime" -d '{"lifetime": "30s"}'

  Reset between tests: no fault, counters at zero, the full rate limit. Clients and tokens stay:
    curl -X POST "$FUUFFY_ADMIN_URL/reset"

  Make requests fail, see the current fault and how often it still hits, and clear it:
    curl -X PUT "$FUUFFY_ADMIN_URL/fault" -d '{"on": "orders", "kind": "status", "status": 429, "times": 1}'
    curl -X PUT "$FUUFFY_ADMIN_URL/fault" -d '{"kind": "status", "status": 503, "times": 3}'
    curl -X PUT "$FUUFFY_ADMIN_URL/fault" -d '{"kind": "status", "status": 401, "body":
      "{\"error\": {\"code\": \"401021\", \"code_reason\": \"invalid_client_id_or_client_secret\"}}"}'
    curl "$FUUFFY_ADMIN_URL/fault"
    curl -X DELETE "$FUUFFY_ADMIN_URL/fault"

  The kinds of fault, and their fields. All accept "on" ("orders", or "token" (the default) for token requests),
  "client_id" (only this client's requests), "after" (how many requests pass first), "times" (without it: until
  DELETE /fault), and "header" ({"Retry-After": "5"}; an empty value removes a header):
    delay      "delay": "2s"     answer normally, after this time
    hang                         never answer
    status     "status", "body"  this status, with Fuuffy's error for it or with this body
    body       "body"            200 with this body
    garbage                      200 with an HTML page
    empty                        200 without a body
    truncated                    half of the JSON, as if it were the whole
    redirect                     307 to another host, or to the Location in "header"
    cut                          close the connection in the middle of the body
    refuse                       close the connection without a response
    drip       "delay": "100ms"  one byte of the body after each delay
    expired_certificate          a certificate that expired yesterday   (these two hit every connection,
    wrong_host_certificate       a certificate for another name          orders as well as token requests)
`
