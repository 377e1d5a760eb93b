// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// adminCall calls the admin API of s.
func adminCall(s *Sandbox, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	AdminHandler(s).ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

func wantAdmin(t *testing.T, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if got := strings.TrimSpace(w.Body.String()); w.Code != status || got != body {
		t.Errorf("got  %d %s\nwant %d %s", w.Code, got, status, body)
	}
}

func TestAdminClients(t *testing.T) {
	s, c := newInProcess(t, Config{})
	wantAdmin(t, adminCall(s, "POST", "/clients", `{"client_id":"a/b","client_secret":"x"}`), 201, `{"client_id":"a/b","client_secret":"x"}`)
	token := accessToken(t, c.postForm(tokenForm("a/b", "x")))

	wantAdmin(t, adminCall(s, "DELETE", "/clients/a%2Fb", ""), 200, `{"client_id":"a/b","revoked":true}`)
	wantAdmin(t, adminCall(s, "GET", "/clients", ""), 200,
		`{"clients":[{"client_id":"a/b","revoked":true},{"client_id":"shop","revoked":false}]}`)
	if s.TokenAlive(token) {
		t.Error("the revoked client's token lives")
	}
	wantAdmin(t, adminCall(s, "DELETE", "/clients/nobody", ""), 404,
		`{"error":"revoke client \"nobody\": not found: GET /clients lists them"}`)
	wantAdmin(t, adminCall(New(Config{}), "GET", "/clients", ""), 200, `{"clients":[]}`)
}

func TestAdminGeneratesCredentials(t *testing.T) {
	s, c := newInProcess(t, Config{})
	seen := map[string]bool{}
	for _, body := range []string{"", "{}", `{"client_id":"mine"}`} {
		w := adminCall(s, "POST", "/clients", body)
		var got credentials
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusCreated {
			t.Fatalf("got %d %s, error %v", w.Code, w.Body, err)
		}
		wantStatus(t, c.postForm(tokenForm(got.ClientID, got.ClientSecret)), http.StatusOK)
		if seen[got.ClientSecret] || len(got.ClientSecret) < 32 {
			t.Errorf("got secret %q, want a new, long one", got.ClientSecret)
		}
		seen[got.ClientSecret] = true
	}
	wantStatus(t, c.postForm(tokenForm("mine", "guess")), http.StatusUnauthorized)
}

func TestAdminRevokeToken(t *testing.T) {
	s, c := newInProcess(t, Config{})
	token := c.token()
	wantAdmin(t, adminCall(s, "POST", "/tokens/revoke", `{"token":"`+token+`"}`), 200, `{"revoked":true}`)
	wantStatus(t, c.orders(token), http.StatusUnauthorized)
	w := adminCall(s, "POST", "/tokens/revoke", `{"token":"`+token+`"}`)
	wantAdmin(t, w, 404, `{"error":"revoke token: not found: it is unknown, expired, or already revoked"}`)
}

func TestAdminRevokesAllTokens(t *testing.T) {
	s, c := newInProcess(t, Config{})
	tokens := []string{c.token(), c.token()}
	wantAdmin(t, adminCall(s, "POST", "/tokens/revoke", `{"all":true}`), 200, `{"revoked":true}`)
	for _, token := range tokens {
		wantStatus(t, c.orders(token), http.StatusUnauthorized)
	}
	wantAdmin(t, adminCall(s, "POST", "/tokens/revoke", `{"all":true}`), 404, `{"error":"revoke all tokens: not found: none is alive"}`)
	wantStatus(t, c.orders(c.token()), http.StatusOK)
}

// A fault can select the endpoint, the client, and the n-th request.
func TestAdminFaultOnOrders(t *testing.T) {
	s, c := newInProcess(t, Config{})
	s.CreateClient("other", "x")
	mine, others := c.token(), accessToken(t, c.postForm(tokenForm("other", "x")))
	const fault = `{"kind":"status","on":"orders","client_id":"shop","after":1,"times":1,"status":401}`
	wantAdmin(t, adminCall(s, "PUT", "/fault", fault), 200, fault)
	wantStatus(t, c.orders(mine), http.StatusOK)
	wantStatus(t, c.orders(others), http.StatusOK)
	c.token()
	r := c.orders(mine)
	if r.status != http.StatusUnauthorized || !strings.Contains(r.body, `"invalid_token"`) {
		t.Errorf("got %d %s, want the error for a dead token", r.status, r.body)
	}
	wantStatus(t, c.orders(mine), http.StatusOK)
	if hit := s.Stats().FaultsHit; hit != 1 {
		t.Errorf("got %d faults, want 1", hit)
	}

	s.SetFault(Fault{Kind: FaultStatus, Status: 503, ClientID: "other"})
	c.token()
	wantStatus(t, c.postForm(tokenForm("other", "x")), http.StatusServiceUnavailable)
}

func TestAdminReset(t *testing.T) {
	s, c := newInProcess(t, Config{PerHour: 3, TokenLifetime: time.Minute})
	token := c.token()
	s.SetFault(Fault{Kind: FaultHang})
	s.SetTokenLifetime(time.Second)
	wantStatus(t, c.orders("dead"), http.StatusUnauthorized)
	wantStatus(t, c.orders("dead"), http.StatusUnauthorized)
	wantStatus(t, c.orders("dead"), http.StatusTooManyRequests)
	w := adminCall(s, "POST", "/reset", "")
	if w.Code != 200 || s.Stats() != (Stats{}) {
		t.Errorf("got %d %s, want no counts", w.Code, w.Body)
	}
	wantStatus(t, c.orders(token), http.StatusOK)
	if r := c.requestToken(); !strings.Contains(r.body, `"expires_in":60`) {
		t.Errorf("got %d %s, want the first life", r.status, r.body)
	}
}

// docs/sandbox.md lists each call, field, and kind of fault, and no others.
func TestAdminReference(t *testing.T) {
	page, err := os.ReadFile("../../docs/sandbox.md")
	if err != nil {
		t.Fatal(err)
	}
	_, reference, _ := strings.Cut(string(page), "\n## Admin API\n")
	rows := func(heading string) []string {
		_, table, found := strings.Cut(reference, "| "+heading+" |")
		if !found {
			t.Fatalf("no table of %ss", heading)
		}
		table, _, _ = strings.Cut(table, "\n\n")
		var names []string
		for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(table, -1) {
			names = append(names, row[1])
		}
		return slices.Sorted(slices.Values(names))
	}
	calls := append(slices.Collect(maps.Keys(admin{}.calls())), "GET /")
	var fields []string
	for i := range reflect.TypeFor[faultDocument]().NumField() {
		name, _, _ := strings.Cut(reflect.TypeFor[faultDocument]().Field(i).Tag.Get("json"), ",")
		fields = append(fields, name)
	}
	for heading, want := range map[string][]string{"call": calls, "field": fields, "kind": slices.Clone(faultKinds)} {
		slices.Sort(want)
		if got := rows(heading); !slices.Equal(got, want) {
			t.Errorf("%s: docs/sandbox.md has %v, the code %v", heading, got, want)
		}
	}
}

func TestAdminFault(t *testing.T) {
	s, c := newInProcess(t, Config{})
	wantAdmin(t, adminCall(s, "GET", "/fault", ""), 200, `{}`)
	const fault = `{"kind":"status","on":"token","client_id":"shop","times":2,"status":503,"body":"down","header":{"Retry-After":"5"}}`
	wantAdmin(t, adminCall(s, "PUT", "/fault", fault), 200, fault)
	r := c.requestToken()
	if r.status != 503 || r.body != "down" || r.header.Get("Retry-After") != "5" {
		t.Errorf("got %d %q, header %v", r.status, r.body, r.header)
	}
	wantAdmin(t, adminCall(s, "GET", "/fault", ""), 200, strings.Replace(fault, `"times":2`, `"times":1`, 1))
	wantAdmin(t, adminCall(s, "DELETE", "/fault", ""), 200, `{}`)
	wantStatus(t, c.requestToken(), http.StatusOK)

	wantAdmin(t, adminCall(s, "PUT", "/fault", `{"kind":"delay","delay":"1m30s"}`), 200, `{"kind":"delay","delay":"1m30s"}`)
	if got := s.Fault(); got.Delay != 90*time.Second {
		t.Errorf("got delay %s, want 1m30s", got.Delay)
	}
	for _, kind := range faultKinds {
		if !strings.Contains(AdminUsage, "\n    "+kind+" ") {
			t.Errorf("the usage doesn't explain the kind %s", kind)
		}
	}
}

func TestAdminTokenLifetime(t *testing.T) {
	s, c := newInProcess(t, Config{})
	wantAdmin(t, adminCall(s, "PUT", "/token-lifetime", `{"lifetime":"30s"}`), 200, `{"lifetime":"30s"}`)
	if r := c.requestToken(); !strings.Contains(r.body, `"expires_in":30`) {
		t.Errorf("got %s, want a life of 30 s", r.body)
	}
}

func TestAdminStats(t *testing.T) {
	s, c := newInProcess(t, Config{})
	c.token()
	wantAdmin(t, adminCall(s, "GET", "/stats", ""), 200, `{"token_requests":1,"tokens_issued":1,"token_rejections":0,`+
		`"order_requests":0,"order_rejections":0,"rate_limited":0,"faults_hit":0,"held":0,"last_user_agent":"Go-http-client/1.1"}`)
}

func TestAdminUsagePage(t *testing.T) {
	w := adminCall(New(Config{}), "GET", "/", "")
	if w.Code != 200 || w.Body.String() != AdminUsage || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Errorf("got %d %s %q", w.Code, w.Header(), w.Body)
	}
}

