// SPDX-License-Identifier: MPL-2.0

// Command app prints the orders of a Fuuffy account. It shows how an app uses the token
// that Vault Agent keeps in a file (../agent/proxy.hcl): it reads the file for each
// request. If Fuuffy answers 401, it reports the token and retries once.
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"
)

func main() {
	every := flag.Duration("every", 0, "repeat after this `time`, such as 1m")
	flag.Parse()
	a, err := newApp()
	if err != nil {
		fail(err)
	}
	for {
		orders, err := a.get("/orders")
		switch {
		case err == nil:
			fmt.Println(orders)
		case *every == 0:
			fail(err)
		default:
			// A long-running app doesn't exit because one request failed.
			fmt.Fprintln(os.Stderr, "app:", err)
		}
		if *every == 0 {
			return
		}
		time.Sleep(*every)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "app:", err)
	os.Exit(1)
}

// app calls Fuuffy, one request at a time.
type app struct {
	fuuffy, agent *http.Client
	// baseURL is Fuuffy's address. Vault Agent writes tokenFile. tokenURL is the engine's
	// token path behind the Agent's socket.
	baseURL, tokenFile, tokenURL string
	// rejected is the token in the file, if Fuuffy rejected it. The app uses replacement
	// instead, until the Agent writes a new token to the file after ttl.
	rejected, replacement string
}

// newApp takes its settings from the environment.
func newApp() (*app, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if file := os.Getenv("FUUFFY_CA_CERT"); file != "" { // For the sandbox, or for your own gateway.
		certificates, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool()}
		transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(certificates)
	}
	socket := cmp.Or(os.Getenv("FUUFFY_AGENT_SOCKET"), "/run/fuuffy/vault.sock")
	toSocket := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	return &app{
		fuuffy:    &http.Client{Transport: transport, Timeout: 30 * time.Second},
		agent:     &http.Client{Transport: toSocket, Timeout: time.Minute},
		baseURL:   cmp.Or(os.Getenv("FUUFFY_BASE_URL"), "https://api-gateway.fuuffy.com/v1"),
		tokenFile: cmp.Or(os.Getenv("FUUFFY_TOKEN_FILE"), "/run/fuuffy/token"),
		tokenURL:  "http://agent/v1/" + cmp.Or(os.Getenv("FUUFFY_MOUNT"), "fuuffy") + "/token",
	}, nil
}

// get returns Fuuffy's response for the path. After a 401, it retries once with another
// token.
func (a *app) get(path string) (string, error) {
	token, err := a.token()
	if err != nil {
		return "", err
	}
	status, body, err := do(a.fuuffy, "GET", a.baseURL+path, "Authorization", "Bearer "+token, nil)
	if err == nil && status == http.StatusUnauthorized {
		if token, err = a.report(token); err != nil {
			return "", fmt.Errorf("replace the token that Fuuffy rejected: %w", err)
		}
		status, body, err = do(a.fuuffy, "GET", a.baseURL+path, "Authorization", "Bearer "+token, nil)
	}
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("get %s: Fuuffy answered %d: %s", path, status, body)
	}
	return string(body), err
}

// wellFormed allows the characters that RFC 6750 allows.
var wellFormed = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// token reads the file each time. The file is small, in memory, and always current.
func (a *app) token() (string, error) {
	content, err := os.ReadFile(a.tokenFile)
	token := strings.TrimSpace(string(content))
	if err == nil && !wellFormed.MatchString(token) {
		err = errors.New("there is no token in " + a.tokenFile)
	}
	if token == a.rejected {
		token = a.replacement
	}
	return token, err
}

// report tells the engine which token Fuuffy rejected, and returns another.
func (a *app) report(rejected string) (string, error) {
	payload, _ := json.Marshal(map[string]string{"rejected_token": rejected}) // Strings can't fail.
	status, body, err := do(a.agent, "POST", a.tokenURL, "X-Vault-Request", "true", payload)
	if err != nil {
		return "", err
	}
	var answer struct {
		Data struct {
			AccessToken string `json:"access_token"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || status != http.StatusOK || answer.Data.AccessToken == "" {
		return "", fmt.Errorf("vault answered %d: %s", status, body)
	}
	if rejected != a.replacement {
		a.rejected = rejected
	}
	a.replacement = answer.Data.AccessToken
	return a.replacement, nil
}

func do(client *http.Client, method, url, header, value string, payload []byte) (int, []byte, error) {
	request, err := http.NewRequest(method, url, bytes.NewReader(payload))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set(header, value)
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, body, err
}
