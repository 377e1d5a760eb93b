// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const deliveredVersion = "v9.8.7-rc1"

// Without a real release, what is delivered only looks like one, and no server starts.
var (
	builtRelease = flag.String("built", "", "a `folder` with "+deliveredVersion+" for linux/amd64 and linux/arm64 to deliver")
	servers      = flag.String("servers", "vault,bao", "`programs` to register it in, separated by commas")
)

// world is what a delivery changes: a registry, and a release at GitHub. It counts what it is
// asked, and fails one time.
type world struct {
	t        *testing.T
	delivery *delivery
	// draft is a folder with the files of the release at GitHub, empty if there is none.
	draft  string
	public bool
	// private makes the registry refuse who has no login.
	private bool
	// images is the registry, and signed has the images in it that were signed.
	images http.Handler
	signed map[string]bool

	mu    sync.Mutex
	calls []string
	// quick leaves out the commands of the guide.
	quick bool
	// failing is the number of the call that fails, from 1 on. late makes it fail after it was
	// done, as if only the answer were lost. always makes those after it fail too.
	failing      int
	late, always bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, images: newRegistry(), signed: map[string]bool{}}
	server := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		if w.private {
			http.Error(answer, `{"errors":[{"code":"DENIED"}]}`, http.StatusForbidden)
			return
		}
		kept := httptest.NewRecorder()
		if _, err := w.call("registry "+request.Method, func() (string, error) {
			w.images.ServeHTTP(kept, request)
			return "", nil
		}); err != nil {
			http.Error(answer, err.Error(), http.StatusBadRequest)
			return
		}
		maps.Copy(answer.Header(), kept.Header())
		answer.WriteHeader(kept.Code)
		_, _ = kept.Body.WriteTo(answer)
	}))
	t.Cleanup(server.Close)
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	w.delivery = &delivery{
		version: deliveredVersion, folder: t.TempDir(), root: root,
		registry: strings.TrimPrefix(server.URL, "http://") + "/fuuffy",
		command:  w.command,
	}
	w.delivery.register = func(server string) error {
		_, err := w.call("register in "+server, func() (string, error) {
			if *builtRelease == "" {
				return "", nil
			}
			return "", w.delivery.registerIn(server)
		})
		return err
	}
	w.build()
	return w
}

func newRegistry() http.Handler { return registry.New(registry.Logger(log.New(io.Discard, "", 0))) }

// call is one thing that the delivery asks of the world.
func (w *world) call(what string, do func() (string, error)) (string, error) {
	w.mu.Lock()
	w.calls = append(w.calls, what)
	failing := w.failing > 0 && (len(w.calls) == w.failing || w.always && len(w.calls) > w.failing)
	w.mu.Unlock()
	if failing && !w.late {
		return "", fmt.Errorf("%s fails", what)
	}
	answer, err := do()
	if failing {
		return "", fmt.Errorf("the answer to %s is lost", what)
	}
	return answer, err
}

// command stands in for what is not on every machine, and runs the rest.
func (w *world) command(command *exec.Cmd) (string, error) {
	arguments := command.Args
	what := strings.Join(arguments[:min(3, len(arguments))], " ")
	do := func() (string, error) { return output(command) }
	switch arguments[0] {
	case "gh":
		do = func() (string, error) { return w.gh(arguments[1:]) }
	case "cosign":
		do = func() (string, error) { return "", w.cosign(command.Dir, arguments[1:]) }
	case "bash":
		// The commands of the guide.
		what = "bash"
		if w.quick {
			do = func() (string, error) { return "", nil }
		}
		command.Env = append(command.Env, "PATH="+filepath.Join(w.delivery.folder, "bin")+":"+os.Getenv("PATH"))
	case "sh":
		what = "sh " + arguments[1]
		if strings.HasSuffix(arguments[1], "changes.sh") {
			do = func() (string, error) { return "- new\n", nil }
		} else if w.quick {
			do = func() (string, error) { return "version=0.1.0\nimage=plugin\n", nil }
		}
	}
	return w.call(what, do)
}

