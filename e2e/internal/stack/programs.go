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
	// Prometheus and Promtool are empty unless the environment names them: see
	// NeedPrometheus.
	Prometheus, Promtool string
	// Terraform is Terraform or OpenTofu. It is empty unless the environment names it. It
	// finds the Vault provider in its registry, or where TF_CLI_CONFIG_FILE says.
	Terraform string
}

// ProgramsToTest takes them from the environment, and then clears the variables that would
// disturb the tests.
func ProgramsToTest() (Programs, error) {
	p := Programs{
		Vault:         os.Getenv("VAULT_BIN"),
		Plugin:        os.Getenv("PLUGIN_BIN"),
		Sandbox:       os.Getenv("SANDBOX_BIN"),
		PluginVersion: os.Getenv("PLUGIN_VERSION"),
		Prometheus:    os.Getenv("PROMETHEUS_BIN"),
		Promtool:      os.Getenv("PROMTOOL_BIN"),
		Terraform:     os.Getenv("TERRAFORM_BIN"),
	}
	for name, value := range map[string]string{
		"VAULT_BIN":      p.Vault,
		"PLUGIN_BIN":     p.Plugin,
		"SANDBOX_BIN":    p.Sandbox,
		"PLUGIN_VERSION": p.PluginVersion,
	} {
		if value == "" {
			return p, notSet(name)
		}
	}
	ClearEnvironment()
	return p, nil
}

// NeedPrometheus returns an error unless the environment names Prometheus and promtool. Only
// packages that call it need them.
func (p Programs) NeedPrometheus() error {
	if p.Prometheus == "" {
		return notSet("PROMETHEUS_BIN")
	}
	if p.Promtool == "" {
		return notSet("PROMTOOL_BIN")
	}
	return nil
}

func notSet(name string) error {
	return fmt.Errorf("%s is not set: run `make test-e2e`, which gets the programs and names them", name)
}

// RunTests is the body of a TestMain: after setUp, it runs the tests of a package with the
// programs and one stack for all of them. It returns the exit status.
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
