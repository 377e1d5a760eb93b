// SPDX-License-Identifier: MPL-2.0

// Package tokencache keeps one access token. It decides who gets it, who waits, when to
// refresh it, and what happens to it when its source changes. It knows neither Vault nor
// HTTP.
package tokencache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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
	ErrClosed = errors.New("the secrets engine is stopping")
	// errSuperseded says that the source changed during a request: read again.
	errSuperseded = errors.New("the configuration changed meanwhile")
)

// Source gets tokens with one configuration. It is immutable, and its identity is the
// generation: the cache publishes nothing from a source that is not current. Stored, Save, and
// Erase must bound each wait for storage (WithStorageTimeout).
// Policy, Judge, SameUpstream, and Describe are pure and quick, because the cache calls them
// under its lock.
type Source interface {
	// Policy says how long the cache serves a token.
	Policy() Policy
	// Judge says what to do with a token under this source's credentials.
	Judge(Token) Verdict
	// SameUpstream tells whether the other source has the same credentials and endpoint. Then
	// what Fuuffy said to it goes for this one too.
	SameUpstream(other Source) bool
	// Describe returns what readers see of a token, and a warning, empty for none.
	// The cache calls it once for each token.
	Describe(*Cached) (description map[string]any, warning string)
	// Stored returns the token in storage, false if there is none.
	Stored(context.Context) (Token, bool, error)
	// Request gets a new token from Fuuffy. cached is the one in memory, nil for none.
	// The error is an *upstream.Error, or ErrForward. announce logs what people must know of
	// the request. The cache calls it when all waiters have the outcome.
	Request(ctx context.Context, cached *Cached) (t Token, announce func(), err error)
	// Save stores a token so that it survives a restart.
	Save(context.Context, Token) error
	// Erase removes the token from storage.
	Erase(context.Context) error
	// Report publishes an outcome after all waiters have it.
	Report(context.Context, Outcome)
}

// Outcome is the result of a Request for readers, or what else befell the token that apps hold.
type Outcome struct {
	// Err is nil if the cache serves the new token. It is no *upstream.Error if nothing failed:
	// the cached token is as good, or the cache is closed.
	Err error
	// Replaced is set if an app reported the previous token.
	Replaced bool
	// Early is set if the previous token was fresh, but a reader wanted one that lives longer.
	Early bool
	// Dropped is set if there is no new token: this node found in storage that the previous one's
	// credentials are no longer current.
	Dropped bool
}

// Verdict is what a new source means for a token.
type Verdict int

const (
	// KeepToken: it belongs to the current credentials.
	KeepToken Verdict = iota
	// ReplaceToken: it belongs to credentials that were rotated. The cache serves it until
	// it has a token of the new ones.
	ReplaceToken
	// DropToken: the cache never serves it again.
	DropToken
)

// state is everything that a reader must see together. It is immutable: a change replaces
// the whole value.
type state struct {
	// source is current; nil until it is loaded.
	source Source
	// outdated is set if storage may have another source.
	outdated bool
	// unloadable is set if that can't be loaded. Until it can, this one goes on for readers.
	unloadable bool
	// impatience is how long readers then don't wait for a load, from failedAt on the monotonic clock.
	impatience, failedAt time.Duration
	// loading is the load in progress, nil if there is none.
	loading *load
	token   *Cached
	// removed are the last tokens that an operator deleted, or a report replaced.
	removed []removal
	// reported are the last tokens that apps reported while none was cached.
	reported []string
	// deleted is the source of a configuration that another node deleted, while its token is
	// still in storage.
	deleted Source
	// unreadable is set if the last look for a stored token failed, and unseen if someone stored
	// one that memory doesn't have.
	unreadable, unseen bool
	// flight is the token request in progress, nil if there is none.
	flight     *flight
	holdOff    holdOff
	repetition repetition
	// lastSuccess is when Fuuffy last issued a token, as far as this node knows.
	lastSuccess time.Time
	closed      bool
}

// removal is the end of a token. A request that was under way may still bring it: Fuuffy repeats
// tokens.
type removal struct {
	token string
	// at is on the monotonic clock.
	at time.Duration
}

// maxRemembered is how many removed and reported tokens the cache remembers.
const maxRemembered = 4

// remembered returns the list with one more entry at its end.
func remembered[T any](list []T, entry T) []T {
	return append(slices.Clone(list[max(0, len(list)-maxRemembered+1):]), entry)
}

// uses tells whether a source serves readers: it is current, as far as anyone knows.
func (s *state) uses(source Source) bool {
	return s.source == source && (!s.outdated || s.unloadable)
}

// tokenState is the cached token's state, Expired if there is none.
func (s *state) tokenState(now Instant) TokenState {
	if s.token == nil {
		return Expired
	}
	return s.token.state(now)
}

// clear forgets everything.
func (s *state) clear() {
	s.supersede()
	*s = state{closed: s.closed, deleted: s.deleted}
}

