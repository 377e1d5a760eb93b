// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"strings"
	"sync/atomic"
	"time"
)

// The timeline of one token, with Fuuffy's hour and the default policy:
//
//	0            50 min             55 min           60 min
//	|   fresh    |  refresh window  |    buffer      | expired
//	|  served    |  served, and one | not served     |
//	|            |  background      | (readers wait  |
//	|            |  refresh runs    |  for one new)  |
//
// A short-lived token shrinks both windows: the buffer takes at most half of its
// life, the refresh window at most a quarter of what is left.
type tokenState int

const (
	fresh tokenState = iota
	inWindow
	inBuffer
	expired
)

func (s tokenState) String() string {
	return [...]string{"fresh", "refreshing", "buffer", "expired"}[s]
}

const (
	// maxTokenLength is more than any gateway lets through in a header.
	maxTokenLength = 16 << 10
	// maxClockSkew is how far in the future a stored token may have been issued:
	// the clocks of two Vault nodes differ a little.
	maxClockSkew = time.Minute
	// periodicInterval is how often Vault calls a backend's PeriodicFunc.
	periodicInterval = time.Minute
	// refreshMargin is what a refresh opened by PeriodicFunc may take on top.
	refreshMargin = 15 * time.Second
	// minReplaceAge is how old a token must be to be replaced because of a 401, so
	// that an app in a loop can't use up the rate limit.
	minReplaceAge = 30 * time.Second
	// maxTTLFloor is how soon, at the earliest, a reader is asked to come back
	// while a refresh is failing.
	maxTTLFloor = 15 * time.Second
	// maxSecondLook is how long before its end a short-lived token sends its readers
	// back, so that one who finds no newer token has time for a second look.
	maxSecondLook = 2 * time.Second
	// rotatedTTL is how soon, at the latest, a reader comes back for a token of
	// the new credentials.
	rotatedTTL = time.Minute
)

// instant is one moment on both clocks. The wall clock can be set; the monotonic
// one may stand still while the machine sleeps. Age is what either says, at most.
type instant struct {
	wall time.Time
	mono time.Duration
}

// processStart is the origin of this process's monotonic clock.
var processStart = time.Now()

func systemClock() instant {
	now := time.Now()
	return instant{wall: now.Round(0), mono: now.Sub(processStart)}
}

// accessToken is a token with what is known about it. It is immutable, and the
// form in which tokens are stored.
type accessToken struct {
	Value string `json:"access_token"`
	// IssuedAt is from before the request was sent, so that a slow answer makes
	// the token seem older, never younger.
	IssuedAt  time.Time `json:"issued_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// CredentialsID names the credentials that it was granted to.
	CredentialsID string `json:"credentials_id"`
	Environment   string `json:"environment"`
}

func (t *accessToken) life() time.Duration { return t.ExpiresAt.Sub(t.IssuedAt) }

// tokenProblem says what keeps a string from being a bearer token (RFC 6750
// §2.1, b64token), without repeating it; empty if nothing does.
func tokenProblem(token string) string {
	switch {
	case token == "":
		return "is empty"
	case len(token) > maxTokenLength:
		return "is longer than 16 KiB"
	}
	body := strings.TrimRight(token, "=")
	if body == "" || strings.ContainsFunc(body, func(r rune) bool { return !isTokenCharacter(r) }) {
		return "has characters that no bearer token has (RFC 6750)"
	}
	return ""
}

func isTokenCharacter(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._~+/", r)
}

// policy is what the operator decides about serving tokens.
type policy struct {
	// buffer is the life a token must have left to be valid.
	buffer time.Duration
	// window is how long before the buffer a replacement is fetched.
	window time.Duration
	// staleIfError serves a token inside its buffer when Fuuffy gives no other.
	staleIfError bool
}

// heldToken is a token in this node's memory. Everything but used is immutable.
type heldToken struct {
	accessToken
	// issuedMono is IssuedAt on this process's monotonic clock.
	issuedMono time.Duration
	// Ages of the token: when its refresh window opens, by when PeriodicFunc has
	// certainly replaced it, and when it is no longer served.
	windowOpens, replaced, servedUntil time.Duration
	// secondLook is the time for a reader that finds the old token when it comes
	// back, and so must come again.
	secondLook time.Duration
	// answer is what every reader of this token gets but for ttl, made once.
	answer map[string]any
	// superseded is set when the credentials were rotated: served, but a
	// replacement is due at once.
	superseded bool
	// used is set by the first read. A token nobody reads is left to lapse.
	used atomic.Bool
}

// hold places a token on the node's clocks and in the policy. random, in [0, 1),
// opens the window up to a tenth early, so that mounts do not refresh in step.
func hold(t accessToken, p policy, now instant, random float64) *heldToken {
	life := t.life()
	buffer := min(p.buffer, life/2)
	servedUntil := life - buffer
	window := min(p.window, servedUntil/4)
	opens := servedUntil - window

	// PeriodicFunc is too coarse for a short window. Its readers refresh it, so
	// they are asked to come back all over it.
	replaced, secondLook := opens, min(maxSecondLook, window/2)
	if window >= 2*(periodicInterval+refreshMargin) {
		replaced, secondLook = opens+periodicInterval+refreshMargin, 0
	}
	return &heldToken{
		accessToken: t,
		issuedMono:  now.mono - max(0, now.wall.Sub(t.IssuedAt)),
		windowOpens: opens - time.Duration(random*float64(window)/10),
		replaced:    replaced,
		servedUntil: servedUntil,
		secondLook:  secondLook,
		answer: map[string]any{
			"access_token":        t.Value,
			"token_type":          "Bearer",
			"expires_at":          timestamp(t.ExpiresAt),
			"last_vault_rotation": timestamp(t.IssuedAt),
			"rotation_period":     int64(servedUntil / time.Second),
			"environment":         t.Environment,
		},
	}
}

// age is the older of what the two clocks say.
func (t *heldToken) age(now instant) time.Duration {
	return max(now.wall.Sub(t.IssuedAt), now.mono-t.issuedMono)
}

func (t *heldToken) state(now instant) tokenState {
	switch age := t.age(now); {
	case age >= t.life():
		return expired
	case age >= t.servedUntil:
		return inBuffer
	case age >= t.windowOpens || t.superseded:
		return inWindow
	}
	return fresh
}

// markUsed writes only once, so that readers do not fight over the cache line.
func (t *heldToken) markUsed() {
	if !t.used.Load() {
		t.used.Store(true)
	}
}

// replaceAge is how old the token must be to be replaced when it is reported
// dead. A short-lived one would hardly ever be, hence a tenth of its life at most.
func (t *heldToken) replaceAge() time.Duration { return min(minReplaceAge, t.life()/10) }

// ttl is when a reader should come back: after the token was replaced, before it
// is no longer served, at random in between so that a fleet does not return in
// one second. Vault Agent adds a second of its own, which is left free.
func (t *heldToken) ttl(now instant, random float64, failing bool) time.Duration {
	age := t.age(now)
	latest := max(0, t.servedUntil-time.Second-age)
	if age < t.windowOpens {
		latest = max(0, latest-t.secondLook)
	}
	earliest := min(max(0, t.replaced-age), latest)
	if t.superseded {
		earliest, latest = 0, min(latest, rotatedTTL)
	}
	ttl := earliest + time.Duration(random*float64(latest-earliest))
	if failing {
		// The floor is spread over its own length too.
		floor := max(time.Second, min(maxTTLFloor, t.life()/20))
		ttl = max(ttl, floor+time.Duration(random*float64(floor)))
	}
	return ttl.Truncate(time.Second)
}
