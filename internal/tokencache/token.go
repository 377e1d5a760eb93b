// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"sync/atomic"
	"time"
)

// TokenState says where a token is in its life. The timeline with Fuuffy's hour and the
// default policy:
//
//	0            50 min             55 min           60 min
//	|   fresh    |  refresh window  |    buffer      | expired
//	|  served    |  served, and one | not served     |
//	|            |  background      | (readers wait  |
//	|            |  refresh runs    |  for one new)  |
//
// A short-lived token shrinks both windows: the buffer takes at most half of its
// life, the refresh window at most a quarter of what is left.
type TokenState int

const (
	Fresh TokenState = iota
	InWindow
	InBuffer
	Expired
)

func (s TokenState) String() string {
	return [...]string{"fresh", "refreshing", "not served", "expired"}[s]
}

const (
	// maxClockSkew is how far in the future a stored token may have been issued:
	// the clocks of two Vault nodes differ a little.
	maxClockSkew = time.Minute
	// periodicInterval is how often Vault calls a backend's PeriodicFunc.
	periodicInterval = time.Minute
	// refreshMargin is how long a refresh that PeriodicFunc started may take.
	refreshMargin = 15 * time.Second
	// minReplaceAge is how old a token must be to be replaced because of a 401, so
	// that an app in a loop can't use up the rate limit.
	minReplaceAge = 30 * time.Second
	// maxTTLFloor is the earliest return of a reader while a refresh is failing.
	maxTTLFloor = 15 * time.Second
	// maxSecondLook is how long before its end a short-lived token sends its readers
	// back, so that one who finds no newer token has time for a second look.
	maxSecondLook = 2 * time.Second
	// soonTTL is the latest return of a reader whose token should be replaced now.
	soonTTL = time.Minute
)

// Instant is one moment on both clocks. The wall clock can be set; the monotonic
// one may stand still while the machine sleeps. Age is the larger of the two.
type Instant struct {
	Wall time.Time
	Mono time.Duration
}

// processStart is the origin of this process's monotonic clock.
var processStart = time.Now()

// SystemClock reads both clocks of this machine.
func SystemClock() Instant {
	now := time.Now()
	return Instant{Wall: now.Round(0), Mono: now.Sub(processStart)}
}

