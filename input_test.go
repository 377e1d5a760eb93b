// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzConfigText holds what gets through the check of a text field to its rules.
func FuzzConfigText(f *testing.F) {
	for _, value := range []string{"shop-1", "", "a b", "a\u200bb", "a\xff", "a\x00", "päss", strings.Repeat("x", maxTextLength+1)} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		err := checkText("client_secret", value)
		if err == nil {
			require.True(t, utf8.ValidString(value))
			require.NotContains(t, value, "\n")
			require.Equal(t, strings.Fields(value), strings.Fields(" "+value+" "))
			require.LessOrEqual(t, len(strings.Fields(value)), 1)
			return
		}
		require.Contains(t, err.Error(), "client_secret")
		if len(value) > 20 {
			require.NotContains(t, err.Error(), value)
		}
	})
}

// FuzzBaseURL holds what gets through as an address to what the secret may be sent to.
func FuzzBaseURL(f *testing.F) {
	for _, address := range []string{
		"https://gateway.example.com/v1", "https://a@b", "https://[::1]:1/x", "https://a:0", "https://a/..", "https://a?", "https://a#", "http://a", "//a", "https:a", "https://a%2fb",
	} {
		f.Add(address)
	}
	f.Fuzz(func(t *testing.T, address string) {
		if address == "" || checkBaseURL(address) != nil {
			return
		}
		req, err := http.NewRequest(http.MethodPost, strings.TrimSuffix(address, "/")+"/auth/token", nil)
		require.NoError(t, err)
		require.Equal(t, "https", req.URL.Scheme)
		require.NotEmpty(t, req.URL.Hostname())
		require.Nil(t, req.URL.User)
		require.Empty(t, req.URL.RawQuery)
		require.Empty(t, req.URL.Fragment)
		require.True(t, strings.HasSuffix(req.URL.Path, "/auth/token"))
	})
}
