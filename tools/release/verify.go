// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// verify verifies what was staged, and writes down what it verified. It uses no login, so what
// it can do, everyone can.
func (d *delivery) verify(servers []string) error {
	if servers[0] == "" {
		return errors.New("name the programs of Vault or OpenBao to register the plugin in, with -servers")
	}
	staged := d.path("staged")
	binarySums, err := builtSums(staged, signature, provenance, imageSums)
	if err != nil {
		return err
	}
	if err := d.checkSubjects(binarySums); err != nil {
		return err
	}
	pulled, err := d.stagedImages()
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := d.pull(image, pulled[image.target], binarySums); err != nil {
			return fmt.Errorf("the image %s: %w", image.target, err)
		}
		fmt.Printf("pulled %s without a login\n", pulled[image.target])
	}
	if err := d.followGuide("Verify a release", map[string]string{"version": d.version[1:]}); err != nil {
		return err
	}
	for _, image := range images {
		if err := d.followGuide("Verify an image", map[string]string{"version": d.version[1:], "image": pulled[image.target].String()}); err != nil {
			return err
		}
	}
	for _, server := range servers {
		if err := d.register(server); err != nil {
			return fmt.Errorf("register the plugin in %s: %w", server, err)
		}
		fmt.Printf("registered the plugin in %s, and read a token\n", server)
	}
	sums, err := sumsOf(staged)
	if err != nil {
		return err
	}
	return writeSums(d.path(verifiedSums), sums)
}

// checkSubjects checks that the provenance is about everything in the release. The commands of the
// guide verify it for one archive and for the images.
func (d *delivery) checkSubjects(binarySums map[string]string) error {
	file, err := os.Open(filepath.Join(d.path("staged"), provenance))
	if err != nil {
		return err
	}
	defer file.Close()
	attested := map[string]bool{}
	for bundles := json.NewDecoder(file); bundles.More(); { // One per line.
		var bundle struct {
			DSSEEnvelope struct{ Payload []byte }
		}
		var statement struct {
			Subject []struct{ Digest map[string]string }
		}
		if err := bundles.Decode(&bundle); err != nil {
			return fmt.Errorf("read %s: %w", provenance, err)
		}
		if err := json.Unmarshal(bundle.DSSEEnvelope.Payload, &statement); err != nil {
			return fmt.Errorf("read the statement in %s: %w", provenance, err)
		}
		for _, subject := range statement.Subject {
			attested[subject.Digest["sha256"]] = true
		}
	}
	var missing []string
	for _, list := range []string{"SHA256SUMS", imageSums} {
		sums, err := readSums(filepath.Join(d.path("staged"), list))
		if err != nil {
			return err
		}
		maps.Copy(sums, binarySums)
		for _, name := range slices.Sorted(maps.Keys(sums)) {
			if !attested[sums[name]] && !slices.Contains(missing, name) {
				missing = append(missing, name)
			}
		}
	}
	if missing != nil {
		return fmt.Errorf("%s doesn't name these: %s", provenance, strings.Join(missing, ", "))
	}
	return nil
}

// pull pulls an image as everyone can, and checks what is in it.
func (d *delivery) pull(i image, ref name.Digest, binarySums map[string]string) error {
	index, err := remote.Index(ref)
	if refused, ok := errors.AsType[*transport.Error](err); ok {
		switch refused.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
			return fmt.Errorf(`no one can pull it without a login. GitHub creates each package as private. If this is the first release, open this page:
    https://github.com/orgs/fuuffy/packages/container/%s/settings
Under "Danger Zone", choose "Change visibility", then "Public". Then run the failed job again.
%w`, i.program, err)
		}
	}
	if err != nil {
		return err
	}
	return d.checkPrograms(i, index, binarySums)
}

// followGuide types the commands of a section of docs/verify.md, with other values for the variables
// that it sets. A draft can't be downloaded without a login, so a job that has one did that.
func (d *delivery) followGuide(section string, values map[string]string) error {
	commands, err := d.run(d.root, "sh", "scripts/commands.sh", "docs/verify.md", section)
	if err != nil {
		return err
	}
	for variable, value := range values {
		set := regexp.MustCompile(`(?m)^` + variable + `=.*$`)
		if !set.MatchString(commands) {
			return fmt.Errorf("%q of docs/verify.md doesn't set %s", section, variable)
		}
		commands = set.ReplaceAllLiteralString(commands, variable+"="+value)
	}
	commands = regexp.MustCompile(`(?m)^gh release download .*\n`).ReplaceAllLiteralString(commands, "")
	nowhere, err := os.MkdirTemp("", "no-login-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(nowhere)
	command := exec.Command("bash", "-euxo", "pipefail", "-c", "exec 2>&1\n"+commands)
	command.Dir = d.path("staged")
	command.Env = append(os.Environ(), "GH_TOKEN=", "GITHUB_TOKEN=", "GH_CONFIG_DIR="+nowhere, "DOCKER_CONFIG="+nowhere)
	printed, err := d.command(command)
	if err != nil {
		return fmt.Errorf("type the commands of %q: %w", section, err)
	}
	fmt.Println(printed)
	return nil
}

// registerIn registers the plugin in a server as the guide says, and reads a token from the
// sandbox of the same release.
func (d *delivery) registerIn(server string) error {
	folder, err := os.MkdirTemp("", "register-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	environment := append(os.Environ(), "VAULT_BIN="+server, "PLUGIN_VERSION="+d.version)
	for variable, program := range map[string]string{"PLUGIN_BIN": plugin, "SANDBOX_BIN": sandbox} {
		archive := fmt.Sprintf("%s_%s_%s_%s.zip", program, d.version[1:], runtime.GOOS, runtime.GOARCH)
		files, err := zip.OpenReader(filepath.Join(d.path("staged"), archive))
		if err != nil {
			return err
		}
		defer files.Close()
		unpacked := filepath.Join(folder, program)
		if err := os.CopyFS(unpacked, files); err != nil {
			return err
		}
		environment = append(environment, variable+"="+filepath.Join(unpacked, program))
	}
	command := exec.Command("go", "test", "-C", filepath.Join(d.root, "e2e"), "-count=1", "-run", "^TestReleasedProgramsInVault$", "./release",
		"-published="+d.path("staged"), "-version="+d.version)
	command.Env = environment
	printed, err := d.command(command)
	if err == nil && !strings.HasPrefix(printed, "ok ") {
		err = fmt.Errorf("no test ran: %s", printed)
	}
	return err
}
