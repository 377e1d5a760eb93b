// SPDX-License-Identifier: MPL-2.0

// Package tokencache keeps one access token: who is served, who waits, when the token
// is refreshed, and what becomes of it when its source changes. It knows neither
// Vault nor HTTP.
package tokencache

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

var (
	// ErrForward says that this node may not request tokens.
	ErrForward = errors.New("only the active node requests tokens from Fuuffy")
	// ErrClosed says that Close was called.
	ErrClosed = errors.New("the secrets engine is being stopped")
	// errSuperseded says that the source changed under a request: read again.
	errSuperseded = errors.New("the configuration changed meanwhile")
)

// Source is one configuration to get tokens with. It is immutable, and its identity
// is the generation: the cache publishes nothing of a source that is not in force.
// Policy, Judge and Describe are pure and quick: the cache calls them under its lock.
type Source interface {
	// Policy is how its tokens are served.
	Policy() Policy
	// Judge says what becomes of a token under this source's credentials.
	Judge(Token) Verdict
	// Describe returns what readers are told of a token, and a warning, empty for none.
	// The cache calls it once a token.
	Describe(*Cached) (description map[string]any, warning string)
	// Stored returns the token in storage, false if there is none.
	Stored(context.Context) (Token, bool, error)
	// Request gets a new token from Fuuffy. cached is the one in memory, nil for none.
	// The error is an *upstream.Error, or ErrForward.
	Request(ctx context.Context, cached *Cached) (Token, error)
	// Save stores a token for after a restart.
	Save(context.Context, Token) error
	// Report publishes how a Request ended, after all waiters know.
	Report(context.Context, Outcome)
}

// Outcome is how a Request for readers ended.
type Outcome struct {
	// Err is nil if the cache serves the new token.
	Err error
	// Replaced is set if an app had reported the token before this one.
	Replaced bool
	// Early is set if the token before was fresh, but a reader wanted one that lives longer.
	Early bool
}

// Verdict is what a change of the source means for a token.
type Verdict int

const (
	// KeepToken: it belongs to the credentials in force.
	KeepToken Verdict = iota
	// ReplaceToken: it belongs to credentials that were rotated. It is served until
	// there is one of the new.
	ReplaceToken
	// DropToken: it is not served again.
	DropToken
)

// state is all that a reader must see together. It is immutable: a change replaces
// it as a whole.
type state struct {
	// source is in force; nil until it is loaded.
	source Source
	// loading is the load under way, nil if there is none.
	loading *load
	// restoring is the Restore under way, nil if there is none.
	restoring *restoration
	token     *Cached
	// suspect is set when an app reported the token and Fuuffy gave no other: the
	// token counts as in its refresh window.
	suspect bool
	// flight is the token request under way, nil if there is none.
	flight  *flight
	holdOff holdOff
	// lastSuccess is when Fuuffy last granted a token, as far as this node knows.
	lastSuccess time.Time
	closed      bool
}

// tokenState is the cached token's state, Expired if there is none.
func (s *state) tokenState(now Instant) TokenState {
	if s.token == nil {
		return Expired
	}
	if state := s.token.state(now); state != Fresh || !s.suspect {
		return state
	}
	return InWindow
}

// supersede calls off what is under way. Nothing of it is published any more, and
// Fuuffy may be asked again.
func (s *state) supersede() {
	if s.flight != nil {
		s.flight.cancel()
	}
	s.flight, s.loading, s.restoring, s.holdOff = nil, nil, nil, s.holdOff.lifted()
}

// Cache holds one token and makes at most one request for another at a time.
//
// It has two locks. storing comes first: who writes a stored entry holds it until
// memory agrees with what is stored. It is a channel, so that a waiter can give up.
// mu makes the change of the state one step and is never held across I/O, a log
// line or a call of others.
type Cache struct {
	options Options
	// life ends with Close. Loads and flights run on it.
	life context.Context
	end  context.CancelFunc
	// background counts the loads and flights that Close waits for.
	background sync.WaitGroup
	// waiting counts the readers in front of a flight.
	waiting atomic.Int64

	storing chan struct{}
	mu      sync.Mutex
	// state is replaced under mu and read without it.
	state atomic.Pointer[state]
}

// Options are what a cache gets from its surroundings.
type Options struct {
	Clock func() Instant
	// Random returns a number in [0, 1).
	Random func() float64
	Logger func() hclog.Logger
}

// New returns an empty cache. Close ends what it starts.
func New(o Options) *Cache {
	if o.Random == nil {
		o.Random = rand.Float64
	}
	c := &Cache{options: o, storing: make(chan struct{}, 1)}
	c.life, c.end = context.WithCancel(context.Background())
	c.state.Store(&state{})
	return c
}

// changeLocked replaces the state by an edited copy.
func (c *Cache) changeLocked(edit func(*state)) {
	next := *c.state.Load()
	edit(&next)
	c.state.Store(&next)
}

func (c *Cache) change(edit func(*state)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changeLocked(edit)
}

// lockStoring waits for the right to write what is stored. The caller must call
// unlock, unless there is an error.
func (c *Cache) lockStoring(ctx context.Context) (unlock func(), err error) {
	select {
	case c.storing <- struct{}{}:
		return func() { <-c.storing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// place puts a token on the node's clocks under a source; nil if the source's
// credentials do not allow it to be served.
func (c *Cache) place(t Token, source Source, now Instant) *Cached {
	verdict := source.Judge(t)
	if verdict == DropToken {
		return nil
	}
	placed := place(t, source.Policy(), now, c.options.Random())
	placed.Superseded = verdict == ReplaceToken
	placed.Description, placed.Warning = source.Describe(placed)
	return placed
}

// Snapshot is the cache at one moment.
type Snapshot struct {
	// Source is nil if none is loaded.
	Source Source
	// Token is nil if none is cached.
	Token   *Cached
	State   TokenState
	Suspect bool
	// Failure is how the last request ended, nil if it brought a token.
	Failure *upstream.Error
	// Failures counts the failures of one class in a row.
	Failures int
	// Since is when requests began to end as they do now, zero if that is not known.
	Since time.Time
	// LastSuccess is when Fuuffy last granted a token, zero if that is not known.
	LastSuccess time.Time
	// HeldOffFor is how long Fuuffy is still sent no request.
	HeldOffFor time.Duration
	// Waiting counts the readers that wait for Fuuffy.
	Waiting int64
}

// Snapshot returns what is in memory. It waits for nothing.
func (c *Cache) Snapshot() Snapshot {
	now, s := c.options.Clock(), c.state.Load()
	return Snapshot{
		Source:      s.source,
		Token:       s.token,
		State:       s.tokenState(now),
		Suspect:     s.suspect,
		Failure:     s.holdOff.cause,
		Failures:    s.holdOff.failures,
		Since:       s.holdOff.since,
		LastSuccess: s.lastSuccess,
		HeldOffFor:  s.holdOff.left(now),
		Waiting:     c.waiting.Load(),
	}
}

// closeTimeout bounds Close. What is under way ends with life; this is for the case
// that storage does not.
const closeTimeout = 5 * time.Second

// Close lets nothing start any more, ends what is under way, and waits for it in
// bounded time.
func (c *Cache) Close() {
	c.change(func(s *state) { s.closed = true })
	c.end()
	ended := make(chan struct{})
	go func() {
		c.background.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(closeTimeout):
	}
}
