// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// certificates holds a server's certificates. A CA that exists only for this server signed them; no one keeps its key.
type certificates struct {
	caPEM     string
	valid     tls.Certificate
	expired   tls.Certificate
	wrongHost tls.Certificate
}

// newCertificates creates certificates for localhost, 127.0.0.1, the address that the server listens on, and its name,
// if it has one. It dates them by the real clock, not by the sandbox's Now, because TLS clients use the real clock.
func newCertificates(address net.IP, name string) (*certificates, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate CA key: %w", err)
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Fuuffy sandbox CA"},
		NotBefore:             now.AddDate(0, 0, -7),
		NotAfter:              now.AddDate(1, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, fmt.Errorf("sign CA certificate: %w", err)
	}

	leaf := x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "Fuuffy sandbox"},
		NotBefore:    now.AddDate(0, 0, -6),
		NotAfter:     ca.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), address},
	}
	if name != "" {
		leaf.DNSNames = append(leaf.DNSNames, name)
	}
	expired, wrongHost := leaf, leaf
	expired.SerialNumber = big.NewInt(3)
	expired.NotAfter = now.AddDate(0, 0, -1)
	wrongHost.SerialNumber = big.NewInt(4)
	wrongHost.DNSNames, wrongHost.IPAddresses = []string{otherHost}, nil

	c := &certificates{caPEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}))}
	for _, signed := range []struct {
		template *x509.Certificate
		into     *tls.Certificate
	}{{&leaf, &c.valid}, {&expired, &c.expired}, {&wrongHost, &c.wrongHost}} {
		if *signed.into, err = signLeaf(signed.template, ca, caKey); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func signLeaf(template, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("generate server key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, caKey)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign server certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// choose returns the certificate that the server presents under a fault.
func (c *certificates) choose(f Fault) *tls.Certificate {
	switch f.Kind {
	case FaultExpiredCertificate:
		return &c.expired
	case FaultWrongHostCertificate:
		return &c.wrongHost
	}
	return &c.valid
}
