// SPDX-License-Identifier: MPL-2.0

package histories

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
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
			if own && key == history.TokenKey {
				kinds = append(kinds, panicsBefore, panicsAfter)
			}
			faults := w.storageFaults
			if operation == "put" && key == history.TokenKey {
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
}

func (w *world) observeStorage(n *node, p *process) func(context.Context, string, *logical.StorageEntry) storageObserver {
	return func(ctx context.Context, operation string, entry *logical.StorageEntry) storageObserver {
		s := &history.Stored{Place: p.place(), Operation: operation, Key: entry.Key, Applied: history.Never}
		if c, ok := ctx.Value(callerKey{}).(*caller); ok {
			s.Call = c.call
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		s.Begin = w.nowLocked()
		s.End = history.Never
		if operation == "put" && entry.Key == history.TokenKey {
			var t struct {
				Value   string `json:"access_token"`
				PairID  string `json:"credentials_id"`
				Suspect bool   `json:"suspect"`
			}
			_ = json.Unmarshal(entry.Value, &t) // Damaged entries have no name, and break rules.
			s.Token, s.PairID, s.Suspect = w.names[t.Value], t.PairID, t.Suspect
		}
		if operation == "put" && entry.Key == history.ConfigKey {
			s.Config = readConfig(entry.Value)
		}
		w.h.Stored = append(w.h.Stored, s)
		return storageObservation{w, s}
	}
}

// readConfig is the record of a stored configuration. An entry of unrevoked that the engine no longer
// recognizes is about no client.
func readConfig(stored []byte) *history.Entry {
	var e history.Entry
	var pairs rotation.Pairs
	_ = json.Unmarshal(stored, &e)
	_ = json.Unmarshal(stored, &pairs)
	for i, u := range e.Unrevoked {
		if pairs.Rotation.Entry(&rotation.Pair{ClientID: u.Client, ClientSecret: mounttest.Secret}) == nil {
			e.Unrevoked[i].Client = "not recognized: " + u.Client
		}
	}
	return &e
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
	if o.record.Key == history.ConfigKey {
		o.w.config = o.record.Config
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
	if s.Failed && s.Operation == "put" && s.Key == history.TokenKey && !o.w.calm {
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
		if n.name == s.Node || p == nil || s.Key == history.TokenKey && (n.name == secondaryNode) != (s.Node == secondaryNode) {
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
