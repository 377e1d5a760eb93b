// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"fmt"
	"os"
)

// Programs are what the tests run.
type Programs struct {
	Vault, Plugin, Sandbox string
	// PluginVersion is the version that the plugin was built as.
	PluginVersion string
}

// ProgramsToTest takes them from the environment, and clears that of what would
// disturb the tests.
func ProgramsToTest() (Programs, error) {
	var p Programs
	for name, value := range map[string]*string{
		"VAULT_BIN":      &p.Vault,
		"PLUGIN_BIN":     &p.Plugin,
		"SANDBOX_BIN":    &p.Sandbox,
		"PLUGIN_VERSION": &p.PluginVersion,
	} {
		if *value = os.Getenv(name); *value == "" {
			return p, fmt.Errorf("%s is not set: run `make test-e2e`, which builds the programs and names them", name)
		}
	}
	ClearEnvironment()
	return p, nil
}

// RunTests is what a TestMain does: it runs the tests of a package, after setUp, with
// the programs and a stack for all of them. It returns the status to exit with.
func RunTests(tests interface{ Run() int }, setUp func(Programs, *Stack) error) int {
	status, err := runTests(tests, setUp)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return status
}

func runTests(tests interface{ Run() int }, setUp func(Programs, *Stack) error) (int, error) {
	programs, err := ProgramsToTest()
	if err != nil {
		return 1, err
	}
	s, err := New()
	if err != nil {
		return 1, err
	}
	defer s.Close()
	if err := setUp(programs, s); err != nil {
		return 1, err
	}
	return tests.Run(), nil
}
