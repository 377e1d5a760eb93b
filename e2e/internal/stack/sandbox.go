// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// Sandbox is a running fuuffy-sandbox. It writes ca.pem, client_id, and client_secret to the
// stack's directory.
type Sandbox struct {
	// BaseURL is what goes into the engine's configuration.
	BaseURL string

	adminURL string
}

// StartSandbox starts the command and waits until it is ready.
func (s *Stack) StartSandbox(ctx context.Context, binary string) (*Sandbox, error) {
	logFile := filepath.Join(s.Dir, "sandbox.log")
	p, err := s.start(logFile, binary, "-dir", s.Dir)
	if err != nil {
		return nil, err
	}
	var addresses []byte
	err = Eventually(ctx, "the sandbox to be ready", func() error {
		running := p.running()
		var err error
		addresses, err = os.ReadFile(filepath.Join(s.Dir, "addresses.env"))
		if err != nil && !running {
			return errEnded
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start the sandbox: %w\n%s", err, logTail(logFile, 10))
	}
	// The addresses contain nothing that a shell would interpret.
	sandbox := new(Sandbox)
	for line := range strings.Lines(string(addresses)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.Trim(value, "'"); name {
		case "FUUFFY_BASE_URL":
			sandbox.BaseURL = value
		case "FUUFFY_ADMIN_URL":
			sandbox.adminURL = value
		}
	}
	return sandbox, nil
}

// Stats returns what the sandbox has counted.
func (s *Sandbox) Stats(ctx context.Context) (fuuffytest.Stats, error) {
	var stats fuuffytest.Stats
	err := s.call(ctx, http.MethodGet, "/stats", nil, &stats)
	return stats, err
}

// RevokeToken makes the sandbox reject a token from now on.
func (s *Sandbox) RevokeToken(ctx context.Context, token string) error {
	return s.call(ctx, http.MethodPost, "/tokens/revoke", map[string]string{"token": token}, new(any))
}

// CreateClient makes new credentials, as the Fuuffy dashboard does, and returns them.
func (s *Sandbox) CreateClient(ctx context.Context) (id, secret string, err error) {
	var created struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	err = s.call(ctx, http.MethodPost, "/clients", map[string]string{}, &created)
	return created.ID, created.Secret, err
}

// RevokeClient revokes credentials, as the Fuuffy dashboard does.
func (s *Sandbox) RevokeClient(ctx context.Context, id string) error {
	return s.call(ctx, http.MethodDelete, "/clients/"+id, nil, new(any))
}

// StartMaintenance makes Fuuffy respond to token requests with 503, and name a time to retry.
func (s *Sandbox) StartMaintenance(ctx context.Context, retryAfter time.Duration) error {
	header := map[string]string{"Retry-After": fmt.Sprint(int(retryAfter.Seconds()))}
	return s.call(ctx, http.MethodPut, "/fault",
		map[string]any{"kind": fuuffytest.FaultStatus, "status": http.StatusServiceUnavailable, "header": header}, new(any))
}

// EndMaintenance ends it.
func (s *Sandbox) EndMaintenance(ctx context.Context) error {
	return s.call(ctx, http.MethodDelete, "/fault", nil, new(any))
}

// SetTokenLifetime sets the life of the tokens that Fuuffy issues from now on.
func (s *Sandbox) SetTokenLifetime(ctx context.Context, lifetime time.Duration) error {
	return s.call(ctx, http.MethodPut, "/token-lifetime", map[string]string{"lifetime": lifetime.String()}, new(any))
}

// call sends JSON to the sandbox's admin API and reads JSON into answer.
func (s *Sandbox) call(ctx context.Context, method, path string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("ask the sandbox: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, method, s.adminURL+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the sandbox: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("ask the sandbox: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("read the sandbox's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusCreated {
		return fmt.Errorf("ask the sandbox: %s %s: %s: %s", method, path, response.Status, text)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("read the sandbox's answer: %w", err)
	}
	return nil
}
