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
func (k *worker) call(n *node, c *call, r request) *call {
	w := k.w
	c.worker = k.name
	k.done++
	mark := &caller{random: w.stream(k.name, k.done)}
	ctx := context.WithValue(context.Background(), callerKey{}, mark)
	p := w.enter(n)

	w.mu.Lock()
	c.id, c.span, c.outcome = len(w.h.calls)+1, span{w.nowLocked(), never}, endedUnknown
	c.entered = c.begin
	mark.call = c.id
	w.h.calls = append(w.h.calls, c)
	w.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.limit, vaultTime))
	defer cancel()
	resp, err := w.send(ctx, n, p, c, r)
	for errors.Is(err, logical.ErrReadOnly) {
		n = w.active()
		began := time.Now()
		p = w.enter(n)
		c.waited += time.Since(began)
		c.entered = w.now()
		resp, err = w.send(ctx, n, p, c, r)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c.answered, c.process, c.end = n.name, p.number, w.nowLocked()
	if p.storage.dead.Load() {
		return c
	}
	w.noteLocked(c, resp, err)
	return c
}

func (w *world) send(ctx context.Context, n *node, p *process, c *call, r request) (resp *logical.Response, err error) {
	defer func() {
		<-p.calls
		if recover() != nil {
			resp, err = nil, &panicked{string(debug.Stack())}
		}
	}()
	c.answered, c.process = n.name, p.number
	return p.b.HandleRequest(ctx, &logical.Request{
		Operation: r.operation, Path: r.path, Data: r.data, Storage: p.storage, MountPoint: "fuuffy/",
	})
}

// panicked is the error of a call that panicked. The value may quote a secret.
type panicked struct{ stack string }

func (p *panicked) Error() string { return "panic" }

// noteLocked records the outcome of a call.
func (w *world) noteLocked(c *call, resp *logical.Response, err error) {
	coded, isCoded := errors.AsType[logical.HTTPCodedError](err)
	if p, ok := errors.AsType[*panicked](err); ok {
		c.panicked = p.stack
	}
	switch {
	case isCoded:
		c.outcome = fmt.Sprint("HTTP ", coded.Code())
	case errors.Is(err, context.DeadlineExceeded):
		c.outcome = endedByDeadline
	case err != nil:
		c.outcome = "error"
	case resp.IsError():
		c.outcome = endedRefused
	default:
		c.outcome = endedWell
		w.noteAnswerLocked(c, resp)
	}
}

func (w *world) noteAnswerLocked(c *call, resp *logical.Response) {
	if resp == nil {
		return
	}
	switch c.op {
	case opRead, opReport:
		value, _ := resp.Data["access_token"].(string)
		c.token = w.names[value]
		w.served = append(w.served, c.token)
		for _, warning := range resp.Warnings {
			c.tooYoung = c.tooYoung || strings.Contains(warning, "moments old")
			c.stale = c.stale || strings.Contains(warning, "stale_if_error")
			c.suspect = c.suspect || strings.Contains(warning, "An app reported")
		}
	case opReadConfig:
		seconds, _ := resp.Data["rotation_reminder"].(int64)
		c.reminder = int(seconds)
	case opReadRotation:
		c.rotation.client, _ = resp.Data["client_id"].(string)
		c.rotation.state, _ = resp.Data["state"].(string)
		c.rotation.lastRotated, _ = resp.Data["last_rotated"].(string)
	}
}