// gh does what gh does with a release.
func (w *world) gh(arguments []string) (string, error) {
	require.Equal(w.t, []string{"release", deliveredVersion}, []string{arguments[0], arguments[2]})
	if w.draft == "" && arguments[1] != "create" {
		return "", errNoRelease
	}
	switch arguments[1] {
	case "view":
		return fmt.Sprintf("%t\n", !w.public), nil
	case "delete":
		w.draft = ""
	case "edit":
		require.Equal(w.t, []string{"--draft=false"}, arguments[3:])
		w.public = true
	case "download":
		require.Equal(w.t, "--dir", arguments[3])
		return "", os.CopyFS(arguments[4], os.DirFS(w.draft))
	case "create":
		require.Contains(w.t, arguments, "--draft")
		require.Contains(w.t, arguments, "--prerelease=true")
		require.Empty(w.t, w.draft, "there would be two drafts")
		w.draft = w.t.TempDir()
		files := arguments[slices.Index(arguments, "--prerelease=true")+1:]
		for _, file := range files {
			content, err := os.ReadFile(file)
			require.NoError(w.t, err)
			require.NoError(w.t, os.WriteFile(filepath.Join(w.draft, filepath.Base(file)), content, 0o644))
		}
	default:
		return "", fmt.Errorf("unknown command %q", arguments[1])
	}
	return "", nil
}

// cosign only writes the file that the real one writes, and remembers which images it signed.
func (w *world) cosign(directory string, arguments []string) error {
	if arguments[0] == "sign" {
		w.signed[arguments[len(arguments)-1]] = true
	}
	if bundle := slices.Index(arguments, "--bundle"); bundle > 0 {
		return os.WriteFile(filepath.Join(directory, arguments[bundle+1]), []byte("{}\n"), 0o644)
	}
	return nil
}

// write writes a file in the folder of the delivery.
func (w *world) write(name, content string) {
	w.t.Helper()
	file := w.delivery.path(name)
	require.NoError(w.t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(w.t, os.WriteFile(file, []byte(content), 0o755))
}

// build makes two equal builds and their images.
func (w *world) build() {
	w.t.Helper()
	built := *builtRelease
	if built == "" {
		built = w.fakeBuild()
	}
	for _, machine := range []string{"built-amd64", "built-arm64"} {
		require.NoError(w.t, os.CopyFS(w.delivery.path(machine), os.DirFS(built)))
	}
	for _, image := range images {
		w.buildImage(image, func(platform string) []byte {
			archive := filepath.Join(built, strings.Join([]string{image.program, deliveredVersion[1:], "linux", platform}, "_")+".zip")
			if *builtRelease == "" {
				return []byte(image.program + " for linux/" + platform)
			}
			return unzipped(w.t, archive, image.program)
		})
	}
	// The guide's commands run these. What they verify, only GitHub can sign.
	for _, program := range []string{"gh", "cosign"} {
		w.write("bin/"+program, "#!/bin/sh\n[ ! -e \"$0-fails\" ]\n")
	}
}

func (w *world) fakeBuild() string {
	folder := w.t.TempDir()
	var sums, binarySums checksums
	put := func(name string, content []byte) {
		require.NoError(w.t, os.WriteFile(filepath.Join(folder, name), content, 0o644))
	}
	for _, program := range programs {
		for _, platform := range []string{"linux_amd64", "linux_arm64"} {
			name := program + "_" + deliveredVersion[1:] + "_" + platform
			binarySums.add(name+"/"+program, []byte(program+" for "+strings.ReplaceAll(platform, "_", "/")))
			put(name+".zip", []byte(name))
			sums.add(name+".zip", []byte(name))
		}
	}
	put("BINARY_SHA256SUMS", binarySums.text())
	sums.add("BINARY_SHA256SUMS", binarySums.text())
	put("SHA256SUMS", sums.text())
	return folder
}

// buildImage writes an OCI layout as the Dockerfile's build does, with a program in its root.
func (w *world) buildImage(i image, program func(platform string) []byte) {
	w.t.Helper()
	index := v1.ImageIndex(empty.Index)
	for _, platform := range []string{"amd64", "arm64"} {
		var files bytes.Buffer
		archive := tar.NewWriter(&files)
		content := program(platform)
		require.NoError(w.t, archive.WriteHeader(&tar.Header{Name: i.program, Mode: 0o755, Size: int64(len(content))}))
		_, err := archive.Write(content)
		require.NoError(w.t, err)
		require.NoError(w.t, archive.Close())
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
		require.NoError(w.t, err)
		single, err := mutate.AppendLayers(empty.Image, layer)
		require.NoError(w.t, err)
		single, err = mutate.ConfigFile(single, &v1.ConfigFile{OS: "linux", Architecture: platform, Author: i.target, RootFS: configOf(w.t, single).RootFS})
		require.NoError(w.t, err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: single, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: platform}},
		})
	}
	folder := filepath.Join(w.delivery.path("images"), i.target)
	require.NoError(w.t, os.RemoveAll(folder))
	written, err := layout.Write(folder, empty.Index)
	require.NoError(w.t, err)
	require.NoError(w.t, written.AppendIndex(index))
}