// Token is an access token with what is known about it. It is immutable, and the
// form in which tokens are stored.
type Token struct {
	Value string `json:"access_token"`
	// IssuedAt is from before the request was sent, so that a slow response makes
	// the token seem older, never younger.
	IssuedAt  time.Time `json:"issued_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// CredentialsID names the credentials that Fuuffy granted it to.
	CredentialsID string `json:"credentials_id"`
	// FallbackFor names the credentials in force that Fuuffy rejected when it granted
	// this token to the previous ones. Empty for a token of the credentials in force.
	FallbackFor string `json:"fallback_for,omitempty"`
	// FallbackUntil is when apps stop using the last token that came from a fallback.
	FallbackUntil time.Time `json:"fallback_until,omitzero"`
	Environment   string    `json:"environment"`
}

// Life is how long the token lives in all.
func (t *Token) Life() time.Duration { return t.ExpiresAt.Sub(t.IssuedAt) }

// Policy is what the operator decides about serving tokens.
type Policy struct {
	// Buffer is the life a token must have left to be valid.
	Buffer time.Duration
	// Window is how long before the buffer the cache requests a replacement.
	Window time.Duration
	// StaleIfError serves a token inside its buffer if Fuuffy gives no other.
	StaleIfError bool
}

// ServedFor is how long a token of a given life is served, from when it was issued.
func (p Policy) ServedFor(life time.Duration) time.Duration { return life - min(p.Buffer, life/2) }

// Cached is a token in this node's memory. Everything but used is immutable.
type Cached struct {
	Token
	// Description and Warning are what Source.Describe returned. Readers must not change
	// them.
	Description map[string]any
	Warning     string
	// ServedFor is the age at which the token is no longer served.
	ServedFor time.Duration
	// Superseded is set when the credentials were rotated: the token is served, but
	// its replacement is due now.
	Superseded bool

	// issuedMono is IssuedAt on this process's monotonic clock.
	issuedMono time.Duration
	// Ages of the token: when its refresh window opens, and by when PeriodicFunc has
	// certainly replaced it.
	windowOpens, replaced time.Duration
	// secondLook is the time for a reader that finds the old token when it comes
	// back, and so must come again.
	secondLook time.Duration
	// used is set by the first read. A token nobody reads is left to lapse.
	used atomic.Bool
}

// place puts a token on the node's clocks and under a policy. random, in [0, 1),
// opens the window up to a tenth early, so that mounts do not refresh in step.
func place(t Token, p Policy, now Instant, random float64) *Cached {
	servedFor := p.ServedFor(t.Life())
	window := min(p.Window, servedFor/4)
	opens := servedFor - window

	// PeriodicFunc is too coarse for a short window. Its readers refresh it, so
	// they are asked to come back all over it.
	replaced, secondLook := opens, min(maxSecondLook, window/2)
	if window >= 2*(periodicInterval+refreshMargin) {
		replaced, secondLook = opens+periodicInterval+refreshMargin, 0
	}
	return &Cached{
		Token:       t,
		ServedFor:   servedFor,
		issuedMono:  now.Mono - max(0, now.Wall.Sub(t.IssuedAt)),
		windowOpens: opens - time.Duration(random*float64(window)/10),
		replaced:    replaced,
		secondLook:  secondLook,
	}
}

// ServedUntil is when the token is no longer served, on the wall clock.
func (t *Cached) ServedUntil() time.Time { return t.IssuedAt.Add(t.ServedFor) }

// InUse tells whether the token was read on this node.
func (t *Cached) InUse() bool { return t.used.Load() }

// age is the older of what the two clocks say.
func (t *Cached) age(now Instant) time.Duration {
	return max(now.Wall.Sub(t.IssuedAt), now.Mono-t.issuedMono)
}

func (t *Cached) state(now Instant) TokenState {
	switch age := t.age(now); {
	case age >= t.Life():
		return Expired
	case age >= t.ServedFor:
		return InBuffer
	case age >= t.windowOpens || t.Superseded:
		return InWindow
	}
	return Fresh
}

// markUsed writes only once, so that readers do not fight over the cache line.
func (t *Cached) markUsed() {
	if !t.used.Load() {
		t.used.Store(true)
	}
}

// ReplaceAge is how old the token must be to be replaced when an app reports it.
// A tenth of its life at most, or a short-lived one would hardly ever be.
func (t *Cached) ReplaceAge() time.Duration { return min(minReplaceAge, t.Life()/10) }

// left is how long the token lives, to the second that readers are told.
func (t *Cached) left(now Instant) time.Duration {
	return t.ExpiresAt.Truncate(time.Second).Sub(t.IssuedAt) - t.age(now)
}

// maxMinTTL is the longest life that a reader may ask for.
func (t *Cached) maxMinTTL() time.Duration { return t.Life() / 2 }

// allows tells whether the token lives for as long as a reader asks.
func (t *Cached) allows(minTTL time.Duration, now Instant) bool {
	return minTTL <= t.maxMinTTL() && t.left(now) >= minTTL
}

// visit is what decides when a reader should come back.
type visit struct {
	// random is in [0, 1).
	random float64
	minTTL time.Duration
	// soon is set if the token should be replaced now, failing if Fuuffy gives no other.
	soon, failing bool
}

// ttl is when a reader should come back: after the token was replaced, before it
// is no longer served, at random in between so that a fleet does not return in
// one second. Vault Agent adds a second of its own, which is left free.
func (t *Cached) ttl(now Instant, v visit) time.Duration {
	age := t.age(now)
	latest := max(0, t.ServedFor-time.Second-age)
	if age < t.windowOpens {
		latest = max(0, latest-t.secondLook)
	}
	earliest := min(max(0, t.replaced-age), latest)
	if v.minTTL > 0 {
		// Less is left then, so that the reader is given another.
		due := max(0, t.left(now)-v.minTTL)
		earliest, latest = min(earliest, due), min(latest, due+soonTTL)
	}
	if v.soon {
		earliest, latest = 0, min(latest, soonTTL)
	}
	ttl := earliest + time.Duration(v.random*float64(latest-earliest))
	if v.failing {
		// The floor is spread over its own length too.
		floor := max(time.Second, min(maxTTLFloor, t.Life()/20))
		ttl = max(ttl, floor+time.Duration(v.random*float64(floor)))
	}
	return ttl.Truncate(time.Second)
}
