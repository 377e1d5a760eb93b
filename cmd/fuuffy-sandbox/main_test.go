// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// start runs the command until the test calls stop. It returns when the command has printed that it is ready.
func start(t *testing.T, args ...string) (output string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, args, writer)
		_ = writer.CloseWithError(err)
		done <- err
	}()
	lines := bufio.NewReader(reader)
	var text strings.Builder
	for !strings.Contains(text.String(), "wrong_host_certificate ") { // The last kind of fault ends the usage.
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("ended before it was ready: %v", err)
		}
		text.WriteString(line)
	}
	return text.String(), func() error {
		cancel()
		return <-done
	}
}

// addresses reads addresses.env. No value in these tests contains a quote.
func addresses(t *testing.T, dir string) map[string]string {
	t.Helper()
	values := map[string]string{}
	for line := range strings.Lines(read(t, filepath.Join(dir, addressesFile))) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = strings.Trim(value, "'")
	}
	return values
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "sandbox dir")
	output, stop := start(t, "-dir", dir, "-token-lifetime", "2m", "-per-minute", "1")
	env := addresses(t, dir)

	for name, mode := range map[string]os.FileMode{caFile: 0o644, idFile: 0o600, secretFile: 0o600, addressesFile: 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: got mode %v, error %v, want %v", name, info.Mode(), err, mode)
		}
	}
	id, secret := read(t, env["FUUFFY_CLIENT_ID_FILE"]), read(t, env["FUUFFY_CLIENT_SECRET_FILE"])
	if secret == "" || strings.TrimSpace(secret) != secret || strings.Contains(output, secret) {
		t.Error("the secret must be in its file as it is, and not in the output")
	}
	for _, want := range []string{env["FUUFFY_BASE_URL"], `client_secret=@"$FUUFFY_CLIENT_SECRET_FILE"`} {
		if !strings.Contains(output, want) {
			t.Errorf("the output lacks %s:\n%s", want, output)
		}
	}
	// Paste the line that loads the addresses. Programs that the shell then starts must see them.
	_, line, _ := strings.Cut(output, "load its addresses:\n")
	line, _, _ = strings.Cut(line, "\n")
	seen, err := exec.CommandContext(t.Context(), "sh", "-euc", line+"\nexec printenv FUUFFY_BASE_URL").CombinedOutput()
	if err != nil || string(seen) != env["FUUFFY_BASE_URL"]+"\n" {
		t.Errorf("%s: a program sees %q, error %v", line, seen, err)
	}

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(read(t, env["FUUFFY_CA_CERT"])))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
	wantResponse(t, client, env["FUUFFY_BASE_URL"]+"/auth/token", form, 200, `"expires_in":120}`)
	wantResponse(t, client, env["FUUFFY_BASE_URL"]+"/auth/token", form, 429, "rate_limit_exceeded")
	wantResponse(t, client, env["FUUFFY_ADMIN_URL"]+"/tokens/revoke", nil, 400, "send {")

	if err := stop(); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	if _, err := os.Stat(filepath.Join(dir, addressesFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("addresses.env says still that the sandbox is ready: %v", err)
	}
	for _, address := range []string{env["FUUFFY_BASE_URL"], env["FUUFFY_ADMIN_URL"]} {
		resp, err := client.Get(address)
		if err == nil {
			resp.Body.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: got error %v, want connection refused", address, err)
		}
	}
}