func configOf(t *testing.T, single v1.Image) *v1.ConfigFile {
	t.Helper()
	config, err := single.ConfigFile()
	require.NoError(t, err)
	return config
}

// step is one command of the program, as the workflow runs it.
type step struct {
	name string
	do   func() error
}

func (w *world) steps() []step {
	return []step{
		{"stage", w.delivery.stage},
		{"attest", func() error {
			_, err := w.call("attest", func() (string, error) { return "", nil })
			w.attest("SHA256SUMS", "BINARY_SHA256SUMS", imageSums)
			return err
		}},
		{"draft", w.delivery.draft},
		{"verify", func() error { return w.delivery.verify(strings.Split(*servers, ",")) }},
		{"promote", w.delivery.promote},
	}
}

// attest writes what GitHub signs about the files and images in lists of checksums.
func (w *world) attest(lists ...string) {
	w.t.Helper()
	var subjects []map[string]any
	for _, list := range lists {
		sums, err := readSums(w.delivery.path("staged/" + list))
		require.NoError(w.t, err)
		for _, name := range slices.Sorted(maps.Keys(sums)) {
			subjects = append(subjects, map[string]any{"name": name, "digest": map[string]string{"sha256": sums[name]}})
		}
	}
	statement, err := json.Marshal(map[string]any{"subject": subjects})
	require.NoError(w.t, err)
	bundle, err := json.Marshal(map[string]any{"dsseEnvelope": map[string]any{"payload": statement}})
	require.NoError(w.t, err)
	w.write("staged/"+provenance, string(bundle)+"\n")
}

// ask asks the registry without the network, which takes a hundredth of the time.
func (w *world) ask(method, program, path string) (int, []byte) {
	answer := httptest.NewRecorder()
	w.images.ServeHTTP(answer, httptest.NewRequest(method, "/v2/fuuffy/"+program+"/"+path, nil))
	return answer.Code, answer.Body.Bytes()
}

// publicTags returns the tags that everyone can pull.
func (w *world) publicTags() (tags []string) {
	w.t.Helper()
	w.failing = 0
	for _, image := range images {
		for _, tag := range image.tags(deliveredVersion) {
			if status, _ := w.ask(http.MethodGet, image.program, "manifests/"+tag); status == http.StatusOK {
				tags = append(tags, image.program+":"+tag)
			} else {
				require.Equal(w.t, http.StatusNotFound, status)
			}
		}
	}
	return tags
}

