// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathMetrics() *framework.Path {
	return &framework.Path{
		Pattern:      "metrics",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "metrics"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.readMetrics,
				Summary:   "Read this node's metrics in Prometheus' text format.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "The metrics.", MediaType: string(metricsFormat)}}},
			},
		},
		HelpSynopsis:    strings.TrimSpace(metricsSynopsis),
		HelpDescription: strings.TrimSpace(metricsDescription),
	}
}

func (b *backend) readMetrics(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	// After a start nothing may be loaded yet. A mount without credentials has metrics too.
	_, _ = b.inForce(ctx, req.Storage)
	text, err := b.metrics.text()
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:  http.StatusOK,
		logical.HTTPContentType: string(metricsFormat),
		logical.HTTPRawBody:     text,
	}}, nil
}

const metricsSynopsis = `
Read this node's metrics in Prometheus' text format.
`

const metricsDescription = `
Shows Prometheus what "status" shows people. Prometheus reads /v1/<mount>metrics with
a Vault token. In a terminal, type:

    vault read -format=raw <mount>metrics

Counters belong to this node and start at zero when the plugin starts.
`
