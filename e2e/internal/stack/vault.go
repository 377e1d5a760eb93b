// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Vault is a Vault server with Raft storage. StartVault returns it initialized, unsealed, and
// active.
type Vault struct {
	// Binary is a link to the vault program whose name is vault.
	Binary string
	// LogFile has everything that the server and the plugin wrote.
	LogFile string
	Address string
	// ClusterAddress is where it listens for the other nodes of its cluster.
	ClusterAddress string
	// Client has the root token and does not retry.
	Client *api.Client

	stack     *Stack
	config    string
	data      string
	process   *process
	unsealKey string
}

// In a cluster, autopilot gives new nodes their vote. The shorter intervals keep the tests
// from waiting for it. OpenBao enables audit devices through its API only with the unsafe_
// line; Vault ignores it.
const config = `storage "raft" {
  path                         = %q
  node_id                      = %q
  performance_multiplier       = 1
  autopilot_update_interval    = "500ms"
  autopilot_reconcile_interval = "1s"
}
listener "tcp" {
  address         = %q
  cluster_address = %q
  tls_disable     = true
}
api_addr         = "http://%[3]s"
cluster_addr     = "https://%[7]s"
plugin_directory = %[5]q
disable_mlock    = true
unsafe_allow_api_audit_creation = true
log_level        = "trace"
%[6]s
`

// StartVault starts a Vault that may run the plugins in pluginDir. settings are more lines of
// its configuration.
func (s *Stack) StartVault(ctx context.Context, binary, pluginDir string, settings ...string) (*Vault, error) {
	return s.startVault(ctx, binary, pluginDir, settings, initialise)
}

// startVault starts a server without data, and calls begin to initialize it.
func (s *Stack) startVault(ctx context.Context, binary, pluginDir string, settings []string, begin func(context.Context, *Vault) error) (*Vault, error) {
	// Another process may take a free port before Vault listens on it.
	for attempt := 1; ; attempt++ {
		v, err := s.newVault(binary, pluginDir, settings)
		if err != nil {
			return nil, fmt.Errorf("prepare Vault: %w", err)
		}
		if err = v.start(ctx); err == nil {
			err = begin(ctx, v)
		}
		if err == nil {
			return v, nil
		}
		v.Kill()
		err = fmt.Errorf("start Vault: %w\nThe end of Vault's log:\n%s", err, v.LogTail())
		if attempt == 3 || !strings.Contains(err.Error(), "address already in use") {
			return nil, err
		}
	}
}