// supersede cancels everything in progress. The cache publishes nothing from it, and
// may request a token again.
func (s *state) supersede() {
	if s.flight != nil {
		s.flight.cancel()
	}
	s.flight, s.loading, s.holdOff, s.repetition = nil, nil, s.holdOff.lifted(), s.repetition.lifted()
}

// Cache holds one token and makes at most one request for another at a time.
//
// It has two locks. Take storing first: a writer of a stored entry holds it until memory
// agrees with storage. It is a channel, so that a waiter can give up. mu makes a change of
// the state one step. No one holds it across I/O, a log line, or a callback.
type Cache struct {
	options Options
	// life ends with Close. Loads and flights run on it.
	life context.Context
	end  context.CancelFunc
	// background counts the loads and flights that Close waits for.
	background sync.WaitGroup
	// waiting counts the readers that wait for a flight.
	waiting atomic.Int64

	storing chan struct{}
	mu      sync.Mutex
	// state changes under mu; reads need no lock.
	state atomic.Pointer[state]
}

// Options are the cache's dependencies.
type Options struct {
	Clock func() Instant
	// Random returns a number in [0, 1).
	Random func() float64
	Logger func() hclog.Logger
	// RefreshInterval is how often RefreshInUse is called.
	RefreshInterval time.Duration
	// ReaderDelay is what readers add to Reading.TTL before they come back.
	ReaderDelay time.Duration
}

// New returns an empty cache. The caller must Close it.
func New(o Options) *Cache {
	if o.Random == nil {
		o.Random = rand.Float64
	}
	c := &Cache{options: o, storing: make(chan struct{}, 1)}
	c.life, c.end = context.WithCancel(context.Background())
	c.state.Store(&state{})
	return c
}

// changeLocked replaces the state with an edited copy.
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

// lockStoring waits until the caller may write stored entries. The caller must call unlock
// unless there is an error.
func (c *Cache) lockStoring(ctx context.Context) (unlock func(), err error) {
	select {
	case c.storing <- struct{}{}:
		return func() { <-c.storing }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// lockStoringSoon is lockStoring for a bounded time. unlock does nothing if there is an error.
func (c *Cache) lockStoringSoon(ctx context.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, storageTimeout, errStorageTimeout)
	defer cancel()
	if unlock, err = c.lockStoring(ctx); err != nil {
		return func() {}, err
	}
	return unlock, nil
}

// storageTimeout bounds each wait for storage, so that a call that hangs keeps no one else
// away for longer.
const storageTimeout = 5 * time.Second

// errStorageTimeout is why the engine ended a storage call.
var errStorageTimeout = fmt.Errorf("storage did not answer within %s", storageTimeout)

// WithStorageTimeout runs what waits for storage, which must end with its context.
func WithStorageTimeout(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, storageTimeout, errStorageTimeout)
	defer cancel()
	err := do(ctx)
	if err != nil && context.Cause(ctx) == errStorageTimeout {
		return fmt.Errorf("%w: %w", errStorageTimeout, err)
	}
	return err
}

// Snapshot is the cache at one moment.
type Snapshot struct {
	// Source is nil if none is loaded.
	Source Source
	// Token is nil if none is cached.
	Token *Cached
	State TokenState
	// Stale is set if readers get the token although it is in its buffer, because of
	// Policy.StaleIfError and the last failure. Readers get a token if State is Fresh or
	// InWindow, or if Stale is set, and an error otherwise.
	Stale bool
	// Unsaved is why the cached token is only in memory, and lost on a restart. It is nil if
	// the token is stored, and if there is none.
	Unsaved error
	// Failure is the failure of the last request, nil if it brought a token.
	Failure *upstream.Error
	// Failures counts the failures of one class in a row.
	Failures int
	// Since is when the current outcome of requests began, zero if unknown.
	Since time.Time
	// LastSuccess is when Fuuffy last issued a token, zero if unknown.
	LastSuccess time.Time
	// HeldOffFor is how long the cache still sends no request.
	HeldOffFor time.Duration
	// Waiting counts the readers that are waiting for Fuuffy.
	Waiting int64
}

// Snapshot returns what is in memory. It waits for nothing.
func (c *Cache) Snapshot() Snapshot {
	now, s := c.options.Clock(), c.state.Load()
	var unsaved error
	if s.token != nil {
		unsaved = s.token.unsaved
	}
	return Snapshot{
		Source:      s.source,
		Token:       s.token,
		State:       s.tokenState(now),
		Stale:       s.standsIn(s.failure(now), now),
		Unsaved:     unsaved,
		Failure:     s.holdOff.cause,
		Failures:    s.holdOff.failures,
		Since:       s.holdOff.since,
		LastSuccess: s.lastSuccess,
		HeldOffFor:  s.holdOff.left(now),
		Waiting:     c.waiting.Load(),
	}
}

// closeTimeout bounds Close. Loads and flights end with life; this covers storage that
// doesn't.
const closeTimeout = 5 * time.Second

// Close stops new work, ends the work in progress, and waits for it for a bounded time.
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
