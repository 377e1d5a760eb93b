// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// program is one that the tests and the demo run.
type program struct {
	name     string // of its file
	product  string // in messages
	banner   string // what --version prints before the version
	oldest   string // that will do, as in 1.18
	variable string // names one to use. If empty, only the pinned version will do
	version  string // that is downloaded or built
	release  release
	source   source
}

// release says where the official release is.
type release struct {
	name          string // also of its directory in a mirror
	site          string
	archive, sums string
	programs      []string // in the archive
	license       string   // a notice, if there is something to know
}

// source says how to build a program.
type source struct {
	module        string // its directory
	flag, command string // for go build
	duration      string
}

const (
	vaultModule      = "github.com/hashicorp/vault"
	prometheusModule = "github.com/prometheus/prometheus"
)

// newProgram returns vault, prometheus, promtool, or a vault-1.NN.
func newProgram(tools, name string) (*program, error) {
	switch {
	case name == "vault":
		p, err := vault(filepath.Join(tools, "vault-1.21"))
		p.variable = "VAULT_BIN"
		return p, err
	case name == "prometheus" || name == "promtool":
		return prometheus(filepath.Join(tools, "prometheus"), name)
	case strings.HasPrefix(name, "vault-1."):
		if module := filepath.Join(tools, name); isDirectory(module) {
			return vault(module)
		}
	}
	vaults, err := filepath.Glob(filepath.Join(tools, "vault-*"))
	for i := range vaults {
		vaults[i] = filepath.Base(vaults[i])
	}
	return nil, errors.Join(fmt.Errorf("name one of vault, prometheus, promtool, %s", strings.Join(vaults, ", ")), err)
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func vault(module string) (*program, error) {
	version, err := pinned(module, vaultModule)
	return &program{
		name:    "vault",
		product: "Vault",
		banner:  "Vault v",
		oldest:  "1.18",
		version: version,
		release: release{
			name:     "vault",
			site:     "https://releases.hashicorp.com/vault/" + version,
			archive:  fmt.Sprintf("vault_%s_%s_%s.zip", version, runtime.GOOS, runtime.GOARCH),
			sums:     fmt.Sprintf("vault_%s_SHA256SUMS", version),
			programs: []string{"vault"},
			license:  "Vault has the Business Source License 1.1. Use it for development and tests, and never ship it with a release.",
		},
		source: source{
			module:   module,
			flag:     "-tags=minimal", // Without most of what can be built in.
			command:  vaultModule,
			duration: "about 8 minutes",
		},
	}, err
}

func prometheus(module, name string) (*program, error) {
	version, err := pinned(module, prometheusModule)
	// The module has the version 0.305.0 for Prometheus 3.5.0.
	version = regexp.MustCompile(`^0\.(\d)0?`).ReplaceAllString(version, "$1.")
	return &program{
		name:     name,
		product:  name,
		banner:   name + ", version ",
		oldest:   "2.42",
		variable: strings.ToUpper(name) + "_BIN",
		version:  version,
		release: release{
			name:     "prometheus",
			site:     "https://github.com/prometheus/prometheus/releases/download/v" + version,
			archive:  fmt.Sprintf("prometheus-%s.%s-%s.tar.gz", version, runtime.GOOS, runtime.GOARCH),
			sums:     "sha256sums.txt",
			programs: []string{"prometheus", "promtool"},
		},
		source: source{
			module:   module,
			flag:     "-ldflags=-X=github.com/prometheus/common/version.Version=" + version,
			command:  prometheusModule + "/cmd/" + name,
			duration: "up to 4 minutes",
		},
	}, err
}

// pinned returns the version of a Go module that a go.mod requires.
func pinned(module, required string) (string, error) {
	file := filepath.Join(module, "go.mod")
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the pinned version: %w", err)
	}
	match := regexp.MustCompile(`(?m)\b` + regexp.QuoteMeta(required) + ` v([0-9.]+)`).FindSubmatch(text)
	if match == nil {
		return "", fmt.Errorf("%s requires no %s", file, required)
	}
	return string(match[1]), nil
}
