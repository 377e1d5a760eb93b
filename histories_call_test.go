// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
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
	c.Worker = k.name
	k.done++
	mark := &caller{random: w.stream(k.name, k.done)}
	ctx := context.WithValue(context.Background(), callerKey{}, mark)
	p := w.enter(n)

	w.mu.Lock()
	c.ID, c.Span, c.Outcome = len(w.h.Calls)+1, history.Span{Begin: w.nowLocked(), End: history.Never}, history.Unknown
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
	c.Answered, c.Process, c.End = n.name, p.number, w.nowLocked()
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
	c.Answered, c.Process = n.name, p.number
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
		c.Outcome = fmt.Sprint("HTTP ", coded.Code())
	case errors.Is(err, context.DeadlineExceeded):
		c.Outcome = history.Deadline
	case err != nil:
		c.Outcome = "error"
	case resp.IsError():
		c.Outcome = history.Refused
	default:
		c.Outcome = history.OK
		w.noteAnswerLocked(c, resp)
	}
}

func (w *world) noteAnswerLocked(c *history.Call, resp *logical.Response) {
	if resp == nil {
		return
	}
	switch c.Op {
	case history.OpRead, history.OpReport:
		value, _ := resp.Data["access_token"].(string)
		c.Token = w.names[value]
		w.served = append(w.served, c.Token)
		for _, warning := range resp.Warnings {
			c.TooYoung = c.TooYoung || strings.Contains(warning, "moments old")
			c.Stale = c.Stale || strings.Contains(warning, "stale_if_error")
			c.Suspect = c.Suspect || strings.Contains(warning, "An app reported")
		}
	case history.OpReadConfig:
		seconds, _ := resp.Data["rotation_reminder"].(int64)
		c.Reminder = int(seconds)
	case history.OpReadRotation:
		c.Rotation.Client, _ = resp.Data["client_id"].(string)
		c.Rotation.State, _ = resp.Data["state"].(string)
		c.Rotation.LastRotated, _ = resp.Data["last_rotated"].(string)
	}
}
