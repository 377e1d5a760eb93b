// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// maxCACert bounds, in bytes, a PEM bundle.
const maxCACert = 256 << 10

const errLargeCACert = userError("ca_cert is larger than 256 KiB: pass only the authorities that sign the API's certificate")

const (
	beginCertificate = "-----BEGIN CERTIFICATE-----"
	endCertificate   = "-----END CERTIFICATE-----"
)

// readCACert returns the certificates in a text, as canonical PEM. It drops what is around
// them, such as comments, but returns each certificate that the text begins, or an error: a
// missing one would show only when the API's certificate is signed by it. It rejects other
// blocks, which may be private keys that someone pasted along.
func readCACert(bundle string) (string, error) {
	if strings.TrimSpace(bundle) == "" {
		return "", nil
	}
	if len(bundle) > maxCACert {
		return "", errLargeCACert
	}
	var certificates, body strings.Builder
	number, inside := 0, false
	for line := range strings.FieldsFuncSeq(bundle, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimFunc(line, func(r rune) bool { return unicode.IsSpace(r) || r == byteOrderMark })
		switch {
		case !inside && line == beginCertificate:
			number, inside = number+1, true
			body.Reset()
		case inside && line == endCertificate:
			der, err := parseCertificate(body.String())
			if err != nil {
				return "", userError(fmt.Sprintf("certificate %d in ca_cert can't be read: %s", number, err))
			}
			certificates.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
			inside = false
		case strings.Contains(line, "BEGIN CERTIFICATE"), strings.Contains(line, "-----BEGIN "), strings.Contains(line, "-----END "),
			inside && strings.Contains(line, "END CERTIFICATE"):
			return "", misplacedLine(line, number, inside)
		case inside:
			body.WriteString(line)
		}
	}
	switch {
	case inside:
		return "", misplacedLine("", number, inside)
	case number == 0:
		return "", userError("ca_cert is not a PEM bundle: it must have one or more BEGIN CERTIFICATE blocks (pass a file as ca_cert=@ca.pem)")
	case certificates.Len() > maxCACert:
		return "", errLargeCACert
	}
	return strings.TrimSpace(certificates.String()), nil
}

// byteOrderMark is what some editors begin a file with.
const byteOrderMark = '\ufeff'

// misplacedLine says what is wrong with a BEGIN or END line, empty at the end of the text. number
// is how many certificates began before it; it is inside the last one, or after it.
func misplacedLine(line string, number int, inside bool) error {
	switch {
	case inside && strings.Contains(line, "END CERTIFICATE"):
		return userError(fmt.Sprintf("certificate %d in ca_cert has a damaged END line, or something else on that line: copy the file again", number))
	case inside:
		return userError(fmt.Sprintf("certificate %d in ca_cert has no END line: copy the file again", number))
	case line == endCertificate:
		return userError(fmt.Sprintf("certificate %d in ca_cert has no BEGIN line: copy the file again", number+1))
	case strings.Contains(line, "BEGIN CERTIFICATE") && !strings.Contains(line, "BEGIN CERTIFICATE "): // Such as a REQUEST.
		return userError(fmt.Sprintf("certificate %d in ca_cert has a damaged BEGIN line, or something else on that line: copy the file again", number+1))
	}
	return userError("ca_cert must contain only CERTIFICATE blocks: remove all others, especially private keys")
}

// parseCertificate decodes what is between the BEGIN and the END line of a certificate. Its
// errors don't quote any of it.
func parseCertificate(body string) (der []byte, err error) {
	der, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil {
		return nil, errors.New("what is between its BEGIN and END lines is not base64")
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		reason, _, _ := strings.Cut(err.Error(), `"`) // What follows is from the certificate.
		return nil, errors.New(strings.TrimSpace(reason))
	}
	return der, nil
}
