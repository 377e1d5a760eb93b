// SPDX-License-Identifier: MPL-2.0

// Package release tests what a release consists of.
package release

import (
	"flag"
	"os"
	"testing"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

const (
	plugin  = "vault-plugin-secrets-fuuffy"
	sandbox = "fuuffy-sandbox"
)

var (
	version = flag.String("version", "v9.8.7-rc1", "that of the release")
	// Of a published release, only TestReleasedProgramsInVault makes sense.
	published = flag.String("published", "", "a `folder` with a release to test; one is made if empty")
)

var (
	programs stack.Programs
	// made is a release of the code under test.
	made *release
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(stack.RunTests(m, func(p stack.Programs, s *stack.Stack) (err error) {
		programs = p
		if *published != "" {
			made = &release{dir: *published}
			return nil
		}
		made, err = makeRelease(s.Dir)
		return err
	}))
}
