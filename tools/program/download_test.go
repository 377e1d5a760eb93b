// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mirror is a server that has the official releases.
type mirror struct {
	*httptest.Server
	mu       sync.Mutex        // of what follows
	files    map[string][]byte // by path
	cut      string            // the path of a file whose second half is missing
	hang     string            // the path of a file that never comes
	requests atomic.Int64
	// credentials are those that came with requests, without repetitions.
	credentials []string
}

// newMirror makes a machine trust and use a mirror.
func newMirror(m *machine) *mirror {
	server := &mirror{files: map[string][]byte{}}
	server.Server = httptest.NewUnstartedServer(server)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // A client that does not trust it is a test.
	server.StartTLS()
	m.t.Cleanup(server.Close)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	m.variables = []string{"SSL_CERT_FILE=" + m.write("ca.pem", string(certificate)), "PROGRAMS_URL=" + server.URL + "/mirror/"}

	server.mu.Lock()
	defer server.mu.Unlock()
	server.add("/mirror/vault/1.21.2/vault_1.21.2_SHA256SUMS", vaultArchive, zipped(m.t, map[string]string{
		"LICENSE.txt": "Business Source License 1.1", "more/LICENSE.txt": "others", "vault": fmt.Sprintf(fakeVault, "1.21.2")}))
	server.add("/mirror/prometheus/3.5.0/sha256sums.txt", prometheusArchive, tarred(m.t, map[string]string{
		"prometheus-3.5.0/prometheus": fmt.Sprintf(fakePrometheus, "3.5.0"), "prometheus-3.5.0/promtool": fmt.Sprintf(fakePromtool, "3.5.0")}))
	return server
}

var (
	vaultArchive      = fmt.Sprintf("/mirror/vault/1.21.2/vault_1.21.2_%s_%s.zip", runtime.GOOS, runtime.GOARCH)
	prometheusArchive = fmt.Sprintf("/mirror/prometheus/3.5.0/prometheus-3.5.0.%s-%s.tar.gz", runtime.GOOS, runtime.GOARCH)
)

// add publishes an archive with its checksum, among others.
func (s *mirror) add(sums, archive string, content []byte) {
	s.files[archive] = content
	s.files[sums] = fmt.Appendf(nil, "%064x  another.zip\n%x  %s\n", 1, sha256.Sum256(content), filepath.Base(archive))
}

func (s *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	s.mu.Lock()
	content, found := s.files[r.URL.Path]
	cut, hang := s.cut, s.hang
	if user, _, given := r.BasicAuth(); given {
		s.credentials = slices.Compact(append(s.credentials, user+" "+r.URL.RawQuery))
	}
	s.mu.Unlock()
	switch {
	case r.URL.Path == hang:
		<-r.Context().Done()
	case !found:
		http.NotFound(w, r)
	case r.URL.Path == cut:
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = w.Write(content[:len(content)/2])
	case bytes.HasPrefix(content, []byte("http")):
		http.Redirect(w, r, string(content), http.StatusFound)
	default:
		_, _ = w.Write(content)
	}
}

func zipped(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	for name, content := range files {
		file, err := w.Create(name)
		require.NoError(t, err)
		_, err = io.WriteString(file, content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return archive.Bytes()
}

func tarred(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var archive bytes.Buffer
	compressed := gzip.NewWriter(&archive)
	w := tar.NewWriter(compressed)
	for name, content := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644}))
		_, err := io.WriteString(w, content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, compressed.Close())
	return archive.Bytes()
}

// linked is an archive whose program is a link out of it.
func linked(t *testing.T) []byte {
	t.Helper()
	var archive bytes.Buffer
	compressed := gzip.NewWriter(&archive)
	w := tar.NewWriter(compressed)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "p/prometheus", Linkname: "/bin/sh"}))
	require.NoError(t, w.Close())
	require.NoError(t, compressed.Close())
	return archive.Bytes()
}

func TestDownload(t *testing.T) {
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			server := newMirror(m)
			path, messages := m.finds(name)

			assert.Equal(t, fmt.Sprintf(program.fake, program.pinned), read(t, path))
			assert.Contains(t, messages, "downloading ")
			assert.Contains(t, messages, " 127.0.0.1:")
			assert.Contains(t, messages, "the published SHA-256 checksum")
			assert.Equal(t, name == "vault", strings.Contains(messages, "Business Source License"), messages)
			assert.Zero(t, m.builds())
			assert.EqualValues(t, 2, server.requests.Load(), "the checksums and the archive")
			want := []string{"vault"}
			if name != "vault" {
				want = []string{"prometheus", "promtool"}
			}
			assert.ElementsMatch(t, want, m.left())

			for _, name := range want {
				m.finds(name)
			}
			assert.EqualValues(t, 2, server.requests.Load(), "they are in the cache")
		})
	}
}

