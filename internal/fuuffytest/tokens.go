// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// maxTokenRequest limits a token request, in bytes. Real requests are far smaller.
const maxTokenRequest = 64 << 10

// client keeps only a hash of its secret. All hashes have the same length, so comparing them takes constant time.
type client struct {
	secretHash [sha256.Size]byte
	revoked    bool
	last       string // the access token that it got last
}

type token struct {
	clientID string
	expires  time.Time
}

// Client is what the sandbox shows of a client.
type Client struct {
	ID      string `json:"client_id"`
	Revoked bool   `json:"revoked"`
}

// RandomCredentials returns new credentials that no client has yet.
func RandomCredentials() (id, secret string) {
	return "sandbox-" + randomHex(8), "fs-" + randomHex(24)
}

// randomHex returns n random bytes as hexadecimal digits. crypto/rand.Read never fails.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// CreateClient adds a client, as the Fuuffy dashboard does. It replaces a client with the same ID, whose tokens live on.
func (s *Sandbox) CreateClient(id, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[id] = &client{secretHash: sha256.Sum256([]byte(secret))}
}

// Clients returns all clients, including revoked ones, in the order of their IDs.
func (s *Sandbox) Clients() []Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []Client{}
	for _, id := range slices.Sorted(maps.Keys(s.clients)) {
		list = append(list, Client{ID: id, Revoked: s.clients[id].revoked})
	}
	return list
}

// RevokeClient revokes a client, as the Fuuffy dashboard does, and kills its tokens. It returns false if there is no
// such client. You can revoke a client twice.
func (s *Sandbox) RevokeClient(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.clients[id]
	if !ok {
		return false
	}
	c.revoked = true
	maps.DeleteFunc(s.tokens, func(_ string, t token) bool { return t.clientID == id })
	return true
}

// RevokeToken kills one token. It returns false if the token wasn't alive.
func (s *Sandbox) RevokeToken(accessToken string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	alive := s.alive(accessToken)
	delete(s.tokens, accessToken)
	return alive
}

// RevokeTokens kills all tokens. It returns false if none was alive.
func (s *Sandbox) RevokeTokens() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	alive := false
	for accessToken := range s.tokens {
		alive = alive || s.alive(accessToken)
	}
	clear(s.tokens)
	return alive
}

// TokenAlive reports whether a request for orders could use the token.
func (s *Sandbox) TokenAlive(accessToken string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alive(accessToken)
}

func (s *Sandbox) alive(accessToken string) bool {
	t, ok := s.tokens[accessToken]
	return ok && s.now().Before(t.expires)
}

// SetTokenLifetime sets the life of tokens issued from now on. expires_in has its whole seconds.
func (s *Sandbox) SetTokenLifetime(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lifetime = d
}

// SetRepeat makes the sandbox an authorization server that caches its own tokens: it issues a client's last token again,
// for the rest of its life, while that lives.
func (s *Sandbox) SetRepeat(repeat bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repeat = repeat
}

// serveToken receives a token request, waits while Hold is on, and answers, or lets a fault answer.
func (s *Sandbox) serveToken(w http.ResponseWriter, r *http.Request) {
	// Read the body before any wait: only then does net/http notice that a client disconnects.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTokenRequest))
	if err != nil {
		invalidRequest("", "The request body could not be read").send(w)
		return
	}
	s.waitReleased(r.Context())
	normal := func() answer { return s.answerToken(r.Header.Get("Content-Type"), body) }
	form, _ := url.ParseQuery(string(body)) // Only for the client's ID. answerToken reports errors.
	s.takeFault(OnToken, form.Get("client_id")).serve(w, r, normal)
}

// answerToken issues a token, or refuses the request.
func (s *Sandbox) answerToken(contentType string, body []byte) answer {
	form, refusal := parseTokenRequest(contentType, body)
	s.mu.Lock()
	defer s.mu.Unlock()
	id := form.Get("client_id")
	if refusal == nil && !s.authenticates(id, form.Get("client_secret")) {
		wrong := refuse(http.StatusUnauthorized, errInvalidClient)
		refusal = &wrong
	}
	if refusal != nil {
		s.stats.TokenRejections++
		return *refusal
	}
	accessToken, lives := s.clients[id].last, s.lifetime
	if left := s.tokens[accessToken].expires.Sub(s.now()); s.repeat && left >= time.Second {
		lives = left
	} else {
		accessToken = "sk-" + randomHex(16)
		s.tokens[accessToken] = token{clientID: id, expires: s.now().Add(lives)}
		s.clients[id].last = accessToken
	}
	s.stats.TokensIssued++
	return succeed(struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"`
	}{accessToken, "Bearer", int64(lives / time.Second)})
}

// parseTokenRequest returns the form fields, or a refusal if they aren't those of the client credentials grant.
func parseTokenRequest(contentType string, body []byte) (url.Values, *answer) {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		refusal := invalidRequest("", "The request must be of type application/x-www-form-urlencoded")
		return nil, &refusal
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		refusal := invalidRequest("", "The request body is not a URL-encoded form")
		return nil, &refusal
	}
	for _, name := range []string{"grant_type", "client_id", "client_secret"} {
		if form.Get(name) == "" {
			refusal := missingField(name)
			return nil, &refusal
		}
	}
	if form.Get("grant_type") != "client_credentials" {
		refusal := invalidRequest("grant_type", "The 'grant_type' field must be 'client_credentials'")
		return nil, &refusal
	}
	return form, nil
}

// authenticates compares the secret even if the client is unknown or revoked, so that its timing reveals nothing.
func (s *Sandbox) authenticates(id, secret string) bool {
	c := cmp.Or(s.clients[id], &client{revoked: true})
	got := sha256.Sum256([]byte(secret))
	equal := subtle.ConstantTimeCompare(got[:], c.secretHash[:]) == 1
	return equal && !c.revoked
}
