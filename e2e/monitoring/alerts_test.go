// SPDX-License-Identifier: MPL-2.0

package monitoring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	prometheus "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// TestAuthenticationFailures revokes the credentials of a mount: the alert fires, for
// this mount only, and clears with others.
func TestAuthenticationFailures(t *testing.T) {
	ctx, vault, fuuffy := t.Context(), watched.Vault.Client.Logical(), watched.Fuuffys["fuuffy"]
	require.NoError(t, stack.Eventually(ctx, "no alert", watched.firing(ctx)))

	fuuffy.RevokeClient(ClientID)
	revoked := time.Now()
	_, err := vault.DeleteWithContext(ctx, "fuuffy/token")
	require.NoError(t, err)
	_, err = vault.ReadWithContext(ctx, "fuuffy/token")
	require.ErrorContains(t, err, "Fuuffy rejected client "+ClientID)
	const summary = "Fuuffy rejects the credentials of fuuffy"
	require.NoError(t, stack.Eventually(ctx, "the alert", watched.firing(ctx, summary)))
	fired := time.Now()

	// What is refused is not saved: the alert stays until the right ones are written.
	fuuffy.CreateClient("shop-2", "new-secret")
	require.ErrorContains(t, watched.Configure(ctx, "fuuffy", "shop-2", "mistyped"), "Nothing was saved")
	// The active node counts it. Standbys repeat that, or count for themselves.
	require.NoError(t, stack.Eventually(ctx, "the second rejection", func() error {
		rejected, err := watched.samples(ctx, `max(fuuffy_token_requests_total{mount="fuuffy", outcome="rejected"}) == 2`)
		if err == nil && len(rejected) != 1 {
			err = errors.New("nobody counted it")
		}
		return err
	}))
	require.NoError(t, stack.Eventually(ctx, "the alert still", watched.firing(ctx, summary)))
	require.NoError(t, watched.Configure(ctx, "fuuffy", "shop-2", "new-secret"))
	mended := time.Now()
	require.NoError(t, stack.Eventually(ctx, "no alert", watched.firing(ctx)))
	t.Logf("scraped each second, the alert fired %s after the credentials were revoked, and cleared %s after others were written",
		fired.Sub(revoked).Round(100*time.Millisecond), time.Since(mended).Round(100*time.Millisecond))
}

// firing returns a check that FuuffyAuthenticationFailures says just this.
func (w *Watched) firing(ctx context.Context, expected ...string) func() error {
	return func() error {
		answer, err := w.Prometheus.API.Alerts(ctx)
		if err != nil {
			return err
		}
		var summaries []string
		for _, a := range answer.Alerts {
			if a.State == prometheus.AlertStateFiring && a.Labels["alertname"] == "FuuffyAuthenticationFailures" {
				summaries = append(summaries, string(a.Annotations["summary"]))
			}
		}
		if !slices.Equal(summaries, expected) {
			return fmt.Errorf("it says %q", summaries)
		}
		return nil
	}
}

// samples asks Prometheus for what is now.
func (w *Watched) samples(ctx context.Context, query string) (model.Vector, error) {
	value, _, _, err := w.Prometheus.API.Query(ctx, query, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("%s: it is a %s", query, value.Type())
	}
	return vector, nil
}
