// SPDX-License-Identifier: MPL-2.0

package monitoring

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/advice"
)

// rules are what a file of alerts has.
type rules struct {
	Groups []struct {
		Rules []struct {
			Alert       string
			Expr        string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

// ruleTests are what a file for promtool has.
type ruleTests struct {
	Tests []struct {
		Expectations []struct {
			Alert  string `yaml:"alertname"`
			Alerts []any  `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
}

func TestPromtool(t *testing.T) {
	for _, arguments := range [][]string{
		{"check", "config", filepath.Join(watched.Dir, "prometheus.yml")},
		{"test", "rules", filepath.Join("..", "..", "examples", "monitoring", "alerts_test.yml")},
	} {
		output, err := exec.CommandContext(t.Context(), programs.Promtool, arguments...).CombinedOutput()
		assert.NoError(t, err, "promtool %v\n%s", arguments, output)
	}
}

// TestEveryAlert holds each alert to what it needs: someone to call, words, a test
// that it fires and one that it does not, and places in docs.
func TestEveryAlert(t *testing.T) {
	var all rules
	require.NoError(t, yaml.Unmarshal([]byte(readExample(t, "monitoring/alerts.yml")), &all))
	fires, silent := testedAlerts(t)
	require.Len(t, all.Groups, 1)

	var names []string
	overview := readDoc(t, "monitoring.md")
	for _, rule := range all.Groups[0].Rules {
		names = append(names, rule.Alert)
		assert.True(t, fires[rule.Alert], "no test in which %s fires", rule.Alert)
		assert.True(t, silent[rule.Alert], "no test in which %s does not fire", rule.Alert)
		assert.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
		if rule.Alert != "FuuffyMetricsAbsent" { // It is about no mount.
			assert.Contains(t, rule.Annotations["summary"], "{{ $labels.mount }}", rule.Alert)
		}
		assert.NotEmpty(t, rule.Annotations["description"], rule.Alert)
		assert.True(t, strings.HasSuffix(rule.Annotations["runbook_url"], "/docs/troubleshooting.md#"+strings.ToLower(rule.Alert)), rule.Alert)
		assert.Contains(t, overview, fmt.Sprintf("\n| `%s` | %s | ", rule.Alert, rule.Labels["severity"]))
	}
	assert.Equal(t, len(names), strings.Count(overview, "\n| `Fuuffy"), "the alerts in docs/monitoring.md")

	_, section, _ := strings.Cut(readDoc(t, "troubleshooting.md"), "\n## Alerts\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var documented []string
	for _, heading := range regexp.MustCompile(`(?m)^### (.+)$`).FindAllStringSubmatch(section, -1) {
		documented = append(documented, heading[1])
	}
	assert.Equal(t, names, documented, "the alerts in docs/troubleshooting.md")
}

// TestStuckAlert: the alert fires when the engine's own health becomes degraded, and the
// documents say so.
func TestStuckAlert(t *testing.T) {
	var all rules
	require.NoError(t, yaml.Unmarshal([]byte(readExample(t, "monitoring/alerts.yml")), &all))
	for _, rule := range all.Groups[0].Rules {
		if rule.Alert != "FuuffyRotationStuck" {
			continue
		}
		after := regexp.MustCompile(`> (\d+) \* 86400$`).FindStringSubmatch(rule.Expr)
		require.NotNil(t, after, rule.Expr)
		days, err := strconv.Atoi(after[1])
		require.NoError(t, err)
		assert.Equal(t, advice.StuckAfter, time.Duration(days)*24*time.Hour)
		for _, page := range []string{"monitoring.md", "troubleshooting.md"} {
			assert.Contains(t, readDoc(t, page), fmt.Sprintf("promoted more than %d days ago", days), page)
		}
		return
	}
	require.Fail(t, "there is no such alert")
}

func readDoc(t *testing.T, name string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	require.NoError(t, err)
	return string(page)
}

func testedAlerts(t *testing.T) (fires, silent map[string]bool) {
	t.Helper()
	var tests ruleTests
	require.NoError(t, yaml.Unmarshal([]byte(readExample(t, "monitoring/alerts_test.yml")), &tests))
	fires, silent = map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, expected := range test.Expectations {
			if len(expected.Alerts) > 0 {
				fires[expected.Alert] = true
			} else {
				silent[expected.Alert] = true
			}
		}
	}
	return fires, silent
}
