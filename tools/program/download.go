// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	connectTimeout  = 4 * time.Second  // DNS, TCP, and TLS together.
	silenceTimeout  = 10 * time.Second // Between two pieces of a response.
	downloadTimeout = 10 * time.Minute // About as long as the build takes.

	// Many times what the releases have. More would fill the memory or the disk.
	largestSums    = 1 << 20
	largestArchive = 2 << 30
	largestProgram = 4 << 30
)

// site returns where the files of the release are.
func (p *program) site() (*url.URL, error) {
	mirror := os.Getenv("PROGRAMS_URL")
	if mirror == "" {
		return url.Parse(p.release.site)
	}
	site, err := url.Parse(mirror)
	if err != nil || site.Scheme != "https" || site.Host == "" {
		// Without the value, which may have a password.
		return nil, errors.New("PROGRAMS_URL isn't like https://mirror.example.com/programs. Correct it, or unset it to use the official releases")
	}
	return site.JoinPath(p.release.name, p.version), nil
}

// download puts the programs of the official release into a directory, if the checksum that
// is published with it matches.
func (p *program) download(ctx context.Context, site *url.URL, into string) error {
	p.say("downloading %s %s from %s, once per user", p.product, p.version, site.Host)
	var sums bytes.Buffer
	if err := fetch(ctx, httpsOnly, site.JoinPath(p.release.sums), &limited{to: &sums, left: largestSums}); err != nil {
		return err
	}
	want, err := checksum(sums.String(), p.release.archive)
	if err != nil {
		return fmt.Errorf("%s %w", p.release.sums, err)
	}

	archive, err := os.Create(filepath.Join(into, p.release.archive))
	if err != nil {
		return fmt.Errorf("keep the archive: %w", err)
	}
	defer archive.Close()
	var received counter
	stop := keepSaying(func(time.Duration) { p.say("still downloading, %d MB so far", received.Load()/1e6) })
	hash := sha256.New()
	err = fetch(ctx, httpsOnly, site.JoinPath(p.release.archive), &limited{to: io.MultiWriter(archive, hash, &received), left: largestArchive})
	stop()
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != want {
		return fmt.Errorf("the SHA-256 checksum of %s is %s, but %s has %s", p.release.archive, got, p.release.sums, want)
	}
	p.say("the download has the published SHA-256 checksum")

	if err := p.extract(archive, received.Load(), into); err != nil {
		return fmt.Errorf("extract %s: %w", p.release.archive, err)
	}
	if p.versionOf(ctx, filepath.Join(into, p.name)) == "" {
		return fmt.Errorf("the %s in %s doesn't run here", p.name, p.release.archive)
	}
	return nil
}

// checksum finds the checksum of a file in the output of sha256sum.
func checksum(sums, file string) (string, error) {
	for line := range strings.Lines(sums) {
		if fields := strings.Fields(line); len(fields) == 2 && strings.TrimPrefix(fields[1], "*") == file {
			return strings.ToLower(fields[0]), nil
		}
	}
	return "", fmt.Errorf("has no checksum of %s", file)
}

// limited passes a number of bytes on, and fails if more are written.
type limited struct {
	to   io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	if int64(len(p)) > l.left {
		return 0, errors.New("too large")
	}
	l.left -= int64(len(p))
	return l.to.Write(p)
}

// counter counts the bytes that are written to it.
type counter struct{ atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.Add(int64(len(p)))
	return len(p), nil
}

// httpsOnly uses the proxies and the certificates that the environment names, as every Go
// program does. It follows redirects, but not to HTTP.
var httpsOnly = &http.Client{CheckRedirect: func(request *http.Request, via []*http.Request) error {
	if request.URL.Scheme != "https" || len(via) >= 10 {
		return fmt.Errorf("redirected to %s", shown(request.URL))
	}
	return nil
}}

// shown is a URL for messages. User, password, and query may be secrets.
func shown(address *url.URL) string {
	return (&url.URL{Scheme: address.Scheme, Host: address.Host, Path: address.Path}).String()
}

// fetch writes what a URL has. It gives up if it can't connect, and if nothing arrives.
func fetch(ctx context.Context, client *http.Client, from *url.URL, to io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := func(timeout time.Duration, what string) *time.Timer {
		return time.AfterFunc(timeout, func() { cancel(fmt.Errorf("%s within %v", what, timeout)) })
	}
	whole := limit(downloadTimeout, "not complete")
	connecting := limit(connectTimeout, "no connection")
	silence := limit(silenceTimeout, "nothing received")
	defer whole.Stop()
	defer connecting.Stop()
	defer silence.Stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connecting.Stop(); silence.Reset(silenceTimeout) },
	})

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err // The URL comes below.
	}
	if err == nil {
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			err = errors.New(response.Status)
		}
	}
	if err == nil {
		_, err = io.Copy(to, watched{response.Body, silence})
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("%s: %w", shown(from), err)
	}
	return nil
}

// watched puts off the end of its timer with each piece that arrives.
type watched struct {
	io.Reader
	silence *time.Timer
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.silence.Reset(silenceTimeout)
	return n, err
}

// extract puts the programs of an archive into a directory.
func (p *program) extract(archive *os.File, size int64, into string) error {
	if strings.HasSuffix(p.release.archive, ".zip") {
		files, err := zip.NewReader(archive, size)
		if err != nil {
			return err
		}
		for _, file := range files.File {
			if !file.Mode().IsRegular() {
				continue
			}
			content, err := file.Open()
			if err == nil {
				err = errors.Join(p.extractFile(file.Name, content, into), content.Close())
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return err
	}
	unzipped, err := gzip.NewReader(archive)
	if err != nil {
		return err
	}
	for files := tar.NewReader(unzipped); ; {
		file, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && file.Typeflag == tar.TypeReg {
			err = p.extractFile(file.Name, files, into)
		}
		if err != nil {
			return err
		}
	}
}

// extractFile writes a file of the archive if it is one of the programs.
func (p *program) extractFile(name string, content io.Reader, into string) error {
	name = path.Base(name)
	if !slices.Contains(p.release.programs, name) {
		return nil
	}
	file, err := os.OpenFile(filepath.Join(into, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(&limited{to: file, left: largestProgram}, content)
	return errors.Join(err, file.Close())
}
