// SPDX-License-Identifier: MPL-2.0

package scenarios

import (
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/rotation"
)

// What a reader is told to do works in the state that the mount is in.
func TestErrorsLeadOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		m.Sandbox.RevokeClient(mounttest.ClientID)
		m.LoseToken()
		_, text := m.Refused(logical.ReadOperation, "token", nil)
		assert.Contains(t, text, "vault write fuuffy/rotate-root client_id=<client_id> client_secret=-")
		assert.NotContains(t, text, "compromised=true", "nothing leaked")
		assert.NotContains(t, text, "fuuffy/config", "which is refused now")

		_, text = m.Refused(logical.UpdateOperation, "rotate-root/rollback", nil)
		assert.Contains(t, text, "Can't roll back. Fuuffy rejected client shop-1: invalid_client")
		assert.Contains(t, text, "vault write fuuffy/rotate-root client_id=<client_id> client_secret=-")
		assert.NotContains(t, text, "compromised=true")
	})
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Sandbox.RevokeClient(mounttest.NewClientID)
		_, text := m.Refused(logical.UpdateOperation, "rotate-root/complete", nil)
		assert.Contains(t, text, "Don't revoke client shop-1. Roll back, then find out in the Fuuffy dashboard why the new credentials fail: vault write -f fuuffy/rotate-root/rollback")
		assert.NotContains(t, text, "mistyped")
	})
}

func TestErrorWhileATokenLivesInItsBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.NewConfigured(t)
		m.Read()
		m.Sandbox.SetFault(mounttest.FaultUnavailable)
		time.Sleep(52 * time.Minute)
		m.Read()
		time.Sleep(10 * time.Second) // The attempts in the background.
		assert.Contains(t, nextStep(m), "The cached token expires at 2000-01-01T01:00:00Z. The engine serves it until 2000-01-01T00:55:00Z. To serve it until it expires: vault write")
		time.Sleep(4 * time.Minute)
		_, text := m.Refused(logical.ReadOperation, "token", nil)
		assert.Contains(t, text, "The cached token expires at 2000-01-01T01:00:00Z. The engine stopped serving it at 2000-01-01T00:55:00Z. To serve it until it expires: vault write")
		assert.Contains(t, text, "vault write fuuffy/config stale_if_error=true")
		m.Write("config", "stale_if_error", true)
		m.Read()
	})
}

func TestUnknownAuthorityAdvice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mounttest.New(t)
		m.Transport = func(string) (http.RoundTripper, error) {
			return mounttest.RoundTripFunc(func(*http.Request) (*http.Response, error) { return nil, x509.UnknownAuthorityError{} }), nil
		}
		_, text := m.Refused(logical.CreateOperation, "config", mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret))
		assert.Contains(t, text, "Repeat this command with ca_cert=@ca.pem")
		m.Configure("verify_connection", false)
		_, text = m.Refused(logical.ReadOperation, "token", nil)
		assert.Contains(t, text, "vault write fuuffy/config ca_cert=@ca.pem client_secret=-")
	})
}

// What others said, and ended in their own way, ends in one period.
func TestSentencesEndOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		page mounttest.GatewayAnswer
		want string
	}{
		"an expired certificate": {err: x509.CertificateInvalidError{Reason: x509.Expired}, want: "certificate has expired or is not yet valid."},
		"a period":               {err: errors.New("connection lost."), want: "connection lost."},
		"Fuuffy's period": {page: mounttest.GatewayAnswer{Status: 503, ContentType: "application/json", Body: `{"error": "maintenance", "error_description": "Back soon."}`},
			want: "Fuuffy returned 503: maintenance: Back soon."},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.New(t)
				m.Answering(func(string, string) *mounttest.GatewayAnswer { return &tt.page })
				if tt.err != nil {
					m.Transport = func(string) (http.RoundTripper, error) {
						return mounttest.RoundTripFunc(func(*http.Request) (*http.Response, error) { return nil, tt.err }), nil
					}
				}
				_, text := m.Refused(logical.CreateOperation, "config", firstPair)
				assert.Contains(t, text, tt.want)
				assert.NotRegexp(t, `[.:]\s?\.`, text)
			})
		})
	}
}

// A failure that lasts is explained, in the error as in the next step.
func TestConnectionAdvice(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"expired":    {x509.CertificateInvalidError{Reason: x509.Expired, Cert: &x509.Certificate{}}, "Check the Vault server's clock"},
		"other host": {x509.HostnameError{Certificate: &x509.Certificate{}, Host: "fuuffy.example"}, "The certificate is for another host"},
		"no name":    {&net.DNSError{Err: "no such host"}, "can't resolve the host name"},
		"refused":    {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "can't connect"},
		"cut":        {io.EOF, "Check the network between Vault and Fuuffy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mounttest.New(t)
				m.Transport = func(string) (http.RoundTripper, error) {
					return mounttest.RoundTripFunc(func(*http.Request) (*http.Response, error) { return nil, tt.err }), nil
				}
				m.Configure("verify_connection", false)
				_, text := m.Refused(logical.ReadOperation, "token", nil)
				assert.Contains(t, text, tt.want)
				assert.Contains(t, text, m.Status()["next_step"], "one place knows")
				assert.Contains(t, m.Status()["next_step"], "To retry now: vault write -f fuuffy/rotate-root/check")
			})
		})
	}
}

// No one is told to revoke the current client.
func TestAdviceNeverRevokesWhatIsInForce(t *testing.T) {
	t.Run("staged again", func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Write("rotate-root/rollback")
		m.Stage()
		assert.NotContains(t, m.Rotation(), "unrevoked")
		m.Promote()
		assert.NotContains(t, strings.ToLower(m.Rotation()["next_step"].(string)), "revoke client shop-2")
	})
	t.Run("written again", func(t *testing.T) {
		m := mounttest.NewRotating(t, rotation.Promoted)
		m.Write("rotate-root/rollback")
		m.Do(logical.UpdateOperation, "config", mounttest.NewPair())
		unrevoked := m.Rotation()["unrevoked"].(string)
		assert.True(t, strings.HasSuffix(unrevoked, " shop-1 (replaced)"), unrevoked)
		assert.NotContains(t, unrevoked, mounttest.NewClientID)
		assert.NotContains(t, strings.ToLower(m.Rotation()["next_step"].(string)), "revoke client shop-2")
	})
	t.Run("the secret alone", func(t *testing.T) {
		m := mounttest.New(t)
		m.Configure()
		m.Sandbox.CreateClient(mounttest.ClientID, mounttest.NewSecret)
		m.Write("rotate-root", "client_id", mounttest.ClientID, "client_secret", mounttest.NewSecret)
		m.Promote()
		m.Write("rotate-root/complete", "force", true)
		assert.Contains(t, m.Rotation()["next_step"], "Revoke the old secret of client shop-1")
	})
}
