// SPDX-License-Identifier: MPL-2.0

package release

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// image is what the last stage of the Dockerfile makes.
type image struct {
	// root is the folder with its files.
	root       string
	user       string
	entrypoint []string
}

// builder takes the steps of a Dockerfile as Docker does, with this machine in place of
// the image of Go. It knows no more instructions than our Dockerfile has.
type builder struct {
	t *testing.T
	// context is the folder with what .dockerignore lets through.
	context string
	// certificates are those of the image of Go.
	certificates string

	stages map[string]*image
	// stage is the latest one, folder what WORKDIR said in it.
	stage       *image
	folder      string
	environment []string
}

func buildImage(t *testing.T, certificates string) *image {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(made.checkout, "Dockerfile"))
	require.NoError(t, err)
	b := &builder{t: t, context: buildContext(t), certificates: certificates, stages: map[string]*image{}}
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", "")) {
		instruction, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		b.do(instruction, rest)
	}
	return b.stage
}

func (b *builder) do(instruction, rest string) {
	words := strings.Fields(rest)
	switch instruction {
	case "", "#", "LABEL":
	case "ARG":
		name, value, _ := strings.Cut(words[0], "=")
		given := map[string]string{"TARGETOS": "linux", "TARGETARCH": runtime.GOARCH, "VERSION": version}
		b.environment = append(b.environment, name+"="+cmp.Or(given[name], value))
	case "FROM":
		b.from(words)
	case "WORKDIR":
		b.folder = words[0]
		require.NoError(b.t, os.MkdirAll(b.inside("."), 0o755))
	case "COPY":
		b.copy(words)
	case "RUN":
		for strings.HasPrefix(rest, "--") {
			_, rest, _ = strings.Cut(rest, " ")
			rest = strings.TrimSpace(rest)
		}
		_, err := run(b.inside("."), b.environment, "sh", "-c", rest)
		require.NoError(b.t, err)
	case "USER":
		b.stage.user = words[0]
	case "ENTRYPOINT":
		require.NoError(b.t, json.Unmarshal([]byte(rest), &b.stage.entrypoint))
	default:
		require.Fail(b.t, "this test doesn't know the instruction "+instruction)
	}
}

func (b *builder) from(words []string) {
	b.stage, b.folder = &image{root: b.t.TempDir()}, "/"
	require.NoError(b.t, os.Chmod(b.stage.root, 0o755))
	if words[0] != "scratch" {
		file := b.inside("/etc/ssl/certs/ca-certificates.crt")
		require.NoError(b.t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(b.t, os.WriteFile(file, []byte(b.certificates), 0o644))
	}
	b.stages[words[len(words)-1]] = b.stage
}

func (b *builder) copy(words []string) {
	source := b.context
	if stage, ok := strings.CutPrefix(words[0], "--from="); ok {
		source, words = b.stages[stage].root, words[1:]
	}
	require.Len(b.t, words, 2)
	from, to := filepath.Join(source, words[0]), b.inside(words[1])
	if strings.HasSuffix(words[1], "/") {
		to = filepath.Join(to, filepath.Base(from))
	}
	copyAll(b.t, from, to)
}

// inside returns where a path of the stage is on this machine.
func (b *builder) inside(path string) string {
	if !filepath.IsAbs(path) {
		path = filepath.Join(b.folder, path)
	}
	return filepath.Join(b.stage.root, path)
}

func buildContext(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(made.checkout, ".dockerignore"))
	require.NoError(t, err)
	require.Contains(t, string(text), "\n*\n")
	context := t.TempDir()
	for line := range strings.Lines(string(text)) {
		pattern, found := strings.CutPrefix(strings.TrimSpace(line), "!")
		if !found {
			continue
		}
		paths, err := filepath.Glob(filepath.Join(made.checkout, pattern))
		require.NoError(t, err)
		require.NotEmpty(t, paths, pattern)
		for _, path := range paths {
			copyAll(t, path, filepath.Join(context, filepath.Base(path)))
		}
	}
	return context
}

// copyAll copies a file, or what is in a folder.
func copyAll(t *testing.T, from, to string) {
	t.Helper()
	info, err := os.Stat(from)
	require.NoError(t, err)
	if info.IsDir() {
		require.NoError(t, os.CopyFS(to, os.DirFS(from)))
		return
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
	content, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, content, info.Mode()))
}
