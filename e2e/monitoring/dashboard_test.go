// SPDX-License-Identifier: MPL-2.0

package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/e2e/internal/stack"
)

// dashboard is what matters here of Grafana's format.
type dashboard struct {
	Templating struct {
		List []struct {
			Name, Type, Definition string
		}
	}
	Annotations struct {
		List []struct{ Expr string }
	}
	Panels []struct {
		ID          int
		Type, Title string
		Description string
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ Expr string }
	}
}

var (
	metricName = regexp.MustCompile(`\bfuuffy_\w+`)
	// ofHistogram is what Prometheus makes of one metric.
	ofHistogram = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// TestDashboard asks the queries of each panel, and gets an answer from what was
// scraped: so all metrics and labels in them exist.
func TestDashboard(t *testing.T) {
	ctx, d := t.Context(), readDashboard(t)
	// A rate needs two scrapes.
	require.NoError(t, stack.Eventually(ctx, "a minute's rate", func() error { return brings(ctx, "rate(fuuffy_build_info[1m])") }))

	queries := 0
	for _, p := range d.Panels {
		if p.Type == "row" {
			continue
		}
		assert.NotEmpty(t, p.Description, p.Title)
		assert.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			assert.NoError(t, brings(ctx, target.Expr), p.Title)
			queries++
		}
	}
	t.Logf("%d panels ask %d queries", len(d.Panels), queries)
	_, err := watched.samples(ctx, withVariables(d.Annotations.List[0].Expr))
	require.NoError(t, err)
}

// TestDashboardLayout finds panels that Grafana would have to move, and variables
// that no one set.
func TestDashboardLayout(t *testing.T) {
	d := readDashboard(t)
	taken, ids := map[[2]int]string{}, map[int]string{}
	for _, p := range d.Panels {
		assert.Empty(t, ids[p.ID], "the number of %s", p.Title)
		ids[p.ID] = p.Title
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				place := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				assert.Less(t, place[0], 24, p.Title)
				assert.Empty(t, taken[place], "in the place of %s", p.Title)
				taken[place] = p.Title
			}
		}
	}
	known := map[string]bool{"__rate_interval": true, "__range": true, "__all": true}
	for _, variable := range d.Templating.List {
		known[variable.Name] = true
	}
	for _, used := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(readExample(t, "monitoring/dashboard.json"), -1) {
		assert.True(t, known[used[1]], "variable %s", used[1])
	}
}

// TestEveryMetricIsUsed takes the names of what the engine has, and of what is asked
// for: they are the same.
func TestEveryMetricIsUsed(t *testing.T) {
	answer, err := watched.Vault.Client.Logical().ReadRawWithContext(t.Context(), "fuuffy/metrics")
	require.NoError(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	exist, used := map[string]bool{}, map[string]bool{}
	for _, family := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(string(text), -1) {
		exist[family[1]] = true
	}
	for _, file := range []string{"monitoring/dashboard.json", "monitoring/alerts.yml"} {
		for _, name := range metricName.FindAllString(readExample(t, file), -1) {
			used[ofHistogram.ReplaceAllString(name, "")] = true
		}
	}
	assert.Equal(t, exist, used)
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	require.NoError(t, json.Unmarshal([]byte(readExample(t, "monitoring/dashboard.json")), &d))
	return d
}

// brings returns an error unless there is something to see.
func brings(ctx context.Context, query string) error {
	found, err := watched.samples(ctx, withVariables(query))
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%s: nothing", query)
	}
	return err
}

// withVariables sets Grafana's variables as it does by itself.
func withVariables(query string) string {
	return strings.NewReplacer("$mount", ".*", "$instance", ".*", "$__rate_interval", "1m", "$__range", "1h").Replace(query)
}
