// SPDX-License-Identifier: MPL-2.0

// Package monitoring runs the examples in examples/monitoring as they are: Vault
// Agent, Prometheus and its alerts. They watch a cluster of three real Vaults, as in
// the examples, and the engine in it. Only addresses, folders and intervals are replaced.
package monitoring

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	prometheus "github.com/prometheus/client_golang/api/prometheus/v1"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
)

// ClientID and ClientSecret are what every mount is configured with.
const (
	ClientID     = "shop-1"
	ClientSecret = "right-secret"
)

// nodes is how many of them the example names.
const nodes = 3

// Watched is a cluster of Vaults and what watches it.
type Watched struct {
	// Vault is the active node.
	Vault      *stack.Vault
	Prometheus *stack.Prometheus
	// Fuuffys are by mount.
	Fuuffys map[string]*fuuffytest.Server
	// Dir has the examples as they run, and TokenFile what the Agent makes.
	Dir, TokenFile string
	// FirstToken is the one that Prometheus started with.
	FirstToken string
}

// Watch starts all of it, with the mounts that the examples name, and returns when
// everything was scraped. It ends with the stack and this process.
func Watch(ctx context.Context, s *stack.Stack, p stack.Programs, fuuffy fuuffytest.Config) (*Watched, error) {
	cluster, err := s.StartCluster(ctx, p.Vault, filepath.Dir(p.Plugin), nodes)
	if err != nil {
		return nil, err
	}
	w := &Watched{Vault: cluster.Nodes[0], Fuuffys: map[string]*fuuffytest.Server{}, Dir: filepath.Join(s.Dir, "monitor")}
	w.TokenFile = filepath.Join(w.Dir, "vault-token")
	if err := w.Vault.RegisterPlugin(ctx, p.Plugin, p.PluginVersion); err != nil {
		return nil, err
	}
	for _, path := range []string{"fuuffy", "fuuffy-testing"} {
		if w.Fuuffys[path], err = fuuffytest.Start(fuuffy, "127.0.0.1:0"); err != nil {
			return nil, fmt.Errorf("start a sandbox: %w", err)
		}
		w.Fuuffys[path].CreateClient(ClientID, ClientSecret)
		err := w.Vault.Client.Sys().MountWithContext(ctx, path, &api.MountInput{Type: stack.Engine})
		if err != nil {
			return nil, fmt.Errorf("mount the engine: %w", err)
		}
		if err := w.Configure(ctx, path, ClientID, ClientSecret); err != nil {
			return nil, err
		}
	}
	if err := w.writeFiles(ctx, cluster); err != nil {
		return nil, err
	}
	if _, err := s.StartAgent(w.Vault.Binary, filepath.Join(w.Dir, "agent.hcl"), filepath.Join(w.Dir, "agent.log")); err != nil {
		return nil, err
	}
	err = stack.Eventually(ctx, "the Agent's token", func() error {
		token, err := os.ReadFile(w.TokenFile)
		w.FirstToken = string(token)
		return err
	})
	if err != nil {
		return nil, err
	}
	if w.Prometheus, err = s.StartPrometheus(ctx, p.Prometheus, filepath.Join(w.Dir, "prometheus.yml")); err != nil {
		return nil, err
	}
	return w, w.AwaitScrapes(ctx)
}

// AwaitScrapes waits until each mount was scraped on each node after this moment.
func (w *Watched) AwaitScrapes(ctx context.Context) error {
	since := time.Now()
	return stack.Eventually(ctx, "scrapes of each mount on each node", func() error {
		targets, err := w.Prometheus.API.Targets(ctx)
		if err != nil {
			return err
		}
		if len(targets.Active) != nodes*len(w.Fuuffys) {
			return fmt.Errorf("there are %d targets", len(targets.Active))
		}
		for _, target := range targets.Active {
			if target.Health != prometheus.HealthGood || target.LastScrape.Before(since) {
				return fmt.Errorf("%s is %s: %s", target.ScrapeURL, target.Health, target.LastError)
			}
		}
		return nil
	})
}