// After a download that fails, the program is built, and nothing of the download is left.
func TestFailedDownload(t *testing.T) {
	const vaultSums, prometheusSums = "/mirror/vault/1.21.2/vault_1.21.2_SHA256SUMS", "/mirror/prometheus/3.5.0/sha256sums.txt"
	for name, test := range map[string]struct {
		program string
		spoil   func(*mirror)
		message string
	}{
		"wrong checksum": {"vault", func(s *mirror) { s.files[vaultArchive] = append(s.files[vaultArchive], '!') },
			"but vault_1.21.2_SHA256SUMS has "},
		"no checksum":       {"vault", func(s *mirror) { s.files[vaultSums] = []byte("<html>") }, "has no checksum of vault_1.21.2_"},
		"checksums cut":     {"vault", func(s *mirror) { s.cut = vaultSums }, "_SHA256SUMS: unexpected EOF"},
		"archive cut":       {"vault", func(s *mirror) { s.cut = vaultArchive }, ".zip: unexpected EOF"},
		"archive not there": {"vault", func(s *mirror) { delete(s.files, vaultArchive) }, ".zip: 404 Not Found"},
		"redirect to HTTP":  {"vault", func(s *mirror) { s.files[vaultSums] = []byte("http://127.0.0.1:1/") }, "redirected to http://127.0.0.1:1/"},
		"no archive":        {"vault", func(s *mirror) { s.add(vaultSums, vaultArchive, []byte("<html>")) }, "extract vault_1.21.2_"},
		"empty archive":     {"vault", func(s *mirror) { s.add(vaultSums, vaultArchive, zipped(t, nil)) }, "doesn't run here"},
		"does not run": {"vault", func(s *mirror) {
			s.add(vaultSums, vaultArchive, zipped(t, map[string]string{"vault": "for another machine"}))
		},
			"doesn't run here"},
		"checksums without end": {"vault", func(s *mirror) { s.files[vaultSums] = bytes.Repeat([]byte("x"), 2<<20) }, "_SHA256SUMS: too large"},
		"a link":                {"prometheus", func(s *mirror) { s.add(prometheusSums, prometheusArchive, linked(t)) }, "the prometheus in prometheus-3.5.0."},
		"half an archive": {"prometheus", func(s *mirror) {
			whole := s.files[prometheusArchive]
			s.add(prometheusSums, prometheusArchive, whole[:len(whole)-20])
		}, "extract prometheus-3.5.0."},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			server := newMirror(m)
			server.mu.Lock()
			test.spoil(server)
			server.mu.Unlock()
			path, messages := m.finds(test.program)

			assert.Contains(t, messages, "the download failed: ")
			assert.Contains(t, messages, test.message)
			assert.Contains(t, messages, "from source instead")
			assert.Equal(t, 1, m.builds())
			assert.Equal(t, fmt.Sprintf(programs[test.program].fake, programs[test.program].pinned), read(t, path))
			assert.ElementsMatch(t, []string{"build.log", test.program}, m.left())
		})
	}
}

func TestInterruptedDownload(t *testing.T) {
	m := newMachine(t)
	server := newMirror(m)
	server.mu.Lock()
	server.hang = vaultArchive
	server.mu.Unlock()
	r := m.start("vault")
	require.Eventually(t, func() bool { return server.requests.Load() == 2 }, time.Minute, 50*time.Millisecond, "the archive")
	require.NoError(t, r.command.Process.Signal(syscall.SIGTERM))

	status, out, messages := r.end()
	assert.Equal(t, 130, status)
	assert.Empty(t, out)
	assert.Contains(t, messages, "interrupted")
	assert.NotContains(t, messages, "failed")
	assert.Zero(t, m.builds())
	assert.Empty(t, m.left())
}

// SSL_CERT_FILE names the certificates to trust.
func TestUnknownCA(t *testing.T) {
	m := newMachine(t)
	newMirror(m)
	_, messages := m.finds("vault", "SSL_CERT_FILE=/dev/null")
	assert.Contains(t, messages, "the download failed: ")
	assert.Contains(t, messages, "certificate signed by unknown authority")
	assert.Equal(t, 1, m.builds())
}

