// SPDX-License-Identifier: MPL-2.0

// Package charts checks the Kubernetes examples with what Kubernetes itself checks pods
// with, and with the real Helm and charts.
package charts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

const examples = "../../examples/kubernetes"

// workload is what Deployments and StatefulSets have in common.
type workload struct {
	kind, name string
	pod        corev1.PodTemplateSpec
}

// workloads decodes the Deployments and StatefulSets of a YAML stream. A field that
// Kubernetes doesn't have is an error.
func workloads(t *testing.T, text []byte) []workload {
	t.Helper()
	var found []workload
	for _, document := range bytes.Split(text, []byte("\n---\n")) {
		var header metav1.TypeMeta
		require.NoError(t, yaml.Unmarshal(document, &header))
		switch header.Kind {
		case "Deployment":
			var d appsv1.Deployment
			require.NoError(t, yaml.UnmarshalStrict(document, &d))
			found = append(found, workload{header.Kind, d.Name, d.Spec.Template})
		case "StatefulSet":
			var s appsv1.StatefulSet
			require.NoError(t, yaml.UnmarshalStrict(document, &s))
			found = append(found, workload{header.Kind, s.Name, s.Spec.Template})
		}
	}
	return found
}

// checkRestricted fails where Kubernetes would refuse the pod in a namespace that enforces
// the level "restricted", or where a container has no resources.
func checkRestricted(t *testing.T, w workload) {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	require.NoError(t, err)
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for _, check := range evaluator.EvaluatePod(level, &w.pod.ObjectMeta, &w.pod.Spec) {
		assert.True(t, check.Allowed, "%s %s: %s: %s", w.kind, w.name, check.ForbiddenReason, check.ForbiddenDetail)
	}
	for _, container := range append(w.pod.Spec.InitContainers, w.pod.Spec.Containers...) {
		assert.NotEmpty(t, container.Resources.Requests, "%s %s: requests of %s", w.kind, w.name, container.Name)
		assert.NotEmpty(t, container.Resources.Limits, "%s %s: limits of %s", w.kind, w.name, container.Name)
	}
}

func TestApps(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(examples, "*.yaml"))
	require.NoError(t, err)
	checked := 0
	for _, file := range files {
		if strings.HasSuffix(file, ".values.yaml") {
			continue
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, w := range workloads(t, text) {
			checkRestricted(t, w)
			checked++
		}
	}
	assert.Equal(t, 3, checked, "the injector's, the operators', and the CSI driver's")
}

// TestCharts renders the values with the charts in the directory that CHARTS names: vault from
// https://github.com/hashicorp/vault-helm, and openbao from charts/openbao in
// https://github.com/openbao/openbao-helm.
func TestCharts(t *testing.T) {
	charts := os.Getenv("CHARTS")
	require.NotEmpty(t, charts, "CHARTS names the directory with the charts")
	for _, chart := range []string{"vault", "openbao"} {
		t.Run(chart, func(t *testing.T) {
			values := filepath.Join(examples, chart+".values.yaml")
			ours, err := os.ReadFile(values)
			require.NoError(t, err)
			theirs, err := os.ReadFile(filepath.Join(charts, chart, "values.yaml"))
			require.NoError(t, err)
			checkKnown(t, parse(t, ours), parse(t, theirs), "")

			plain := workloads(t, render(t, filepath.Join(charts, chart)))
			rendered := workloads(t, render(t, filepath.Join(charts, chart), "-f", values))
			require.Len(t, rendered, 2, "the servers, and the injector")
			require.Len(t, plain, 2)
			for i, w := range rendered {
				checkRestricted(t, w)
				image := w.pod.Spec.Containers[0].Image
				assert.Equal(t, plain[i].pod.Spec.Containers[0].Image, image, "the chart chooses the version")
				t.Logf("%s %s runs %s", w.kind, w.name, image)
			}
		})
	}
}

// render is helm template, with the release and namespace of docs/kubernetes.md.
func render(t *testing.T, chart string, arguments ...string) []byte {
	t.Helper()
	name := filepath.Base(chart)
	helm := exec.CommandContext(t.Context(), "go", append([]string{"tool", "helm", "template", name, chart, "-n", name, "--skip-tests"}, arguments...)...)
	helm.Stderr = os.Stderr
	output, err := helm.Output()
	require.NoError(t, err)
	return output
}

func parse(t *testing.T, text []byte) any {
	t.Helper()
	var values any
	require.NoError(t, yaml.Unmarshal(text, &values))
	return values
}

// checkKnown fails if values have a key that the chart's don't: Helm would ignore it. A
// map that is empty in the chart takes any key.
func checkKnown(t *testing.T, ours, theirs any, at string) {
	t.Helper()
	known, _ := theirs.(map[string]any)
	mine, _ := ours.(map[string]any)
	if len(known) == 0 {
		return
	}
	for key, value := range mine {
		if assert.Contains(t, known, key, "%s.%s: the chart has no such value", at, key) {
			checkKnown(t, value, known[key], at+"."+key)
		}
	}
}
