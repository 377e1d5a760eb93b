// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// operatorFields are the fields that the examples may use of the custom resources of
// the Vault Secrets Operator (secrets.hashicorp.com/v1beta1), with their types, from
// config/crd/bases/secrets.hashicorp.com_vaultauths.yaml and
// secrets.hashicorp.com_vaultdynamicsecrets.yaml in
// https://github.com/hashicorp/vault-secrets-operator, which docs/api/api-reference.md
// there describes. A [] stands for each item of a list.
var operatorFields = map[string]map[string]string{
	"VaultAuth": {
		"spec.allowedNamespaces[]":               "string",
		"spec.kubernetes.audiences[]":            "string",
		"spec.kubernetes.role":                   "string",
		"spec.kubernetes.serviceAccount":         "string",
		"spec.kubernetes.tokenExpirationSeconds": "int",
		"spec.method":                            "string",
		"spec.mount":                             "string",
		"spec.namespace":                         "string",
		"spec.vaultConnectionRef":                "string",
	},
	"VaultDynamicSecret": {
		"spec.allowStaticCreds":                      "bool",
		"spec.destination.create":                    "bool",
		"spec.destination.name":                      "string",
		"spec.destination.overwrite":                 "bool",
		"spec.destination.transformation.excludeRaw": "bool",
		"spec.destination.transformation.excludes[]": "string",
		"spec.destination.transformation.includes[]": "string",
		"spec.destination.type":                      "string",
		"spec.mount":                                 "string",
		"spec.namespace":                             "string",
		"spec.path":                                  "string",
		"spec.refreshAfter":                          "string",
		"spec.rolloutRestartTargets[].kind":          "string",
		"spec.rolloutRestartTargets[].name":          "string",
		"spec.vaultAuthRef":                          "string",
	},
}

var requiredFields = map[string][]string{
	"VaultAuth":          {"spec.method", "spec.mount"},
	"VaultDynamicSecret": {"spec.destination.name", "spec.mount", "spec.path"},
}

// injectorAnnotations are those that the example may use, and what their values must
// parse as, from agent-inject/agent/annotations.go in
// https://github.com/hashicorp/vault-k8s and
// https://developer.hashicorp.com/vault/docs/deploy/kubernetes/injector/annotations.
// A name that ends with a dash takes the name of a secret after it.
var injectorAnnotations = map[string]string{
	"agent-inject":                          "bool",
	"role":                                  "string",
	"agent-inject-secret-":                  "string",
	"agent-inject-template-":                "string",
	"agent-inject-file-":                    "string",
	"agent-inject-perms-":                   "mode",
	"agent-run-as-same-user":                "bool",
	"template-config-exit-on-retry-failure": "bool",
	"agent-cache-enable":                    "bool",
	"agent-cache-use-auto-auth-token":       "bool",
	"agent-cache-listener-port":             "int",
}

// manifest is a Kubernetes resource: its leaves by their paths.
type manifest struct {
	kind, apiVersion string
	leaves           map[string]any
}

func readManifests(t *testing.T, example string) map[string]manifest {
	t.Helper()
	found := map[string]manifest{}
	decoder := yaml.NewDecoder(bytes.NewReader([]byte(readExample(t, example))))
	for {
		var document map[string]any
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return found
		}
		require.NoError(t, err)
		m := manifest{leaves: map[string]any{}}
		m.collect("", document)
		m.kind, _ = m.leaves["kind"].(string)
		m.apiVersion, _ = m.leaves["apiVersion"].(string)
		found[m.kind] = m
	}
}

func (m manifest) collect(at string, value any) {
	switch value := value.(type) {
	case map[string]any:
		for name, inner := range value {
			m.collect(strings.TrimPrefix(at+"\x00"+name, "\x00"), inner)
		}
	case []any:
		for _, inner := range value {
			m.collect(at+"[]", inner)
		}
	default:
		m.leaves[strings.ReplaceAll(at, "\x00", ".")] = value
	}
}

func TestOperatorManifests(t *testing.T) {
	t.Parallel()
	manifests := readManifests(t, "kubernetes/vault-secrets-operator.yaml")
	for kind, documented := range operatorFields {
		m, ok := manifests[kind]
		require.True(t, ok, kind)
		assert.Equal(t, "secrets.hashicorp.com/v1beta1", m.apiVersion)
		for field, value := range m.leaves {
			if strings.HasPrefix(field, "spec.") {
				assert.Equal(t, documented[field], fmt.Sprintf("%T", value), "%s: %s", kind, field)
			}
		}
		for _, field := range requiredFields[kind] {
			assert.NotEmpty(t, m.leaves[field], "%s: %s", kind, field)
		}
	}

	secret, auth, app := manifests["VaultDynamicSecret"].leaves, manifests["VaultAuth"].leaves, manifests["Deployment"].leaves
	assert.Equal(t, true, secret["spec.allowStaticCreds"])
	assert.Equal(t, "fuuffy/token", path.Join(secret["spec.mount"].(string), secret["spec.path"].(string)))
	assert.Equal(t, auth["metadata.name"], secret["spec.vaultAuthRef"])
	assert.Contains(t, []string{"kubernetes", "jwt", "appRole", "aws", "gcp"}, auth["spec.method"])
	assert.Equal(t, secret["spec.destination.name"], app["spec.template.spec.volumes[].secret.secretName"])
	// The app finds the one key of the Secret where its volume is.
	file := app["spec.template.spec.containers[].env[].value"].(string)
	assert.Equal(t, app["spec.template.spec.containers[].volumeMounts[].mountPath"], path.Dir(file))
	assert.Regexp(t, regexp.MustCompile(secret["spec.destination.transformation.includes[]"].(string)), path.Base(file))
	for _, resource := range manifests {
		assert.Equal(t, "shop", resource.leaves["metadata.namespace"])
	}
}

func TestInjectorAnnotations(t *testing.T) {
	t.Parallel()
	const prefix = "spec.template.metadata.annotations.vault.hashicorp.com/"
	app := readManifests(t, "kubernetes/agent-injector.yaml")["Deployment"].leaves
	used := 0
	for field, value := range app {
		name, ok := strings.CutPrefix(field, prefix)
		if !ok {
			continue
		}
		used++
		text, ok := value.(string)
		require.True(t, ok, "%s: Kubernetes takes only strings as annotations", name)
		name = strings.TrimSuffix(name, "fuuffy-token")
		switch injectorAnnotations[name] {
		case "string":
			assert.NotEmpty(t, text, name)
		case "bool":
			_, err := strconv.ParseBool(text)
			assert.NoError(t, err, name)
		case "int":
			_, err := strconv.Atoi(text)
			assert.NoError(t, err, name)
		case "mode":
			assert.Regexp(t, `^0[0-7]{3}$`, text, name)
		default:
			t.Errorf("%s is no annotation of the injector", name)
		}
	}
	assert.GreaterOrEqual(t, used, 5)
	assert.Equal(t, "fuuffy/token", app[prefix+"agent-inject-secret-fuuffy-token"])
	// The template is the one that the Agents of the other tests run.
	template := strings.NewReplacer("{{- ", "{{ ", " -}}", " }}").Replace(strings.TrimSpace(app[prefix+"agent-inject-template-fuuffy-token"].(string)))
	assert.Contains(t, strings.ReplaceAll(readExample(t, "agent/token-file.hcl"), `\"`, `"`), template)
}
