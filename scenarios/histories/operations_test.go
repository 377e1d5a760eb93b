// SPDX-License-Identifier: MPL-2.0

package histories

import (
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// work is one operation, which a node gets.
type work struct {
	weight int
	do     func(k *worker, n *node)
	// operators is set for what only operators do.
	operators bool
}

// works are what workers choose from. Each history has more of some than of others.
var works = []work{
	{24, func(k *worker, n *node) { k.read(n) }, false},
	{6, (*worker).readForAJob, false},
	{9, (*worker).report, false},
	{6, (*worker).deleteToken, true},
	{7, (*worker).writeSettings, true},
	{3, (*worker).writeCredentials, true},
	{1, (*worker).deleteConfig, true},
	{8, (*worker).rotate, true},
	{2, (*worker).compromise, true},
	{2, (*worker).markRevoked, true},
	{2, (*worker).check, true},
	{4, (*worker).readConfig, false},
	{4, (*worker).readRotation, false},
	{1, (*worker).status, false},
	{3, (*worker).periodic, false},
	{2, (*worker).restart, false},
	{1, (*worker).elect, false},
}

// Paths, as clients call them.
const (
	callToken    = "token"
	callConfig   = "config"
	callRotation = "rotate-root"
)

// act does one thing at random.
func (k *worker) act(n *node) {
	total := 0
	for i, some := range works {
		total += some.weight * k.w.tastes[i]
	}
	pick := k.random.IntN(total)
	for i, some := range works {
		if pick -= some.weight * k.w.tastes[i]; pick < 0 {
			some.do(k, n)
			return
		}
	}
}

// limit is a client's own deadline, mostly none.
func (k *worker) limit() time.Duration {
	if !chance(k.random, 0.15) {
		return 0
	}
	return time.Millisecond + upTo(k.random, 2*time.Second)
}

func (k *worker) read(n *node) *history.Call {
	return k.call(n, &history.Call{Op: history.OpRead, Limit: k.limit()}, request{logical.ReadOperation, callToken, nil})
}

// readForAJob reads a token that must live for longer than just any: mostly for up to half
// of its life, sometimes for more.
func (k *worker) readForAJob(n *node) {
	seconds := 1 + k.random.IntN(int(k.w.life.Seconds())*6/10)
	k.call(n, &history.Call{Op: history.OpRead, Limit: k.limit(), MinTTL: time.Duration(seconds) * time.Second},
		request{logical.ReadOperation, callToken, mounttest.Pairs("min_ttl", seconds)})
}

// report reports the current token, an older one, an invented one, or none.
func (k *worker) report(n *node) {
	w, c := k.w, &history.Call{Op: history.OpReport, Limit: k.limit()}
	value := ""
	switch pick := k.random.IntN(10); {
	case pick < 6:
		w.mu.Lock()
		if len(w.served) > 0 {
			c.Reported = w.served[len(w.served)-1]
			value = w.values[c.Reported]
		}
		w.mu.Unlock()
	case pick < 8:
		w.mu.Lock()
		if len(w.served) > 0 {
			c.Reported = w.served[k.random.IntN(len(w.served))]
			value = w.values[c.Reported]
		}
		w.mu.Unlock()
	case pick < 9:
		c.Reported, value = "an invented one", "sk-invented"
	}
	var data map[string]any
	if value != "" {
		data = mounttest.Pairs("rejected_token", value)
	}
	k.call(n, c, request{logical.UpdateOperation, callToken, data})
}

func (k *worker) deleteToken(n *node) {
	k.call(n, &history.Call{Op: history.OpDeleteToken, Limit: k.limit()}, request{logical.DeleteOperation, callToken, nil})
}

// writeSettings writes a rotation_reminder that no other call writes, so that a read
// shows whose write it sees.
func (k *worker) writeSettings(n *node) { k.writeConfig(n, pair{}) }

func (k *worker) writeCredentials(n *node) { k.writeConfig(n, k.pair()) }

func (k *worker) writeConfig(n *node, with pair) {
	w := k.w
	w.mu.Lock()
	w.reminder++
	set, configured := w.reminder, w.config != nil
	w.mu.Unlock()
	if !configured && with == (pair{}) {
		with = k.pair()
	}
	data := mounttest.Pairs("rotation_reminder", set, "stale_if_error", chance(k.random, w.staleIfError))
	if w.buffer > 0 {
		data["token_expiry_buffer"] = int(w.buffer.Seconds())
	}
	verify := chance(k.random, 0.6)
	if with != (pair{}) {
		data["client_id"], data["client_secret"], data["verify_connection"] = with.id, with.secret, verify
	}
	k.call(n, &history.Call{Op: history.OpWriteConfig, Limit: k.limit(), Client: with.id, Set: set, Unproved: !verify}, request{logical.UpdateOperation, callConfig, data})
}

// pair returns new credentials, or sometimes such as were created before. Those that are listed
// as unrevoked are the most interesting ones.
func (k *worker) pair() pair {
	w := k.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.clients) > 0 && chance(k.random, 0.25) {
		if w.config != nil && len(w.config.Unrevoked) > 0 && chance(k.random, 0.5) {
			return pair{w.config.Unrevoked[k.random.IntN(len(w.config.Unrevoked))].Client, mounttest.Secret}
		}
		return w.clients[k.random.IntN(len(w.clients))]
	}
	made := pair{fmt.Sprintf("C%d", len(w.clients)+1), mounttest.Secret}
	w.sandbox.CreateClient(made.id, made.secret)
	w.clients = append(w.clients, made)
	return made
}

