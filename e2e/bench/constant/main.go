// SPDX-License-Identifier: MPL-2.0

// Command constant is a plugin whose path token answers a constant of the size that
// the engine answers: what Vault charges for any call of an external plugin.
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
	b := &framework.Backend{
		BackendType: logical.TypeLogical,
		Paths: []*framework.Path{{
			Pattern: "token",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{Callback: read},
			},
		}},
	}
	return b, b.Setup(ctx, conf)
}

func read(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return &logical.Response{Data: map[string]any{
		"access_token": "sk-418e41a74ca2e7d941fa4456d73dbed7", "token_type": "Bearer",
		"expires_at": "2026-11-22T20:17:32Z", "last_vault_rotation": "2026-11-22T19:17:32Z",
		"rotation_period": int64(3300), "ttl": int64(3127), "environment": "production",
	}}, nil
}
