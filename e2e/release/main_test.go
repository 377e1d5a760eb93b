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
		folder = filepath.Join(s.Dir, "release")
		output, err := exec.Command("sh", "../../scripts/rehearse.sh", s.Dir, *version, runtime.GOOS+"/"+runtime.GOARCH).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("make a release: %w\n%s", err, output)
		}
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
