// SPDX-License-Identifier: MPL-2.0

package main_test

import (
	"os"
	"path"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Nothing here builds the images. A Dockerfile copies what a release has, though, and starts what is in it.
func TestDockerfile(t *testing.T) {
	dockerfile, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	lines := strings.ReplaceAll(string(dockerfile), "\\\n", " ")

	sources := regexp.MustCompile(`(?m)^COPY ([^-].*) \./$`).FindAllStringSubmatch(lines, -1)
	require.Len(t, sources, 1, "one stage copies from the release")
	archives := map[string]bool{}
	for pattern := range strings.FieldsSeq(sources[0][1]) {
		pattern = strings.NewReplacer("${VERSION}", strings.TrimPrefix(version, "v"), "linux_${TARGETARCH}", runtime.GOOS+"_"+runtime.GOARCH).Replace(pattern)
		found := false
		for name := range made.files(t) {
			if matched, err := path.Match(pattern, name); err == nil && matched {
				found = true
				archives[name] = true
			}
		}
		assert.True(t, found, "%s is not in a release", pattern)
	}
	for program, folder := range map[string]string{plugin: "/plugin", sandbox: "/sandbox"} {
		a := artifactFor(program, runtime.GOOS+"/"+runtime.GOARCH)
		assert.True(t, archives[a.name+".zip"], a.name)
		assert.Contains(t, lines, "unzip -d "+folder+" "+program+"_*.zip")
		assert.Contains(t, lines, "COPY --from=files "+folder+"/ /\n")
		assert.Contains(t, lines, `ENTRYPOINT ["/`+a.binary+`"]`)
	}
	archive := made.unpack(t, artifactFor(plugin, runtime.GOOS+"/"+runtime.GOARCH))
	for _, name := range []string{plugin, "LICENSE", "THIRD_PARTY_LICENSES"} {
		assert.Contains(t, archive, name)
		assert.Regexp(t, `COPY --from=files .*/plugin/`+name+` .*/\n`, lines)
	}

	// A release has each target.
	script, err := os.ReadFile("../../scripts/images.sh")
	require.NoError(t, err)
	var targets []string
	for _, target := range regexp.MustCompile(`(?m)^FROM .* AS (\w+)$`).FindAllStringSubmatch(lines, -1) {
		if target[1] != "files" {
			targets = append(targets, target[1])
		}
	}
	assert.Contains(t, string(script), "for target in "+strings.Join(targets, " ")+"; do\n")
}