// Whatever is slow, a build begins soon after.
func TestFetchGivesUp(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	server.Close()
	served, trusted := server.TLS, server.Client().Transport.(*http.Transport).TLSClientConfig

	const header = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
	for name, test := range map[string]struct {
		lost    bool            // Not even the packets that begin a connection arrive.
		respond func(io.Writer) // nil: not even TLS
		after   time.Duration
		message string
	}{
		"packets lost": {lost: true, after: 4 * time.Second, message: "no connection within 4s"},
		"no TLS":       {after: 4 * time.Second, message: "no connection within 4s"},
		"no response":  {respond: func(io.Writer) {}, after: 10 * time.Second, message: "nothing received within 10s"},
		"half a response": {
			respond: func(w io.Writer) { time.Sleep(9 * time.Second); _, _ = io.WriteString(w, header+"half") },
			after:   19 * time.Second,
			message: "nothing received within 10s",
		},
		"drops": {
			respond: func(w io.Writer) {
				_, err := io.WriteString(w, header)
				for err == nil {
					time.Sleep(9 * time.Second)
					_, err = io.WriteString(w, ".")
				}
			},
			after:   10 * time.Minute,
			message: "not complete within 10m0s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				var server sync.WaitGroup
				if test.respond != nil {
					server.Go(func() {
						conn := tls.Server(far, served)
						if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
							server.Go(func() { _, _ = io.Copy(io.Discard, conn) })
							test.respond(conn)
						}
					})
				}
				dial := func(context.Context, string, string) (net.Conn, error) {
					if test.lost {
						_, err := near.Read(make([]byte, 1))
						return nil, err
					}
					return near, nil
				}
				client := &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: trusted}}
				begun := time.Now()
				err := fetch(t.Context(), client, &url.URL{Scheme: "https", Host: "example.com", Path: "/file"}, io.Discard)
				assert.EqualError(t, err, "https://example.com/file: "+test.message)
				assert.Equal(t, test.after, time.Since(begun))
				near.Close()
				far.Close()
				server.Wait()
			})
		})
	}
}

func TestSite(t *testing.T) {
	for name, want := range map[string]string{
		"vault":      "https://releases.hashicorp.com/vault/1.21.2",
		"vault-1.19": "https://releases.hashicorp.com/vault/1.19.5",
		"prometheus": "https://github.com/prometheus/prometheus/releases/download/v3.5.0",
		"promtool":   "https://github.com/prometheus/prometheus/releases/download/v3.5.0",
	} {
		p, err := newProgram("..", name)
		require.NoError(t, err)
		site, err := p.site()
		require.NoError(t, err)
		assert.Equal(t, want, site.String())
	}
}

// CONTRIBUTING.md says what a mirror has.
func TestDocumentedMirror(t *testing.T) {
	page := read(t, "../../CONTRIBUTING.md")
	m := newMachine(t)
	server := newMirror(m)
	for path := range server.files {
		path = strings.TrimPrefix(path, "/mirror")
		path = strings.NewReplacer(runtime.GOOS, "linux", runtime.GOARCH, "amd64").Replace(path)
		assert.Contains(t, page, "\n    "+path+"\n")
	}
}

func TestBadMirror(t *testing.T) {
	m := newMachine(t)
	for _, mirror := range []string{"http://user:password@mirror.example.com", "mirror.example.com", "https:///vault", "%"} {
		status, out, messages := m.start("vault", "PROGRAMS_URL="+mirror).end()
		assert.Equal(t, 1, status, mirror)
		assert.Empty(t, out, mirror)
		assert.Contains(t, messages, "PROGRAMS_URL isn't like https://", mirror)
		assert.NotContains(t, messages, "password")
	}
	_, messages := m.finds("vault", "PROGRAMS_URL=https://user:password@127.0.0.1:1")
	assert.Contains(t, messages, "the download failed: https://127.0.0.1:1/vault/")
	assert.NotContains(t, messages, "password")
}

// A token may stand in the place of the user, or in the query, which is sent with each request.
func TestSecretsOfAMirror(t *testing.T) {
	m := newMachine(t)
	server := newMirror(m)
	site := strings.Replace(server.URL, "https://", "https://secret-user@", 1) + "/mirror?signature=secret-query"
	_, messages := m.finds("vault", "PROGRAMS_URL="+site)
	assert.Zero(t, m.builds(), messages)
	server.mu.Lock()
	assert.Equal(t, []string{"secret-user signature=secret-query"}, server.credentials)
	server.files = nil
	server.mu.Unlock()
	_, messages = m.finds("prometheus", "PROGRAMS_URL="+site)
	assert.Contains(t, messages, "/mirror/prometheus/3.5.0/sha256sums.txt: 404 Not Found")
	assert.NotContains(t, messages, "secret-")
}
