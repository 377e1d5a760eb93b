// SPDX-License-Identifier: MPL-2.0

package robustness

import (
	"flag"
	"os"
	"testing"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// noDisks says why no disk can be filled on this machine, nil if disks can be.
var noDisks error

func TestMain(m *testing.M) {
	flag.Parse()
	if *check == "" {
		noDisks = stack.OwnMounts()
	}
	os.Exit(m.Run())
}
