// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The rotation of the credentials, every 90 days by Fuuffy's rule:
//
//	idle ──stage──▶ staged ──promote──▶ promoted ──complete──▶ idle
//	                  │ discard               │ rollback
//	                  ▼                       ▼
//	                 idle                    idle (old credentials back)
//
// With compromised=true, stage goes straight to promoted, from any state.
const (
	stateIdle     = "idle"
	stateStaged   = "staged"
	statePromoted = "promoted"
)

// tickedOff is the step of the history that ends nothing.
const tickedOff = "ticked off"

const (
	whyCompromised = "compromised"
	restartAgents  = "restart the Agents of apps that don't report a 401: they may hold a dead token until its ttl is over"
)

// The commands that appear in more than one text. <mount> stands for the mount's path.
const (
	commandConfig   = "vault write <mount>config client_id=… client_secret=-"
	commandStage    = "vault write <mount>rotate-root client_id=… client_secret=-"
	commandPromote  = "vault write -f <mount>rotate-root/promote"
	commandComplete = "vault write -f <mount>rotate-root/complete"
	commandRollback = "vault write -f <mount>rotate-root/rollback"
	commandDiscard  = "vault delete <mount>rotate-root"
	commandCheck    = "vault write -f <mount>rotate-root/check"
)

// maxHistory is how many steps the engine remembers. Vault's audit log has who took them.
const maxHistory = 10

// rotation is the state of a rotation. It is part of the stored configuration.
type rotation struct {
	// Staged is proved to work and waits to be promoted.
	Staged   *credentials `json:"staged,omitempty"`
	StagedAt time.Time    `json:"staged_at,omitzero"`
	// Previous was in force before the promotion and is kept until it is dead.
	Previous   *credentials `json:"previous,omitempty"`
	PromotedAt time.Time    `json:"promoted_at,omitzero"`
	// Compromised is set when Previous may be in the wrong hands. The engine never uses it
	// again.
	Compromised bool             `json:"compromised,omitempty"`
	History     []rotationRecord `json:"history,omitempty"`
	// Unrevoked are the clients that were dropped without proof that they are dead, until an
	// operator ticks them off.
	Unrevoked []unrevokedClient `json:"unrevoked,omitempty"`
}

// unrevokedClient is a client whose secret may still work. Its secret is not kept.
type unrevokedClient struct {
	ClientID string    `json:"client_id"`
	Why      string    `json:"why"`
	Since    time.Time `json:"since"`
}

// maxUnrevoked bounds that list. One client more drops the oldest.
const maxUnrevoked = 20

// rotationRecord is one step that was taken.
type rotationRecord struct {
	Step     string    `json:"step"`
	At       time.Time `json:"at"`
	ClientID string    `json:"client_id"`
	Detail   string    `json:"detail,omitempty"`
}

func (h rotationRecord) String() string {
	text := h.Step + " " + h.ClientID
	if h.Detail != "" {
		text += " (" + h.Detail + ")"
	}
	return text
}

func (r *rotation) state() string {
	switch {
	case r.Previous != nil:
		return statePromoted
	case r.Staged != nil:
		return stateStaged
	}
	return stateIdle
}

// note appends to a copy of the history, because the loaded entry shares the array.
func (r *rotation) note(record rotationRecord) {
	history := append([]rotationRecord{}, r.History...)
	history = append(history, record)
	r.History = history[max(0, len(history)-maxHistory):]
}

// history is the records as users read them, a step a line.
func (r *rotation) history() string {
	lines := make([]string, 0, len(r.History))
	for _, h := range r.History {
		lines = append(lines, h.At.UTC().Format(time.RFC3339)+" "+h.String())
	}
	return strings.Join(lines, "\n")
}

// giveUp remembers a client that is not known to be dead. It returns the client that falls off
// the list, if any. It changes a copy, because the loaded entry shares the array.
func (r *rotation) giveUp(clientID, why string, now time.Time) (dropped string) {
	list := append([]unrevokedClient{}, r.Unrevoked...)
	list = append(list, unrevokedClient{ClientID: clientID, Why: why, Since: now})
	if len(list) > maxUnrevoked {
		dropped, list = list[0].ClientID, list[1:]
	}
	r.Unrevoked = list
	return dropped
}

// tickOff takes a client off the list, and tells whether it was there.
func (r *rotation) tickOff(clientID string) bool {
	left := slices.DeleteFunc(slices.Clone(r.Unrevoked), func(u unrevokedClient) bool { return u.ClientID == clientID })
	found := len(left) < len(r.Unrevoked)
	r.Unrevoked = left
	return found
}

// unrevoked is the list as users read it, a client a line.
func (r *rotation) unrevoked() string {
	lines := make([]string, 0, len(r.Unrevoked))
	for _, u := range r.Unrevoked {
		lines = append(lines, fmt.Sprintf("%s %s (%s)", u.Since.UTC().Format(time.RFC3339), u.ClientID, u.Why))
	}
	return strings.Join(lines, "\n")
}

// fallback returns the credentials to try when those in force are rejected.
func (r *rotation) fallback() *credentials {
	if r.Compromised {
		return nil
	}
	return r.Previous
}

// clientIDOf is empty for no credentials.
func clientIDOf(pair *credentials) string {
	if pair == nil {
		return ""
	}
	return pair.ClientID
}
