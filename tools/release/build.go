// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// artifact is a program for one platform.
type artifact struct {
	program string
	// name is the name of the files, without their extensions.
	name       string
	binaryName string
	binary     []byte
	zip, sbom  []byte
}

func (r *release) build(program, platform string) (*artifact, error) {
	goos, goarch, _ := strings.Cut(platform, "/")
	a := &artifact{
		program:    program,
		name:       fmt.Sprintf("%s_%s_%s_%s", program, strings.TrimPrefix(r.version, "v"), goos, goarch),
		binaryName: program,
	}
	if goos == "windows" {
		a.binaryName += ".exe"
	}
	var err error
	if a.binary, err = r.compile(program, goos, goarch); err != nil {
		return nil, err
	}
	info, err := buildinfo.Read(bytes.NewReader(a.binary))
	if err != nil {
		return nil, fmt.Errorf("read what is in the binary: %w", err)
	}
	licenses, err := r.thirdPartyLicenses(info)
	if err != nil {
		return nil, err
	}
	if a.zip, err = r.archive(a, licenses); err != nil {
		return nil, fmt.Errorf("make the archive: %w", err)
	}
	if a.sbom, err = r.sbom(a, info); err != nil {
		return nil, fmt.Errorf("write the bill of materials: %w", err)
	}
	return a, nil
}

func (r *release) compile(program, goos, goarch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "release-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, program)
	// The Makefile builds with the same flags.
	command := r.goCommand("build", "-trimpath", "-buildvcs=false", "-mod=readonly",
		"-ldflags", "-s -w -X "+module+".version="+r.version, "-o", file, "./cmd/"+program)
	command.Env = append(command.Env, "GOOS="+goos, "GOARCH="+goarch)
	if _, err := output(command); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// goCommand runs go in the checkout, with nothing in its environment that would change what it
// builds.
func (r *release) goCommand(arguments ...string) *exec.Cmd {
	command := exec.Command("go", arguments...)
	command.Dir = r.root
	command.Env = append(os.Environ(), "GOENV=off", "GOFLAGS=", "GOWORK=off", "GODEBUG=", "GOEXPERIMENT=",
		"CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off")
	return command
}

// archive packs as HashiCorp does for Vault and its plugins.
func (r *release) archive(a *artifact, thirdPartyLicenses []byte) ([]byte, error) {
	license, err := os.ReadFile(filepath.Join(r.root, "LICENSE"))
	if err != nil {
		return nil, err
	}
	readme, err := os.ReadFile(filepath.Join(r.root, "README.md"))
	if err != nil {
		return nil, err
	}
	var buffer bytes.Buffer
	w := zip.NewWriter(&buffer)
	for _, file := range []struct {
		name    string
		content []byte
		mode    fs.FileMode
	}{
		{"LICENSE", license, 0o644},
		{"README.md", readme, 0o644},
		{"THIRD_PARTY_LICENSES", thirdPartyLicenses, 0o644},
		{a.binaryName, a.binary, 0o755},
	} {
		header := &zip.FileHeader{Name: file.name, Method: zip.Deflate, Modified: r.time}
		header.SetMode(file.mode)
		entry, err := w.CreateHeader(header)
		if err != nil {
			return nil, err
		}
		if _, err := entry.Write(file.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}

// checksums are lines as sha256sum writes and checks them.
type checksums []string

func (c *checksums) add(name string, content []byte) {
	*c = append(*c, fmt.Sprintf("%x  %s\n", sha256.Sum256(content), name))
}

// text has the lines in the order of the names.
func (c checksums) text() []byte {
	lines := slices.SortedFunc(slices.Values(c), func(x, y string) int {
		return strings.Compare(x[2*sha256.Size:], y[2*sha256.Size:])
	})
	return []byte(strings.Join(lines, ""))
}
