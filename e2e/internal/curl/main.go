// SPDX-License-Identifier: MPL-2.0

// Command curl does what the examples ask of curl, and nothing else, so that they can
// be tested where there is no curl.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "curl:", err)
		os.Exit(1)
	}
}

func run() error {
	flag.Bool("silent", false, "")
	flag.Bool("show-error", false, "")
	method := flag.String("request", http.MethodGet, "")
	seconds := flag.Int("max-time", 0, "")
	config := flag.String("config", "", "")
	data := flag.String("data-binary", "", "")
	output := flag.String("output", "", "")
	format := flag.String("write-out", "", "")
	flag.Parse()
	if *config == "" || *output == "" || *format != "%{http_code}" || flag.NArg() != 1 || *data != "" && *data != "@-" {
		return fmt.Errorf("this is not the real curl, and can't do %q", os.Args[1:])
	}

	headers, err := readHeaders(*config)
	if err != nil {
		return err
	}
	var body []byte
	if *data != "" {
		if body, err = io.ReadAll(os.Stdin); err != nil {
			return err
		}
	}
	request, err := http.NewRequest(*method, flag.Arg(0), bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header = headers
	client, err := newClient(time.Duration(*seconds) * time.Second)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	fmt.Print(response.StatusCode)
	return os.WriteFile(*output, answer, 0o600)
}

// readHeaders reads lines like `header = "Name: value"` from a file; - is standard input.
func readHeaders(file string) (http.Header, error) {
	if file == "-" {
		file = "/dev/stdin"
	}
	config, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	headers := http.Header{}
	for line := range strings.Lines(string(config)) {
		header, ok := strings.CutPrefix(line, `header = "`)
		if !ok {
			return nil, fmt.Errorf("this is not the real curl, and its configuration can have headers only")
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(header, "\"\n"), ": ")
		headers.Set(name, value)
	}
	return headers, nil
}

// newClient trusts CURL_CA_BUNDLE, if it is set.
func newClient(timeout time.Duration) (*http.Client, error) {
	client := &http.Client{Timeout: timeout}
	bundle := os.Getenv("CURL_CA_BUNDLE")
	if bundle == "" {
		return client, nil
	}
	certificates, err := os.ReadFile(bundle)
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(certificates)
	client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}
	return client, nil
}
