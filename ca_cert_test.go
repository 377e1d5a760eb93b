// SPDX-License-Identifier: MPL-2.0

package fuuffy_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	fuuffy "github.com/fuuffy/vault-plugin-secrets-fuuffy"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// The engine stores the certificates in ca_cert and nothing else. A private key that
// was copied along, whole or not, is neither stored nor shown.
func TestOnlyCertificatesOfCACertAreStored(t *testing.T) {
	certificate := strings.TrimSpace(mounttest.NewAuthority(t))
	const planted = "cGxhbnRlZC1wcml2YXRlLWtleS1wbGFudGVk"
	whole := "-----BEGIN PRIVATE KEY-----\n" + planted + "\n-----END PRIVATE KEY-----"
	headless := planted + "\n-----END PRIVATE KEY-----"
	endless := "-----BEGIN PRIVATE KEY-----\n" + planted
	block, _ := pem.Decode([]byte(certificate))
	require.NotNil(t, block)
	withHeaders := string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Headers: map[string]string{"Key": planted}, Bytes: block.Bytes}))

	for name, tt := range map[string]struct {
		bundle       string
		certificates int // 0: the bundle is refused, or one certificate is stored
	}{
		"certificate":                      {certificate, 1},
		"two certificates":                 {certificate + "\n" + strings.TrimSpace(mounttest.NewAuthority(t)) + "\n", 2},
		"key without an end, before":       {endless + "\n" + certificate, 0},
		"key without an end, after":        {certificate + "\n" + endless, 0},
		"key without an end, between":      {certificate + "\n" + endless + "\n" + certificate, 0},
		"key without a beginning, before":  {headless + "\n" + certificate, 0},
		"key without a beginning, after":   {certificate + "\n" + headless, 0},
		"whole key, before":                {whole + "\n" + certificate, 0},
		"whole key, after":                 {certificate + "\n" + whole, 0},
		"text before":                      {"subject=" + planted + "\n" + certificate, 0},
		"text around":                      {planted + "\n" + certificate + "\n" + planted, 0},
		"headers inside":                   {withHeaders, 0},
		"key without an end, and no blank": {endless + certificate, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.New(t)
			storage := m.UseFaultyStorage()
			resp, err := m.Handle(t.Context(), "create", "config",
				mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret, "verify_connection", false, "ca_cert", tt.bundle))
			assert.False(t, strings.Contains(storage.Stored(t, "config"), planted), "the key was stored")
			if err != nil || resp.IsError() {
				status, text := mounttest.Refusal(t, resp, err)
				assert.Equal(t, 400, status)
				assert.False(t, strings.Contains(text, planted), "the error quotes the key")
				assert.Zero(t, tt.certificates, "a good bundle was refused: %s", text)
				return
			}
			shown := m.ReadConfig()["ca_cert"].(string)
			assert.False(t, strings.Contains(shown, planted), "the key is shown")
			if tt.certificates > 0 {
				assert.Equal(t, strings.TrimSpace(tt.bundle), strings.TrimSpace(shown))
				assert.Equal(t, tt.certificates, strings.Count(shown, "BEGIN CERTIFICATE"))
			}
			rest := []byte(shown)
			for len(strings.TrimSpace(string(rest))) > 0 {
				var block *pem.Block
				block, rest = pem.Decode(rest)
				if !assert.NotNil(t, block) {
					break
				}
				assert.Equal(t, "CERTIFICATE", block.Type)
				assert.Empty(t, block.Headers)
			}
		})
	}
}

