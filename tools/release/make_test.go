// SPDX-License-Identifier: MPL-2.0

package main_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const (
	plugin  = "vault-plugin-secrets-fuuffy"
	sandbox = "fuuffy-sandbox"
	version = "v9.8.7-rc1"
)

// The other platforms take minutes to compile the first time.
var platforms = flag.String("platforms", runtime.GOOS+"/"+runtime.GOARCH, "what the releases are made for")

// made is a release of the code under test.
var made *release

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "release-")
	if err == nil {
		made = &release{filepath.Join(dir, "make-release"), filepath.Join(dir, "checkout"), filepath.Join(dir, "release")}
		_, err = run("../..", nil, "sh", "scripts/rehearse.sh", dir, version, *platforms)
	}
	status := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		status = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(status)
}

// release is a checkout of a tagged commit, and the folder with what the program makes
// of it.
type release struct {
	program, checkout, dir string
}

// clone is the same commit in other folders.
func (r *release) clone(dir string) (*release, error) {
	clone := &release{program: r.program, checkout: filepath.Join(dir, "clone"), dir: filepath.Join(dir, "made-of-clone")}
	_, err := run(dir, nil, "git", "clone", "--quiet", r.checkout, clone.checkout)
	return clone, err
}

// make runs the program, with more variables in its environment.
func (r *release) make(environment ...string) error {
	_, err := run(r.checkout, environment, r.program, "build", "-platforms="+*platforms, "-out="+r.dir)
	return err
}

// run returns what a program prints.
func run(dir string, environment []string, program string, arguments ...string) (string, error) {
	command := exec.Command(program, arguments...)
	command.Dir = dir
	command.Env = append(os.Environ(), environment...)
	output, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", program, strings.Join(arguments, " "), err, output)
	}
	return string(output), nil
}
