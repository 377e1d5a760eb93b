// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"sync/atomic"
	"time"
)

// TokenState says where a token is in its life. The timeline for Fuuffy's one-hour tokens and
// the default policy:
//
//	0            50 min             55 min           60 min
//	|   fresh    |  refresh window  |    buffer      | expired
//	|  served    |  served, and one | not served     |
//	|            |  background      | (readers wait  |
//	|            |  refresh runs    |  for one new)  |
//
// A short-lived token shrinks both windows: the buffer to at most half of its life, the
// refresh window to at most a quarter of the rest.
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
	// maxClockSkew is how much the clocks of two Vault nodes may differ.
	maxClockSkew = 2 * time.Minute
	// refreshMargin is how long a refresh that RefreshInUse started may take.
	refreshMargin = 15 * time.Second
	// minReplaceAge is how old a token must be before a 401 report replaces it, so that an
	// app in a loop can't use up the rate limit.
	minReplaceAge = 30 * time.Second
	// maxTTLFloor is the earliest that a reader comes back while refreshes fail.
	maxTTLFloor = 15 * time.Second
	// maxSecondLook is how long before the end of a short-lived token its readers come back,
	// so that a reader that finds no newer token has time to come back once more.
	maxSecondLook = 2 * time.Second
	// minFlooredLife is the shortest life of a token whose ttl is never 0, which looks like a
	// mistake. Shorter tokens can't spare the second.
	minFlooredLife = time.Minute
	// soonTTL is the latest that a reader comes back whose token needs replacement now.
	soonTTL = time.Minute
)

// Instant is one moment on both clocks. Someone can set the wall clock, and the monotonic
// clock may stop while the machine sleeps. So a token's age is the larger of the two.
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

