// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"

	cleanhttp "github.com/hashicorp/go-cleanhttp"
)

// NewTransport returns a transport that verifies certificates against caCert (a PEM
// bundle), or against the system's authorities if caCert is empty. It uses the proxy that
// HTTPS_PROXY names.
//
// Each connection serves one request: the next one is an hour away. So HTTP/2 would gain
// nothing, and net/http writes into the process's log what a host does wrong in it, or sends
// on an idle connection.
func NewTransport(caCert string) (http.RoundTripper, error) {
	d, err := newDialer(caCert)
	if err != nil {
		return nil, err
	}
	return d.transport(), nil
}

func newDialer(caCert string) (*dialer, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if caCert != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(caCert)) {
			return nil, errors.New("read ca_cert: no certificate in it")
		}
	}
	return &dialer{tls: config, dial: cleanhttp.DefaultTransport().DialContext, proxy: http.ProxyFromEnvironment}, nil
}

func (d *dialer) transport() *http.Transport {
	transport := cleanhttp.DefaultTransport() // It keeps no connections.
	transport.DialTLSContext = d.dialTLS
	transport.Proxy = nil // The dialer knows the proxy.
	transport.ForceAttemptHTTP2 = false
	// Otherwise a small response could expand to a huge one.
	transport.DisableCompression = true
	transport.MaxResponseHeaderBytes = maxBody
	return transport
}
