// SPDX-License-Identifier: MPL-2.0

package release

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// The other platforms take minutes to compile the first time.
var platforms = flag.String("platforms", runtime.GOOS+"/"+runtime.GOARCH, "what the releases are made for")

// release is a checkout of a tagged commit, and the folder with what the program makes
// of it.
type release struct {
	program, checkout, dir string
}

// makeRelease copies the code under test to a folder of its own in dir, makes a commit
// of it with a tag, and a release of that.
func makeRelease(dir string) (*release, error) {
	r := &release{
		program:  filepath.Join(dir, "make-release"),
		checkout: filepath.Join(dir, "checkout"),
		dir:      filepath.Join(dir, "release"),
	}
	if err := copyTree("../..", r.checkout); err != nil {
		return nil, fmt.Errorf("copy the code: %w", err)
	}
	for _, arguments := range [][]string{
		{"init", "--quiet"},
		{"add", "--all"},
		{"-c", "user.name=e2e", "-c", "user.email=e2e@example.com", "-c", "commit.gpgsign=false", "commit", "--quiet", "--message=Release"},
		{"-c", "tag.gpgsign=false", "tag", *version},
	} {
		if _, err := run(r.checkout, nil, "git", arguments...); err != nil {
			return nil, err
		}
	}
	if _, err := run(filepath.Join(r.checkout, "tools", "release"), nil, "go", "build", "-o", r.program, "."); err != nil {
		return nil, err
	}
	return r, r.make()
}

// clone is the same commit in other folders.
func (r *release) clone(dir string) (*release, error) {
	clone := &release{program: r.program, checkout: filepath.Join(dir, "clone"), dir: filepath.Join(dir, "made-of-clone")}
	_, err := run(dir, nil, "git", "clone", "--quiet", r.checkout, clone.checkout)
	return clone, err
}

// make runs the program, with more variables in its environment.
func (r *release) make(environment ...string) error {
	_, err := run(r.checkout, environment, r.program, "-platforms="+*platforms, "-out="+r.dir)
	return err
}

// copyTree copies a checkout, but for what git ignores there.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if slices.Contains([]string{".git", "bin", "dist"}, name) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, 0o644)
	})
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
