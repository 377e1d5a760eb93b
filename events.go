// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"
)

// notify sends an event to who subscribed to it in Vault. It is a service on top
// of the log: where there is no sender, as in older Vaults, nothing is missed.
func (b *backend) notify(ctx context.Context, name string, metadata ...string) {
	err := logical.SendEvent(ctx, b, "fuuffy/"+name, metadata...)
	if err != nil {
		b.Logger().Trace("could not send an event", "event", name, "error", err)
	}
}
