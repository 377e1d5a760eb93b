// SPDX-License-Identifier: MPL-2.0

// Package release tests what a release consists of, and the container image.
package release

import (
	"flag"
	"os"
	"testing"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

const plugin = "vault-plugin-secrets-fuuffy"

// version is that of the release that the tests make.
const version = "v9.8.7-rc1"

var (
	programs stack.Programs
	// made is a release of the code under test.
	made *release
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(stack.RunTests(m, func(p stack.Programs, s *stack.Stack) (err error) {
		programs = p
		made, err = makeRelease(s.Dir)
		return err
	}))
}