func TestAdminRefusesBadInput(t *testing.T) {
	for name, test := range map[string]struct {
		method, path, body string
		status             int
		want               string
	}{
		"unknown path":      {"GET", "/nothing", "", 404, "GET /nothing: not found: GET / lists all calls"},
		"wrong method":      {"POST", "/stats", "", 404, "POST /stats: not found: GET / lists all calls"},
		"unknown kind":      {"PUT", "/fault", `{"kind":"explode"}`, 400, `unknown kind "explode": use one of ` + strings.Join(faultKinds, ", ")},
		"unknown field":     {"PUT", "/fault", `{"kind":"hang","tmies":1}`, 400, `unknown field "tmies": send {"on"`},
		"bad JSON":          {"PUT", "/fault", `{"kind":`, 400, `read JSON body: unexpected EOF: send {"on"`},
		"unknown on":        {"PUT", "/fault", `{"kind":"hang","on":"admin"}`, 400, `unknown on "admin": use token or orders`},
		"on, handshake":     {"PUT", "/fault", `{"kind":"expired_certificate","on":"orders"}`, 400, "expired_certificate hits all connections"},
		"client, handshake": {"PUT", "/fault", `{"kind":"wrong_host_certificate","client_id":"shop"}`, 400, "wrong_host_certificate hits all connections"},
		"negative after":    {"PUT", "/fault", `{"kind":"hang","after":-1}`, 400, "after is -1"},
		"no token":          {"POST", "/tokens/revoke", `{}`, 400, `send {"token": "sk-..."}`},
		"token and all":     {"POST", "/tokens/revoke", `{"token":"sk-1","all":true}`, 400, `send {"token": "sk-..."}`},
		"no JSON":           {"PUT", "/fault", "", 400, `read JSON body: EOF: send {"on"`},
		"more JSON":         {"PUT", "/fault", `{"kind":"hang"} {}`, 400, "unexpected data after the object"},
		"bad duration":      {"PUT", "/fault", `{"kind":"delay","delay":"2"}`, 400, `missing unit in duration "2": send {"on"`},
		"fault, bad value":  {"PUT", "/fault", `{"kind":"status","status":99}`, 400, "status is 99: use an HTTP status"},
		"lifetime, field":   {"PUT", "/token-lifetime", `{"life":"1s"}`, 400, `unknown field "life": send {"lifetime": "30s"}`},
		"short lifetime":    {"PUT", "/token-lifetime", `{"lifetime":"1ms"}`, 400, `lifetime is 1ms: send {"lifetime": "30s"}, at least 1s`},
		"client, field":     {"POST", "/clients", `{"id":"a"}`, 400, `unknown field "id": send {"client_id"`},
		"client, bad JSON":  {"POST", "/clients", `{`, 400, `read JSON body: unexpected EOF: send {"client_id"`},
		"token, field":      {"POST", "/tokens/revoke", `{"tokens":""}`, 400, `unknown field "tokens": send {"token": "sk-..."}`},
		"too large":         {"PUT", "/fault", `{"body":"` + strings.Repeat("x", maxAdminRequest) + `"}`, 400, "request body too large"},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(Config{})
			w := adminCall(s, test.method, test.path, test.body)
			var got struct {
				Error string `json:"error"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != test.status || !strings.Contains(got.Error, test.want) {
				t.Errorf("got %d %s, want %d and %q, error %v", w.Code, w.Body, test.status, test.want, err)
			}
			if s.Fault().Kind != "" || len(s.Clients()) != 0 || s.lifetime != time.Hour {
				t.Error("a refused call changed the sandbox")
			}
		})
	}
}
