// SPDX-License-Identifier: MPL-2.0

package fuuffy_test

import (
	"context"
	"net/http"
	"runtime"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	fuuffy "github.com/fuuffy/vault-plugin-secrets-fuuffy"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/fuuffytest"
	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/mounttest"
)

// BenchmarkWarmRead is a read of the cached token, against a framework path that
// returns a constant map of the same shape: what any engine pays.
//
//	go test -run '^$' -bench WarmRead -benchmem -cpu 1,2 -count 10 . | benchstat -col /engine -
func BenchmarkWarmRead(b *testing.B) {
	b.Run("engine=constant", func(b *testing.B) { benchmarkRead(b, constantBackend(), &logical.InmemStorage{}, nil) })
	b.Run("engine=fuuffy", func(b *testing.B) {
		storage := &logical.InmemStorage{}
		benchmarkRead(b, warmBackend(b, newSandbox(), storage), storage, nil)
	})
	b.Run("engine=fuuffy,min_ttl", func(b *testing.B) {
		storage := &logical.InmemStorage{}
		benchmarkRead(b, warmBackend(b, newSandbox(), storage), storage, mounttest.Pairs("min_ttl", "20m"))
	})
}

func benchmarkRead(b *testing.B, backend logical.Backend, storage logical.Storage, data map[string]any) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for pb.Next() {
			resp, err := backend.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "token", Storage: storage, Data: data})
			if err != nil || len(resp.Data) != 7 {
				b.Errorf("read: %v, %v", resp, err)
				return
			}
		}
	})
}

// constantBackend answers token with a constant.
func constantBackend() logical.Backend {
	return &framework.Backend{
		Paths: []*framework.Path{{
			Pattern: "token",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
						return &logical.Response{Data: map[string]any{
							"access_token": "sk-418e41a74ca2e7d941fa4456d73dbed7", "token_type": "Bearer",
							"expires_at": "2026-11-22T20:17:32Z", "last_vault_rotation": "2026-11-22T19:17:32Z",
							"rotation_period": int64(3300), "ttl": int64(3127), "environment": "production",
						}}, nil
					},
				},
			},
		}},
	}
}

func newSandbox() *fuuffytest.Sandbox {
	sandbox := fuuffytest.New(fuuffytest.Config{PerMinute: -1, PerHour: -1})
	sandbox.CreateClient(mounttest.ClientID, mounttest.Secret)
	return sandbox
}

// warmBackend is an engine that holds a token.
func warmBackend(b *testing.B, sandbox *fuuffytest.Sandbox, storage logical.Storage) logical.Backend {
	engine, err := fuuffy.New(fuuffy.Dependencies{
		Transport: func(string) (http.RoundTripper, error) { return sandbox.RoundTripper(), nil },
	})(b.Context(), &logical.BackendConfig{StorageView: storage, System: logical.TestSystemView()})
	require.NoError(b, err)
	b.Cleanup(func() { engine.Cleanup(context.Background()) })
	resp, err := engine.HandleRequest(b.Context(), &logical.Request{
		Operation: logical.CreateOperation, Path: "config", Storage: storage,
		Data: mounttest.Pairs("client_id", mounttest.ClientID, "client_secret", mounttest.Secret),
	})
	require.NoError(b, err)
	require.False(b, resp.IsError(), "%v", resp)
	return engine
}

// BenchmarkMount is what a mount that holds a token keeps on the heap: B/mount. The
// idle connection to Fuuffy is not in it.
func BenchmarkMount(b *testing.B) {
	sandbox, backends := newSandbox(), make([]logical.Backend, 0, b.N)
	before := heapInUse()
	for range b.N {
		backends = append(backends, warmBackend(b, sandbox, &logical.InmemStorage{}))
	}
	b.ReportMetric(float64(heapInUse()-before)/float64(b.N), "B/mount")
	runtime.KeepAlive(backends)
}

// heapInUse is what is left after a collection.
func heapInUse() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
