// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
)

// delivery takes a release from what was built to the public. Each step is a command, because
// each runs on a machine of its own, with only the permissions that it needs. They share a
// folder, in which each adds what the next ones need:
//
//	built-*/         what "release build" built, each on another machine
//	images/TARGET/   the images, as OCI layouts
//	staged/          the files of the release
//	verified/        the checksums of the files that were verified
type delivery struct {
	version, folder, registry string
	// root is the checkout.
	root string
	// command runs a program and returns what it prints.
	command func(*exec.Cmd) (string, error)
	// register registers the release in a server, and reads a token.
	register func(server string) error
}

// Files of a release that others sign or describe.
const (
	signature  = "SHA256SUMS.sigstore.json"
	provenance = "provenance.sigstore.json"
	imageSums  = "IMAGE_SHA256SUMS"
)

// verifiedSums lists the files that were verified.
const verifiedSums = "verified/SHA256SUMS"

func (d *delivery) prepare() (err error) {
	if semver.Canonical(d.version) != d.version || d.version == "" {
		return fmt.Errorf("-version=%s is not a version that Vault accepts, such as v1.2.3 or v1.2.3-rc1", d.version)
	}
	if d.folder, err = filepath.Abs(d.folder); err != nil {
		return err
	}
	d.root, err = git("rev-parse", "--show-toplevel")
	d.register = d.registerIn
	return err
}

func (d *delivery) path(name string) string { return filepath.Join(d.folder, name) }

// run runs a program in a directory.
func (d *delivery) run(directory, program string, arguments ...string) (string, error) {
	command := exec.Command(program, arguments...)
	command.Dir = directory
	return d.command(command)
}

// notes returns what the changelog says about the version.
func (d *delivery) notes() (string, error) {
	return d.run(d.root, "sh", "scripts/changes.sh", d.version)
}

// stage checks what was built, pushes the images without a tag, and signs them and the
// checksums. Anyone can pull an image by its digest then, and who looks for it finds it: the
// signature and its public log tell the digest. But no version leads to it.
func (d *delivery) stage() error {
	if _, err := d.notes(); err != nil {
		return fmt.Errorf("write the release notes first: %w", err)
	}
	built, err := d.sameBuilds()
	if err != nil {
		return err
	}
	binarySums, err := builtSums(built)
	if err != nil {
		return err
	}
	layouts, err := d.layouts(binarySums)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(d.path("staged")), os.CopyFS(d.path("staged"), os.DirFS(built))); err != nil {
		return fmt.Errorf("copy the files of the release: %w", err)
	}
	var sums []byte
	for _, image := range images {
		digest, err := d.push(image, layouts[image.target])
		if err != nil {
			return fmt.Errorf("push the image %s: %w", image.target, err)
		}
		name := d.repository(image) + ":" + image.tags(d.version)[0]
		sums = fmt.Appendf(sums, "%s  %s\n", digest.Hex, name)
		if _, err := d.run(d.folder, "cosign", "sign", "--yes", d.repository(image)+"@"+digest.String()); err != nil {
			return fmt.Errorf("sign the image %s: %w", image.target, err)
		}
		fmt.Printf("staged %s as %s\n", name, digest)
	}
	if err := os.WriteFile(filepath.Join(d.path("staged"), imageSums), sums, 0o644); err != nil {
		return err
	}
	_, err = d.run(d.path("staged"), "cosign", "sign-blob", "--yes", "--bundle", signature, "SHA256SUMS")
	return err
}

// sameBuilds returns a folder with what was built, if all machines built the same.
func (d *delivery) sameBuilds() (string, error) {
	builds, err := filepath.Glob(d.path("built-*"))
	if err != nil {
		return "", err
	}
	if len(builds) < 2 {
		return "", fmt.Errorf("%s has %d builds, in built-*: two machines must build the release", d.folder, len(builds))
	}
	first, err := sumsOf(builds[0])
	if err != nil {
		return "", err
	}
	for _, build := range builds[1:] {
		other, err := sumsOf(build)
		if err != nil {
			return "", err
		}
		if !maps.Equal(first, other) {
			return "", fmt.Errorf("%s and %s differ in: %s", filepath.Base(builds[0]), filepath.Base(build), strings.Join(difference(first, other), ", "))
		}
	}
	fmt.Printf("%d builds are identical\n", len(builds))
	return builds[0], nil
}