// requireWhole requires that an image and all that it consists of are in the registry.
func (w *world) requireWhole(program, digest string) {
	w.t.Helper()
	status, text := w.ask(http.MethodGet, program, "manifests/"+digest)
	require.Equal(w.t, http.StatusOK, status, digest)
	type described struct{ Digest string }
	var manifest struct {
		Config            described
		Manifests, Layers []described
	}
	require.NoError(w.t, json.Unmarshal(text, &manifest))
	require.NotEmpty(w.t, append(manifest.Manifests, manifest.Layers...))
	for _, single := range manifest.Manifests {
		w.requireWhole(program, single.Digest)
	}
	for _, blob := range append(manifest.Layers, manifest.Config) {
		if blob.Digest != "" {
			status, _ := w.ask(http.MethodGet, program, "blobs/"+blob.Digest)
			require.Equal(w.t, http.StatusOK, status, blob.Digest)
		}
	}
}

func (w *world) requireNothingPublic() {
	w.t.Helper()
	require.False(w.t, w.public, "the release is public")
	require.Empty(w.t, w.publicTags())
}

func TestDelivery(t *testing.T) {
	w := newWorld(t)
	for _, s := range w.steps() {
		w.requireNothingPublic()
		require.NoError(t, s.do(), s.name)
	}
	assert.True(t, w.public)
	assert.Len(t, w.publicTags(), 6)
	released, err := sumsOf(w.draft)
	require.NoError(t, err)
	verified, err := readSums(w.delivery.path(verifiedSums))
	require.NoError(t, err)
	assert.Equal(t, verified, released)
	assert.ErrorContains(t, w.delivery.promote(), "is public already")
	assert.ErrorContains(t, w.delivery.draft(), "is public already")
}

// Each call that a step makes fails once, or is done and its answer lost. Then nothing is public,
// and the same step can run again, to the same end as if nothing had failed.
func TestFailedDelivery(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("answer lost: %t", late), func(t *testing.T) {
			t.Parallel()
			failed := map[string]int{}
			w := newWorld(t)
			w.late, w.quick = late, true
			for _, s := range w.steps() {
				before := w.keep()
				require.NoError(t, s.do(), s.name)
				want := w.now()
				for k, all := 1, false; !all; k++ {
					w.restore(before)
					begun := len(w.calls)
					w.failing = begun + k
					err := s.do()
					all = len(w.calls) < w.failing
					if err != nil {
						w.requireNothingPublic()
						call := s.name + ": " + w.calls[begun+k-1]
						failed[call]++
						require.NoError(t, s.do(), "after %s failed", call)
					}
					w.failing = 0
					require.Equal(t, want, w.now(), "%s, call %d", s.name, k)
				}
			}
			require.True(t, w.public)
			require.Len(t, w.publicTags(), 6)
			for _, each := range slices.Sorted(maps.Keys(failed)) {
				t.Logf("%3d× %s", failed[each], each)
			}
			assert.Equal(t, 6, failed["promote: registry PUT"], "one for each tag")
		})
	}
}

// kept is what a step begins with.
type kept struct {
	draft  string
	folder string // with copies of the folders that the steps write
	// written has the checksums of their files.
	written map[string]map[string]string
	signed  map[string]bool
}

var written = []string{"staged", "verified"}

func (w *world) keep() kept {
	w.t.Helper()
	k := kept{draft: w.draft, folder: w.t.TempDir(), signed: maps.Clone(w.signed), written: map[string]map[string]string{}}
	for _, folder := range written {
		require.NoError(w.t, os.MkdirAll(w.delivery.path(folder), 0o755))
		k.written[folder] = w.sums(folder)
		require.NoError(w.t, os.CopyFS(filepath.Join(k.folder, folder), os.DirFS(w.delivery.path(folder))))
	}
	return k
}

func (w *world) sums(folder string) map[string]string {
	w.t.Helper()
	sums, err := sumsOf(w.delivery.path(folder))
	require.NoError(w.t, err)
	return sums
}

