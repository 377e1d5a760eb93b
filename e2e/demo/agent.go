// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// agentConfig makes an Agent keep the token in a file. The Agent's own Vault token comes from
// a file too: fine for a demo, not for a server.
const agentConfig = `vault {
  address = %q
}

auto_auth {
  method "token_file" {
    config = {
      token_file_path = "vault-token"
    }
  }
}

template {
  contents    = "{{ with secret \"fuuffy/token\" }}{{ .Data.access_token }}{{ end }}"
  destination = "token"
  perms       = "0600"
}
`

func (t *tour) writeAgentConfig() error {
	return t.write(map[string]string{
		"agent.hcl":   fmt.Sprintf(agentConfig, t.vaultd.Address),
		"vault-token": t.vaultd.Client.Token(),
	})
}

func (t *tour) startAgent(ctx context.Context) error {
	t.say("Apps need no code for Vault: an Agent keeps a valid token in a file.")
	if err := t.writeAgentConfig(); err != nil {
		return err
	}
	if _, err := t.shell(ctx, 0, "cat agent.hcl"); err != nil {
		return err
	}
	t.printf("\n$ vault agent -config=agent.hcl &\n")
	config, log := filepath.Join(t.stack.Dir, "agent.hcl"), filepath.Join(t.stack.Dir, "agent.log")
	if _, err := t.stack.StartAgent(t.vaultd.Binary, config, log); err != nil {
		return err
	}
	err := stack.Eventually(ctx, "the Agent to write the token", func() error {
		_, err := os.Stat(filepath.Join(t.stack.Dir, "token"))
		return err
	})
	if err != nil {
		return err
	}
	output, err := t.shell(ctx, 0, "cat token")
	if err != nil {
		return err
	}
	if err := expect(output == t.token, "the token "+short(t.token)+" in the file", short(output)); err != nil {
		return err
	}
	t.passed("The file has the token. The Agent replaces it when there is a newer one.")
	return nil
}
