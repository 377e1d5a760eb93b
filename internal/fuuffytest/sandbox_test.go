// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTokenFlow(t *testing.T) {
	s, c := newInProcess(t, Config{})

	r := c.post("application/x-www-form-urlencoded; charset=utf-8", tokenForm(testID, testSecret).Encode())
	token := accessToken(t, r)
	if want := `{"data":{"access_token":"` + token + `","token_type":"Bearer","expires_in":3600}}`; r.body != want {
		t.Errorf("got body %s, want %s", r.body, want)
	}
	if !regexp.MustCompile(`^sk-[0-9a-f]{32}$`).MatchString(token) {
		t.Errorf("token %q is not as Fuuffy's", token)
	}
	if !s.TokenAlive(token) || s.TokenAlive("sk-other") {
		t.Error("the issued token and no other must be alive")
	}
	if again := c.token(); again == token {
		t.Error("two requests got the same token")
	}

	r = c.orders(token)
	wantStatus(t, r, http.StatusOK)
	if !strings.HasPrefix(r.body, `{"data":{"orders":[{"id":"FF-100231"`) {
		t.Errorf("got orders %s", r.body)
	}
	r = c.get("/order?id=FF-100232", "bearer "+token)
	wantStatus(t, r, http.StatusOK)
	if !strings.HasPrefix(r.body, `{"data":{"order":{"id":"FF-100232"`) {
		t.Errorf("got order %s", r.body)
	}

	want := Stats{TokenRequests: 2, TokensIssued: 2, OrderRequests: 2, LastUserAgent: "Go-http-client/1.1"}
	if got := s.Stats(); got != want {
		t.Errorf("got stats %+v, want %+v", got, want)
	}
}

const (
	invalidClientBody = `{"error":{"code":"invalid_client","message":"Client authentication failed","details":"Invalid client credentials provided"}}`
	invalidTokenBody  = `{"error":{"code":"invalid_token","message":"The access token is invalid or expired","details":"Please request a new access token"}}`
	notFoundBody      = `{"error":{"code":"not_found","message":"The requested resource was not found"}}`
	notFormBody       = `{"error":{"code":"invalid_request","message":"The request must be of type application/x-www-form-urlencoded"}}`
)

func TestTokenRejections(t *testing.T) {
	const form = "application/x-www-form-urlencoded"
	for name, test := range map[string]struct {
		contentType, body string
		status            int
		want              string
	}{
		"wrong secret":   {form, tokenForm(testID, "wrong").Encode(), 401, invalidClientBody},
		"unknown client": {form, tokenForm("nobody", testSecret).Encode(), 401, invalidClientBody},
		"revoked client": {form, tokenForm("revoked", testSecret).Encode(), 401, invalidClientBody},
		"not URL-encoded": {form, "grant_type=client_credentials&client_id=shop&client_secret=" + testSecret, 401,
			invalidClientBody},
		"broken escape": {form, "grant_type=%zz", 400,
			`{"error":{"code":"invalid_request","message":"The request body is not a URL-encoded form"}}`},
		"other grant": {form, "grant_type=password&client_id=a&client_secret=b", 400,
			`{"error":{"code":"invalid_request","message":"The 'grant_type' field must be 'client_credentials'","field":"grant_type"}}`},
		"no grant": {form, "client_id=a&client_secret=b", 400,
			`{"error":{"code":"invalid_request","message":"The 'grant_type' field is required","field":"grant_type"}}`},
		"no id": {form, "grant_type=client_credentials&client_secret=b", 400,
			`{"error":{"code":"invalid_request","message":"The 'client_id' field is required","field":"client_id"}}`},
		"no secret": {form, "grant_type=client_credentials&client_id=a", 400,
			`{"error":{"code":"invalid_request","message":"The 'client_secret' field is required","field":"client_secret"}}`},
		"JSON":    {"application/json", `{"grant_type":"client_credentials"}`, 400, notFormBody},
		"no type": {"", tokenForm(testID, testSecret).Encode(), 400, notFormBody},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := newInProcess(t, Config{})
			s.CreateClient("revoked", testSecret)
			s.RevokeClient("revoked")
			r := c.post(test.contentType, test.body)
			wantStatus(t, r, test.status)
			if r.body != test.want {
				t.Errorf("got  %s\nwant %s", r.body, test.want)
			}
			if got := s.Stats(); got.TokenRequests != 1 || got.TokenRejections != 1 || got.TokensIssued != 0 {
				t.Errorf("got stats %+v, want one rejection", got)
			}
		})
	}
}

func TestTokenRequestTooLarge(t *testing.T) {
	s, c := newInProcess(t, Config{})
	wantStatus(t, c.post("application/x-www-form-urlencoded", strings.Repeat("a", maxTokenRequest+1)), 400)
	if s.Stats().TokensIssued != 0 {
		t.Error("a token was issued")
	}
}