// restore makes the world as it was. Before the release is staged, the registry is empty, and later
// it has all images, without tags.
func (w *world) restore(k kept) {
	w.t.Helper()
	w.draft, w.public, w.signed = k.draft, false, maps.Clone(k.signed)
	for _, folder := range written {
		if want := k.written[folder]; maps.Equal(want, w.sums(folder)) {
			continue // Most steps only read.
		}
		require.NoError(w.t, os.RemoveAll(w.delivery.path(folder)))
		require.NoError(w.t, os.CopyFS(w.delivery.path(folder), os.DirFS(filepath.Join(k.folder, folder))))
	}
	if len(k.signed) == 0 {
		w.images = newRegistry()
	}
	for _, image := range images {
		for _, tag := range image.tags(deliveredVersion) {
			w.ask(http.MethodDelete, image.program, "manifests/"+tag)
		}
	}
}

// state is what the steps have changed.
type state struct {
	Public         bool
	Tags, Signed   []string
	Written, Draft map[string]string
}

// now also requires that what was staged can be pulled, and is signed.
func (w *world) now() state {
	w.t.Helper()
	s := state{Public: w.public, Tags: w.publicTags(), Signed: slices.Sorted(maps.Keys(w.signed)), Written: map[string]string{}}
	for _, folder := range written {
		for name, sum := range w.sums(folder) {
			s.Written[folder+"/"+name] = sum
		}
	}
	if w.draft != "" {
		var err error
		s.Draft, err = sumsOf(w.draft)
		require.NoError(w.t, err)
	}
	staged, err := w.delivery.stagedImages()
	require.NoError(w.t, err)
	for _, image := range images {
		w.requireWhole(image.program, staged[image.target].DigestStr())
		require.True(w.t, w.signed[staged[image.target].String()], "%s is signed", image.target)
	}
	return s
}

func TestDeliveryRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		// before is the step before which something goes wrong.
		before string
		wrong  func(w *world)
		want   string
	}{
		"builds that differ": {"stage", func(w *world) { w.write("built-arm64/BINARY_SHA256SUMS", "other") }, "built-amd64 and built-arm64 differ in: BINARY_SHA256SUMS"},
		"one build":          {"stage", func(w *world) { require.NoError(w.t, os.RemoveAll(w.delivery.path("built-arm64"))) }, "two machines must build the release"},
		"a file without a checksum": {"stage", func(w *world) {
			w.write("built-amd64/stray", "")
			w.write("built-arm64/stray", "")
		}, "SHA256SUMS doesn't match these files: stray"},
		"no image": {"stage", func(w *world) { require.NoError(w.t, os.RemoveAll(w.delivery.path("images/shell"))) }, "the image shell: "},
		"an image with another program": {"stage", func(w *world) {
			w.buildImage(images[2], func(string) []byte { return []byte("other") })
		}, "the image sandbox: its fuuffy-sandbox for linux/amd64 is not the one in the archive"},
		"no provenance": {"verify", func(w *world) { require.NoError(w.t, os.Remove(w.delivery.path("staged/"+provenance))) }, provenance + " is missing"},
		"a provenance without the programs": {"verify", func(w *world) { w.attest("SHA256SUMS", imageSums) },
			provenance + " doesn't name these: fuuffy-sandbox_9.8.7-rc1_linux_amd64/fuuffy-sandbox, "},
		"a provenance that is none": {"verify", func(w *world) { w.write("staged/"+provenance, "{}\n") }, "read the statement in " + provenance},
		"a changed file":            {"verify", func(w *world) { w.write("staged/"+plugin+"_9.8.7-rc1_linux_arm64.zip", "other") }, "SHA256SUMS doesn't match these files: " + plugin + "_9.8.7-rc1_linux_arm64.zip"},
		"another image": {"verify", func(w *world) {
			text, err := os.ReadFile(w.delivery.path("staged/" + imageSums))
			require.NoError(w.t, err)
			lines := strings.SplitAfter(string(text), "\n")
			w.write("staged/"+imageSums, lines[0]+lines[1]+lines[0][:64]+lines[2][64:])
		}, "the image sandbox: no one can pull it"},
		"a signature that doesn't verify":  {"verify", func(w *world) { w.write("bin/cosign-fails", "") }, `type the commands of "Verify a release"`},
		"a provenance that doesn't verify": {"verify", func(w *world) { w.write("bin/gh-fails", "") }, `type the commands of "Verify a release"`},
		"private packages": {"verify", func(w *world) { w.private = true },
			"https://github.com/orgs/fuuffy/packages/container/vault-plugin-secrets-fuuffy/settings\nUnder \"Danger Zone\", choose \"Change visibility\", then \"Public\""},
		"a server that doesn't take the plugin": {"verify", func(w *world) {
			w.delivery.register = func(string) error { return errors.New("checksums did not match") }
		}, "register the plugin in"},
		"what was not verified":                         {"promote", func(w *world) { require.NoError(w.t, os.Remove(w.delivery.path(verifiedSums))) }, "run verify first, because only what it verified becomes public: "},
		"a file that was changed after it was verified": {"promote", func(w *world) { w.write("staged/"+imageSums, "other") }, "these files changed since verify: " + imageSums},
		"a draft that was changed": {"promote", func(w *world) {
			require.NoError(w.t, os.WriteFile(filepath.Join(w.draft, "SHA256SUMS"), nil, 0o644))
		}, "the draft differs in: SHA256SUMS"},
		"no draft": {"promote", func(w *world) { w.draft = "" }, "release not found"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for _, s := range w.steps() {
				if s.name == test.before {
					test.wrong(w)
					require.ErrorContains(t, s.do(), test.want)
					w.private = false
					w.requireNothingPublic()
					return
				}
				require.NoError(t, s.do(), s.name)
			}
		})
	}
}