// People keep certificates with text around them, and copy them by way of systems with other
// ends of a line. Each certificate is stored, or the write is refused: one that is missing shows
// only once the API's own is signed by it.
func TestEachCertificateOfCACertIsStored(t *testing.T) {
	one, two := strings.TrimSpace(mounttest.NewAuthority(t)), strings.TrimSpace(mounttest.NewAuthority(t))
	both := one + "\n" + two
	begin, end := "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
	lines := strings.Split(one, "\n")
	oneLine := begin + "\n" + strings.Join(lines[1:len(lines)-1], "") + "\n" + end
	crlf := func(text string) string { return strings.ReplaceAll(text, "\n", "\r\n") }
	for name, tt := range map[string]struct{ bundle, stored string }{
		"as it is":                      {both, both},
		"byte order mark":               {"\ufeff" + both, both},
		"byte order mark inside":        {one + "\n\ufeff" + two, both},
		"carriage returns":              {crlf(both) + "\r\n", both},
		"only carriage returns":         {strings.ReplaceAll(both, "\n", "\r"), both},
		"indented":                      {"  " + strings.ReplaceAll(both, "\n", "\n\t"), both},
		"comment after":                 {both + "\n# The two authorities of the gateway.\n", both},
		"comments around":               {"# First\n" + one + "\n\n# Second\n" + two + "\n# End", both},
		"openssl's text":                {opensslText + one + "\n" + crlf(opensslText) + two, both},
		"openssl's subjects":            {"subject=CN = Test authority\nissuer=CN = Test authority\n\n" + one, one},
		"spaces after the lines":        {strings.ReplaceAll(both, "\n", "  \n") + "  ", both},
		"one long line":                 {oneLine, one},
		"the same twice":                {one + "\n" + one, one + "\n" + one},
		"the size that is just allowed": {one + "\n" + strings.Repeat("#", 256<<10-len(one)-1), one},
		"white space":                   {" \n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.New(t)
			m.Configure("ca_cert", tt.bundle)
			assert.Equal(t, tt.stored, strings.TrimSpace(m.ReadConfig()["ca_cert"].(string)))
			storage := m.UseFaultyStorage()
			before := storage.Stored(t, mounttest.ConfigKey)
			m.Write("config", "ca_cert", tt.bundle)
			m.Write("config", "ca_cert", tt.stored)
			assert.True(t, storage.Stored(t, mounttest.ConfigKey) == before, "the same again is no change")
		})
	}

	const planted = "planted-text-that-no-error-may-quote"
	negative := certificateWith(t, bytes.Replace(certificateDER(t, one), []byte{2, 1, 1}, []byte{2, 1, 0xff}, 1))
	body := strings.Join(lines[1:len(lines)-1], "\n")
	for name, tt := range map[string]struct{ bundle, text string }{
		"first without an end":         {begin + "\n" + body + "\n" + one, "certificate 1 in ca_cert has no END line"},
		"second without an end":        {one + "\n" + begin + "\n" + body, "certificate 2 in ca_cert has no END line"},
		"an end of something else":     {begin + "\n" + body + "\n-----END PRIVATE KEY-----\n" + one, "certificate 1 in ca_cert has no END line"},
		"second without a beginning":   {one + "\n" + body + "\n" + end, "certificate 2 in ca_cert has no BEGIN line"},
		"not base64":                   {one + "\n" + begin + "\n" + planted + "\n" + end + "\n" + two, "certificate 2 in ca_cert can't be read: what is between its BEGIN and END lines is not base64"},
		"cut in the middle":            {begin + "\n" + body[:200] + "\n" + end, "certificate 1 in ca_cert can't be read: "},
		"empty":                        {one + "\n" + begin + "\n" + end, "certificate 2 in ca_cert can't be read: x509: malformed certificate"},
		"negative serial":              {both + "\n" + negative, "certificate 3 in ca_cert can't be read: x509: negative serial number"},
		"an error that would quote it": {certificateWith(t, certificateOf(t, "http://"+planted+" ")), "certificate 1 in ca_cert can't be read: x509: cannot parse URI"},
		"one dash too few":             {one + "\n" + two[1:], "certificate 2 in ca_cert has a damaged BEGIN line"},
		"on one line":                  {strings.ReplaceAll(one, "\n", " "), "certificate 1 in ca_cert has a damaged BEGIN line"},
		"escaped ends of a line":       {strings.ReplaceAll(one, "\n", `\n`), "certificate 1 in ca_cert has a damaged BEGIN line"},
		"an end with a dash too few":   {begin + "\n" + body + "\n" + end[1:] + "\n" + two, "certificate 1 in ca_cert has a damaged END line"},
		"joined without a new line":    {one + two, "certificate 1 in ca_cert has a damaged END line"},
		"a request":                    {strings.ReplaceAll(one, "CERTIFICATE", "CERTIFICATE REQUEST"), "ca_cert must contain only CERTIFICATE blocks"},
		"openssl's trusted":            {strings.ReplaceAll(one, "CERTIFICATE", "TRUSTED CERTIFICATE"), "ca_cert must contain only CERTIFICATE blocks"},
		"a name instead of a file":     {"/etc/ssl/ca.pem", "ca_cert is not a PEM bundle"},
		"only a byte order mark":       {"\ufeff", "ca_cert is not a PEM bundle"},
		"too large":                    {one + "\n" + strings.Repeat("#", 256<<10-len(one)), "ca_cert is larger than 256 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mounttest.NewConfigured(t, "ca_cert", one)
			status, text := m.Refused(logical.UpdateOperation, "config", mounttest.Pairs("client_secret", mounttest.Secret, "verify_connection", false, "ca_cert", tt.bundle))
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, text, tt.text)
			assert.NotContains(t, text, planted)
			assert.NotContains(t, text, body[:20])
			assert.Equal(t, one, strings.TrimSpace(m.ReadConfig()["ca_cert"].(string)))
		})
	}
}