// newVault creates everything that a server needs to start.
func (s *Stack) newVault(binary, pluginDir string, settings []string) (*Vault, error) {
	s.vaults++
	name := fmt.Sprintf("vault-%d", s.vaults)
	dir := filepath.Join(s.Dir, name)
	v := &Vault{
		Binary:  filepath.Join(dir, "vault"),
		LogFile: filepath.Join(dir, "server.log"),
		config:  filepath.Join(dir, "config.hcl"),
		data:    filepath.Join(dir, "data"),
		stack:   s,
	}
	if err := os.MkdirAll(v.data, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if s.OwnDisks {
		if err := v.mountDisk(); err != nil {
			return nil, err
		}
	}
	addresses, err := freeAddresses(2)
	if err != nil {
		return nil, err
	}
	v.Address, v.ClusterAddress = "http://"+addresses[0], addresses[1]
	advertised := v.ClusterAddress
	if s.Advertise != nil {
		if advertised, err = s.Advertise(v.ClusterAddress); err != nil {
			return nil, err
		}
	}
	pluginDir, err = filepath.EvalSymlinks(pluginDir)
	if err != nil {
		return nil, fmt.Errorf("resolve plugin directory: %w", err)
	}
	text := fmt.Sprintf(config, v.data, name, addresses[0], addresses[1], pluginDir, strings.Join(settings, "\n"), advertised)
	if err := os.WriteFile(v.config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write Vault's configuration: %w", err)
	}
	if err := os.Symlink(binary, v.Binary); err != nil {
		return nil, fmt.Errorf("link vault: %w", err)
	}
	if v.Client, err = newClient(v.Address); err != nil {
		return nil, err
	}
	return v, nil
}

// start runs the server and waits until its own log says that it listens. At its address,
// another process might respond.
func (v *Vault) start(ctx context.Context) error {
	var logged int64
	if info, err := os.Stat(v.LogFile); err == nil {
		logged = info.Size()
	}
	var err error
	v.process, err = v.stack.start(v.LogFile, v.Binary, "server", "-config="+v.config)
	if err != nil {
		return err
	}
	return v.process.awaitLog(ctx, logged, " server started!")
}

func initialise(ctx context.Context, v *Vault) error {
	answer, err := v.Client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	v.unsealKey = answer.KeysB64[0]
	v.Client.SetToken(answer.RootToken)
	return v.Unseal(ctx)
}

// Unseal unseals the server and waits until it is active.
func (v *Vault) Unseal(ctx context.Context) error {
	if err := v.unseal(ctx); err != nil {
		return err
	}
	return Eventually(ctx, "Vault to be active", func() error {
		health, err := v.Client.Sys().HealthWithContext(ctx)
		switch {
		case !v.process.running():
			return errEnded
		case err != nil:
			return err
		case health.Sealed || health.Standby:
			return fmt.Errorf("sealed: %t, standby: %t", health.Sealed, health.Standby)
		}
		return nil
	})
}

func (v *Vault) unseal(ctx context.Context) error {
	if _, err := v.Client.Sys().UnsealWithContext(ctx, v.unsealKey); err != nil {
		return fmt.Errorf("unseal: %w", err)
	}
	return nil
}

// Restart starts the server on the same data, after Stop or Kill, and unseals it.
func (v *Vault) Restart(ctx context.Context) error {
	if err := v.start(ctx); err != nil {
		return fmt.Errorf("restart Vault: %w\nThe end of its log:\n%s", err, v.LogTail())
	}
	return v.Unseal(ctx)
}

// Stop ends the server as an operator would, and the plugin with it.
func (v *Vault) Stop() { v.process.stop() }

// Kill ends the server and the plugin with SIGKILL.
func (v *Vault) Kill() {
	if v.process != nil {
		v.process.kill()
	}
}

// LogTail returns the last lines of the server's log.
func (v *Vault) LogTail() string { return logTail(v.LogFile, 25) }

// Environment returns the variables for a shell that works with this Vault: its program in
// PATH, its address, and the root token.
func (v *Vault) Environment() []string {
	return []string{
		"PATH=" + filepath.Dir(v.Binary) + string(os.PathListSeparator) + os.Getenv("PATH"),
		"VAULT_ADDR=" + v.Address,
		"VAULT_TOKEN=" + v.Client.Token(),
	}
}

// Shell types lines in a shell that works with this Vault, with a text on its standard input, and
// returns what they print.
func (v *Vault) Shell(ctx context.Context, dir, lines, input string, environment ...string) (string, error) {
	command := exec.CommandContext(ctx, "sh", "-euc", lines)
	command.Dir, command.Stdin = dir, strings.NewReader(input)
	command.Env = append(append(os.Environ(), v.Environment()...), environment...)
	output, err := command.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s\n%s", err, lines, output)
	}
	return string(output), err
}

// NewClient returns a new client with the root token. It shares no connections.
func (v *Vault) NewClient() (*api.Client, error) {
	client, err := newClient(v.Address)
	if err != nil {
		return nil, err
	}
	client.SetToken(v.Client.Token())
	return client, nil
}

// newClient returns an API client that doesn't retry, so that tests see every response.
func newClient(address string) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, fmt.Errorf("configure API client: %w", config.Error)
	}
	config.Address = address
	config.MaxRetries = 0
	config.HttpClient.Transport.(*http.Transport).Proxy = nil
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	return client, nil
}

// freeAddresses returns n addresses on the loopback interface whose ports are free right now.
func freeAddresses(n int) ([]string, error) {
	var addresses []string
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		// Close them together, so that no port appears twice.
		defer listener.Close()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}
