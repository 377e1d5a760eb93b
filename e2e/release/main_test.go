// SPDX-License-Identifier: MPL-2.0

// Package release does in a real Vault what users do with a release.
package release

import (
	"archive/zip"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

const (
	plugin  = "vault-plugin-secrets-fuuffy"
	sandbox = "fuuffy-sandbox"
)

var (
	version   = flag.String("version", "v9.8.7-rc1", "that of the release")
	published = flag.String("published", "", "a `folder` with a release to test; one is made if empty")
)

var (
	programs stack.Programs
	// folder has a release of the code under test.
	folder string
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(stack.RunTests(m, func(p stack.Programs, s *stack.Stack) (err error) {
		programs = p
		if folder = *published; folder != "" {
			return nil
		}
		if _, err = run("../..", "sh", "scripts/rehearse.sh", s.Dir, *version); err != nil {
			return err
		}
		folder = filepath.Join(s.Dir, "release")
		_, err = run(filepath.Join(s.Dir, "checkout"), filepath.Join(s.Dir, "make-release"),
			"-platforms="+runtime.GOOS+"/"+runtime.GOARCH, "-out="+folder)
		return err
	}))
}

// archive is the name of a program's archive, without its extension.
func archive(program string) string {
	return program + "_" + strings.TrimPrefix(*version, "v") + "_" + runtime.GOOS + "_" + runtime.GOARCH
}

// unpack unpacks a program's archive to a folder that is there.
func unpack(t *testing.T, program, dir string) {
	t.Helper()
	files, err := zip.OpenReader(filepath.Join(folder, archive(program)+".zip"))
	require.NoError(t, err)
	defer files.Close()
	require.NoError(t, os.CopyFS(dir, files))
}

// run returns what a program prints.
func run(dir, program string, arguments ...string) (string, error) {
	command := exec.Command(program, arguments...)
	command.Dir = dir
	output, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", program, strings.Join(arguments, " "), err, output)
	}
	return string(output), nil
}
