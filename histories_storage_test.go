// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// storageFate decides what happens to the storage operations of a process.
func (w *world) storageFate(p *process) func(context.Context, string, string) storageFate {
	return func(ctx context.Context, operation, key string) (f storageFate) {
		w.draw(ctx, p, func(r *rand.Rand, own, guarded bool) {
			f.before, f.after = delay(r), delay(r)
			kinds := []string{failsBefore, failsAfter}
			hangs := []string{hangsBefore, hangsAfter}
			// The engine promises to survive a panic over the token in a flight.
			if own && key == tokenKey {
				kinds = append(kinds, panicsBefore, panicsAfter)
			}
			faults := w.storageFaults
			if operation == "put" && key == tokenKey {
				faults = max(faults, w.saveFaults)
			}
			if fails := kinds[r.IntN(len(kinds))]; chance(r, faults) {
				f.fails = fails
			}
			if hangs := hangs[r.IntN(len(hangs))]; chance(r, w.storageHangs) {
				f.fails = hangs
			}
			if w.calm {
				f = storageFate{before: 10 * time.Millisecond, after: 10 * time.Millisecond}
			}
		})
		return f
	}
}

// delay is mostly short, and now and then longer than the engine is willing to wait.
func delay(r *rand.Rand) time.Duration {
	switch n := r.IntN(100); {
	case n < 15:
		return 0
	case n < 60:
		return upTo(r, 50*time.Millisecond)
	case n < 94:
		return upTo(r, 400*time.Millisecond)
	case n < 99:
		return upTo(r, 3*time.Second)
	}
	return upTo(r, 20*time.Second)
}

// storageObservation notes what becomes of one operation.
type storageObservation struct {
	w      *world
	record *history.Stored
	config *storedConfig // what a put stores, if it is the configuration
}

func (w *world) observeStorage(n *node, p *process) func(context.Context, string, *logical.StorageEntry) storageObserver {
	return func(ctx context.Context, operation string, entry *logical.StorageEntry) storageObserver {
		var config *storedConfig
		s := &history.Stored{Place: p.place(), Operation: operation, Key: entry.Key, Applied: history.Never}
		if c, ok := ctx.Value(callerKey{}).(*caller); ok {
			s.Call = c.call
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		s.Begin = w.nowLocked()
		s.End = history.Never
		if operation == "put" && entry.Key == tokenKey {
			var t struct {
				Value   string `json:"access_token"`
				PairID  string `json:"credentials_id"`
				Suspect bool   `json:"suspect"`
			}
			_ = json.Unmarshal(entry.Value, &t) // Damaged entries have no name, and break rules.
			s.Token, s.PairID, s.Suspect = w.names[t.Value], t.PairID, t.Suspect
		}
		if operation == "put" && entry.Key == configKey {
			config = &storedConfig{}
			_ = json.Unmarshal(entry.Value, config)
			s.Config = entryOf(config)
		}
		w.h.Stored = append(w.h.Stored, s)
		return storageObservation{w, s, config}
	}
}

// entryOf is the record of a stored configuration.
func entryOf(c *storedConfig) *history.Entry {
	pairOf := func(p *rotation.Pair) history.Pair {
		if p == nil {
			return history.Pair{}
		}
		return history.Pair{ID: p.ID, Client: p.ClientID, SetAt: p.SetAt, Serial: p.Serial}
	}
	r := &c.Rotation
	e := &history.Entry{
		WriteID: c.WriteID,
		Credentials: history.Credentials{
			Current: pairOf(&c.Current), Serials: r.Serials,
			Position: history.Position{
				Staged: pairOf(r.Staged), Previous: pairOf(r.Previous), Compromised: r.Compromised,
				StagedAt: r.StagedAt, PromotedAt: r.PromotedAt, TokensUntil: r.TokensUntil,
			},
		},
		Settings: history.Settings{
			Reminder: int(c.RotationReminder.Seconds()), StaleIfError: c.StaleIfError, Buffer: c.TokenExpiryBuffer, Endpoint: fmt.Sprint(c.Endpoint),
			Others: fmt.Sprint(c.RequestTimeout, c.TokenRefreshWindow, c.RotationPeriod, c.MaxReadTTL),
		},
	}
	for _, step := range r.History {
		e.Steps = append(e.Steps, step.At.UTC().Format(time.RFC3339)+" "+step.String())
	}
	for _, u := range r.Unrevoked {
		client := u.ClientID
		// An entry that the engine no longer recognizes is about no client.
		if r.Entry(&rotation.Pair{ClientID: client, ClientSecret: testSecret}) == nil {
			client = "not recognized: " + client
		}
		e.Unrevoked = append(e.Unrevoked, history.Unrevoked{ID: u.PairID, Client: client, Why: u.Why, Since: u.Since})
	}
	return e
}

func (o storageObservation) effect(act func() error) error {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	if err := act(); err != nil {
		return err
	}
	o.record.Applied = o.w.nowLocked()
	if o.record.Operation == "get" {
		return nil
	}
	if o.record.Key == configKey {
		o.w.config = o.config
	}
	o.w.tellLocked(o.record)
	return nil
}

func (o storageObservation) end(err error) {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	s := o.record
	s.End = o.w.nowLocked()
	s.Failed = err != nil
	if s.Failed && s.Operation == "put" && s.Key == tokenKey && !o.w.calm {
		o.w.endAfterLocked(s)
	}
}

// endAfterLocked often ends a process that could not save its token: the next one does not know it.
func (w *world) endAfterLocked(s *history.Stored) {
	k := &worker{w: w, name: fmt.Sprintf("failed save %d", s.Begin.Seq), random: w.stream("failed save", s.Begin.Seq)}
	if w.runningNumberLocked(s.Node) != s.Process || !chance(k.random, 0.5) {
		return
	}
	w.behindLocked(func() {
		time.Sleep(upTo(k.random, 3*time.Second))
		k.elect(w.nodeNamed(s.Node))
	})
}

// tellLocked sends the Invalidate of a change to the other nodes that have the entry. A process that
// starts later reads it from storage.
func (w *world) tellLocked(s *history.Stored) {
	for _, n := range w.nodes {
		p := n.running
		if n.name == s.Node || p == nil || s.Key == tokenKey && (n.name == secondaryNode) != (s.Node == secondaryNode) {
			continue
		}
		wait := delay(w.stream("tell "+n.name, s.Applied.Seq))
		w.behindLocked(func() {
			time.Sleep(wait)
			begin := w.now()
			if w.runningOn(n) != p {
				return
			}
			p.b.InvalidateKey(context.Background(), s.Key)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.h.Told = append(w.h.Told, &history.Invalidation{
				Span: history.Span{Begin: begin, End: w.nowLocked()}, Place: p.place(), Key: s.Key, Cause: s.Applied,
			})
		})
	}
}
