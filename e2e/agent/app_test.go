// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const (
	// appLife gives the tests time for all they do with one token of the file.
	appLife = 100 * time.Second
	// maxReplaceAge is how old a token must be to be replaced, or else a tenth of its
	// life.
	maxReplaceAge = 30 * time.Second
)

// appHost is a host with an Agent that has written the first token.
type appHost struct {
	*host
	life time.Duration
	// issued is just after the token was.
	issued time.Time
	token  string
}

func newAppHost(t *testing.T, path string, life time.Duration) *appHost {
	t.Helper()
	// Token requests that the test holds back must not time out.
	m := newMount(t, path, fuuffytest.Config{TokenLifetime: life}, map[string]any{"request_timeout": "30s"})
	issued := time.Now()
	a := &appHost{host: m.newHost("app"), life: life, issued: issued}
	require.NoError(t, os.WriteFile(filepath.Join(a.etc, "ca.pem"), []byte(m.CACert()), 0o600))
	a.startAgent("agent/proxy.hcl")
	a.token = tokensOf(t, []*host{a.host}, "")[0]
	return a
}

// awaitReplaceAge waits until the engine would replace the first token.
func (a *appHost) awaitReplaceAge() {
	a.t.Helper()
	replaceAge := min(maxReplaceAge, a.life/10)
	require.NoError(a.t, stack.Eventually(a.t.Context(), "the token to be old enough", func() error {
		if left := replaceAge + time.Second - time.Since(a.issued); left > 0 {
			return fmt.Errorf("%s to go", left)
		}
		return nil
	}))
}

// command prepares a program with the environment that the examples name, and the
// folders in front of PATH.
func (a *appHost) command(program string, folders ...string) *exec.Cmd {
	c := exec.CommandContext(a.t.Context(), program)
	folders = append(folders, filepath.Dir(vault.Binary), os.Getenv("PATH"))
	c.Env = append(os.Environ(),
		"PATH="+strings.Join(folders, string(os.PathListSeparator)),
		"HOME="+a.run, // Not one with the token of a person who logged in to Vault.
		"FUUFFY_BASE_URL="+a.BaseURL(),
		"FUUFFY_CA_CERT="+filepath.Join(a.etc, "ca.pem"),
		"FUUFFY_TOKEN_FILE="+filepath.Join(a.run, "token"),
		"FUUFFY_AGENT_SOCKET="+filepath.Join(a.run, "vault.sock"),
		"FUUFFY_MOUNT="+a.path,
	)
	return c
}

// runOnce runs a program that prints the orders.
func (a *appHost) runOnce(c *exec.Cmd) {
	a.t.Helper()
	output, err := c.CombinedOutput()
	require.NoError(a.t, err, string(output))
	assert.Contains(a.t, string(output), "FF-100231")
}

// TestRejectedToken takes the token away in the middle of its life.
func TestRejectedToken(t *testing.T) {
	t.Parallel()
	for _, app := range installedApps(t) {
		t.Run(app.language, func(t *testing.T) {
			t.Parallel()
			a := newAppHost(t, "rejected-"+app.language, appLife)
			a.runOnce(a.commandOf(app))
			require.Equal(t, 1, a.requests(), "token requests before")
			require.Zero(t, a.Stats().OrderRejections)
			a.awaitReplaceAge()
			require.True(t, a.RevokeToken(a.token))

			a.runOnce(a.commandOf(app))

			stats := a.Stats()
			assert.Equal(t, 2, stats.TokenRequests, "token requests: one replacement")
			assert.Equal(t, 1, stats.OrderRejections, "a 401")
			assert.Equal(t, 3, stats.OrderRequests, "orders: before, the 401, and the retry")
		})
	}
}

// TestRejectedTwice has Fuuffy refuse a token so young that the engine does not
// replace it. The app must not go round in circles.
func TestRejectedTwice(t *testing.T) {
	t.Parallel()
	for _, app := range installedApps(t) {
		t.Run(app.language, func(t *testing.T) {
			t.Parallel()
			a := newAppHost(t, "twice-"+app.language, time.Hour)
			require.True(t, a.RevokeToken(a.token))

			output, err := a.commandOf(app).CombinedOutput()

			require.Less(t, time.Since(a.issued), maxReplaceAge, "this machine is too slow for the test")
			_, failed := errors.AsType[*exec.ExitError](err)
			require.True(t, failed, "%v\n%s", err, output)
			assert.Contains(t, string(output), "Fuuffy answered 401")
			assert.NotContains(t, string(output), a.token)
			stats := a.Stats()
			assert.Equal(t, 2, stats.OrderRequests, "orders: the first try, and one more")
			assert.Equal(t, 1, stats.TokenRequests, "token requests: that for the configuration")
		})
	}
}

