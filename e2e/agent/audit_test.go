// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/stretchr/testify/require"
)

// auditedRequest is what the tests need of a line of Vault's audit log.
type auditedRequest struct {
	Time time.Time `json:"time"`
	Type string    `json:"type"`
	Auth struct {
		Metadata struct {
			Role string `json:"role_name"`
		} `json:"metadata"`
	} `json:"auth"`
	Request struct {
		Operation string `json:"operation"`
		Path      string `json:"path"`
	} `json:"request"`
}

// reads returns when the mount's token was read, and by which identity.
func (m *mount) reads() []auditedRequest {
	m.t.Helper()
	var reads []auditedRequest
	for line := range bytes.Lines(m.audited()) {
		var r auditedRequest
		require.NoError(m.t, json.Unmarshal(line, &r))
		if r.Type == "request" && r.Request.Operation == "read" && r.Request.Path == m.path+"/token" {
			reads = append(reads, r)
		}
	}
	return reads
}
