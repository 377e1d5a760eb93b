// SPDX-License-Identifier: MPL-2.0

package advice

import (
	"crypto/x509"
	"errors"
	"net"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/upstream"
)

// Setting is a setting of the endpoint, with the value that an operator gives it.
type Setting struct {
	name, value string
	placeholder bool
}

var (
	settingBaseURL = Setting{"base_url", "base_url", true}
	settingCACert  = Setting{"ca_cert", "@ca.pem", false}
)

func (s Setting) on(c Command) Command { return c.add(argument(s)) }

// String is the setting as it is typed.
func (s Setting) String() string {
	if s.placeholder {
		return s.name + "=<" + s.value + ">"
	}
	return s.name + "=" + s.value
}

// Repeat tells how to correct a setting in a command that was just typed.
func Repeat(setting Setting) Text { return Say("Repeat this command with " + setting.String()) }

// EndpointAdvice explains the failures that last until someone changes the endpoint or fixes the
// network. change tells how to change a setting. The advice is nil for other failures.
func EndpointAdvice(failure *upstream.Error, change func(Setting) Text) Text {
	switch {
	case failure.Proxy != "":
		return Say("The Vault server's environment (HTTPS_PROXY) names this proxy. Correct it there, have the proxy allow Fuuffy's host, or exempt the host (NO_PROXY).")
	case failure.WantsClientCertificate:
		return Say("Use an address that needs no client certificate.").And(change(settingBaseURL))
	case failure.LeadsElsewhere() || failure.NotFuuffy():
		return Say("base_url doesn't lead to Fuuffy's API: a login page, a proxy, or another server responded. It must end before /auth/token, as in https://gateway.example.com/v1. An empty base_url means Fuuffy's own address.").
			And(change(settingBaseURL))
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](failure); ok {
		return Say("The Vault server doesn't trust the authority that signed this certificate. If it should, add the authority.").And(change(settingCACert))
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](failure); ok && invalid.Reason == x509.Expired {
		return Say("The certificate has expired or is not valid yet. Check the Vault server's clock, then tell whoever runs the gateway, or Fuuffy's support.")
	}
	if _, ok := errors.AsType[x509.HostnameError](failure); ok {
		return Say("The certificate is for another host. Check base_url and proxies.")
	}
	if _, ok := errors.AsType[*net.DNSError](failure); ok {
		return Say("The Vault server can't resolve the host name. Check base_url and the server's DNS.")
	}
	if _, ok := errors.AsType[*net.OpError](failure); ok {
		return Say("The Vault server can't connect. Check base_url, firewalls, and proxies.")
	}
	return nil
}