func TestOrderErrors(t *testing.T) {
	for name, test := range map[string]struct {
		method, path, authorization string // TOKEN stands for a live one
		status                      int
		want                        string
	}{
		"unknown token": {"GET", "/orders", "Bearer sk-0", 401, invalidTokenBody},
		"no token":      {"GET", "/orders", "", 401, invalidTokenBody},
		"other scheme":  {"GET", "/orders", "Basic TOKEN", 401, invalidTokenBody},
		"order, no token": {"GET", "/order?id=FF-100231", "", 401,
			invalidTokenBody},
		"order, no id": {"GET", "/order", "Bearer TOKEN", 400,
			`{"error":{"code":"invalid_request","message":"The 'id' field is required","field":"id"}}`},
		"unknown order": {"GET", "/order?id=x", "Bearer TOKEN", 404, notFoundBody},
		"unknown path":  {"GET", "/shipments", "Bearer TOKEN", 404, notFoundBody},
		"wrong method": {"POST", "/orders", "Bearer TOKEN", 405,
			`{"error":{"code":"method_not_allowed","message":"Method Not Allowed"}}`},
		"wrong method for a token": {"GET", "/auth/token", "", 405,
			`{"error":{"code":"method_not_allowed","message":"Method Not Allowed"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := newInProcess(t, Config{})
			req := c.request(test.method, test.path, "application/json", "")
			req.Header.Set("Authorization", strings.ReplaceAll(test.authorization, "TOKEN", c.token()))
			r := c.do(req)
			wantStatus(t, r, test.status)
			if r.body != test.want {
				t.Errorf("got  %s\nwant %s", r.body, test.want)
			}
			if test.status == 405 && r.header.Get("Allow") == "" {
				t.Error("405 must name the method that is allowed")
			}
		})
	}
}

func TestRevokedClientLosesItsTokens(t *testing.T) {
	s, c := newInProcess(t, Config{})
	token := c.token()
	s.CreateClient("other", testSecret)
	other := accessToken(t, c.postForm(tokenForm("other", testSecret)))

	if !s.RevokeClient(testID) || s.RevokeClient("nobody") {
		t.Error("RevokeClient must say whether there is such a client")
	}
	if r := c.orders(token); r.status != http.StatusUnauthorized || r.body != invalidTokenBody {
		t.Errorf("orders with a revoked client's token: got %d %s", r.status, r.body)
	}
	wantStatus(t, c.requestToken(), http.StatusUnauthorized)
	wantStatus(t, c.orders(other), http.StatusOK)
	if got := s.Stats(); got.OrderRejections != 1 {
		t.Errorf("got %d rejected orders, want 1", got.OrderRejections)
	}

	s.CreateClient(testID, "renewed")
	wantStatus(t, c.requestToken(), http.StatusUnauthorized)
	wantStatus(t, c.postForm(tokenForm(testID, "renewed")), http.StatusOK)
}

func TestRevokeToken(t *testing.T) {
	s, c := newInProcess(t, Config{})
	token, other := c.token(), c.token()
	if !s.RevokeToken(token) || s.RevokeToken(token) {
		t.Error("RevokeToken must report the one time that it kills the token")
	}
	wantStatus(t, c.orders(token), http.StatusUnauthorized)
	wantStatus(t, c.orders(other), http.StatusOK)
}

func TestTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newInProcess(t, Config{TokenLifetime: 90 * time.Second})
		token := c.token()
		s.SetTokenLifetime(30 * time.Second)
		shorter := c.requestToken()
		if !strings.Contains(shorter.body, `"expires_in":30`) {
			t.Errorf("got %s, want a life of 30 s", shorter.body)
		}

		time.Sleep(30 * time.Second)
		wantStatus(t, c.orders(accessToken(t, shorter)), http.StatusUnauthorized)
		time.Sleep(time.Minute - time.Nanosecond)
		wantStatus(t, c.orders(token), http.StatusOK)
		time.Sleep(time.Nanosecond)
		wantStatus(t, c.orders(token), http.StatusUnauthorized)
		if s.RevokeToken(token) {
			t.Error("an expired token was alive")
		}
	})
}

func TestInjectedClock(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s, c := newInProcess(t, Config{Now: func() time.Time { return now }})
	r := c.requestToken()
	token := accessToken(t, r)
	if got := r.header.Get("X-RateLimit-Reset"); got != "1800000060" {
		t.Errorf("got reset %s, want a minute after the injected time", got)
	}
	now = now.Add(time.Hour)
	if s.TokenAlive(token) {
		t.Error("the token must expire by the injected clock")
	}
}

func TestRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newInProcess(t, Config{TokenLifetime: time.Minute})
		s.SetRepeat(true)
		first := c.token()
		time.Sleep(20 * time.Second)
		if r := c.requestToken(); accessToken(t, r) != first || !strings.Contains(r.body, `"expires_in":40}`) {
			t.Error("the sandbox must repeat the token, for the 40 seconds that it lives")
		}
		s.RevokeToken(first)
		second := c.token()
		if second == first {
			t.Error("a dead token must not be repeated")
		}
		time.Sleep(time.Minute)
		if third := c.token(); third == second {
			t.Error("an expired token must not be repeated")
		}
		s.SetRepeat(false)
		if fourth := c.token(); fourth == c.token() {
			t.Error("two requests got the same token")
		}
	})
}
