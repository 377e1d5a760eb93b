// SPDX-License-Identifier: MPL-2.0

package monitoring

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// target is an entry of static_configs, and of a file with targets.
type target struct {
	Targets []string
	Labels  map[string]string
}

// TestTargetsOfOtherNodes needs no Vault: a program prints what Vault would.
func TestTargetsOfOtherNodes(t *testing.T) {
	bin := t.TempDir()
	const list = "#!/bin/sh\nprintf '%s\\n' 'Path  Type' '----  ----' 'null/ fuuffy' 'kv/ kv' 'shops,eu/north/ fuuffy'\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "vault"), []byte(list), 0o700))
	targets := func(variables []string, nodes ...string) ([]target, error) {
		command := exec.CommandContext(t.Context(), "../../examples/monitoring/targets.sh", nodes...)
		command.Env = append(os.Environ(), append(variables, "PATH="+bin+":"+os.Getenv("PATH"))...)
		output, err := command.Output()
		var written []target
		if err == nil {
			require.NoError(t, yaml.Unmarshal(output, &written), string(output))
		} else {
			assert.Empty(t, output)
		}
		return written, err
	}
	nodes := []string{"[2001:db8::1]:8200", "vault-1.example.com:8200"}
	for namespace, prefix := range map[string]string{"": "", "team": "team/", "team/a/": "team/a/"} {
		written, err := targets([]string{"VAULT_NAMESPACE=" + namespace}, nodes...)
		require.NoError(t, err)
		assert.Equal(t, []target{
			{nodes, map[string]string{"mount": prefix + "null"}},
			{nodes, map[string]string{"mount": prefix + "shops,eu/north"}},
		}, written)
	}
	for _, node := range []string{"--help", "https://vault-1.example.com:8200", "a, b", ""} {
		_, err := targets(nil, node)
		assert.ErrorContains(t, err, "exit status 2", node)
	}
}

// TestTargets has targets.sh write what prometheus.yml lists by hand, and then watches two more
// mounts as docs/merchants.md says to.
func TestTargets(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	var listed struct {
		ScrapeConfigs []struct {
			StaticConfigs []target `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	config, err := os.ReadFile(filepath.Join(watched.Dir, "prometheus.yml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(config, &listed))
	static := listed.ScrapeConfigs[0].StaticConfigs
	nodes := static[0].Targets
	require.Len(t, nodes, 3)
	writeTargets := func() string {
		t.Helper()
		text, err := watched.Vault.Shell(ctx, ".", "../../examples/monitoring/targets.sh "+strings.Join(nodes, " "), "")
		require.NoError(t, err)
		return text
	}
	var written []target
	require.NoError(t, yaml.Unmarshal([]byte(writeTargets()), &written))
	assert.ElementsMatch(t, static, written)

	mounts := []string{"shops/north", "shops/south"}
	for _, mount := range mounts {
		fuuffy := fuuffytest.NewServer(t, fuuffytest.Config{})
		fuuffy.CreateClient(ClientID, ClientSecret)
		watched.Fuuffys[mount] = fuuffy
		require.NoError(t, watched.Vault.Client.Sys().MountWithContext(ctx, mount, &api.MountInput{Type: stack.Engine}))
		require.NoError(t, watched.Configure(ctx, mount, ClientID, ClientSecret))
		t.Cleanup(func() {
			delete(watched.Fuuffys, mount)
			assert.NoError(t, watched.Vault.Client.Sys().Unmount(mount))
		})
	}
	policy := strings.ReplaceAll(readExample(t, "policies/monitor.hcl"), `"fuuffy/`, `"shops/+/`)
	require.NoError(t, watched.Vault.Client.Sys().PutPolicyWithContext(ctx, "shops-monitor", policy))
	created, err := watched.Vault.Client.Auth().Token().CreateWithContext(ctx, &api.TokenCreateRequest{Policies: []string{"shops-monitor"}})
	require.NoError(t, err)

	discovered := regexp.MustCompile("(?s)```yaml\n(    file_sd_configs:\n.*?)```").FindStringSubmatch(readDoc(t, "merchants.md"))
	require.NotNil(t, discovered)
	discovers := regexp.MustCompile(`(?s)    static_configs:\n.*?\n\n`).ReplaceAllLiteralString(string(config), discovered[1])
	require.NotEqual(t, string(config), discovers)
	token := filepath.Join(dir, "vault-token")
	for file, content := range map[string]string{
		"prometheus.yml": strings.ReplaceAll(discovers, watched.TokenFile, token),
		"alerts.yml":     readExample(t, "monitoring/alerts.yml"),
		"fuuffy.yml":     writeTargets(),
		"vault-token":    created.Auth.ClientToken,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600))
	}
	own, err := stack.New()
	require.NoError(t, err)
	t.Cleanup(own.Close)
	server, err := own.StartPrometheus(ctx, programs.Prometheus, filepath.Join(dir, "prometheus.yml"))
	require.NoError(t, err)
	also := &Watched{Prometheus: server}
	require.NoError(t, stack.Eventually(ctx, "scrapes of the shops", func() error {
		up, err := also.samples(ctx, `up{mount=~"shops/.*"} == 1`)
		if err == nil && len(up) != len(mounts)*len(nodes) {
			err = fmt.Errorf("%d are up", len(up))
		}
		return err
	}))

	watched.Fuuffys["shops/south"].RevokeClient(ClientID)
	_, err = watched.Vault.Client.Logical().DeleteWithContext(ctx, "shops/south/token")
	require.NoError(t, err)
	_, err = watched.Vault.Client.Logical().ReadWithContext(ctx, "shops/south/token")
	require.ErrorContains(t, err, "Fuuffy rejected client "+ClientID)
	require.NoError(t, stack.Eventually(ctx, "the alert", also.firing(ctx, "Fuuffy rejects the credentials of shops/south")))
}