// opensslText is what openssl x509 -text prints before a certificate.
const opensslText = `Certificate:
    Data:
        Version: 3 (0x2)
        Serial Number: 1 (0x1)
        Signature Algorithm: ecdsa-with-SHA256
        Issuer: CN = Test authority
            Public Key Algorithm: id-ecPublicKey
                pub:
                    04:b1:0e:c4:3d:9b:a2:aa:aa:aa:aa:aa:aa:aa:aa
    Signature Value:
        30:45:02:21:00:e3:1a:11:11:11:11:11:11:11
`

func certificateDER(t *testing.T, certificate string) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(certificate))
	require.NotNil(t, block)
	return block.Bytes
}

func certificateWith(t *testing.T, der []byte) string {
	t.Helper()
	_, err := x509.ParseCertificate(der)
	require.Error(t, err, "the certificate is a bad one")
	return strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// certificateOf makes a certificate with a URI in it, a valid one or not.
func certificateOf(t *testing.T, uri string) []byte {
	t.Helper()
	names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)}})
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names}}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return der
}

// FuzzReadCACert holds a bundle that gets through to what it says: each certificate that it
// begins is stored, and nothing else.
func FuzzReadCACert(f *testing.F) {
	one := mounttest.NewAuthority(f)
	for _, bundle := range []string{
		"", " ", "\ufeff" + one, one + one, strings.ReplaceAll(one, "\n", "\r\n"), "# text\n" + one + "# text", one + "-----BEGIN CERTIFICATE-----\n",
		"-----BEGIN CERTIFICATE-----\n" + one, one + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "----BEGIN CERTIFICATE-----", one + "-----END CERTIFICATE-----",
		"-----BEGIN CERTIFICATE-----\nKey: x\n\nAAAA\n-----END CERTIFICATE-----", "BEGIN CERTIFICATE", strings.ReplaceAll(one, "\n", " "),
	} {
		f.Add(bundle)
	}
	f.Fuzz(func(t *testing.T, bundle string) {
		stored, err := fuuffy.ReadCACert(bundle)
		if err != nil {
			require.Empty(t, stored)
			return
		}
		begun := strings.Count(bundle, "BEGIN CERTIFICATE")
		require.Equal(t, begun > 0, strings.TrimSpace(bundle) != "", "text without a certificate is refused")
		require.NotContains(t, bundle, "-----BEGIN PRIVATE KEY-----")
		rest, read := []byte(stored), 0
		for ; len(rest) > 0; read++ {
			var block *pem.Block
			block, rest = pem.Decode(rest)
			require.NotNil(t, block)
			_, err := x509.ParseCertificate(block.Bytes)
			require.NoError(t, err)
		}
		require.Equal(t, begun, read, "as many as the bundle begins")
		require.LessOrEqual(t, max(len(bundle), len(stored)), 256<<10)
		again, err := fuuffy.ReadCACert(stored)
		require.NoError(t, err)
		require.Equal(t, stored, again, "what is stored is canonical")
	})
}

// With a damaged certificate in storage nothing can be tested, so nothing changes, not even by
// a step that needs no test. Who writes the certificate again gets the mount going.
func TestDamagedStoredCACert(t *testing.T) {
	m := mounttest.NewRotating(t, rotation.Staged)
	damage := func() string {
		m.Edit(mounttest.ConfigKey, func(stored map[string]any) { stored["endpoint"].(map[string]any)["ca_cert"] = "damaged" })
		m.Transport = upstream.NewTransport
		m.Start()
		return m.UseFaultyStorage().Stored(t, mounttest.ConfigKey)
	}
	damaged := damage()
	for _, r := range []struct {
		operation logical.Operation
		path      string
		data      map[string]any
	}{
		{logical.ReadOperation, "token", nil},
		{logical.ReadOperation, "status", nil},
		{logical.ReadOperation, "rotate-root", nil},
		{logical.UpdateOperation, "rotate-root", mounttest.NewPair()},
		{logical.UpdateOperation, "rotate-root/promote", nil},
		{logical.UpdateOperation, "rotate-root/check", nil},
		{logical.DeleteOperation, "rotate-root", nil},
		{logical.UpdateOperation, "config", mounttest.Pairs("stale_if_error", true)},
	} {
		status, text := m.Refused(r.operation, r.path, r.data)
		assert.Equal(t, http.StatusInternalServerError, status, "%s %s", r.operation, r.path)
		assert.Contains(t, text, "no certificate in it", "%s %s", r.operation, r.path)
	}
	assert.True(t, m.UseFaultyStorage().Stored(t, mounttest.ConfigKey) == damaged, "nothing was stored")

	m.UseSandbox()
	m.Do(logical.DeleteOperation, "rotate-root", nil)
	damage()
	m.Write("config", "ca_cert", mounttest.NewAuthority(t), "client_secret", mounttest.Secret, "verify_connection", false)
	assert.Equal(t, "untested", m.Status()["upstream_state"])
}