// With -name, other machines reach the sandbox, and its certificate has that name.
func TestRunWithName(t *testing.T) {
	dir := t.TempDir()
	_, stop := start(t, "-dir", dir, "-name", "fuuffy.test", "-agent")
	env := addresses(t, dir)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(read(t, env["FUUFFY_CA_CERT"])))
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, strings.Replace(address, "fuuffy.test", "127.0.0.1", 1))
		},
	}}
	for address, status := range map[string]int{env["FUUFFY_BASE_URL"] + "/orders": 401, env["FUUFFY_ADMIN_URL"] + "/stats": 200} {
		resp, err := client.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if !strings.Contains(address, "//fuuffy.test:") || resp.StatusCode != status {
			t.Errorf("%s: got %d, want %d", address, resp.StatusCode, status)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A page in a browser on this machine must not reach the admin API, whatever site it is from. Pages can't choose these
// headers: the browser sets them.
func TestRunRefusesBrowsers(t *testing.T) {
	for _, name := range []string{"", "fuuffy.test"} {
		t.Run("name "+name, func(t *testing.T) {
			dir := t.TempDir()
			_, stop := start(t, "-dir", dir, "-agent", "-name", name)
			env := addresses(t, dir)
			_, port, err := net.SplitHostPort(strings.TrimPrefix(env["FUUFFY_ADMIN_URL"], "http://"))
			if err != nil {
				t.Fatal(err)
			}
			local := "127.0.0.1:" + port
			call := func(method, path string, header http.Header, status int) {
				t.Helper()
				request, err := http.NewRequestWithContext(t.Context(), method, "http://"+local+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Header = header.Clone()
				request.Host = header.Get("Host")
				request.Header.Set("X-Vault-Request", "true")
				resp, err := http.DefaultClient.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != status || (status == 403) != strings.Contains(string(body), `{"error":"`) {
					t.Errorf("%s %s with %v: got %d %s, error %v, want %d", method, path, header, resp.StatusCode, body, err, status)
				}
			}
			allowed := []http.Header{
				{"Host": {local}},
				{"Host": {"localhost:" + port}},
				{"Host": {"LOCALHOST"}},
				{"Host": {"[::1]:" + port}},
				{"Host": {"[::1]"}},
				{"Host": {local}, "Sec-Fetch-Site": {"none"}},
				{"Host": {local}, "Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://" + local}},
			}
			refused := []http.Header{
				{"Host": {local}, "Origin": {"https://evil.example"}},
				{"Host": {local}, "Origin": {"http://127.0.0.1:1"}},
				{"Host": {local}, "Origin": {"null"}},
				{"Host": {local}, "Sec-Fetch-Site": {"cross-site"}},
				{"Host": {local}, "Sec-Fetch-Site": {"same-site"}},
				// A page of a site whose name leads to this machine is of the same origin.
				{"Host": {"evil.example:" + port}, "Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://evil.example:" + port}},
				{"Host": {"127.0.0.1.evil.example"}},
				{"Host": {"localhost.evil.example"}},
			}
			others := []http.Header{{"Host": {"fuuffy.test:" + port}}, {"Host": {"Fuuffy.Test"}}, {"Host": {"192.0.2.1:" + port}}}
			if name == "" {
				refused = append(refused, others...)
			} else {
				allowed = append(allowed, others...)
			}
			for _, header := range refused {
				call("POST", "/reset", header, 403)
				call("GET", "/clients", header, 403)
				call("GET", enginePath, header, 403)
			}
			for _, header := range allowed {
				call("POST", "/reset", header, 200)
				call("GET", "/clients", header, 200)
				call("GET", enginePath, header, 200)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func wantResponse(t *testing.T, client *http.Client, address string, form url.Values, status int, part string) {
	t.Helper()
	resp, err := client.PostForm(address, form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status || !bytes.Contains(body, []byte(part)) {
		t.Errorf("%s: got %d %s, error %v, want %d with %s", address, resp.StatusCode, body, err, status, part)
	}
}

func TestRunAgainInTheSameDirectory(t *testing.T) {
	dir := t.TempDir()
	// A killed sandbox left these files, and their mode is too open.
	for _, name := range []string{secretFile, addressesFile} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, stop := start(t, "-dir", dir)
	info, err := os.Stat(filepath.Join(dir, secretFile))
	if err != nil || info.Mode() != 0o600 || read(t, filepath.Join(dir, secretFile)) == "old" {
		t.Errorf("got mode %v, error %v, want a new secret with 0600", info.Mode(), err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("got %v, error %v, want the certificate and the credentials only", entries, err)
	}
}

func TestRunRemovesItsTemporaryFolder(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	_, stop := start(t)
	if found, _ := filepath.Glob(filepath.Join(temp, "fuuffy-sandbox-*", addressesFile)); len(found) != 1 {
		t.Errorf("got %v, want one addresses.env", found)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(temp); err != nil || len(entries) != 0 {
		t.Errorf("got %v, error %v, want nothing left", entries, err)
	}
}

func TestRunRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"open admin address":       {[]string{"-admin", "0.0.0.0:0"}, "start admin API: listen on \"0.0.0.0:0\": not a loopback address"},
		"open address":             {[]string{"-listen", ":0"}, "start Fuuffy API: listen on \":0\": not a loopback address"},
		"unknown flag":             {[]string{"-x"}, "parse flags: flag provided but not defined: -x (fuuffy-sandbox -h explains them)"},
		"argument":                 {[]string{"now"}, `parse flags: unexpected argument "now"`},
		"short lifetime":           {[]string{"-token-lifetime", "1ms"}, "parse flags: -token-lifetime is 1ms: use at least 1s"},
		"too short for the engine": {[]string{"-agent", "-token-lifetime", "9s"}, "parse flags: -token-lifetime is 9s: use at least 1s, or 10s with -agent"},
		"zero limit":               {[]string{"-per-hour", "0"}, "use -1 for no limit"},
		"dir is a file":            {[]string{"-dir", file}, "create directory: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // If it starts by mistake, it stops.
			var output strings.Builder
			err := run(ctx, test.args, &output)
			if err == nil || !strings.Contains(err.Error(), test.want) || output.Len() != 0 {
				t.Errorf("got error %v, output %q, want %q", err, &output, test.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	var output strings.Builder
	if err := run(t.Context(), []string{"-h"}, &output); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"addresses.env", "-listen", "-admin", "-dir", "-agent", "-name", "-token-lifetime", "-per-minute", "-per-hour", "at least 1s, or 10s with -agent"} {
		if !strings.Contains(output.String(), want) {
			t.Errorf("the help doesn't mention %s:\n%s", want, &output)
		}
	}
}
