// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// storageFate decides what happens to the storage operations of a process.
func (w *world) storageFate(p *process) func(context.Context, string, string) storageFate {
	return func(ctx context.Context, operation, key string) (f storageFate) {
		w.draw(ctx, p, func(r *rand.Rand, own, guarded bool) {
			f.before, f.after = delay(r), delay(r)
			kinds := []string{failsBefore, failsAfter}
			// The engine promises to survive a panic over the token in a flight.
			if own && key == tokenKey {
				kinds = append(kinds, panicsBefore, panicsAfter)
			}
			if fails := kinds[r.IntN(len(kinds))]; chance(r, w.storageFaults) {
				f.fails = fails
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

// storageObservation notes a put, a delete, or that a call reads the config.
type storageObservation struct {
	w      *world
	record *storageRecord
}

func (w *world) observeStorage(n *node, p *process) func(context.Context, string, *logical.StorageEntry) storageObserver {
	return func(ctx context.Context, operation string, entry *logical.StorageEntry) storageObserver {
		s := &storageRecord{node: n.name, process: p.number, operation: operation, key: entry.Key, applied: never}
		if c, ok := ctx.Value(callerKey{}).(*caller); ok {
			s.call = c.call
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		s.begin = w.nowLocked()
		s.end = never
		if operation == "put" && entry.Key == tokenKey {
			var t storedToken
			_ = json.Unmarshal(entry.Value, &t) // Damaged entries have no name, and break rules.
			s.token = w.names[t.Value]
		}
		if operation == "put" && entry.Key == configKey {
			s.config = &storedConfig{}
			_ = json.Unmarshal(entry.Value, s.config)
		}
		if operation != "get" || entry.Key == configKey && s.call != 0 {
			w.h.stored = append(w.h.stored, s)
		}
		return storageObservation{w, s}
	}
}

func (o storageObservation) effect(act func() error) error {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	if err := act(); err != nil {
		return err
	}
	o.record.applied = o.w.nowLocked()
	if o.record.operation == "get" {
		return nil
	}
	if o.record.key == configKey {
		o.w.config = o.record.config
	}
	if o.record.node == activeNode {
		o.w.tellLocked(o.record)
	}
	return nil
}

func (o storageObservation) end(err error) {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	o.record.end = o.w.nowLocked()
	o.record.failed = err != nil
}

// tellLocked sends the Invalidate of a change to the nodes that hear of it.
func (w *world) tellLocked(s *storageRecord) {
	for _, n := range w.nodes {
		if !n.hears(s.key) {
			continue
		}
		wait := delay(w.stream("tell "+n.name, s.applied.seq))
		w.behindLocked(func() {
			time.Sleep(wait)
			begin := w.now()
			w.runningOn(n).b.InvalidateKey(context.Background(), s.key)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.h.told = append(w.h.told, &invalidation{span{begin, w.nowLocked()}, n.name, s.key, s.applied})
		})
	}
}