// Configure writes credentials as an operator does.
func (w *Watched) Configure(ctx context.Context, mount, clientID, clientSecret string) error {
	fuuffy := w.Fuuffys[mount]
	_, err := w.Vault.Client.Logical().WriteWithContext(ctx, mount+"/config", map[string]any{
		"client_id": clientID, "client_secret": clientSecret, "base_url": fuuffy.BaseURL(), "ca_cert": fuuffy.CACert(),
	})
	return err
}

// writeFiles writes the examples, and what is replaced in them.
func (w *Watched) writeFiles(ctx context.Context, cluster *stack.Cluster) error {
	if err := os.MkdirAll(w.Dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	roleID, secretID, err := w.newIdentity(ctx)
	if err != nil {
		return fmt.Errorf("make an AppRole: %w", err)
	}
	ca := filepath.Join(w.Dir, "vault-ca.pem")
	replaced := []string{
		"https://vault.example.com:8200", w.Vault.Address,
		"/etc/fuuffy-monitor", w.Dir,
		"/run/fuuffy-monitor", w.Dir,
		"/etc/prometheus/vault-ca.pem", ca,
		"_interval: 15s", "_interval: 1s",
	}
	files := map[string]string{"role_id": roleID, "secret_id": secretID}
	for i, node := range cluster.Nodes {
		gateway, err := newGateway(node)
		if err != nil {
			return err
		}
		replaced = append(replaced, fmt.Sprintf("vault-%d.example.com:8200", i+1), gateway.Listener.Addr().String())
		files["vault-ca.pem"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: gateway.Certificate().Raw}))
	}
	for _, name := range []string{"agent.hcl", "prometheus.yml", "alerts.yml"} {
		text, err := example("monitoring/" + name)
		if err != nil {
			return err
		}
		files[name] = strings.NewReplacer(replaced...).Replace(text)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(w.Dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// newGateway ends TLS in front of a node. All have the same certificate.
func newGateway(node *stack.Vault) (*httptest.Server, error) {
	address, err := url.Parse(node.Address)
	if err != nil {
		return nil, fmt.Errorf("parse Vault's address: %w", err)
	}
	proxy := httputil.NewSingleHostReverseProxy(address)
	// A scrape that fails is seen in Prometheus.
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	return httptest.NewTLSServer(proxy), nil
}

// newIdentity makes an AppRole with the policy for monitors. Its tokens live so short
// that the Agent must get others while Prometheus works.
func (w *Watched) newIdentity(ctx context.Context) (roleID, secretID string, err error) {
	client := w.Vault.Client
	if err := client.Sys().EnableAuthWithOptionsWithContext(ctx, "approle", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		return "", "", err
	}
	policy, err := example("policies/monitor.hcl")
	if err != nil {
		return "", "", err
	}
	var policies []string
	for mount := range w.Fuuffys {
		text := strings.ReplaceAll(policy, `"fuuffy/`, `"`+mount+`/`)
		if err := client.Sys().PutPolicyWithContext(ctx, mount+"-monitor", text); err != nil {
			return "", "", err
		}
		policies = append(policies, mount+"-monitor")
	}
	const role = "auth/approle/role/fuuffy-monitor"
	data := map[string]any{"token_policies": policies, "token_type": "batch", "token_ttl": "15s"}
	if _, err := client.Logical().WriteWithContext(ctx, role, data); err != nil {
		return "", "", err
	}
	id, err := client.Logical().ReadWithContext(ctx, role+"/role-id")
	if err != nil {
		return "", "", err
	}
	created, err := client.Logical().WriteWithContext(ctx, role+"/secret-id", nil)
	if err != nil {
		return "", "", err
	}
	return id.Data["role_id"].(string), created.Data["secret_id"].(string), nil
}

// example reads a file of the folder examples. Tests run in the folder of their
// package, other programs in that of the module.
func example(name string) (string, error) {
	for _, dir := range []string{"../../examples", "../examples"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			return string(text), nil
		}
	}
	return "", fmt.Errorf("there is no example %s: run this in e2e", name)
}
