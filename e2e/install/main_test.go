// SPDX-License-Identifier: MPL-2.0

// Package install has the tests of docs/install.md, docs/clusters.md, docs/kubernetes.md,
// docs/merchants.md and examples/setup. They type what the guide says, and run the script, in a
// real shell against a real Vault.
package install

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

const (
	module     = "github.com/fuuffy/vault-plugin-secrets-fuuffy"
	pluginName = "vault-plugin-secrets-fuuffy"

	clientID    = "shop-1"
	newClientID = "shop-2"
	secret      = "right-secret"

	newVersion = "v99.0.0"
)

var (
	programs stack.Programs
	// newPlugin is the plugin, built as newVersion.
	newPlugin string
)

func TestMain(m *testing.M) { os.Exit(stack.RunTests(m, setUp)) }

func setUp(p stack.Programs, s *stack.Stack) error {
	programs = p
	newPlugin = filepath.Join(s.Dir, "new", pluginName)
	if err := buildPlugin(newVersion, newPlugin); err != nil {
		return err
	}
	// They wait for Vaults most of their time.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		return err
	}
	// The guide's owners and permissions are held to what Vault checks if it is told to.
	return os.Setenv("VAULT_ENABLE_FILE_PERMISSIONS_CHECK", "true")
}

// buildPlugin builds as the Makefile does, so that all but the linking is done already.
func buildPlugin(version, file string) error {
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X "+module+".version="+version,
		"-o", file, "./cmd/"+pluginName)
	build.Dir = filepath.Join("..", "..")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", build, err, output)
	}
	return nil
}

// site is a Vault with a plugin directory of its own, the machine that it is managed
// from, and a Fuuffy that knows two clients.
type site struct {
	*fuuffytest.Server
	t     *testing.T
	stack *stack.Stack
	vault *stack.Vault
	// plugins is the plugin directory.
	plugins string
	// dir is where commands are typed, and token what they are typed with: the root
	// token unless a test takes another.
	dir, token string
}

func newSite(t *testing.T, settings ...string) *site {
	t.Helper()
	s, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	site := &site{
		Server:  fuuffytest.NewServer(t, fuuffytest.Config{PerMinute: -1, PerHour: -1}),
		t:       t,
		stack:   s,
		plugins: filepath.Join(s.Dir, "plugins"),
		dir:     filepath.Join(s.Dir, "checkout"),
	}
	site.CreateClient(clientID, secret)
	site.CreateClient(newClientID, secret)
	for _, dir := range []string{site.plugins, site.dir} {
		require.NoError(t, os.Mkdir(dir, 0o755))
	}
	site.vault = site.startVault(settings...)
	site.token = site.vault.Client.Token()
	return site
}

func (s *site) startVault(settings ...string) *stack.Vault {
	s.t.Helper()
	v, err := s.stack.StartVault(s.t.Context(), programs.Vault, s.plugins, settings...)
	require.NoError(s.t, err)
	return v
}

// command is a program as someone runs it who manages the Vault. It gets the client
// secret on standard input.
func (s *site) command(program string, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(s.t.Context(), program, arguments...)
	command.Dir = s.dir
	command.Stdin = strings.NewReader(secret + "\n")
	command.Env = append(append(os.Environ(), s.vault.Environment()...),
		"VAULT_TOKEN="+s.token,
		"MAKEFLAGS=", // Of the make that runs the tests.
	)
	return command
}

// install puts a file into the plugin directory.
func (s *site) install(file, name string) {
	s.t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(filepath.Join(s.plugins, name), content, 0o755))
}

// enable sets up the engine at fuuffy/, without the guide.
func (s *site) enable() {
	s.t.Helper()
	s.install(programs.Plugin, pluginName)
	require.NoError(s.t, s.vault.RegisterPlugin(s.t.Context(), filepath.Join(s.plugins, pluginName), programs.PluginVersion))
	require.NoError(s.t, s.vault.Client.Sys().MountWithContext(s.t.Context(), "fuuffy", &api.MountInput{Type: stack.Engine}))
	s.write("config", s.credentials())
}

// credentials are what the engine needs to work.
func (s *site) credentials() map[string]any {
	return map[string]any{"client_id": clientID, "client_secret": secret, "base_url": s.BaseURL(), "ca_cert": s.CACert()}
}

// write waits for its turn, because the tests write faster than a mount sends token requests.
func (s *site) write(path string, data map[string]any) {
	s.t.Helper()
	var err error
	require.Eventually(s.t, func() bool {
		_, err = s.vault.Client.Logical().WriteWithContext(s.t.Context(), "fuuffy/"+path, data)
		return err == nil || !strings.Contains(err.Error(), "token requests a minute")
	}, time.Minute, time.Second)
	require.NoError(s.t, err)
}

// installer returns a token that may do what examples/setup/installer.hcl says.
func (s *site) installer() string {
	s.t.Helper()
	policy, err := os.ReadFile(filepath.Join("..", "..", "examples", "setup", "installer.hcl"))
	require.NoError(s.t, err)
	require.NoError(s.t, s.vault.Client.Sys().PutPolicyWithContext(s.t.Context(), "installer", string(policy)))
	created, err := s.vault.Client.Auth().Token().CreateWithContext(s.t.Context(), &api.TokenCreateRequest{Policies: []string{"installer"}})
	require.NoError(s.t, err)
	return created.Auth.ClientToken
}

// accessToken reads the token as an app does.
func (s *site) accessToken() string {
	s.t.Helper()
	token, err := s.readToken()
	require.NoError(s.t, err)
	return token
}

func (s *site) readToken() (string, error) {
	answer, err := s.vault.Client.Logical().ReadWithContext(s.t.Context(), "fuuffy/token")
	if err != nil {
		return "", err
	}
	if answer == nil {
		return "", errNothing
	}
	return answer.Data["access_token"].(string), nil
}

// running is the version that the engine says it is.
func (s *site) running() string {
	s.t.Helper()
	answer, err := s.vault.Client.Logical().ReadWithContext(s.t.Context(), "fuuffy/status")
	require.NoError(s.t, err)
	require.NotNil(s.t, answer)
	return answer.Data["version"].(string)
}

func (s *site) requests() int { return s.Stats().TokenRequests }

func (s *site) mounts() map[string]*api.MountOutput {
	s.t.Helper()
	mounts, err := s.vault.Client.Sys().ListMountsWithContext(s.t.Context())
	require.NoError(s.t, err)
	return mounts
}