// deleteConfig deletes the config, and mostly writes it anew.
func (k *worker) deleteConfig(n *node) {
	k.call(n, &history.Call{Op: history.OpDeleteConfig, Limit: k.limit()}, request{logical.DeleteOperation, callConfig, nil})
	if chance(k.random, 0.8) {
		k.writeCredentials(n)
	}
}

// rotate takes a step of the rotation that makes sense as things stand.
func (k *worker) rotate(n *node) {
	w := k.w
	w.mu.Lock()
	now := w.config.Shown()
	state, previous := now.State(), now.Previous
	w.mu.Unlock()
	step := func(op, path string, data map[string]any) {
		k.call(n, &history.Call{Op: op, Limit: k.limit(), Unproved: data["force"] == true}, request{logical.UpdateOperation, callRotation + path, data})
	}
	choice := k.random.IntN(10)
	switch {
	case state == history.Staged && choice < 8, choice == 0:
		step(history.OpPromote, "/promote", nil)
	case state == history.Staged, choice == 1:
		k.call(n, &history.Call{Op: history.OpDiscard, Limit: k.limit()}, request{logical.DeleteOperation, callRotation, nil})
	case state == history.Promoted && choice < 5, choice == 2:
		step(history.OpRollback, "/rollback", nil)
	case state == history.Promoted && choice == 9:
		// The stage completes the rotation first if the previous pair is revoked.
		if chance(k.random, 0.7) {
			w.sandbox.RevokeClient(previous)
		}
		k.stage(n)
	case state == history.Promoted:
		force := chance(k.random, 0.3)
		if !force && chance(k.random, 0.7) {
			w.sandbox.RevokeClient(previous)
		}
		step(history.OpComplete, "/complete", mounttest.Pairs("force", force))
	default:
		k.stage(n)
	}
}

func (k *worker) stage(n *node) {
	with := k.pair()
	k.call(n, &history.Call{Op: history.OpStage, Limit: k.limit(), Client: with.id},
		request{logical.UpdateOperation, callRotation, mounttest.Pairs("client_id", with.id, "client_secret", with.secret)})
}

func (k *worker) compromise(n *node) {
	with := k.pair()
	k.call(n, &history.Call{Op: history.OpCompromised, Limit: k.limit(), Client: with.id},
		request{logical.UpdateOperation, callRotation, mounttest.Pairs("client_id", with.id, "client_secret", with.secret, "compromised", true)})
}

// markRevoked marks one of the clients that are listed as unrevoked.
func (k *worker) markRevoked(n *node) {
	w, client := k.w, "an unknown one"
	w.mu.Lock()
	if w.config != nil && len(w.config.Unrevoked) > 0 {
		client = w.config.Unrevoked[k.random.IntN(len(w.config.Unrevoked))].Client
	}
	w.mu.Unlock()
	k.call(n, &history.Call{Op: history.OpMark, Limit: k.limit(), Client: client}, request{logical.UpdateOperation, callRotation + "/revoked", mounttest.Pairs("client_id", client)})
}

func (k *worker) check(n *node) {
	k.call(n, &history.Call{Op: history.OpCheck, Limit: k.limit()}, request{logical.UpdateOperation, callRotation + "/check", nil})
}

func (k *worker) readConfig(n *node) {
	k.call(n, &history.Call{Op: history.OpReadConfig, Limit: k.limit()}, request{logical.ReadOperation, callConfig, nil})
}

func (k *worker) readRotation(n *node) {
	k.call(n, &history.Call{Op: history.OpReadRotation, Limit: k.limit()}, request{logical.ReadOperation, callRotation, nil})
}

func (k *worker) status(n *node) {
	k.call(n, &history.Call{Op: history.OpStatus, Limit: k.limit()}, request{logical.ReadOperation, "status", nil})
}

func (k *worker) periodic(n *node) {
	k.call(n, &history.Call{Op: history.OpPeriodic}, request{logical.RollbackOperation, "", nil})
}

// restart ends the plugin, half of the time without warning. A start reads all that is
// stored, so somebody often changes that meanwhile.
func (k *worker) restart(n *node) {
	k.end(n, history.OpRestart, func() error { return k.w.restart(n, chance(k.random, 0.5)) })
}

// elect makes the standby the active node, if there is one.
func (k *worker) elect(n *node) {
	if !k.w.hasStandby() || n.name == secondaryNode {
		k.restart(n)
		return
	}
	dies, down := chance(k.random, 0.5), upTo(k.random, 20*time.Second)
	k.end(n, history.OpElect, func() error { return k.w.elect(dies, down) })
}

// end ends a process of the plugin and starts another, and records that.
func (k *worker) end(n *node, op string, do func() error) {
	w := k.w
	k.done++
	beside := &worker{w: w, name: fmt.Sprintf("%s, beside %d", k.name, k.done), random: w.stream(k.name+" beside", k.done)}
	w.mu.Lock()
	w.behindLocked(func() {
		time.Sleep(upTo(beside.random, 800*time.Millisecond))
		if w.unattended {
			return
		}
		switch beside.random.IntN(4) {
		case 0, 1:
			beside.deleteToken(n)
		case 2:
			beside.writeCredentials(n)
		}
	})
	c := &history.Call{ID: len(w.h.Calls) + 1, Worker: k.name, Op: op, Span: history.Open(w.nowLocked()), Asked: n.name, Place: history.Place{Node: n.name}, Outcome: history.OK}
	w.h.Calls = append(w.h.Calls, c)
	w.mu.Unlock()
	if err := do(); err != nil {
		c.Outcome = history.Failed
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c.Process, c.End = n.starts, w.nowLocked()
}
