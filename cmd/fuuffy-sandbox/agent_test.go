// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// With -agent, an app finds what Vault Agent offers: a token in a file, and a socket to report a rejected one.
func TestRunWithAgent(t *testing.T) {
	dir := t.TempDir()
	output, stop := start(t, "-dir", dir, "-agent", "-token-lifetime", "10s")
	if !strings.Contains(output, `--unix-socket "$FUUFFY_AGENT_SOCKET"`) {
		t.Errorf("the output doesn't tell how to report a token:\n%s", output)
	}
	env := addresses(t, dir)
	socket := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", env["FUUFFY_AGENT_SOCKET"])
	}}}
	ask := func(client *http.Client, method, url, header, body string) (int, map[string]any) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Vault-Request", header)
		resp, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct {
			Data   map[string]any
			Errors []string
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || (resp.StatusCode == 200) != (len(answer.Errors) == 0) {
			t.Errorf("got %d %v, error %v", resp.StatusCode, answer.Errors, err)
		}
		return resp.StatusCode, answer.Data
	}
	const path = "http://agent" + enginePath
	token := read(t, env["FUUFFY_TOKEN_FILE"])
	if status, data := ask(socket, "GET", path, "true", ""); status != 200 || data["access_token"] != token || token == "" {
		t.Errorf("got %d, want the token of the file", status)
	}
	if status, data := ask(http.DefaultClient, "GET", env["FUUFFY_ADMIN_URL"]+enginePath+"?min_ttl=3s", "true", ""); status != 200 || data["access_token"] != token {
		t.Errorf("got %d, want the token of the file", status)
	}
	for name, tt := range map[string]struct {
		method, path, header, body string
		status                     int
	}{
		"no header":       {"GET", path, "", "", 412},
		"long min_ttl":    {"GET", path + "?min_ttl=20m", "true", "", 400},
		"other path":      {"GET", "http://agent/v1/fuuffy/config", "true", "", 403},
		"other operation": {"DELETE", path, "true", "", 403},
		"bad JSON":        {"POST", path, "true", "{", 400},
		"unknown field":   {"POST", path, "true", `{"rejected": "sk-1"}`, 400},
	} {
		if status, _ := ask(socket, tt.method, tt.path, tt.header, tt.body); status != tt.status {
			t.Errorf("%s: got %d, want %d", name, status, tt.status)
		}
	}
	for _, method := range []string{"POST", "PUT"} {
		if status, data := ask(socket, method, path, "true", `{"rejected_token": "sk-other"}`); status != 200 || data["access_token"] == "" {
			t.Errorf("%s: got %d, want a token", method, status)
		}
	}

	// The engine refuses tokens that live shorter, so the admin API doesn't set such a life either.
	for lifetime, want := range map[string]int{"9s": 400, "10s": 200} {
		request, err := http.NewRequest("PUT", env["FUUFFY_ADMIN_URL"]+"/token-lifetime", strings.NewReader(`{"lifetime": "`+lifetime+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("lifetime %s: got %d, want %d", lifetime, resp.StatusCode, want)
		}
	}

	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{tokenFile, socketFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

// The file follows the engine: the agent replaces the token before the engine stops serving it.
func TestAgentKeepsTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := 0
		a := &agent{files: directory{dir: t.TempDir()}, engine: scriptedEngine{answer: func() (*logical.Response, error) {
			tokens++
			if tokens == 2 {
				return nil, errors.New("Fuuffy is down")
			}
			return &logical.Response{Data: map[string]any{"access_token": fmt.Sprint("sk-", tokens), "ttl": int64(60)}}, nil
		}}}
		again, err := a.writeToken(t.Context())
		if err != nil || again != 61*time.Second {
			t.Fatalf("again after %s, error %v", again, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go a.keepToken(ctx, again)
		for _, want := range []struct {
			after time.Duration
			token string
		}{{60 * time.Second, "sk-1"}, {1500 * time.Millisecond, "sk-1"}, {time.Second, "sk-3"}, {61 * time.Second, "sk-4"}} {
			time.Sleep(want.after)
			synctest.Wait()
			if got := read(t, a.files.path(tokenFile)); got != want.token {
				t.Errorf("after %s: got %s, want %s", want.after, got, want.token)
			}
		}
	})
}

// scriptedEngine responds to each request as the test says.
type scriptedEngine struct {
	logical.Backend
	answer func() (*logical.Response, error)
}

func (s scriptedEngine) HandleRequest(context.Context, *logical.Request) (*logical.Response, error) {
	return s.answer()
}