// A tag that is public is never moved.
func TestPromoteRefusesAnotherImage(t *testing.T) {
	w := newWorld(t)
	steps := w.steps()
	for _, s := range steps[:4] {
		require.NoError(t, s.do(), s.name)
	}
	taken, err := name.NewTag(w.delivery.repository(images[2]) + ":" + deliveredVersion)
	require.NoError(t, err)
	require.NoError(t, remote.WriteIndex(taken, empty.Index))
	require.ErrorContains(t, w.delivery.promote(), "already belongs to another image")
	assert.False(t, w.public)
	assert.Equal(t, []string{"fuuffy-sandbox:" + deliveredVersion}, w.publicTags())
}

// If what was tagged can't be untagged either, it says so, and another try makes the rest.
func TestPromoteThatCannotBeUndone(t *testing.T) {
	w := newWorld(t)
	steps := w.steps()
	for _, s := range steps[:4] {
		require.NoError(t, s.do(), s.name)
	}
	verified := len(w.calls)
	require.NoError(t, w.delivery.promote())
	publishes := slices.Index(w.calls[verified:], "gh release edit")
	require.Positive(t, publishes)

	w = newWorld(t)
	steps = w.steps()
	for _, s := range steps[:4] {
		require.NoError(t, s.do(), s.name)
	}
	w.failing, w.always = len(w.calls)+publishes+1, true
	err := w.delivery.promote()
	require.ErrorContains(t, err, "these tags of verified images are public")
	require.Len(t, w.publicTags(), 6)
	require.False(t, w.public)
	require.NoError(t, w.delivery.promote())
	assert.True(t, w.public)
}

func unzipped(t *testing.T, archive, file string) []byte {
	t.Helper()
	files, err := zip.OpenReader(archive)
	require.NoError(t, err)
	defer files.Close()
	content, err := fs.ReadFile(files, file)
	require.NoError(t, err)
	return content
}
