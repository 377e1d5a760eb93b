// SPDX-License-Identifier: MPL-2.0

package histories

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
)

// worker is one client or operator, who does one thing after the other.
type worker struct {
	w      *world
	name   string
	random *rand.Rand
	done   int
}

// request is what a call sends.
type request struct {
	operation logical.Operation
	path      string
	data      map[string]any
}

// call sends a request to a node, which may forward it to the active one, and records
// what becomes of it.
func (k *worker) call(n *node, c *history.Call, r request) *history.Call {
	w := k.w
	c.Worker, c.Asked = k.name, n.name
	k.done++
	mark := &caller{random: w.stream(k.name, k.done)}
	ctx := context.WithValue(context.Background(), callerKey{}, mark)
	p := w.enter(n)

	w.mu.Lock()
	c.ID, c.Span, c.Outcome = len(w.h.Calls)+1, history.Open(w.nowLocked()), history.Unknown
	c.Entered = c.Begin
	mark.call = c.ID
	w.h.Calls = append(w.h.Calls, c)
	w.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Limit, history.CallTime))
	defer cancel()
	resp, err := w.send(ctx, n, p, c, r)
	for errors.Is(err, logical.ErrReadOnly) {
		n = w.active()
		began := time.Now()
		p = w.enter(n)
		c.Waited += time.Since(began)
		c.Entered = w.now()
		resp, err = w.send(ctx, n, p, c, r)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c.Place, c.End = p.place(), w.nowLocked()
	if p.storage.dead.Load() {
		return c
	}
	w.noteLocked(c, resp, err)
	return c
}

func (w *world) send(ctx context.Context, n *node, p *process, c *history.Call, r request) (resp *logical.Response, err error) {
	defer func() {
		<-p.calls
		if recover() != nil {
			resp, err = nil, &panicked{string(debug.Stack())}
		}
	}()
	c.Place = p.place()
	return p.b.HandleRequest(ctx, &logical.Request{
		Operation: r.operation, Path: r.path, Data: r.data, Storage: p.storage, MountPoint: "fuuffy/",
	})
}

// panicked is the error of a call that panicked. The value may quote a secret.
type panicked struct{ stack string }

func (p *panicked) Error() string { return "panic" }

// noteLocked records the outcome of a call.
func (w *world) noteLocked(c *history.Call, resp *logical.Response, err error) {
	coded, isCoded := errors.AsType[logical.HTTPCodedError](err)
	if p, ok := errors.AsType[*panicked](err); ok {
		c.Panicked = p.stack
	}
	switch {
	case isCoded:
		c.Status, c.Outcome = coded.Code(), history.Failed
		if slices.Contains(history.Refusals, c.Status) {
			c.Outcome = history.Refused
		}
	case err != nil:
		c.Outcome = history.Failed
	case resp.IsError():
		c.Status, c.Outcome = http.StatusBadRequest, history.Refused
	default:
		c.Outcome = history.OK
		w.noteAnswerLocked(c, resp)
	}
}

func (w *world) noteAnswerLocked(c *history.Call, resp *logical.Response) {
	if resp == nil {
		resp = &logical.Response{}
	}
	text := func(field string) string { s, _ := resp.Data[field].(string); return s }
	switch c.Op {
	case history.OpRead, history.OpReport:
		c.Token = cmp.Or(w.names[text("access_token")], "a token that Fuuffy never issued")
		w.served = append(w.served, c.Token)
		c.Heed(resp.Warnings)
	case history.OpReadConfig:
		seconds, _ := resp.Data["rotation_reminder"].(int64)
		c.Seen = &history.Seen{Reminder: int(seconds), Current: text("client_id")}
	case history.OpReadRotation:
		c.Seen = &history.Seen{
			State: text("state"), Current: text("client_id"), Staged: text("staged_client_id"), Previous: text("previous_client_id"),
			Compromised: resp.Data["compromised"] == true, RotatedAt: text("last_rotated"),
		}
	}
}
