// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/history"
)

// patience is how long a client waits for an answer.
const patience = 8 * time.Second

// answer is what a client got.
type answer struct {
	outcome  string
	status   int
	problem  string
	data     map[string]any
	warnings []string
}

func (a *answer) text(field string) string {
	text, _ := a.data[field].(string)
	return text
}

func (a *answer) number(field string) int {
	number, _ := a.data[field].(float64)
	return int(number)
}

// client sends requests to one node, as an app does that retries nothing.
type client struct {
	address, token string
	http           *http.Client
}

func newClient(address, token string) *client {
	return &client{address, token, &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 2},
		// A standby whose active node dies while it answers redirects: to follow would be
		// to send a request twice.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (c *client) send(ctx context.Context, method, path string, data map[string]any) *answer {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var body io.Reader = http.NoBody
	if data != nil {
		text, err := json.Marshal(data)
		if err != nil {
			return &answer{outcome: history.Unsent, problem: "encode the request"}
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.address+"/v1/"+path, body)
	if err != nil {
		return &answer{outcome: history.Unsent, problem: "make the request"}
	}
	r.Header.Set("X-Vault-Token", c.token)
	r.Header.Set("X-Vault-Request", "true")
	response, err := c.http.Do(r)
	if err != nil {
		return &answer{outcome: outcomeOfError(err), problem: errors.Unwrap(err).Error()}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return &answer{outcome: history.Unknown, status: response.StatusCode, problem: "the answer ended early"}
	}
	return readAnswer(response.StatusCode, text)
}

// outcomeOfError tells a request that was never sent from one that no one answered.
func outcomeOfError(err error) string {
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" || errors.Is(err, syscall.ECONNREFUSED) {
		return history.Unsent
	}
	return history.Unknown
}

func readAnswer(status int, text []byte) *answer {
	var body struct {
		Data     map[string]any `json:"data"`
		Warnings []string       `json:"warnings"`
		Errors   []string       `json:"errors"`
	}
	_ = json.Unmarshal(text, &body)
	a := &answer{status: status, data: body.Data, warnings: body.Warnings, problem: strings.Join(body.Errors, "; ")}
	switch {
	case status == http.StatusOK, status == http.StatusNoContent:
		a.outcome = history.OK
	case slices.Contains(history.Refusals, status):
		a.outcome = history.Refused
	default:
		a.outcome = history.Unknown
	}
	return a
}
