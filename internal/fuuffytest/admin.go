// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// maxAdminRequest is in bytes.
const maxAdminRequest = 1 << 20

// AdminHandler serves the admin API of a sandbox: what a person does in the Fuuffy dashboard, and what goes wrong in
// the world. AdminUsage, which it also serves, describes it. It asks for no authentication: bind it to loopback only.
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

// calls are those of the admin API, besides GET / for AdminUsage.
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

// admin has a method for each call. Its errors are for the person who calls.
type admin struct {
	sandbox *Sandbox
}

var (
	errNotFound = errors.New("not found")

	clientExample   = `a client is {"client_id": "shop", "client_secret": "..."}; what is left out is generated`
	tokenExample    = `send {"token": "sk-..."}, or {"all": true} for all tokens`
	faultExample    = `a fault is {"on": "orders", "kind": "status", "status": 503, "times": 3} or {"kind": "delay", "delay": "2s"}; GET / explains all kinds`
	lifetimeExample = `send {"lifetime": "30s"}, at least 1s`
)

// credentials are what POST /clients takes and answers; the answer has status 201.
type credentials struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
}

// faultDocument is a Fault in JSON; the empty object stands for none.
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

// duration is written like "2s" in JSON.
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
		return nil, fmt.Errorf("revoke token: %w: it was never issued, has expired or was revoked before", errNotFound)
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
	// Fuuffy tells the lifetime in whole seconds.
	if time.Duration(given.Lifetime) < time.Second {
		return nil, fmt.Errorf("lifetime is %s: %s", time.Duration(given.Lifetime), lifetimeExample)
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

// decode reads one JSON object and refuses unknown fields, so that a typing error isn't taken for a default.
func decode(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("read JSON body: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("read JSON body: there is more after the object")
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

// AdminUsage describes the admin API by commands to copy.
const AdminUsage = `The admin API does what the Fuuffy dashboard does, and makes requests fail on demand.

  See what the sandbox was asked so far, and which clients it has:
    curl "$FUUFFY_ADMIN_URL/stats"
    curl "$FUUFFY_ADMIN_URL/clients"

  Create a client. Without a body, or with parts left out, credentials are generated; an id that exists gets the new secret:
    curl -X POST "$FUUFFY_ADMIN_URL/clients"
    curl -X POST "$FUUFFY_ADMIN_URL/clients" -d '{"client_id": "shop-2", "client_secret": "only-for-the-sandbox"}'

  Revoke a client; its tokens die with it:
    curl -X DELETE "$FUUFFY_ADMIN_URL/clients/shop-2"

  Kill one token, or all:
    curl -X POST "$FUUFFY_ADMIN_URL/tokens/revoke" -d '{"token": "sk-..."}'
    curl -X POST "$FUUFFY_ADMIN_URL/tokens/revoke" -d '{"all": true}'

  Set the life of the tokens issued from now on:
    curl -X PUT "$FUUFFY_ADMIN_URL/token-lifetime" -d '{"lifetime": "30s"}'

  Take back what a test did: no fault, counters at zero, the whole rate limit. Clients and tokens stay:
    curl -X POST "$FUUFFY_ADMIN_URL/reset"

  Make requests fail; see what is set and how many times it still hits; make them work again:
    curl -X PUT "$FUUFFY_ADMIN_URL/fault" -d '{"on": "orders", "kind": "status", "status": 429, "times": 1}'
    curl -X PUT "$FUUFFY_ADMIN_URL/fault" -d '{"kind": "status", "status": 503, "times": 3}'
    curl -X PUT "$FUUFFY_ADMIN_URL/fault" -d '{"kind": "status", "status": 401, "body":
      "{\"error\": {\"code\": \"401021\", \"code_reason\": \"invalid_client_id_or_client_secret\"}}"}'
    curl "$FUUFFY_ADMIN_URL/fault"
    curl -X DELETE "$FUUFFY_ADMIN_URL/fault"

  Kinds of fault, with the fields they take. All take "on" ("orders", or "token" for token requests, the default),
  "client_id" (only requests of this client), "after" (let so many requests pass first), "times" (left out: until
  DELETE /fault) and "header" ({"Retry-After": "5"}; an empty value removes a header):
    delay      "delay": "2s"     answer normally, but only then
    hang                         never answer
    status     "status", "body"  this status with Fuuffy's error for it, or with this body
    body       "body"            200 with this body
    garbage                      200 with an HTML page
    empty                        200 without a body
    truncated                    half of the JSON, as if it were all
    redirect                     307 to another host, or to the Location in "header"
    cut                          close the connection in the middle of the body
    refuse                       close the connection without a response
    drip       "delay": "100ms"  one byte of the body every so often
    expired_certificate          a certificate that expired yesterday   (these two hit every connection,
    wrong_host_certificate       a certificate for another name          orders as well as token requests)
`