// TestRejectedRemembered runs an app that goes on working. The file has the rejected
// token until the Agent comes back; the app must not stumble over it each time.
func TestRejectedRemembered(t *testing.T) {
	t.Parallel()
	for _, app := range installedApps(t) {
		if app.every == "" {
			continue // It ends after one request.
		}
		t.Run(app.language, func(t *testing.T) {
			t.Parallel()
			a := newAppHost(t, "remembered-"+app.language, appLife)
			a.awaitReplaceAge()
			complaints := a.runOften(app)
			require.NoError(t, awaitOrders(t, a.Server, 5))

			require.True(t, a.RevokeToken(a.token))
			require.NoError(t, awaitOrders(t, a.Server, a.Stats().OrderRequests+20))

			content, err := os.ReadFile(filepath.Join(a.run, "token"))
			require.NoError(t, err)
			require.Equal(t, a.token, string(content), "the file has the rejected token still")
			stats := a.Stats()
			assert.Equal(t, 1, stats.OrderRejections, "a 401")
			assert.Equal(t, 2, stats.TokenRequests, "token requests: one replacement")
			assert.Empty(t, complaints())
		})
	}
}

// runOften starts an app that goes on working. complaints ends it and returns what it
// wrote to stderr.
func (a *appHost) runOften(app exampleProgram) (complaints func() string) {
	a.t.Helper()
	var stderr bytes.Buffer
	c := a.commandOf(app)
	c.Args = append(c.Args, "-every", app.every)
	c.Stderr = &stderr
	require.NoError(a.t, c.Start())
	return func() string {
		_ = c.Process.Signal(syscall.SIGTERM) // It may have ended.
		_ = c.Wait()                          // Of the signal.
		return stderr.String()
	}
}

func awaitOrders(t *testing.T, sandbox *fuuffytest.Server, n int) error {
	return stack.Eventually(t.Context(), fmt.Sprintf("%d requests for orders", n), func() error {
		if had := sandbox.Stats().OrderRequests; had < n {
			return fmt.Errorf("there were %d", had)
		}
		return nil
	})
}

// TestManyRejected has two hundred apps meet the same 401. The replacement is held
// back until each of them has. It is not parallel: two hundred programs leave the
// other tests no processor.
func TestManyRejected(t *testing.T) {
	const apps = 200
	a := newAppHost(t, "many", time.Minute)
	a.awaitReplaceAge()
	require.True(t, a.RevokeToken(a.token))
	release := a.Hold()
	defer release()

	var running sync.WaitGroup
	failures := make([]error, apps)
	for i := range apps {
		running.Go(func() {
			output, err := a.command(exampleApp).CombinedOutput()
			if err != nil || !bytes.Contains(output, []byte("FF-100231")) {
				failures[i] = fmt.Errorf("%v: %s", err, output)
			}
		})
	}
	err := stack.Eventually(t.Context(), "each app to get a 401, and one to ask for a token", func() error {
		if stats := a.Stats(); stats.OrderRejections < apps || stats.Held == 0 {
			return fmt.Errorf("%d of them have, and %d token requests are under way", stats.OrderRejections, stats.Held)
		}
		return nil
	})
	held := a.Stats().Held
	release()
	running.Wait()

	require.NoError(t, err)
	require.NoError(t, errors.Join(failures...))
	assert.Equal(t, 1, held, "token requests under way when all had their 401")
	stats := a.Stats()
	assert.Equal(t, 2, stats.TokenRequests, "token requests: one for the configuration, one for all apps")
	assert.Equal(t, apps, stats.OrderRejections)
	assert.Equal(t, 2*apps, stats.OrderRequests, "each app tries twice")
	t.Logf("%d apps got a 401 at once: %d token request, %d answered retries", apps, stats.TokenRequests-1, stats.OrderRequests-stats.OrderRejections)
}

// TestProxyAsksForHeader sends what someone's tricked app would send.
func TestProxyAsksForHeader(t *testing.T) {
	t.Parallel()
	a := newAppHost(t, "header", appLife)
	status, _ := a.readThroughSocket("")
	assert.Equal(t, http.StatusPreconditionFailed, status)
	status, body := a.readThroughSocket("true")
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, a.token)
}

// TestAgentCache reads through an Agent with a cache, as the Agent injector of
// Kubernetes configures it. It must not keep tokens: they have no lease.
func TestAgentCache(t *testing.T) {
	t.Parallel()
	m := newMount(t, "agent-cache", fuuffytest.Config{}, nil)
	a := &appHost{host: m.newHost("app")}
	a.startAgent("agent/proxy.hcl", "api_proxy {", "cache {")
	old := tokensOf(t, []*host{a.host}, "")[0]
	_, body := a.readThroughSocket("true")
	require.Contains(t, body, old)

	_, err := vault.Client.Logical().DeleteWithContext(t.Context(), m.path+"/token")
	require.NoError(t, err)

	status, body := a.readThroughSocket("true")
	assert.Equal(t, http.StatusOK, status)
	assert.NotContains(t, body, old)
}

// readThroughSocket reads the token through the Agent's listener, with a header
// X-Vault-Request, and returns status and body.
func (a *appHost) readThroughSocket(header string) (int, string) {
	a.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(a.run, "vault.sock"))
		},
	}}
	request, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, "http://agent/v1/"+a.path+"/token", nil)
	require.NoError(a.t, err)
	request.Header.Set("X-Vault-Request", header)
	response, err := client.Do(request)
	require.NoError(a.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(a.t, err)
	return response.StatusCode, string(body)
}