// Token is an access token with its properties. It is immutable. Storage holds tokens in
// this form.
type Token struct {
	Value string `json:"access_token"`
	// IssuedAt is the time just before the request, so that a slow response makes the token
	// seem older, never younger.
	IssuedAt  time.Time `json:"issued_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// CredentialsID names the credentials that got the token.
	CredentialsID string `json:"credentials_id"`
	// FallbackFor names the current credentials that Fuuffy rejected before the previous
	// ones got this token. It is empty for a token of the current credentials.
	FallbackFor string `json:"fallback_for,omitempty"`
	// Suspect is set when an app reported the token and Fuuffy issued no other. The token then
	// counts as in its refresh window.
	Suspect bool `json:"suspect,omitempty"`
	// Used is set when someone has read the token. The cache lets a token lapse if no one does.
	Used bool `json:"used,omitempty"`
	// IssuedMono is IssuedAt on this process's monotonic clock. It means nothing in a token from
	// storage.
	IssuedMono time.Duration `json:"-"`
}

// Life is the token's whole lifetime.
func (t *Token) Life() time.Duration { return t.ExpiresAt.Sub(t.IssuedAt) }

// Policy is the operator's settings for serving tokens.
type Policy struct {
	// Buffer is how much time a valid token must have left.
	Buffer time.Duration
	// Window is how long before the buffer the cache requests the next token.
	Window time.Duration
	// StaleIfError serves a token inside its buffer if Fuuffy issues no other.
	StaleIfError bool
	// MaxReadTTL is the longest that a reader stays away, zero for no limit.
	MaxReadTTL time.Duration
}

// ServedFor is how long the cache serves a token with this lifetime, counted from its issue.
func (p Policy) ServedFor(life time.Duration) time.Duration { return life - min(p.Buffer, life/2) }

// Cached is a token in this node's memory. Everything but used is immutable.
type Cached struct {
	// Token places IssuedMono on this node's clock, whoever issued the token. What it says of
	// the use is what is stored.
	Token
	// Description and Warning come from Source.Describe. Readers must not change them.
	Description map[string]any
	Warning     string
	// ServedFor is the age at which the cache stops serving the token.
	ServedFor time.Duration
	// Superseded is set when the credentials were rotated. The cache serves the token, but
	// its replacement is due now.
	Superseded bool

	// Ages of the token: when its refresh window opens, and by when RefreshInUse has surely
	// replaced it.
	windowOpens, replaced time.Duration
	// secondLook is the time for a reader that still finds the old token and must come back
	// again.
	secondLook time.Duration
	// maxTTL is Policy.MaxReadTTL.
	maxTTL time.Duration
	// firstLife is the life that the token had when Fuuffy first issued it, if Fuuffy issued it
	// again for the rest of that, and zero otherwise.
	firstLife time.Duration
	// saved is set if storage has the token as it is, but for its use. Otherwise unsaved is why
	// not, nil if no one tried.
	saved   bool
	unsaved error
	// evicts is set if storage may have the token that this one replaced, which an app reported.
	evicts bool
	// used is set by the first read.
	used *atomic.Bool
}

// fromStorage places a stored token on this node's clocks. It is false if the token is from the
// future. The clock of the node that stored it may have been ahead of this one's, which makes
// the token older than it seems. The buffer allows for that, and where it is short, up to a
// twentieth of the life.
func fromStorage(t Token, p Policy, now Instant) (Token, bool) {
	buffer := t.Life() - p.ServedFor(t.Life())
	allowance := min(max(0, maxClockSkew-buffer), t.Life()/20)
	t.IssuedMono = now.Mono - max(0, now.Wall.Sub(t.IssuedAt)) - allowance
	return t, !t.IssuedAt.After(now.Wall.Add(maxClockSkew))
}

// newCached puts a token under a policy. RefreshInUse runs every refreshInterval. random, in [0, 1),
// opens the window up to a tenth early, so that mounts don't refresh in step.
func newCached(t Token, p Policy, refreshInterval time.Duration, random float64) *Cached {
	servedFor := p.ServedFor(t.Life())
	window := min(p.Window, servedFor/4)
	opens := servedFor - window

	// RefreshInUse is too coarse for a short window. Readers start that refresh, so they
	// come back spread over the whole window.
	replaced, secondLook := opens, min(maxSecondLook, window/2)
	if window >= 2*(refreshInterval+refreshMargin) {
		replaced, secondLook = opens+refreshInterval+refreshMargin, 0
	}
	placed := &Cached{
		Token:       t,
		ServedFor:   servedFor,
		windowOpens: opens - time.Duration(random*float64(window)/10),
		replaced:    replaced,
		secondLook:  secondLook,
		maxTTL:      p.MaxReadTTL,
		used:        &atomic.Bool{},
	}
	placed.used.Store(t.Used)
	return placed
}

// suspected returns the token after a report that brought no other.
func (t *Cached) suspected() *Cached {
	suspect := *t
	suspect.Suspect, suspect.saved = true, false
	return &suspect
}

// after returns the token after a save, which failed unless err is nil.
func (t *Cached) after(err error) *Cached {
	saved := *t
	saved.saved, saved.unsaved = err == nil, err
	if err == nil {
		saved.Used, saved.evicts = t.InUse(), false
	}
	return &saved
}

// differs tells whether storage doesn't say of the token what memory says.
func (t *Cached) differs() bool { return !t.saved || t.InUse() && !t.Used }

// ServedUntil is when the cache stops serving the token, on the wall clock.
func (t *Cached) ServedUntil() time.Time { return t.IssuedAt.Add(t.ServedFor) }

// InUse tells whether anyone has read the token.
func (t *Cached) InUse() bool { return t.used.Load() }

// age is the larger age of the two clocks.
func (t *Cached) age(now Instant) time.Duration {
	return max(now.Wall.Sub(t.IssuedAt), now.Mono-t.IssuedMono)
}

func (t *Cached) state(now Instant) TokenState {
	switch age := t.age(now); {
	case age >= t.Life():
		return Expired
	case age >= t.ServedFor:
		return InBuffer
	case age >= t.windowOpens || t.Superseded || t.Suspect:
		return InWindow
	}
	return Fresh
}

// markUsed writes only once, so that readers don't fight over the cache line.
func (t *Cached) markUsed() {
	if !t.used.Load() {
		t.used.Store(true)
	}
}

// ReplaceAge is how old the token must be before a report replaces it. It is at most a tenth
// of the life, so that reports replace short-lived tokens too. A token that Fuuffy issued again
// isn't young.
func (t *Cached) ReplaceAge() time.Duration {
	if t.firstLife > 0 {
		return 0
	}
	return min(minReplaceAge, t.Life()/10)
}

// wholeLife is the token's life since Fuuffy first issued it.
func (t *Cached) wholeLife() time.Duration { return max(t.Life(), t.firstLife) }

// left is the time until the expiry that readers see, which has whole seconds.
func (t *Cached) left(now Instant) time.Duration {
	return t.ExpiresAt.Truncate(time.Second).Sub(t.IssuedAt) - t.age(now)
}

// lifeLeft is the time until the token expires.
func (t *Cached) lifeLeft(now Instant) time.Duration { return t.Life() - t.age(now) }

// betterThan tells whether a new token lives longer than the cached one. The comparison is on
// this node's clocks, because a clock that was set makes two expiry times incomparable. If Fuuffy
// repeats a token, its life seems to grow by what was rounded off, so that must be more.
func (t *Cached) betterThan(cached *Cached, now Instant) bool {
	gain := t.lifeLeft(now) - cached.lifeLeft(now)
	if t.Value == cached.Value {
		return gain > cached.repetitionGap()
	}
	return gain > 0
}

// maxMinTTL is the longest life that a reader may ask for.
func (t *Cached) maxMinTTL() time.Duration { return t.wholeLife() / 2 }

// allows tells whether the token lives as long as a reader asks.
func (t *Cached) allows(minTTL time.Duration, now Instant) bool {
	return minTTL <= t.maxMinTTL() && t.left(now) >= minTTL
}

// ttlInput is what decides when a reader should come back.
type ttlInput struct {
	// random is in [0, 1).
	random float64
	// delay is what the reader adds to the ttl.
	delay time.Duration
	// minTTL is not more than the token has left.
	minTTL time.Duration
	// soon is set if the token needs replacement now, failing if Fuuffy issues no other.
	soon, failing bool
}

// ttl is when a reader should come back: after the cache replaced the token and before it
// stops serving it, at random in between, so that a fleet doesn't return in one second.
func (t *Cached) ttl(now Instant, v ttlInput) time.Duration {
	age := t.age(now)
	latest := max(0, t.ServedFor-v.delay-age)
	if age < t.windowOpens {
		latest = max(0, latest-t.secondLook)
	}
	earliest := min(max(0, t.replaced-age), latest)
	if v.minTTL > 0 {
		// By then the token has less left, so the reader gets another.
		due := t.left(now) - v.minTTL
		earliest, latest = min(earliest, due), min(latest, due+soonTTL)
	}
	if v.soon {
		earliest, latest = 0, min(latest, soonTTL)
	}
	ttl := earliest + time.Duration(v.random*float64(latest-earliest))
	if v.failing {
		// Spread the floor over its own length too.
		floor := max(time.Second, min(maxTTLFloor, t.Life()/20))
		ttl = max(ttl, floor+time.Duration(v.random*float64(floor)))
	}
	if t.maxTTL > 0 {
		// Spread it too, over its second half.
		ttl = min(ttl, t.maxTTL/2+time.Duration(v.random*float64(t.maxTTL-t.maxTTL/2)))
	}
	if t.Life() >= minFlooredLife {
		ttl = max(ttl, time.Second)
	}
	return ttl.Truncate(time.Second)
}
