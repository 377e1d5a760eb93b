// Copyright (c) Fuuffy
// SPDX-License-Identifier: MPL-2.0

// Command vault builds HashiCorp Vault from its Go module, for development and
// tests on machines that have no vault of their own. It is never part of a
// release: Vault is under the Business Source License.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:]))
}