// builtSums checks that SHA256SUMS lists the files in the folder and no others, and returns the
// checksums of the programs.
func builtSums(folder string, others ...string) (map[string]string, error) {
	listed, err := readSums(filepath.Join(folder, "SHA256SUMS"))
	if err != nil {
		return nil, err
	}
	all, err := sumsOf(folder)
	if err != nil {
		return nil, err
	}
	for _, name := range append(others, "SHA256SUMS") {
		if all[name] == "" {
			return nil, fmt.Errorf("%s is missing", name)
		}
		delete(all, name)
	}
	if !maps.Equal(listed, all) {
		return nil, fmt.Errorf("SHA256SUMS doesn't match these files: %s", strings.Join(difference(listed, all), ", "))
	}
	return readSums(filepath.Join(folder, "BINARY_SHA256SUMS"))
}

// draft creates the release as a draft, which only maintainers see. An older draft of the same
// tag goes.
func (d *delivery) draft() error {
	notes, err := d.notes()
	if err != nil {
		return err
	}
	switch draft, err := d.isDraft(); {
	case errors.Is(err, errNoRelease):
	case err != nil:
		return err
	case !draft:
		return fmt.Errorf("%s is public already", d.version)
	default:
		if _, err := d.run(d.root, "gh", "release", "delete", d.version, "--yes"); err != nil {
			return fmt.Errorf("delete the older draft: %w", err)
		}
	}
	files, err := filepath.Glob(filepath.Join(d.path("staged"), "*"))
	if err != nil {
		return err
	}
	arguments := []string{
		"release", "create", d.version, "--draft", "--verify-tag", "--title", d.version, "--notes", notes,
		fmt.Sprintf("--prerelease=%t", semver.Prerelease(d.version) != ""),
	}
	if _, err := d.run(d.root, "gh", append(arguments, files...)...); err != nil {
		return fmt.Errorf("create the draft: %w", err)
	}
	// What follows is done with what GitHub has.
	staged, err := sumsOf(d.path("staged"))
	if err != nil {
		return err
	}
	if err := d.compareDraft(staged); err != nil {
		return err
	}
	fmt.Printf("created the draft of %s with %d files\n", d.version, len(staged))
	return nil
}

var errNoRelease = errors.New("release not found")

// isDraft tells whether the release is a draft. The error is errNoRelease if there is neither.
func (d *delivery) isDraft() (bool, error) {
	answer, err := d.run(d.root, "gh", "release", "view", d.version, "--json", "isDraft", "--jq", ".isDraft")
	if err != nil && strings.Contains(err.Error(), errNoRelease.Error()) {
		return false, errNoRelease
	}
	if err != nil {
		return false, fmt.Errorf("look for the release: %w", err)
	}
	return strings.TrimSpace(answer) == "true", nil
}

// compareDraft downloads the files of the release and compares their checksums.
func (d *delivery) compareDraft(want map[string]string) error {
	folder, err := os.MkdirTemp("", "draft-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if _, err := d.run(d.root, "gh", "release", "download", d.version, "--dir", folder); err != nil {
		return fmt.Errorf("download the draft: %w", err)
	}
	got, err := sumsOf(folder)
	if err != nil {
		return err
	}
	if !maps.Equal(want, got) {
		return fmt.Errorf("the draft differs in: %s", strings.Join(difference(want, got), ", "))
	}
	return nil
}

// sumsOf returns the checksums of the files in a folder.
func sumsOf(folder string) (map[string]string, error) {
	files := os.DirFS(folder)
	all := map[string]string{}
	return all, fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, name)
		all[name] = fmt.Sprintf("%x", sha256.Sum256(content))
		return err
	})
}

// readSums reads a file as sha256sum writes it.
func readSums(file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for line := range bytes.Lines(text) {
		sum, name, found := strings.Cut(strings.TrimSuffix(string(line), "\n"), "  ")
		if !found || len(sum) != 2*sha256.Size {
			return nil, fmt.Errorf("%s: %q is no checksum", filepath.Base(file), line)
		}
		all[name] = sum
	}
	return all, nil
}

// writeSums writes a file as readSums reads it.
func writeSums(file string, sums map[string]string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	var text []byte
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		text = fmt.Appendf(text, "%s  %s\n", sums[name], name)
	}
	return os.WriteFile(file, text, 0o644)
}

// difference names what is not the same in both.
func difference(x, y map[string]string) (names []string) {
	all := maps.Clone(x)
	maps.Copy(all, y)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if x[name] != y[name] {
			names = append(names, name)
		}
	}
	return names
}
