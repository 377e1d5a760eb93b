// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

// boundedStorage gives each call a deadline, so that one that hangs keeps no one else away.
type boundedStorage struct{ logical.Storage }

func (s boundedStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = tokencache.WithStorageTimeout(ctx, func(ctx context.Context) (err error) {
		entry, err = s.Storage.Get(ctx, key)
		return err
	})
	return entry, err
}

func (s boundedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return tokencache.WithStorageTimeout(ctx, func(ctx context.Context) error { return s.Storage.Put(ctx, entry) })
}

func (s boundedStorage) Delete(ctx context.Context, key string) error {
	return tokencache.WithStorageTimeout(ctx, func(ctx context.Context) error { return s.Storage.Delete(ctx, key) })
}
