// SPDX-License-Identifier: MPL-2.0

// Command vault-plugin-secrets-fuuffy is the plugin that Vault starts. It serves
// any number of mounts from one process.
package main

import (
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/plugin"

	fuuffy "github.com/fuuffy/vault-plugin-secrets-fuuffy"
)

func main() {
	err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: fuuffy.Factory})
	if err != nil {
		hclog.Default().Error("serve the plugin", "error", err)
		os.Exit(1)
	}
}
