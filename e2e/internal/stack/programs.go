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
