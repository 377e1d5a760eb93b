// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Orders requests the orders from Fuuffy as an app does, and returns status and body. caCert
// is PEM. If it is empty, the system's certificates apply.
func Orders(ctx context.Context, baseURL, caCert, token string) (int, string, error) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	if caCert != "" {
		trusted := x509.NewCertPool()
		if !trusted.AppendCertsFromPEM([]byte(caCert)) {
			return 0, "", errors.New("ask for the orders: no certificate in the PEM text")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: trusted}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, baseURL+"/orders", nil)
	if err != nil {
		return 0, "", fmt.Errorf("ask for the orders: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", fmt.Errorf("ask for the orders: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return 0, "", fmt.Errorf("read the orders: %w", err)
	}
	return response.StatusCode, string(body), nil
}
