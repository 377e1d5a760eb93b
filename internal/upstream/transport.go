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
// bundle), or against the system's authorities if caCert is empty. It keeps no connection
// for the next request, an hour later. net/http would write whatever arrives on an idle
// connection to the process's log, such as the rest of a body longer than announced.
func NewTransport(caCert string) (http.RoundTripper, error) {
	transport := cleanhttp.DefaultTransport()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	// Otherwise a small response could expand to a huge one.
	transport.DisableCompression = true
	transport.MaxResponseHeaderBytes = maxBody
	if caCert != "" {
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM([]byte(caCert)) {
			return nil, errors.New("read ca_cert: no certificate in it")
		}
	}
	return transport, nil
}
