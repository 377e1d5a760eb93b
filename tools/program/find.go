// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

// find returns the path of the program.
func (p *program) find(ctx context.Context) (string, error) {
	if p.variable != "" {
		if given := os.Getenv(p.variable); given != "" {
			return p.checkGiven(ctx, given)
		}
		if path := p.inPath(ctx); path != "" {
			return filepath.Abs(path)
		}
	}
	return p.cached(ctx)
}

// checkGiven returns the path of the program that the variable names.
func (p *program) checkGiven(ctx context.Context, given string) (string, error) {
	refused := func(format string, a ...any) (string, error) {
		return "", fmt.Errorf("%s=%s %s. Correct it, or unset it to let this script find, download, or build %s",
			p.variable, given, fmt.Sprintf(format, a...), p.name)
	}
	path, err := exec.LookPath(given)
	if err != nil {
		return refused("is not an executable file")
	}
	product, oldest, version := p.product, p.oldest, p.versionOf(ctx, path)
	if bao := versionOf(ctx, path, "OpenBao v"); p.name == "vault" && bao != "" {
		product, oldest, version = "OpenBao", "2.5", bao // The oldest that the tests ran in.
	}
	if !atLeast(version, oldest) {
		return refused("is %s; %s %s or newer is needed", cmp.Or(version, "not "+product), product, oldest)
	}
	return filepath.Abs(path)
}

// inPath returns the program in PATH if it is new enough.
func (p *program) inPath(ctx context.Context) string {
	path, err := exec.LookPath(p.name)
	if err != nil {
		return ""
	}
	if version := p.versionOf(ctx, path); !atLeast(version, p.oldest) {
		p.say("%s is %s; %s or newer is needed", path, cmp.Or(version, "not "+p.product), p.oldest)
		return ""
	}
	return path
}

// cached returns the program in the cache. If none runs there, it downloads the program, or
// else builds it.
func (p *program) cached(ctx context.Context) (string, error) {
	directory, err := p.directory()
	if err != nil {
		return "", err
	}
	removeLeftovers(directory)
	path := filepath.Join(directory, p.name)
	if p.versionOf(ctx, path) != "" {
		return path, nil
	}
	site, err := p.site()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return "", cannotWrite(err)
	}

	if p.variable != "" {
		p.say("there is no %s %s or newer in PATH", p.name, p.oldest)
	}
	if p.release.license != "" {
		p.say("%s", p.release.license)
	}
	begun := time.Now()
	err = p.put(directory, func(into string) error { return p.download(ctx, site, into) })
	if err != nil && ctx.Err() == nil {
		p.say("the download failed: %v", err)
		p.say("to download from a mirror, set PROGRAMS_URL: see CONTRIBUTING.md.%s", p.alternative())
		err = p.put(directory, func(into string) error { return p.build(ctx, into, filepath.Join(directory, "build.log")) })
	}
	if err != nil {
		return "", err
	}
	p.say("%s %s is now in %s; that took %v", p.product, p.version, directory, time.Since(begun).Round(time.Second))
	return path, nil
}

// put calls get with a directory of its own, and then moves the programs from there into
// place. Each move is one rename of a whole program, so that runs at the same time can't disturb
// each other.
func (p *program) put(directory string, get func(into string) error) error {
	aside, err := os.MkdirTemp(directory, asidePattern)
	if err != nil {
		return cannotWrite(err)
	}
	defer os.RemoveAll(aside)
	if err := get(aside); err != nil {
		return err
	}
	for _, name := range p.release.programs {
		err := os.Rename(filepath.Join(aside, name), filepath.Join(directory, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) { // A build makes only one of them.
			return cannotWrite(err)
		}
	}
	return nil
}

// directory returns where the cache has the program.
func (p *program) directory() (string, error) {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", cannotWrite(err)
		}
		cache = filepath.Join(home, ".cache")
	}
	// Who gets the path may be in another directory.
	return filepath.Abs(filepath.Join(cache, "vault-plugin-secrets-fuuffy", p.release.name+"-"+p.version))
}

func cannotWrite(err error) error {
	return fmt.Errorf("can't write to the cache: %w. Set XDG_CACHE_HOME to a directory that you may write to", err)
}

// asidePattern matches the directories in which programs are made.
const asidePattern = "new-*"

// removeLeftovers removes what killed runs left, unless a current run may need it.
func removeLeftovers(directory string) {
	left, _ := filepath.Glob(filepath.Join(directory, asidePattern))
	for _, path := range left {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			_ = os.RemoveAll(path)
		}
	}
}

// versionTimeout is how long a program may take to print its version.
var versionTimeout = 30 * time.Second

// versionOf returns the version of a program, as in 1.21.2. It is empty if the file isn't
// that program, or doesn't run.
func (p *program) versionOf(ctx context.Context, path string) string {
	return versionOf(ctx, path, p.banner)
}

// versionOf gives up on a program that hangs, or that prints without end.
func versionOf(ctx context.Context, path, banner string) string {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	var output bytes.Buffer
	command := exec.CommandContext(ctx, path, "--version")
	command.Stdout = &limited{to: &output, left: 64 << 10}
	command.Stderr = command.Stdout
	command.WaitDelay = time.Second // For a child that keeps the output open.
	_ = command.Run()
	match := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(banner) + `(\d+\.\d+[0-9.]*)`).FindSubmatch(output.Bytes())
	if match == nil {
		return ""
	}
	return string(match[1])
}

// atLeast compares major and minor. An empty version is older than any other.
func atLeast(version, oldest string) bool {
	var major, minor, oldestMajor, oldestMinor int
	_, _ = fmt.Sscanf(version, "%d.%d", &major, &minor)
	_, _ = fmt.Sscanf(oldest, "%d.%d", &oldestMajor, &oldestMinor)
	return major > oldestMajor || major == oldestMajor && minor >= oldestMinor
}

func (p *program) say(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", p.name, fmt.Sprintf(format, a...))
}

// signOfLife is how often a long run says that it is still working.
var signOfLife = 20 * time.Second

// keepSaying calls say each signOfLife, with the time since it began, until stop.
func keepSaying(say func(time.Duration)) (stop func()) {
	begun, ticker, stopped := time.Now(), time.NewTicker(signOfLife), make(chan struct{})
	go func() {
		for {
			select {
			case now := <-ticker.C:
				say(now.Sub(begun).Round(time.Second))
			case <-stopped:
				ticker.Stop()
				return
			}
		}
	}()
	return func() { close(stopped) }
}
