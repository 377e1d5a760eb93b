// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"
)

// notify sends an event to those who subscribed to it in Vault and may subscribe to
// the path. It comes on top of the log: where there is no sender nothing is missed.
func (b *backend) notify(ctx context.Context, name, path string, metadata ...string) {
	metadata = append([]string{logical.EventMetadataPath, path}, metadata...)
	err := logical.SendEvent(ctx, b, "fuuffy/"+name, metadata...)
	if err != nil {
		b.Logger().Trace("could not send an event", "event", name, "error", err)
	}
}
