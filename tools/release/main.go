// SPDX-License-Identifier: MPL-2.0

// Command release builds the files of a release, the same ones wherever it runs, and takes them
// to the public in steps: see docs/releasing.md.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

const (
	plugin  = "vault-plugin-secrets-fuuffy"
	sandbox = "fuuffy-sandbox"
	module  = "github.com/fuuffy/" + plugin
)

// programs are the programs that a release has for each platform.
var programs = []string{plugin, sandbox}

// vaultPlatforms are the platforms that Vault is released for.
const vaultPlatforms = "darwin/amd64,darwin/arm64,freebsd/amd64,linux/amd64,linux/arm64,windows/amd64"

const usage = `usage: release build | stage | draft | verify | promote [flags]

  build    builds the archives of the tag that is checked out, into dist/
  stage    pushes the images without a tag, and signs them and the checksums
  draft    creates the release as a draft
  verify   verifies what was staged as users do, without a login
  promote  tags the images and publishes the draft

for the flags of a command: release COMMAND -h`

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New(usage)
	}
	flags := flag.NewFlagSet(arguments[0], flag.ContinueOnError)
	if arguments[0] == "build" {
		platforms := flags.String("platforms", vaultPlatforms, "what to build for, such as linux/amd64,windows/amd64")
		version := flags.String("version", "", "the `tag`, if the commit has several")
		out := flags.String("out", "dist", "the `directory` to create, in the checkout unless the path is absolute")
		if err := flags.Parse(arguments[1:]); err != nil {
			return err
		}
		return buildAll(*version, strings.Split(*platforms, ","), *out)
	}
	d := &delivery{command: output}
	flags.StringVar(&d.version, "version", "", "the tag, such as v1.2.3")
	flags.StringVar(&d.folder, "folder", "", "the `directory` that the steps share: see delivery.go")
	flags.StringVar(&d.registry, "registry", "ghcr.io/fuuffy", "where the images go")
	servers := flags.String("servers", "", "for verify: the Vault and OpenBao `programs` to register the plugin in, separated by commas")
	step := map[string]func() error{
		"stage": d.stage, "draft": d.draft, "promote": d.promote,
		"verify": func() error { return d.verify(strings.Split(*servers, ",")) },
	}[arguments[0]]
	if step == nil {
		return errors.New(usage)
	}
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	if err := d.prepare(); err != nil {
		return err
	}
	return step()
}

// buildAll builds the programs for the platforms.
func buildAll(version string, platforms []string, out string) error {
	r, err := fromTag(version)
	if err != nil {
		return err
	}
	if !filepath.IsAbs(out) {
		out = filepath.Join(r.root, out)
	}
	if err := os.Mkdir(out, 0o755); err != nil {
		return fmt.Errorf("create the directory of the release: %w. If it exists, remove it, or name another with -out", err)
	}
	fmt.Printf("%s %s, of %s\n", plugin, r.version, r.time.Format(time.RFC3339))

	var binarySums, sums checksums
	for _, platform := range slices.Sorted(slices.Values(platforms)) {
		for _, program := range programs {
			a, err := r.build(program, platform)
			if err != nil {
				return fmt.Errorf("%s for %s: %w", program, platform, err)
			}
			binarySums.add(a.name+"/"+a.binaryName, a.binary)
			for name, content := range map[string][]byte{a.name + ".zip": a.zip, a.name + ".cdx.json": a.sbom} {
				sums.add(name, content)
				if err := os.WriteFile(filepath.Join(out, name), content, 0o644); err != nil {
					return err
				}
			}
			fmt.Printf("  %-14s %-28s %5.1f MB\n", platform, program, float64(len(a.zip))/1e6)
		}
	}
	if err := os.WriteFile(filepath.Join(out, "BINARY_SHA256SUMS"), binarySums.text(), 0o644); err != nil {
		return err
	}
	sums.add("BINARY_SHA256SUMS", binarySums.text())
	return os.WriteFile(filepath.Join(out, "SHA256SUMS"), sums.text(), 0o644)
}

// release has what all platforms share.
type release struct {
	// root is the checkout.
	root    string
	version string
	// time is the commit's time. The files in the archives carry it.
	time time.Time
}

// fromTag takes the version from the tag of the commit that is checked out. If the commit has
// several, as a candidate that became the release, someone must choose. Others can only rebuild
// what is in the commit, so it rejects a checkout with anything else.
func fromTag(chosen string) (*release, error) {
	root, err := git("rev-parse", "--show-toplevel")
	if err != nil {
		return nil, fmt.Errorf("a release is made in a git checkout: %w", err)
	}
	changes, err := git("status", "--porcelain")
	if err != nil {
		return nil, err
	}
	if changes != "" {
		return nil, fmt.Errorf("commit or remove these files first, because a release contains only what is in the commit:\n%s", changes)
	}
	tags, err := git("tag", "--points-at", "HEAD", "--list", "v[0-9]*")
	if err != nil {
		return nil, err
	}
	versions := strings.Fields(tags)
	if len(versions) == 0 {
		return nil, errors.New("the commit that is checked out has no version. Tag it, such as with git tag v1.2.3")
	}
	version := cmp.Or(chosen, versions[0])
	switch {
	case !slices.Contains(versions, version):
		return nil, fmt.Errorf("the commit that is checked out has no tag %s, but %s", version, strings.Join(versions, ", "))
	case chosen == "" && len(versions) > 1:
		return nil, fmt.Errorf("the commit that is checked out has several versions: %s. Choose one: make release VERSION=%s", strings.Join(versions, ", "), version)
	}
	if semver.Canonical(version) != version {
		return nil, fmt.Errorf("the tag %s is not a version that Vault accepts, such as v1.2.3 or v1.2.3-rc1", version)
	}
	seconds, err := git("log", "-1", "--format=%ct")
	if err != nil {
		return nil, err
	}
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read the commit's time: %w", err)
	}
	return &release{root: root, version: version, time: time.Unix(unix, 0).UTC()}, nil
}

func git(arguments ...string) (string, error) {
	command := exec.Command("git", arguments...)
	return output(command)
}

// output returns what a command prints, without the last line break.
func output(command *exec.Cmd) (string, error) {
	var stderr strings.Builder
	command.Stderr = &stderr
	text, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(command.Args, " "), err, text, stderr.String())
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}
