// SPDX-License-Identifier: MPL-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

const readerCount = 50

// excuse is a reason for a read to fail that is none of the engine's.
type excuse struct {
	name   string
	covers func(error) bool
}

// readers are apps that read the token of one mount all the time, each through
// whichever node answers. Vault's own clients retry too, but they would hide errors
// of the engine in doing so.
type readers struct {
	*mount
	// pace is how often each of them reads, and how soon it tries again.
	pace   time.Duration
	excuse excuse
	stop   context.CancelFunc
	all    sync.WaitGroup

	// mu guards what follows.
	mu sync.Mutex
	// reads counts those that were answered with a token, by token.
	reads map[string]int
	// excused counts the failures that have an excuse, by what they say.
	excused map[string]int
	// faults are the other failures.
	faults []error
	// waiting are the readers that have not got a token since the last call of everyone, or not
	// the wanted one.
	waiting map[int]bool
	wanted  string
	// last is when a read was answered, and pause the longest time between two.
	last  time.Time
	pause time.Duration
}

// startReaders starts them. They end with the test at the latest.
func startReaders(m *mount, nodes []*stack.Vault, pace time.Duration, excuse excuse) *readers {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	r := &readers{mount: m, pace: pace, excuse: excuse, stop: cancel, reads: map[string]int{}, excused: map[string]int{}, last: time.Now()}
	m.t.Cleanup(r.end)
	for i := range readerCount {
		var clients []*api.Client
		for _, node := range nodes {
			client, err := node.NewClient()
			require.NoError(m.t, err)
			clients = append(clients, client)
		}
		r.all.Go(func() { r.readOn(ctx, i, clients) })
	}
	r.everyone()
	return r
}

// end stops the readers and waits for them.
func (r *readers) end() {
	r.stop()
	r.all.Wait()
}

// readOn is one reader's life. After a failure it turns to the next node.
func (r *readers) readOn(ctx context.Context, number int, clients []*api.Client) {
	tick := time.NewTicker(r.pace)
	defer tick.Stop()
	for node := number; ; {
		token, err := readToken(ctx, clients[node%len(clients)], r.path)
		if ctx.Err() != nil {
			return
		}
		if err == nil && !r.TokenAlive(token) {
			err = errors.New("Fuuffy does not accept the token")
		}
		if r.note(number, token, err); err != nil {
			node++
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// readToken reads the token once. A redirect that leads to another redirect is an
// answer without a token.
func readToken(ctx context.Context, client *api.Client, path string) (string, error) {
	answer, err := client.Logical().ReadRawWithContext(ctx, path+"/token")
	if answer != nil {
		defer answer.Body.Close()
	}
	if err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusOK {
		return "", &api.ResponseError{StatusCode: answer.StatusCode}
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", &url.Error{Op: "Read", URL: path, Err: err}
	}
	var secret struct {
		Data struct {
			AccessToken string `json:"access_token"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &secret); err != nil {
		return "", fmt.Errorf("decode the answer: %w", err)
	}
	if secret.Data.AccessToken == "" {
		return "", errors.New("the answer has no token")
	}
	return secret.Data.AccessToken, nil
}

// note counts the outcome of one read.
func (r *readers) note(number int, token string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.reads[token]++
		if r.wanted == "" || token == r.wanted {
			delete(r.waiting, number)
		}
		now := time.Now()
		r.pause, r.last = max(r.pause, now.Sub(r.last)), now
	case r.excuse.covers(err):
		r.excused[outline(err)]++
	default:
		r.faults = append(r.faults, err)
	}
}

// everyone waits until each reader has got a token from now on.
func (r *readers) everyone() {
	r.t.Helper()
	r.everyoneGets("")
}

// everyoneGets waits until each reader has got this token, or any if it is empty. A standby that
// serves reads hears of a change a moment after the active node made it.
func (r *readers) everyoneGets(token string) {
	r.t.Helper()
	r.mu.Lock()
	r.wanted, r.waiting = token, map[int]bool{}
	for i := range readerCount {
		r.waiting[i] = true
	}
	r.mu.Unlock()
	require.NoError(r.t, stack.Eventually(r.t.Context(), "each reader to get a token", func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.waiting) > 0 {
			return fmt.Errorf("%d of %d have none", len(r.waiting), readerCount)
		}
		return nil
	}))
}

// tokens returns how many different ones the readers got.
func (r *readers) tokens() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.reads)
}

// finish stops the readers, prints the figures, and checks that no read failed without
// an excuse.
func (r *readers) finish(what string, events int) {
	r.t.Helper()
	r.end()
	answered, failed := 0, 0
	for _, n := range r.reads {
		answered += n
	}
	for _, n := range r.excused {
		failed += n
	}
	r.t.Logf("%s: %d, readers: %d, reads: %d, failed because of %s: %d, failed otherwise: %d, longest pause: %s, tokens: %d, token requests: %d",
		what, events, readerCount, answered, r.excuse.name, failed, len(r.faults), r.pause.Round(10*time.Millisecond), len(r.reads), r.requests())
	for text, n := range r.excused {
		r.t.Logf("    %5d × %s", n, text)
	}
	require.Empty(r.t, r.faults)
}

// election is when no node is active, or a read meets one that dies.
var election = excuse{"Vault's election", func(err error) bool {
	if connection, ok := errors.AsType[*url.Error](err); ok {
		return !connection.Timeout() // There was none, or it broke.
	}
	answer, ok := errors.AsType[*api.ResponseError](err)
	switch {
	case !ok:
		return false
	case answer.StatusCode == http.StatusTemporaryRedirect:
		return true // From a node that is not active to one that is not either.
	case answer.StatusCode < http.StatusInternalServerError:
		return false
	}
	return says(answer, "Vault is sealed", "node is not active", "no active Vault instance found", "active cluster node not found")
}}

// says tells whether an answer has one of the texts.
func says(answer *api.ResponseError, texts ...string) bool {
	all := strings.Join(answer.Errors, "\n")
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(all, text) })
}

// socket is where Vault talks to a plugin's process.
var socket = regexp.MustCompile(`/[^ ]*/plugin[0-9]+`)

// outline is an error without what differs from read to read.
func outline(err error) string {
	if answer, ok := errors.AsType[*api.ResponseError](err); ok {
		text := strings.Join(strings.Fields(strings.Join(answer.Errors, ", ")), " ")
		return fmt.Sprintf("status %d %s", answer.StatusCode, socket.ReplaceAllString(text, "the plugin"))
	}
	if connection, ok := errors.AsType[*url.Error](err); ok {
		err = connection.Err
	}
	text := err.Error()
	return strings.TrimSpace(text[strings.LastIndex(text, ":")+1:])
}
