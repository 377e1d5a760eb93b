// SPDX-License-Identifier: MPL-2.0

package install

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// startRegistry serves an image with a program in its root, as the Dockerfile makes one,
// under every name and tag. It is what a client of the OCI distribution specification
// needs to pull an image, and returns its address.
func startRegistry(t *testing.T, program string) string {
	t.Helper()
	blobs := map[string][]byte{}
	// add keeps a blob and returns its descriptor.
	add := func(mediaType string, blob []byte) map[string]any {
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(blob))
		blobs[digest] = blob
		return map[string]any{"mediaType": mediaType, "digest": digest, "size": len(blob)}
	}
	encode := func(value any) []byte {
		text, err := json.Marshal(value)
		require.NoError(t, err)
		return text
	}

	layer := add("application/vnd.oci.image.layer.v1.tar", archive(t, program))
	image := encode(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config": add("application/vnd.oci.image.config.v1+json", encode(map[string]any{
			"os": runtime.GOOS, "architecture": runtime.GOARCH,
			"rootfs": map[string]any{"type": "layers", "diff_ids": []any{layer["digest"]}},
		})),
		"layers": []any{layer},
	})

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = w.Write(image)
			return
		}
		_, digest, found := strings.Cut(r.URL.Path, "/blobs/")
		if blob, ok := blobs[digest]; ok {
			_, _ = w.Write(blob)
		} else if found {
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// archive is a layer with one file.
func archive(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: filepath.Base(file), Mode: 0o755, Size: int64(len(content))}))
	_, err = w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return layer.Bytes()
}
