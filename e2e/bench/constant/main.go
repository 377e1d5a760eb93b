// SPDX-License-Identifier: MPL-2.0

// Command constant is a plugin that answers a constant of the size that the engine
// answers. Its path token goes through the SDK's framework, as in most plugins. Its path
// bare goes around it: that is what Vault charges for any call of an external plugin.
package main

import (
	"context"
	"log"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: factory}); err != nil {
		log.Fatal(err)
	}
}

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := &backend{&framework.Backend{
		BackendType: logical.TypeLogical,
		Paths: []*framework.Path{{
			Pattern: "token",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{Callback: read},
			},
		}},
	}}
	return b, b.Setup(ctx, conf)
}

type backend struct{ *framework.Backend }

// HandleRequest is part of logical.Backend.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if req.Path == "bare" {
		return read(ctx, req, nil)
	}
	return b.Backend.HandleRequest(ctx, req)
}

func read(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return &logical.Response{Data: map[string]any{
		"access_token": "sk-418e41a74ca2e7d941fa4456d73dbed7", "token_type": "Bearer",
		"expires_at": "2026-11-22T20:17:32Z", "last_vault_rotation": "2026-11-22T19:17:32Z",
		"rotation_period": int64(3300), "ttl": int64(3127), "environment": "production",
	}}, nil
}
