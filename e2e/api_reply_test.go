// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// reply is what Vault answered, as it is shown.
type reply struct {
	Status, Language, Body string

	code int
	data map[string]any
}

// send makes a request as the commands in the document do.
func (d *apiDocs) send(method, path string, payload map[string]any) reply {
	d.t.Helper()
	var body io.Reader
	if payload != nil {
		body = strings.NewReader(indented(d.t, payload))
	}
	request, err := http.NewRequestWithContext(d.t.Context(), method, d.client.Address()+"/v1/"+d.path+"/"+path, body)
	require.NoError(d.t, err)
	request.Header.Set("X-Vault-Token", d.client.Token())
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(d.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(d.t, err)

	r := reply{Status: fmt.Sprintf("%d %s", response.StatusCode, http.StatusText(response.StatusCode)), code: response.StatusCode}
	switch {
	case len(text) == 0:
	case response.Header.Get("Content-Type") == "application/json":
		d.readJSON(&r, text)
	default:
		r.Language, r.Body = "text", excerpt(string(text))
	}
	return r
}

// readJSON takes from Vault's answer what is the engine's.
func (d *apiDocs) readJSON(r *reply, text []byte) {
	var answer struct {
		Data     map[string]any `json:"data,omitempty"`
		Warnings []string       `json:"warnings,omitempty"`
		Errors   []string       `json:"errors,omitempty"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	require.NoError(d.t, decoder.Decode(&answer))
	if token, ok := answer.Data["access_token"].(string); ok && !slices.Contains(d.tokens, token) {
		d.tokens = append(d.tokens, token)
	}
	r.data, r.Language, r.Body = answer.Data, "json", d.shown(indented(d.t, answer))
}

// excerpt is the first of the counters in a page of metrics.
func excerpt(metrics string) string {
	var lines []string
	for line := range strings.Lines(metrics) {
		if strings.Contains(line, "fuuffy_token_requests_total") {
			lines = append(lines, line)
		}
	}
	return "…\n" + strings.Join(lines, "") + "…"
}

func indented(t *testing.T, value any) string {
	t.Helper()
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	require.NoError(t, encoder.Encode(value))
	return strings.TrimSpace(text.String())
}

var (
	certificate = regexp.MustCompile(`(-----BEGIN CERTIFICATE-----\\n).*(\\n-----END CERTIFICATE-----)(\\n)?`)
	timestamp   = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	ttl         = regexp.MustCompile(`"ttl": \d+`)
)

// shown puts something that never changes in the place of what does with each run,
// and of secrets.
func (d *apiDocs) shown(text string) string {
	replaced := []string{d.path, "fuuffy", d.BaseURL(), "https://sandbox.example.com/v1", programs.PluginVersion, "v0.1.0", d.secret, "…", newSecret, "…"}
	for i, token := range d.tokens {
		replaced = append(replaced, token, fmt.Sprintf("sk-example-%d", i+1))
	}
	text = strings.NewReplacer(replaced...).Replace(text)
	text = certificate.ReplaceAllString(text, "$1…$2")
	text = ttl.ReplaceAllString(text, `"ttl": 3127`)
	// As if all had begun at this time, and had taken no time.
	start := time.Date(2026, time.January, 5, 9, 0, 0, 0, time.UTC)
	return timestamp.ReplaceAllStringFunc(text, func(at string) string {
		moment, err := time.Parse(time.RFC3339, at)
		require.NoError(d.t, err)
		return start.Add(moment.Sub(d.began).Round(5 * time.Minute)).Format(time.RFC3339)
	})
}
